"""Skip-layer excitation (FastGAN, section 3.1, eq. 1): a low-resolution map gates the channels of a high-resolution one."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv import DCGAN_STD, Init, ToVector
from .spectral import Norm

Activation = Literal["swish", "leaky_relu"]


class SkipExcite(nn.Module):
    """y = x_high * sigmoid(conv1x1(act(conv4x4(pool4x4(x_low))))): x_low [B,low,h,w], x_high [B,high,H,W] -> [B,high,H,W].

    activation: "swish" as released, "leaky_relu" (slope 0.2) as in the paper. init: of the weights.
    """

    def __init__(self, low: int, high: int, *, activation: Activation = "swish", norm: Norm = "spectral",
                 init: Init = DCGAN_STD) -> None:
        super().__init__()
        self.activation = activation
        self.squeeze = ToVector(low, high, 4, norm=norm, init=init)
        self.excite = ToVector(high, high, 1, norm=norm, init=init)

    def gate(self, low: Tensor) -> Tensor:
        """The factors in (0, 1): [B,low,h,w] -> [B,high]."""
        s = self.squeeze(pool_to(low, 4))
        s = F.silu(s) if self.activation == "swish" else F.leaky_relu(s, 0.2)
        return torch.sigmoid(self.excite(s))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return high * self.gate(low)[:, :, None, None]


def pool_to(x: Tensor, side: int) -> Tensor:
    """Average pooling of [B,C,H,W] to [B,C,side,side]."""
    h, w = x.shape[2:]
    if (h, w) == (side, side):
        return x
    if h % side or w % side:
        return F.adaptive_avg_pool2d(x, side)
    return F.avg_pool2d(x, (h // side, w // side))
