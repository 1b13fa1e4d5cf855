"""The demonstration: smileys at 64 pixels within minutes on two CPU cores."""

from __future__ import annotations

from typing import Any

from ._narrow import narrow


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    return narrow(resolution or 64, kimg=24, ngf=8, ndf=8) | {
        "every": {"log_kimg": 0.32, "preview_kimg": 2, "checkpoint_kimg": 10, "preview_images": 48}}
