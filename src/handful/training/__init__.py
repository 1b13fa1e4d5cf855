"""The trainer and everything around it; `handful.train` is `handful.training.train`."""

from __future__ import annotations

from .run import train
from .session import Run

__all__ = ["Run", "train"]
