"""CHAIN (Ni and Koniusz, CVPR 2024) on FastGAN's generator: the released setting at three resolutions, and narrow forms for machines without a GPU.

The strongest figures of discriminators trained from scratch. arch/chain.py tells of the discriminator, terms/chain.py of the penalty and of p. For
about 100 images the paper adds 0.1 to p in the penalty: --set terms.chain.offset=0.1. What differs from FastGAN's recipes: the generator has no side
image, the hinge has margin 1, DiffAugment's operators follow each other in a random order, and the decoders are two.
"""

from __future__ import annotations

from typing import Any

from .fastgan import PIXEL_GAIN

ITERATIONS, BATCH = 100_000, 8          # 200 000 for 1000 images: --kimg 1600


def chain256(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """CHAIN's discriminator at 256 pixels as released, with FastGAN's generator: 100k iterations of 8 images.

    For about 100 images: --set terms.chain.offset=0.1. `recipes/chain.py` lists what differs from FastGAN.
    """
    return _chain(resolution or 256)


def chain512(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """CHAIN's discriminator at 512 pixels as released, with FastGAN's generator: 100k iterations of 8 images."""
    return _chain(resolution or 512)


def chain1024(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """CHAIN's discriminator at 1024 pixels as released, with FastGAN's generator: 100k iterations of 8 images."""
    return _chain(resolution or 1024)


def chain64_narrow(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """CHAIN's discriminator at 64 pixels, narrow: for machines without a GPU."""
    return _narrow(resolution or 64)


def chain128_narrow(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """CHAIN's discriminator at 128 pixels, narrow: for machines without a GPU."""
    return _narrow(resolution or 128)


def _chain(resolution: int) -> dict[str, Any]:
    """The release's settings: Adam 2e-4 (0.5, 0.999), batch 8, EMA 0.999, one D and one G step on the same augmented fakes, hinge, LPIPS
    reconstruction summed over the batch, horizontal flips, images stretched by a bilinear filter, no tanh below 1024 pixels."""
    return {
        "data": {"resolution": resolution, "fit": "stretch", "filter": "bilinear"},
        "g": {"use": "fastgan", "ngf": 64, "z_dim": 256, "output_activation": "tanh" if resolution >= 1024 else "none", "side_image": False},
        "d": {"use": "chain", "width": 16},
        "augment": {"use": "diffaug", "policy": "color,translation", "order": "random"},
        "loss": {"use": "hinge"},
        "terms": {"chain": {"use": "chain"},
                  "reconstruction": {"use": "reconstruction", "decoders": ["whole", "part"], "pixel_gain": PIXEL_GAIN}},
        "optim_g": {"lr": 2e-4, "betas": [0.5, 0.999]},
        "optim_d": {"lr": 2e-4, "betas": [0.5, 0.999]},
        "ema": {"decay": 0.999},
        "train": {"kimg": ITERATIONS * BATCH / 1000, "batch": BATCH, "order": "dg", "share_fakes": True},
    }


def _narrow(resolution: int) -> dict[str, Any]:
    """The same networks at a quarter of the width, trained as FastGAN's narrow recipes are (recipes/fastgan.py says why): batch 16, four times the
    learning rate, a reconstruction of pixels at half the size, and an average of G that lengthens with the run.

    p may move from the same share of the run on as published, a twentieth. offset 0.1, because such runs are of few images.
    """
    kimg, batch = 100, 16
    tree = _chain(resolution)
    tree["data"] |= {"fit": "crop", "filter": "lanczos"}
    tree["g"] |= {"ngf": 16, "z_dim": 128, "output_activation": "tanh"}
    tree["d"]["width"] = 4
    tree["terms"]["chain"] |= {"start": kimg * 1000 // batch // 20, "offset": 0.1}
    tree["terms"]["reconstruction"] |= {"loss": "pixel", "pixel_gain": 1.0, "reduction": "mean", "size": resolution // 2}
    tree["ema"] = {"decay": None, "halflife_kimg": 5, "rampup": 0.05}
    tree["optim_g"]["lr"] = tree["optim_d"]["lr"] = 8e-4
    tree["train"] |= {"kimg": kimg, "batch": batch}
    tree["every"] = {"preview_kimg": 2, "checkpoint_kimg": 5}          # some minutes each on two cores
    return tree
