"""The end of a run: which average of G becomes its model, by length and by the time at which it ends.

Candidates are averages of a few relative widths at the last two snapshots and at the one nearest to the best evaluation. They are scored by the
run's metric in two rounds of successive halving, by few samples first and by more for the best quarter, each within a third of the time. What is
left goes to a comparison of the best candidate with the recipe's own average, by the same new samples: the candidate becomes the model where it is
better by more than the standard error. Scores of the rounds, by which candidates were selected, are not part of the comparison.

Samples here are those of seeds from FIRST_SEED up, new ones in each round: evaluations during a run take seeds from 0 up, and reported figures
seeds from 1,000,000 up, so that no figure is of samples that chose its model.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import tensors
from ..errors import HandfulError
from ..files import in_shell, parse_json, read_bounded, write_text
from ..infer.model import Model
from ..metrics._world import World
from ..metrics.nearest import FILES as NEIGHBOURS
from . import checkpoint, distributed, power_ema
from .evaluation import Evaluation, history
from .log import duration, read
from .power_ema import Length, Snapshots
from .trainer import Trainer

SHARE = 0.1                          # of the run's time that the choice may take
WIDTHS = (0.10, 0.05, 0.14, 0.07, 0.20, 0.03)                # of the candidates; the first ones where there is no time for all
FIRST_SEED = 500_000
LEAST = 50                           # samples of a score; KID of fewer says little (metrics/kid.py)
KEPT = 4                             # one candidate in so many gets to the second round
FILE = "choice.json"


def choose(trainer: Trainer, folder: Path, log: Any, evaluation: Evaluation, own: Callable[[], Model], sec: float, check: Callable[[], None]) -> None:
    """Chooses, writes ema/choice.json and, where another average is better, model.safetensors; once for a state of the run. own: the averaged
    generator at the end of the run; sec: the run's time so far; check: called before files are written. All processes call it. Raises Stopped.

    Whatever else goes wrong is said, and leaves the run as it is; a resume tries again.
    """
    images, world, averages = trainer.images_seen, trainer.world, trainer.averages
    if not images or averages is None:
        return
    if trainer.rank == 0 and images not in power_ema.snapshots(folder):
        check()
        averages.write(folder, images)                    # of the last state, between the regular ones; it goes when the run goes on
    if distributed.from_first(trainer.rank or _done(folder).get("images") == images, world):
        return
    other = f"handful ema {in_shell(folder)} --length 0.08 makes any other"
    try:
        found = _Choice(trainer, folder, log, evaluation, own, sec).made()
        with World.here().together():
            if trainer.rank == 0:
                check()
                found.write()
                log.say(f"{found.said}; {other}", images)
    except Exception as error:                            # never lose a run over it
        log.say(f"no average of another length is tried: {error}; {other}", images)


def is_chosen(folder: Path) -> bool:
    """Whether the run's model is an average that was chosen here."""
    try:
        return "ema" in tensors.read_header(folder / "model.safetensors")[0]
    except HandfulError:
        return False


def _done(folder: Path) -> Mapping[str, Any]:
    try:
        return parse_json(read_bounded(folder / "ema" / FILE), FILE, dict)
    except HandfulError:
        return {}


