"""BigGAN on CUB-200 at 128 pixels as in DigGAN's StudioGAN part: batch 32, two D steps, 200k iterations.

With DiffAugment's colour, translation and cutout; the rows without it are --set augment=none. D's shortcuts see relu(x), as its ReLU in place made
them (--set d.skip=plain: the textbook's). The release trained in mixed precision, batch norm of 8 images, a GPU's share, here of the 32; it cut its
squares at random along the longer edge, here they are cut from the centre.
"""

from __future__ import annotations

from typing import Any

from . import _diggan
from ._biggan import biggan

TARGETS = _diggan.studiogan("CUB")


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    return biggan(resolution or 128, iterations=200_000, batch=32, d_steps=2, lr=(5e-5, 2e-4), eps=1e-6, policy="color,translation,cutout",
                  ema_start=4000, evaluate_every=2000, samples=None)
