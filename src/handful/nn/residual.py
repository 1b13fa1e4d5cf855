"""The residual blocks of SNGAN (Miyato et al. 2018) and BigGAN (Brock et al. 2019).

Resampling is moved where it costs least without changing the result: into the 3x3 convolutions; in the shortcuts, which are 1x1 convolutions
with nearest-neighbour upsampling or average pooling, the convolution works on the smaller map (they commute).

Two releases differ from the textbook. StudioGAN's discriminator, as DigGAN ran it, activates in place, so that a shortcut sees relu(x) where the
block begins with a ReLU (skip="rectified"). compare_gan's generator, as DiffAugment ran it, puts zeros between the pixels instead of repeating them
(up="zeros"), before the 3x3 and before the shortcut, whose bias is then all that it has at three pixels of four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .conv import Conv2d, Conv3x3, ZeroConv2d

Up = Literal["nearest", "zeros"]
Skip = Literal["rectified", "plain"]


class GBlock(nn.Module):
    """[B,cin,H,W] (and the condition of its norms) -> [B,cout,2H,2W], or the same size with up=None.

    norm, ReLU, upsampling, conv3x3, norm, ReLU, conv3x3; plus the shortcut: conv1x1 and upsampling, the identity where nothing changes.
    norm_of(channels): a module called with (map, condition). up: what stands between the pixels. how: norm, init, bias, eps of the convolutions.
    """

    def __init__(self, cin: int, cout: int, norm_of: Callable[[int], nn.Module], *, up: Up | None = "nearest", **how: Any) -> None:
        super().__init__()
        self.repeats, zeros = up == "nearest", up == "zeros"
        self.norm1 = norm_of(cin)
        self.conv1 = ZeroConv2d(cin, cout, 3, **how) if zeros else Conv3x3(cin, cout, resample="up" if up else None, **how)
        self.norm2 = norm_of(cout)
        self.conv2 = Conv3x3(cout, cout, **how)
        self.shortcut = ZeroConv2d(cin, cout, 1, **how) if zeros else Conv2d(cin, cout, 1, **how) if up or cin != cout else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = self.conv1(F.relu_(self.norm1(x, condition)))
        h = self.conv2(F.relu_(self.norm2(h, condition)))
        s = x if self.shortcut is None else self.shortcut(x)
        return h.add_(F.interpolate(s, scale_factor=2, mode="nearest") if self.repeats else s)


class DBlock(nn.Module):
    """[B,cin,H,W] -> [B,cout,H/2,W/2] with down=True, else the same size.

    (ReLU,) conv3x3, ReLU, conv3x3 (, 2x2 average pooling); plus the shortcut: average pooling and conv1x1, the identity where nothing changes.
    preactivate: the first ReLU; a discriminator's first block has none. skip="rectified": the shortcut, an identity too, sees what this ReLU
    gives. skip_equal=False: no shortcut at all where cin == cout and nothing is pooled (compare_gan's BigGAN). how: norm, init, bias, eps of the
    convolutions.
    """

    def __init__(self, cin: int, cout: int, *, down: bool, preactivate: bool = True, skip_equal: bool = True, skip: Skip = "plain",
                 **how: Any) -> None:
        super().__init__()
        self.down, self.preactivate, self.rectified = down, preactivate, skip == "rectified"
        self.conv1 = Conv3x3(cin, cout, **how)
        self.conv2 = Conv3x3(cout, cout, resample="down" if down else None, **how)
        self.shortcut = Conv2d(cin, cout, 1, **how) if down or cin != cout else None
        self.skips = self.shortcut is not None or skip_equal

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(x) if self.preactivate else x
        x = h if self.rectified else x
        h = self.conv2(F.relu_(self.conv1(h)))
        if not self.skips:
            return h
        s = F.avg_pool2d(x, 2) if self.down else x
        return h.add_(s if self.shortcut is None else self.shortcut(s))
