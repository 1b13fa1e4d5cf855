"""StyleGAN2 with DiffAugment on CIFAR at 32 pixels, without classes: R1 of 0.1 by the augmented image, batch 32, 25,000 kimg.

With all three groups of operators, the setting for 20 % and 10 % of the data; for all of it --set augment.policy=color,cutout, and the rows
without DiffAugment are --set augment=none. Figure 8b's sweep: --set terms.r1.gamma=G with G from 0.1 to 10000. The release's subsets are the
first records; handful's cifar10:10% is drawn by seed 0, as in its BigGAN part.
"""

from __future__ import annotations

from typing import Any

from . import _diffaugment, _diggan
from ._stylegan2_diffaug import stylegan2_diffaug

TARGETS = (*_diffaugment.stylegan2_cifar(), *_diggan.stylegan2_cifar())


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    tree = stylegan2_diffaug(resolution or 32, kimg=25_000, batch=32, channel_base=4096, gamma=0.1, at="x_in", halflife_kimg=1000,
                             start_kimg=1000, evaluate={"every_kimg": 500, "samples": 10_000})
    return tree | {"every": {"log_kimg": 4, "preview_kimg": 500, "checkpoint_kimg": 500}}
