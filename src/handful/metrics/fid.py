"""Frechet Inception distance: fakes and reals as two Gaussians in Inception's features. Protocols: fid50k_full, fid5k_train,
fid10k_test ...

Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
Equilibrium" (NIPS 2017), eq. 6. Covariances in fp64, divided by n (StyleGAN2-ADA's PyTorch release; ddof=1: by n - 1, as
DiffAugment and FastGAN do).

The estimate is biased upwards, by about C/n_real + C/n_fake (Chong and Forsyth, "Effectively Unbiased FID and Inception Score",
CVPR 2020): scores at different counts can't be compared, and below 2000 images most of the value is that bias. So the value comes
with `bias`: two random halves of the reals scored against each other, what a perfect generator would get at half their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._frechet import Gaussian, frechet
from ._metric import Metric, Resources
from ._stats import Stats, in_first_half

FEW = 2000


@dataclass
class FID(Metric):
    """`FID()(real_features, fake_features)`. ddof: 0 covariance divided by n, 1 by n - 1. bias: also score two halves of the
    reals."""

    ddof: int = 0
    bias: bool = True
    takes = ("moments", "moments")

    def compute(self, real: Stats, fake: Stats, resources: Resources, key: Any = None) -> dict[str, Any]:
        resources.progress(0, 2)
        found: dict[str, Any] = {"value": frechet(self._gaussian(real, resources), self._gaussian(fake, resources))}
        resources.progress(1, 2)
        if self.bias and real.count >= 4:
            found["bias"] = resources.kept(["halves", real.count, self.ddof], lambda: self._halves(real, resources))
            found["bias_counts"] = [real.count // 2, real.count - real.count // 2]
        resources.progress(2, 2)
        if min(real.count, fake.count) < FEW:
            found["note"] = f"below {FEW} images FID is mostly bias: compare it at the same counts only, or trust kid"
        return found

    def words(self, reals: int, fakes: int) -> str:
        return f"{super().words(reals, fakes)}, covariance divided by {'n - 1' if self.ddof else 'n'}"

    def _gaussian(self, stats: Stats, resources: Resources) -> Gaussian:
        source = stats.features if stats.halves is None else stats.halves[0] + stats.halves[1]
        return Gaussian(source, self.ddof, resources.device)

    def _halves(self, real: Stats, resources: Resources) -> float:
        if real.halves is None:
            half = in_first_half(real.count)
            parts = real.features[half], real.features[~half]
        else:
            parts = real.halves
        return frechet(*(Gaussian(part, self.ddof, resources.device) for part in parts))
