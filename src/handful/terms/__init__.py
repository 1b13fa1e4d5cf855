"""Regularisers, auxiliary tasks and controllers, one per file."""

from handful._lazy import lazy

__getattr__, __dir__ = lazy("terms")
