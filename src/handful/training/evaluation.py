"""Scores during a run: at checkpoints, within a share of its time; the best checkpoint is kept; a word when D overfits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..data import Dataset, test_of
from ..data import load as load_data
from ..errors import HandfulError
from ..features import available
from ..files import in_shell
from ..infer.model import Model
from ..metrics import evaluate
from ..metrics._evaluate import planned as planned_evaluation
from ..metrics._protocols import FRESH, protocol, resolve
from ..metrics._session import REALS
from ..metrics._sets import as_trained
from ..metrics._world import Stopped, World
from ..seam import Term
from . import checkpoint, distributed
from .log import duration, read

FEW = 5000                        # images below which KID is trusted rather than FID
LEAST, MOST = 1000, 5000          # samples of an evaluation that nobody has given a number for
RISES = 3                         # evaluations in a row that are worse than the best before a word is said
COPIES = "copies"                 # the name in metrics.jsonl of how near samples lie to training images, for evaluate.stop
COPIES_SEC = 1e-6                 # of looking for copies, per value of the training images, measured on one CPU core
COPIES_ROW = 2                    # evaluations in a row whose samples look like copies: one does so by chance in a hundred (metrics/_copies.py)


def planned(config: Config) -> tuple[list[str], str]:
    """(metrics to compute during the run, a line for the user or ""). Raises HandfulError where what was asked for can't be computed."""
    asked, stops = config.evaluate.metrics, config.evaluate.stop == "auto"
    if stops and asked == []:
        raise HandfulError("evaluate.stop=auto (--stop auto) ends a run by its scores, and evaluate.metrics=[] leaves none; leave one of them out")
    names = ["kid" if config.data.count < FEW else "fid"] if asked is None else asked
    found = {name: resolve(name) for name in names}
    unseen = [name for name, m in found.items() if m.reals == "test"]
    if unseen and not config.data.holdout and not test_images(config):
        raise HandfulError(f"evaluate.metrics: {unseen[0]} is about images that D doesn't train on; keep some out (--set data.holdout=0.1)")
    if max([config.evaluate.samples or 0, *(max(m.samples or 0, m.pictures) for m in found.values())]) > FRESH:
        raise HandfulError(f"evaluate: at most {FRESH} samples during a run; the seeds from {FRESH} on are kept for figures that are reported")
    best = config.evaluate.best
    if names and best is not None and best not in names:
        raise HandfulError(f"evaluate.best={best}: it isn't among evaluate.metrics ({', '.join(names)}); add it there")
    missing = [network for m in found.values() for network in m.weights if not available(network)]
    if not missing:
        return names, ""
    get = f"handful weights get {missing[0]}"
    if stops:
        raise HandfulError(f"evaluate.stop=auto (--stop auto) ends a run by its scores, and the network of {','.join(names)} isn't here; once: {get}")
    if asked is None:
        return [], f"no scores during the run: the network of {names[0]} isn't here; once: {get}"
    raise HandfulError(f"evaluate.metrics={','.join(names)}: the network '{missing[0]}' isn't here; {get}, or --set evaluate.metrics=[]")


def test_images(config: Config) -> str | None:
    """DATA of the images that D doesn't train on, where they aren't held out of the training images: named, or the test set that belongs to them."""
    return config.evaluate.against or (test_of(config.data.path) if config.data.path else None)


