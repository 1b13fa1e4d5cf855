"""R3GAN: what its recipes share.

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

from ._targets import Target, row_of

BURN_IN_KIMG = 20_000


def r3gan(resolution: int, *, kimg: float, batch: int, micro_batch: int, gamma: float, ema_kimg: float, p: float,
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


def fid(data: str, value: float, cost: str, settings: tuple[str, ...] = (), source: str = "") -> tuple[Target, ...]:
    """A published FID. Its table is named by the set, not by a number."""
    protocol = "50,000 generated images against the training set"
    return tuple(row_of("r3gan/fid", "R3GAN", data, protocol, cost, settings, {"FID": value}, {"FID": "fid50k_full"}, source=source))
