"""Projected GAN: a discriminator on the maps of a frozen, pretrained network, and FastGAN's generator in the form that goes with it.

Sauer, Chitta, Müller, Geiger, "Projected GANs Converge Faster", NeurIPS 2021. Defaults are the released code's; where the paper differs:

    mixing of scales                    1x1 convolutions (release)                3x3 convolutions in a U-Net (paper)
    weights of the random projection    torch's own rule (release)                Kaiming's (paper)
    the loss of several heads           one mean over all logits (release)        the sum of the heads' losses (paper: loss.heads=each,
                                                                                  which is their mean)

Only the heads are trained. The feature network is frozen and in no checkpoint, which keeps its digest instead; the random projection is drawn
once, never trained, and saved with D. Both compute in fp32, whatever the precision of the run, as in the release; on a CPU without hardware for
depthwise convolutions in bf16 that is also faster.

Deviations: the feature network gets images by its authors' own rule, (v - 127) / 128 for EfficientNet with v in 0..255, where the release hands
[-1,1] over as it is (less than 1 % apart). Vectors of classes are as many as there are classes (release: 1000). Beyond paper and release: separable
heads, other feature networks, taps and depths, images that aren't enlarged, and a second discriminator, on pixels, beside the heads.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.nn.labels import needed

from .. import catalog, seam
from ..catalog import Use
from ..errors import UsageError, nearest
from ..features import weights
from ..nn.conditional_norm import ConditionalBatchNorm2d
from ..nn.conv import Conv2d, Embedding, ToMap, fan_in
from ..nn.excite import SkipExcite
from ..nn.frozen import Frozen
from ..nn.precision import no_autocast
from ..rng import Rng
from ._projected import CLASS_WIDTH, NETWORKS, TAPS, Block, Head, Projection, sides

Network = Literal["efficientnet", "inception", "vgg16"]
Depth = Literal["released", "fit"] | tuple[int, ...]

_SIZES = (32, 64, 128, 256, 512, 1024)
_WIDTHS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125}       # channels / ngf
_LINKS = {64: 4, 128: 8, 256: 16, 512: 32}
_MOST = _SIZES[-1]
_LAST = 4                                                # pixels that a head's last map has at least: those of its last convolution


class Generator(seam.Generator):
    """z [B,z_dim] ~ N(0, 1) -> image [B,channels,S,S], not bounded (no tanh). FastGAN's generator as Projected GAN uses it.

    z is divided by the root of its mean square. Every stage has two convolutions and noise; lite: one, without noise. Weights are drawn by torch's
    own rule. resolution: S, a power of two from 32 to 1024. ngf: base width. num_classes > 0: batch norm takes gain and bias from a learned vector
    of the class. sync_batch_norm: batch statistics over all processes. Noise is drawn anew in every forward, in evaluation too, as released.
    Raises UsageError for other sizes.
    """

    has_batch_stats = True

    def __init__(self, resolution: int = 256, channels: int = 3, num_classes: int = 0, z_dim: int = 256, ngf: float = 128, lite: bool = False,
                 sync_batch_norm: bool = False) -> None:
        super().__init__()
        if resolution not in _SIZES:
            raise UsageError(f"resolution={resolution}: this generator makes square images of 32, 64, 128, 256, 512 or 1024 pixels; choose one of "
                             "them, or take another architecture for G")
        self.resolution, self.channels, self.num_classes, self.z_dim = resolution, channels, num_classes, z_dim
        width = {side: max(1, round(m * ngf)) for side, m in _WIDTHS.items() if side <= resolution}
        how = dict(vector=CLASS_WIDTH if num_classes else 0, sync=sync_batch_norm)
        self.first = ToMap(z_dim, 2 * width[4], 4, init=fan_in)
        self.first_norm = ConditionalBatchNorm2d(2 * width[4], init=fan_in, **how)
        self.embed = Embedding(num_classes, CLASS_WIDTH, norm="none") if num_classes else None
        self.up = nn.ModuleDict({str(side): Block(width[side // 2], width[side], noise=not lite, **how) for side in width if side > 4})
        self.excite = nn.ModuleDict({str(high): SkipExcite(width[low], width[high], init=fan_in)
                                     for high, low in _LINKS.items() if high <= resolution})
        self.to_image = Conv2d(width[resolution], channels, 3, padding=1, init=fan_in, bias="uniform")

    def forward(self, z: Tensor, c: Tensor | None = None, *, rng: Rng) -> seam.Generated:
        # All noise first, so that what follows is one graph for a compiler.
        noise = [[rng.randn(len(z), 1, int(side), int(side)) for _ in block.strengths] for side, block in self.up.items()]
        condition = None if self.embed is None else self.embed(needed(c, self.num_classes))
        x = self.first(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())
        x = F.glu(self.first_norm(x, condition), 1)
        maps = {4: x}
        for (name, block), drawn in zip(self.up.items(), noise):
            x = block(x, condition, drawn)
            if name in self.excite:
                x = self.excite[name](maps[_LINKS[int(name)]], x)
            maps[int(name)] = x
        return seam.Generated(self.to_image(x), z, z, c)


class Discriminator(seam.Discriminator):
    """image [B,channels,S,S] in [-1,1] -> the logits of all heads, [B,sum(Judged.heads)]; `loss.heads` says how the heads are weighed.

    Images below `enlarge_to` pixels (0: none) are enlarged to it, bilinearly. Grey ones are repeated to the three channels of the feature network.
    network: "efficientnet" (EfficientNet-Lite0), "inception" (the FID's) or "vgg16" (its convolutions; the weights are those of `lpips`). taps: the
    names of its maps that are looked at, one head for each; None: those of strides 4, 8, 16 and, but for VGG16, 32. cout: channels of the finest
    projected map, in the release 64; each coarser one has twice as many, and heads end with 8 cout.
    separable: heads of separable convolutions, as in the release's configuration for StyleGAN2: a fourteenth of the weights.
    depth: how often each head halves its map, a number for each tap, the finest first; "released": so that 8 pixels a side are left at 256 pixels,
    whatever the resolution; "fit": as often as leaves 4, and so one logit.
    beside: another discriminator of the catalogue, on pixels, with its settings: {"use": "fastgan", "ndf": 16}. Its logits are further heads, its
    features are called "beside_NAME". weight_beside: its share of the loss, which is (1 - weight_beside) times the loss of the heads on features plus
    weight_beside times that of the other one. num_classes > 0: heads compare with learned vectors of the classes. sync_batch_norm: batch statistics
    over all processes. random: weights of this seed for the feature network in place of the pretrained ones (for tests).

    Features: "head0", "head1", ... (the last map of each head that halves its map at all) and "pre_logits" (the means over space of the last maps of
    all heads, one after the other).
    Raises UsageError for unknown taps, for settings of `beside` as a configuration does, and for a resolution that leaves a head too little.
    """

    has_batch_stats = True

    def __init__(self, resolution: int = 256, channels: int = 3, num_classes: int = 0, network: Network = "efficientnet",
                 taps: tuple[str, ...] | None = None, cout: int = 64, separable: bool = False, depth: Depth = "released", enlarge_to: int = 224,
                 beside: dict[str, Any] | None = None, weight_beside: float = 0.5, sync_batch_norm: bool = False,
                 random: int | None = None) -> None:
        super().__init__()
        if not isinstance(resolution, int):
            raise UsageError(f"resolution={resolution}: this discriminator judges square images")
        if cout < 1 or enlarge_to < 0 or not 0 < weight_beside < 1:
            raise UsageError("cout is 1 or more, enlarge_to 0 or more, weight_beside between 0 and 1")
        self.resolution, self.channels, self.num_classes = resolution, channels, num_classes
        self.size = max(resolution, enlarge_to)
        self.taps = _taps(network, taps)
        depths, projected = _fitting(network, self.taps, depth, resolution, enlarge_to)
        stages = NETWORKS[network].stages
        self.network = Frozen(lambda: NETWORKS[network].made(random))

        # Children so called are what a method finds that must add something to every first layer: each head reads a map of its own. A discriminator
        # beside them has first layers elsewhere, so that there is no `stem` then, and such a method is refused.
        self._heads = ["stem" if beside is None else "head0_stem", *(f"head{i}_stem" for i in range(1, len(self.taps)))]
        self.feature_info, ends = {}, []
        of_heads = [cout, *(cout * 2**i for i in range(len(self.taps) - 1))]
        for i, (name, cin) in enumerate(zip(self._heads, of_heads)):
            widths = [max(cout, 8 * cout >> k) for k in reversed(range(depths[i]))]
            self.add_module(name, Head(cin, widths, separable=separable, num_classes=num_classes, sync=sync_batch_norm))
            ends.append((widths or [cin])[-1])
            if widths:                                    # else it is the projected map itself, in which nothing is learnt
                self.feature_info[f"head{i}"] = seam.FeatureInfo(ends[-1], projected[i] >> depths[i])
        self.feature_info["pre_logits"] = seam.FeatureInfo(sum(ends))
        self.projection = Projection([stages[tap][0] for tap in self.taps], cout)

        self.beside, self.weight_beside = None, weight_beside
        if beside is not None:
            self.stem = None
            self.beside = catalog.build("arch", _beside(beside), "Discriminator", resolution=resolution, channels=channels, num_classes=num_classes)
            self.feature_info |= {f"beside_{name}": info for name, info in self.beside.feature_info.items()}

    @classmethod
    def needs_weights(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        own = () if settings.get("random") is not None else (weights.entry_of(NETWORKS[settings.get("network", "efficientnet")].name),)
        if settings.get("beside") is None:
            return own
        use = _beside(settings["beside"])
        return tuple(dict.fromkeys((*own, *catalog.part("arch", use.name, "Discriminator").needs_weights(use.kwargs))))

    def check(self, facts: seam.Facts) -> tuple[str, ...]:
        few = f"batch norm in the heads of D takes its statistics from {facts.micro_batch} image{'s' if facts.micro_batch > 1 else ''} at a time"
        if facts.micro_batch < 2:
            raise UsageError(f"{few}; give 4 or more, at least 2: --set train.micro_batch=4, with a train.batch that it divides")
        return (f"{few}, which is little; 4 or more are better (--set train.micro_batch=4)",) if facts.micro_batch < 4 else ()

    @property
    def extra_of(self):
        """As of seam.Discriminator: the further scales that the discriminator beside looks at."""
        return super().extra_of if self.beside is None else self.beside.extra_of

    def project(self, image: Tensor) -> list[Tensor]:
        """What the heads look at, the finest first, fp32: [B,cout,H/2,W/2], [B,cout,H/4,W/4], [B,2 cout,H/8,W/8], ... with H, W of the image as the
        feature network gets it."""
        with no_autocast(image):
            x = image.float()
            if self.size != self.resolution:
                x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
            maps = self.network.net.maps(x, self.taps)
            return self.projection([maps[tap] for tap in self.taps])

    def forward(self, image: Tensor, c: Tensor | None = None, extra: Mapping[str, Tensor] | None = None,
                want: frozenset[str] = frozenset()) -> seam.Judged:
        maps, logits = zip(*(self.get_submodule(name)(x, c) for name, x in zip(self._heads, self.project(image))))
        features = {f"head{i}": x for i, x in enumerate(maps)}
        if "pre_logits" in want:
            features["pre_logits"] = torch.cat([x.mean((2, 3)) for x in maps], 1)
        heads, parts = tuple(part.shape[1] for part in logits), ()
        if self.beside is not None:
            other = self.beside(image, c, extra, frozenset(name.removeprefix("beside_") for name in want if name.startswith("beside_")))
            features |= {f"beside_{name}": f for name, f in other.features.items()}
            logits = (*logits, other.logits.reshape(len(image), -1).to(logits[0].dtype))
            its = other.heads or (logits[-1].shape[1],)
            heads, parts = heads + its, ((len(heads), 1 - self.weight_beside), (len(its), self.weight_beside))
        return seam.Judged(torch.cat(logits, 1), {k: f for k, f in features.items() if k in want}, heads, parts)


def _beside(settings: Mapping[str, Any]) -> Use:
    """The other discriminator. Raises UsageError where none is named, or one that has another beside it."""
    use = catalog.named_in(settings, "d.beside")
    if use is None or use.kwargs.get("beside") is not None:
        raise UsageError(f"d.beside={dict(settings)!r}: name one architecture, as in {{\"use\": \"fastgan\", \"ndf\": 16}}")
    return use


def _taps(network: str, taps: tuple[str, ...] | None) -> tuple[str, ...]:
    """The taps from the finest to the coarsest, each once."""
    stages = NETWORKS[network].stages
    wanted = TAPS[network] if taps is None else taps
    if unknown := [tap for tap in wanted if tap not in stages]:
        raise UsageError(f"d.taps: {network} has no stage '{unknown[0]}'{nearest(unknown[0], stages)}; it has {', '.join(stages)}")
    if not wanted:
        raise UsageError(f"d.taps is empty: name one or more of {', '.join(stages)}")
    return tuple(tap for tap in stages if tap in wanted)


def _fitting(network: str, taps: tuple[str, ...], depth: Depth, resolution: int, enlarge_to: int) -> tuple[list[int], list[int]]:
    """How often each head halves its map, and the side of each projected map in pixels. Raises UsageError, naming the smallest resolution that does,
    where a head's last map is smaller than its last convolution."""
    if not isinstance(depth, str) and (len(depth) != len(taps) or min(depth) < 0 or max(depth) > 9):
        raise UsageError(f"d.depth={list(depth)}: give a number from 0 to 9 for each of the {len(taps)} taps ({', '.join(taps)})")
    strides = [NETWORKS[network].stages[tap][1] for tap in taps]

    def attempt(size: int) -> tuple[list[int], list[int]] | None:
        found = sides(network, size)
        if any(tap not in found for tap in taps):
            return None
        projected = [2 * found[taps[0]], *(found[tap] for tap in taps[:-1])]
        if depth == "released":
            depths = [max(0, round(math.log2(32 / stride))) for stride in (strides[0] / 2, *strides[:-1])]
        elif depth == "fit":
            depths = [max(0, int(math.log2(side / _LAST))) for side in projected]
        else:
            depths = list(depth)
        return (depths, projected) if all(side >> d >= _LAST for side, d in zip(projected, depths)) else None

    made = attempt(max(resolution, enlarge_to))
    if made is None:
        least = bisect_left(range(_MOST + 1), True, key=lambda size: attempt(size) is not None)           # maps only grow with the image
        shape = f"{network} with the taps {', '.join(taps)} and d.depth={depth if isinstance(depth, str) else list(depth)}"
        if least > _MOST:
            raise UsageError(f"{shape}: a head is left with fewer than {_LAST} pixels a side at any size up to {_MOST}; give smaller numbers")
        raise UsageError(f"resolution={resolution}: {shape} serves images from {least} pixels on; enlarge them (--set d.enlarge_to="
                         f"{max(224, least)}), or leave out the coarsest taps{', or set d.depth=fit' * (depth != 'fit')}")
    return made
