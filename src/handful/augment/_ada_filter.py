"""ADA's image-space filter: the gains of four octaves, by a zero-phase filter bank made from 4-tap symlets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._ada_band import correlate, reflect
from ._ada_geometry import by_kind


def _bank() -> tuple[tuple[float, ...], ...]:
    """Equations 3 to 6 of the paper: [0, pi/8], [pi/8, pi/4], [pi/4, pi/2], [pi/2, pi], in 43 taps each."""
    root = 3 ** 0.5
    low = [(1 - root) / 32 ** 0.5, (3 - root) / 32 ** 0.5, (3 + root) / 32 ** 0.5, (1 + root) / 32 ** 0.5]      # SYM2
    high = [(-1) ** i * a for i, a in enumerate(low)]
    half = [[a / 2 for a in _convolve(f, f[::-1])] for f in (low, high)]
    one, two, four = ([_spread(f, k) for f in half] for k in (1, 2, 4))
    bands = [_convolve(_convolve(one[0], two[0]), four[0]), _convolve(_convolve(one[0], two[0]), four[1]), _convolve(one[0], two[1]), one[1]]
    return tuple(tuple([0.0] * ((43 - len(f)) // 2) + f + [0.0] * ((43 - len(f)) // 2)) for f in bands)


def _convolve(f: list[float], g: list[float]) -> list[float]:
    return [sum(f[j] * g[i - j] for j in range(len(f)) if 0 <= i - j < len(g)) for i in range(len(f) + len(g) - 1)]


def _spread(f: list[float], k: int) -> list[float]:
    return [f[i // k] if i % k == 0 else 0.0 for i in range((len(f) - 1) * k + 1)]


BANK = _bank()
_MARGIN = len(BANK[0]) // 2


def filter_ref(x: Tensor, gains: Tensor) -> Tensor:
    """x [B,C,H,W]; gains [B,4], one per band: one filter per image, along the columns and then along the rows of the reflected image."""
    b, c, h, w = x.shape
    taps = (gains.to(x.dtype) @ x.new_tensor(BANK)).repeat_interleave(c, 0)                              # [BC,43]
    x = reflect(x, *[_MARGIN] * 4).reshape(1, b * c, h + 2 * _MARGIN, w + 2 * _MARGIN)
    x = F.conv2d(F.conv2d(x, taps[:, None, None, :], groups=b * c), taps[:, None, :, None], groups=b * c)
    return x.view(b, c, h, w)


def filtered(x: Tensor, gains: Tensor) -> Tensor:
    """As `filter_ref`; on a CPU images with all gains 1 are left out."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return _filtered(x, gains)
    return by_kind(x, gains, (gains != 1).any(1).long(), (lambda x, _: x, _filtered))


def _filtered(x: Tensor, gains: Tensor) -> Tensor:
    return correlate(reflect(x, *[_MARGIN] * 4), BANK, gains)
