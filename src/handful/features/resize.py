"""Resizing as the metrics' protocols define it. Images [B,C,H,W] of any floating type; gradients flow."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def tf1_bilinear(x: Tensor, size: int) -> Tensor:
    """[B,C,H,W] -> [B,C,size,size] as TensorFlow 1's `resize_bilinear` does it, which the FID of 2017 was defined with.

    Source = destination * H / size: no shift by half a pixel, so that the picture moves up and left by as much; beyond the last pixel
    the border is held; no antialiasing, so that a reduction skips pixels.
    """
    for dim in (2, 3):
        if x.shape[dim] != size:
            low, high, part = _bilinear_taps(x.shape[dim], size)
            part = part.to(x.dtype).to(x.device).view(-1, *[1] * (3 - dim))  # the type first: not every device has fp64
            x = torch.lerp(x.index_select(dim, low.to(x.device)), x.index_select(dim, high.to(x.device)), part)
    return x


def pillow_bicubic(x: Tensor, size: int) -> Tensor:
    """[B,C,H,W] -> [B,C,size,size] as Pillow's BICUBIC resizes each channel as floats (mode "F"): antialiased, not rounded.

    The result is held within 0..255, as clean-fid does (Parmar, Zhang, Zhu, "On Aliased Resizing and Surprising Subtleties in GAN
    Evaluation", CVPR 2022): bicubic overshoots at edges.
    """
    h, w = x.shape[2:]
    if w != size:
        x = x @ _bicubic_matrix(w, size).to(x.dtype).to(x.device).t()  # [B,C,H,W] @ [W,size]
    if h != size:
        x = _bicubic_matrix(h, size).to(x.dtype).to(x.device) @ x  # [size,H] @ [B,C,H,size]
    return x.clamp(0, 255)


@lru_cache(64)
@torch.inference_mode(False)  # they outlive the pass that made them
def _bilinear_taps(old: int, new: int) -> tuple[Tensor, Tensor, Tensor]:
    at = torch.arange(new, dtype=torch.float64) * (old / new)
    low = at.floor().long().clamp_(max=old - 1)
    return low, (low + 1).clamp_(max=old - 1), at - low


@lru_cache(64)
@torch.inference_mode(False)  # they outlive the pass that made them
def _bicubic_matrix(old: int, new: int) -> Tensor:
    """[new,old], fp64: Keys' cubic with a = -1/2, widened by the reduction; taps beyond the picture are left out and the rest sum to 1."""
    scale = old / new
    stretch = max(scale, 1.0)
    centre = (torch.arange(new, dtype=torch.float64) + 0.5) * scale
    # Pillow's window: whole pixels from the centre -+ 2 * stretch, rounded.
    first = (centre - 2 * stretch + 0.5).floor().clamp_(min=0)
    last = (centre + 2 * stretch + 0.5).floor().clamp_(max=old)
    pixel = torch.arange(old, dtype=torch.float64)
    t = ((pixel + 0.5 - centre[:, None]) / stretch).abs()
    a = -0.5
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = (((t - 5) * t + 8) * t - 4) * a
    weight = torch.where(t < 1, near, torch.where(t < 2, far, 0))
    weight = weight * ((pixel >= first[:, None]) & (pixel < last[:, None]))
    return weight / weight.sum(1, keepdim=True)
