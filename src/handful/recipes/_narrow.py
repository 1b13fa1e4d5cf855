"""FastGAN for machines without a GPU: the same networks, losses and augmentation at a quarter of the width or less."""

from __future__ import annotations

from typing import Any

from ._fastgan import fastgan


def narrow(resolution: int, kimg: float, ngf: int, ndf: int) -> dict[str, Any]:
    """Batch 16 and four times the learning rate (narrow networks bear it, and these runs are short) keep two cores busy.

    The reconstruction compares pixels at half the size and takes the batch's mean: LPIPS would cost more than all the rest, and the released sum
    over 16 images drowns the adversarial loss of so small a discriminator. Tried on the demonstration set: without it the pictures come
    sooner and are less varied. The average of G starts short and lengthens with the run (StyleGAN2-ADA's ramp): FastGAN's 1000 iterations
    would still show the untrained network.
    """
    tree = fastgan(resolution, kimg=kimg, ngf=ngf, ndf=ndf, z_dim=128, batch=16,
                   reconstruction={"loss": "pixel", "pixel_gain": 1.0, "reduction": "mean", "size": resolution // 2})
    tree["data"] |= {"fit": "crop", "filter": "lanczos"}
    tree["g"]["output_activation"] = "tanh"
    tree["ema"] = {"decay": None, "halflife_kimg": 5, "rampup": 0.05}
    tree["optim_g"]["lr"] = tree["optim_d"]["lr"] = 8e-4
    tree["every"] = {"preview_kimg": 2, "checkpoint_kimg": 5}          # some minutes each on two cores
    return tree
