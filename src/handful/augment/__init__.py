"""Augmentations of what the discriminator sees, one per file."""

from handful._lazy import lazy

__getattr__, __dir__ = lazy("augment")
