"""StyleGAN2-ADA's setting for 512 pixels: BreCaHAD and AFHQ, the setting of 8 GPUs."""

from __future__ import annotations

from typing import Any

from . import _insgen
from ._stylegan2 import small_sets, stylegan2

TARGETS = tuple(small_sets("ADA", {"BreCaHAD (1944)": (15.71, 2.88, 0.340), "AFHQ Cat (5153)": (3.55, 0.66, 0.430),
                                   "AFHQ Dog (4739)": (7.40, 1.16, 0.454), "AFHQ Wild (4738)": (3.05, 0.45, 0.147)}, ()))
TARGETS += tuple(_insgen.paper512())


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    return stylegan2(resolution or 512, kimg=25000, batch=64, micro_batch=8, fmaps=1.0, lr=0.0025,
                     gamma=0.5, ema_kimg=20.0, asked_batch=batch)
