"""R3GAN's networks: plain residual ConvNets, one the mirror of the other, without normalisation, styles, noise or minibatch statistics.

Huang, Gokaslan, Kuleshov, Tompkin: The GAN is dead; long live the GAN! A Modern Baseline GAN, NeurIPS 2024 (arXiv 2501.05441), configuration E. They
are made for the relativistic loss with R1 and R2 (`losses/relativistic.py`, `terms/r1.py`, `terms/r2.py`). Written from the paper alone.

From the paper:

    block                  x + conv1x1(act(b + grouped conv3x3(act(b + conv1x1(x))))): an inverted bottleneck, leaky ReLU, two biases, no others
    per resolution         2 blocks; 768 feature maps up to side 32, then half as many with every doubling; twice as many inside a block, in
                           groups of 16 (a cardinality of 96 at 768)
    G starts from          a learned 4x4 map of each channel, scaled by a linear map of z (64 numbers) and of an embedding of the class
    D ends in              a 4x4 filter for each channel, which leaves one number of it, and a linear map
    between resolutions    bilinear resampling, and a 1x1 convolution where the width changes
    initial values         Fixup's (Zhang, Dauphin, Ma, ICLR 2019): zero for the last convolution of a block, so that a fresh block is the identity,
                           He's times L^(-1/4) for the two before it, L the number of blocks; no equalised learning rate

With these the numbers of parameters at 256 pixels come out as published: 23.058 and 23.010 million.

Chosen here, as the paper leaves it open: the bilinear filter is [1,3,3,1] with zeros outside (ops/upfirdn.py), on the side of the 1x1 convolution
where maps are smaller (they commute); leaky ReLU's slope is 0.2; the 4x4 maps are N(0, 1) at first, every other map keeps the variance of its input;
with classes, vectors of 64 numbers, N(0, 1) in G, and D's logit is <linear map of its features, vector of the class> / 8, as in StyleGAN2. Where
autocast is on everything runs in its dtype, which should be bfloat16: nothing bounds the maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.nn.labels import needed

from .. import seam
from ..errors import UsageError, within
from ..nn.conv import Conv2d, Embedding, Linear
from ..ops.upfirdn import downsample2d, upsample2d
from ..rng import Rng

SLOPE = 0.2                                             # of leaky ReLU
RELU_GAIN = math.sqrt(2 / (1 + SLOPE**2))               # keeps the variance through it (He et al. 2015)


class Generator(seam.Generator):
    """z [B,z_dim] ~ N(0, 1) (and c int64 [B]) -> image [B,channels,S,S], unbounded, around [-1,1]. latent is z.

    resolution: S, a power of two from 8 to 1024. width: feature maps up to side `full_side`, then half as many with every doubling. blocks: per
    resolution. expansion: how many times wider a block is inside. group_size: channels of a group of its 3x3 convolution (one group where there are
    fewer). class_dim: size of the class embedding. Raises UsageError for other sizes, groups that don't come out even, and missing classes.
    """

    def __init__(self, resolution: int = 256, channels: int = 3, num_classes: int = 0, z_dim: int = 64, width: int = 768, blocks: int = 2,
                 full_side: int = 32, expansion: int = 2, group_size: int = 16, class_dim: int = 64) -> None:
        super().__init__()
        within(1, z_dim=z_dim, expansion=expansion, group_size=group_size, class_dim=class_dim)
        self.resolution, self.channels, self.num_classes, self.z_dim = resolution, channels, num_classes, z_dim
        widths = _widths(resolution, width, blocks, full_side)                    # {4: width, 8: ...}
        how = dict(expansion=expansion, group_size=group_size, scale=_fixup(blocks * len(widths)))
        first, last = widths[4], widths[resolution]
        self.basis = nn.Parameter(torch.randn(first, 4, 4))
        self.embed = Embedding(num_classes, class_dim, norm="none") if num_classes else None
        self.scales = _linear(z_dim + (class_dim if num_classes else 0), first)
        self.blocks = nn.ModuleDict({f"b{s}": nn.Sequential(*(Block(w, **how) for _ in range(blocks))) for s, w in widths.items()})
        self.up = nn.ModuleDict({f"b{s}": Up(a, b) for (_, a), (s, b) in pairwise(widths.items())})
        self.to_image = _conv1x1(last, channels)

    def forward(self, z: Tensor, c: Tensor | None = None, *, rng: Rng) -> seam.Generated:
        given = z if self.embed is None else torch.cat([z, self.embed(needed(c, self.num_classes))], 1)
        x = self.scales(given)[:, :, None, None] * self.basis                                     # [B,C,4,4]
        for side, blocks in self.blocks.items():
            x = blocks(self.up[side](x) if side in self.up else x)
        return seam.Generated(self.to_image(x), z, z, c)


class Discriminator(seam.Discriminator):
    """image [B,channels,S,S] (and c int64 [B]) -> logits [B].

    Keywords as in the generator. Features: "map_R", the map of side R after its blocks, R = S ... 4, and "pre_logits", what is left of
    "map_4" by its filters, a vector. Raises UsageError likewise.
    """

    def __init__(self, resolution: int = 256, channels: int = 3, num_classes: int = 0, width: int = 768, blocks: int = 2, full_side: int = 32,
                 expansion: int = 2, group_size: int = 16, class_dim: int = 64) -> None:
        super().__init__()
        within(1, expansion=expansion, group_size=group_size, class_dim=class_dim)
        self.resolution, self.channels, self.num_classes = resolution, channels, num_classes
        widths = dict(reversed(_widths(resolution, width, blocks, full_side).items()))            # {S: ..., 4: width}
        how = dict(expansion=expansion, group_size=group_size, scale=_fixup(blocks * len(widths)))
        self.stem = _conv1x1(channels, widths[resolution])
        self.blocks = nn.ModuleDict({f"b{s}": nn.Sequential(*(Block(w, **how) for _ in range(blocks))) for s, w in widths.items()})
        self.down = nn.ModuleDict({f"b{s}": Down(a, b) for (s, a), (_, b) in pairwise(widths.items())})
        self.gather = Gather(widths[4])
        self.to_logit = _linear(widths[4], class_dim if num_classes else 1)
        self.embed = Embedding(num_classes, class_dim, norm="none") if num_classes else None
        self.feature_info = {f"map_{s}": seam.FeatureInfo(w, s) for s, w in widths.items()} | {"pre_logits": seam.FeatureInfo(widths[4])}

    def forward(self, image: Tensor, c: Tensor | None = None, extra: Mapping[str, Tensor] | None = None,
                want: frozenset[str] = frozenset()) -> seam.Judged:
        x, features = self.stem(image), {}
        for side, blocks in self.blocks.items():
            x = features[f"map_{side[1:]}"] = blocks(x)
            x = self.down[side](x) if side in self.down else x
        h = features["pre_logits"] = self.gather(x)                                               # [B,C]
        out = self.to_logit(h)
        if self.embed is None:
            logits = out[:, 0]
        else:
            logits = (out * self.embed(needed(c, self.num_classes))).sum(1) / math.sqrt(out.shape[1])
        return seam.Judged(logits, {k: f for k, f in features.items() if k in want})


class Block(nn.Module):
    """[B,C,H,W] -> the same shape; the identity at first. scale: of the initial weights of the first two convolutions."""

    def __init__(self, width: int, *, expansion: int, group_size: int, scale: float) -> None:
        super().__init__()
        inside = expansion * width
        self.widen = _conv1x1(width, inside, RELU_GAIN * scale, bias="zeros")
        self.grouped = Grouped3x3(inside, group_size, RELU_GAIN * scale)
        self.narrow = _conv1x1(inside, width, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu_(self.widen(x), SLOPE)
        return self.narrow(F.leaky_relu_(self.grouped(h), SLOPE)).add_(x)


class Grouped3x3(nn.Module):
    """A 3x3 convolution with padding 1 in groups of `size` channels, and a bias: [B,C,H,W] -> [B,C,H,W]. weight [C,size,3,3]."""

    def __init__(self, channels: int, size: int, gain: float) -> None:
        super().__init__()
        self.groups = max(1, channels // size)
        if channels > size and channels % size:
            raise UsageError(f"group_size={size}: {channels} channels inside a block aren't a multiple of it; choose another width or group_size")
        fan_in = channels // self.groups * 9
        self.weight = nn.Parameter(torch.randn(channels, channels // self.groups, 3, 3) * (gain / math.sqrt(fan_in)))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=1, groups=self.groups)


class Up(nn.Module):
    """A 1x1 convolution where the width changes, then bilinear upsampling: [B,cin,H,W] -> [B,cout,2H,2W]."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = _conv1x1(cin, cout) if cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return upsample2d(self.conv(x))


