"""FastGAN at 1024 pixels as published: 50k iterations of 8 images.

`recipes/_fastgan.py` lists where the paper, its release and this differ, and what its tables' rows are.
"""

from __future__ import annotations

from typing import Any

from . import _fastgan

TARGETS = tuple(_fastgan.at_1024())


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    return _fastgan.fastgan(resolution or 1024, kimg=400)
