"""Random horizontal flips of what the discriminator sees, reals and fakes alike.

Not the flips of the data set (`data.flip`), which touch reals alone and which every paper here uses: as an augmentation, G need not learn the
mirrored pictures. Zhao, Zhang, Chen, Singh, Zhang: Image Augmentations for GAN Training, 2020, compares both. Adds nothing to the loss.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from handful.errors import UsageError
from handful.rng import Rng
from handful.seam import Augment, Augmented


class Flip(Augment):
    """Flips each image [B,C,H,W] left to right with the given probability; params: flip, bool [B]. Further scales flip by draws of their own."""

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise UsageError(f"flip probability={probability}: give a number from 0 to 1")
        self.probability = probability

    def draw(self, x: Tensor, rng: Rng, extra: Mapping[str, Tensor] | None = None) -> Augmented:
        params = {"flip": rng.rand(len(x)) < self.probability}
        params |= {f"{name}.flip": rng.fork(name).rand(len(x)) < self.probability for name in extra or {}}
        scales = {name: self.transform(image, params[f"{name}.flip"]) for name, image in (extra or {}).items()}
        return Augmented(self.transform(x, params["flip"]), scales, params)

    def transform(self, x: Tensor, flip: Tensor) -> Tensor:
        """x with the images flipped where flip, bool [B]."""
        return torch.where(flip[:, None, None, None], x.flip(3), x)
