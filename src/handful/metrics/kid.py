"""Kernel Inception distance: unbiased, so it can be compared between sets of any size. The choice below 5000 images. Protocol:
kid50k_full ...

Binkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs" (ICLR 2018): the squared maximum mean discrepancy of Inception's
features for the kernel (x.y/D + 1)^3, unbiased (its expectation over sets is 0 for equal distributions, so a value may be
negative). Papers print it x 1000.

Two ways. "subsets": 100 subsets of m = min(n_real, n_fake, 1000) of each set, drawn without replacement, and the mean over them, as
StyleGAN2-ADA does (specification in its released code: [sum over i != j of k_xx + k_yy] / (m(m-1)) - 2 mean k_xy). "pairs": all
pairs of the whole sets, which is what the mean over all possible subsets tends to; it has no noise of its own, and up to 10000
images of each costs no more. Plain `kid` takes all pairs as long as that is the cheaper, subsets from there on.

stderr: how far the value would vary with other images of the same two sources. Pairs: the variance of the U-statistic, both its
linear and its quadratic part (which alone is left when the sets are alike; Sutherland et al., ICLR 2017, appendix A, in the form
for unequal counts). Subsets: s^2 (1/subsets + m/n) with s the deviation between subsets, n the smaller set: an upper bound
(Hoeffding: n Var U_n falls with n). With `sets`: s / sqrt(sets), s the deviation between
the values of so many disjoint sets of the samples, each against all reals; that is how far it would vary with other samples, and not
with other reals. Deviation from the release: reals are the whole set at hand for the draws, products in fp32 and
sums in fp64 (1e-10 from fp64 throughout at 3000 images).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import HandfulError, UsageError
from ..rng import derive
from ._blocks import exact_products, rows_that_fit
from ._metric import Metric, Resources
from ._stats import Stats

PAIRS = 300_000_000                      # entries of 100 subsets of 1000: three matrices each


@dataclass
class KID(Metric):
    """`KID()(real_features, fake_features)`. way: "auto", "pairs" or "subsets"; subsets: how many, subset: images of each set in
    one. sets: into how many the samples are divided for the standard error; 0: it is computed from the pairs, or the subsets."""

    way: str = "auto"
    subsets: int = 100
    subset: int = 1000
    sets: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.way not in ("auto", "pairs", "subsets"):
            raise UsageError(f"way={self.way!r}: must be one of auto, pairs, subsets")
        if self.sets == 1 or self.sets < 0:
            raise UsageError(f"sets={self.sets}: a deviation takes two sets or more; 0 is none")

    def enough(self, reals: int, fakes: int, name: str) -> None:
        super().enough(reals, fakes, name)
        if fakes < 2 * self.sets:
            raise HandfulError(f"{name} with {self.sets} sets needs at least {2 * self.sets} samples, there are {fakes}")

    def all_pairs(self, reals: int, fakes: int) -> bool:
        return self.way == "pairs" or self.way == "auto" and reals**2 + fakes**2 + reals * fakes <= PAIRS

    def compute(self, real: Stats, fake: Stats, resources: Resources, key: Any = None) -> dict[str, Any]:
        x, y = (s.features.to(resources.device) for s in (real, fake))
        with exact_products():
            value, stderr = (pairs if self.all_pairs(len(x), len(y)) else self._subsets)(x, y, resources)
            stderr = between_sets(x, y, self.sets) if self.sets else stderr
        found = {"value": value, "stderr": stderr}
        if min(len(x), len(y)) < 50:
            found["note"] = "fewer than 50 images on one side: look at the standard error first"
        return found

    def _subsets(self, x: Tensor, y: Tensor, resources: Resources) -> tuple[float, float]:
        m = min(len(x), len(y), self.subset)
        values = []
        for i in range(self.subsets):
            draws = torch.Generator().manual_seed(derive("metrics", "kid", i))
            a, b = (s[torch.randperm(len(s), generator=draws)[:m].to(s.device)] for s in (x, y))
            within = sum(k.sum(dtype=torch.float64) - k.diagonal().sum(dtype=torch.float64) for k in (kernel(a, a), kernel(b, b)))
            values.append(float(within / (m * (m - 1)) - 2 * kernel(a, b).mean(dtype=torch.float64)))
            resources.progress(i + 1, self.subsets)
        found = torch.tensor(values, dtype=torch.float64)
        spread = float(found.var()) if self.subsets > 1 else float("nan")
        return float(found.mean()), (spread * (1 / self.subsets + m / min(len(x), len(y)))) ** 0.5

    def words(self, reals: int, fakes: int) -> str:
        how = "all pairs" if self.all_pairs(reals, fakes) else f"{self.subsets} subsets of {min(reals, fakes, self.subset)}"
        error = f", standard error from {self.sets} disjoint sets of {fakes // self.sets} samples" if self.sets else ""
        return f"{super().words(reals, fakes)}, kernel (x.y/D + 1)^3, {how}{error}"


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(x.y/D + 1)^3 of all rows of a [N,D] with all of b [M,D]: [N,M]."""
    g = torch.addmm(a.new_ones(()), a, b.T, alpha=1 / a.shape[1])
    return g.square().mul_(g)


