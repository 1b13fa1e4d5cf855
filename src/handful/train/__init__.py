"""The trainer. The package itself can be called: `handful.train("photos/")` trains, and is `handful.train.train`."""

from __future__ import annotations

import sys
import types

from .run import Run, train

__all__ = ["Run", "train"]


class _Callable(types.ModuleType):
    def __call__(self, *args, **kwargs) -> Run:
        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
