"""FastGAN's published setting (Liu et al., ICLR 2021), shared by its recipes."""

from __future__ import annotations

from typing import Any

from ._targets import Target

PROTOCOL = "5000 generated images against the whole training set, best of the checkpoints saved every 10k iterations, best of 5 seeds"


def fastgan(resolution: int, *, kimg: float, ngf: int = 64, ndf: int = 64, z_dim: int = 256, batch: int = 8,
            reconstruction: dict[str, Any] | None = None) -> dict[str, Any]:
    """The released code's settings: Adam 2e-4 (0.5, 0.999), batch 8, EMA 0.999 over parameters, one D and one G step on the same augmented
    fakes, DiffAugment colour and translation, soft hinge, LPIPS reconstruction summed over the batch, horizontal flips, images stretched."""
    return {
        "data": {"resolution": resolution, "fit": "stretch"},
        "g": {"use": "fastgan", "ngf": ngf, "z_dim": z_dim},
        "d": {"use": "fastgan", "ndf": ndf},
        "augment": {"use": "diffaug", "policy": "color,translation"},
        "loss": {"use": "soft_hinge"},
        "terms": {"reconstruction": {"use": "reconstruction"} | (reconstruction or {})},
        "optim_g": {"lr": 2e-4, "betas": [0.5, 0.999]},
        "optim_d": {"lr": 2e-4, "betas": [0.5, 0.999]},
        "ema": {"decay": 0.999},
        "train": {"kimg": kimg, "batch": batch, "order": "dg", "share_fakes": True},
    }


def cost_targets(size: str, hours: float, gb: float) -> tuple[Target, ...]:
    """Table 1: what 10k iterations of 8 images cost on one RTX 2080 Ti."""
    protocol, cost = "10k iterations, batch 8, fp32", "one RTX 2080 Ti"
    return (Target("fastgan/1", "Ours", size, "hours per 10k iterations", hours, protocol, cost),
            Target("fastgan/1", "Ours", size, "GB of GPU memory", gb, protocol, cost))


def targets(table: str, cells: dict[str, float], cost: str) -> tuple[Target, ...]:
    return tuple(Target(table, "Ours", data, "FID", value, PROTOCOL, cost, metric="fid5k_train") for data, value in cells.items())
