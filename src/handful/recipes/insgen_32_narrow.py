"""InsGen at 32 pixels, narrow: stylegan2_32_narrow with instance discrimination, for machines without a GPU."""

from __future__ import annotations

from typing import Any

from . import stylegan2_32_narrow


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    tree = stylegan2_32_narrow.recipe(resolution, batch)
    tree["terms"]["insgen"] = {"use": "insgen"}
    return tree
