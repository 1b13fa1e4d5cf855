"""CHAIN: a discriminator whose layers are normalised without centring and with a bounded Lipschitz constant, and FastGAN's form around it.

Ni, Koniusz, "CHAIN: Enhancing Generalization in Data-Efficient GANs via lipsCHitz continuity constrAined Normalization", CVPR 2024, in the form that
its release combines with FastGAN. A discriminator alone: the recipes pair it with FastGAN's generator without the side image. The zero-mean penalty
and the controller of p are the term `chain`, the decoders are the term `reconstruction`.

The layer, per channel c over batch and pixels, with x its input and p the strength that the controller moves:

    m_c = mean x^2;  r <- 0.9 r + 0.1 m;  s = sqrt(min_c r);  y = x / sqrt(r + 1e-5);  out = s y
    x' = (1 - M) x + M out,  M = 1 where U[0,1) <= p, drawn for each image and channel

The running mean r is kept for reals and for fakes separately; G's step uses and moves that of the fakes. Its derivative is a rule of its own, not
that of automatic differentiation: with g the gradient of out, g' = s g and a second running mean b <- 0.9 b + 0.1 mean(y g'), kept for reals in D's
step, fakes in D's step and fakes in G's step separately, dx = (g' - b y) / sqrt(r + 1e-5). So there are no second derivatives, and penalties on D's
gradient (R1, DigGAN ...) are refused. variant="batch" is the form without running means: psi = sqrt(mean x^2 + 1e-5), out = x / psi min_c psi with
the minimum held constant, and automatic differentiation. At p = 0 the layer is the identity and r and b stand still.

As in the release, the first leaky ReLU of every block overwrites what it is given: the shortcuts, the excitation modules and the decoders read the
rectified maps.

Beyond the release: 16 to 128 pixels (the channels of the same maps, so the stem leads to 128, 64 ... pixels and the first blocks are missing; links
whose ends don't exist are left out); narrow widths; classes (a projection of the pooled feature onto a learned vector per class is added to the
logit). Passes that are no shared pass of reals or fakes in training (those of other terms, held-out images, D's accuracy) move nothing: they are
scaled by the mean of the two running means as it stands, a constant with an ordinary derivative, and p acts in evaluation mode too. Where terms
alone ask for a shared pass, it moves nothing either.
Statistics are in single precision, or double where the input is; micro-batches move them one after the other, and processes average them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .. import seam
from ..errors import UsageError, within
from ..nn.conv import Conv2d, Conv3x3, Embedding, Linear
from ..nn.excite import SkipExcite
from ..nn.labels import needed
from ..nn.spectral import Norm
from ..rng import Rng, ambient

DECAY, EPS, SLOPE = 0.9, 1e-5, 0.2
MEANS = "channel_means"                 # the feature that the penalty is made of
Variant = Literal["running", "batch"]

_SIZES = (16, 32, 64, 128, 256, 512, 1024)
_R = {"d:real": 0, "g:real": 0, "d:fake": 1, "g:fake": 1}              # which of the running means of x^2 a pass uses and moves
_B = {"d:real": 0, "g:real": 0, "d:fake": 1, "g:fake": 2}              # and of y g'; no gradient goes through the reals of G's step


class Discriminator(seam.Discriminator):
    """image [B,channels,S,S] -> one logit an image, [B].

    resolution: S, a power of two from 16 to 1024. width: channels of the map of 256 pixels, 16 as published; maps of half the side have twice as
    many. p: the strength at first, 0 to 1; a buffer, which the term `chain` moves. variant: "running" as published, or "batch" (the module's
    docstring). num_classes > 0: a projection is added to the logits.

    Features: "map_R" for R = min(S,256) ... 8, rectified; "pre_logits" [B,32 width], the sum over the pixels of the last map; "channel_means" [B,*],
    the means over the pixels of the inputs of all CHAIN layers, one after the other. Buffers of each layer: r [2,C] for reals and fakes, b [3,C] for
    reals and fakes in D's step and fakes in G's. `of` says what a pass is of (seam.PassOf); "other" uses the mean of both r and moves nothing.
    Raises UsageError for other sizes and for p out of range.
    """

    has_batch_stats = True
    draws = True
    knows_pass = True

    p: Tensor

    def __init__(self, resolution: int = 256, channels: int = 3, num_classes: int = 0, width: float = 16, p: float = 0.0,
                 variant: Variant = "running", norm: Norm = "spectral") -> None:
        super().__init__()
        if resolution not in _SIZES:
            raise UsageError(f"resolution={resolution}: CHAIN judges square images of 16, 32, 64, 128, 256, 512 or 1024 pixels; choose one of them")
        within(0, 1, p=p)
        self.resolution, self.channels, self.num_classes = resolution, channels, num_classes
        self.second_order = variant == "batch"
        self.register_buffer("p", torch.tensor(float(p)))
        start = min(resolution, 256)
        wide = {side: max(1, round(width * 256 / side)) for side in (512, 256, 128, 64, 32, 16, 8)}

        self.stem = _stem(resolution, channels, wide, norm)
        self.blocks, self.excite = nn.ModuleDict(), nn.ModuleDict()
        self.feature_info = {f"map_{start}": seam.FeatureInfo(wide[start], start)}
        side = start // 2
        while side >= 8:
            self.blocks[str(side)] = _Block(wide[2 * side], wide[side], norm, variant)
            if 8 * side <= start:
                self.excite[str(side)] = SkipExcite(wide[8 * side], wide[side], norm=norm)
            self.feature_info[f"map_{side}"] = seam.FeatureInfo(wide[side], side)
            side //= 2
        self.last = _LastBlock(wide[8], norm)
        self.to_logit = Linear(wide[8], 1, norm=norm, bias="uniform")
        self.embed = Embedding(num_classes, wide[8], norm=norm) if num_classes else None
        channels_of_all = sum(m.channels for m in self.blocks.modules() if isinstance(m, Chain))
        self.feature_info |= {"pre_logits": seam.FeatureInfo(wide[8]), MEANS: seam.FeatureInfo(channels_of_all)}

    def forward(self, image: Tensor, c: Tensor | None = None, extra: Mapping[str, Tensor] | None = None,
                want: frozenset[str] = frozenset(), *, rng: Rng | None = None, of: seam.PassOf = "other") -> seam.Judged:
        mixes = self._mixes(len(image), ambient(image.device) if rng is None else rng)
        means: list[Tensor] | None = [] if MEANS in want else None
        x = F.leaky_relu(self.stem(image), SLOPE)
        maps = {x.shape[2]: x}
        for name, block in self.blocks.items():
            side = int(name)
            x = block(x, mixes.get(name), of, means)
            if name in self.excite:
                x = self.excite[name](maps[8 * side], x)
            x = maps[side] = F.leaky_relu(x, SLOPE)
        pooled = self.last(x).sum((2, 3))                                               # [B,C]
        logits = self.to_logit(pooled)[:, 0]
        if self.embed is not None:
            logits = logits + (self.embed(needed(c, self.num_classes)) * pooled).sum(1)
        features = {f"map_{side}": x for side, x in maps.items()} | {"pre_logits": pooled}
        if means is not None:
            features[MEANS] = torch.cat(means, 1)
        return seam.Judged(logits, {k: f for k, f in features.items() if k in want})

    def _mixes(self, n: int, rng: Rng) -> dict[str, tuple[Tensor, ...]]:
        """For each block whether p > 0, and M of its three layers, bool [n,C]; nothing where p = 0 and the device is a CPU: elsewhere asking would
        wait for the device, and layers whose M is 0 change nothing either."""
        on = self.p > 0
        if on.device.type == "cpu" and not on:
            return {}
        widths = {name: block.chains[0].channels for name, block in self.blocks.items()}
        drawn = (rng.rand(n, 3 * sum(widths.values())) <= self.p) & on
        parts = drawn.split([3 * width for width in widths.values()], 1)
        return {name: (on, *part.chunk(3, 1)) for name, part in zip(widths, parts)}

    def extra_repr(self) -> str:
        return f"p={float(self.p):g}"


class Chain(nn.Module):
    """One layer of the module's docstring: [B,C,H,W] -> the same shape.

    mix: M, bool [B,C]. on: a boolean scalar, whether p > 0; where it is false, r and b stand still. of: what the pass is of.
    """

    def __init__(self, channels: int, variant: Variant = "running") -> None:
        super().__init__()
        self.channels, self.variant = channels, variant
        if variant == "running":
            self.register_buffer("r", torch.ones(2, channels))
            self.register_buffer("b", torch.zeros(3, channels))

    def forward(self, x: Tensor, on: Tensor, mix: Tensor, of: seam.PassOf = "other") -> Tensor:
        if self.variant == "running" and of != "other":
            return _Running.apply(x, mix, on, self.r[_R[of]], self.b[_B[of]])
        if self.variant == "running":
            mean = self.r.clone().mean(0)                                               # a graph must not see r move
            inverse, least = (mean + EPS).rsqrt(), mean.min().sqrt()
        else:
            psi = (_wide(x).square().mean((0, 2, 3)) + EPS).sqrt()
            inverse, least = psi.reciprocal(), psi.min().detach()
        return x * torch.where(mix, least * inverse, 1).to(x.dtype)[:, :, None, None]

    def extra_repr(self) -> str:
        return f"{self.channels}, variant={self.variant!r}"


class _Running(torch.autograd.Function):
    """x [B,C,H,W], mix bool [B,C], on bool, r and b [C], which are moved in place: r here, b in the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, mix: Tensor, on: Tensor, r: Tensor, b: Tensor) -> Tensor:
        r.copy_(torch.where(on, DECAY * r + (1 - DECAY) * _wide(x).square().mean((0, 2, 3)), r))
        inverse, least = (r + EPS).rsqrt(), r.min().sqrt()
        gain = least * inverse                                                          # [C]
        scale = torch.where(mix, gain, 1)                                               # [B,C]
        ctx.save_for_backward(x, mix, on, inverse, gain, scale)
        ctx.b = b
        return x * scale.to(x.dtype)[:, :, None, None]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, mix, on, inverse, gain, scale = ctx.saved_tensors
        b, (h, w) = ctx.b, x.shape[2:]
        product = (_wide(x) * _wide(grad)).sum((2, 3)) * mix                            # [B,C]
        q = product.sum(0) * gain / (len(x) * h * w)                                    # mean(y g')
        b.copy_(torch.where(on, DECAY * b + (1 - DECAY) * q, b))
        pull = torch.where(on, b * inverse.square(), 0)                                 # of x, where b y / sqrt(r + eps) = x b / (r + eps)
        dx = torch.addcmul(grad * scale.to(x.dtype)[:, :, None, None], x, pull.to(x.dtype)[None, :, None, None], value=-1)
        return dx, None, None, None, None