class Evaluation:
    """Decides when to score, scores, and remembers the best. Every process calls it; only the first decides and writes.

    Samples are those of the seeds 0, 1, 2 ..., as many as are scored; those from 1,000,000 on are kept for figures that are reported
    (`evaluate(..., reported=True)`), so that none of these was chosen by its own samples.

    asked: whether the user wants to stop. Time spent counts over all sessions of the run (`trainer.scored_sec`).
    """

    def __init__(self, trainer, folder: Path, log, asked: Callable[[], bool] = lambda: False) -> None:
        self.trainer, self.folder, self.log, self.config, self.asked = trainer, folder, log, trainer.config, asked
        self.names, line = distributed.from_first(planned(self.config), trainer.world)
        if line:
            log.say(line, trainer.images_seen)
        self.metrics = {name: resolve(name) for name in self.names}
        wanted = any(m.reals == "test" for m in self.metrics.values())
        self.unseen = wanted and test_images(self.config) or trainer.heldout           # as `handful evaluate` takes them
        self._whole: Dataset | None = None                                        # images that aren't the run's, see `_others`
        self.samples = self.config.evaluate.samples or min(max(len(trainer.dataset), LEAST), MOST)
        self.every_kimg = self.config.evaluate.every_kimg or self.config.every.checkpoint_kimg
        self.last, self.value, self.said = 0.0, math.nan, False          # last: seconds that the next one will take, by the latest
        self._worse = 0
        self._stage, self._since = "", 0.0
        self._reals_sec, self._kept = 0.0, False                         # of the latest, on the reals; whether it found them in the cache
        self._copies: bool | None = None                                 # whether copies are looked for; None: not decided yet
        if not self.names:
            self._give_up()

    @property
    def chooser(self) -> str | None:
        """The metric that chooses the best checkpoint: the one asked for, else the first that can be computed."""
        asked = self.config.evaluate.best
        return asked if asked in self.names else self.names[0] if self.names else None

    def affordable(self, sec: float, last: bool) -> bool:
        """Whether one more evaluation keeps within the budget, a share of the `sec` that the run has taken so far; `last`: the run is done.

        Before the end there must be room for the one at the end too. It costs what the last one did, the first what a few batches let expect.
        """
        if not self.names:
            return False
        if not self.last and self.trainer.rank == 0:
            try:
                self.last = self._expected()
            except (Exception, Stopped):                  # whatever fails will fail in the evaluation, and is said there; the loop obeys a stop
                pass
            self.last += self._of_copies()
        budget = self.config.evaluate.budget
        if budget is None:
            return True
        fits = self.trainer.scored_sec + self.last * (1 if last else 2) <= budget * sec
        fits = bool(distributed.from_first(fits, self.trainer.world))
        if last and not fits and self._best_so_far() is None:
            self.log.say(f"no scores in so short a run: handful evaluate {in_shell(self.folder)} {in_shell(self.config.data.path)} --metrics "
                         f"{','.join(self.names)} --samples {self.samples} takes about "
                         f"{duration(self.last)}", self.trainer.images_seen)
        elif not fits and not self.said:
            self.said = True
            self.log.say(f"scores take about {duration(self.last)} each and {budget:.0%} of the run's time at most (evaluate.budget): not at every "
                         f"checkpoint, the first after {duration(2 * self.last / budget)} or at the end", self.trainer.images_seen)
        return fits

    def missing(self) -> bool:
        """Whether the run's last state was never scored, though there is something to score by: it was stopped, or killed, before it was."""
        images = self.trainer.images_seen
        lines = [] if self.trainer.rank else read(self.folder / "metrics.jsonl")
        scored = any(m.get("images") == images and m.get("metric") != COPIES for m in lines)
        return bool(self.names) and images > 0 and not distributed.from_first(scored, self.trainer.world)

    def score(self, model) -> bool:
        """Scores the averaged generator; True where it is the best so far. Raises Stopped."""
        trainer, chooser = self.trainer, self.chooser
        images, started = trainer.images_seen, time.perf_counter()
        self._stage, self._reals_sec = "", 0.0
        asked = list(self.names)
        found = self._measured(model, images)
        copied = self._look_for_copies(model, images) if found and self.config.evaluate.stop == "auto" else False
        took = time.perf_counter() - started
        trainer.scored_sec += took
        # The reals are looked at once; should that cost time again, they could not be kept. Without a metric it costs something else.
        self.last = (took - (0.0 if self._kept else self._reals_sec)) if self.names == asked else 0.0
        self._kept = True
        if not found:
            self._give_up()
            return False
        self._worse = self._worse if self.chooser == chooser else 0
        lower = self.metrics[self.chooser].better == "lower"
        before = self._best_so_far()
        for name, result in found.items():
            self.log.score(images, name, result)
        value = self.value = found[self.chooser]["value"]
        if not math.isfinite(value):
            return False
        # Within the standard error of the best it is as good, and the later one is taken.
        slack = found[self.chooser].get("stderr", 0.0)
        better = before is None or (value <= before + slack if lower else value >= before - slack)
        better = better and not copied                    # copies score well
        self._worse = 0 if better else self._worse + 1
        if self._worse == RISES:
            self.log.say(f"{self.chooser} was worse than its best in {RISES} evaluations in a row: D may be overfitting; model.safetensors keeps the "
                         f"best. More images, adaptive augmentation (a new run with a stylegan2 recipe) or an earlier end help", images)
        return better

    def measure(self, model: Model, samples: int, first: int) -> dict[str, Any]:
        """The chooser's score of a model by other samples than those of the run's evaluations: seeds first ... first + samples - 1."""
        return self._evaluated(model, [self.chooser], samples, first)[self.chooser]

    def expected(self) -> float:
        """Seconds that an evaluation takes: as the last one did, else as a few batches let expect."""
        with World.here().together():
            if not self.last and self.trainer.rank == 0:
                self.last = self._expected() + self._of_copies()
        return distributed.from_first(self.last, self.trainer.world)

    def end(self) -> str:
        """Why evaluate.stop ends the run at its present state, in words; "" where it doesn't. A function of metrics.jsonl and of
        `trainer.stop_from`, so that it is the same after a resume."""
        if self.config.evaluate.stop != "auto" or not self.names:
            return ""
        why = ""
        if self.trainer.rank == 0:
            why = stop_reason(history(read(self.folder / "metrics.jsonl"), self.chooser), self.metrics[self.chooser].better == "lower",
                              self.config.evaluate.patience, self.trainer.stop_from)
            why = why.format(metric=self.chooser)
        return distributed.from_first(why, self.trainer.world)

    def _look_for_copies(self, model: Model, images: int) -> bool:
        """Whether samples look like copies of training images, by pixels; False where that isn't looked at. Goes to metrics.jsonl."""
        from ..metrics._copies import verdict
        from ..metrics.nearest import compare

        trainer, found = self.trainer, ""
        with World.here().together():                     # the others wait
            if trainer.rank == 0 and self._looks_for_copies():
                try:
                    figures = compare(model, trainer.dataset, trainer.heldout, kinds=("pixel",),
                                      progress=lambda stage, done, total: self._progress(stage, done, total, None)).figures
                    found = verdict(figures["kinds"]["pixel"])
                    self.log.score(images, COPIES, {"value": figures["kinds"]["pixel"]["closer"]["share"], "verdict": found, "better": "lower",
                                                    "protocol": figures["sentence"]})
                except Exception as error:                # never lose a run over it
                    self._copies = False
                    self.log.say(f"not looked for copies from {images} images on: {error}", images)
        return distributed.from_first(found == "copies", trainer.world)

    def _looks_for_copies(self) -> bool:
        """For evaluate.stop, where it takes no longer than the scores themselves, or there is no limit. Decided once in a session."""
        if self._copies is None:
            expected = self._copies_sec()
            self._copies = self.config.evaluate.budget is None or expected <= max(self.last, 1.0)
            if not self._copies:
                self.log.say(f"evaluate.stop goes by {self.chooser} alone: to look for copies of training images takes about {duration(expected)}, "
                             f"longer than the scores", self.trainer.images_seen)
        return self._copies

    def _of_copies(self) -> float:
        """Seconds that copies add to an evaluation."""
        return self._copies_sec() if self.config.evaluate.stop == "auto" and self._looks_for_copies() else 0.0

    def _copies_sec(self) -> float:
        height, width = self.trainer.dataset.resolution
        return len(self.trainer.dataset) * self.trainer.dataset.channels * height * width * COPIES_SEC

    def _measured(self, model: Model, images: int) -> dict[str, dict[str, Any]]:
        """All scores. A metric that fails costs no run and no other metric: it is left out from here on. In several processes it fails in all."""
        try:
            return self._evaluated(model, self.names)
        except Exception as error:
            if len(self.names) == 1:
                self._leave_out(self.names[0], error, images)
                return {}
        found = {}
        for name in list(self.names):                     # one of them fails: which one?
            try:
                found |= self._evaluated(model, [name])
            except Exception as error:
                self._leave_out(name, error, images)
        return found

    def _evaluated(self, model: Model, names: list[str], samples: int | None = None, first: int = 0) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        elsewhere = [name for name in names if self._by_others(name)]
        with World.here().together():                     # each process reads them for itself, and one may fail alone
            heldout, others = self._heldout(model), self._others(model) if elsewhere else None
        for some, reals in (([n for n in names if n not in elsewhere], self.trainer.dataset), (elsewhere, others)):
            if some:
                found |= evaluate(model, reals, some, samples or self.samples, heldout=heldout, device=self.trainer.device, progress=self._progress,
                                  first=first, second_space=False)      # what chooses is one figure; the others are for `handful evaluate`
        return {name: found[name] for name in names}

    def _by_others(self, name: str) -> bool:
        """Whether a metric compares with other images than the run's: those of evaluate.against, or, by the papers' `full` protocols, the whole of a
        set of which a part is trained on."""
        data = self.config.data
        return self.metrics[name].reals == "all" and bool(self.config.evaluate.against or protocol(name) and data.max_images)

    def _others(self, model: Model) -> Dataset:
        """The images of `_by_others`, read once."""
        if self._whole is None:
            path = self.config.evaluate.against or self.config.data.path
            self._whole = load_data(path, labels="auto" if model.generator.num_classes else None, **as_trained(model),
                                    progress=lambda done, total: self._progress("reading the images to score against", done, total, None))
        return self._whole

    def _heldout(self, model: Model) -> Dataset | None:
        """The unseen reals; a set that is named is read once."""
        if isinstance(self.unseen, str):
            self.unseen = load_data(self.unseen, progress=lambda done, total: self._progress("reading the test images", done, total, None),
                                    **as_trained(model))
        return self.unseen

    def _leave_out(self, name: str, error: Exception, images: int) -> None:
        chooser, self.names = self.chooser, [n for n in self.names if n != name]
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        heir = f"; {self.chooser} chooses the best checkpoint now" if self.names and chooser == name else ""
        self.log.say(f"no {name if self.names else 'scores'} from {images} images on: {why}{heir}", images)

    def _expected(self) -> float:
        """Seconds that an evaluation takes, from a batch through the generator and through each network; reals that are known already cost
        nothing."""
        trainer, batch = self.trainer, 16
        model = Model(trainer.nets.G_ema, self.config)
        images = torch.from_numpy(model.sample(range(batch))).permute(0, 3, 1, 2).to(trainer.device)
        made = _sec(lambda: model.sample(range(batch))) / batch
        with planned_evaluation(model, trainer.dataset, self.names, self.samples, heldout=self._heldout(model), device=trainer.device,
                                second_space=False) as session:
            ahead = session.ahead()
            sec = made * max([fakes for fakes, _ in ahead.values()], default=0)                # one pass serves most metrics
            for name, (fakes, reals) in ahead.items():
                sec += (fakes + reals) * _sec(partial(session.networks[name], images)) / batch
            pair = images[:2].float() / 127.5 - 1
            for m in session.metrics.values():
                seen = _sec(partial(m.net, pair, pair.flip(0))) / 2 if "lpips" in m.weights else 0.0
                sec += m.pictures * (made + seen)
        return sec

    def _progress(self, stage: str, done: int, total: int, left: float | None) -> None:
        if self.asked():
            raise Stopped("stopped")                      # in all processes: see metrics._world
        now = time.perf_counter()
        if self._stage.startswith(REALS):
            self._reals_sec += now - self._since
        self._stage, self._since = stage, now
        self.log.stage(f"{stage} {done}/{total}" + ("" if left is None else f", {duration(left)} left"))

    def _best_so_far(self) -> float | None:
        """The best value of the chooser in this run's file of scores; where another metric chose so far, its value of that one's best."""
        marked, lower = checkpoint.index(self.folder), self.metrics[self.chooser].better == "lower"
        values = {images: value for images, value, _, copied in history(read(self.folder / "metrics.jsonl"), self.chooser) if not copied}
        if marked["best"] and marked["metric"] != self.chooser:
            return values.get(int(Path(marked["best"]).stem))
        return (min if lower else max)(values.values(), default=None)

    def _give_up(self) -> None:
        """Without scores the model is the last, not one that was the best once."""
        if self.trainer.rank == 0 and checkpoint.index(self.folder)["best"] is not None:
            checkpoint.forget_best(self.folder)
            self.log.say("without scores model.safetensors follows the last checkpoint again", self.trainer.images_seen)


