"""The maps of SimCLR's augmentation: crop, flip and blur as matrices of rows and columns, the colours as one matrix per image."""

from __future__ import annotations

import math
from functools import lru_cache

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
        luma, flat = x.new_ones(1), c * b * x.flatten(2)                                                  # [B,1,HW]
    else:
        luma = _constants(x.dtype, x.device)[0]
        flat = (c * b * _matrix(s, hue, grey)) @ x.flatten(2)                                             # [B,3,HW]
    mean = torch.einsum("bchw,c->b", x, luma)[:, None, None] / x[0, 0].numel()                            # [B,1,1], of x: 2 m - 1
    return (flat + ((1 - c) * b * mean + b - 1)).view(x.shape)


@torch.no_grad()
def _matrix(s: Tensor, hue: Tensor, grey: Tensor) -> Tensor:
    """[B,3,3]: away from grey by s, then about the grey axis by `hue` turns, then onto it where grey."""
    luma, eye, across = _constants(s.dtype, s.device)
    cos, sin = (2 * math.pi * hue).cos(), (2 * math.pi * hue).sin()
    turned = cos * eye + (1 - cos) / 3 + sin * across                                                     # [B,3,3]
    to_grey = luma.expand(3, 3)                                                                           # every row the weights of grey
    matrix = turned @ (s * eye + (1 - s) * to_grey)
    return torch.where(grey[:, None, None], to_grey @ matrix, matrix)


@lru_cache(maxsize=16)
@torch.inference_mode(False)                            # what is kept must serve autograd later
def _constants(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """On the device, since copying them in every step would stall it: the weights of grey [3], the identity, the cross product with the grey axis."""
    across = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=dtype) / math.sqrt(3)
    return torch.tensor(GREY, dtype=dtype).to(device), torch.eye(3, dtype=dtype).to(device), across.to(device)
