"""InsGen at 512 pixels, for AFHQ: StyleGAN2-ADA's paper512 with instance discrimination, mirrored reals, 10,000 kimg.

R1, mirroring and length are not stated for AFHQ: R1 of 0.5 as in paper512 (the authors recommend less than ADA's), the length that the paper gives
to sets of less than 10,000 images.
"""

from __future__ import annotations

from typing import Any

from . import _insgen, paper512

TARGETS = tuple(_insgen.afhq("InsGen"))


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    return _insgen.insgen(paper512.recipe(resolution, batch))
