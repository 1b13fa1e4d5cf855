"""Adversarial losses, one per file: two pure functions of logits."""

from handful._lazy import lazy

__getattr__, __dir__ = lazy("losses")
