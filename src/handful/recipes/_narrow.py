"""FastGAN for machines without a GPU: the same networks, losses and augmentation at a quarter of the width or less."""

from __future__ import annotations

from typing import Any

from ._fastgan import fastgan


def narrow(resolution: int, kimg: float, ngf: int, ndf: int) -> dict[str, Any]:
    """Batch 16 and twice the learning rate keep two cores busy; pixels instead of LPIPS, which would cost more than the rest together.

    The average of G starts short and lengthens with the run (StyleGAN2-ADA's ramp): these runs are so short that FastGAN's 1000 iterations
    would still show the untrained network.
    """
    tree = fastgan(resolution, kimg=kimg, ngf=ngf, ndf=ndf, z_dim=128, batch=16, reconstruction={"loss": "pixel"})
    tree["data"]["fit"] = "crop"
    tree["ema"] = {"decay": None, "halflife_kimg": 5, "rampup": 0.05}
    tree["optim_g"]["lr"] = tree["optim_d"]["lr"] = 4e-4
    return tree
