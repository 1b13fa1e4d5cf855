"""R3GAN, as published and narrow.

Huang, Gokaslan, Kuleshov, Tompkin: The GAN is dead; long live the GAN! A Modern Baseline GAN, NeurIPS 2024 (arXiv 2501.05441): a
relativistic loss, R1 and R2 in every step with one gamma, plain ConvNets (arch/r3gan.py), Adam without momentum, mirrored reals,
ADA's augmentation by the clock.

The paper moves five things by a cosine over a burn-in of 20 million images, after which they stay: the learning rate from 2e-4 to
5e-5, gamma to a tenth, Adam's second beta from 0.9 to 0.99, the half-life of the average of G from 0, and the augmentation's p from
0. Deviations: the first three have their last values from the start, those of nine tenths of a run; the half-life and p rise
linearly. p knows the clock alone: with this loss a constant in D is free, and the sign of D(x) says nothing of overfitting.

FFHQ's FIDs were compared with the authors' model cards, CIFAR's batch and length with their answers to readers. The other numbers
(rates, gamma, half-lives, p, the burn-in, FFHQ's batch and length) stand here from memory of the paper's table of settings and were
not compared with it.

Chosen here: D steps first; R1 and R2 by the augmented images, so that reals and fakes pass D together and one backward pass serves
both; ADA's colours and geometry (bgc). The paper's batches ran on 8 GPUs; where there are fewer they are accumulated, with the same
result.
"""

from __future__ import annotations

from typing import Any

BURN_IN_KIMG = 20_000


def r3gan_256(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """R3GAN on FFHQ at 256 pixels: batch 256, 150 million images, gamma 15.

    What the numbers are and where this differs from the paper: recipes/r3gan.py. The average of G has a half-life of 500 thousand images, p ends at
    0.3. FFHQ at 64 pixels: --res 64 with --set terms.r1.gamma=0.2 --set terms.r2.gamma=0.2. gamma depends on the images more than anything else
    here: more where D runs away, less where images stay blurred.
    """
    return _r3gan(resolution or 256, kimg=150_000, batch=256, micro_batch=32, gamma=15.0, ema_kimg=500.0, p=0.3, asked_batch=batch)


def r3gan_cifar(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """R3GAN on CIFAR-10 at 32 pixels, with classes: batch 512, 250 million images, gamma 0.005, four resolutions of 768 feature maps.

    What the numbers are and where this differs from the paper: recipes/r3gan.py. The average of G has a half-life of 5 million images, p ends at
    0.55. Without classes: --set data.labels=null.
    """
    tree = _r3gan(resolution or 32, kimg=250_000, batch=512, micro_batch=64, gamma=0.005, ema_kimg=5000.0, p=0.55, asked_batch=batch)
    tree["data"]["labels"] = "auto"
    return tree


def r3gan_32_narrow(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """R3GAN at 32 pixels, narrow: for machines without a GPU.

    64 feature maps up to side 8, 16 at 32, one block per resolution: a two-hundredth of r3gan_cifar's parameters. For short runs on few images:
    batch 16; DiffAugment, which is cheap and needs no schedule; a learning rate of 1e-3, which narrow networks bear; the average of G starts short
    and lengthens with the run. gamma goes with 1/batch, as in StyleGAN2's rule: 1 here where CIFAR's burn-in starts at 0.05 with 512. Tried on 116
    images: with 1 faces within 24 thousand images shown, with 0.05 (and a second beta of 0.9) nearly all images had become one by 12 thousand.
    """
    tree = _r3gan(resolution or 32, kimg=200, batch=16, micro_batch=16, gamma=1.0, ema_kimg=5.0, p=0.3, asked_batch=batch)
    for net in (tree["g"], tree["d"]):
        net |= {"width": 64, "full_side": 8, "blocks": 1}
    del tree["terms"]["ada_controller"]
    tree["augment"] = {"use": "diffaug", "policy": "color,translation,cutout"}
    tree["ema"]["rampup"] = 0.05
    for side in ("optim_g", "optim_d"):
        tree[side]["lr"] = 1e-3
    tree["every"] = {"log_kimg": 0.5, "preview_kimg": 4, "checkpoint_kimg": 10}
    return tree


def _r3gan(resolution: int, *, kimg: float, batch: int, micro_batch: int, gamma: float, ema_kimg: float, p: float,
           asked_batch: int | None = None) -> dict[str, Any]:
    """gamma: of R1 and of R2; ema_kimg, p: half-life of the average of G, and probability of the augmentation, after the burn-in; micro_batch: where
    the batch is the recipe's own. asked_batch: the user's, if any."""
    adam = {"lr": 5e-5, "betas": [0.0, 0.99], "eps": 1e-8}
    net = {"use": "r3gan", "width": 768, "blocks": 2, "group_size": 16}
    return {
        "data": {"resolution": resolution, "flip": True},
        "g": {"z_dim": 64, **net},
        "d": net,
        "augment": {"use": "ada", "policy": "bgc", "p": 0.0},
        "loss": {"use": "relativistic"},
        "terms": {
            "r1": {"use": "r1", "gamma": gamma, "at": "x_in"},
            "r2": {"use": "r2", "gamma": gamma, "at": "x_in"},
            "ada_controller": {"use": "ada_controller", "statistic": "linear", "target": p, "length_kimg": BURN_IN_KIMG},
        },
        "optim_g": adam,
        "optim_d": dict(adam),
        "ema": {"decay": None, "halflife_kimg": ema_kimg, "rampup": ema_kimg / BURN_IN_KIMG},
        "train": {"kimg": kimg, "batch": asked_batch or batch, "micro_batch": None if asked_batch else micro_batch, "order": "dg", "joint": True},
        "every": {"log_kimg": 4, "preview_kimg": 200, "checkpoint_kimg": 1000},
    }
