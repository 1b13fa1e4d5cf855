"""Neighbourhoods of images in a feature space: who lies within whose k-th nearest neighbour. Four metrics are counts of that.

Distances come from matrix products in blocks of rows, fp32, of features shifted by the reals' mean (the products lose less then). A
product can't tell distances apart that are equal to rounding; so radii, and all pairs within rounding of a radius, are computed
again from the differences in fp64. The counts then depend neither on blocks nor on the device. Equal features, of which all pairs
would be such close calls, are taken once and counted as often as they are there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ._blocks import exact_products, rows_that_fit
from ._metric import Metric, Resources
from ._stats import Stats

ROUNDING = {torch.float32: 4e-6, torch.float64: 1e-14}       # of |x|^2 + |y|^2: the error of a product, generously
PAIRS_AT_ONCE, ROWS_AT_ONCE = 1 << 8, 1 << 11


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
        self.least = self.k + 1                              # so that each has a k-th nearest other
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
    n_real, n_fake, shift = len(x), len(y), x.mean(0)
    (x, of_x), (y, of_y) = distinct(x), distinct(y)
    near_x, near_y = x - shift, y - shift                            # for products
    step = rows_that_fit(max(len(x), len(y)), x, resources.memory_mb)
    total = -(-len(x) // step) + -(-len(y) // step) * (2 if of_fakes else 1)
    ticks = iter(range(1, total + 1))
    tick = lambda: resources.progress(next(ticks), total)
    with exact_products():
        reals = radii(x, near_x, of_x, ks, step, tick)
        fakes = radii(y, near_y, of_y, ks, step, tick) if of_fakes else {}
        inside = {k: torch.zeros(len(y), dtype=torch.float64, device=y.device) for k in ks}      # reals whose ball holds this fake
        covered = {k: torch.zeros(len(x), dtype=torch.bool, device=x.device) for k in ks}        # whether its ball holds a fake
        recalled = {k: torch.zeros_like(covered[k]) for k in ks}                                 # whether a fake's ball holds it
        for at in range(0, len(y), step):
            rows = y[at:at + step]
            d, noise = squared(near_y[at:at + step], near_x)                                         # [B,N]
            for k in ks:
                held = within(d, noise, reals[k][None], rows, x)
                inside[k][at:at + step] = (held.float() @ of_x.float()).double()         # whole numbers below 2^24: exact
                covered[k] |= held.any(0)
                if of_fakes:
                    recalled[k] |= within(d, noise, fakes[k][at:at + step, None], rows, x).any(0)
            del d, noise, held                                       # before the next block
            tick()
    out = {}
    for k in ks:
        out[k] = {"precision": share(inside[k] > 0, of_y, n_fake), "density": float((inside[k] * of_y).sum()) / (k * n_fake),
                  "coverage": share(covered[k], of_x, n_real)}
        out[k] |= {"recall": share(recalled[k], of_x, n_real)} if of_fakes else {}
    return out


def share(flags: Tensor, times: Tensor, total: int) -> float:
    return int(times[flags].sum()) / total


def distinct(x: Tensor) -> tuple[Tensor, Tensor]:
    """(the rows of x [N,D] that differ, each once; how often each is there, int64). Pictures may repeat, and a collapsed generator repeats one."""
    weights = torch.randint(-(2**62), 2**62, (x.shape[1],), generator=torch.Generator().manual_seed(0)).to(x.device)
    key = torch.cat([((part + 0.0).view(torch.int32) * weights).sum(1) for part in x.float().split(ROWS_AT_ONCE)])        # -0 is 0
    _, group = key.unique(return_inverse=True)
    own = torch.arange(len(x), device=x.device)
    first = torch.full_like(own, len(x)).scatter_reduce(0, group, own, "amin")[group]
    same = torch.cat([(x[i] == x[j]).all(1) for i, j in zip(own.split(ROWS_AT_ONCE), first.split(ROWS_AT_ONCE))])
    index, times = torch.where(same, first, own).unique(return_counts=True)
    return (x, times) if len(index) == len(x) else (x[index], times)


def squared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [N,M] of rows of a [N,D] and b [M,D], and the rounding error they may have [N,M]."""
    d = a.square().sum(1)[:, None] + b.square().sum(1)[None]
    noise = d * ROUNDING[a.dtype]
    return d.addmm_(a, b.T, alpha=-2), noise


