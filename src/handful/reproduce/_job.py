"""How a row of a published table is run: its settings, what the user wants otherwise, and what a shorter schedule means."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__, catalog
from .. import config as config_module
from ..config import Config
from ..errors import UsageError
from ..features import available
from ..files import in_shell
from ..infer.model import pick_device
from ..metrics._protocols import resolve
from ._rules import Rule, precision, rule_of
from ._tables import Row

BEATS = 100                              # log, previews and checkpoints of a shortened run: at most this often


@dataclass(frozen=True)
class Job:
    """A row and how the user wants it. data, against: DATA to train on and to score against, where not the row's own; scale: of the schedule;
    samples: to score with instead of the metric's own number; extra: more settings; out: the folder of all reproductions; trust: modules outside of
    the package whose classes a run's files may name. rule: how the paper chooses the snapshot of its figures."""

    row: Row
    data: str | None = None
    against: str | None = None
    scale: float = 1.0
    seed: int = 0
    samples: int | None = None
    extra: tuple[str, ...] = ()
    out: Path = Path("runs/reproduce")
    device: str = "auto"
    trust: tuple[str, ...] = ()
    settings: tuple[str, ...] = field(init=False)
    published: Config = field(init=False)
    rule: Rule = field(init=False)

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
        object.__setattr__(self, "rule", rule_of(row.table, published))
        lines = (*row.settings, *shortened(published, self.scale), *self.scoring(), *self.extra)
        object.__setattr__(self, "settings", lines)

    def scoring(self) -> tuple[str, ...]:
        """The settings that score the run as the paper did: by its metrics, as often as it did, whatever that costs; and its precision."""
        wanted = [metric_of(t.metric, self.samples) for t in self.row.targets if t.metric]
        metrics = [m for m in dict.fromkeys(wanted) if all(available(n) for n in resolve(m).weights)]
        fid = next((m for m in metrics if m.startswith("fid")), None)
        lines = {"evaluate.metrics": metrics, "evaluate.best": fid, "evaluate.every_kimg": round(self.rule.kimg(self.published) * self.scale, 6),
                 "evaluate.budget": None, "train.precision": precision(self.row.recipe, self.on)[0],
                 "ema.choose": False}                     # the paper's own average and rule of selection
        theirs = self.row.targets[0].against
        if elsewhere := self.against or (theirs if theirs not in ("", "validation", self.row.source) else None):
            lines["evaluate.against"] = elsewhere
        if self.rule.together:
            lines |= {"evaluate.statistics": "batch", "evaluate.together": self.rule.together}
        return tuple(f"{k}={json.dumps(v)}" for k, v in lines.items())

    @property
    def on(self) -> str:
        """The kind of device: "cpu", "cuda", "mps"."""
        return pick_device(self.device).type

    @property
    def config(self) -> Config:
        """The settings that are run."""
        return configured(self.row.recipe, self.settings)

    @property
    def share(self) -> float:
        """Of the published schedule, in images shown."""
        return self.config.train.kimg / self.published.train.kimg

    @property
    def modules(self) -> set[str]:
        """The modules outside of the package that the row's own settings or the user name."""
        return {*self.trust, *config_module.modules_of(self.config)}

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

    @property
    def other(self) -> list[str]:
        """What isn't the row's own in the run: more settings, other images than those that it names."""
        return [*self.extra, *([f"trained on {self.data}"] if self.data and self.row.source not in ("", self.data) else [])]

    def key(self, metric: str) -> str:
        """What a figure is kept under: the metric's protocol; by another reference than the row's it is another figure."""
        theirs = self.row.targets[0].against
        elsewhere = self.against not in (None, theirs) and theirs != "validation"
        return metric_of(metric, self.samples) + (f" against {self.against}" if elsewhere else "")

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

    The length; the average of G (its start, its half-life, or its decay^(1/scale); of more than 8 batches of standing statistics a share, 8 or more);
    warm-up and decay of the learning rates; where a term begins and how fast ADA moves p; how often is scored, logged and saved. Not what belongs to
    the method: batch, learning rate, weights, lazy intervals.
    """
    if scale == 1:
        return ()
    t, e = config.train, config.ema
    lines = {"train.kimg": t.kimg * scale, "ema.start_kimg": e.start_kimg * scale, "ema.halflife_kimg": e.halflife_kimg and e.halflife_kimg * scale,
             "ema.decay": e.decay and e.decay ** (1 / scale),
             "ema.standing_batches": max(8, round(e.standing_batches * scale)) if e.standing_batches > 8 else None,
             "evaluate.every_kimg": config.evaluate.every_kimg and config.evaluate.every_kimg * scale}
    for side in ("optim_g", "optim_d"):
        optim = getattr(config, side)
        lines |= {f"{side}.warmup_kimg": optim.warmup_kimg * scale,
                  f"{side}.decay_from_kimg": optim.decay_from_kimg and optim.decay_from_kimg * scale}
    for name, use in config.terms.items():
        cls = catalog.part("terms", use.name, "")
        known = catalog.keywords(cls)
        if "start" in known:
            lines[f"terms.{name}.start"] = round(use.kwargs.get("start", known["start"].default) * scale)
        for key in getattr(cls, "lengths", ()):
            value = use.kwargs.get(key, known[key].default)
            lines[f"terms.{name}.{key}"] = value and value * scale
    for key in ("log_kimg", "preview_kimg", "checkpoint_kimg"):
        lines[f"every.{key}"] = max(getattr(config.every, key) * scale, t.kimg * scale / BEATS)
    return tuple(f"{k}={v:.6g}" for k, v in lines.items() if v or k.endswith(".start") and v is not None)


def differences(job: Job) -> list[str]:
    """How the run differs from the published one, line by line; how often things are written doesn't count."""
    changed = config_module.differences(job.published, job.config)
    lines = [f"{k} {_short(was)} -> {_short(now)}" for k, (was, now) in changed.items()
             if not k.startswith(("every.", "evaluate.")) and k not in ("train.precision", "ema.choose")]
    about = precision(job.row.recipe, job.on)[1]
    return [*lines, *([about] if about else [])]


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def metric_of(name: str, samples: int | None) -> str:
    """The protocol of a target, with another number of samples where the user wants it: fid10k_test -> fid2k_test."""
    name = name.partition("/")[0]
    return re.sub(r"(?<=[a-z])\d+k", f"{samples // 1000}k", name, count=1) if samples else name
