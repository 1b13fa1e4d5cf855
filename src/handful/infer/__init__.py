"""Using what was trained: a model from whatever file it lies in, pictures from it."""

from .model import Model, load

__all__ = ["Model", "load"]
