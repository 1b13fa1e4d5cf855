"""A row of a published table, trained and scored; the same command goes on with an unfinished run."""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from .. import config as config_module
from ..config import Config
from ..errors import HandfulError, UsageError
from ..features import available
from ..features.extractor import extractor
from ..files import in_shell, write_text
from ..infer.model import Model, generator_of, pick_device
from ..metrics import evaluate
from ..metrics._protocols import resolve
from ..metrics._session import Progress
from ..training import checkpoint, choose, train
from ..training.estimate import estimate, of_noise
from ..training.log import duration, read
from . import _tables
from ._job import Job, differences, metric_of
from ._tables import RESULT, value_of

Say = Callable[[str], None]
PIXELS = 2 ** 19                         # of a batch while the cost is estimated on a CPU
APART = 10 ** 6                          # seeds between two sets of samples
TRIED = 16                               # samples by which the cost of scoring is estimated


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
    say("measuring a few steps here ...")
    say(f"here: {estimate(of_noise(config_module.resolved(config), device)).line}{trial}")
    say(f"rule: {job.rule.said}")
    say(f"scoring: {scoring(job, config, device)}")


def scoring(job: Job, config: Config, device: torch.device) -> str:
    """What the scores of a run cost here, in words, from a few samples of the untrained generator."""
    metrics = {name: resolve(name) for name in config.evaluate.metrics or []}
    if not metrics:
        return "nothing can be scored, the networks of the metrics aren't here"
    model = Model(generator_of(config).to(device), config)
    started = time.perf_counter()
    images = torch.from_numpy(model.sample(range(TRIED), batch=TRIED)).permute(0, 3, 1, 2).to(device)
    sec = (time.perf_counter() - started) / TRIED
    for name in dict.fromkeys(m.extractor for m in metrics.values() if m.extractor and not m.alone):
        network = extractor(name, device)
        started = time.perf_counter()
        network(images)
        sec += (time.perf_counter() - started) / TRIED
    samples = max(m.samples or 5000 for m in metrics.values())
    times = max(1, int(config.train.kimg / config.evaluate.every_kimg)) + (job.rule.sets if job.rule.sets > 1 else 0)
    return f"{times} times {samples} samples ({', '.join(metrics)}), about {duration(times * samples * sec)} here in all"


