"""ContraD with StyleGAN2 on CIFAR-10 at 32 pixels, without classes: D learns by contrast of SimCLR's views, a small head judges.

Jeong, Shin: Training GANs with Stronger Augmentations via Contrastive Discriminator, ICLR 2021. As released: batch 64, Adam 0.002 (0, 0.99) after a
linear warm-up of 3000 steps, R1 of 0.1 in every step by the augmented image, style mixing 0.9, G's step first, an average of G with a half-life of
1000 kimg. No figures of it are at hand. Chosen here: the networks of DiffAugment's StyleGAN2 for CIFAR, and 200,000 iterations, the length of the
method's other networks.
"""

from __future__ import annotations

from typing import Any

from ._stylegan2_diffaug import stylegan2_diffaug

ITERATIONS, WARM_UP, BATCH = 200_000, 3000, 64


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    tree = stylegan2_diffaug(resolution or 32, kimg=ITERATIONS * BATCH / 1000, batch=BATCH, channel_base=4096, gamma=0.1, at="x_in",
                             halflife_kimg=1000, start_kimg=0, evaluate={"every_kimg": 500, "samples": 10_000})
    tree["data"]["flip"] = False                          # SimCLR's policy flips
    tree["augment"] = {"use": "simclr", "form": "cifar"}
    tree["terms"]["contrad"] = {"use": "contrad", "hidden": 512}
    for side in ("optim_g", "optim_d"):
        tree[side]["warmup_kimg"] = WARM_UP * (batch or BATCH) / 1000
    return tree | {"every": {"log_kimg": 4, "preview_kimg": 500, "checkpoint_kimg": 500}}
