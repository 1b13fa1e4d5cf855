"""Minibatch standard deviation (Karras et al. 2018, section 3; groups as in StyleGAN2): shows the discriminator how varied a batch is."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8


def minibatch_stddev(x: Tensor, group: int, channels: int = 1) -> Tensor:
    """x [B,C,H,W] -> [B,C+channels,H,W]: appends the standard deviation over groups of the batch, averaged over pixels and C/channels maps.

    A group consists of samples n, n + B/G, n + 2B/G ...; G is the largest divisor of B that is at most `group`, so that any batch has groups of
    equal size (the released code takes min(B, group) and fails where that does not divide B).
    """
    b, c, h, w = x.shape
    g = next(g for g in range(min(b, group), 0, -1) if b % g == 0)
    y = x.view(g, b // g, channels, c // channels, h, w)
    y = (y.var(0, correction=0) + EPS).sqrt().mean((2, 3, 4))                   # [B/G,channels]
    y = y.repeat(g, 1)[:, :, None, None].expand(b, channels, h, w)
    return torch.cat([x, y], 1)
