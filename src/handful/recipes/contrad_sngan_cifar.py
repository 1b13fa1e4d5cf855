"""ContraD with SNDCGAN on CIFAR-10 at 32 pixels, without classes: the convolutional form of sngan, batch 512, 200k iterations.

Jeong, Shin: Training GANs with Stronger Augmentations via Contrastive Discriminator, ICLR 2021. As released: non-saturating loss, Adam 2e-4 (0.5,
0.999) after a linear warm-up of 3000 steps, one D step to one of G, spectral norm on every layer of D. No figures of it are at hand. Latents
are normal here (there uniform in [-1, 1]); that D's channels double in its strided convolutions, and that G isn't averaged, is chosen here.
"""

from __future__ import annotations

from typing import Any

ITERATIONS, WARM_UP, BATCH = 200_000, 3000, 512


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    adam = {"lr": 2e-4, "betas": [0.5, 0.999], "eps": 1e-8, "warmup_kimg": WARM_UP * (batch or BATCH) / 1000}
    return {
        "data": {"resolution": resolution or 32, "flip": False},                        # SimCLR's policy flips
        "g": {"use": "sngan", "z_dim": 128, "form": "cnn"},
        "d": {"use": "sngan", "form": "cnn", "doubled": True, "norm": "spectral"},
        "augment": {"use": "simclr", "form": "cifar"},
        "loss": {"use": "non_saturating"},
        "terms": {"contrad": {"use": "contrad", "hidden": 512}},
        "optim_g": adam,
        "optim_d": dict(adam),
        "ema": {"decay": 0.0},
        "train": {"kimg": ITERATIONS * BATCH / 1000, "batch": BATCH, "order": "dg"},
        "every": {"log_kimg": 8, "preview_kimg": 1000, "checkpoint_kimg": 2000},
        "evaluate": {"every_kimg": 2000, "samples": 10_000},
    }
