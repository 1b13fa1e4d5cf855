"""Layers with an equalised learning rate (Karras et al. 2018, section 4.1): unit-variance weights, multiplied by a constant at run time.

    y = gain * act(lr / sqrt(fan_in) * W x + lr * b)         act: leaky ReLU of slope 0.2 with gain sqrt(2), or none

Leaky ReLU is positively homogeneous, so all constants are multiplied into the smaller of weight and input, and into the bias, and the result
is touched by nothing but the activation. The layers compute in the dtype of their input; parameters stay as they are.

`before_bias` is where a method that must live inside a network comes in (nn/between.py).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.conv import conv2d, conv2d_down, conv2d_up
from .between import Change, beneath
from .spectral import Norm, largest_singular_value, singular_vectors

SLOPE = 0.2
SPECTRAL_EPS = 1e-8     # StyleGAN2-ADA's TensorFlow release, among the methods that its paper compares with


class EqualLinear(nn.Module):
    """[B,cin] -> [B,cout]. lr: learning-rate multiplier (the stored weight is N(0, 1/lr^2)); bias: its initial value; lrelu: with activation."""

    def __init__(self, cin: int, cout: int, *, lr: float = 1.0, bias: float = 0.0, lrelu: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(cout, cin) / lr)
        self.bias = nn.Parameter(torch.full((cout,), float(bias)))
        self.lrelu = lrelu
        self.bias_gain = lr * (math.sqrt(2) if lrelu else 1.0)
        self.gain = self.bias_gain / math.sqrt(cin)
        self.before_bias: Change | None = None

    def forward(self, x: Tensor) -> Tensor:
        bias = (self.bias * self.bias_gain).to(x.dtype)
        y = F.linear(x * self.gain, self.weight.to(x.dtype), bias)
        if self.before_bias is not None:
            y = beneath(y, bias, self.before_bias, self.bias_gain)
        return F.leaky_relu_(y, SLOPE) if self.lrelu else y

    def row(self, c: Tensor) -> Tensor:
        """`forward` of one-hot vectors: int64 [B] -> [B,cout]. Without activation."""
        return F.embedding(c, self.weight.t()) * self.gain + self.bias * self.bias_gain

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


class EqualConv2d(nn.Module):
    """[B,cin,H,W] -> [B,cout,H',W'], kernel k x k, padding k // 2.

    resample: "up" or "down" by 2 with the filter [1,3,3,1] (ops/conv.py); lrelu: with bias and activation, else with neither; gain: a further factor.
    norm="spectral": the equalised weight is divided by its largest singular value (nn/spectral.py), in which the constant cancels; buffers u and v.
    """

    def __init__(self, cin: int, cout: int, kernel: int, *, resample: str | None = None, lrelu: bool = True, gain: float = 1.0,
                 norm: Norm = "none") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(cout, cin, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(cout)) if lrelu else None
        self.resample, self.operator = resample, {None: conv2d, "up": conv2d_up, "down": conv2d_down}[resample]
        self.bias_gain = gain * (math.sqrt(2) if lrelu else 1.0)
        self.gain = self.bias_gain / math.sqrt(cin * kernel * kernel)
        u, v = singular_vectors(self.weight, eps=SPECTRAL_EPS) if norm == "spectral" else (None, None)
        self.register_buffer("u", u)
        self.register_buffer("v", v)
        self.before_bias: Change | None = None

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain if self.u is None else self.bias_gain / self.sigma()
        if x.numel() < self.weight.numel():
            x, weight = x * gain, self.weight.to(x.dtype)
        else:
            weight = (self.weight * gain).to(x.dtype)
        bias = None if self.bias is None else (self.bias * self.bias_gain).to(x.dtype)
        y = self.operator(x, weight)
        if self.before_bias is not None:
            y = self.before_bias(y, self.bias_gain)
        return y if bias is None else F.leaky_relu_(y.add_(bias[:, None, None]), SLOPE)

    def sigma(self) -> Tensor:
        """The largest singular value of `weight`, a scalar with gradient; after one power iteration in training mode."""
        return largest_singular_value(self.weight, self.u, self.v, self.training, eps=SPECTRAL_EPS)

    def extra_repr(self) -> str:
        return f"{'x'.join(map(str, self.weight.shape))}{', ' + self.resample if self.resample else ''}"
