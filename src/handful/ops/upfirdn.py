"""FIR resampling: insert zeros, pad, filter every channel, keep every d-th sample (StyleGAN2's `upfirdn2d`, Karras et al. 2020).

Taps are plain numbers, so that an operator may be specialised to them. The filter is separable: the same taps along both axes, each divided by
their sum; the convolution is a true one (the taps turned round) unless `flip`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

BINOMIAL = (1.0, 3.0, 3.0, 1.0)         # StyleGAN2's resampling filter
Impl = Literal["auto", "fast", "ref"]


def upfirdn2d(x: Tensor, taps: Sequence[float], up: int = 1, down: int = 1, padding: tuple[int, int, int, int] = (0, 0, 0, 0), gain: float = 1.0,
              flip: bool = False, impl: Impl = "auto") -> Tensor:
    """x [B,C,H,W] -> [B,C,H',W'] with H' = ceil((up H + top + bottom - T + 1) / down).

    taps: T numbers, normalised here to sum 1; up: zeros are inserted after every sample; padding (left, right, top, bottom), after that,
    negative crops; gain multiplies the result; flip: correlation instead of convolution. Runs in x's dtype. impl: "ref" is this text, literally.
    """
    b, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(b, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(b, c, h * up, w * up)
    left, right, top, bottom = padding
    x = F.pad(x, (left, right, top, bottom))
    f = x.new_tensor(list(taps), dtype=torch.float64)
    f = (f / f.sum() * gain ** 0.5).to(x.dtype)
    f = f if flip else f.flip(0)
    for shape in ((1, 1, 1, -1), (1, 1, -1, 1)):
        x = F.conv2d(x, f.view(shape).expand(c, 1, *f.view(shape).shape[2:]), groups=c)
    return x[:, :, ::down, ::down]


def upsample2d(x: Tensor, taps: Sequence[float] = BINOMIAL, *, impl: Impl = "auto") -> Tensor:
    """[B,C,H,W] -> [B,C,2H,2W], gain 4 (the mean stays)."""
    t = len(taps)
    before, after = (t + 1) // 2, (t - 2) // 2
    return upfirdn2d(x, taps, up=2, padding=(before, after, before, after), gain=4.0, impl=impl)


def downsample2d(x: Tensor, taps: Sequence[float] = BINOMIAL, *, impl: Impl = "auto") -> Tensor:
    """[B,C,H,W] -> [B,C,H/2,W/2]."""
    t = len(taps)
    before, after = (t - 1) // 2, (t - 2) // 2
    return upfirdn2d(x, taps, down=2, padding=(before, after, before, after), impl=impl)
