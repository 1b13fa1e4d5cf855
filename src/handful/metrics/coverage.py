"""Coverage: the share of reals whose neighbourhood holds at least one fake. Like recall, but an outlying fake covers nothing.

Naeem et al. (ICML 2020), eq. 6, with their k = 5: a neighbourhood is that of the k-th nearest other real. Two samples of n of one
distribution score about 1 - 1/2^k: 0.97.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._manifold import Neighbourhood
from ._metric import Resources
from ._stats import Stats


@dataclass
class Coverage(Neighbourhood):
    """`Coverage()(real_features, fake_features)`."""

    k: int = 5

    def compute(self, real: Stats, fake: Stats, resources: Resources, key: Any = None) -> dict[str, Any]:
        return {"value": self.found(real, fake, resources, key)["coverage"]}
