"""FIR resampling: insert zeros, pad, filter every channel, keep every d-th sample (StyleGAN2's `upfirdn2d`, Karras et al. 2020).

Taps are plain numbers, so that an operator may be specialised to them. The filter is separable: the same taps along both axes, each divided by
their sum; the convolution is a true one (the taps turned round) unless `flip`.

The fast form makes no zeros and throws nothing away: a filter of few taps is one depthwise convolution, strided or transposed; a long one goes
axis by axis, strided down, by shifted sums of the phases up. Its gradient is the same operator with up and down exchanged and the taps turned
round, and keeps nothing for the backward pass, where a convolution would keep its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

BINOMIAL = (1.0, 3.0, 3.0, 1.0)         # StyleGAN2's resampling filter
Impl = Literal["auto", "fast", "ref"]
Padding = tuple[int, int, int, int]


def upfirdn2d(x: Tensor, taps: Sequence[float], up: int = 1, down: int = 1, padding: Padding = (0, 0, 0, 0), gain: float = 1.0,
              flip: bool = False, impl: Impl = "auto") -> Tensor:
    """x [B,C,H,W] -> [B,C,H',W'] with H' = ceil((up H + top + bottom - T + 1) / down).

    taps: T numbers, normalised here to sum 1; up: zeros are inserted after every sample; padding (left, right, top, bottom), after that,
    negative crops; gain multiplies the result; flip: correlation instead of convolution. Runs in x's dtype. impl: "ref" is this text, literally;
    "fast" see above; "auto" fast on a CPU in fp32, ref elsewhere.
    """
    scale = gain ** 0.5 / sum(taps)
    taps = tuple(t * scale for t in taps)
    taps = taps if flip else taps[::-1]
    if impl == "fast" or impl == "auto" and plain_cpu(x):
        return _UpFirDn.apply(x, taps, up, down, tuple(padding))
    b, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(b, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(b, c, h * up, w * up)
    x = F.pad(x, padding)
    for shape in ((1, -1), (-1, 1)):
        f = _on_device(taps, x.dtype, x.device).view(shape)
        x = F.conv2d(x, f.expand(c, 1, *f.shape), groups=c)
    return x[:, :, ::down, ::down]


@lru_cache(maxsize=64)
@torch.inference_mode(False)                            # what is kept must serve autograd later
def _kept(taps: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(taps, dtype=dtype, device=device)


def _on_device(taps: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The taps as a tensor; made once, since copying numbers to a GPU makes the host wait. A compiler takes them as constants."""
    return torch.tensor(taps, dtype=dtype, device=device) if torch.compiler.is_compiling() else _kept(taps, dtype, device)


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


def plain_cpu(x: Tensor) -> bool:
    """Whether operators written for the CPU apply: fp32 there, no autocast, not under torch.compile (which would trace into them)."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


class _UpFirDn(Function):
    """taps: scaled, as a correlation takes them."""

    @staticmethod
    def forward(x, taps, up, down, padding):
        return _upfirdn(x, taps, up, down, padding)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.taps, ctx.up, ctx.down, ctx.padding = inputs
        ctx.sizes = (x.shape[3], output.shape[3]), (x.shape[2], output.shape[2])

    @staticmethod
    def backward(ctx, grad):
        t, padding = len(ctx.taps), []
        for before, (n, m) in zip(ctx.padding[::2], ctx.sizes, strict=True):
            padding += t - 1 - before, n * ctx.up - m * ctx.down + before - ctx.up + 1
        return _UpFirDn.apply(grad, ctx.taps[::-1], ctx.down, ctx.up, tuple(padding)), None, None, None, None


LONG = 8                # taps from which two passes cost less than one with T^2 products


def _upfirdn(x: Tensor, taps: tuple[float, ...], up: int, down: int, padding: Padding) -> Tensor:
    t, c = len(taps), x.shape[1]
    f = x.new_tensor(taps)
    left, right, top, bottom = padding
    if up == 1:
        inside = (top, left) if left == right >= 0 and top == bottom >= 0 else (0, 0)       # without a padded copy
        x = x if any(inside) or not any(padding) else F.pad(x, padding)
        if t < LONG:
            return F.conv2d(x, torch.outer(f, f).expand(c, 1, t, t), stride=down, padding=inside, groups=c)
        x = F.conv2d(x, f.expand(c, 1, 1, t), stride=(1, down), padding=(0, inside[1]), groups=c)
        return F.conv2d(x, f[:, None].expand(c, 1, t, 1), stride=(down, 1), padding=(inside[0], 0), groups=c)
    if t < LONG:
        f = f.flip(0)                                                                       # a transposed convolution turns its kernel
        crop = [p for before, after in zip(padding[::2], padding[1::2], strict=True) for p in (t - 1 - before, t - up - after)]
        inside = (crop[2], crop[0]) if crop[0] == crop[1] >= 0 and crop[2] == crop[3] >= 0 else (0, 0)
        y = F.conv_transpose2d(x, torch.outer(f, f).expand(c, 1, t, t), stride=up, padding=inside, groups=c)
        y = y if any(inside) else F.pad(y, [-p for p in crop])
    else:
        y = _up_axis(_up_axis(x, taps, up, (left, right), 3), taps, up, (top, bottom), 2)
    return y[:, :, ::down, ::down] if down > 1 else y


def _up_axis(x: Tensor, taps: tuple[float, ...], up: int, padding: tuple[int, int], dim: int) -> Tensor:
    """One axis of x [B,C,H,W]: output up * i + r is the sum over k of taps[k] * stuffed[up * i + r + k - before]."""
    before, after = padding
    n, t = x.shape[dim], len(taps)
    length = n * up + before + after - t + 1
    m = -(-length // up)
    left = -(-before // up)                                                             # samples of padding, in samples of x
    right = max(0, (up * m - 1 + t - 1 - before) // up - n + 1)
    x = F.pad(x, (left, right) if dim == 3 else (0, 0, left, right))
    phases = []
    for r in range(up):
        total = None
        for k in range((before - r) % up, t, up):                                       # where a sample is, not an inserted zero
            part = x.narrow(dim, (r + k - before) // up + left, m)
            total = part * taps[k] if total is None else total.add_(part, alpha=taps[k])
        phases.append(total)
    return torch.stack(phases, dim + 1).flatten(dim, dim + 1).narrow(dim, 0, length)
