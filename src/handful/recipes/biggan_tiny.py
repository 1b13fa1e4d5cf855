"""BigGAN on Tiny-ImageNet at 64 pixels as in DigGAN's StudioGAN part: batch 1024 in two halves, one D step, 100k iterations.

With DiffAugment's colour, translation and cutout; the rows without it are --set augment=none. D's shortcuts see relu(x), as its ReLU in place made
them (--set d.skip=plain: the textbook's). The release trained in mixed precision, batch norm of 128 images, a GPU's share; here of the 512.
"""

from __future__ import annotations

from typing import Any

from . import _diggan
from ._biggan import biggan

TARGETS = _diggan.studiogan("Tiny")


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    return biggan(resolution or 64, iterations=100_000, batch=1024, micro_batch=512 if batch is None else None, d_steps=1, lr=(1e-4, 4e-4),
                  eps=1e-6, policy="color,translation,cutout", ema_start=20_000, evaluate_every=2000, samples=10_000)
