"""SNGAN: a generator with batch norm, and a discriminator whose every layer is spectrally normalised. Residual or convolutional networks.

Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018, tables 3 to 5. Defaults are its CIFAR form:

    form="resnet", 32      G 256 feature maps throughout, D 128, two of its four blocks halve the map (4 276 739 and 1 053 825 parameters)
    form="resnet", 64      as the paper's table for STL-10 at 48: D halves four times, 64 128 256 512, then 1024; G mirrors it, from 1024 at 4x4
    form="resnet", 128     the paper's ImageNet table: one block more, 1024 to 1024
    form="cnn"             the "standard CNN" (SNDCGAN), any multiple of 8: G starts at S/8 (3 812 355 and 2 935 872 at 32). doubled=True: D's
                           channels double in the strided convolutions, as many later comparisons have it (5 860 865); first_norm=True: batch
                           norm and ReLU after G's linear layer too (3 828 739)

At 64 and 128 `width` is the number of feature maps at 16x16 in G, of the second block in D. The paper doesn't state how weights start; here as is
usual for these networks: uniform as in Glorot and Bengio (2010) with gain sqrt(2) for a residual block's 3x3 convolutions, N(0, 0.02^2) for the CNN,
biases zero. Beyond the paper's unconditional networks: classes as in Miyato and Koyama (2018, for ResNets; here for both forms), a scale and shift
per class in G's batch norms but for the last, and a projection in D; grey pictures; `norm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from handful.nn.labels import needed

from .. import seam
from ..errors import UsageError
from ..nn.conditional_norm import ConditionalBatchNorm2d
from ..nn.conv import Conv2d, Conv3x3, ConvTranspose2d, Embedding, Linear
from ..nn.norm import BatchNorm2d
from ..nn.residual import DBlock, GBlock
from ..nn.spectral import Norm
from ..rng import Rng

Form = Literal["resnet", "cnn"]
SLOPE = 0.1                     # of leaky ReLU in the CNN's discriminator

# Channels before and after G's blocks, and after D's, as multiples of `width`; how many of D's blocks halve the map.
_RESNET = {32: ((1, 1, 1, 1), (1, 1, 1, 1), 2),
           64: ((4, 2, 1, 0.5, 0.25), (0.5, 1, 2, 4, 8), 4),
           128: ((4, 4, 2, 1, 0.5, 0.25), (0.5, 1, 2, 4, 8, 8), 5)}


class Generator(seam.Generator):
    """z [B,z_dim] ~ N(0, 1) (and c int64 [B]) -> image [B,channels,S,S] in [-1,1] (tanh).

    resolution: S, 32, 64 or 128 (resnet), any multiple of 8 from 16 on (cnn). width: see above; the CNN has 2, 1, 1/2, 1/4 of it at S/8 ... S.
    first_norm: for the CNN alone. sync_batch_norm: batch statistics over all processes. Raises UsageError for other sizes.
    """

    has_batch_stats = True

    def __init__(self, resolution: int = 32, channels: int = 3, num_classes: int = 0, z_dim: int = 128, width: int = 256, form: Form = "resnet",
                 first_norm: bool = False, sync_batch_norm: bool = False) -> None:
        super().__init__()
        _check(resolution, form)
        self.resolution, self.channels, self.num_classes, self.z_dim = resolution, channels, num_classes, z_dim

        def norm_of(width: int) -> ConditionalBatchNorm2d:
            return ConditionalBatchNorm2d(width, classes=num_classes, sync=sync_batch_norm, init=0.0)

        widths = _times(_RESNET[resolution][0] if form == "resnet" else (2, 1, 0.5, 0.25), width)
        self.side = 4 if form == "resnet" else resolution // 8
        how = dict(norm="none", bias="zeros") | (dict(init=_glorot) if form == "resnet" else {})
        self.first = Linear(z_dim, widths[0] * self.side**2, **how)
        self.first_norm = norm_of(widths[0] * self.side**2) if first_norm and form == "cnn" else None
        if form == "resnet":
            self.up = nn.ModuleList(GBlock(a, b, norm_of, **how) for a, b in pairwise(widths))
            self.last_norm = BatchNorm2d(widths[-1], std=0.0, sync=sync_batch_norm)
        else:
            self.up = nn.ModuleList(_Up(a, b, norm_of(b), how) for a, b in pairwise(widths))
            self.last_norm = None
        self.to_image = Conv3x3(widths[-1], channels, **how | (dict(init=nn.init.xavier_uniform_) if form == "resnet" else {}))

    def forward(self, z: Tensor, c: Tensor | None = None, *, rng: Rng) -> seam.Generated:
        c = needed(c, self.num_classes) if self.num_classes else None
        x = self.first(z)
        if self.first_norm is not None:
            x = F.relu_(self.first_norm(x[:, :, None, None], c))
        x = x.view(len(z), -1, self.side, self.side)
        for block in self.up:
            x = block(x, c)
        if self.last_norm is not None:
            x = F.relu_(self.last_norm(x))
        return seam.Generated(self.to_image(x).tanh(), z, z, c)


class Discriminator(seam.Discriminator):
    """image [B,channels,S,S] in [-1,1] (and c int64 [B]) -> logits [B].

    resolution: as in the generator. width: see above; the CNN has 1/2, 1, 2 and 4 of it. doubled: for the CNN alone.
    num_classes > 0: plus <embedding of c, h>, h the last map summed over its pixels. norm: "spectral" on every layer and the embedding, or "none".
    Features: "map_R", the map of side R (resnet: of several blocks with that side the first is "map_R", then "map_R_2" ...), and "pre_logits":
    h after ReLU, a vector (resnet), or the last map, of side S/8 (cnn). Raises UsageError for other sizes.
    """

    def __init__(self, resolution: int = 32, channels: int = 3, num_classes: int = 0, width: int = 128, form: Form = "resnet",
                 doubled: bool = False, norm: Norm = "spectral") -> None:
        super().__init__()
        _check(resolution, form)
        self.resolution, self.channels, self.num_classes, self.form = resolution, channels, num_classes, form
        if form == "resnet":
            how = dict(norm=norm, bias="zeros", init=_glorot)
            _, multiples, downs = _RESNET[resolution]
            widths = [channels, *_times(multiples, width)]
            sides = [resolution >> min(i + 1, downs) for i in range(len(multiples))]
            blocks = [DBlock(a, b, down=i < downs, preactivate=i > 0, **how) for i, (a, b) in enumerate(pairwise(widths))]
            self.to_logit = Linear(widths[-1], 1, **how)
        else:
            how = dict(norm=norm, bias="zeros")
            *strided, last = _times((0.5, 1, 2, 4), width)
            sides = [resolution >> i for i in (1, 2, 3)]
            after = [*strided[1:], last] if doubled else strided
            blocks = [_Down(a, b, d, how) for a, b, d in zip([channels, *after], strided, after)]
            self.last = Conv3x3(after[-1], last, **how)
            self.to_logit = Linear(last * sides[-1]**2, 1, norm=norm, bias="zeros" if doubled else "none")
            widths = [channels, *after, last]
        self.names = [f"map_{s}" if (n := sides[:i].count(s)) == 0 else f"map_{s}_{n + 1}" for i, s in enumerate(sides)]
        self.stem, self.blocks = blocks[0], nn.ModuleList(blocks[1:])
        self.embed = Embedding(num_classes, widths[-1], norm=norm) if num_classes else None
        self.feature_info = {name: seam.FeatureInfo(w, s) for name, w, s in zip(self.names, widths[1:], sides)}
        self.feature_info["pre_logits"] = seam.FeatureInfo(widths[-1], 0 if form == "resnet" else sides[-1])

    def forward(self, image: Tensor, c: Tensor | None = None, extra: Mapping[str, Tensor] | None = None,
                want: frozenset[str] = frozenset()) -> seam.Judged:
        x, features = image, {}
        for name, block in zip(self.names, (self.stem, *self.blocks)):
            x = features[name] = block(x)
        if self.form == "resnet":
            h = last = F.relu(x).sum((2, 3))                                    # [B,C]
        else:
            last = F.leaky_relu_(self.last(x), SLOPE)                           # [B,C,S/8,S/8]
            h = last.sum((2, 3)) if self.embed is not None else None
        features["pre_logits"] = last
        logits = self.to_logit(last.flatten(1))[:, 0]
        if self.embed is not None:
            logits = logits + (self.embed(needed(c, self.num_classes)) * h).sum(1)
        return seam.Judged(logits, {k: f for k, f in features.items() if k in want})


class _Up(nn.Module):
    """Transposed convolution 4x4 of stride 2, batch norm, ReLU: [B,cin,H,W] (and its classes) -> [B,cout,2H,2W]."""

    def __init__(self, cin: int, cout: int, norm: nn.Module, how: Mapping) -> None:
        super().__init__()
        self.conv, self.norm = ConvTranspose2d(cin, cout, **how), norm

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        return F.relu_(self.norm(self.conv(x), c))


class _Down(nn.Module):
    """Convolution 3x3, then 4x4 of stride 2, leaky ReLU after each: [B,cin,H,W] -> [B,cout,H/2,W/2]."""

    def __init__(self, cin: int, width: int, cout: int, how: Mapping) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv3x3(cin, width, **how), Conv2d(width, cout, 4, 2, 1, **how)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu_(self.conv2(F.leaky_relu_(self.conv1(x), SLOPE)), SLOPE)


def _glorot(weight: Tensor) -> Tensor:
    """Glorot's uniform weights, with gain sqrt(2) for 3x3 convolutions."""
    return nn.init.xavier_uniform_(weight, 2**0.5 if weight.ndim == 4 and weight.shape[-1] == 3 else 1.0)


def _times(multiples: tuple[float, ...], width: int) -> list[int]:
    return [max(1, int(m * width)) for m in multiples]


def _check(resolution: int, form: Form) -> None:
    if form == "resnet" and resolution not in _RESNET:
        raise UsageError(f"resolution={resolution}: SNGAN's ResNet makes square pictures of 32, 64 or 128 pixels; choose one of them, or form=cnn")
    if form == "cnn" and (resolution < 16 or resolution % 8):
        raise UsageError(f"resolution={resolution}: SNGAN's CNN makes square pictures of 16, 24, 32 ... pixels; choose a multiple of 8")
