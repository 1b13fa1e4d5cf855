"""FastGAN at 512 pixels: the released networks; the paper gives no figures at this size."""

from __future__ import annotations

from typing import Any

from ._fastgan import fastgan


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    return fastgan(resolution or 512, kimg=400)
