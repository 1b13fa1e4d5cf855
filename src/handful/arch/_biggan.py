"""BigGAN's tables: what its papers and releases have at each resolution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ..errors import UsageError
from ..nn.conv import DCGAN_STD
from ..nn.residual import Skip

Weights = Literal["normal", "orthogonal"]


@dataclass(frozen=True)
class Table:
    """One published form. g: widths of G before and after each block, d: of D after each block, as multiples of the base width; downs: how
    many of D's blocks halve the map; attention: sides of the maps that have it; shared_dim: size of the class embedding, 0: a table of its own
    in every norm; hierarchical: z is cut into a chunk for the first layer and one for each block; init: how weights start; bn_eps, sn_eps: of
    batch norm and of spectral norm; skip: what the shortcuts of D see."""

    width: int
    z_dim: int
    g: tuple[int, ...]
    d: tuple[int, ...]
    downs: int
    attention: tuple[int, ...] = (64,)
    shared_dim: int = 128
    hierarchical: bool = True
    init: Weights = "orthogonal"
    bn_eps: float = 1e-4
    sn_eps: float = 1e-6
    skip: Skip = "plain"


TABLES = {
    # DiffAugment's release for CIFAR
    32: Table(64, 128, (4, 4, 4, 4), (4, 4, 4, 4), 2, (), 0, False, "normal", 1e-5, 1e-8),
    # DigGAN's release, in StudioGAN: Tiny-ImageNet
    64: Table(80, 100, (16, 8, 4, 2, 1), (1, 2, 4, 8, 16), 4, (32,), skip="rectified"),
    # likewise: CUB-200; the table of the BigGAN paper for ImageNet, but for skip
    128: Table(96, 120, (16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5, skip="rectified"),
    # the BigGAN paper, table 8
    256: Table(96, 140, (16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6),
}


def table(resolution: int) -> Table:
    if resolution not in TABLES:
        raise UsageError(f"resolution={resolution}: BigGAN makes square pictures of 32, 64, 128 or 256 pixels; choose one of them")
    return TABLES[resolution]


def sides_with_attention(asked: Iterable[int] | None, published: tuple[int, ...], sides: Iterable[int]) -> frozenset[int]:
    """The sides of the maps that get self-attention. Raises UsageError for one that the network hasn't."""
    chosen, there = frozenset(published if asked is None else asked), sorted(set(sides))
    for side in sorted(chosen - set(there)):
        raise UsageError(f"attention={side}: this network has maps of {', '.join(map(str, there))} pixels; give some of these, or []")
    return chosen


def starting(init: Weights | None, published: Weights) -> dict[str, Any]:
    """Weights and biases of the linear maps: N(0, 0.02^2) with torch's own biases as in the CIFAR release, or orthogonal with zeros."""
    if (init or published) == "orthogonal":
        return {"init": nn.init.orthogonal_, "bias": "zeros"}
    return {"init": DCGAN_STD, "bias": "uniform"}
