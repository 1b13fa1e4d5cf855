"""BigGAN on ImageNet at 128 pixels as DiffAugment trains it in compare_gan: batch 2048, two D steps, 250k iterations on a TPU pod.

With the policy translation; the rows without it are --set augment=none. D's last block has no skip connection; batch norm
spans all processes; standing statistics.
Deviations: the release keeps images in [0, 1], so that what translation leaves empty is black rather than mid-grey; it cuts squares of a random
size from the centre, here the largest is taken; its subsets are the first records, here they are drawn by the seed.
"""

from __future__ import annotations

from typing import Any

from . import _diffaugment
from ._biggan import biggan

TARGETS = _diffaugment.imagenet()


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    return biggan(resolution or 128, iterations=250_000, batch=2048, d_steps=2, lr=(1e-4, 4e-4), policy="translation", ema_start=40_000,
                  evaluate_every=2000, samples=50_000, statistics="standing", g={"sync_batch_norm": True},
                  d={"skip_equal": False})
