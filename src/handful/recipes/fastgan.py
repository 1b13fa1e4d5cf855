"""FastGAN (Liu et al., ICLR 2021): the published setting at three resolutions, and narrow forms for machines without a GPU.

Where the paper and its release differ, the recipes have the release's form (arch/fastgan.py tells of the networks, terms/reconstruction.py of the
decoders):

    crop of f1 for a decoder    1/8 of its height and width (paper)    a quadrant, 8 x 8 of 16 x 16 (release)
    decoders                    of f1 and f2 (paper)                   and one of the second, smaller scale of D (release)
    tanh on the images          not said                               at 1024 pixels alone (release)
    margin of the hinge         1 (paper, eq. 3)                       uniform in [0.8, 1) for every logit (release)
    length                      hours on a GPU (tables 2 to 4)         50,000 iterations (release)

(Of the crop the copy of the paper's text at hand prints only "8": its fraction is garbled.)
"""

from __future__ import annotations

from typing import Any

PIXEL_GAIN = 0.7                              # of the decoders' loss where it compares pixels: then its gradients start as large as those of LPIPS


def fastgan256(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """FastGAN at 256 pixels as published: 50k iterations of 8 images.

    `recipes/fastgan.py` lists where the paper, its release and this differ, `reproduce/published/fastgan.py` what its tables' rows are.
    """
    return _fastgan(resolution or 256, kimg=400)


def fastgan512(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """FastGAN at 512 pixels: the released networks; the paper gives no figures at this size."""
    return _fastgan(resolution or 512, kimg=400)


def fastgan1024(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """FastGAN at 1024 pixels as published: 50k iterations of 8 images.

    `recipes/fastgan.py` lists where the paper, its release and this differ, `reproduce/published/fastgan.py` what its tables' rows are.
    """
    return _fastgan(resolution or 1024, kimg=400)


def fastgan64_narrow(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """FastGAN at 64 pixels, narrow: for machines without a GPU."""
    return _narrow(resolution or 64, kimg=100, width=16)


def fastgan128_narrow(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """FastGAN at 128 pixels, narrow: for machines without a GPU."""
    return _narrow(resolution or 128, kimg=100, width=16)


def fastgan256_narrow(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """FastGAN at 256 pixels, narrow: for machines without a GPU."""
    return _narrow(resolution or 256, kimg=100, width=8)


def demo(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """The demonstration: smileys at 64 pixels within minutes on two CPU cores."""
    return _narrow(resolution or 64, kimg=24, width=8) | {
        "every": {"log_kimg": 0.32, "preview_kimg": 2, "checkpoint_kimg": 10, "preview_images": 48}}


def _fastgan(resolution: int, *, kimg: float, width: int = 64, z_dim: int = 256, batch: int = 8,
             reconstruction: dict[str, Any] | None = None) -> dict[str, Any]:
    """The released code's settings: Adam 2e-4 (0.5, 0.999), batch 8, EMA 0.999 over parameters, one D and one G step on the same augmented
    fakes, DiffAugment colour and translation, soft hinge, LPIPS reconstruction summed over the batch, horizontal flips, images stretched by a
    bilinear filter, and no tanh below 1024 pixels (an oversight, it seems, but the published weights and figures have it so)."""
    return {
        "data": {"resolution": resolution, "fit": "stretch", "filter": "bilinear"},
        "g": {"use": "fastgan", "ngf": width, "z_dim": z_dim, "output_activation": "tanh" if resolution >= 1024 else "none"},
        "d": {"use": "fastgan", "ndf": width},
        "augment": {"use": "diffaug", "policy": "color,translation"},
        "loss": {"use": "soft_hinge"},
        "terms": {"reconstruction": {"use": "reconstruction", "pixel_gain": PIXEL_GAIN} | (reconstruction or {})},
        "optim_g": {"lr": 2e-4, "betas": [0.5, 0.999]},
        "optim_d": {"lr": 2e-4, "betas": [0.5, 0.999]},
        "ema": {"decay": 0.999},
        "train": {"kimg": kimg, "batch": batch, "order": "dg", "share_fakes": True},
    }


def _narrow(resolution: int, *, kimg: float, width: int) -> dict[str, Any]:
    """The same networks, losses and augmentation at a quarter of the width or less.

    Batch 16 and four times the learning rate (narrow networks bear it, and these runs are short) keep two cores busy. The reconstruction compares
    pixels at half the size and takes the batch's mean: LPIPS would cost more than all the rest, and the released sum over 16 images drowns the
    adversarial loss of so small a discriminator. Tried on the demonstration set: without it the images come sooner and are less varied. The average
    of G starts short and lengthens with the run (StyleGAN2-ADA's ramp): FastGAN's 1000 iterations would still show the untrained network.
    """
    tree = _fastgan(resolution, kimg=kimg, width=width, z_dim=128, batch=16,
                    reconstruction={"loss": "pixel", "pixel_gain": 1.0, "reduction": "mean", "size": resolution // 2})
    tree["data"] |= {"fit": "crop", "filter": "lanczos"}
    tree["g"]["output_activation"] = "tanh"
    tree["ema"] = {"decay": None, "halflife_kimg": 5, "rampup": 0.05}
    tree["optim_g"]["lr"] = tree["optim_d"]["lr"] = 8e-4
    tree["every"] = {"preview_kimg": 2, "checkpoint_kimg": 5}          # some minutes each on two cores
    return tree
