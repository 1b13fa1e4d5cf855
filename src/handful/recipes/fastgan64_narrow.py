"""FastGAN at 64 pixels, narrow: for machines without a GPU."""

from __future__ import annotations

from typing import Any

from ._narrow import narrow


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    return narrow(resolution or 64, kimg=100, ngf=16, ndf=16)
