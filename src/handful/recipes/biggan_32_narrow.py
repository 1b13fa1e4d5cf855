"""BigGAN at 32 pixels, narrow: class-conditional pictures for machines without a GPU.

A quarter of the width of biggan_cifar, a sixteenth of its work per image. For short runs one D step to one of G, with batches of 25, so that
G moves often; D learns faster than G (4e-4 and 1.5e-4), since with equal rates so narrow a D told fakes from reals no more. The average of
G starts short and lengthens with the run, as in handful's other narrow recipes. Chosen by eye and by D's logits on 5000 CIFAR-10 images.
"""

from __future__ import annotations

from typing import Any

from ._biggan import biggan


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    tree = biggan(resolution or 32, iterations=8000, batch=25, d_steps=1, lr=(1.5e-4, 4e-4), policy="translation,cutout", ema_start=0,
                  evaluate_every=800, samples=None, joint=True, statistics="standing")
    tree["g"]["width"] = tree["d"]["width"] = 16
    tree["ema"] = {"decay": None, "halflife_kimg": 5, "rampup": 0.05}
    tree["every"] = {"log_kimg": 0.5, "preview_kimg": 5, "checkpoint_kimg": 20}
    tree["evaluate"] = {}
    return tree
