"""How many images D takes for real: of those it trains on, of others, and of fakes (Zhao et al.: DiffAugment, NeurIPS 2020, figures 1 and 6).

The share of D(T(x)) > 0, with D in evaluation mode. Where training images come near 1 and others fall, D knows its images by heart.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..data import Dataset, load
from ..errors import HandfulError
from ..rng import derive
from .trainer import Trainer

MOST = 1000                          # images of each kind: the standard error is 0.016 at most


class Accuracy:
    """D's accuracy, looked at now and then. unseen: images that D doesn't train on, None: there are none, and nothing is looked at.

    They are the held-out ones, else at most MOST of the test set that belongs to the training images. Draws come from streams of their own and
    every buffer is left as it was: the run goes on as if nobody had looked. The same images every time.
    """

    def __init__(self, trainer: Trainer, test: str | None, say: Callable[[str], None]) -> None:
        self.trainer, self.unseen = trainer, trainer.heldout
        if self.unseen is None and test is not None:
            config = trainer.config.data
            try:
                self.unseen = load(test, resolution=config.resolution, channels=config.channels, fit=config.fit, filter=config.filter,
                                   window=config.window, labels="auto" if trainer.nets.D.num_classes else None, max_images=MOST, skip_bad=True)
            except HandfulError as error:
                say(f"no accuracy of D on test images: {error}")
        if self.unseen is not None and trainer.nets.D.num_classes and self.unseen.class_names != trainer.dataset.class_names:
            self.unseen = None                               # D couldn't be told their classes

    def look(self) -> dict[str, float]:
        """{"d/accuracy_train", "d/accuracy_unseen", "d/accuracy_fake"}: shares of D(T(x)) > 0; {} without unseen images."""
        if self.unseen is None:
            return {}
        D = self.trainer.nets.D
        D.eval()
        try:
            return {"d/accuracy_train": _share(self.trainer, self.trainer.dataset, "train"),
                    "d/accuracy_unseen": _share(self.trainer, self.unseen, "unseen"), "d/accuracy_fake": _share(self.trainer, None, "fake")}
        finally:
            D.train()


@torch.no_grad()
def _share(trainer: Trainer, dataset: Dataset | None, kind: str) -> float:
    nets, device, size = trainer.nets, trainer.device, trainer.micro_batch
    count = MOST if dataset is None else min(MOST, len(dataset))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(derive("accuracy", kind))) if dataset is not None else None
    judged = torch.zeros((), device=device)
    for start in range(0, count, size):
        n = min(size, count - start)
        rng = trainer._rng("accuracy", kind, start, batch=n, slots=range(n))
        if dataset is None:
            z, c = nets.latents(n, rng.fork("latents"))
            made = nets.generate(z, c, rng=rng.fork("G"))
            score = nets.judge(made.image, c, extra=made.extra, rng=rng.fork("D")).score
        else:
            x, c = dataset.batch(order[start:start + n], None, device)
            score = nets.judge(x, c if nets.D.num_classes else None, rng=rng.fork("D")).score
        judged += score.gt(0).sum()
    return float(judged) / count
