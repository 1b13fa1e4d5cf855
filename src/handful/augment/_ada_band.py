"""FIR filters along one axis as small matrix products: resampling by 2 and filtering, each beside its adjoint.

A filter of few taps is a banded matrix that repeats itself along the diagonal. Cut into equal blocks of rows it is one small dense matrix, which
is multiplied with overlapping windows of the image: a matrix product does more arithmetic than the filter needs, at many times its speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 16                                             # rows of a block at the lower resolution


class Band(NamedTuple):
    """out[n R + r] = sum_k matrix[r, k] x[start + n step + k], zero outside x. matrix: [R,K], or [B,R,K] with one filter per image."""

    matrix: Tensor
    start: int
    step: int


def banded(x: Tensor, there: Band, length: int, back: Band, dim: int) -> Tensor:
    """The band `there` along dim (2 or 3) of x [B,C,H,W], to `length` outputs; back: the band of the transposed matrix."""
    return _Banded.apply(x, there.matrix, back.matrix, (there.start, there.step, length), (back.start, back.step, x.shape[dim]), dim)


class _Banded(torch.autograd.Function):
    """Linear, so that its backward is the transposed band, whose backward is the band."""

    @staticmethod
    def forward(ctx, x: Tensor, there: Tensor, back: Tensor, place: tuple[int, int, int], place_back: tuple[int, int, int], dim: int) -> Tensor:
        ctx.save_for_backward(there, back)
        ctx.places = place, place_back, dim
        return _blocks(x, there, *place, dim)

    @staticmethod
    def backward(ctx, grad: Tensor):
        there, back = ctx.saved_tensors
        place, place_back, dim = ctx.places
        return _Banded.apply(grad, back, there, place_back, place, dim), None, None, None, None, None


def _blocks(x: Tensor, matrix: Tensor, start: int, step: int, length: int, dim: int) -> Tensor:
    (b, c, h, w), (rows, width) = x.shape, matrix.shape[-2:]
    n = -(-length // rows)
    margins = (-start, start + (n - 1) * step + width - x.shape[dim])
    if dim == 2:
        windows = F.pad(x, (0, 0, *margins)).unfold(2, width, step).transpose(3, 4)                 # [B,C,n,K,W]
        each = matrix if matrix.ndim == 2 else matrix[:, None, None]
        out = torch.bmm(each.expand(b, c, n, rows, width).reshape(-1, rows, width), windows.reshape(-1, width, w))
        return out.view(b, c, n * rows, w)[:, :, :length]
    windows = F.pad(x, margins).unfold(3, width, step)                                              # [B,C,H,n,K]
    out = windows.reshape(-1, width) @ matrix.T if matrix.ndim == 2 else torch.bmm(windows.reshape(b, -1, width), matrix.mT)
    return out.view(b, c, h, n * rows)[..., :length]


# ----------------------------------------------------------------------------------------------------------- resampling by 2


def upsampled(x: Tensor, taps: tuple[float, ...], skip: int, length: int, dim: int) -> Tensor:
    """Along dim of x [B,C,H,W]: out[j] = sum_n x[n] taps[j + skip - 2n], j < length."""
    up, down = _resampling(taps, skip, x.dtype, x.device)
    return banded(x, up, length, down, dim)


def downsampled(x: Tensor, taps: tuple[float, ...], length: int, dim: int) -> Tensor:
    """Along dim of x [B,C,H,W]: out[n] = sum_j x[j] taps[j - 2n], n < length; the transposed `upsampled` with skip 0."""
    up, down = _resampling(taps, 0, x.dtype, x.device)
    return banded(x, down, length, up, dim)


@lru_cache(maxsize=64)
@torch.inference_mode(False)                            # what is kept must serve autograd later
def _resampling(taps: tuple[float, ...], skip: int, dtype: torch.dtype, device: torch.device) -> tuple[Band, Band]:
    first = -((len(taps) - 1 - skip) // 2)              # the first input that output 0 sees
    last = (2 * _BLOCK - 1 + skip) // 2
    r, k = torch.arange(2 * _BLOCK)[:, None], torch.arange(last - first + 1)
    up = Band(toeplitz(taps, r + skip - 2 * (first + k), dtype, device), first, _BLOCK)
    r, k = torch.arange(_BLOCK)[:, None], torch.arange(2 * _BLOCK - 2 + len(taps))
    return up, Band(toeplitz(taps, k - 2 * r, dtype, device), -skip, 2 * _BLOCK)


# ----------------------------------------------------------------------------------------------------------------- filtering


def correlate(x: Tensor, bank: tuple[tuple[float, ...], ...], gains: Tensor) -> Tensor:
    """Both axes of x [B,C,H+T-1,W+T-1] with the taps sum_i gains[b, i] bank[i] of each image; gains [B,len(bank)] -> [B,C,H,W]."""
    t, dtype = len(bank[0]), x.dtype
    there, back = (torch.matmul(gains.to(dtype), m.flatten(1)).view(-1, *m.shape[1:]) for m in _filtering(bank, dtype, x.device))   # [B,R,K]
    there, back = Band(there, 0, there.shape[1]), Band(back, 1 - t, back.shape[1])
    return banded(banded(x, there, x.shape[2] - t + 1, back, 2), there, x.shape[3] - t + 1, back, 3)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _filtering(bank: tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    t, rows = len(bank[0]), 2 * _BLOCK
    r, k = torch.arange(rows)[:, None], torch.arange(rows + t - 1)
    return toeplitz(bank, k - r, dtype, device), toeplitz(bank, r - k + t - 1, dtype, device)


def toeplitz(taps: Sequence, index: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """taps[..., index], 0 where there is no such tap."""
    f = torch.tensor(taps, dtype=torch.float64)
    inside = (index >= 0) & (index < f.shape[-1])
    return (f[..., index.clamp(0, f.shape[-1] - 1)] * inside).to(dtype).to(device)


# -------------------------------------------------------------------------------------------------------------- reflection


def reflect(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """x [B,C,H,W] reflected about its border pixels; again and again where a margin is larger than the image."""
    h, w = x.shape[2:]
    if max(left, right) < w and max(top, bottom) < h:
        return F.pad(x, (left, right, top, bottom), mode="reflect")
    return x.index_select(2, _bounce(h, top, bottom, x.device)).index_select(3, _bounce(w, left, right, x.device))


def _bounce(n: int, before: int, after: int, device: torch.device) -> Tensor:
    i = torch.arange(-before, n + after, device=device).abs()
    period = max(2 * (n - 1), 1)
    i = i % period
    return torch.minimum(i, (period - i) % period) if n > 1 else i
