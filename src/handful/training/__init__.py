"""The trainer and everything around it; `handful.train` is `handful.training.train`."""

from __future__ import annotations

from .run import Run, train

__all__ = ["Run", "train"]
