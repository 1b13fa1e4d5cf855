"""Recall: the share of reals that lie where fakes lie.

Kynkaanniemi et al. (NeurIPS 2019), as in `precision` with the roles of the sets exchanged: a real counts if it is no farther from
some fake than that fake's k-th nearest other fake; k = 3. It depends on the counts: more fakes have smaller balls, but more of
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._manifold import Neighbourhood
from ._metric import Resources
from ._stats import Stats


@dataclass
class Recall(Neighbourhood):
    """`Recall()(real_features, fake_features)`."""

    of_fakes = True

    def compute(self, real: Stats, fake: Stats, resources: Resources, key: Any = None) -> dict[str, Any]:
        return {"value": self.found(real, fake, resources, key)["recall"]}
