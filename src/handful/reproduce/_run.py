"""A row of a published table, trained and scored: full length, or shortened by a scale; resumable by the same command."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__, catalog
from .. import config as config_module
from ..config import Config
from ..errors import HandfulError, UsageError
from ..features import available
from ..files import in_shell, write_text
from ..infer.model import pick_device
from ..metrics import evaluate
from ..metrics._protocols import resolve
from ..metrics._session import Progress
from ..train import checkpoint, choose, train
from . import _tables
from ._tables import RESULT, Row, value_of

Say = Callable[[str], None]
PIXELS = 2 ** 19                         # of a batch while the cost is estimated on a CPU
BEATS = 100                              # log, previews and checkpoints of a shortened run: at most this often


@dataclass(frozen=True)
class Job:
    """A row and how the user wants it. data, against: DATA to train on and to score against, where not the row's own; scale: of the schedule;
    samples: to score with instead of the metric's own number; extra: more settings; out: the folder of all reproductions."""

    row: Row
    data: str | None = None
    against: str | None = None
    scale: float = 1.0
    seed: int = 0
    samples: int | None = None
    extra: tuple[str, ...] = ()
    out: Path = Path("runs/reproduce")
    device: str = "auto"
    settings: tuple[str, ...] = field(init=False)
    published: Config = field(init=False)

    def __post_init__(self) -> None:
        row = self.row
        if row.waits:
            raise UsageError(f"{row.table}: '{row.name}' waits for {row.waits}, which this version ({__version__}) doesn't have")
        if not 0 < self.scale <= 1:
            raise UsageError(f"--scale {self.scale:g}: give a share of the schedule, above 0 and up to 1")
        if self.samples is not None and (self.samples < 1000 or self.samples % 1000):
            raise UsageError(f"--samples {self.samples}: protocols count in thousands; give 1000, 2000 ...")
        published = configured(row.recipe, row.settings)
        object.__setattr__(self, "published", published)
        lines = (*row.settings, *shortened(published, self.scale), *self.extra)
        object.__setattr__(self, "settings", lines)

    @property
    def config(self) -> Config:
        """The settings that are run."""
        return configured(self.row.recipe, self.settings)

    @property
    def share(self) -> float:
        """Of the published schedule, in images shown."""
        return self.config.train.kimg / self.published.train.kimg

    @property
    def folder(self) -> Path:
        """The run's, named by what is trained, so that rows of two tables that are one setting share it."""
        about = [self.row.settings, self.data, self.extra]
        name = f"{self.row.recipe}-{self.row.source or self.row.data}-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:6]}"
        name += (f"-scale-{self.scale:g}" if self.scale != 1 else "") + (f"-seed-{self.seed}" if self.seed else "")
        return self.out / re.sub(r"[^a-z0-9._]+", "-", name.lower())

    @property
    def command(self) -> str:
        parts = ["handful", "reproduce", self.row.table, "--row", self.row.name, "--data-set", self.row.data]
        for option, value in (("--data", self.data), ("--against", self.against), ("--samples", self.samples)):
            parts += [option, value] if value is not None else []
        parts += ["--scale", f"{self.scale:g}"] if self.scale != 1 else []
        parts += ["--seed", self.seed] if self.seed else []
        return " ".join(in_shell(str(p)) for p in (*parts, *(p for line in self.extra for p in ("--set", line))))

    def source(self) -> str:
        """DATA to train on. Raises UsageError where the user must give it."""
        if self.data or self.row.source:
            return self.data or self.row.source
        row = self.row
        raise UsageError(f"{row.table}: '{row.name}' is trained on {row.data}{row.what}, which handful doesn't know by name: give it with "
                         f"--data DATA")

    def reference(self) -> str:
        """DATA to score against."""
        theirs = self.row.targets[0].against
        if self.against or theirs not in ("", "validation"):
            return self.against or theirs
        if theirs:
            raise UsageError(f"{self.row.table}: '{self.row.name}' is scored against the validation images of {self.row.data.split()[0]}: give "
                             f"them with --against DATA")
        return self.source()


