"""No augmentation: the discriminator sees the images as they are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from handful.rng import Rng
from handful.seam import Augment, Augmented


class NoAugment(Augment):
    """The identity; draws nothing."""

    identity = True

    def draw(self, x: Tensor, rng: Rng, extra: Mapping[str, Tensor] | None = None) -> Augmented:
        return Augmented(x, extra or {})
