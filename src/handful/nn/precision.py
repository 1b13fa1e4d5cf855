"""For networks that choose their own precision layer by layer: they look at the autocast that was set outside, switch it off, and cast themselves."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def half_type(x: Tensor) -> torch.dtype | None:
    """The dtype of the autocast in force on x's device, None where there is none."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def no_autocast(x: Tensor) -> AbstractContextManager:
    """Within, every operator on x's device runs in the dtype of its operands."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def clamped(x: Tensor, limit: float | None) -> Tensor:
    """x within [-limit, limit]; None: as it is."""
    return x if limit is None else x.clamp(-limit, limit)
