"""StyleGAN2-ADA on CIFAR-10 before its tuning: mapping depth 8, style mixing, path length, residual D.

The paper's rows Baseline and + ADA. Published by the TensorFlow release alone (cifarbaseline),
as the configuration cifar with these four parts of StyleGAN2 put back.
"""

from __future__ import annotations

from typing import Any

from ._stylegan2 import NO_ADA, cifar10, stylegan2

TARGETS = (*cifar10("baseline", ((8.32, 0.09), (9.21, 0.09)), ((6.96, 0.41), (9.53, 0.06)), NO_ADA),
           *cifar10("ADA", ((5.33, 0.35), (10.02, 0.07)), ((3.49, 0.17), (10.24, 0.07))))


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    return stylegan2(resolution or 32, kimg=100000, batch=64, micro_batch=32, fmaps=1.0, lr=0.0025, gamma=0.01,
                     ema_kimg=500.0, rampup=0.05, asked_batch=batch)
