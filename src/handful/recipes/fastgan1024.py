"""FastGAN at 1024 pixels as published: 50k iterations of 8 images."""

from __future__ import annotations

from typing import Any

from ._fastgan import cost_targets, fastgan, targets

COST = "8 h on one RTX TITAN (1.7 h and 10 GB per 10k iterations of 8 on an RTX 2080 Ti)"
TARGETS = targets("fastgan/3", {"Art 1000": 45.08, "FFHQ 1000": 24.45, "Flower 1000": 25.66, "Pokemon 800": 57.19, "Anime 120": 59.38,
                                "Skull 100": 130.05, "Shell 60": 155.47}, COST) + cost_targets("1024x1024", 1.7, 10.0)


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    return fastgan(resolution or 1024, kimg=400)