class _Block(nn.Module):
    """[B,cin,H,W], rectified already, -> [B,cout,H/2,W/2]. variant=None: without CHAIN."""

    def __init__(self, cin: int, cout: int, norm: Norm, variant: Variant | None) -> None:
        super().__init__()
        self.conv1 = Conv3x3(cin, cout, norm=norm, bias="uniform")
        self.conv2 = Conv3x3(cout, cout, norm=norm, bias="uniform")
        self.shortcut = Conv2d(cin, cout, 1, norm=norm, bias="uniform")
        self.chains = nn.ModuleList(Chain(cout, variant) for _ in range(3)) if variant else None

    def forward(self, x: Tensor, mixes: tuple[Tensor, ...] | None = None, of: seam.PassOf = "other", means: list[Tensor] | None = None) -> Tensor:
        """mixes: whether p > 0, and M of the three layers; None: the layers don't run. means: where the means of their inputs are added."""
        def normalised(layer: int, y: Tensor) -> Tensor:
            if means is not None:
                means.append(_wide(y).mean((2, 3)))
            return y if mixes is None else self.chains[layer](y, mixes[0], mixes[1 + layer], of)

        h = F.leaky_relu(normalised(0, self.conv1(x)), SLOPE)
        h = F.avg_pool2d(normalised(1, self.conv2(h)), 2)
        return h + F.avg_pool2d(normalised(2, self.shortcut(x)), 2)


class _LastBlock(nn.Module):
    """[B,C,H,W], rectified already, -> the same shape; the shortcut is the identity."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = Conv3x3(channels, channels, norm=norm, bias="uniform")
        self.conv2 = Conv3x3(channels, channels, norm=norm, bias="uniform")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.leaky_relu(self.conv1(x), SLOPE))


def _stem(resolution: int, channels: int, wide: Mapping[int, int], norm: Norm) -> nn.Module:
    """The image to the first map, at most 256 pixels a side."""
    if resolution == 1024:
        return nn.Sequential(Conv2d(channels, wide[512], 4, 2, 1, norm=norm, bias="uniform"), nn.LeakyReLU(SLOPE),
                             _Block(wide[512], wide[256], norm, None))
    if resolution == 512:
        return Conv2d(channels, wide[256], 4, 2, 1, norm=norm, bias="uniform")
    return Conv2d(channels, wide[resolution], 3, padding=1, norm=norm, bias="uniform")


def _wide(x: Tensor) -> Tensor:
    """x in single precision at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
