"""Self-attention over the pixels of a map (Zhang et al., SAGAN, 2019; in BigGAN's form: keys and values pooled to half the side)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv import Conv2d


class SelfAttention(nn.Module):
    """x + gain * out(softmax(query^T key) value): [B,C,H,W] -> the same. gain is learned, 0 at first.

    query, key, value, out: 1x1 convolutions without bias to C/8, C/8, C/2 and C channels; how: their norm, init, eps.
    Every step has a second derivative, so that a gradient penalty passes.
    """

    def __init__(self, channels: int, **how: Any) -> None:
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.query, self.key = Conv2d(channels, narrow, 1, **how), Conv2d(channels, narrow, 1, **how)
        self.value, self.out = Conv2d(channels, half, 1, **how), Conv2d(half, channels, 1, **how)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)                                        # [B,C/8,N], N = H W
        key = F.max_pool2d(self.key(x), 2).flatten(2)                           # [B,C/8,N/4]
        value = F.max_pool2d(self.value(x), 2).flatten(2)                       # [B,C/2,N/4]
        weights = (query.transpose(1, 2) @ key).softmax(2)                      # [B,N,N/4]
        seen = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])      # [B,C/2,H,W]
        return x + self.gain * self.out(seen)
