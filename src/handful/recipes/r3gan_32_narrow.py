"""R3GAN at 32 pixels, narrow: for machines without a GPU.

64 feature maps up to side 8, 16 at 32, one block per resolution: a two-hundredth of r3gan_cifar's parameters. For short runs on few pictures:
batch 16; DiffAugment, which is cheap and needs no schedule; a learning rate of 1e-3, which narrow networks bear; the average of G starts short and
lengthens with the run. gamma goes with 1/batch, as in StyleGAN2's rule: 1 here where CIFAR's burn-in starts at 0.05 with 512. Tried on 116
images: with 1 faces within 24 thousand images shown, with 0.05 (and a second beta of 0.9) nearly all pictures had become one by 12 thousand.
"""

from __future__ import annotations

from typing import Any

from ._r3gan import r3gan


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    tree = r3gan(resolution or 32, kimg=200, batch=16, micro_batch=16, gamma=1.0, ema_kimg=5.0, p=0.3, asked_batch=batch)
    for net in (tree["g"], tree["d"]):
        net |= {"width": 64, "full_side": 8, "blocks": 1}
    del tree["terms"]["ada_controller"]
    tree["augment"] = {"use": "diffaug", "policy": "color,translation,cutout"}
    tree["ema"]["rampup"] = 0.05
    for side in ("optim_g", "optim_d"):
        tree[side]["lr"] = 1e-3
    tree["every"] = {"log_kimg": 0.5, "preview_kimg": 4, "checkpoint_kimg": 10}
    return tree