class _Choice:
    """One choice. `made` does the work, `write` the files."""

    def __init__(self, trainer: Trainer, folder: Path, log: Any, evaluation: Evaluation, own: Callable[[], Model], sec: float) -> None:
        self.trainer, self.folder, self.log, self.evaluation, self.sec = trainer, folder, log, evaluation, sec
        if evaluation.chooser is None:
            raise HandfulError("there are no scores to choose by")
        if fixed := evaluation.metrics[evaluation.chooser].samples:
            raise HandfulError(f"{evaluation.chooser} takes {fixed} samples and can't be tried by fewer")
        self.lower = evaluation.metrics[evaluation.chooser].better == "lower"
        self.started, self.seed = time.perf_counter(), FIRST_SEED
        self.own = self._recipe(own())
        self.candidate = Model(copy.deepcopy(self.own.generator), trainer.config, 0)             # takes the weights of each in turn
        self.slower = 1.0                                 # than expected, by the rounds so far
        self.rounds: list[list[dict[str, Any]]] = []

    def made(self) -> _Choice:
        snapshots, left = None, []
        with World.here().together():
            if self.trainer.rank == 0:
                snapshots = Snapshots(self.folder, self.own.generator, self.log.say)
                left = self._candidates(snapshots)
        self.snapshots, left = snapshots, distributed.from_first(left, self.trainer.world)
        if not left:
            raise HandfulError("the snapshots give no other length")
        budget, per_sample = SHARE * self.sec, self.evaluation.expected() / self.evaluation.samples
        started = time.perf_counter()
        self._fill(left[0])
        fixed = distributed.from_first(time.perf_counter() - started, self.trainer.world)          # what a candidate costs before its first sample
        left = left[:max(1, int(self._left(budget) / 3 / (fixed + LEAST * per_sample)))]
        if len(left) > 1:
            left = self._round(left, self._left(budget) / 3, fixed, per_sample)[:max(1, len(left) // KEPT)]
        if len(left) > 1:
            left = self._round(left, self._left(budget) / 2, fixed, per_sample)
        self.length = left[0]
        samples = self._samples(self._left(budget), 2, fixed, per_sample)
        self.seeds = self.seed, self.seed + samples - 1
        self._fill(self.length)
        self.found, self.recipe = (self._scored(model, samples) for model in (self.candidate, self.own))
        gain = (self.recipe["value"] - self.found["value"]) * (1 if self.lower else -1)
        self.error = max(self.found.get("stderr", 0.0), self.recipe.get("stderr", 0.0))
        self.chosen = gain > self.error                   # never where one of them is not a number
        return self

    @property
    def said(self) -> str:
        name, spread = self.evaluation.chooser, f" +- {self.error:.2g}" if self.error else ""
        by = f"by {self.seeds[1] - self.seeds[0] + 1} samples, seeds {self.seeds[0]} to {self.seeds[1]}"
        if self.chosen:
            return (f"the model is the average of {self.length}: {name} {self.found['value']:.4g}, "
                    f"and {self.recipe['value']:.4g}{spread} of the recipe's own average ({by})")
        return (f"the recipe's own average stays the model: {name} {self.recipe['value']:.4g}{spread}, "
                f"and {self.found['value']:.4g} of the best other one, {self.length} ({by})")

    def write(self) -> None:
        """model.safetensors where it changes, then ema/choice.json: whoever finds that needs no other choice."""
        path = self.folder / "model.safetensors"
        if self.chosen or is_chosen(self.folder):         # by an earlier choice, before the run went on
            for name in NEIGHBOURS:                       # they are another model's
                (self.folder / name).unlink(missing_ok=True)
            model = self.candidate if self.chosen else self.own
            checkpoint.save_model(path, self.trainer.config, model.generator, self.length.at if self.chosen else self.own.images_seen,
                                  self.length.metadata() if self.chosen else None)
        about = {"images": self.trainer.images_seen, "chosen": self.chosen, **_about(self.length), "metric": self.evaluation.chooser,
                 "candidate": _plain(self.found), "recipe": {"images": self.own.images_seen, **_plain(self.recipe)}, "seeds": list(self.seeds),
                 "rounds": self.rounds, "sec": round(time.perf_counter() - self.started, 1)}
        write_text(self.folder / "ema" / FILE, json.dumps(about, indent=1))

    def _recipe(self, last: Model) -> Model:
        """The recipe's own average: of the best checkpoint where one is marked, else of the last state."""
        G, images = copy.deepcopy(last.generator), last.images_seen
        with World.here().together():
            if self.trainer.rank == 0 and (name := checkpoint.index(self.folder)["best"]) is not None and int(Path(name).stem) != images:
                path = self.folder / "checkpoints" / name
                tensors.fill(G, tensors.load_checkpoint(path)["G_ema"], f"{path} (G_ema)")
                images = int(path.stem)
        distributed.spread(G, self.trainer.world)
        return Model(G, self.trainer.config, distributed.from_first(images, self.trainer.world))

    def _candidates(self, snapshots: Snapshots) -> list[Length]:
        """Each width at the last snapshot, at the one nearest to the best evaluation, at the last but one; none from where samples became copies."""
        copied = [images for images, *_, copied in history(read(self.folder / "metrics.jsonl"), self.evaluation.chooser) if copied]
        times = [t for t in snapshots.times if not copied or t < min(copied)]
        if not times:
            return []
        nearest = min(times, key=lambda t: abs(t - self.own.images_seen))
        ends = dict.fromkeys([times[-1], nearest, *times[-2:-1]])
        found = [Length.of_width(at, width) for width in WIDTHS for at in ends]
        return [length for length in found if snapshots.can_give(length)]

    def _round(self, candidates: list[Length], sec: float, fixed: float, per_sample: float) -> list[Length]:
        """The candidates, the best first, by as many samples as `sec` allows."""
        samples, started = self._samples(sec, len(candidates), fixed, per_sample), time.perf_counter()
        found = []
        for length in candidates:
            self._fill(length)
            found.append(self._scored(self.candidate, samples)["value"])
        self.seed += samples
        self.rounds.append([{**_about(length), "value": value if math.isfinite(value) else None, "samples": samples}
                            for length, value in zip(candidates, found)])
        took = time.perf_counter() - started
        self.slower = max(0.1, distributed.from_first(self.slower * took / max(self._cost(samples, len(candidates), fixed, per_sample), 1e-9),
                                                      self.trainer.world))
        rank = lambda i: (not math.isfinite(found[i]), found[i] if self.lower else -found[i])
        return [candidates[i] for i in sorted(range(len(candidates)), key=rank)]

    def _cost(self, samples: int, models: int, fixed: float, per_sample: float) -> float:
        """Seconds, expected."""
        return self.slower * models * (fixed + samples * per_sample)

    def _samples(self, sec: float, models: int, fixed: float, per_sample: float) -> int:
        """How many samples of each of `models` models `sec` seconds allow, at most as many as an evaluation has. Raises HandfulError below LEAST."""
        allowed = int((sec / self.slower / models - fixed) / max(per_sample, 1e-9))
        allowed = distributed.from_first(min(allowed, max(self.evaluation.samples, LEAST)), self.trainer.world)
        if allowed < LEAST:
            raise HandfulError(f"it takes longer than {SHARE:.0%} of the run's {duration(self.sec)}")
        return allowed

    def _left(self, budget: float) -> float:
        return distributed.from_first(self.started + budget - time.perf_counter(), self.trainer.world)

    def _fill(self, length: Length) -> None:
        """`candidate` becomes the average of this length, the same in all processes."""
        G = self.candidate.generator
        with World.here().together():
            if self.trainer.rank == 0:
                self.snapshots.fill(G, length)
                power_ema.settled(G, self.trainer.config)
        distributed.spread(G, self.trainer.world)
        self.candidate.images_seen = length.at

    def _scored(self, model: Model, samples: int) -> dict[str, Any]:
        return self.evaluation.measure(model, samples, self.seed)


def _about(length: Length) -> dict[str, Any]:
    return {"width": round(length.width, 6), "halflife_kimg": round(length.halflife_kimg, 6), "snapshot": length.at}


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v if math.isfinite(v) else None for k, v in found.items() if k in ("value", "stderr")}
