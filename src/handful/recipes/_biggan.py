"""BigGAN on few images: what its recipes share.

Brock, Donahue, Simonyan: Large Scale GAN Training for High Fidelity Natural Image Synthesis, ICLR 2019, as trained by DiffAugment's
release (CIFAR, ImageNet) and, in StudioGAN, by DigGAN's (Tiny-ImageNet, CUB-200). Iterations of the papers are those of G; kimg are iterations x
images of a batch x D steps / 1000.

Deviations: reals are not paired with a loader's batch of 200, they are drawn step by step; several GPUs were used with batch norm
of each for itself (25 images in G on CIFAR), here it spans the whole batch.
"""

from __future__ import annotations

from typing import Any

NO_AUG = ("augment=none",)


def policy(groups: str) -> tuple[str, str]:
    """The settings for DiffAugment with these groups of operators."""
    return "augment=diffaug", f"augment.policy={groups}"


def biggan(resolution: int, *, iterations: int, batch: int, d_steps: int, lr: tuple[float, float], policy: str, ema_start: int,
           evaluate_every: int, samples: int | None, eps: float = 1e-8, joint: bool = False, micro_batch: int | None = None,
           buffers: str = "standing", statistics: str = "batch", g: dict[str, Any] | None = None, d: dict[str, Any] | None = None) -> dict[str, Any]:
    """Hinge loss, Adam with betas (0, 0.999), uniform labels of fakes, mirrored reals, G averaged with 0.9999 per iteration.

    iterations, ema_start, evaluate_every: in iterations of G. lr: of G, of D. The networks are those of the architecture's table for the
    resolution; g, d: what they have besides.
    """
    kimg = batch * d_steps / 1000                         # of one iteration
    adam = {"betas": [0.0, 0.999], "eps": eps}
    return {
        "data": {"resolution": resolution, "flip": True, "labels": "auto"},
        "g": {"use": "biggan", "norm": "spectral"} | (g or {}),
        "d": {"use": "biggan", "norm": "spectral"} | (d or {}),
        "augment": {"use": "diffaug", "policy": policy},
        "loss": {"use": "hinge"},
        "optim_g": {"lr": lr[0], **adam},
        "optim_d": {"lr": lr[1], **adam},
        "ema": {"decay": 0.9999, "start_kimg": ema_start * kimg, "buffers": buffers},
        "train": {"kimg": iterations * kimg, "batch": batch, "micro_batch": micro_batch, "order": "dg", "d_steps": d_steps, "joint": joint,
                  "fake_labels": "classes"},
        "every": {"log_kimg": 4, "preview_kimg": evaluate_every * kimg, "checkpoint_kimg": evaluate_every * kimg},
        "evaluate": {"every_kimg": evaluate_every * kimg, "samples": samples, "statistics": statistics},
    }