def history(lines: Iterable[Mapping[str, Any]], metric: str) -> list[tuple[Any, float, float, bool]]:
    """A metric's evaluations in metrics.jsonl, in order: (images, value, standard error, whether the samples looked like copies)."""
    lines = list(lines)
    copied = {m.get("images") for m in lines if m.get("metric") == COPIES and m.get("verdict") == "copies"}
    error = lambda m: m["stderr"] if isinstance(m.get("stderr"), int | float) else 0.0
    return [(m.get("images"), m["value"], error(m), m.get("images") in copied) for m in lines
            if m.get("metric") == metric and isinstance(m.get("value"), int | float)]


def stop_reason(found: Iterable[tuple[int, float, float, bool]], lower: bool, patience: int, after: int = 0) -> str:
    """Why a run with this `history` should end, with {metric} for its name; "" where it should go on.

    Better is what `Evaluation.score` calls better: within the standard error of the best so far, or beyond it, and not a copy. lower: whether low
    values are good; after: evaluations of so many images or fewer give the best, but don't count among the `patience` in a row.
    """
    best: tuple[float, int] | None = None
    worse = copies = 0
    for images, value, error, copied in found:
        value = value if lower else -value
        better = not copied and (best is None or value <= best[0] + error)
        if not copied and (best is None or value < best[0]):
            best = value, images
        counts = images > after
        worse = 0 if better else worse + counts
        copies = copies + counts if copied else 0
    if copies >= COPIES_ROW:
        return f"samples of the last {copies} evaluations look like copies of training images (the line 'copies' of metrics.jsonl)"
    if worse >= patience:
        said = f" (best {best[0] if lower else -best[0]:.4g} after {best[1]} images)" if best else ""
        return f"{{metric}} has not improved in {worse} evaluations{said}"
    return ""


def _sec(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


class Alarm:
    """Says once that D overfits, when several stretches of the log in a row say so (`Trainer.overfitting`), and what helps."""

    PATIENCE = 5

    def __init__(self, terms: Mapping[str, Term]) -> None:
        self.row = 0
        remedies = [term.remedy.format(name=name) for name, term in terms.items() if term.remedy]
        self.remedy = " or ".join(remedies) or ("take adaptive augmentation in a new run (a stylegan2 recipe, or --set augment=ada "
                                                "--set terms.ada_controller.kimg=100)")

    def look(self, found: str | None) -> str:
        if found is None:
            return ""
        self.row = self.row + 1 if found else 0
        return f"{found}; {self.remedy}, add images, or stop here: earlier checkpoints may be better" if self.row == self.PATIENCE else ""
