"""StyleGAN2 with DiffAugment, before adaptive augmentation.

Zhao, Liu, Lin, Zhu, Han: Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS 2020, and its TensorFlow release. Config F's
networks, R1 in every D step rather than lazily, no path length, Adam 0.002 (0, 0.99) for both, G's step first. The release computes in
fp32 (--set train.precision=fp32).
"""

from __future__ import annotations

from typing import Any


def stylegan2_diffaug_cifar(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """StyleGAN2 with DiffAugment on CIFAR at 32 pixels, without classes: R1 of 0.1 by the augmented image, batch 32, 25,000 kimg.

    With all three groups of operators, the setting for 20 % and 10 % of the data; for all of it --set augment.policy=color,cutout, and the rows
    without DiffAugment are --set augment=none. Figure 8b's sweep: --set terms.r1.gamma=G with G from 0.1 to 10000. The release's subsets are the
    first records; handful's cifar10:10% is drawn by seed 0, as in its BigGAN part.
    """
    tree = _stylegan2_diffaug(resolution or 32, kimg=25_000, batch=32, channel_base=4096, gamma=0.1, at="x_in", halflife_kimg=1000,
                              start_kimg=1000, evaluate={"every_kimg": 500, "samples": 10_000})
    return tree | {"every": {"log_kimg": 4, "preview_kimg": 500, "checkpoint_kimg": 500}}


def stylegan2_diffaug_fewshot(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """StyleGAN2 with DiffAugment from scratch on 100 to 400 images at 256 pixels: R1 of 10 through the augmentation, batch 16, 300 kimg.

    As released (500 kimg for AnimalFace: --set train.kimg=500). The paper's Table 4 has batch 32, at most 10k iterations on the 100-shot
    sets and 20k with R1 of 1 on AnimalFace; the rows without DiffAugment are --set augment=none. What the release lists for FFHQ and LSUN Cat, and
    what InsGen and FastGAN quote from it, are rows of this recipe too.
    """
    tree = _stylegan2_diffaug(resolution or 256, kimg=300, batch=16, channel_base=32768, gamma=10.0, at="x", halflife_kimg=10, start_kimg=10,
                              evaluate={"every_kimg": 100, "samples": 5000})
    return tree | {"every": {"log_kimg": 1, "preview_kimg": 10, "checkpoint_kimg": 50}}


def _stylegan2_diffaug(resolution: int, *, kimg: float, batch: int, channel_base: int, gamma: float, at: str, halflife_kimg: float,
                       start_kimg: float, evaluate: dict[str, Any]) -> dict[str, Any]:
    """channel_base: min(channel_base / side, 512) feature maps. gamma, at: R1's weight and where its gradient is taken. The average of G has
    this half-life, and is G itself until start_kimg."""
    adam = {"lr": 0.002, "betas": [0.0, 0.99], "eps": 1e-8}
    return {
        "data": {"resolution": resolution, "flip": True},
        "g": {"use": "stylegan2", "z_dim": 512, "w_dim": 512, "channel_base": channel_base, "channel_max": 512, "architecture": "skip",
              "mapping_layers": 8, "mapping_lr": 0.01, "style_mixing": 0.9},
        "d": {"use": "stylegan2", "channel_base": channel_base, "channel_max": 512, "architecture": "resnet", "minibatch_group": 4},
        "augment": {"use": "diffaug", "policy": "color,translation,cutout"},
        "loss": {"use": "non_saturating"},
        "terms": {"r1": {"use": "r1", "gamma": gamma, "every": 1, "own_step": False, "at": at}},
        "optim_g": adam,
        "optim_d": dict(adam),
        "ema": {"decay": None, "halflife_kimg": halflife_kimg, "start_kimg": start_kimg, "buffers": "copy"},
        "train": {"kimg": kimg, "batch": batch, "order": "gd"},
        "evaluate": evaluate,
    }
