"""Density: in how many reals' neighbourhoods a fake lies, on average, over k. Like precision, but an outlying real counts for
little.

Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models" (ICML 2020), eq. 4, with their k = 5. It
may exceed 1; two samples of one distribution score 1 on average. A fake on the very edge of a neighbourhood counts as inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._manifold import Neighbourhood
from ._metric import Resources
from ._stats import Stats


@dataclass
class Density(Neighbourhood):
    """`Density()(real_features, fake_features)`."""

    k: int = 5

    def compute(self, real: Stats, fake: Stats, resources: Resources, key: Any = None) -> dict[str, Any]:
        return {"value": self.found(real, fake, resources, key)["density"]}