def between_sets(x: Tensor, y: Tensor, sets: int) -> float:
    """Standard error of MMD^2 of reals x [M,D] and samples y [N,D] from `sets` disjoint sets of N // sets consecutive samples, each against all
    reals: the deviation between the sets' values over sqrt(sets). The reals' own mean kernel is the same in each and drops out."""
    values = []
    for part in y[: len(y) // sets * sets].chunk(sets):
        n, k = len(part), kernel(part, part)
        within = (k.sum(dtype=torch.float64) - k.diagonal().sum(dtype=torch.float64)) / (n * (n - 1))
        values.append(float(within - 2 * kernel(part, x).mean(dtype=torch.float64)))
    return float(torch.tensor(values, dtype=torch.float64).std()) / sets**0.5


def pairs(x: Tensor, y: Tensor, resources: Resources) -> tuple[float, float]:
    """(unbiased MMD^2, its standard error) over all pairs of x [M,D] and y [N,D], in blocks of rows."""
    m, n = len(x), len(y)
    step = rows_that_fit(max(m, n), x, resources.memory_mb)
    total = -(-m // step) * 2 + -(-n // step)
    done = 0
    sums: dict[str, Tensor] = {}         # of rows (and of columns for xy), and of all squares
    squares: dict[str, Tensor] = {}
    for name, a, b in (("xx", x, x), ("yy", y, y), ("xy", x, y)):
        rows, columns, square = [], torch.zeros(len(b), dtype=torch.float64), 0.0
        for at in range(0, len(a), step):
            k = kernel(a[at:at + step], b)
            if name != "xy":
                k.diagonal(at).zero_()
            rows.append(k.sum(1, dtype=torch.float64).cpu())
            if name == "xy":
                columns += k.sum(0, dtype=torch.float64).cpu()
            square += float(k.square_().sum(dtype=torch.float64))
            resources.progress(done := done + 1, total)
        sums[name], squares[name] = torch.cat(rows), square
        if name == "xy":
            sums["yx"] = columns
    xx, yy = sums["xx"] / (m - 1), sums["yy"] / (n - 1)                      # mean kernel of each with the others of its set
    xy, yx = sums["xy"] / n, sums["yx"] / m                                  # and with the other set
    value = float(xx.mean() + yy.mean() - 2 * xy.mean())
    # Hoeffding's decomposition: t = mean square of the kernel centred in rows and columns; a, b = variance of the linear part,
    # less the noise of its estimate.
    t_xx = squares["xx"] / (m * (m - 1)) - 2 * float(xx.square().mean()) + float(xx.mean()) ** 2
    t_yy = squares["yy"] / (n * (n - 1)) - 2 * float(yy.square().mean()) + float(yy.mean()) ** 2
    t_xy = squares["xy"] / (m * n) - float(xy.square().mean()) - float(yx.square().mean()) + float(xy.mean()) ** 2
    t_xx, t_yy, t_xy = (max(t, 0.0) for t in (t_xx, t_yy, t_xy))
    a = max(float((xx - xy).var()) - t_xx / (m - 1) - t_xy / n, 0.0)
    b = max(float((yy - yx).var()) - t_yy / (n - 1) - t_xy / m, 0.0)
    variance = 4 * a / m + 4 * b / n + 2 * t_xx / (m * (m - 1)) + 2 * t_yy / (n * (n - 1)) + 4 * t_xy / (m * n)
    return value, variance**0.5
