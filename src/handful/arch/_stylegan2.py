"""Parts of StyleGAN2's networks: mapping, synthesis block, discriminator block, epilogue. Names of submodules are the released code's."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from handful.nn.labels import needed

from ..errors import UsageError
from ..nn.equalized import EqualConv2d, EqualLinear
from ..nn.minibatch import minibatch_stddev
from ..nn.modulate import ModulatedConv, ToRGB
from ..nn.precision import clamped
from ..nn.spectral import Norm
from ..ops.upfirdn import downsample2d, upsample2d

Architecture = Literal["skip", "orig", "resnet"]
SIDES = tuple(2**k for k in range(2, 11))


def sides_to(resolution: int) -> tuple[int, ...]:
    """4, 8, ... resolution. Raises UsageError for other sizes."""
    if resolution not in SIDES:
        raise UsageError(f"resolution={resolution}: StyleGAN2 makes square pictures of 4, 8, 16 ... or 1024 pixels; choose one of them")
    return tuple(s for s in SIDES if s <= resolution)


def widths(sides: tuple[int, ...], base: float, most: float) -> dict[int, int]:
    """Channels by side: min(base / side, most), as the releases have it (the paper's text says twice the base)."""
    return {s: max(1, int(min(base / s, most))) for s in sides}


def half_from(resolution: int, half_blocks: int) -> int:
    """The smallest side whose block runs in half precision when that is on: the highest `half_blocks` resolutions, never 4x4."""
    return max(resolution * 2 // 2**half_blocks, 8)


def normalised(x: Tensor) -> Tensor:
    """[B,n] divided by the root of its mean square."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """z [B,z_dim] and class c [B], each normalised where there is one, through `layers` dense layers -> [B,width]."""

    def __init__(self, z_dim: int, num_classes: int, width: int, layers: int, lr: float, *, average: bool) -> None:
        super().__init__()
        self.num_classes, self.layers = num_classes, layers
        self.embed = EqualLinear(num_classes, width) if num_classes else None
        cin = z_dim + (width if num_classes else 0)
        for i in range(layers):
            self.add_module(f"fc{i}", EqualLinear(cin if i == 0 else width, width, lr=lr, lrelu=True))
        if average:
            self.register_buffer("w_avg", torch.zeros(width))

    def forward(self, z: Tensor | None, c: Tensor | None) -> Tensor:
        parts = [] if z is None else [normalised(z)]
        if self.embed is not None:
            parts.append(normalised(self.embed.row(needed(c, self.num_classes))))
        x = torch.cat(parts, 1)
        for i in range(self.layers):
            x = getattr(self, f"fc{i}")(x)
        return x


class SynthesisBlock(nn.Module):
    """Features at side/2 and the image so far -> features at `side` and the image. cin 0: starts from a learned constant."""

    def __init__(self, cin: int, cout: int, w_dim: int, side: int, channels: int, architecture: Architecture, last: bool) -> None:
        super().__init__()
        residual = architecture == "resnet" and cin > 0
        self.const = None if cin else nn.Parameter(torch.randn(cout, side, side))
        self.conv0 = ModulatedConv(cin, cout, w_dim, side, up=True) if cin else None
        self.conv1 = ModulatedConv(cout, cout, w_dim, side, gain=math.sqrt(0.5) if residual else 1.0)
        self.torgb = ToRGB(cout, channels, w_dim) if last or architecture == "skip" else None
        self.skip = EqualConv2d(cin, cout, 1, resample="up", lrelu=False, gain=math.sqrt(0.5)) if residual else None
        self.side, self.convs = side, 2 if cin else 1

    def forward(self, x: Tensor | None, scale: Tensor | None, image: Tensor | None, ws: tuple[Tensor, ...], noise: list[Tensor | None],
                dtype: torch.dtype, limit: float | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """ws: the vectors of the convolutions and of ToRGB; noise: one for each convolution; dtype: of the features; x, scale: see nn/modulate.py."""
        x = (self.const[None] if x is None else x).to(dtype)
        skip = None
        if self.skip is not None:
            skip = self.skip(x if scale is None else x * scale.to(dtype)[:, :, None, None])
        if self.conv0 is not None:
            x, scale = self.conv0(x, scale, ws[0], noise[0], limit)
        x, scale = self.conv1(x, scale, ws[self.convs - 1], noise[-1], limit)
        if skip is not None:
            x, scale = skip.add_(x) if scale is None else skip.addcmul_(x, scale.to(dtype)[:, :, None, None]), None
        image = None if image is None else upsample2d(image)
        if self.torgb is not None:
            rgb = self.torgb(x, scale, ws[self.convs], limit)
            image = rgb if image is None else image + rgb
        return x, scale, image


class JudgingBlock(nn.Module):
    """Features at `side` -> features at side/2; `fromrgb` (architecture "skip" below the first block) adds the image, reduced, before."""

    def __init__(self, cin: int, cout: int, side: int, channels: int, architecture: Architecture, first: bool, norm: Norm) -> None:
        super().__init__()
        self.fromrgb = EqualConv2d(channels, cin, 1) if architecture == "skip" and not first else None
        self.conv0 = EqualConv2d(cin, cin, 3, norm=norm)
        self.residual = math.sqrt(0.5) if architecture == "resnet" else 1.0
        self.conv1 = EqualConv2d(cin, cout, 3, resample="down", gain=self.residual, norm=norm)
        self.skip = EqualConv2d(cin, cout, 1, resample="down", lrelu=False, gain=self.residual) if architecture == "resnet" else None
        self.side = side

    def forward(self, x: Tensor, image: Tensor | None, limit: float | None) -> tuple[Tensor, Tensor | None]:
        if self.fromrgb is not None:
            x = x + clamped(self.fromrgb(image.to(x.dtype)), limit)
        y = clamped(self.conv0(x), limit)
        y = clamped(self.conv1(y), None if limit is None else limit * self.residual)
        if self.skip is not None:
            y = self.skip(x).add_(y)
        return y, None if image is None else downsample2d(image)


class Epilogue(nn.Module):
    """Features [B,C,4,4] -> pre-logits [B,C] and logits [B,cmap_dim or 1]."""

    def __init__(self, width: int, channels: int, out: int, group: int, stddevs: int, fromrgb: bool, norm: Norm) -> None:
        super().__init__()
        self.fromrgb = EqualConv2d(channels, width, 1) if fromrgb else None
        self.conv = EqualConv2d(width + (stddevs if group > 1 else 0), width, 3, norm=norm)
        self.fc = EqualLinear(width * 16, width, lrelu=True)
        self.out = EqualLinear(width, out)
        self.group, self.stddevs = group, stddevs

    def forward(self, x: Tensor, image: Tensor | None, limit: float | None) -> tuple[Tensor, Tensor]:
        if self.fromrgb is not None:
            x = x + self.fromrgb(image)
        if self.group > 1:
            x = minibatch_stddev(x, self.group, self.stddevs)
        x = self.fc(clamped(self.conv(x), limit).flatten(1))
        return x, self.out(x)
