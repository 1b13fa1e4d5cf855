"""BigGAN at 32 pixels, narrow: class-conditional pictures for machines without a GPU.

A quarter of the width of biggan_cifar, a sixteenth of its work per image. Two D steps instead of four and twice the learning rate, for
short runs; the average of G starts short and lengthens with the run, as in handful's other narrow recipes.
"""

from __future__ import annotations

from typing import Any

from ._biggan import biggan


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    tree = biggan(resolution or 32, iterations=2000, batch=50, d_steps=2, lr=(4e-4, 4e-4), policy="translation,cutout", ema_start=0,
                  evaluate_every=200, samples=None, joint=True, statistics="standing")
    tree["g"]["width"] = tree["d"]["width"] = 16
    tree["ema"] = {"decay": None, "halflife_kimg": 5, "rampup": 0.05}
    tree["every"] = {"log_kimg": 0.5, "preview_kimg": 5, "checkpoint_kimg": 20}
    tree["evaluate"] = {}
    return tree
