"""The maps of SimCLR's augmentation: crop, flip and blur as matrices of rows and columns, the colours as one matrix per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)


@torch.no_grad()
def cropping(crop: Tensor, flip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Bilinear sampling of a box: matrices [B,H,H] (rows) and [B,W,W] (columns, mirrored where flip), by centre x, y, width, height [B,4]."""
    sign = torch.where(flip, -1, 1).to(crop.dtype)
    return _sampling(crop[:, 1], crop[:, 3], height), _sampling(crop[:, 0], crop[:, 2] * sign, width)


def _sampling(centre: Tensor, size: Tensor, n: int) -> Tensor:
    """[B,n,n]: row i has the weights of the pixels about position centre + size ((i + 1/2) / n - 1/2), reflected at the borders of the image."""
    pixels = torch.arange(n, dtype=centre.dtype, device=centre.device)
    at = (centre[:, None] + size[:, None] * ((pixels + 0.5) / n - 0.5)) * n                               # [B,n], 0 .. n inside the image
    at = at.remainder(2 * n)
    at = (torch.minimum(at, 2 * n - at) - 0.5).clamp(0, n - 1)                                            # in pixels from the first one's centre
    return (1 - (at[:, :, None] - pixels).abs()).clamp_min(0)


@torch.no_grad()
def blurring(sigma: Tensor, n: int) -> Tensor:
    """[B,n,n]: a Gaussian of std sigma [B] pixels, cut off to about n / 10 of them, reflected at the borders: rows and columns sum to 1. 0: none."""
    radius = int(0.1 * n) // 2
    reach = torch.arange(radius + 1, dtype=sigma.dtype, device=sigma.device)
    kernel = torch.exp(-0.5 * (reach / sigma.clamp_min(1e-3)[:, None]).square())                          # [B,radius+1]
    kernel = kernel / (2 * kernel.sum(1, keepdim=True) - 1)
    kernel = torch.cat([kernel, torch.zeros_like(kernel[:, :1])], 1)                                      # and nothing beyond
    i = torch.arange(n, device=sigma.device)
    images = (i[:, None] - i).abs(), i[:, None] + i + 1, 2 * n - 1 - i[:, None] - i                       # distances to a pixel and its reflections
    return sum(kernel[:, d.clamp(max=radius + 1)] for d in images)


def recoloring(x: Tensor, color: Tensor, grey: Tensor) -> Tensor:
    """x [B,C,H,W] in [-1,1] with brightness b, contrast c, saturation s, hue [B,4], then grey where grey [B].

    With y = (x + 1) / 2, m the mean grey of y and A the matrix of saturation, hue and greyscale, which leaves grey as it is:
    y' = c b A y + (1 - c) b m.
    """
    b, c, s, hue = (v[:, None, None] for v in color.unbind(1))                                            # [B,1,1]
    if x.shape[1] == 1:
        grey_of, flat = x.flatten(2), c * b * x.flatten(2)                                                # [B,1,HW]
    else:
        grey_of = sum(g * v for g, v in zip(GREY, x.flatten(2).split(1, 1)))
        flat = (c * b * _matrix(s, hue, grey)) @ x.flatten(2)                                             # [B,3,HW]
    mean = grey_of.mean(2, keepdim=True)                                                                  # [B,1,1], of x: 2 m - 1
    return (flat + ((1 - c) * b * mean + b - 1)).view(x.shape)


@torch.no_grad()
def _matrix(s: Tensor, hue: Tensor, grey: Tensor) -> Tensor:
    """[B,3,3]: away from grey by s, then about the grey axis by `hue` turns, then onto it where grey. s, hue [B,1,1]."""
    cos, sin = (2 * math.pi * hue).cos(), (2 * math.pi * hue).sin() / math.sqrt(3)
    same, last, next_ = cos + (1 - cos) / 3, (1 - cos) / 3 - sin, (1 - cos) / 3 + sin
    turned = torch.cat([same, last, next_, next_, same, last, last, next_, same], 2).view(-1, 3, 3)       # Rodrigues, about (1, 1, 1)
    to_grey = torch.stack([torch.full_like(turned[0, 0], g) for g in GREY], 1)                            # every row the weights of grey
    matrix = turned @ (s * torch.eye(3, dtype=s.dtype, device=s.device) + (1 - s) * to_grey)
    return torch.where(grey[:, None, None], to_grey @ matrix, matrix)
