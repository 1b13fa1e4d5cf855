"""StyleGAN2 with DiffAugment from scratch on 100 to 400 pictures at 256 pixels: R1 of 10 through the augmentation, batch 16, 300 kimg.

As released (500 kimg for AnimalFace: --set train.kimg=500). The paper's Table 4 has batch 32, at most 10k iterations on the 100-shot
sets and 20k with R1 of 1 on AnimalFace; the rows without DiffAugment are --set augment=none. What the release lists for FFHQ and LSUN Cat, and what
InsGen and FastGAN quote from it, are rows of this recipe too.
"""

from __future__ import annotations

from typing import Any

from . import _diffaugment, _fastgan
from ._stylegan2_diffaug import stylegan2_diffaug

TARGETS = (*_diffaugment.few_shot(), *_diffaugment.insgen(), *_fastgan.stylegan2())


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    tree = stylegan2_diffaug(resolution or 256, kimg=300, batch=16, channel_base=32768, gamma=10.0, at="x", halflife_kimg=10, start_kimg=10,
                             evaluate={"every_kimg": 100, "samples": 5000})
    return tree | {"every": {"log_kimg": 1, "preview_kimg": 10, "checkpoint_kimg": 50}}
