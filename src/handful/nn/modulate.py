"""Modulated convolution (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 2.2), never per sample.

    y = d * conv(s * x, W),   d_o = 1 / sqrt(sum_i,k (s_i W_oik)^2 + 1e-8),   out = sqrt(2) * lrelu(y + strength * noise + b)

d > 0 and leaky ReLU is positively homogeneous, so that with m = 1/d

    out = sqrt(2) d * lrelu(conv(s * x, W) + m (strength * noise + b))

and the factor sqrt(2) d, one number per sample and channel, need not touch the map: it is handed on beside it and multiplied into the
next layer's style. `x` below thus stands for x * scale, scale [B,C] or None (1). sum_k W^2 is shared by the batch, so d is one small matrix product.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.conv import conv2d, conv2d_up
from .equalized import SLOPE, EqualLinear
from .precision import clamped

EPS = 1e-8


class ModulatedConv(nn.Module):
    """Style, 3x3 convolution (after doubling the side: up), noise, bias, leaky ReLU: [B,cin,H,W] -> [B,cout,side,side].

    Parameters weight [cout,cin,3,3], bias, noise_strength [], affine (w -> style, bias 1 at first); buffer noise_const [side,side].
    gain: a further factor on the result.
    """

    def __init__(self, cin: int, cout: int, w_dim: int, side: int, *, up: bool = False, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(cout, cin, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(cout))
        self.affine = EqualLinear(w_dim, cin, bias=1.0)
        self.register_buffer("noise_const", torch.randn(side, side))
        self.up, self.gain = up, gain

    def forward(self, x: Tensor, scale: Tensor | None, w: Tensor, noise: Tensor | None, limit: float | None = None) -> tuple[Tensor, Tensor | None]:
        """x [B or 1,cin,H,W], scale [B,cin] or None, w [B,w_dim], noise [B,1,side,side], [side,side] or None -> the result and its scale.

        Computes in x's dtype, styles and demodulation in that of the parameters. limit: the result is clamped to +-limit * gain (then it has
        no scale).
        """
        style, weight = self.affine(w), self.weight
        if x.dtype == torch.float16:
            weight, style = guarded(weight, style)
        size = demodulation(weight, style).reciprocal()                                     # [B,cout]
        style = style if scale is None else style * scale
        x = x * style.to(x.dtype)[:, :, None, None]
        y = (conv2d_up if self.up else conv2d)(x, weight.to(x.dtype))
        if noise is not None:
            y = y.addcmul_(noise.to(x.dtype), (size * self.noise_strength).to(x.dtype)[:, :, None, None])
        y = y.add_((size * self.bias).to(x.dtype)[:, :, None, None])
        y = F.leaky_relu_(y, SLOPE)
        scale = self.gain * math.sqrt(2) / size
        if limit is None:
            return y, scale
        return clamped(y * scale.to(y.dtype)[:, :, None, None], limit * self.gain), None

    def extra_repr(self) -> str:
        return f"{'x'.join(map(str, self.weight.shape))}{', up' if self.up else ''}"


class ToRGB(nn.Module):
    """A modulated 1x1 convolution without demodulation, plus bias: [B,C,H,W] -> [B,channels,H,W]. One small matrix per sample."""

    def __init__(self, cin: int, channels: int, w_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, cin, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.affine = EqualLinear(w_dim, cin, bias=1.0)

    def forward(self, x: Tensor, scale: Tensor | None, w: Tensor, limit: float | None = None) -> Tensor:
        """As in `ModulatedConv`; the result has the dtype of the parameters."""
        style = self.affine(w) / math.sqrt(self.weight.shape[1])
        style = style if scale is None else style * scale
        weight = (self.weight.flatten(1) * style[:, None]).to(x.dtype)                      # [B,channels,C]
        y = torch.baddbmm(self.bias.to(x.dtype)[:, None], weight, x.flatten(2))             # [B,channels,HW]
        return clamped(y, limit).to(self.weight.dtype).unflatten(2, x.shape[2:])


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """d [B,O] of weight [O,I,k,k] and style [B,I]: gives outputs unit variance where inputs are independent and have unit variance."""
    return (style.square() @ weight.square().sum((2, 3)).t() + EPS).rsqrt()


def guarded(weight: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and style in a range that fp16 can hold; demodulation undoes the factors (each output channel of the one, each sample of the other)."""
    fan_in = weight[0].numel()
    return (weight / (math.sqrt(fan_in) * weight.abs().amax((1, 2, 3), keepdim=True)), style / style.abs().amax(1, keepdim=True))
