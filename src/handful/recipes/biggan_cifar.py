"""BigGAN on CIFAR-10 and CIFAR-100 at 32 pixels as DiffAugment trains it: batch 50, four D steps, 250k iterations.

With the policy translation and cutout; the rows without it are --set augment=none. G is averaged from iteration 1000 on; D sees
fakes and reals in one pass; samples are scored with the statistics of their own batch. The release averages batch norm's statistics
too, which that never uses; here people's samples have statistics measured on the averaged generator (--set ema.buffers=ema: averaged).
"""

from __future__ import annotations

from typing import Any

from . import _diffaugment, _diggan
from ._biggan import biggan

TARGETS = (*_diffaugment.biggan_cifar(), *_diggan.biggan_cifar())


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    return biggan(resolution or 32, iterations=250_000, batch=50, d_steps=4, lr=(2e-4, 2e-4), policy="translation,cutout", ema_start=1000,
                  evaluate_every=4000, samples=10_000, joint=True)
