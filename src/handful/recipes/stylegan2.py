"""StyleGAN2's config F as published, with ADA on top as in the release: 1024 pixels, the setting of 8 GPUs."""

from __future__ import annotations

from typing import Any

from . import _insgen
from ._stylegan2 import BEST_FID, CONFIG_F, FIG_19, cells, ffhq, small_sets, stylegan2

FIG_18 = {"2k": (66.77, 0.002), "5k": (39.42, 0.030), "30k": (8.80, 0.283), "140k": (3.81, 0.452)}
TARGETS = tuple(small_sets("config F", {"MetFaces (1336)": (57.26, 35.66, None), "BreCaHAD (1944)": (97.72, 89.76, 0.027),
                                        "AFHQ Cat (5153)": (5.13, 1.54, 0.215), "AFHQ Dog (4739)": (19.37, 9.62, 0.196),
                                        "AFHQ Wild (4738)": (3.48, 0.77, 0.143)}, CONFIG_F))
TARGETS += tuple(t for size, (fid, recall) in FIG_18.items()
                 for t in cells("18", "config F", f"FFHQ 256x256, {size}", BEST_FID, FIG_19, (*CONFIG_F, *ffhq(size)),
                                FID=fid, recall=recall))
TARGETS += tuple(_insgen.afhq("StyleGAN2", *CONFIG_F, cost=_insgen.QUOTED))


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    return stylegan2(resolution or 1024, kimg=25000, batch=32, micro_batch=4, fmaps=1.0, lr=0.002,
                     gamma=10.0, ema_kimg=10.0, asked_batch=batch)
