"""Convolutions with resampling as StyleGAN2 has them (Karras et al. 2020): plain, up by 2 and down by 2, each as one operator.

The resampling filter is [1,3,3,1] along both axes. No bias, no activation, no modulation: callers scale x, the weight or the result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .upfirdn import BINOMIAL, Impl, downsample2d, plain_cpu, upfirdn2d, upsample2d
from .winograd import conv3x3

# Where Winograd's form pays, measured in CPU-seconds forward and backward (benchmarks/stylegan2_ops.py): from this geometric mean of the channels
# and this many 4x4 tiles in the batch. 1.2 times faster at 128 channels, 1.5 to 1.9 at 256, 1.5 (64 tiles) to 2.3 at 512; at 64 channels even.
WINOGRAD_CHANNELS, WINOGRAD_TILES = 128, 64


def laid_out(x: Tensor, widest: int) -> Tensor:
    """x [B,C,H,W] as a network of at most `widest` channels is best given it: channels last on a CPU where torch's own convolutions do all of it (a
    training step of StyleGAN2 with 64 channels takes 0.89 to 0.92 of the time), else as it is."""
    narrow = widest < WINOGRAD_CHANNELS and x.device.type == "cpu"
    return x.contiguous(memory_format=torch.channels_last) if narrow else x


def conv2d(x: Tensor, weight: Tensor, *, impl: Impl = "auto") -> Tensor:
    """x [B,I,H,W], weight [O,I,k,k] -> [B,O,H,W]: correlation with padding k//2.

    impl: "ref" torch's; "fast" Winograd's form where k = 3; "auto" the quicker of the two on a CPU in fp32, torch's elsewhere.
    """
    if impl == "auto":
        o, i, k, _ = weight.shape
        tiles = x.shape[0] * -(-x.shape[2] // 4) * -(-x.shape[3] // 4)
        pays = k == 3 and tiles >= WINOGRAD_TILES and o * i >= WINOGRAD_CHANNELS ** 2 and plain_cpu(x)
        impl = "fast" if pays else "ref"
    if impl == "fast" and weight.shape[2] == 3:
        return conv3x3(x, weight)
    return F.conv2d(x, weight, padding=weight.shape[2] // 2)


def conv2d_up(x: Tensor, weight: Tensor, *, impl: Impl = "auto") -> Tensor:
    """x [B,I,H,W], weight [O,I,k,k], k 3 or 1 -> [B,O,2H,2W].

    k = 3: stride-2 transposed convolution without padding (2H+1), then the filter with padding 1 and gain 4. The weight is not turned round, so
    this is a true convolution of the zero-stuffed input where `conv2d` is a correlation. k = 1: the convolution, then `upsample2d`.
    """
    if weight.shape[2] == 1:
        return upsample2d(F.conv2d(x, weight), impl=impl)
    return upfirdn2d(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), BINOMIAL, padding=(1, 1, 1, 1), gain=4.0, impl=impl)


def conv2d_down(x: Tensor, weight: Tensor, *, impl: Impl = "auto") -> Tensor:
    """x [B,I,H,W], weight [O,I,k,k], k 3 or 1 -> [B,O,H/2,W/2].

    k = 3: the filter with padding 2 (H+1), then a stride-2 convolution without padding. k = 1: `downsample2d`, then the convolution.
    """
    if weight.shape[2] == 1:
        return F.conv2d(downsample2d(x, impl=impl), weight)
    return F.conv2d(upfirdn2d(x, BINOMIAL, padding=(2, 2, 2, 2), impl=impl), weight, stride=2)
