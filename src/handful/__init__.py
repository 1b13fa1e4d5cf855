"""handful: train image GANs from a handful of pictures.

`import handful` is cheap: torch is imported by the first name that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["HandfulError", "Model", "Run", "UsageError", "__version__", "evaluate", "load", "neighbours",
           "train"]

_HOME = {"train": "handful.training", "Run": "handful.training", "load": "handful.infer", "Model": "handful.infer", "evaluate": "handful.metrics",
         "neighbours": "handful.metrics.nearest",
         "HandfulError": "handful.errors", "UsageError": "handful.errors"}

if TYPE_CHECKING:
    from .errors import HandfulError, UsageError
    from .infer import Model, load
    from .metrics import evaluate
    from .metrics.nearest import neighbours
    from .training import Run, train


def __getattr__(name: str):
    if name in _HOME:
        import importlib

        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'handful' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
