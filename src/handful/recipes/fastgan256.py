"""FastGAN at 256 pixels as published: 50k iterations of 8 images."""

from __future__ import annotations

from typing import Any

from ._fastgan import cost_targets, fastgan, targets

COST = "5 h on an RTX 2080 Ti (1 h and 6.5 GB per 10k iterations of 8)"
TARGETS = targets("fastgan/2", {"AnimalFace-dog 389": 50.66, "AnimalFace-cat 160": 35.11, "100-shot-obama": 41.05, "100-shot-panda": 10.03,
                                "100-shot-grumpy-cat": 26.65}, COST) + cost_targets("256x256", 1.0, 6.5)


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    return fastgan(resolution or 256, kimg=400)
