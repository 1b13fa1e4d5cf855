"""InsGen at 256 pixels: StyleGAN2-ADA's paper256 with instance discrimination, mirrored reals and the published settings for few images.

R1 of 0.5 and 10,000 kimg are those of 2000 images of FFHQ. For 10,000 images: --set terms.r1.gamma=0.3, from 10,000 on --kimg 25000; for all of
FFHQ --set terms.r1.gamma=0.8. `recipes/_insgen.py` tells what the paper leaves open, and how p may rise along a straight line.
"""

from __future__ import annotations

from typing import Any

from . import _insgen, paper256

TARGETS = tuple(_insgen.insgen256())


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    return _insgen.insgen(paper256.recipe(resolution, batch))
