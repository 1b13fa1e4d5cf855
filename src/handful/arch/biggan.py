"""BigGAN: residual networks whose generator hears the class in every batch norm, and a projection discriminator.

Brock, Donahue, Simonyan, "Large Scale GAN Training for High Fidelity Natural Image Synthesis", ICLR 2019; the projection is Miyato and Koyama's,
ICLR 2018. Defaults are, by resolution:

    32     DiffAugment's release for CIFAR, which DigGAN's takes over: width 64, z of 128 numbers in the first layer alone, a table of scales and
           shifts per class in every batch norm, no attention, N(0, 0.02^2), D with sum pooling at 8x8. The width study: width 32, 16, 8.
    64     DigGAN's release in StudioGAN, Tiny-ImageNet: width 80, z of 100 in 5 chunks, class embedding of 128, attention at 32, orthogonal.
    128    likewise for CUB-200, and the paper's ImageNet form: width 96, z of 120 in 6 chunks, attention at 64.
    256    the paper's table 8; nothing of ours was published at this size.

At 64 and 128 pixels D's shortcuts see relu(x) in every block but the first, the identity of a last block that changes no width too: StudioGAN's ReLU
works in place, and x is its input. Logits and penalties of the textbook's form (skip="plain", as at 32 and 256) are others by far.

DiffAugment's ImageNet form (compare_gan) is 128 with other keywords, all in the recipe biggan_imagenet. In G zeros stand between the pixels
where others repeat them (up="zeros"), and batch norm's scale is the linear map itself, without "1 +" (gain="bare"). In D the shortcuts are plain and
the last block has none (skip_equal=False), images are in [0, 1], so that the zeros around a map are black (image_range="0..1"), and the matrix of
classes starts by Glorot's rule (class_init="glorot"). Spectral norm iterates in evaluation too (sn_iterates="always").

Beyond the papers: without classes batch norm has one learned scale and shift and D no projection; grey pictures; `norm`; chunks of z may be
uneven (the first are larger). Spectral norm is on all convolutions and linear maps of G and D and on D's class embedding; not on G's tables of
classes or class embedding. Resampling is folded into the convolutions (nn/residual.py), which changes no number but by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import seam
from ..errors import UsageError, within
from ..nn.attention import SelfAttention
from ..nn.conditional_norm import ConditionalBatchNorm2d, Gain
from ..nn.conv import Conv3x3, Embedding, Linear, glorot
from ..nn.labels import needed
from ..nn.norm import BatchNorm2d
from ..nn.residual import DBlock, GBlock, Skip, Up
from ..nn.spectral import Iterates, Norm
from ..rng import Rng
from . import _biggan as parts


class Generator(seam.Generator):
    """z [B,z_dim] ~ N(0, 1), c int64 [B] -> image [B,channels,S,S] in [-1,1] (tanh). latent is z.

    resolution: S, one of 32, 64, 128, 256; None elsewhere: what the table of that resolution has. width: base width (all others are multiples).
    shared_dim: size of the class embedding that all norms share; 0: a table of classes in each. hierarchical: z in chunks, one for the first
    layer and one for the norms of each block. attention: sides of the maps with self-attention, [] for none. init: "normal" N(0, 0.02^2) with
    torch's own biases, or "orthogonal" with zeros. bn_eps, sn_eps: batch norm's and spectral norm's; sn_iterates: when the latter's vectors move
    (nn/spectral.py). sync_batch_norm: batch statistics over all processes. gain: batch norm's scale, 1 + a map of the condition or that map alone.
    up: what upsampling puts between the pixels. Raises UsageError for other sizes, attention where there is no map, classes that the chunks of z
    would leave out.
    """

    has_batch_stats = True
    wants_classes = True

    def __init__(self, resolution: int = 32, channels: int = 3, num_classes: int = 0, z_dim: int | None = None, width: int | None = None,
                 shared_dim: int | None = None, hierarchical: bool | None = None, attention: Sequence[int] | None = None,
                 init: parts.Weights | None = None, norm: Norm = "spectral", bn_eps: float | None = None, sn_eps: float | None = None,
                 sync_batch_norm: bool = False, gain: Gain = "one_plus", up: Up = "nearest", sn_iterates: Iterates = "training") -> None:
        super().__init__()
        t = parts.table(resolution)
        width, z_dim = t.width if width is None else width, t.z_dim if z_dim is None else z_dim
        within(1, width=width, z_dim=z_dim)
        self.resolution, self.channels, self.num_classes, self.z_dim = resolution, channels, num_classes, z_dim
        widths = [m * width for m in t.g]
        sides = [8 << i for i in range(len(widths) - 1)]
        shared_dim = (t.shared_dim if shared_dim is None else shared_dim) if num_classes else 0
        hierarchical = (t.hierarchical and num_classes > 0) if hierarchical is None else hierarchical
        if hierarchical and num_classes and not shared_dim:
            raise UsageError("hierarchical=True takes the classes from a shared embedding: set shared_dim (128 in BigGAN), or hierarchical=False")
        chunks = len(widths) if hierarchical else 1
        if self.z_dim < chunks:
            raise UsageError(f"z_dim={self.z_dim}: z is cut into {chunks} chunks here, so it needs {chunks} numbers or more")
        self.chunks = [len(part) for part in torch.arange(self.z_dim, device="cpu").tensor_split(chunks)]
        start, eps = parts.starting(init, t.init), t.sn_eps if sn_eps is None else sn_eps
        how = dict(norm=norm, eps=eps, iterates=sn_iterates, **start)

        def norm_of(chunk: int):
            vector = shared_dim + chunk
            return lambda width: ConditionalBatchNorm2d(width, classes=num_classes, vector=vector, eps=bn_eps or t.bn_eps, sync=sync_batch_norm,
                                                        norm=norm, init=start["init"], sn_eps=eps, sn_iterates=sn_iterates, gain=gain)

        self.embed = Embedding(num_classes, shared_dim, norm="none", init=start["init"]) if shared_dim else None
        self.first = Linear(self.chunks[0], widths[0] * 16, **how)
        later = self.chunks[1:] or [0] * len(sides)
        self.up = nn.ModuleDict({str(s): GBlock(a, b, norm_of(chunk), up=up, **how) for s, chunk, (a, b) in zip(sides, later, pairwise(widths))})
        attending = parts.sides_with_attention(attention, t.attention, sides)
        self.attention = nn.ModuleDict({str(s): SelfAttention(b, **(how | {"bias": "none"}))
                                        for s, b in zip(sides, widths[1:]) if s in attending})
        self.last_norm = BatchNorm2d(widths[-1], std=0.0, eps=bn_eps or t.bn_eps, sync=sync_batch_norm)
        self.to_image = Conv3x3(widths[-1], channels, **how)

    def forward(self, z: Tensor, c: Tensor | None = None, *, rng: Rng) -> seam.Generated:
        first, conditions = self.conditions(z, c)
        x = self.first(first).unflatten(1, (-1, 4, 4))                          # [B, cin 4 4] -> [B,cin,4,4]
        for (side, block), condition in zip(self.up.items(), conditions):
            x = block(x, condition)
            if side in self.attention:
                x = self.attention[side](x)
        image = self.to_image(F.relu_(self.last_norm(x))).tanh()
        return seam.Generated(image, z, z, c)

    def conditions(self, z: Tensor, c: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        """What the first layer takes of z, and for each block what its norms take: classes [B], or vectors [B,chunk + shared_dim]."""
        first, *later = z.split(self.chunks, 1)
        c = needed(c, self.num_classes) if self.num_classes else None
        if self.embed is None:
            return first, later or [c] * len(self.up)
        shared = self.embed(c)                                                  # [B,shared_dim]
        return first, [torch.cat([chunk, shared], 1) for chunk in later] or [shared] * len(self.up)


class Discriminator(seam.Discriminator):
    """image [B,channels,S,S] in [-1,1] (and c int64 [B]) -> logits [B]: a linear map of the pooled features h, plus <embedding of c, h>.

    resolution, width, attention, init, sn_eps, sn_iterates: as in the generator. skip: what shortcuts see, "rectified" relu(x) or "plain" x; None:
    the table's. skip_equal=False: no shortcut in blocks that change neither width nor size. class_init: how the embedding of classes starts, None
    as the rest. image_range: of the images inside; "0..1" converts them on entry.
    Features: "map_R", the map of side R (after attention; of several blocks with that side the first is "map_R", then "map_R_2" ...), and
    "pre_logits", h: ReLU and the sum over all pixels of the last map, a vector.
    """

    def __init__(self, resolution: int = 32, channels: int = 3, num_classes: int = 0, width: int | None = None,
                 attention: Sequence[int] | None = None, init: parts.Weights | None = None, skip_equal: bool = True, norm: Norm = "spectral",
                 sn_eps: float | None = None, skip: Skip | None = None, sn_iterates: Iterates = "training",
                 class_init: Literal["glorot"] | None = None, image_range: Literal["-1..1", "0..1"] = "-1..1") -> None:
        super().__init__()
        t = parts.table(resolution)
        self.resolution, self.channels, self.num_classes, self.halved = resolution, channels, num_classes, image_range == "0..1"
        width = t.width if width is None else width
        within(1, width=width)
        widths = [channels, *(m * width for m in t.d)]
        sides = [resolution >> min(i + 1, t.downs) for i in range(len(t.d))]
        self.names = [f"map_{s}" if (n := sides[:i].count(s)) == 0 else f"map_{s}_{n + 1}" for i, s in enumerate(sides)]
        start, eps = parts.starting(init, t.init), t.sn_eps if sn_eps is None else sn_eps
        how = dict(norm=norm, eps=eps, iterates=sn_iterates, **start)
        blocks = [DBlock(a, b, down=i < t.downs, preactivate=i > 0, skip_equal=skip_equal, skip=skip or t.skip, **how)
                  for i, (a, b) in enumerate(pairwise(widths))]
        self.stem, self.blocks = blocks[0], nn.ModuleDict(dict(zip(self.names[1:], blocks[1:])))
        attending = parts.sides_with_attention(attention, t.attention, sides)
        self.attention = nn.ModuleDict({name: SelfAttention(b, **(how | {"bias": "none"}))
                                        for name, s, b in zip(self.names, sides, widths[1:]) if s in attending and name == f"map_{s}"})
        self.to_logit = Linear(widths[-1], 1, **how)
        matrix = dict(norm=norm, init=glorot if class_init else start["init"], eps=eps, iterates=sn_iterates)
        self.embed = Embedding(num_classes, widths[-1], **matrix) if num_classes else None
        self.feature_info = {name: seam.FeatureInfo(b, s) for name, s, b in zip(self.names, sides, widths[1:])}
        self.feature_info["pre_logits"] = seam.FeatureInfo(widths[-1])

    def forward(self, image: Tensor, c: Tensor | None = None, extra: Mapping[str, Tensor] | None = None,
                want: frozenset[str] = frozenset()) -> seam.Judged:
        x, features = image * 0.5 + 0.5 if self.halved else image, {}
        for name, block in zip(self.names, (self.stem, *self.blocks.values())):
            x = block(x)
            if name in self.attention:
                x = self.attention[name](x)
            features[name] = x
        h = features["pre_logits"] = F.relu(x).sum((2, 3))                      # [B,C]
        logits = self.to_logit(h)[:, 0]
        if self.embed is not None:
            logits = logits + (self.embed(needed(c, self.num_classes)) * h).sum(1)
        return seam.Judged(logits, {k: f for k, f in features.items() if k in want})