def reproduce(job: Job, say: Say = print, progress: Progress | None = None) -> dict[str, Any] | None:
    """Trains the row's setting where that isn't done, scores what isn't scored yet, writes result.json; returns it, None where the user stopped.

    {"setting", "share", "other": settings that aren't the row's, "seed", "data", "found": by metric, "snapshot": which was scored, "records":
    for the ledger}. progress: of the scores, as in `evaluate`. Raises UsageError for data that must be given, HandfulError where no figure of
    the row can be computed.
    """
    row, folder = job.row, job.folder
    source, against = job.source(), job.reference()
    facts = _kept(folder) or {"setting": _tables.setting(row), "share": job.share, "other": job.other, "seed": job.seed, "data": source,
                              "found": {}, "records": []}
    wanted = {metric_of(t.metric, job.samples): t for t in row.targets if t.metric}
    if not wanted:
        raise UsageError(f"{row.table}: '{row.name}': {row.targets[0].figure} isn't a score of pictures; benchmarks/train_step.py measures what "
                         f"steps cost")
    unscored = [m for m, t in wanted.items() if job.key(t.metric) not in facts["found"]]
    missing = {m: n for m in unscored for n in resolve(m).weights if not available(n)}
    todo = [m for m in unscored if m not in missing]
    for m, network in missing.items():
        say(f"{wanted[m].figure} is left out: {m} needs the network '{network}', which isn't here; handful weights get {network}")
    if len(missing) == len(wanted):
        raise HandfulError(f"no figure of {row.table}, {row.name} can be computed without {', '.join(sorted(set(missing.values())))}; "
                           f"handful weights get {next(iter(missing.values()))}")
    say(f"rule: {job.rule.said}")
    for line in differences(job):
        say(f"differs from the published run: {line}")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False        # a GPU's fp32 is to be fp32
    if todo:
        if not _trained(job, source, say):
            return None
        scored = _figures(job, todo, against, progress, say)
        facts["found"] |= {job.key(wanted[m].metric): result for m, result in scored.items()}
        facts["rule"] = job.rule.said
    new = _records(job, facts)
    replaced = {(r["table"], r["figure"]) for r in new}
    facts["records"] = [r for r in facts["records"] if (r["table"], r["figure"]) not in replaced] + new
    write_text(folder / RESULT, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return facts


def _figures(job: Job, metrics: Sequence[str], against: str, progress: Progress | None, say: Say) -> dict[str, dict[str, Any]]:
    """Each metric's figure by the paper's rule, from the scores of the run and, where the figure is a mean over sets of samples, from more of them.

    "snapshot": in words, which was scored; "sets": the values of which "value" is the mean.
    """
    folder, rule = job.folder, job.rule
    scores = {m: [line for line in read(folder / "metrics.jsonl") if line.get("metric") == m and isinstance(line.get("value"), int | float)]
              for m in metrics if " against " not in job.key(m)}              # the run may have scored itself by other reals
    chosen = checkpoint.index(folder)
    images = int(Path(chosen["best"]).stem) if chosen["best"] else None
    found: dict[str, dict[str, Any]] = {}
    for m, lines in scores.items():
        if rule.each and lines:
            best = min(lines, key=lambda line: line["value"] * (1 if line["better"] == "lower" else -1))
            found[m] = best | {"snapshot": f"the snapshot of the best {m}, after {best['images']} images"}
        elif rule.sets == 1 and (mine := [line for line in lines if line["images"] == images]):
            found[m] = mine[-1] | {"snapshot": f"the snapshot of the best {chosen['metric']}, after {images} images"}
    if left := [m for m in metrics if m not in found]:
        which = f"the snapshot of the best {chosen['metric']}, after {images} images" if images is not None else "the last snapshot"
        sets = [evaluate(folder, against, left, device=job.device, progress=progress, say=say, trust=job.modules, first=(i + 1) * APART,
                         second_space=False)                  # published figures have one space
                for i in range(rule.sets)]                    # other samples than those that chose the snapshot
        for m in left:
            values = [s[m]["value"] for s in sets]
            more = {"sets": values, "std": statistics.stdev(values)} if len(values) > 1 else {}
            found[m] = sets[0][m] | {"value": statistics.mean(values), "snapshot": which} | more
    return found


def _kept(folder: Path) -> dict[str, Any] | None:
    found = _tables.results(folder)
    return found[0] if found else None


def _trained(job: Job, source: str, say: Say) -> bool:
    """Trains, or goes on with what stands there; False where the user stopped it."""
    folder = job.folder
    if checkpoint.all_of(folder):                         # a run that is done makes up for what it was stopped before
        run = train(source, resume=folder, seed=job.seed, settings=job.settings, device=job.device, trust=job.modules, say=say)
    else:
        run = train(source, recipe=job.row.recipe, out=folder, seed=job.seed, settings=job.settings, device=job.device, trust=job.modules, say=say,
                    threads=torch.get_num_threads())      # the machine's number, not one that depends on what else it did just now
    return run.finished


def _records(job: Job, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The ledger's records of the row's figures: what was measured, beside what was published."""
    said = [f"{100 * job.share:.3g}% of the published schedule"] if job.share != 1 else []
    said += [f"with {' '.join(job.extra)}"] if job.extra else []
    said += [f"trained on {job.data}"] if job.data else []
    said += [f"scored against {job.against}"] if job.against else []
    said += [facts["rule"]] if "rule" in facts else []
    out = []
    for t in job.row.targets:
        found = {t.metric.partition("/")[0]: facts["found"].get(job.key(t.metric), {})}
        value = value_of(t, found)
        if value is None:
            continue
        result = found[t.metric.partition("/")[0]]
        more = [result["snapshot"]] if "snapshot" in result else []
        more += [f"mean of {len(result['sets'])} sets of samples, deviation {result['std']:.2g}"] if "sets" in result else []
        note = "; ".join([*said, *more, result["protocol"], *([result["note"]] if "note" in result else [])])
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
