"""StyleGAN2-ADA tuned for CIFAR-10 at 32 pixels: 512 feature maps, no path length, no style mixing, plain D; the setting of 2 GPUs.

The release keeps the interval of the path length that it leaves out, and so the correction of G's Adam that goes with it: learning
rate 0.002, second beta 0.99^0.8. The paper's rows without this tuning are the recipe cifar_baseline.
"""

from __future__ import annotations

from typing import Any

from ._stylegan2 import CONDITIONAL, FIG_11B, cells, cifar10, stylegan2

FID_10K = "10,000 generated images against 10,000 validation images; mean of the paper's runs"
BEST_FID, BEST_IS = "the single best model by FID, 50,000 images", "the single best model by IS, 50,000 images"
TARGETS = (
    *cifar10("ADA + tuning", ((2.92, 0.05), (9.83, 0.04)), ((2.42, 0.04), (10.14, 0.09))),
    *cells("FID-10k", "ADA + tuning", "CIFAR-10", FID_10K, FIG_11B, (), "cifar10", FID_10k=(7.01, 0.06)),
    *cells("FID-10k", "ADA + tuning", "CIFAR-10 conditional", FID_10K, FIG_11B, CONDITIONAL, "cifar10", FID_10k=(6.54, 0.06)),
    *cells("17", "best FID", "CIFAR-10", BEST_FID, FIG_11B, (), "cifar10", FID=2.85, IS=9.74),
    *cells("17", "best FID", "CIFAR-10 conditional", BEST_FID, FIG_11B, CONDITIONAL, "cifar10", FID=2.38, IS=10.00),
    *cells("17", "best IS", "CIFAR-10", BEST_IS, FIG_11B, (), "cifar10", FID=5.70, IS=10.08),
    *cells("17", "best IS", "CIFAR-10 conditional", BEST_IS, FIG_11B, CONDITIONAL, "cifar10", FID=3.62, IS=10.33),
)


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    return stylegan2(resolution or 32, kimg=100000, batch=64, micro_batch=32, fmaps=1.0, lr=0.0025, gamma=0.01,
                     ema_kimg=500.0, rampup=0.05, mapping_layers=2, style_mixing=0.0, path_length=False,
                     d_architecture="orig", asked_batch=batch)