def configured(recipe: str, settings: Iterable[str]) -> Config:
    """A recipe with settings, as `handful train` would take it."""
    asked = config_module.assign({}, settings)
    tree = catalog.load("recipes", recipe)(resolution=asked.get("data", {}).get("resolution"), batch=asked.get("train", {}).get("batch"),
                                           count=0, device="cpu", num_classes=0, gpus=1)
    return config_module.parse(config_module.assign({"recipe": recipe, **tree}, settings))


def shortened(config: Config, scale: float) -> tuple[str, ...]:
    """The settings that make a run `scale` times as long: all that counts images or iterations of the whole schedule shrinks with it.

    The length; the average of G (its start, its half-life, or its decay^(1/scale)); warm-up and decay of the learning rates; where a term begins and
    how fast ADA moves p; how often is scored, logged and saved. Not what belongs to the method: batch, learning rate, weights, lazy intervals.
    """
    if scale == 1:
        return ()
    t, e = config.train, config.ema
    lines = {"train.kimg": t.kimg * scale, "ema.start_kimg": e.start_kimg * scale, "ema.halflife_kimg": e.halflife_kimg and e.halflife_kimg * scale,
             "ema.decay": e.decay and e.decay ** (1 / scale),
             "evaluate.every_kimg": config.evaluate.every_kimg and config.evaluate.every_kimg * scale}
    for side in ("optim_g", "optim_d"):
        optim = getattr(config, side)
        lines |= {f"{side}.warmup_kimg": optim.warmup_kimg * scale,
                  f"{side}.decay_from_kimg": optim.decay_from_kimg and optim.decay_from_kimg * scale}
    for name, use in config.terms.items():
        known = catalog.keywords(catalog.part("terms", use.name, ""))
        if "start" in known:
            lines[f"terms.{name}.start"] = round(use.kwargs.get("start", known["start"].default) * scale)
        if use.name == "ada_controller":
            lines[f"terms.{name}.kimg"] = use.kwargs.get("kimg", known["kimg"].default) * scale
    for key in ("log_kimg", "preview_kimg", "checkpoint_kimg"):
        lines[f"every.{key}"] = max(getattr(config.every, key) * scale, t.kimg * scale / BEATS)
    return tuple(f"{k}={v:.6g}" for k, v in lines.items() if v)


def differences(job: Job) -> list[str]:
    """How the run differs from the published one, line by line; how often things are written doesn't count."""
    changed = config_module.differences(job.published, job.config)
    return [f"{k} {_short(was)} -> {_short(now)}" for k, (was, now) in changed.items() if not k.startswith("every.") and k != "evaluate.every_kimg"]


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def metric_of(name: str, samples: int | None) -> str:
    """The protocol of a target, with another number of samples where the user wants it: fid10k_test -> fid2k_test."""
    name = name.partition("/")[0]
    return re.sub(r"(?<=[a-z])\d+k", f"{samples // 1000}k", name, count=1) if samples else name


