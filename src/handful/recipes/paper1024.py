"""StyleGAN2-ADA's setting for 1024 pixels: MetFaces, the setting of 8 GPUs."""

from __future__ import annotations

from typing import Any

from ._stylegan2 import small_sets, stylegan2

TARGETS = tuple(small_sets("ADA", {"MetFaces (1336)": (18.22, 2.41, None)}, ()))


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    return stylegan2(resolution or 1024, kimg=25000, batch=32, micro_batch=4, fmaps=1.0, lr=0.002,
                     gamma=2.0, ema_kimg=10.0, asked_batch=batch)
