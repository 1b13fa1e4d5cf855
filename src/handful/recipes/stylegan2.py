"""StyleGAN2 with adaptive augmentation (ADA), as published, and narrow forms for machines without a GPU.

Karras, Aittala, Hellsten, Laine, Lehtinen, Aila: Training Generative Adversarial Networks with Limited Data, NeurIPS 2020. The
constants are those of the PyTorch release's named configurations. Their micro-batch per GPU stays when fewer GPUs are used, as in
the release, so one GPU accumulates. The group of the minibatch standard deviation equals it in all of them, so `--set
train.micro_batch=null` (the whole batch at once, where memory allows: faster) compares groups of the same size; what then changes
is that path length takes its mean over the whole batch. Asked for another batch, as in the release, nothing else moves: gamma,
the average of G and the group keep what the configuration's own batch gave them, and the batch is not cut.
"""

from __future__ import annotations

from typing import Any

D_EVERY, G_EVERY = 16, 4                      # lazy regularisation, in iterations


def stylegan2_auto(resolution: int | None = None, batch: int | None = None, gpus: int = 1, **_: Any) -> dict[str, Any]:
    """StyleGAN2-ADA's `auto`: batch, feature maps, learning rate, R1 and the average of G by resolution and number of GPUs.

    gpus: processes that will share the batch; it moves batch, gamma and the average of G.
    """
    resolution = resolution or 256
    tree = _stylegan2(resolution, kimg=25000, mapping_layers=2, rampup=0.05, asked_batch=batch, **_auto_formulas(resolution, gpus))
    tree["train"]["micro_batch"] = None       # batch / gpus is what each of them gets anyway
    tree["every"] |= {"preview_kimg": 20, "checkpoint_kimg": 100}          # the recipe that people meet without a paper in mind
    return tree


