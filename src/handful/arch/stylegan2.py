"""StyleGAN2: a style-based generator without normalisation artefacts, and a residual discriminator, as trained by StyleGAN2-ADA.

Karras, Laine, Aittala, Hellsten, Lehtinen, Aila, "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020; Karras, Aittala, Hellsten,
Laine, Lehtinen, Aila, "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020. Defaults are those of the latter's PyTorch
release; parameters have its names (`synthesis.b8.conv0.affine.weight`), but for the discriminator's first layer, `stem` (interop/official_names.py).

    channels at side r          min(32768/r, 512) (channel_base=32768)       min(65536/r, 512) in the paper's text, from 512 pixels on
    classes in D                normalised embedding (mapping_layers=0, as in paper and TensorFlow release)      8 dense layers in the PyTorch one
    projection on the class     divided by sqrt(cmap_dim)                    the paper doesn't mention the divisor

Where this differs from the release: w_avg moves once per step of G, by the mean of the whole batch (there in every forward, by each process
for itself); a minibatch group is the largest divisor of the batch up to the one asked for (there an error); the fp32 mode has no clamp, which is
what the release's --fp32 does; style mixing lives in the generator's training mode, with one cutoff per batch (there in the loss, per micro-batch).

Gradients that aren't finite become 0 in the trainer (there infinities become +-1e5).

Precision: where autocast is on, the blocks of the highest `half_blocks` resolutions run in its dtype, and all else (mapping, styles, demodulation,
the sum of RGB, D's 4x4 epilogue) in that of the parameters; without it everything does. `conv_clamp` acts with half precision alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from .. import seam
from ..errors import UsageError, within
from ..nn.equalized import EqualConv2d
from ..nn.precision import clamped, half_type, no_autocast
from ..nn.spectral import Norm
from ..ops.conv import laid_out
from ..rng import Rng
from . import _stylegan2 as parts
from ._stylegan2 import Architecture

Noise = list[Tensor] | Literal["const", "none"]


class Generator(seam.Generator):
    """z [B,z_dim] ~ N(0, 1) (and c int64 [B]) -> w [B,w_dim] -> ws [B,num_ws,w_dim] -> image [B,channels,S,S], unbounded, around [-1,1].

    resolution: S, a power of two from 4 to 1024. channel_base, channel_max: min(channel_base / r, channel_max) feature maps at side r.
    architecture: "skip" an image at every side, summed; "orig" at the last; "resnet" likewise, with residual blocks. mapping_layers: depth of
    z -> w (8; 2 in the release's `auto` and `cifar`); mapping_lr: their learning-rate multiplier. style_mixing: in training mode, the
    probability that w of a second z rules from a random layer on (0 off). w_avg_decay: per step of G. half_blocks, conv_clamp: see above.
    The first `ws` index of ToRGB is that of the next block's first convolution. `Generated.latent` is ws; `stats["w"]` is w before mixing.
    Raises UsageError for other sizes, and where classes are missing.
    """

    def __init__(self, resolution: int = 256, channels: int = 3, num_classes: int = 0, z_dim: int = 512, w_dim: int = 512,
                 channel_base: int = 32768, channel_max: int = 512, architecture: Architecture = "skip", mapping_layers: int = 8,
                 mapping_lr: float = 0.01, style_mixing: float = 0.9, w_avg_decay: float = 0.995, half_blocks: int = 4,
                 conv_clamp: float | None = 256.0) -> None:
        super().__init__()
        within(1, z_dim=z_dim, w_dim=w_dim, channel_base=channel_base, channel_max=channel_max)
        within(0, mapping_layers=mapping_layers, half_blocks=half_blocks, conv_clamp=conv_clamp)
        within(0, 1, style_mixing=style_mixing, w_avg_decay=w_avg_decay)
        within(1e-9, mapping_lr=mapping_lr)
        self.resolution, self.channels, self.num_classes, self.z_dim, self.w_dim = resolution, channels, num_classes, z_dim, w_dim
        self.style_mixing, self.w_avg_decay, self.conv_clamp = style_mixing, w_avg_decay, conv_clamp
        sides = parts.sides_to(resolution)
        width = parts.widths(sides, channel_base, channel_max)
        self.half_from = parts.half_from(resolution, half_blocks)
        self.synthesis = nn.Module()
        for s in sides:
            block = parts.SynthesisBlock(width.get(s // 2, 0), width[s], w_dim, s, channels, architecture, last=s == resolution)
            self.synthesis.add_module(f"b{s}", block)
        self.mapping = parts.Mapping(z_dim, num_classes, w_dim, mapping_layers, mapping_lr, average=True)
        self.num_ws = 2 * len(sides)
        self.noise_sides = [s for s in sides for _ in range(1 if s == 4 else 2)]

    def forward(self, z: Tensor, c: Tensor | None = None, *, rng: Rng) -> seam.Generated:
        # All random numbers first, so that what follows is one graph for a compiler.
        noise = self.noise(len(z), rng)
        mixing = self.training and self.style_mixing > 0
        if mixing:
            other = rng.fork("mixing").randn(len(z), self.z_dim)
            # One number on the device for the whole batch, the same in every micro-batch and on every rank.
            u = rng.fork("cutoff", batch=1, slots=range(1)).rand(1)
            w, second = self.map(torch.cat([z, other]), None if c is None else torch.cat([c, c])).chunk(2)
            ws = torch.where(self._first(u), w[:, None], second[:, None])
        else:
            w = self.map(z, c)
            ws = w[:, None].expand(-1, self.num_ws, -1)
        return seam.Generated(self.synthesise(ws, noise), ws, z, c, stats={"w": w.detach()})

    def commit(self, means: Mapping[str, Tensor]) -> None:
        self.mapping.w_avg.lerp_(means["w"].to(self.mapping.w_avg.dtype), 1 - self.w_avg_decay)

    def sample(self, z: Tensor, c: Tensor | None = None, *, rng: Rng, truncation: float = 1.0) -> Tensor:
        """Images for people: w is drawn towards w_avg by `truncation` (1 none, 0 the average picture), noise comes from rng, nothing is mixed."""
        ws = self.map(z, c)[:, None].expand(-1, self.num_ws, -1)
        return self.synthesise(self.truncate(ws, truncation), self.noise(len(z), rng))

    def map(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """w [B,w_dim] of z [B,z_dim] and c [B]."""
        with no_autocast(z):
            return self.mapping(z.to(self.mapping.w_avg.dtype), c)

    def truncate(self, ws: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """w_avg + psi (ws - w_avg) for all of ws [B,num_ws,w_dim], or for the first `cutoff` of each."""
        near = torch.lerp(self.mapping.w_avg.to(ws.dtype), ws[:, :cutoff], psi)
        return near if cutoff is None else torch.cat([near, ws[:, cutoff:]], 1)

    def noise(self, n: int, rng: Rng) -> list[Tensor]:
        """A map N(0, 1) [n,1,s,s] for each convolution."""
        return [rng.randn(n, 1, s, s) for s in self.noise_sides]

    def synthesise(self, ws: Tensor, noise: Noise = "const") -> Tensor:
        """ws [B,num_ws,w_dim] -> image [B,channels,S,S]. noise: a map for each convolution (`noise`), "const" the stored ones, or "none"."""
        half, full = half_type(ws), self.mapping.w_avg.dtype
        limit = self.conv_clamp if half else None
        blocks = list(self.synthesis.children())
        if isinstance(noise, str):
            stored = [conv.noise_const for b in blocks for conv in (b.conv0, b.conv1) if conv is not None]
            noise = {"const": stored, "none": [None] * len(stored)}[noise]
        x = scale = image = None
        at = 0
        with no_autocast(ws):
            each = ws.to(full).unbind(1)
            for b in blocks:
                dtype = half if half and b.side >= self.half_from else full
                x, scale, image = b(x, scale, image, each[at:at + b.convs + 1], noise[at:at + b.convs], dtype, limit)
                at += b.convs
        return image

    def _first(self, u: Tensor) -> Tensor:
        """Which of ws are the first z's, [.,num_ws,1], by u ~ U[0,1) [.]: the cutoff is uniform over 1 .. num_ws-1, or num_ws (no mixing)."""
        cutoff = torch.where(u < self.style_mixing, 1 + (u / self.style_mixing * (self.num_ws - 1)).floor(), float(self.num_ws))
        return torch.arange(self.num_ws, device=u.device)[:, None] < cutoff[:, None, None]


class Discriminator(seam.Discriminator):
    """image [B,channels,S,S] (and c int64 [B]) -> logits [B].

    resolution, channel_base, channel_max: as in the generator; capacity multiplies both channel numbers (paper, figure 8b). architecture: "resnet"
    residual blocks; "orig" plain; "skip" the image is added at every side. minibatch_group: samples per group of the minibatch standard deviation
    (1 none; where it doesn't divide the batch the largest number below that does), minibatch_channels: how many channels it makes.
    num_classes > 0: projection on an embedding of the class, divided by sqrt(its size); mapping_layers: dense layers after it: 0 in the paper and
    in the TensorFlow release (so in the published conditional CIFAR networks), 8 in networks trained with the PyTorch release; mapping_lr: their
    learning-rate multiplier. norm="spectral": spectral norm on the two 3x3 convolutions of every block and on that at 4x4, nowhere else (not the
    stem, shortcuts, dense layers), as compared with in the paper's appendix D.2; R1 and the rest stay.
    Features: "map_R", R = S/2 ... 4, the map of side R ("map_4" enters the epilogue), and "pre_logits", a vector.
    Raises UsageError for sizes that aren't a power of two from 4 to 1024, and where classes are missing.
    """

    stops = True

    def __init__(self, resolution: int = 256, channels: int = 3, num_classes: int = 0, channel_base: int = 32768, channel_max: int = 512,
                 capacity: float = 1.0, architecture: Architecture = "resnet", minibatch_group: int = 4, minibatch_channels: int = 1,
                 mapping_layers: int = 0, mapping_lr: float = 0.01, half_blocks: int = 4, conv_clamp: float | None = 256.0,
                 norm: Norm = "none") -> None:
        super().__init__()
        within(1, channel_base=channel_base, channel_max=channel_max, minibatch_group=minibatch_group, minibatch_channels=minibatch_channels)
        within(0, mapping_layers=mapping_layers, half_blocks=half_blocks, conv_clamp=conv_clamp)
        within(1e-9, capacity=capacity, mapping_lr=mapping_lr)
        self.resolution, self.channels, self.num_classes, self.conv_clamp = resolution, channels, num_classes, conv_clamp
        self.has_batch_stats = minibatch_group > 1
        sides = parts.sides_to(resolution)
        width = parts.widths(sides, channel_base * capacity, channel_max * capacity)
        if width[4] % minibatch_channels:
            raise UsageError(f"minibatch_channels={minibatch_channels}: must divide the {width[4]} feature maps at 4x4")
        self.half_from = parts.half_from(resolution, half_blocks)
        self.sides = sides[:0:-1]                                               # resolution ... 8
        self.follows = architecture == "skip" and resolution > 4                # whether the image accompanies the features
        self.widest = max(width.values())
        self.stem = EqualConv2d(channels, width[resolution], 1)
        for s in self.sides:
            self.add_module(f"b{s}", parts.JudgingBlock(width[s], width[s // 2], s, channels, architecture, first=s == resolution, norm=norm))
        self.mapping = parts.Mapping(0, num_classes, width[4], mapping_layers, mapping_lr, average=False) if num_classes else None
        self.b4 = parts.Epilogue(width[4], channels, width[4] if num_classes else 1, minibatch_group, minibatch_channels, fromrgb=self.follows,
                                 norm=norm)
        self.feature_info = {f"map_{s // 2}": seam.FeatureInfo(width[s // 2], s // 2) for s in self.sides}
        self.feature_info |= {"map_4": seam.FeatureInfo(width[4], 4), "pre_logits": seam.FeatureInfo(width[4])}

    def forward(self, image: Tensor, c: Tensor | None = None, extra: Mapping[str, Tensor] | None = None,
                want: frozenset[str] = frozenset(), *, logits: bool = True) -> seam.Judged:
        half, full = half_type(image), self.b4.fc.weight.dtype
        limit = self.conv_clamp if half else None
        starts_half = half is not None and self.resolution >= self.half_from
        # The stem runs under autocast where it may be half, so that what a wrapper adds to it runs there like any other layer.
        with nullcontext() if starts_half else no_autocast(image):
            x = self.stem(laid_out(image.to(full), self.widest))
        with no_autocast(image):
            x = clamped(x, limit)
            image = image.to(full) if self.follows else None
            features = {} if self.sides else {"map_4": x}
            for s in self.sides:
                x, image = getattr(self, f"b{s}")(x.to(half if half and s >= self.half_from else full), image, limit)
                features[f"map_{s // 2}"] = x
                if not logits and want <= features.keys():
                    return seam.Judged(x.new_empty(0), {k: features[k] for k in want})
            features["pre_logits"], out = self.b4(x.to(full), image, limit)
            if self.mapping is None:
                found = out[:, 0]
            else:
                found = (out * self.mapping(None, c)).sum(1) / math.sqrt(out.shape[1])
        return seam.Judged(found, {k: f for k, f in features.items() if k in want})
