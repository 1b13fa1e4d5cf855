"""FastGAN: a light generator with skip-layer excitation, and a discriminator at two scales.

Liu, Zhu, Song, Elgammal, "Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image Synthesis", ICLR 2021.
Defaults are the released code's (first public release, January 2021); the paper's text differs, and where it does a keyword has it:

    channels at >= 512 pixels    16 and 8 (channel_table="released")        3 (channel_table="paper")
    excitation links             4->64, 8->128, 16->256, 32->512            without 4->64 (excitation="paper")
    activation inside them       swish                                      leaky ReLU (sle_activation="leaky_relu")
    links in the discriminator   a->d, b->e, c->f                           none (sle=False in D)
    activation of the images     none at 256 and 512 pixels, tanh at 1024   not said; here tanh (output_activation)

The discriminator's three decoders and their loss are the term `reconstruction`; the soft hinge is a loss; DiffAugment an augmentation.
Beyond paper and release: 32 to 128 pixels (the same tables, cut off; the second scale has min(128, size / 2) pixels), classes (FastGAN itself
is unconditional: here an embedding is added to z and a projection to D's logits), `norm`, statistics of batch norm over all processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.nn.labels import needed

from .. import seam
from ..errors import UsageError
from ..nn.conv import Conv2d, Embedding, ToMap
from ..nn.excite import Activation, SkipExcite
from ..nn.norm import BatchNorm2d
from ..nn.spectral import Norm
from ..nn.upblock import UpBlock
from ..rng import Rng

Table = Literal["released", "paper"]
Links = Literal["released", "paper"] | list[tuple[int, int]]

_SIZES = (32, 64, 128, 256, 512, 1024)
_G = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125}          # channels / ngf of G's features
_D = {8: 16, 16: 8, 32: 4, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125}                # channels / ndf; D's feature at r takes 2r
_LINKS = {"released": ((4, 64), (8, 128), (16, 256), (32, 512)), "paper": ((8, 128), (16, 256), (32, 512))}


class Generator(seam.Generator):
    """z [B,z_dim] ~ N(0, 1) -> image [B,channels,S,S] and extra["small"] [B,channels,s,s], s = min(128, S/2); in [-1,1] with tanh.
    side_image=False: no small image (CHAIN's form, for a discriminator that looks at one scale).

    resolution: S, a power of two from 32 to 1024. ngf: base width. num_classes > 0: a learned vector per class is added to z.
    excitation: pairs (low, high) of resolutions, or those of the release or the paper; pairs beyond S are left out. sle=False: none of them.
    sync_batch_norm: batch statistics over all processes. Noise is drawn anew in every forward, in evaluation too, as released.
    Raises UsageError for other sizes and for links that don't go up.
    """

    has_batch_stats = True

    def __init__(self, resolution: int = 256, channels: int = 3, num_classes: int = 0, z_dim: int = 256, ngf: float = 64, sle: bool = True,
                 excitation: Links = "released", sle_activation: Activation = "swish", output_activation: Literal["tanh", "none"] = "tanh",
                 channel_table: Table = "released", norm: Norm = "spectral", sync_batch_norm: bool = False,
                 side_image: bool = True) -> None:
        super().__init__()
        _check_size(resolution)
        self.resolution, self.channels, self.num_classes, self.z_dim = resolution, channels, num_classes, z_dim
        self.output_activation = output_activation
        self.small = min(128, resolution // 2)
        self.links = {high: low for low, high in _links(excitation) if high <= resolution} if sle else {}
        width = _widths(_G, ngf, channel_table)
        how = dict(norm=norm, sync=sync_batch_norm)

        self.embed = nn.Embedding(num_classes, z_dim) if num_classes else None
        self.first = ToMap(z_dim, 2 * width[4], 4, norm=norm)
        self.first_bn = BatchNorm2d(2 * width[4], sync=sync_batch_norm)
        self.up = nn.ModuleDict()
        r = 8
        while r <= resolution:
            # Every second stage has two convolutions and noise: 8, 32, 128, 512.
            block = _UpBlockComp if r in (8, 32, 128, 512) else UpBlock
            self.up[str(r)] = block(width[r // 2], width[r], **how)
            r *= 2
        self.excite = nn.ModuleDict({str(high): SkipExcite(width[low], width[high], activation=sle_activation, norm=norm)
                                     for high, low in self.links.items()})
        self.to_small = Conv2d(width[self.small], channels, 1, norm=norm) if side_image else None
        self.to_image = Conv2d(width[resolution], channels, 3, padding=1, norm=norm)

    def forward(self, z: Tensor, c: Tensor | None = None, *, rng: Rng) -> seam.Generated:
        # All noise first, so that what follows is one graph for a compiler.
        noise = {r: [rng.randn(z.shape[0], 1, int(r), int(r)) for _ in range(2)] for r, b in self.up.items() if isinstance(b, _UpBlockComp)}
        latent = z if self.embed is None else z + self.embed(needed(c, self.num_classes))
        image, small = self.synthesise(latent, noise)
        return seam.Generated(image, latent, z, c, {} if small is None else {"small": small})

    def synthesise(self, latent: Tensor, noise: Mapping[str, list[Tensor]]) -> tuple[Tensor, Tensor | None]:
        """latent [B,z_dim], noise two maps [B,1,r,r] for each stage r that takes some -> the image and the small image, where there is one."""
        x = F.glu(self.first_bn(self.first(latent)), 1)
        features = {4: x}
        for name, block in self.up.items():
            r = int(name)
            x = block(x, *noise[name]) if name in noise else block(x)
            if r in self.links:
                x = self.excite[name](features[self.links[r]], x)
            features[r] = x
        image, small = self.to_image(x), None if self.to_small is None else self.to_small(features[self.small])
        if self.output_activation == "tanh":
            return image.tanh(), None if small is None else small.tanh()
        return image, small


class Discriminator(seam.Discriminator):
    """image [B,channels,S,S], extra["small"] [B,channels,s,s] -> 50 logits an image: 5x5 of the large scale, then 5x5 of the small one.

    Without `extra` the small scale is the nearest-neighbour reduction of the image (`extra_of`), as for reals. D(x) is the mean of all logits.
    Features: "big_R" for R = min(S,256) ... 8 (ndf=64: 256 channels at 16, 512 at 8), "small_R" for R = s/2 ... 8 (256 channels at 8),
    "pre_logits" (1024 channels at 8, before the last convolution of the large scale).
    sle: the links a->d, b->e, c->f of the release, three octaves apart, where both ends exist. num_classes > 0: a projection of the last
    pooled feature onto a learned vector per class is added to all logits. Raises UsageError for sizes that aren't a power of two from 32 to 1024.
    """

    has_batch_stats = True

    def __init__(self, resolution: int = 256, channels: int = 3, num_classes: int = 0, ndf: float = 64, sle: bool = True,
                 sle_activation: Activation = "swish", channel_table: Table = "released", norm: Norm = "spectral",
                 sync_batch_norm: bool = False) -> None:
        super().__init__()
        _check_size(resolution)
        self.resolution, self.channels, self.num_classes = resolution, channels, num_classes
        self.small = min(128, resolution // 2)
        width = _widths(_D, ndf, channel_table)
        how = dict(norm=norm, sync=sync_batch_norm)
        start, first_small = min(resolution, 256), self.small // 2

        self.stem = _stem(resolution, channels, width, **how)
        self.down, self.excite = nn.ModuleDict(), nn.ModuleDict()
        self.feature_info = {f"big_{start}": seam.FeatureInfo(width[2 * start], start)}
        r = start // 2
        while r >= 8:
            self.down[str(r)] = _DownComp(width[4 * r], width[2 * r], **how)
            if sle and 8 * r <= start:
                self.excite[str(r)] = SkipExcite(width[16 * r], width[2 * r], activation=sle_activation, norm=norm)
            self.feature_info[f"big_{r}"] = seam.FeatureInfo(width[2 * r], r)
            r //= 2
        self.head = nn.Sequential(Conv2d(width[16], width[8], 1, norm=norm), BatchNorm2d(width[8], sync=sync_batch_norm), nn.LeakyReLU(0.2))
        self.to_logits = Conv2d(width[8], 1, 4, norm=norm)
        self.feature_info["pre_logits"] = seam.FeatureInfo(width[8], 8)

        self.small_stem = nn.Sequential(Conv2d(channels, width[4 * first_small], 4, 2, 1, norm=norm), nn.LeakyReLU(0.2))
        self.small_down = nn.ModuleDict()
        self.feature_info[f"small_{first_small}"] = seam.FeatureInfo(width[4 * first_small], first_small)
        r = first_small // 2
        while r >= 8:
            self.small_down[str(r)] = nn.Sequential(*_down(width[8 * r], width[4 * r], **how))
            self.feature_info[f"small_{r}"] = seam.FeatureInfo(width[4 * r], r)
            r //= 2
        self.small_to_logits = Conv2d(width[32], 1, 4, norm=norm)
        self.embed = Embedding(num_classes, width[8], norm=norm) if num_classes else None

    def extra_of(self, image: Tensor) -> Mapping[str, Tensor]:
        return {"small": F.interpolate(image, size=self.small, mode="nearest")}

    def forward(self, image: Tensor, c: Tensor | None = None, extra: Mapping[str, Tensor] | None = None,
                want: frozenset[str] = frozenset()) -> seam.Judged:
        small = (extra or self.extra_of(image))["small"]
        x = self.stem(image)
        features = {f"big_{x.shape[2]}": x}
        for name, block in self.down.items():
            x = block(x)
            if name in self.excite:
                x = self.excite[name](features[f"big_{8 * int(name)}"], x)
            features[f"big_{name}"] = x
        x = features["pre_logits"] = self.head(x)
        logits = self.to_logits(x).flatten(1)                                                   # [B,1,5,5] -> [B,25]

        y = self.small_stem(small)
        features[f"small_{y.shape[2]}"] = y
        for name, block in self.small_down.items():
            y = features[f"small_{name}"] = block(y)
        logits = torch.cat([logits, self.small_to_logits(y).flatten(1)], 1)                     # [B,50]
        if self.embed is not None:
            logits = logits + (self.embed(needed(c, self.num_classes)) * x.mean((2, 3))).sum(1, keepdim=True)
        return seam.Judged(logits, {k: f for k, f in features.items() if k in want})


class _UpBlockComp(nn.Module):
    """An UpBlock with noise before its batch norm, then a second convolution of the same kind without upsampling."""

    def __init__(self, cin: int, cout: int, *, norm: Norm, sync: bool) -> None:
        super().__init__()
        self.first = UpBlock(cin, cout, norm=norm, sync=sync)
        self.conv = Conv2d(cout, 2 * cout, 3, padding=1, norm=norm)
        self.bn = BatchNorm2d(2 * cout, sync=sync)
        self.noise = nn.ParameterList(torch.zeros(1) for _ in range(2))

    def forward(self, x: Tensor, noise: Tensor, noise2: Tensor) -> Tensor:
        x = self.first.conv(x)
        x = F.glu(self.first.bn(x + self.noise[0] * noise), 1)
        x = self.conv(x)
        return F.glu(self.bn(x + self.noise[1] * noise2), 1)


class _DownComp(nn.Module):
    """Halves the side: the mean of a path with two convolutions and a path with average pooling and one."""

    def __init__(self, cin: int, cout: int, *, norm: Norm, sync: bool) -> None:
        super().__init__()
        self.main = nn.Sequential(*_down(cin, cout, norm=norm, sync=sync),
                                  Conv2d(cout, cout, 3, padding=1, norm=norm), BatchNorm2d(cout, sync=sync), nn.LeakyReLU(0.2))
        self.direct = nn.Sequential(nn.AvgPool2d(2), Conv2d(cin, cout, 1, norm=norm), BatchNorm2d(cout, sync=sync), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.main(x) + self.direct(x)) * 0.5


def _down(cin: int, cout: int, *, norm: Norm, sync: bool) -> list[nn.Module]:
    return [Conv2d(cin, cout, 4, 2, 1, norm=norm), BatchNorm2d(cout, sync=sync), nn.LeakyReLU(0.2)]


def _stem(resolution: int, channels: int, width: Mapping[int, int], *, norm: Norm, sync: bool) -> nn.Sequential:
    """The image to the first feature, at most 256 pixels a side."""
    if resolution == 1024:
        return nn.Sequential(Conv2d(channels, width[1024], 4, 2, 1, norm=norm), nn.LeakyReLU(0.2),
                             *_down(width[1024], width[512], norm=norm, sync=sync))
    if resolution == 512:
        return nn.Sequential(Conv2d(channels, width[512], 4, 2, 1, norm=norm), nn.LeakyReLU(0.2))
    return nn.Sequential(Conv2d(channels, width[2 * resolution], 3, padding=1, norm=norm), nn.LeakyReLU(0.2))


def _widths(table: Mapping[int, float], base: float, which: Table) -> dict[int, int]:
    """Channels by resolution. The paper has three at 512 pixels and more; D's entry for r belongs to its feature at r/2."""
    few = 512 if table is _G else 1024
    return {r: 3 if which == "paper" and r >= few else max(1, round(m * base)) for r, m in table.items()}


def _links(excitation: Links) -> tuple[tuple[int, int], ...]:
    links = _LINKS[excitation] if isinstance(excitation, str) else tuple(tuple(pair) for pair in excitation)
    for low, high in links:
        if low not in _G or high not in _G or not 4 <= low < high or high == 4:
            raise UsageError(f"excitation: {low}->{high} is no link; give pairs of resolutions (low, high), powers of two from 4 to 1024")
    return links


def _check_size(resolution: int) -> None:
    if resolution not in _SIZES:
        raise UsageError(f"resolution={resolution}: FastGAN makes square pictures of 32, 64, 128, 256, 512 or 1024 pixels; choose one of them")
