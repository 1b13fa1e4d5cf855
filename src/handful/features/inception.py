"""The Inception network that the FID is defined with: TensorFlow's of 2015-12-05.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for Computer Vision" (CVPR 2016), in the form that
Heusel et al. (NeurIPS 2017) froze for the FID and Salimans et al. (2016) for the Inception Score. It differs from today's Inception v3
in its weights, in 1008 classes, in average pools that do not count the padding, and in the last block, which pools by the largest value.
Its features are the 2048 means of the last block.

Deviations, none of which moves a value by more than rounding: normalisations are folded into the convolutions; 1x1 convolutions that read
one input are computed as one; an average pool and the 1x1 convolution after it change places (both are linear, and a pool that doesn't
count padding keeps the bias), so that fewer channels are pooled.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.errors import UsageError, nearest
from handful.features import weights
from handful.features.extractor import Conv, Extractor
from handful.features.resize import pillow_bicubic, tf1_bilinear

_RESIZES = {
    "official": (tf1_bilinear, "bilinear of TensorFlow 1 (no half-pixel shift, no antialiasing) to 299x299"),
    "clean": (pillow_bicubic, "antialiased bicubic of Pillow on floats, clipped to 0..255 (clean-fid), to 299x299"),
}


class Inception(Extractor):
    """Features [B,2048]; `logits` for the Inception Score.

    resize: "official" is that of the FID's and StyleGAN2-ADA's code, "clean" that of clean-fid. After it: (x - 128) / 128.
    """

    name = "inception"
    dim = 2048
    stages = {"stem1": (64, 4), "stem2": (192, 8)} | {f"block{i + 1}": stage for i, stage in enumerate(
        [(256, 8), (288, 8), (288, 8), (768, 16), *[(768, 16)] * 4, (1280, 32), (2048, 32), (2048, 32)])}

    def __init__(self, resize: str = "official") -> None:
        super().__init__()
        if resize not in _RESIZES:
            raise UsageError(f"resize is one of {', '.join(_RESIZES)}, not '{resize}'{nearest(resize, _RESIZES)}")
        self._resize, self.resize = _RESIZES[resize]
        self.stem = nn.ModuleList(
            [Conv(3, 32, 3, stride=2), Conv(32, 32, 3, padding=False), Conv(32, 64, 3), Conv(64, 80), Conv(80, 192, 3, padding=False)]
        )
        self.blocks = nn.ModuleList(
            [_A(192, 32), _A(256, 64), _A(288, 64), _B()]
            + [_C(mid) for mid in (128, 160, 160, 192)]
            + [_D(), _E(1280, largest=False), _E(2048, largest=True)]
        )
        self._logits: dict[str, Tensor] = {}
        self.requires_grad_(False).eval()

    def logits(self, features: Tensor, bias: bool = False) -> Tensor:
        """features [B,2048] -> [B,1008], before the softmax. The Inception Score uses no bias (StyleGAN2-ADA's `no_output_bias`).

        The last layer is an entry of its own, which no package carries and nobody here has verified: raises HandfulError, naming
        `handful weights get inception_logits`, where it is absent.
        """
        if not self._logits:
            self._logits = {name: torch.from_numpy(array) for name, array in weights.load("inception_logits").items()}
        weight, offset = (self._logits[name].to(features) for name in ("weight", "bias"))
        return F.linear(features, weight, offset if bias else None)

    def _resized(self, x: Tensor) -> Tensor:
        return self._resize(x, 299)

    def _stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = ((x - 128) / 128).contiguous(memory_format=torch.channels_last)
        for i, conv in enumerate(self.stem):
            if i == 3:
                x = F.max_pool2d(x, 3, 2)
                yield "stem1", x
            x = conv(x).relu_()
        x = F.max_pool2d(x, 3, 2)
        yield "stem2", x
        for i, block in enumerate(self.blocks):
            x = block(x)
            yield f"block{i + 1}", x

    def _features(self, x: Tensor) -> Tensor:
        return self._last(x).mean((2, 3))


class _Mixed(nn.Module):
    """A block. `first` are the 1x1 convolutions that read its input, one after the other; `widths` are their channels."""

    def __init__(self, cin: int, *widths: int) -> None:
        super().__init__()
        self.first, self.widths = Conv(cin, sum(widths)), widths

    def heads(self, x: Tensor, pooled: bool = False) -> list[Tensor]:
        """The first convolutions, each with its ReLU; pooled: the last one is averaged over 3x3 before it."""
        heads = list(self.first(x).split(self.widths, 1))
        if pooled:
            heads[-1] = F.avg_pool2d(heads[-1], 3, 1, 1, count_include_pad=False)
        return [head.relu() for head in heads]


def _through(convs: nn.ModuleList, x: Tensor) -> Tensor:
    for conv in convs:
        x = conv(x).relu_()
    return x


class _A(_Mixed):
    def __init__(self, cin: int, pool: int) -> None:
        super().__init__(cin, 64, 48, 64, pool)
        self.five = Conv(48, 64, 5)
        self.deep = nn.ModuleList([Conv(64, 96, 3), Conv(96, 96, 3)])

    def forward(self, x: Tensor) -> Tensor:
        one, five, deep, pool = self.heads(x, pooled=True)
        return torch.cat([one, self.five(five).relu_(), _through(self.deep, deep), pool], 1)


class _B(_Mixed):
    def __init__(self) -> None:
        super().__init__(288, 64)
        self.three = Conv(288, 384, 3, stride=2)
        self.deep = nn.ModuleList([Conv(64, 96, 3), Conv(96, 96, 3, stride=2)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.three(x).relu_(), _through(self.deep, *self.heads(x)), F.max_pool2d(x, 3, 2)], 1)


class _C(_Mixed):
    def __init__(self, mid: int) -> None:
        super().__init__(768, 192, mid, mid, 192)
        wide, tall = (1, 7), (7, 1)
        self.seven = nn.ModuleList([Conv(mid, mid, wide), Conv(mid, 192, tall)])
        self.deep = nn.ModuleList([Conv(mid, mid, tall), Conv(mid, mid, wide), Conv(mid, mid, tall), Conv(mid, 192, wide)])

    def forward(self, x: Tensor) -> Tensor:
        one, seven, deep, pool = self.heads(x, pooled=True)
        return torch.cat([one, _through(self.seven, seven), _through(self.deep, deep), pool], 1)


class _D(_Mixed):
    def __init__(self) -> None:
        super().__init__(768, 192, 192)
        self.three = Conv(192, 320, 3, stride=2)
        self.seven = nn.ModuleList([Conv(192, 192, (1, 7)), Conv(192, 192, (7, 1)), Conv(192, 192, 3, stride=2)])

    def forward(self, x: Tensor) -> Tensor:
        three, seven = self.heads(x)
        return torch.cat([self.three(three).relu_(), _through(self.seven, seven), F.max_pool2d(x, 3, 2)], 1)


class _E(_Mixed):
    """largest: its pool takes the largest value, which does not change places with a convolution."""

    def __init__(self, cin: int, largest: bool) -> None:
        super().__init__(cin, 320, 384, 448, *(() if largest else (192,)))
        self.wide, self.tall = Conv(384, 384, (1, 3)), Conv(384, 384, (3, 1))
        self.deep, self.deep_wide, self.deep_tall = Conv(448, 384, 3), Conv(384, 384, (1, 3)), Conv(384, 384, (3, 1))
        self.pool = Conv(cin, 192) if largest else None

    def forward(self, x: Tensor) -> Tensor:
        one, three, deep, *pool = self.heads(x, pooled=self.pool is None)
        if self.pool is not None:
            pool = [self.pool(F.max_pool2d(x, 3, 1, 1)).relu_()]
        deep = self.deep(deep).relu_()
        forks = self.wide(three), self.tall(three), self.deep_wide(deep), self.deep_tall(deep)
        return torch.cat([one, *(fork.relu_() for fork in forks), *pool], 1)
