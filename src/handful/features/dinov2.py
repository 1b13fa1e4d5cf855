"""DINOv2 ViT-S/14: features learnt without labels, for metrics that should not see with a classifier's eyes.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (TMLR 2024); Stein et al. (NeurIPS 2023) argue for it in the
place of Inception. A vision transformer (Dosovitskiy et al., ICLR 2021) with a scale per channel on each branch (Touvron et al., 2021).
Its positions were learnt for 37x37 patches; for 224 pixels, 16x16 patches, they are interpolated as the released code does it: bicubic,
not antialiased, with the ratio (16 + 0.1) / 37.

Unverified: no registry carries the weights; shapes and wiring are tested on made-up ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.errors import UsageError
from handful.features.extractor import Extractor
from handful.features.resize import pillow_bicubic
from handful.features.vgg16 import standardised

_PATCH, _LEARNT, _DEPTH, _HEADS = 14, 37, 12, 6


class DINOv2(Extractor):
    """Features [B,384]: the class token after the last normalisation."""

    name = "dinov2"
    dim = 384
    resize = "antialiased bicubic of Pillow on floats, clipped to 0..255, to 224x224"
    stages = {f"block{i + 1}": (384, _PATCH) for i in range(_DEPTH)}

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, self.dim, _PATCH, _PATCH)
        self.cls_token = nn.Parameter(torch.randn(1, 1, self.dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + _LEARNT**2, self.dim) * 0.02)
        self.blocks = nn.ModuleList(_Block(self.dim) for _ in range(_DEPTH))
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)
        self.requires_grad_(False).eval()

    def _resized(self, x: Tensor) -> Tensor:
        return pillow_bicubic(x, 224)

    def _tokens(self, x: Tensor) -> Iterator[Tensor]:
        """After each block the class token, then those of the patches row by row: [B,1+side*side,384]."""
        if x.shape[2] != x.shape[3] or x.shape[2] % _PATCH:
            raise UsageError(f"dinov2 takes square images with a side that is a multiple of {_PATCH} pixels, not {tuple(x.shape[2:])}")
        x = self.patch(standardised(x))  # [B,384,16,16]
        side = x.shape[-1]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1) + self.positions(side)  # [B,1+256,384]
        for block in self.blocks:
            x = block(x)
            yield x

    def _stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        side = x.shape[3] // _PATCH
        for name, tokens in zip(self.stages, self._tokens(x)):
            yield name, tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))

    def _features(self, x: Tensor) -> Tensor:
        (tokens,) = deque(self._tokens(x), maxlen=1)
        return self.norm(tokens[:, 0])

    def positions(self, side: int) -> Tensor:
        """The learnt positions for side x side patches: [1,1+side*side,384], that of the class token first."""
        if side == _LEARNT:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (_LEARNT, _LEARNT))  # [1,384,37,37]
        grid = F.interpolate(grid, scale_factor=(side + 0.1) / _LEARNT, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], 1)


class _Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.ls1, self.ls2 = (nn.Parameter(torch.ones(dim)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        # [B,N,3*dim] -> 3 of [B,heads,N,dim/heads]
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B,N,dim]
        x = x + self.ls1 * self.proj(seen)
        return x + self.ls2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))
