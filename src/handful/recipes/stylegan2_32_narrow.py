"""StyleGAN2-ADA at 32 pixels, narrow: for machines without a GPU.

1.6 GFLOP per image of a whole cycle, lazy terms by their share and without augmentation, against 99 of cifar.
As in cifar, no path length and no style mixing.
"""

from __future__ import annotations

from typing import Any

from ._stylegan2 import narrow


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    return narrow(resolution or 32, kimg=200, channels=64, path_length=False, asked_batch=batch)