def squared_wide(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """`squared` in fp64, where fp32 tells too little apart."""
    found = [squared(a.double(), part.double()) for part in b.split(ROWS_AT_ONCE)]
    return torch.cat([d for d, _ in found], 1), torch.cat([noise for _, noise in found], 1)


def exact(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of rows in pairs, from the differences: a, b [P,D] -> fp64 [P]."""
    parts = [(p.double() - q.double()).square().sum(1) for p, q in zip(a.split(PAIRS_AT_ONCE), b.split(PAIRS_AT_ONCE))]
    return torch.cat(parts) if parts else a.new_zeros(0, dtype=torch.float64)


def radii(x: Tensor, shifted: Tensor, times: Tensor, ks: list[int], step: int, tick) -> dict[int, Tensor]:
    """The squared distance of each row of x [N,D] to its k-th nearest other one, per k: fp64 [N]. times: how often each row is there."""
    most = min(max(ks) + 1, len(x))
    spare = min(most + 4, len(x))        # so that rounding can't push one of the nearest out of the candidates
    found: dict[int, list[Tensor]] = {k: [] for k in ks}
    for at in range(0, len(x), step):
        rows = x[at:at + step]
        d, noise = squared(shifted[at:at + step], shifted)
        nearest = d.topk(spare, dim=1, largest=False)                                                # [B,spare], itself among them
        near = nearest.indices
        gap = nearest.values[:, -1] - nearest.values[:, most - 1]
        crowded = (gap <= 2 * noise.gather(1, near).amax(1)).nonzero()[:, 0] if spare < len(x) else near.new_zeros(0)
        for some in crowded.split(max(1, step // 4)):                                                # near duplicates of one another
            near[some] = squared_wide(rows[some], x)[0].topk(spare, dim=1, largest=False).indices
        del d, noise, nearest                                                                        # before the next block
        part = max(1, PAIRS_AT_ONCE // spare)
        some = zip(rows.split(part), near.split(part))
        pairs = torch.cat([exact(r.repeat_interleave(spare, 0), x[i.flatten()]) for r, i in some]).view(-1, spare)
        pairs, order = pairs.sort(1)
        seen = times[near.gather(1, order)].cumsum(1)                                                # so many rows up to this distance
        for k in ks:
            place = (seen <= k).sum(1, keepdim=True).clamp(max=spare - 1)                            # the first is the row itself
            found[k].append(pairs.gather(1, place)[:, 0])
        tick()
    return {k: torch.cat(parts) for k, parts in found.items()}


def within(d: Tensor, noise: Tensor, radius: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """bool [B,N]: is the distance d of rows [B,D] and columns [N,D] at most the radius (fp64, broadcast)? Close calls are computed
    again, many of them by products in fp64 first."""
    gap = d - radius.to(d.dtype)
    held = gap <= 0
    close = gap.abs_() <= noise
    i, j = close.nonzero(as_tuple=True)
    limit = radius.expand(d.shape)
    if len(i) > len(rows) + len(columns):
        a, b = i.unique(), j.unique()
        for some in a.split(max(1, d.numel() // (2 * len(b)))):                                     # no more memory than d has
            wide, error = squared_wide(rows[some], columns[b])
            block = some[:, None], b[None]
            wide -= limit[block]
            held[block] = torch.where(close[block], wide <= 0, held[block])
            close[block] &= wide.abs_() <= error
        i, j = close.nonzero(as_tuple=True)
    for a, b in zip(i.split(PAIRS_AT_ONCE), j.split(PAIRS_AT_ONCE)):
        held[a, b] = exact(rows[a], columns[b]) <= limit[a, b]
    return held
