"""Parts of Projected GAN's networks: the feature network, its random projection, a head of the discriminator, a block of the generator."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.nn.labels import needed

from ..errors import UsageError
from ..features.efficientnet import EfficientNet
from ..features.extractor import Extractor
from ..features.inception import Inception
from ..features.vgg16 import LPIPSVGG16
from ..nn.conditional_norm import ConditionalBatchNorm2d
from ..nn.conv import Conv2d, Embedding, Linear, UpConv2d, fan_in
from ..nn.norm import BatchNorm2d

CLASS_WIDTH, CLASS_MAPS = 128, 64        # of a class's learned vector, and of what is compared with it in a head


# Of each network its class, and stages of strides 4, 8, 16 and, but for VGG16, 32.
NETWORKS: dict[str, type[Extractor]] = {"efficientnet": EfficientNet, "inception": Inception, "vgg16": LPIPSVGG16}
TAPS = {"efficientnet": ("stage2", "stage3", "stage5", "stage7"), "inception": ("stem1", "block3", "block8", "block11"),
        "vgg16": ("relu3_3", "relu4_3", "relu5_3")}


@cache
def sides(network: str, size: int) -> dict[str, int]:
    """The side in pixels of every map of images of this size; only of those that are not empty. Nothing is computed: tensors have shapes alone."""
    found = {}
    with suppress(RuntimeError, ValueError, UsageError):              # where nothing is left of the image
        for name, x in _shapes_alone(network)._stages(torch.zeros(1, 3, size, size, device="meta")):
            found[name] = x.shape[2]
    return found


@cache
def _shapes_alone(network: str) -> Extractor:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return NETWORKS[network]()


class Projection(nn.Module):
    """Random mixing of channels and scales, which never changes: maps [B,C_i,H_i,W_i], the finest first -> as many maps [B,D_i,H'_i,W'_i].

    Each map goes through a 1x1 convolution to c_i = width 2^i channels (cross-channel mixing). From the coarsest to the finest, the sum of the map
    and of what came from below is enlarged to the size of the next one, the finest by 2, and goes through a 1x1 convolution (cross-scale mixing) to
    D_i = c_(i-1) channels, D_0 = width. Weights and biases are drawn by torch's own rule. They are buffers under names of their own, so that
    they are saved with the run, and whatever looks for layers to train or to change finds none.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        mixed = [width * 2**i for i in range(len(channels))]
        self.channels = [width, *mixed[:-1]]
        self.across_channels = nn.ModuleList(_Fixed(*pair) for pair in zip(channels, mixed))
        self.across_scales = nn.ModuleList(_Fixed(*pair) for pair in zip(mixed, self.channels))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        out: list[Tensor] = []
        for i in reversed(range(len(maps))):
            x = self.across_channels[i](maps[i])
            x = x + out[-1] if out else x
            size = maps[i - 1].shape[2:] if i else [2 * side for side in x.shape[2:]]
            out.append(self.across_scales[i](F.interpolate(x, size, mode="bilinear", align_corners=True)))
        return out[::-1]


class _Fixed(nn.Module):
    """A 1x1 convolution that is never trained: [B,cin,H,W] -> [B,cout,H,W]."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        drawn = nn.Conv2d(cin, cout, 1)
        self.register_buffer("mix", drawn.weight.detach())
        self.register_buffer("shift", drawn.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.mix, self.shift)


class Head(nn.Module):
    """[B,cin,H,W] (and classes [B]) -> its last map [B,widths[-1],h,w], h = H / 2^len(widths), and logits [B,(h-3)(w-3)].

    separable: each halving is a 3x3 convolution of each channel by itself, a 1x1 convolution and average pooling, instead of one 4x4 convolution.
    num_classes > 0: a logit is the product, divided by sqrt(64), of 64 numbers at its place with 64 that are computed from a learned vector of the
    class.
    """

    def __init__(self, cin: int, widths: Sequence[int], *, separable: bool, num_classes: int, sync: bool) -> None:
        super().__init__()
        down = _separable if separable else _plain
        self.num_classes = num_classes
        self.down = nn.Sequential(*(layer for pair in pairwise([cin, *widths]) for layer in down(*pair, sync)))
        self.to_logits = Conv2d(widths[-1] if widths else cin, CLASS_MAPS if num_classes else 1, 4, init=fan_in)
        if num_classes:
            self.embed = Embedding(num_classes, CLASS_WIDTH, norm="none")
            self.to_class = Linear(CLASS_WIDTH, CLASS_MAPS, norm="none", init=fan_in, bias="uniform")

    def forward(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.down(x)
        y = self.to_logits(x)
        if self.num_classes:
            wanted = F.leaky_relu(self.to_class(self.embed(needed(c, self.num_classes))), 0.2).to(y.dtype)        # [B,64]
            y = (y * wanted[:, :, None, None]).sum(1) / CLASS_MAPS**0.5
        return x, y.flatten(1)


def _plain(cin: int, cout: int, sync: bool) -> list[nn.Module]:
    return [Conv2d(cin, cout, 4, 2, 1, init=fan_in, bias="uniform"), BatchNorm2d(cout, sync=sync, std=0.0), nn.LeakyReLU(0.2)]


def _separable(cin: int, cout: int, sync: bool) -> list[nn.Module]:
    return [Conv2d(cin, cin, 3, padding=1, groups=cin, init=fan_in), Conv2d(cin, cout, 1, init=fan_in), BatchNorm2d(cout, sync=sync, std=0.0),
            nn.LeakyReLU(0.2), nn.AvgPool2d(2)]


class Block(nn.Module):
    """[B,cin,H,W] -> [B,cout,2H,2W]: nearest upsampling, conv3x3 to 2 cout channels, batch norm, GLU; with `noise`, noise before the batch norm, and
    then the same without upsampling. vector: length of the vector of the class that gives batch norm its gain and bias; 0: none."""

    def __init__(self, cin: int, cout: int, *, noise: bool, vector: int, sync: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList([UpConv2d(cin, 2 * cout, init=fan_in)])
        if noise:
            self.convs.append(Conv2d(cout, 2 * cout, 3, padding=1, init=fan_in))
        self.norms = nn.ModuleList(ConditionalBatchNorm2d(2 * cout, vector=vector, sync=sync, init=fan_in) for _ in self.convs)
        self.strengths = nn.ParameterList(torch.zeros(1) for _ in self.convs if noise)

    def forward(self, x: Tensor, condition: Tensor | None, noise: Sequence[Tensor]) -> Tensor:
        """noise: a map [B,1,2H,2W] for each of `strengths`."""
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            x = conv(x)
            if self.strengths:
                x = x + self.strengths[i] * noise[i]
            x = F.glu(norm(x, condition), 1)
        return x
