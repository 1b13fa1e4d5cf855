"""StyleGAN2 with DiffAugment, before adaptive augmentation: what its recipes share.

Zhao, Liu, Lin, Zhu, Han: Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS 2020, and its TensorFlow release. Config F's
networks, R1 in every D step rather than lazily, no path length, Adam 0.002 (0, 0.99) for both, G's step first. The release computes in
fp32 (--set train.precision=fp32).
"""

from __future__ import annotations

from typing import Any


def stylegan2_diffaug(resolution: int, *, kimg: float, batch: int, channel_base: int, gamma: float, at: str, halflife_kimg: float,
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
