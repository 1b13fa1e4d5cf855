"""EfficientNet-Lite0: a small ImageNet classifier, as a feature network that a package registry carries.

Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019), in the Lite form of its authors (2020):
B0 without squeeze-and-excitation, ReLU6 instead of swish. Projected GAN (Sauer et al., NeurIPS 2021) takes its features from it.
Input as the authors': (x - 127) / 128 at 224x224; padding as TensorFlow's "SAME", one pixel more at the right and the bottom. Its
authors cut the middle out of a larger picture; here the whole picture is resized, because what a GAN draws has no margin.

Deviation: normalisations are folded into the convolutions (rounding alone).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.features.extractor import Conv, Extractor
from handful.features.resize import pillow_bicubic

# (channels, expansion, kernel, stride of the first, how many): Table 1 of the paper.
_STAGES = (16, 1, 3, 1, 1), (24, 6, 3, 2, 2), (40, 6, 5, 2, 2), (80, 6, 3, 2, 3), (112, 6, 5, 1, 3), (192, 6, 5, 2, 4), (320, 6, 3, 1, 1)


class EfficientNet(Extractor):
    """Features [B,1280], the means of the last convolution; `logits(features)` are the 1000 of ImageNet, [B,1000]."""

    name = "efficientnet"
    dim = 1280
    resize = "antialiased bicubic of Pillow on floats, clipped to 0..255, to 224x224"
    stages = {f"stage{i + 1}": (channels, math.prod(s[3] for s in _STAGES[:i + 1]) * 2) for i, (channels, *_) in enumerate(_STAGES)}

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 32, 3, stride=2)
        blocks, cin = [], 32
        for cout, expansion, kernel, stride, repeats in _STAGES:
            for i in range(repeats):
                blocks.append(_Block(cin, cout, expansion, kernel, stride if i == 0 else 1))
                cin = cout
        self.blocks = nn.ModuleList(blocks)
        self.head = Conv(cin, 1280)
        self.logits = nn.Linear(1280, 1000)
        self.requires_grad_(False).eval()

    def _resized(self, x: Tensor) -> Tensor:
        return pillow_bicubic(x, 224)

    def _stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        x = self.stem(_same(x, 3)).clamp_(0, 6)
        blocks = iter(self.blocks)
        for name, (*_, repeats) in zip(self.stages, _STAGES):
            for _ in range(repeats):
                x = next(blocks)(x)
            yield name, x

    def _features(self, x: Tensor) -> Tensor:
        return self.head(self._last(x)).clamp_(0, 6).mean((2, 3))


def _same(x: Tensor, kernel: int) -> Tensor:
    """TensorFlow's padding for stride 2 and an even size: (kernel - 2) in all, the odd pixel at the end."""
    less = (kernel - 2) // 2
    return F.pad(x, (less, kernel - 2 - less) * 2)


class _Block(nn.Module):
    """Widen, filter each channel, narrow; the input is added where the shape allows it."""

    def __init__(self, cin: int, cout: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = cin * expansion
        self.expand = Conv(cin, wide) if expansion > 1 else None
        self.depthwise = Conv(wide, wide, kernel, stride, groups=wide)
        self.project = Conv(wide, cout)
        self.kernel, self.stride, self.residual = kernel, stride, stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x).clamp_(0, 6)
        if self.stride == 2:
            y = _same(y, self.kernel)
        y = self.project(self.depthwise(y).clamp_(0, 6))
        return y + x if self.residual else y
