"""Batch normalisation whose scale and shift come from a class or from a vector (Dumoulin et al. 2017; de Vries et al. 2017; BigGAN)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .conv import DCGAN_STD, Embedding, Init, Linear
from .norm import BatchNorm2d
from .spectral import EPS, Iterates, Norm

Gain = Literal["one_plus", "bare"]


class ConditionalBatchNorm2d(nn.Module):
    """y = x^ (1 + gain) + shift, x^ the batch-normalised map: x [B,C,H,W] and its condition -> [B,C,H,W].

    classes > 0: the condition is int64 [B], gain and shift are tables with a row per class (never spectrally normalised), from `init`;
    vector > 0: the condition is [B,vector], gain and shift are linear maps of it without bias (norm, init, sn_eps, sn_iterates are theirs);
    neither: plain batch norm with a learned scale, 1 at first, and shift, whatever the condition. vector goes before classes.
    gain="bare": y = x^ gain + shift (compare_gan), so that at the start about half of the scales are negative.
    """

    def __init__(self, channels: int, *, classes: int = 0, vector: int = 0, eps: float = 1e-5, sync: bool = False, norm: Norm = "spectral",
                 init: Init = DCGAN_STD, sn_eps: float = EPS, sn_iterates: Iterates = "training", gain: Gain = "one_plus") -> None:
        super().__init__()
        self.bare = gain == "bare"
        self.norm = BatchNorm2d(channels, sync=sync, std=0.0, eps=eps, affine=not (classes or vector))
        self.gain = self.shift = None
        if vector:
            self.gain, self.shift = (Linear(vector, channels, norm=norm, init=init, eps=sn_eps, iterates=sn_iterates) for _ in range(2))
        elif classes:
            self.gain, self.shift = (Embedding(classes, channels, norm="none", init=init) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        if self.gain is None:
            return y
        gain, shift = self.gain(condition), self.shift(condition).to(y.dtype)                             # [B,C]
        gain = (gain if self.bare else 1 + gain).to(y.dtype)
        return torch.addcmul(shift[:, :, None, None], y, gain[:, :, None, None])
