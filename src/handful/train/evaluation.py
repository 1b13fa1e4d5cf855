"""Scores during a run: at checkpoints, within a share of its time; the best checkpoint is kept; a word when D overfits."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..errors import HandfulError
from ..features import available
from ..features.extractor import extractor
from ..infer.model import Model
from ..metrics import evaluate
from ..metrics._protocols import resolve
from . import checkpoint, reduce
from .log import duration, read

FEW = 5000                        # images below which KID is trusted rather than FID
LEAST, MOST = 1000, 5000          # samples of an evaluation that nobody has given a number for
RISES = 3                         # evaluations in a row that are worse than the best before a word is said
OVERFIT_LOGITS = 0.75             # r_v from which held-out reals count as fakes to D


def planned(config: Config) -> tuple[list[str], str]:
    """(metrics to compute during the run, a line for the user or ""). Raises HandfulError where what was asked for can't be computed."""
    asked = config.evaluate.metrics
    names = ["kid" if config.data.count < FEW else "fid"] if asked is None else asked
    found = {name: resolve(name) for name in names}
    missing = sorted({m.extractor for m in found.values() if not m.alone and not available(m.extractor)})
    if not missing:
        best = config.evaluate.best
        if best is not None and best not in names:
            raise HandfulError(f"evaluate.best={best}: it isn't among evaluate.metrics ({', '.join(names)}); add it there")
        return names, ""
    get = f"handful weights get {missing[0]}"
    if asked is None:
        return [], f"no scores during the run: the network of {names[0]} isn't here; once: {get}"
    raise HandfulError(f"evaluate.metrics={','.join(names)}: the network '{missing[0]}' isn't here; {get}, or --set evaluate.metrics=[]")


class Evaluation:
    """Decides when to score, scores, and remembers the best. Every process calls it; only the first decides and writes."""

    def __init__(self, trainer, folder: Path, log) -> None:
        self.trainer, self.folder, self.log, self.config = trainer, folder, log, trainer.config
        self.names, line = planned(self.config)
        if line and trainer.images_seen == 0:
            log.say(line, 0)
        self.metrics = {name: resolve(name) for name in self.names}
        self.samples = self.config.evaluate.samples or min(max(len(trainer.dataset), LEAST), MOST)
        self.every_kimg = self.config.evaluate.every_kimg or self.config.every.checkpoint_kimg
        self.spent = self.last = 0.0                      # seconds: of all evaluations of this session, of the latest
        self.skipped, self.value = 0, math.nan
        self._worse = sum(1 for _ in self._rises())

    @property
    def chooser(self) -> str | None:
        """The metric that chooses the best checkpoint."""
        return self.config.evaluate.best or (self.names[0] if self.names else None)

    def affordable(self, sec: float) -> bool:
        """Whether one more evaluation keeps within the budget: a share of the time that the run has taken so far. It costs what the last one did,
        the first what a few batches let expect."""
        if not self.names:
            return False
        self.last = self.last or self._expected()
        fits = self.spent + self.last <= self.config.evaluate.budget * sec
        fits = bool(reduce.from_first(fits, self.trainer.world))
        if not fits:
            self.skipped += 1
            if self.skipped == 1:
                self.log.say(f"scores are thinned out: one takes {duration(self.last)}, and they may take {self.config.evaluate.budget:.0%} of the "
                             f"run's time (evaluate.budget)", self.trainer.images_seen)
        return fits

    def score(self, model) -> bool:
        """Scores the averaged generator; True where it is the best so far."""
        images, started = self.trainer.images_seen, time.perf_counter()
        try:
            found = evaluate(model, self.trainer.dataset, self.names, self.samples, device=self.trainer.device, progress=self._progress)
        except HandfulError as error:                     # never lose a run over a score
            self.log.say(f"no scores at {images} images: {error}", images)
            self.names = []
            return False
        self.last = time.perf_counter() - started
        self.spent += self.last
        best = self._best()
        for name, result in found.items():
            self.log.score(images, name, result)
        value = self.value = found[self.chooser]["value"]
        better = math.isfinite(value) and (best is None or (value < best if self.metrics[self.chooser].better == "lower" else value > best))
        self._worse = 0 if better else self._worse + 1
        if self._worse == RISES:
            self.log.say(f"{self.chooser} has not got better for {RISES} evaluations: D may be overfitting; the best pictures so far are kept in "
                         f"model.safetensors. More images, stronger augmentation (--set augment=ada with terms.ada_controller) or an earlier end "
                         f"help", images)
        return better

    def _expected(self) -> float:
        """Seconds that an evaluation takes, from a batch through the generator and through each network."""
        trainer, batch = self.trainer, 16
        model = Model(trainer.nets.G_ema, self.config)
        images = torch.from_numpy(model.sample(range(batch))).permute(0, 3, 1, 2)
        started = time.perf_counter()
        model.sample(range(batch))
        sec = (time.perf_counter() - started) * self.samples
        for name in {m.extractor for m in self.metrics.values() if not m.alone}:
            network = extractor(name, trainer.device)
            started = time.perf_counter()
            network(images.to(trainer.device))
            sec += (time.perf_counter() - started) * (self.samples + len(trainer.dataset))
        return sec / batch

    def _progress(self, stage: str, done: int, total: int, left: float | None) -> None:
        self.log.stage(f"{stage} {done}/{total}" + ("" if left is None else f", {duration(left)} left"))

    def _best(self) -> float | None:
        index = checkpoint.index(self.folder)
        return index.get("value") if index.get("metric") == self.chooser else None

    def _rises(self):
        """The evaluations of earlier sessions since the best."""
        best = checkpoint.index(self.folder).get("best")
        at = int(Path(best).stem) if best else math.inf
        return (m for m in read(self.folder / "metrics.jsonl") if m.get("metric") == self.chooser and m.get("images", 0) > at)


def overfitting(logged: Mapping[str, float]) -> str:
    """What a stretch of the log says about D's overfitting, "" when nothing: held-out reals judged like fakes, or all training images known."""
    train, held, fake = (logged.get(k, math.nan) for k in ("d/logits_real", "d/heldout_logits/logits", "d/logits_fake"))
    if train - fake > 0 and (train - held) / (train - fake) > OVERFIT_LOGITS:
        return (f"D overfits: it judges held-out images ({held:.2f}) nearly as it judges fakes ({fake:.2f}), training images at {train:.2f}")
    if logged.get("d/ada_controller/sign", 0.0) > 0.95 and logged.get("d/ada_controller/p", 0.0) > 0.05:
        return "D overfits: r_t is above 0.95, it knows nearly every training image"
    return ""


class Alarm:
    """Says once that D overfits, when several stretches of the log in a row say so, and what helps."""

    PATIENCE = 5

    def __init__(self) -> None:
        self.row = 0

    def look(self, logged: Mapping[str, Any]) -> str:
        found = overfitting(logged)
        self.row = self.row + 1 if found else 0
        if self.row != self.PATIENCE:
            return ""
        adaptive = "d/ada_controller/p" in logged
        remedy = ("let p move faster (terms.ada_controller.kimg) or take a smaller discriminator" if adaptive else
                  "augment adaptively (--recipe with ada, or --set augment=ada --set terms.ada_controller.kimg=100)")
        return f"{found}; {remedy}, add images, or stop here: earlier checkpoints may be better"