class Down(nn.Module):
    """Bilinear downsampling, then a 1x1 convolution where the width changes: [B,cin,H,W] -> [B,cout,H/2,W/2]."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = _conv1x1(cin, cout) if cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(downsample2d(x))


class Gather(nn.Module):
    """Each channel's product with a filter of its own, a depthwise 4x4 convolution without padding: [B,C,4,4] -> [B,C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 4, 4) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight.to(x.dtype)).sum((2, 3))


def _conv1x1(cin: int, cout: int, gain: float = 1.0, bias: str = "none") -> Conv2d:
    return Conv2d(cin, cout, 1, norm="none", init=gain / math.sqrt(cin), bias=bias)


def _linear(cin: int, cout: int) -> Linear:
    return Linear(cin, cout, norm="none", init=1 / math.sqrt(cin))


def _fixup(blocks: int) -> float:
    """Of weights in branches of three layers, so that all blocks together move the output as one would: blocks^(-1/(2 * 3 - 2))."""
    return blocks ** -0.25


def _widths(resolution: int, width: int, blocks: int, full_side: int) -> dict[int, int]:
    """Feature maps by side, from 4 on."""
    within(1, width=width, blocks=blocks, full_side=full_side)
    if not isinstance(resolution, int) or not 8 <= resolution <= 1024 or resolution & (resolution - 1):
        raise UsageError(f"resolution={resolution}: r3gan makes square pictures of 8, 16, 32 ... 1024 pixels; choose one of them")
    sides = [4 << i for i in range(resolution.bit_length() - 2)]
    return {s: max(1, width * full_side // max(s, full_side)) for s in sides}
