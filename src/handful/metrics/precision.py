"""Precision: the share of fakes that lie where reals lie. Protocol pr50k3_full (with recall).

Kynkaanniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for Assessing Generative Models" (NeurIPS 2019),
eq. 1 and 2: a fake counts if, for at least one real, it is no farther away than that real's k-th nearest other real; k = 3. The
papers use VGG16's second dense layer; here the default is Inception, whose weights are verified, and the protocol name takes VGG16.

Deviation from the release: radii and distances in fp32 with close calls settled in fp64 (there fp16), and duplicates exactly at
distance 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._manifold import Neighbourhood
from ._metric import Resources
from ._stats import Stats


@dataclass
class Precision(Neighbourhood):
    """`Precision()(real_features, fake_features)`. with_recall: the result has `recall` too."""

    with_recall: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.of_fakes = self.with_recall

    def compute(self, real: Stats, fake: Stats, resources: Resources, key: Any = None) -> dict[str, Any]:
        found = self.found(real, fake, resources, key)
        return {"value": found["precision"], **({"recall": found["recall"]} if self.with_recall else {})}
