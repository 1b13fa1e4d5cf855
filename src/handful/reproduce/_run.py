"""A row of a published table, trained and scored; the same command goes on with an unfinished run."""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from .. import config as config_module
from ..errors import HandfulError, UsageError
from ..features import available
from ..files import in_shell, write_text
from ..infer.model import pick_device
from ..metrics import evaluate
from ..metrics._protocols import resolve
from ..metrics._session import Progress
from ..train import checkpoint, choose, train
from ..train.fit import to_images
from . import _tables
from ._job import Job, differences, metric_of
from ._tables import RESULT, value_of

Say = Callable[[str], None]
PIXELS = 2 ** 19                         # of a batch while the cost is estimated on a CPU


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
    say(f"here: {choose.estimate(config_module.resolved(config), device).line}{trial}")


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
    for line in differences(job):
        say(f"differs from the published run: {line}")
    if todo:
        if not _trained(job, source, say):
            return None
        scored = evaluate(folder, against, todo, device=job.device, progress=progress, say=say, trust=job.modules)
        facts["found"] |= {job.key(wanted[m].metric): result for m, result in scored.items()}
        best = checkpoint.index(folder)
        facts["snapshot"] = f"the snapshot of best {best['metric']} during the run" if best["best"] else "the last snapshot"
    new = _records(job, facts)
    replaced = {(r["table"], r["figure"]) for r in new}
    facts["records"] = [r for r in facts["records"] if (r["table"], r["figure"]) not in replaced] + new
    write_text(folder / RESULT, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return facts


def _kept(folder: Path) -> dict[str, Any] | None:
    found = _tables.results(folder)
    return found[0] if found else None


def _trained(job: Job, source: str, say: Say) -> bool:
    """Trains, or goes on with what stands there; False where the user stopped it."""
    folder = job.folder
    if checkpoint.all_of(folder) and f"{to_images(job.config.train.kimg):09d}" <= checkpoint.all_of(folder)[0].stem:
        return True
    if checkpoint.all_of(folder):
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
    said += [facts["snapshot"]]
    out = []
    for t in job.row.targets:
        found = {t.metric.partition("/")[0]: facts["found"].get(job.key(t.metric), {})}
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
