"""SNGAN (Miyato et al., ICLR 2018), as the baseline of DigGAN's table 1."""

from __future__ import annotations

from typing import Any

ITERATIONS, BATCH, D_STEPS = 100_000, 64, 5


def sngan_cifar(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """SNGAN, the ResNet form, on CIFAR-10 at 32 pixels, without classes: five D steps of 64, a G step of 128, 100k iterations.

    Miyato, Kataoka, Koyama, Yoshida: Spectral Normalization for Generative Adversarial Networks, ICLR 2018; the baseline of DigGAN's Table
    1, for which no code was published. Hinge loss, Adam 2e-4 (0, 0.9), the learning rate falls linearly to 0, spectral norm in D alone. G is
    not averaged; its batch norm's statistics are measured on its own samples before use. Mirrored reals as in DigGAN's other rows (unstated).
    """
    adam = {"lr": 2e-4, "betas": [0.0, 0.9], "eps": 1e-8, "decay_from_kimg": 0.0}
    return {
        "data": {"resolution": resolution or 32, "flip": True},
        "g": {"use": "sngan", "z_dim": 128, "width": 256, "form": "resnet"},
        "d": {"use": "sngan", "width": 128, "form": "resnet", "norm": "spectral"},
        "augment": {"use": "none"},
        "loss": {"use": "hinge"},
        "optim_g": adam,
        "optim_d": dict(adam),
        "ema": {"decay": 0.0},
        "train": {"kimg": ITERATIONS * D_STEPS * BATCH / 1000, "batch": BATCH, "g_batch": 2 * (batch or BATCH), "order": "dg", "d_steps": D_STEPS},
        "every": {"log_kimg": 4, "preview_kimg": 640, "checkpoint_kimg": 640},
        "evaluate": {"every_kimg": 640, "samples": 10_000},
    }