def stylegan2(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """StyleGAN2's config F as published, with ADA on top as in the release: 1024 pixels, the setting of 8 GPUs."""
    return _stylegan2(resolution or 1024, kimg=25000, batch=32, micro_batch=4, fmaps=1.0, lr=0.002,
                      gamma=10.0, ema_kimg=10.0, asked_batch=batch)


def paper256(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """StyleGAN2-ADA's setting for 256 pixels: its sweeps over FFHQ and LSUN Cat, half the feature maps, the setting of 8 GPUs."""
    return _stylegan2(resolution or 256, kimg=25000, batch=64, micro_batch=8, fmaps=0.5, lr=0.0025,
                      gamma=1.0, ema_kimg=20.0, asked_batch=batch)


def paper512(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """StyleGAN2-ADA's setting for 512 pixels: BreCaHAD and AFHQ, the setting of 8 GPUs."""
    return _stylegan2(resolution or 512, kimg=25000, batch=64, micro_batch=8, fmaps=1.0, lr=0.0025,
                      gamma=0.5, ema_kimg=20.0, asked_batch=batch)


def paper1024(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """StyleGAN2-ADA's setting for 1024 pixels: MetFaces, the setting of 8 GPUs."""
    return _stylegan2(resolution or 1024, kimg=25000, batch=32, micro_batch=4, fmaps=1.0, lr=0.002,
                      gamma=2.0, ema_kimg=10.0, asked_batch=batch)


def cifar(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """StyleGAN2-ADA tuned for CIFAR-10 at 32 pixels: 512 feature maps, no path length, no style mixing, plain D; the setting of 2 GPUs.

    The release keeps the interval of the path length that it leaves out, and so the correction of G's Adam that goes with it: learning
    rate 0.002, second beta 0.99^0.8. The paper's rows without this tuning are the recipe cifar_baseline.
    """
    return _stylegan2(resolution or 32, kimg=100000, batch=64, micro_batch=32, fmaps=1.0, lr=0.0025, gamma=0.01,
                      ema_kimg=500.0, rampup=0.05, mapping_layers=2, style_mixing=0.0, path_length=False,
                      d_architecture="orig", asked_batch=batch)


def cifar_baseline(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """StyleGAN2-ADA on CIFAR-10 before its tuning: mapping depth 8, style mixing, path length, residual D.

    The paper's rows Baseline and + ADA. Published by the TensorFlow release alone (cifarbaseline),
    as the configuration cifar with these four parts of StyleGAN2 put back.
    """
    return _stylegan2(resolution or 32, kimg=100000, batch=64, micro_batch=32, fmaps=1.0, lr=0.0025, gamma=0.01,
                      ema_kimg=500.0, rampup=0.05, asked_batch=batch)


def stylegan2_32_narrow(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """StyleGAN2-ADA at 32 pixels, narrow: for machines without a GPU.

    1.6 GFLOP per image of a whole cycle, lazy terms by their share and without augmentation, against 99 of cifar.
    As in cifar, no path length and no style mixing.
    """
    return _narrow(resolution or 32, kimg=200, channels=64, path_length=False, asked_batch=batch)


def stylegan2_64_narrow(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """StyleGAN2-ADA at 64 pixels, narrow: for machines without a GPU.

    3.3 GFLOP per image of a whole cycle, lazy terms by their share and without augmentation, against 205 of auto at 64 pixels.
    Path length stays: a smooth latent space for mixing and interpolation is worth its 7 % of the time.
    """
    return _narrow(resolution or 64, kimg=200, channels=64, path_length=True, asked_batch=batch)


def stylegan2_128_narrow(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """StyleGAN2-ADA at 128 pixels, narrow: for machines without a GPU.

    4.9 GFLOP per image of a whole cycle, lazy terms by their share and without augmentation, against 303 of auto at 128 pixels.
    Path length stays: a smooth latent space for mixing and interpolation is worth its 7 % of the time.
    """
    return _narrow(resolution or 128, kimg=100, channels=64, path_length=True, asked_batch=batch)


def _stylegan2(resolution: int, *, kimg: float, batch: int, micro_batch: int, fmaps: float, lr: float, gamma: float, ema_kimg: float,
               rampup: float | None = None, mapping_layers: int = 8, style_mixing: float = 0.9, path_length: bool = True,
               d_architecture: str = "resnet", group: int | None = None, asked_batch: int | None = None) -> dict[str, Any]:
    """A column of the release's table of configurations, with ADA as its default: bgc, target 0.6, p moving by 1 in 500 kimg.

    lr: before the lazy-regularisation correction, which the trainer makes. gamma: R1's. fmaps: 1 is 32768/resolution feature maps,
    at most 512. group: of the minibatch standard deviation (none: micro_batch). asked_batch: the user's, if any.
    """
    base = int(32768 * fmaps)
    terms = {
        "r1": {"use": "r1", "gamma": gamma, "every": D_EVERY, "own_step": True, "at": "x"},
        # Weight 0 leaves the release's interval, and with it the correction of G's Adam, in place.
        "path_length": {"use": "path_length", "weight": 2.0 if path_length else 0.0, "decay": 0.01, "shrink": 2, "every": G_EVERY, "own_step": True},
        "ada_controller": {"use": "ada_controller", "target": None, "kimg": 500.0, "interval": 4},
    }
    adam = {"lr": lr, "betas": [0.0, 0.99], "eps": 1e-8}
    return {
        "data": {"resolution": resolution, "flip": False},
        "g": {"use": "stylegan2", "z_dim": 512, "w_dim": 512, "channel_base": base, "channel_max": 512, "architecture": "skip",
              "mapping_layers": mapping_layers, "style_mixing": style_mixing, "half_blocks": 4, "conv_clamp": 256},
        "d": {"use": "stylegan2", "channel_base": base, "channel_max": 512, "architecture": d_architecture,
              "minibatch_group": group or micro_batch, "half_blocks": 4, "conv_clamp": 256},
        "augment": {"use": "ada", "policy": "bgc", "p": 0.0},
        "loss": {"use": "non_saturating"},
        "terms": terms,
        "optim_g": adam,
        "optim_d": dict(adam),
        "ema": {"decay": None, "halflife_kimg": ema_kimg, "rampup": rampup, "buffers": "copy"},
        "train": {"kimg": kimg, "batch": asked_batch or batch, "order": "gd",
                  "micro_batch": micro_batch if asked_batch is None and micro_batch < batch else None},
        "every": {"log_kimg": 4, "preview_kimg": 200, "checkpoint_kimg": 200},
    }


def _auto_formulas(resolution: int, gpus: int = 1) -> dict[str, Any]:
    """The release's `auto`: what it makes of the resolution and the number of GPUs."""
    batch = max(min(gpus * min(4096 // resolution, 32), 64), gpus)
    return {"batch": batch, "micro_batch": batch // gpus, "group": min(batch // gpus, 4),
            "fmaps": 1.0 if resolution >= 512 else 0.5, "lr": 0.002 if resolution >= 1024 else 0.0025,
            **_batch_rules(resolution, batch)}


def _batch_rules(resolution: int, batch: int) -> dict[str, float]:
    """gamma: the paper's first guess for R1 (appendix D.1), 0.0002 pixels per image of the batch; ema_kimg: the release's."""
    return {"gamma": 0.0002 * resolution ** 2 / batch, "ema_kimg": batch * 10 / 32}


def _narrow(resolution: int, *, kimg: float, channels: int, path_length: bool, asked_batch: int | None = None) -> dict[str, Any]:
    """`auto` at an eighth of its width, for machines without a GPU: 64 times less work in the convolutions.

    Against `auto`: latents of 128 numbers; batch 16, with gamma and the average by the release's rules for it, so that a short run
    has more iterations; p moves by 1 in 50 kimg, since 500 would outlast the run; reals are mirrored, as in handful's other recipes
    for few images; log, previews and checkpoints every few minutes.
    """
    numbers = _auto_formulas(resolution) | {"batch": 16, "micro_batch": 16} | _batch_rules(resolution, 16)
    tree = _stylegan2(resolution, kimg=kimg, mapping_layers=2, style_mixing=0.9 if path_length else 0.0, rampup=0.05,
                      path_length=path_length, asked_batch=asked_batch, **numbers)
    tree["g"] |= {"z_dim": 128, "w_dim": 128, "channel_base": 32 * channels, "channel_max": channels}
    tree["d"] |= {"channel_base": 32 * channels, "channel_max": channels}
    tree["terms"]["ada_controller"]["kimg"] = 50.0
    tree["data"]["flip"] = True
    tree["every"] = {"log_kimg": 0.5, "preview_kimg": 4, "checkpoint_kimg": 10}
    return tree