def describe(job: Job, say: Say) -> None:
    """What would be run, and what it costs here: runs a few steps on noise."""
    row, config = job.row, job.config
    say(f"{row.table}, {row.name}, {row.data}: recipe {row.recipe}{''.join(f' --set {in_shell(s)}' for s in row.settings)}")
    for line in differences(job):
        say(f"differs: {line}")
    say(f"published cost: {row.targets[0].cost}")
    device = pick_device(job.device)
    if config.data.labels is not None:
        config.data.class_names = [str(i) for i in range(10)]            # how many there are costs next to nothing
    trial = ""
    t, most = config.train, max(4, PIXELS // config.data.resolution ** 2)
    if device.type == "cpu" and t.batch > most:                          # a step of a large batch takes minutes there
        trial = f" (tried with batches of {most}; {t.batch} need more memory)"
        t.batch, t.g_batch, t.micro_batch = most, t.g_batch and t.g_batch * most // t.batch, None
    say(f"here: {choose.estimate(config_module.resolved(config), device).line}{trial}")


def reproduce(job: Job, say: Say = print, progress: Progress | None = None) -> dict[str, Any] | None:
    """Trains the row's setting where that isn't done, scores what isn't scored yet, writes result.json; returns it, None where the user stopped.

    {"setting", "share", "other": settings that aren't the row's, "seed", "data", "found": by metric, "snapshot": which was scored, "records":
    for the ledger}. progress: of the scores, as in `evaluate`. Raises UsageError for data that must be given, HandfulError where no figure of
    the row can be computed.
    """
    row, folder = job.row, job.folder
    source, against = job.source(), job.reference()
    facts = _kept(folder) or {"setting": _tables.setting(row), "share": job.share, "other": list(job.extra), "seed": job.seed, "data": source,
                              "found": {}, "records": []}
    wanted = {metric_of(t.metric, job.samples): t for t in row.targets if t.metric}
    if not wanted:
        raise UsageError(f"{row.table}: '{row.name}': {row.targets[0].figure} isn't a score of pictures; benchmarks/train_step.py measures what "
                         f"steps cost")
    unscored = [m for m in wanted if m not in facts["found"]]
    missing = {m: n for m in unscored for n in resolve(m).weights if not available(n)}
    todo = [m for m in unscored if m not in missing]
    for m, network in missing.items():
        say(f"{wanted[m].figure} is left out: {m} needs the network '{network}', which isn't here; handful weights get {network}")
    if len(missing) == len(wanted):
        raise HandfulError(f"no figure of {row.table}, {row.name} can be computed without {', '.join(sorted(set(missing.values())))}; "
                           f"handful weights get {next(iter(missing.values()))}")
    for line in differences(job):
        say(f"differs from the published run: {line}")
    if todo:
        if not _trained(job, source, say):
            return None
        facts["found"] |= evaluate(folder, against, todo, device=job.device, progress=progress, say=say)
        best = checkpoint.index(folder)
        facts["snapshot"] = f"the snapshot of best {best['metric']} during the run" if best["best"] else "the last snapshot"
    facts["records"] = [r for r in facts["records"] if r["table"] != row.table] + _records(job, facts)
    write_text(folder / RESULT, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return facts


def _kept(folder: Path) -> dict[str, Any] | None:
    found = _tables.results(folder)
    return found[0] if found else None


def _trained(job: Job, source: str, say: Say) -> bool:
    """Trains, or goes on with what stands there; False where the user stopped it."""
    folder = job.folder
    if (folder / "config.json").exists():
        run = train(source, resume=folder, seed=job.seed, settings=job.settings, device=job.device, say=say)
    else:
        run = train(source, recipe=job.row.recipe, out=folder, seed=job.seed, settings=job.settings, device=job.device, say=say)
    return run.finished


def _records(job: Job, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The ledger's records of the row's figures: what was measured, beside what was published."""
    said = [f"{100 * job.share:.3g}% of the published schedule"] if job.share != 1 else []
    said += [f"with {' '.join(job.extra)}"] if job.extra else []
    said += [f"trained on {job.data}"] if job.data else []
    said += [facts["snapshot"]]
    out = []
    for t in job.row.targets:
        found = {t.metric.partition("/")[0]: facts["found"].get(metric_of(t.metric, job.samples), {})}
        value = value_of(t, found)
        if value is None:
            continue
        result = found[t.metric.partition("/")[0]]
        note = "; ".join([*said, result["protocol"], *([result["note"]] if "note" in result else [])])
        out.append({"figure": f"{t.row}, {t.data}: {t.figure}", "value": value, "unit": "", "command": job.command, "commit": version(),
                    "device": choose.machine(pick_device(job.device)), "seed": job.seed, "date": datetime.date.today().isoformat(),
                    "table": t.table, "published": t.value, "share": job.share, "note": note})
    return out


def version() -> str:
    """The commit that runs, where this is a checkout, with a + where it was changed; else the version."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return f"handful {__version__}"
    said = [subprocess.run(["git", "-C", str(root), *line.split()], capture_output=True, text=True, check=False).stdout.strip()
            for line in ("rev-parse --short=10 HEAD", "status --porcelain --untracked-files=no")]
    return (said[0] or f"handful {__version__}") + ("+" if said[1] else "")
