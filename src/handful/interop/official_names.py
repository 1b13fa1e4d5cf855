"""State dicts of StyleGAN2 between the official PyTorch release (2021-2023) and `arch/stylegan2.py`: renaming, nothing else.

    official                                   here
    G  every name                              the same
    D  b{resolution}.fromrgb.{weight,bias}     stem.{weight,bias}
    D  every other name                        the same
    *.resample_filter                          none: the filter [1,3,3,1] is part of the operators

Values and shapes are untouched: both store unit-variance weights and scale them at run time, keep transposed convolutions as [out,in,3,3],
and an embedding of classes as [width,classes]. Layers that Freeze-D froze are buffers in the release, of the same names, so a state dict doesn't show
it. A discriminator converted from the TensorFlow release has `mapping.embed` alone (mapping_layers=0), one trained with the PyTorch release
`mapping.fc0` to `fc7` too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import HandfulError

Kind = Literal["G", "D"]
Shapes = dict[str, tuple[int, ...]]

FILTER = "resample_filter"
_SIDES = [2**k for k in range(2, 11)]


def to_ours(state: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """The official state dict of a generator or discriminator under our names. The tensors are the same objects.

    Raises HandfulError for a name that is unknown or missing, or a wrong shape; filters may be missing.
    """
    known = settings(state, kind)
    _check(state, official_shapes(kind, **known), kind)
    return {_ours(n, kind, known["resolution"]): t for n, t in state.items() if not n.endswith(FILTER)}


def to_official(state: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """Our state dict under the official names, with the filters that the release stores. Raises HandfulError as `to_ours`."""
    renamed = dict(state)
    if kind == "D":
        sides = [int(m[1]) for m in map(re.compile(r"b(\d+)\.conv0\.weight").fullmatch, state) if m]
        renamed = {re.sub(r"^stem\.", f"b{max(sides, default=0)}.fromrgb.", n): t for n, t in state.items()}
    shapes = official_shapes(kind, **settings(renamed, kind))
    _check(renamed, shapes, kind)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return {n: torch.outer(taps, taps) if n.endswith(FILTER) else renamed[n] for n in shapes}


def settings(state: Mapping[str, Tensor], kind: Kind) -> dict[str, Any]:
    """The keywords of our Generator or Discriminator that an official state dict fits, read off its shapes.

    channel_base is the smallest that gives these channels. For D minibatch_group is 1 where there is no minibatch standard deviation; else the group
    isn't in the file. Three keywords of the release that our networks don't have stand here only where they aren't its defaults: embed_features and
    layer_features, the widths of the mapping's embedding and of its layers but the last (default: the last one's), and D's cmap_dim, the width of
    its projection (default: channel_max). Raises HandfulError where this is no such network.
    """
    prefix = "synthesis." if kind == "G" else ""

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise HandfulError(f"this is no state dict of StyleGAN2's {kind}: it has no '{name}'; give one of the official release")
        return tuple(state[name].shape)

    anchor = re.compile(rf"{prefix}b(\d+)\.conv1\.weight")
    resolution = max((int(m[1]) for m in map(anchor.fullmatch, state) if m), default=4)
    top = f"{prefix}b{resolution}."
    classes = shape("mapping.embed.weight")[1] if "mapping.embed.weight" in state else 0
    known: dict[str, Any] = {"resolution": resolution, "num_classes": classes,
                             "mapping_layers": sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", n)) for n in state)}
    residual = top + "skip.weight" in state
    embedding = shape("mapping.embed.weight")[0] if classes else 0

    def other(usual: int) -> dict[str, int]:
        """The mapping's widths that aren't `usual`, that of what it gives."""
        layers = shape("mapping.fc0.weight")[0] if known["mapping_layers"] > 1 else usual
        found = {"embed_features": embedding or usual, "layer_features": layers}
        return {k: v for k, v in found.items() if v != usual}

    if kind == "G":
        w_dim, = shape("mapping.w_avg")
        skip = "synthesis.b4.torgb.weight" in state
        return known | other(w_dim) | {
            "channels": shape(top + "torgb.weight")[0], "w_dim": w_dim, "z_dim": shape("mapping.fc0.weight")[1] - embedding,
            "channel_base": shape(top + "conv1.weight")[0] * resolution, "channel_max": shape("synthesis.b4.conv1.weight")[0],
            "architecture": "resnet" if residual else "skip" if skip else "orig"}
    width, cin = shape("b4.conv.weight")[:2]
    wide, channels = shape(top + "fromrgb.weight")[:2]
    spread = {"minibatch_channels": cin - width} if cin > width else {"minibatch_group": 1}
    cmap_dim = shape("b4.out.weight")[0] if classes else width
    return known | spread | (other(cmap_dim) if classes else {}) | ({"cmap_dim": cmap_dim} if cmap_dim != width else {}) | {
        "channels": channels, "channel_base": wide * resolution, "channel_max": width,
        "architecture": "resnet" if residual else "skip" if "b4.fromrgb.weight" in state else "orig"}


def official_shapes(kind: Kind, *, resolution: int, channels: int, num_classes: int, channel_base: int, channel_max: int, architecture: str,
                    mapping_layers: int, z_dim: int = 0, w_dim: int = 0, minibatch_channels: int = 1, minibatch_group: int = 4,
                    embed_features: int | None = None, layer_features: int | None = None, cmap_dim: int | None = None) -> Shapes:
    """Every name of the official state dict with its shape, parameters and buffers. Keywords as `settings` gives them."""
    sides = [s for s in _SIDES if s <= resolution]
    width = {s: min(channel_base // s, channel_max) for s in sides}
    out: Shapes = {}

    def put(prefix: str, **shapes: tuple[int, ...]) -> None:
        out.update({f"{prefix}.{n}": s for n, s in shapes.items()})

    def mapping(last: int) -> None:
        embedding = (embed_features or last) if num_classes else 0
        if num_classes:
            put("mapping.embed", weight=(embedding, num_classes), bias=(embedding,))
        between = [layer_features or last] * (mapping_layers - 1)
        for i, (cin, cout) in enumerate(pairwise([z_dim + embedding, *between, last]) if mapping_layers else ()):
            put(f"mapping.fc{i}", weight=(cout, cin), bias=(cout,))

    filtered = {FILTER: (4, 4)}
    if kind == "G":
        for s in sides:
            b, wide = f"synthesis.b{s}", width[s]
            put(b, **({"const": (wide, 4, 4)} if s == 4 else {}), **filtered)
            for name, cin in [("conv0", width.get(s // 2)), ("conv1", wide)][s == 4:]:
                put(f"{b}.{name}", weight=(wide, cin, 3, 3), noise_strength=(), bias=(wide,), **filtered, noise_const=(s, s))
                put(f"{b}.{name}.affine", weight=(cin, w_dim), bias=(cin,))
            if architecture == "skip" or s == resolution:
                put(f"{b}.torgb", weight=(channels, wide, 1, 1), bias=(channels,))
                put(f"{b}.torgb.affine", weight=(wide, w_dim), bias=(wide,))
            if architecture == "resnet" and s > 4:
                put(f"{b}.skip", weight=(wide, width[s // 2], 1, 1), **filtered)
        put("mapping", w_avg=(w_dim,))
        mapping(w_dim)
        return out
    for s in sides[:0:-1]:
        b, wide = f"b{s}", width[s]
        put(b, **filtered)
        if architecture == "skip" or s == resolution:
            put(f"{b}.fromrgb", weight=(wide, channels, 1, 1), bias=(wide,), **filtered)
        put(f"{b}.conv0", weight=(wide, wide, 3, 3), bias=(wide,), **filtered)
        put(f"{b}.conv1", weight=(width[s // 2], wide, 3, 3), bias=(width[s // 2],), **filtered)
        if architecture == "resnet":
            put(f"{b}.skip", weight=(width[s // 2], wide, 1, 1), **filtered)
    wide = width[4]
    out_wide = (cmap_dim or wide) if num_classes else 1
    if num_classes:
        mapping(out_wide)
    if architecture == "skip":
        put("b4.fromrgb", weight=(wide, channels, 1, 1), bias=(wide,), **filtered)
    put("b4.conv", weight=(wide, wide + (minibatch_channels if minibatch_group > 1 else 0), 3, 3), bias=(wide,), **filtered)
    put("b4.fc", weight=(wide, 16 * wide), bias=(wide,))
    put("b4.out", weight=(out_wide, wide), bias=(out_wide,))
    return out


def _ours(name: str, kind: Kind, resolution: int) -> str:
    return re.sub(rf"^b{resolution}\.fromrgb\.", "stem.", name) if kind == "D" else name


def _check(state: Mapping[str, Tensor], shapes: Shapes, kind: Kind) -> None:
    where = f"state dict of StyleGAN2's {kind}"
    for name, tensor in state.items():
        if name not in shapes:
            raise HandfulError(f"{where}: '{name}' has no place in it; it is from another version or changed")
        if tuple(tensor.shape) != shapes[name]:
            raise HandfulError(f"{where}: '{name}' is {list(tensor.shape)} where the rest asks for {list(shapes[name])}; it is damaged or changed")
    missing = [n for n in shapes if n not in state and not n.endswith(FILTER)]
    if missing:
        raise HandfulError(f"{where}: '{missing[0]}' is missing{f' and {len(missing) - 1} more' if missing[1:] else ''}; it is cut short or changed")
