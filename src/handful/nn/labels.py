"""The classes of images, as networks take them."""

from __future__ import annotations

from torch import Tensor

from handful.errors import UsageError


def needed(c: Tensor | None, num_classes: int) -> Tensor:
    """c, int64 [B]. Raises UsageError where it is None."""
    if c is None:
        raise UsageError(f"this network was built with num_classes={num_classes}: it needs the classes c of its images")
    return c
