"""ContraD (Jeong, Shin: Training GANs with Stronger Augmentations via Contrastive Discriminator, ICLR 2021)."""

from __future__ import annotations

from typing import Any

from .stylegan2_diffaug import stylegan2_diffaug_cifar

ITERATIONS, WARM_UP = 200_000, 3000           # the latter in steps, of the learning rate


def contrad_cifar(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """ContraD with StyleGAN2 on CIFAR-10 at 32 pixels, without classes: D learns by contrast of SimCLR's views, a small head judges.

    Jeong, Shin: Training GANs with Stronger Augmentations via Contrastive Discriminator, ICLR 2021. As released: batch 64, Adam 0.002 (0, 0.99) after
    a linear warm-up of 3000 steps, R1 of 0.1 in every step by the augmented image, style mixing 0.9, G's step first, an average of G with a half-life
    of 1000 kimg. No figures of it are at hand. Chosen here: the networks of DiffAugment's StyleGAN2 for CIFAR, and 200,000 iterations, the length of
    the method's other networks.
    """
    tree = stylegan2_diffaug_cifar(resolution)
    tree["train"] |= {"kimg": ITERATIONS * 64 / 1000, "batch": 64}
    tree["ema"]["start_kimg"] = 0
    tree["data"]["flip"] = False                          # SimCLR's policy flips
    tree["augment"] = {"use": "simclr", "form": "cifar"}
    tree["terms"]["contrad"] = {"use": "contrad", "hidden": 512}
    for side in ("optim_g", "optim_d"):
        tree[side]["warmup_kimg"] = WARM_UP * (batch or 64) / 1000
    return tree


def contrad_sngan_cifar(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """ContraD with SNDCGAN on CIFAR-10 at 32 pixels, without classes: the convolutional form of sngan, batch 512, 200k iterations.

    Jeong, Shin: Training GANs with Stronger Augmentations via Contrastive Discriminator, ICLR 2021. As released: non-saturating loss, Adam 2e-4 (0.5,
    0.999) after a linear warm-up of 3000 steps, one D step to one of G, spectral norm on every layer of D. No figures of it are at hand. Latents
    are normal here (there uniform in [-1, 1]); that D's channels double in its strided convolutions, and that G isn't averaged, is chosen here.
    """
    adam = {"lr": 2e-4, "betas": [0.5, 0.999], "eps": 1e-8, "warmup_kimg": WARM_UP * (batch or 512) / 1000}
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
        "train": {"kimg": ITERATIONS * 512 / 1000, "batch": 512, "order": "dg"},
        "every": {"log_kimg": 8, "preview_kimg": 1000, "checkpoint_kimg": 2000},
        "evaluate": {"every_kimg": 2000, "samples": 10_000},
    }
