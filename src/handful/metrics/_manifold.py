"""Neighbourhoods of images in a feature space: who lies within whose k-th nearest neighbour. Four metrics are counts of that.

Distances come from matrix products in blocks of rows, fp32, of features shifted by the reals' mean (the products lose less then). A
product can't tell distances apart that are equal to rounding, as between duplicates; so radii, and all pairs within rounding of a
radius, are computed again from the differences in fp64. The counts then depend neither on blocks nor on the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ._blocks import exact_products, rows_that_fit
from ._metric import Metric, Resources
from ._stats import Stats

ROUNDING = 4e-6                          # of |x|^2 + |y|^2: the error of a product in fp32, generously
PAIRS_AT_ONCE = 1 << 11


@dataclass
class Neighbourhood(Metric):
    """Base of precision, recall, density, coverage. k: the radius of an image is the distance to its k-th nearest neighbour of the
    same set."""

    k: int = 3
    better = "higher"
    of_fakes = False                     # whether radii of fakes are needed

    def counts(self, reals: int, fakes: int | None, samples: int | None, name: str) -> tuple[int, int]:
        """A plain one takes as many fakes as reals: with more, balls are smaller, but there are more of them."""
        n_reals, n_fakes = super().counts(reals, fakes, samples, name)
        return (n_reals, n_fakes) if self.samples is not None else (min(n_reals, n_fakes),) * 2

    def enough(self, reals: int, fakes: int, name: str) -> None:
        self.least = self.k + 2
        super().enough(reals, fakes, name)

    def announce(self, resources: Resources, key: Any) -> None:
        both = resources.shared.setdefault(("manifold", key), Manifold())
        both.ks.add(self.k)
        both.of_fakes |= self.of_fakes

    def found(self, real: Stats, fake: Stats, resources: Resources, key: Any) -> dict[str, float]:
        if ("manifold", key) not in resources.shared:
            self.announce(resources, key)
        return resources.shared["manifold", key].counted(real, fake, resources)[self.k]

    def words(self, reals: int, fakes: int) -> str:
        return f"{super().words(reals, fakes)}, k = {self.k}"


@dataclass
class Manifold:
    """What the metrics of one pair of sets share: everything is counted once, for all k."""

    ks: set[int] = field(default_factory=set)
    of_fakes: bool = False
    results: dict[int, dict[str, float]] | None = None

    def counted(self, real: Stats, fake: Stats, resources: Resources) -> dict[int, dict[str, float]]:
        if self.results is None:
            x, y = (s.features.to(resources.device) for s in (real, fake))
            self.results = count(x, y, sorted(self.ks), resources, self.of_fakes)
        return self.results


@torch.no_grad()
def count(x: Tensor, y: Tensor, ks: list[int], resources: Resources, of_fakes: bool = True) -> dict[int, dict[str, float]]:
    """Per k: precision, density, coverage, and recall where `of_fakes`. x: real features [N,D]; y: fake features [M,D]."""
    shift = x.mean(0)
    x, y = x - shift, y - shift
    step = rows_that_fit(max(len(x), len(y)), x, resources.memory_mb)
    total = -(-len(x) // step) + -(-len(y) // step) * (2 if of_fakes else 1)
    ticks = iter(range(1, total + 1))
    tick = lambda: resources.progress(next(ticks), total)
    with exact_products():
        reals, fakes = radii(x, ks, step, tick), radii(y, ks, step, tick) if of_fakes else {}
        inside = {k: torch.zeros(len(y), dtype=torch.int64, device=y.device) for k in ks}        # reals whose ball holds this fake
        covered = {k: torch.zeros(len(x), dtype=torch.bool, device=x.device) for k in ks}        # whether its ball holds a fake
        recalled = {k: torch.zeros_like(covered[k]) for k in ks}                                 # whether a fake's ball holds it
        for at in range(0, len(y), step):
            rows = y[at:at + step]
            d, noise = squared(rows, x)                                                              # [B,N]
            for k in ks:
                held = within(d, noise, reals[k][None], rows, x)
                inside[k][at:at + step] = held.sum(1)
                covered[k] |= held.any(0)
                if of_fakes:
                    recalled[k] |= within(d, noise, fakes[k][at:at + step, None], rows, x).any(0)
            tick()
    out = {}
    for k in ks:
        out[k] = {"precision": share(inside[k] > 0), "density": float(inside[k].double().mean()) / k, "coverage": share(covered[k])}
        out[k] |= {"recall": share(recalled[k])} if of_fakes else {}
    return out


def share(flags: Tensor) -> float:
    return float(flags.double().mean())


def squared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [N,M] of rows of a [N,D] and b [M,D], and the rounding error they may have [N,M]."""
    aa, bb = a.square().sum(1)[:, None], b.square().sum(1)[None]
    return torch.addmm(aa + bb, a, b.T, alpha=-2), (aa + bb) * ROUNDING


def exact(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of rows in pairs, from the differences: a, b [P,D] -> fp64 [P]."""
    parts = [(p.double() - q.double()).square().sum(1) for p, q in zip(a.split(PAIRS_AT_ONCE), b.split(PAIRS_AT_ONCE))]
    return torch.cat(parts) if parts else a.new_zeros(0, dtype=torch.float64)


def radii(x: Tensor, ks: list[int], step: int, tick) -> dict[int, Tensor]:
    """The squared distance of each row of x [N,D] to its k-th nearest other row, per k: fp64 [N]."""
    most = min(max(ks) + 1, len(x))
    spare = min(most + 4, len(x))        # so that rounding can't push one of the nearest out of the candidates
    found = []
    for at in range(0, len(x), step):
        rows = x[at:at + step]
        d, _ = squared(rows, x)
        near = d.topk(spare, dim=1, largest=False).indices                                           # [B,spare], itself among them
        part = max(1, PAIRS_AT_ONCE // spare)
        some = zip(rows.split(part), near.split(part))
        pairs = torch.cat([exact(r.repeat_interleave(spare, 0), x[i.flatten()]) for r, i in some])
        found.append(pairs.view(-1, spare).sort(1).values[:, :most])
        tick()
    nearest = torch.cat(found)           # [N,most], the first is the row itself
    return {k: nearest[:, min(k, most - 1)] for k in ks}


def within(d: Tensor, noise: Tensor, radius: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """bool [B,N]: is the distance d of rows [B,D] and columns [N,D] at most the radius (fp64, broadcast)? Close calls are computed
    again."""
    gap = d - radius.to(d.dtype)
    held = gap <= 0
    i, j = (gap.abs_() <= noise).nonzero(as_tuple=True)
    limit = radius.expand(d.shape)
    for a, b in zip(i.split(PAIRS_AT_ONCE), j.split(PAIRS_AT_ONCE)):
        held[a, b] = exact(rows[a], columns[b]) <= limit[a, b]
    return held
