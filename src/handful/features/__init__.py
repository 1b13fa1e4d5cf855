"""Pretrained feature networks and their weights. This room stands on the ground: it imports `handful.errors` and third parties only."""

from __future__ import annotations

from handful.features.weights import available

__all__ = ["LPIPS", "available"]


def __getattr__(name: str):
    if name == "LPIPS":  # torch is imported when a network is wanted, not when weights are listed
        from handful.features.lpips import LPIPS

        return LPIPS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
