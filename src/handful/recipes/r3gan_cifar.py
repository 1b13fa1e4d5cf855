"""R3GAN on CIFAR-10 at 32 pixels, with classes: batch 512, 250 million images, gamma 0.005, four resolutions of 768 feature maps.

What the numbers are and where this differs from the paper: recipes/_r3gan.py. The average of G has a half-life of 5 million images, p ends at
0.55. Without classes: --set data.labels=null.
"""

from __future__ import annotations

from typing import Any

from ._r3gan import fid, r3gan

TARGETS = fid("CIFAR-10 conditional", 1.96, "250 million images on 8 GPUs", source="cifar10")


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    tree = r3gan(resolution or 32, kimg=250_000, batch=512, micro_batch=64, gamma=0.005, ema_kimg=5000.0, p=0.55, asked_batch=batch)
    tree["data"]["labels"] = "auto"
    return tree
