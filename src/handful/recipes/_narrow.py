"""FastGAN for machines without a GPU: the same networks, losses and augmentation at a quarter of the width or less."""

from __future__ import annotations

from typing import Any

from ._fastgan import fastgan


def narrow(resolution: int, kimg: float, ngf: int, ndf: int) -> dict[str, Any]:
    """Batch 16 and twice the learning rate keep two cores busy; pixels instead of LPIPS, which would cost more than the rest together."""
    tree = fastgan(resolution, kimg=kimg, ngf=ngf, ndf=ndf, z_dim=128, batch=16, reconstruction={"loss": "pixel"})
    tree["data"]["fit"] = "crop"
    tree["optim_g"]["lr"] = tree["optim_d"]["lr"] = 4e-4
    return tree
