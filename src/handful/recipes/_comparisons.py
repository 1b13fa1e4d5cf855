"""What the paper on ADA compares with on FFHQ at 256 pixels (figure 8a, appendix D.2), as settings of the recipe paper256.

None of them augments images, and each is taken by itself. Where a method is more than numbers its file says more (terms/NAME.py). Rotations and zCR
act in every step, beside the lazy regularisers; WGAN-GP replaces these, and with them the correction of Adam. ADA's controller drives PA-GAN's bits
and the strength of dropout as it does augmentations. bCR comes on top of ADA.

APA, of which no figures are at hand, is paper256 with --set augment=apa, and with its data augmentation --set augment.policy=bgc besides.

Settings of the figures that have curves but no numbers:
Figure 7a, bCR alone: --set augment=none --set terms.ada_controller=null --set terms.bcr={};
Figure 20a, bCR's moves, with the same: --set terms.bcr.shift=F with F of 0.015625, 0.03125, 0.0625 (4, 8 and 16 pixels), or turns: --set
terms.bcr.policy= --set terms.bcr.rotate_degrees=10, 20 or 45;
Figure 20b: --set terms.bcr.policy=xint,xflip, or --set data.flip=true; shifts of the reals alone: --set augment.policy=xint --set
augment.xint_max=0.03125 --set augment.p=1 --set 'train.augment_at=["real"]' --set terms.ada_controller=null.
"""

from __future__ import annotations

from ._stylegan2 import NO_ADA

FIG_8A = {                                    # settings; FID on 2k, 10k and 140k: (mean, deviation)
    "baseline": (NO_ADA, ((78.80, 2.31), (30.73, 0.48), (3.66, 0.10))),
    "PA-GAN": (("augment=none", "terms.pa_gan.bits=16", "terms.ada_controller.of=d", "terms.ada_controller.target=0.95"),
               ((56.49, 7.28), (27.71, 2.77), (3.78, 0.06))),
    "WGAN-GP": ((*NO_ADA, "loss=wasserstein", "terms.gradient_penalty.weight=10", "terms.gradient_penalty.drift=0.001", "terms.r1=null",
                 "terms.path_length=null", "optim_g.lr=0.001", "optim_d.lr=0.001", "train.precision=fp32"),
                ((79.19, 6.30), (35.68, 1.27), (6.54, 0.37))),
    "zCR": ((*NO_ADA, "terms.zcr.weight_d=0.2", "terms.zcr.weight_g=0.02", "terms.zcr.std=0.1", "train.precision=fp32"),
            ((71.61, 9.64), (23.02, 2.09), (3.45, 0.19))),
    "auxiliary rotation": ((*NO_ADA, "terms.rotation.weight_g=10", "terms.rotation.weight_d=5"), ((66.64, 3.64), (25.37, 1.45), (4.16, 0.05))),
    "spectral norm": ((*NO_ADA, "d.norm=spectral"), ((88.71, 3.18), (38.58, 3.14), (4.60, 0.19))),
    "shallow mapping": ((*NO_ADA, "g.mapping_layers=2"), ((71.35, 7.20), (27.71, 1.96), (3.59, 0.22))),
    "adaptive dropout": (("augment=none", "terms.adaptive_dropout.p=0", "terms.ada_controller.of=d"), ((67.23, 4.76), (23.33, 0.98), (4.16, 0.05))),
    "ADA": ((), ((16.49, 0.65), (8.29, 0.31), (3.88, 0.13)))}
SIZES = ("2k", "10k", "140k")                 # of figure 8a, and of InsGen's table 1, which quotes it
BCR = ("terms.bcr.weight_real=10", "terms.bcr.weight_fake=10")
