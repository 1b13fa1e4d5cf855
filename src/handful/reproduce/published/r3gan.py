"""The FIDs of R3GAN (Huang et al., NeurIPS 2024)."""

from __future__ import annotations

from .._target import Target, made_by, row_of

CITATION = "Huang, Gokaslan, Kuleshov, Tompkin: The GAN is dead; long live the GAN! A Modern Baseline GAN, NeurIPS 2024"
TITLES = {"fid": "FID on CIFAR-10 and FFHQ"}
COST_256 = "150 million images on 8 GPUs"


def fid(data: str, value: float, cost: str, settings: tuple[str, ...] = (), source: str = "") -> list[Target]:
    """A published FID. Its table is named by the set, not by a number."""
    protocol = "50,000 generated images against the training set"
    return row_of("r3gan/fid", "R3GAN", data, protocol, cost, settings, {"FID": value}, {"FID": "fid50k_full"}, source=source)


TARGETS = (*made_by("r3gan_256", fid("FFHQ 256x256", 2.75, COST_256)),
           *made_by("r3gan_256", fid("FFHQ 64x64", 1.95, COST_256, ("data.resolution=64", "terms.r1.gamma=0.2", "terms.r2.gamma=0.2"))),
           *made_by("r3gan_cifar", fid("CIFAR-10 conditional", 1.96, "250 million images on 8 GPUs", source="cifar10")))
