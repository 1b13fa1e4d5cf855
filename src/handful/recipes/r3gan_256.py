"""R3GAN on FFHQ at 256 pixels: batch 256, 150 million images, gamma 15.

What the numbers are and where this differs from the paper: recipes/_r3gan.py. The average of G has a half-life of 500 thousand images, p ends at 0.3.
FFHQ at 64 pixels: --res 64 with --set terms.r1.gamma=0.2 --set terms.r2.gamma=0.2. gamma depends on the pictures more than anything
else here: more where D runs away, less where pictures stay blurred.
"""

from __future__ import annotations

from typing import Any

from ._r3gan import fid, r3gan

COST = "150 million images on 8 GPUs"
TARGETS = (*fid("FFHQ 256x256", 2.75, COST),
           *fid("FFHQ 64x64", 1.95, COST, ("data.resolution=64", "terms.r1.gamma=0.2", "terms.r2.gamma=0.2")))


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    return r3gan(resolution or 256, kimg=150_000, batch=256, micro_batch=32, gamma=15.0, ema_kimg=500.0, p=0.3, asked_batch=batch)
