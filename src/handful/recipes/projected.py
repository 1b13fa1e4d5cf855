"""Projected GAN (Sauer et al., NeurIPS 2021): the released setting at three resolutions, and narrow forms for machines without a GPU.

D looks at the maps of a pretrained ImageNet network (arch/projected.py), whose weights are fetched once: `handful weights get efficientnet`.
Where the release and these recipes differ:

    D's Adam                   learning rate and betas times 16/17, left over from     as set (6 % apart)
                               a loop with lazy regularisation (release)
    gradients not finite       NaN becomes 0, infinity 1e5 (release)                   both become 0
    optional blur of images    off by default (release)                                not there
    image range of the net     [-1,1] as it is (release)                               the network's own rule (arch/projected.py)

What is known of its behaviour, from the issues of its release: with few images the lighter generator is better and a larger one is worse (#66, #26),
so try `--set g.lite=true`; all runs of the paper have this generator (#78); faces may come out distorted, since the FID likes variety (#25); there
is nothing to tune as gamma of R1 is (#34). For about 100 images (advice, not a measurement): 300 to 1000 kimg, `--batch 16` to 32, the checkpoint
chosen by KID (the default), and a stop once the images are copies (`handful neighbours`). Batch norm in D's heads takes its statistics from a
micro-batch: at least 4 images.
"""

from __future__ import annotations

from typing import Any

from . import fastgan


def projected256(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """Projected GAN at 256 pixels as released: discriminators on the maps of a frozen ImageNet network, FastGAN's generator.

    `recipes/projected.py` lists where the release and this differ, and what to set for few images.
    """
    return _projected(resolution or 256, batch or 64)


def projected512(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """Projected GAN at 512 pixels as released.

    `recipes/projected.py` lists where the release and this differ, and what to set for few images.
    """
    return _projected(resolution or 512, batch or 64)


def projected1024(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """Projected GAN at 1024 pixels as released.

    `recipes/projected.py` lists where the release and this differ, and what to set for few images.
    """
    return _projected(resolution or 1024, batch or 64)


def projected64_narrow(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """The narrow FastGAN at 64 pixels with discriminators on the maps of a frozen ImageNet network: for machines without a GPU.

    Of small, synthetic images it knows less than of photographs: compare with fastgan64_narrow, and try a discriminator on pixels beside it
    (`recipes/projected.py`, projected128_narrow).
    """
    return _narrow(fastgan.fastgan64_narrow, resolution or 64)


def projected128_narrow(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """The narrow FastGAN at 128 pixels with discriminators on the maps of a frozen ImageNet network: for machines without a GPU.

    With FastGAN's own discriminator on pixels beside them, which costs about half as much again and had fewer broken images and less of a woven
    texture after 10 kimg: --set 'd.beside={"use": "fastgan", "ndf": 16}'
    """
    return _narrow(fastgan.fastgan128_narrow, resolution or 128)


def projected256_narrow(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """The narrow FastGAN at 256 pixels with discriminators on the maps of a frozen ImageNet network: for machines without a GPU."""
    return _narrow(fastgan.fastgan256_narrow, resolution or 256)


def _projected(resolution: int, batch: int) -> dict[str, Any]:
    """The release's configuration with FastGAN's generator: 10 million images in batches of 64, 8 at a time, and so batch norm over 8; G first, each
    step with latents of its own; hinge, no gradient penalty; scores every 200 kimg."""
    adam = {"lr": 2e-4, "betas": [0, 0.99]}
    return {
        "data": {"resolution": resolution},
        "g": {"use": "projected"},
        "d": {"use": "projected"},
        "augment": {"use": "diffaug", "policy": "color,translation,cutout", "cutout_ratio": 0.2},
        "loss": {"use": "hinge"},
        "optim_g": dict(adam),
        "optim_d": dict(adam),
        "ema": {"decay": None, "halflife_kimg": batch * 10 / 32, "rampup": 0.05, "buffers": "copy"},
        "train": {"kimg": 10000, "batch": batch, "micro_batch": 8 if batch % 8 == 0 else None, "order": "gd", "precision": "fp32"},
        "every": {"preview_kimg": 20, "checkpoint_kimg": 200},
    }


def _narrow(recipe: Any, resolution: int) -> dict[str, Any]:
    """FastGAN's narrow recipe without its discriminator and the term `reconstruction`: narrow separable heads, images as large as they are.

    Below 128 pixels the coarsest map of the feature network is smaller than a head's last convolution, and is left out.
    """
    tree = recipe(resolution) | {"augment": {"use": "diffaug", "policy": "color,translation,cutout", "cutout_ratio": 0.2}, "loss": {"use": "hinge"}}
    small = {"taps": ["stage2", "stage3", "stage5"], "depth": "fit"} if resolution < 128 else {}
    tree["d"] = {"use": "projected", "cout": 32, "separable": True, "enlarge_to": 0, **small}
    tree["optim_g"]["lr"] = tree["optim_d"]["lr"] = 4e-4
    tree["train"]["kimg"] = 40
    del tree["terms"]
    return tree
