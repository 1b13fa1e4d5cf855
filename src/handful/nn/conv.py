"""Convolutions without bias, weights drawn from N(0, std^2) and spectrally normalised by default."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.upconv import upconv
from .spectral import Norm, Spectral

DCGAN_STD = 0.02        # Radford et al. 2016, section 4


class Conv2d(Spectral):
    """[B,cin,H,W] -> [B,cout,H',W']."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, padding: int = 0, *, norm: Norm = "spectral",
                 std: float = DCGAN_STD) -> None:
        super().__init__(torch.empty(cout, cin, kernel, kernel).normal_(0, std), norm)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.scaled(x)
        return F.conv2d(x, weight, None, self.stride, self.padding)


class UpConv2d(Spectral):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution with padding 1: [B,cin,H,W] -> [B,cout,2H,2W]. One operator."""

    def __init__(self, cin: int, cout: int, *, norm: Norm = "spectral", std: float = DCGAN_STD) -> None:
        super().__init__(torch.empty(cout, cin, 3, 3).normal_(0, std), norm)

    def forward(self, x: Tensor) -> Tensor:
        return upconv(*self.scaled(x))


class ToMap(Spectral):
    """A transposed convolution of a 1x1 map, which is one matrix product: [B,cin] -> [B,cout,side,side]. weight [cin,cout,side,side]."""

    def __init__(self, cin: int, cout: int, side: int = 4, *, norm: Norm = "spectral", std: float = DCGAN_STD) -> None:
        super().__init__(torch.empty(cin, cout, side, side).normal_(0, std), norm, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.scaled(x)
        return (x @ weight.flatten(1)).view(-1, *weight.shape[1:])      # [B, cout*side*side] -> [B,cout,side,side]


class ToVector(Spectral):
    """A convolution without padding over a whole map, which is one matrix product: [B,cin,side,side] -> [B,cout]."""

    def __init__(self, cin: int, cout: int, side: int = 1, *, norm: Norm = "spectral", std: float = DCGAN_STD) -> None:
        super().__init__(torch.empty(cout, cin, side, side).normal_(0, std), norm)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.scaled(x.flatten(1))
        return F.linear(x, weight.flatten(1))


class Embedding(Spectral):
    """One learned vector per class: int64 [B] -> [B,channels]."""

    def __init__(self, classes: int, channels: int, *, norm: Norm = "spectral", std: float = 1.0) -> None:
        super().__init__(torch.empty(classes, channels).normal_(0, std), norm)

    def forward(self, c: Tensor) -> Tensor:
        weight = self.weight if self.u is None else self.weight / self.sigma()
        return F.embedding(c, weight)
