"""FastGAN's upsampling stage, which its generator and its decoders share: upsampled convolution, batch norm, gated linear unit."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .conv import UpConv2d
from .norm import BatchNorm2d
from .spectral import Norm


class UpBlock(nn.Module):
    """[B,cin,H,W] -> [B,cout,2H,2W]: nearest upsampling and conv3x3 to 2 cout channels, batch norm, GLU (a * sigmoid(b) of the two halves)."""

    def __init__(self, cin: int, cout: int, *, norm: Norm = "spectral", sync: bool = False, track: bool = True) -> None:
        super().__init__()
        self.conv = UpConv2d(cin, 2 * cout, norm=norm)
        self.bn = BatchNorm2d(2 * cout, sync=sync, track=track)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.bn(self.conv(x)), 1)
