"""InsGen (Yang, Shen, Xu, Zhou: Data-Efficient Instance Generation from Instance Discrimination, NeurIPS 2021).

It is StyleGAN2-ADA's paper256 and paper512 with the term `insgen`, mirrored reals, a smaller weight of R1, and shorter runs on few images: 10,000
kimg "with less than 10K images" (10K itself is read as not less), else 25,000. R1 has 0.5 on 2K images, 0.3 on 10K, 0.8 on all of FFHQ. For AFHQ
the paper states neither R1 nor mirroring: here ADA's own 0.5 (the authors recommend less), mirrored. The queues hold 5 % of the images, twice that
with mirroring: 200, 1000 and 7000 on FFHQ, 514, 472 and 472 on AFHQ.

The paper leaves ADA's controller as it is. The release recommends a p that rises along a straight line below 5000 images, which the rows on 2K
have; with images of your own it is --set terms.ada_controller.statistic=linear --set terms.ada_controller.length_kimg=K, K that of --kimg.
"""

from __future__ import annotations

from typing import Any

from .stylegan2 import paper256, paper512, stylegan2_32_narrow

FEW_KIMG = 10_000                             # the length on less than 10K images


def insgen256(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """InsGen at 256 pixels: StyleGAN2-ADA's paper256 with instance discrimination, mirrored reals and the published settings for few images.

    R1 of 0.5 and 10,000 kimg are those of 2000 images of FFHQ. For 10,000 images: --set terms.r1.gamma=0.3, from 10,000 on --kimg 25000; for all of
    FFHQ --set terms.r1.gamma=0.8. `recipes/insgen.py` says what the paper leaves open, and how p may rise along a straight line.
    """
    return _with_insgen(paper256(resolution, batch))


def insgen512(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """InsGen at 512 pixels, for AFHQ: StyleGAN2-ADA's paper512 with instance discrimination, mirrored reals, 10,000 kimg.

    R1, mirroring and length are not stated for AFHQ: R1 of 0.5 as in paper512 (the authors recommend less than ADA's), the length that the paper
    gives to sets of less than 10,000 images.
    """
    return _with_insgen(paper512(resolution, batch))


def insgen_32_narrow(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """InsGen at 32 pixels, narrow: stylegan2_32_narrow with instance discrimination, for machines without a GPU."""
    tree = stylegan2_32_narrow(resolution, batch)
    tree["terms"]["insgen"] = {"use": "insgen"}
    return tree


def _with_insgen(tree: dict[str, Any]) -> dict[str, Any]:
    """The term on a recipe of StyleGAN2-ADA, with mirrored reals, and R1 and length for few images."""
    tree["terms"]["insgen"] = {"use": "insgen"}
    tree["terms"]["r1"]["gamma"] = 0.5
    tree["data"]["flip"] = True
    tree["train"]["kimg"] = FEW_KIMG
    return tree
