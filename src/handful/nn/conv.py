"""Linear layers and convolutions: without bias, weights drawn from N(0, 0.02^2) and spectrally normalised by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.conv import conv2d
from ..ops.poolconv import poolconv
from ..ops.upconv import upconv
from ..ops.zeroconv import zeroconv
from .spectral import EPS, Bias, Iterates, Norm, Spectral

DCGAN_STD = 0.02        # Radford et al. 2016, section 4
TRUNCATED = 0.87962566  # standard deviation of a standard normal variable that is truncated at -2 and 2
Init = float | Callable[[Tensor], object]      # weights from N(0, init^2), or what fills them in place (nn.init.orthogonal_)


def glorot(weight: Tensor) -> Tensor:
    """Glorot and Bengio's rule for a matrix [outputs, inputs] as TensorFlow has it: normal, truncated at two standard deviations, of the variance
    2 / (inputs + outputs) afterwards."""
    std = (2 / sum(weight.shape)) ** 0.5 / TRUNCATED
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def fan_in(weight: Tensor) -> Tensor:
    """torch's own rule for convolutions and linear maps: U[-b, b], b = 1/sqrt(inputs x kernel)."""
    return nn.init.kaiming_uniform_(weight, 5**0.5)


def weights(init: Init, *shape: int) -> Tensor:
    """A new weight of this shape. Convolutions are [outputs, inputs, k, k]; `nn.init` takes them as matrices [outputs, inputs k k]."""
    weight = torch.empty(*shape)
    if callable(init):
        init(weight)
        return weight
    return weight.normal_(0, init)


class Conv2d(Spectral):
    """[B,cin,H,W] -> [B,cout,H',W']. groups: into which the channels are split; cin of them: each channel is filtered by itself."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, padding: int = 0, *, groups: int = 1, norm: Norm = "spectral",
                 init: Init = DCGAN_STD, bias: Bias = "none", eps: float = EPS, iterates: Iterates = "training") -> None:
        super().__init__(weights(init, cout, cin // groups, kernel, kernel), norm, eps=eps, bias=bias, iterates=iterates)
        self.stride, self.padding, self.groups = stride, padding, groups

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.scaled(x)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, groups=self.groups)


class Conv3x3(Spectral):
    """3x3, padding 1: [B,cin,H,W] -> [B,cout,H',W'], by the fastest operator there is.

    resample: "up" nearest-neighbour upsampling by 2 before it, "down" 2x2 average pooling after it; each is one operator with it.
    """

    def __init__(self, cin: int, cout: int, *, resample: Literal["up", "down"] | None = None, norm: Norm = "spectral",
                 init: Init = DCGAN_STD, bias: Bias = "none", eps: float = EPS, iterates: Iterates = "training") -> None:
        super().__init__(weights(init, cout, cin, 3, 3), norm, eps=eps, bias=bias, iterates=iterates)
        self.operator = {None: conv2d, "up": upconv, "down": poolconv}[resample]

    def forward(self, x: Tensor) -> Tensor:
        y = self.operator(*self.scaled(x))
        return y if self.bias is None else y.add_(self.bias.to(y.dtype)[:, None, None])


class ZeroConv2d(Spectral):
    """Zeros between the pixels, then a convolution k x k, k 3 or 1, of padding k // 2: [B,cin,H,W] -> [B,cout,2H,2W]. One operator."""

    def __init__(self, cin: int, cout: int, kernel: int, *, norm: Norm = "spectral", init: Init = DCGAN_STD, bias: Bias = "none",
                 eps: float = EPS, iterates: Iterates = "training") -> None:
        super().__init__(weights(init, cout, cin, kernel, kernel), norm, eps=eps, bias=bias, iterates=iterates)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.scaled(x)
        return zeroconv(x, weight, self.bias)


class Linear(Spectral):
    """[B,cin] -> [B,cout]."""

    def __init__(self, cin: int, cout: int, *, norm: Norm = "spectral", init: Init = DCGAN_STD, bias: Bias = "none", eps: float = EPS,
                 iterates: Iterates = "training") -> None:
        super().__init__(weights(init, cout, cin), norm, eps=eps, bias=bias, iterates=iterates)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.scaled(x)
        return F.linear(x, weight, self.bias)


class UpConv2d(Spectral):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution with padding 1: [B,cin,H,W] -> [B,cout,2H,2W]. One operator."""

    def __init__(self, cin: int, cout: int, *, norm: Norm = "spectral", init: Init = DCGAN_STD) -> None:
        super().__init__(weights(init, cout, cin, 3, 3), norm)

    def forward(self, x: Tensor) -> Tensor:
        return upconv(*self.scaled(x))


class ConvTranspose2d(Spectral):
    """The transposed convolution 4x4 of stride 2 and padding 1: [B,cin,H,W] -> [B,cout,2H,2W]. weight [cin,cout,4,4]."""

    def __init__(self, cin: int, cout: int, *, norm: Norm = "spectral", init: Init = DCGAN_STD, bias: Bias = "none", eps: float = EPS) -> None:
        super().__init__(weights(init, cin, cout, 4, 4), norm, dim=1, eps=eps, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.scaled(x)
        return F.conv_transpose2d(x, weight, self.bias, 2, 1)


class ToMap(Spectral):
    """A transposed convolution of a 1x1 map, which is one matrix product: [B,cin] -> [B,cout,side,side]. weight [cin,cout,side,side]."""

    def __init__(self, cin: int, cout: int, side: int = 4, *, norm: Norm = "spectral", init: Init = DCGAN_STD) -> None:
        super().__init__(weights(init, cin, cout, side, side), norm, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.scaled(x)
        return (x @ weight.flatten(1)).view(-1, *weight.shape[1:])      # [B, cout*side*side] -> [B,cout,side,side]


class ToVector(Spectral):
    """A convolution without padding over a whole map, which is one matrix product: [B,cin,side,side] -> [B,cout]."""

    def __init__(self, cin: int, cout: int, side: int = 1, *, norm: Norm = "spectral", init: Init = DCGAN_STD) -> None:
        super().__init__(weights(init, cout, cin, side, side), norm)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.scaled(x.flatten(1))
        return F.linear(x, weight.flatten(1))


class Embedding(Spectral):
    """One learned vector per class: int64 [B] -> [B,channels]."""

    def __init__(self, classes: int, channels: int, *, norm: Norm = "spectral", init: Init = 1.0, eps: float = EPS,
                 iterates: Iterates = "training") -> None:
        super().__init__(weights(init, classes, channels), norm, eps=eps, iterates=iterates)

    def forward(self, c: Tensor) -> Tensor:
        weight = self.weight if self.u is None else self.weight / self.sigma()
        return F.embedding(c, weight)
