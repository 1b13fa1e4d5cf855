"""Pretrained feature networks and their weights. This room stands on the ground: it imports `handful.errors` and third parties only."""

from __future__ import annotations

from handful.features.weights import available

_CLASSES = {"LPIPS": "lpips", "Inception": "inception", "Extractor": "extractor"}

__all__ = [*_CLASSES, "available"]


def __getattr__(name: str):
    if name in _CLASSES:  # torch is imported when a network is wanted, not when weights are listed
        from importlib import import_module

        return getattr(import_module(f"handful.features.{_CLASSES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
