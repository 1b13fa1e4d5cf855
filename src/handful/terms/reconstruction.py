"""Self-supervision of the discriminator: small decoders rebuild real images from its features (FastGAN, ICLR 2021, section 3.2, eq. 2).

Adds to L_D, on real images alone,

    weight * sum_i [ d(dec_whole(f8), x_i) + d(dec_part(crop f16), crop x_i) + d(dec_small(g8), x_i) ],   d: LPIPS (VGG-16)

with x_i what D saw (augmented), reduced to 128 pixels by nearest neighbour, and the crop one quadrant, the same for the whole batch.
Defaults are the released code's: three decoders (the paper has no "small"), weight 1, the *sum* over the batch (`reduction="mean"` divides by
its size).

Beyond it: attaches to any discriminator (the features nearest to 8 and 16 pixels a side); a target of min(128, S) pixels with one upsampling
stage less per octave; decoders of the released width relative to D's features, so that narrow networks get narrow ones; and, where LPIPS'
weights are absent (`loss="auto"`) or on wish (`loss="pixel"`), the mean squared difference of pixels times `pixel_gain`. The targets' deep
features are computed once for all decoders. The power iteration of the decoders' spectral norm runs in `commit`, after the weights have moved,
rather than at the head of the next forward: the same numbers, and micro-batches share them. Their batch norm never leaves batch statistics, so it
keeps none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import HandfulError, UsageError
from ..nn.conv import Conv2d
from ..nn.excite import pool_to
from ..nn.spectral import Norm, Spectral
from ..nn.upblock import UpBlock
from ..seam import Context, FeatureInfo, Needs, Nets, Result, Side, Term, View

Part = Literal["whole", "part", "small"]


class Reconstruction(Term):
    """weight: of the term. reduction: "sum" over the batch as released, or "mean". loss: "lpips", "pixel", or "auto": LPIPS where its weights are
    at hand, else pixels, said in `notes`. decoders: which of them. size: side of the targets in pixels (at most the images'), 16, 32, ... width:
    base width of the decoders; None: 1/16 of the channels of the whole's feature, at most 32 (the release: 512 channels, 32). norm: of their
    convolutions. sync_batch_norm: their batch statistics over all processes. pixel_gain: of the loss of pixels. With 0.7 its gradients by D's
    weights are at the start of a run as large as those of LPIPS; after ten steps by LPIPS it would be 0.38, after ten by pixels 1.9
    (benchmarks/pixel_gain.py).

    Stats: the distance per image of each decoder. Raises UsageError for a size that isn't a power of two from 16, HandfulError where D has no
    feature map or the weights of LPIPS are wanted and absent.
    """

    exact_under_accumulation = False            # batch norm in the decoders

    def __init__(self, weight: float = 1.0, reduction: Literal["sum", "mean"] = "sum", loss: Literal["auto", "lpips", "pixel"] = "auto",
                 decoders: tuple[Part, ...] = ("whole", "part", "small"), size: int = 128, width: float | None = None,
                 norm: Norm = "spectral", sync_batch_norm: bool = False, pixel_gain: float = 1.0) -> None:
        super().__init__()
        if size < 16 or size & (size - 1):
            raise UsageError(f"reconstruction.size={size}: targets have 16, 32, 64 ... pixels a side; choose a power of two")
        if not decoders:
            raise UsageError("reconstruction.decoders is empty: name at least one of whole, part, small, or leave the term out")
        self.weight, self.reduction, self.loss, self.size, self.width = weight, reduction, loss, size, width
        self.norm, self.sync_batch_norm, self.pixel_gain = norm, sync_batch_norm, pixel_gain
        self.pretrained = () if loss == "pixel" else ("lpips",)
        self.wanted = tuple(dict.fromkeys(decoders))
        self.sources: dict[str, str] = {}                       # decoder -> feature of D
        self.decoders = nn.ModuleDict()
        self.notes: list[str] = []
        self._lpips: tuple[nn.Module, ...] = ()                 # in a tuple: frozen, neither state nor parameters of this term

    def settled(self, present: Collection[str]) -> Mapping[str, Any]:
        return {"loss": "lpips" if "lpips" in present else "pixel"} if self.loss == "auto" else {}

    def setup(self, nets: Nets) -> None:
        info = nets.D.feature_info
        found = choose(info)
        self.sources = {name: found[name] for name in self.wanted if name in found}
        if not self.sources:
            raise HandfulError(f"reconstruction: this discriminator has no feature map for {', '.join(self.wanted)} (it has {', '.join(info)}); "
                               "leave the term out")
        self.size = min(self.size, getattr(nets.D, "resolution", self.size))
        first = info[found.get("whole", next(iter(self.sources.values())))]
        width = self.width or min(32, max(2, first.channels / 16))
        channels = getattr(nets.D, "channels", 3)
        self.decoders = nn.ModuleDict({
            name: _Decoder(info[source].channels, channels, self.size, width, norm=self.norm, sync=self.sync_batch_norm)
            for name, source in self.sources.items()})
        self._choose_loss(next(nets.D.parameters()).device)

    def needs(self, side: Side) -> Needs | None:
        return Needs(real=View(features=frozenset(self.sources.values()))) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        real = ctx.real
        quadrant = ctx.rng.integer(4)
        targets = {"whole": reduce(real.x_in.detach(), self.size), "part": reduce(crop(real.x_in.detach(), quadrant), self.size)}
        with ctx.nets.autocast():
            rebuilt = {name: self.decoders[name](crop(real.features[source], quadrant) if name == "part" else real.features[source])
                       for name, source in self.sources.items()}
            distances = self._distances(rebuilt, targets)                                           # each [B]
        loss = torch.stack(list(distances.values())).sum(0).mean() * self.weight
        return Result(loss * ctx.batch if self.reduction == "sum" else loss, {k: d.detach() for k, d in distances.items()})

    @torch.no_grad()
    def commit(self, side: Side, means: Mapping[str, Tensor], gathered: Mapping[str, Tensor], nets: Nets, images: int) -> None:
        for module in self.decoders.modules():
            if isinstance(module, Spectral) and module.u is not None:
                module.sigma(iterate=True)

    def _distances(self, rebuilt: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        target_of = {name: "part" if name == "part" else "whole" for name in rebuilt}
        if not self._lpips:
            return {name: (x.float() - targets[target_of[name]]).square().flatten(1).mean(1) * self.pixel_gain for name, x in rebuilt.items()}
        lpips = self._lpips[0]
        kinds = list(dict.fromkeys(target_of.values()))
        wanted = []
        for units in lpips.targets(torch.cat([targets[k] for k in kinds])):                         # one tensor per layer, images first
            by_kind = dict(zip(kinds, units.chunk(len(kinds))))
            wanted.append(torch.cat([by_kind[kind] for kind in target_of.values()]) if len(target_of) > 1 else units)
        distances = lpips.forward_targets(torch.cat(list(rebuilt.values())), tuple(wanted))
        return dict(zip(rebuilt, distances.chunk(len(rebuilt))))

    def _choose_loss(self, device: torch.device) -> None:
        from .. import features

        if self.loss == "pixel":
            return
        if self.loss == "lpips" or features.available("lpips"):
            self._lpips = (features.LPIPS.load(device=device),)
        else:
            self.notes.append("reconstruction compares pixels (mean squared difference), because the weights of LPIPS are not on this machine; "
                              "get them with: handful weights get lpips")


class _Decoder(nn.Module):
    """[B,cin,h,w] -> [B,channels,size,size] in (-1, 1): pooled to 8x8, doubled until `size`. Writes no buffer in forward."""

    def __init__(self, cin: int, channels: int, size: int, width: float, *, norm: Norm, sync: bool) -> None:
        super().__init__()
        stages = size.bit_length() - 4                                      # 16 -> 1, 128 -> 4
        out = [max(1, round(width * m)) for m in (4, 2, 2, 1)]
        out += [out[-1]] * (stages - 4)
        widths = [cin, *out[:stages]]
        self.up = nn.Sequential(*(UpBlock(a, b, norm=norm, sync=sync, track=False) for a, b in zip(widths, widths[1:])))
        self.to_image = Conv2d(widths[-1], channels, 3, padding=1, norm=norm)
        self.eval()

    def train(self, mode: bool = True) -> _Decoder:
        """Stays in evaluation mode: spectral norm's vectors move in `commit` alone."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.to_image(self.up(pool_to(x, 8))))


def choose(info: Mapping[str, FeatureInfo]) -> dict[str, str]:
    """Which feature each decoder takes: "whole" the map nearest to 8 pixels, "part" the one nearest to 16 of those that aren't
    smaller, "small" the last of the small scale, where there is one."""
    maps = {k: v for k, v in info.items() if v.resolution and k != "pre_logits"}
    maps = maps or {k: v for k, v in info.items() if v.resolution}
    large = {k: v.resolution for k, v in maps.items() if not k.startswith("small_")}
    small = {k: v.resolution for k, v in maps.items() if k.startswith("small_")}
    found = {}
    if large:
        found["whole"] = _nearest(large, 8)
        larger = {k: r for k, r in large.items() if r >= max(8, large[found["whole"]])}
        if larger:
            found["part"] = _nearest(larger, 16)
    if small:
        found["small"] = _nearest(small, 8)
    return found


def _nearest(sides: Mapping[str, int], side: int) -> str:
    return min(sides, key=lambda k: max(sides[k] / side, side / sides[k]))


def crop(x: Tensor, quadrant: int) -> Tensor:
    """One quadrant of [B,C,H,W]: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
    h, w = x.shape[2] // 2, x.shape[3] // 2
    top, left = quadrant // 2 * h, quadrant % 2 * w
    return x[:, :, top:top + h, left:left + w]


def reduce(x: Tensor, size: int) -> Tensor:
    """Nearest-neighbour interpolation to size x size."""
    return x if x.shape[2:] == (size, size) else F.interpolate(x, size=(size, size), mode="nearest")
