"""StyleGAN2 with adaptive augmentation: what its recipes share.

Karras, Aittala, Hellsten, Laine, Lehtinen, Aila: Training Generative Adversarial Networks with Limited Data, NeurIPS 2020. The
constants are those of the PyTorch release's named configurations. Their micro-batch per GPU stays when fewer GPUs are used, as in
the release, so one GPU accumulates. The group of the minibatch standard deviation equals it in all of them, so `--set
train.micro_batch=null` (the whole batch at once, where memory allows: faster) compares groups of the same size; what then changes
is that path length takes its mean over the whole batch. Asked for another batch, as in the release, nothing else moves: gamma,
the average of G and the group keep what the configuration's own batch gave them, and the batch is not cut.

Settings of the figures that have curves but no numbers:
Figures 4 and 21, sets of augmentations at a fixed strength: --set augment.policy=P with P of blit, geom, color, filter, noise,
cutout, bg, bgc, bgcf, bgcfn, bgcfnc; --set augment.p=0.4 --set terms.ada_controller=null;
Figure 5, the heuristics and their targets: --set terms.ada_controller.target=0.3 ... 0.9, or, with targets of 0.2 ... 0.8, --set
terms.ada_controller.statistic=r_v --set data.holdout=0.1;
Figure 8b, the capacity of D: --set d.capacity=F with F of 0.25, 0.5, 0.75, 1, 1.5, 2;
Figure 19, config F, the baseline and ADA on more subsets: the rows of figure 18 with another --set data.max_images=N. Figure 9, transfer learning,
and figure 19's BigGAN are rows that wait (_waiting.py).
"""

from __future__ import annotations

from typing import Any

from ._targets import Figure, Target, row_of

D_EVERY, G_EVERY = 16, 4                      # lazy regularisation, in iterations

NO_ADA = ("augment=none", "terms.ada_controller=null")
CONFIG_F = (*NO_ADA, "train.precision=fp32")          # no mixed precision then (figure 24)


def stylegan2(resolution: int, *, kimg: float, batch: int, micro_batch: int, fmaps: float, lr: float, gamma: float, ema_kimg: float,
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


def auto_formulas(resolution: int, gpus: int = 1) -> dict[str, Any]:
    """The release's `auto`: what it makes of the resolution and the number of GPUs."""
    batch = max(min(gpus * min(4096 // resolution, 32), 64), gpus)
    return {"batch": batch, "micro_batch": batch // gpus, "group": min(batch // gpus, 4),
            "fmaps": 1.0 if resolution >= 512 else 0.5, "lr": 0.002 if resolution >= 1024 else 0.0025,
            **batch_rules(resolution, batch)}


def batch_rules(resolution: int, batch: int) -> dict[str, float]:
    """gamma: the paper's first guess for R1 (appendix D.1), 0.0002 pixels per image of the batch; ema_kimg: the release's."""
    return {"gamma": 0.0002 * resolution ** 2 / batch, "ema_kimg": batch * 10 / 32}


def narrow(resolution: int, *, kimg: float, channels: int, path_length: bool, asked_batch: int | None = None) -> dict[str, Any]:
    """`auto` at an eighth of its width, for machines without a GPU: 64 times less work in the convolutions.

    Against `auto`: latents of 128 numbers; batch 16, with gamma and the average by the release's rules for it, so that a short run
    has more iterations; p moves by 1 in 50 kimg, since 500 would outlast the run; reals are mirrored, as in handful's other recipes
    for few pictures; log, previews and checkpoints every few minutes.
    """
    numbers = auto_formulas(resolution) | {"batch": 16, "micro_batch": 16} | batch_rules(resolution, 16)
    tree = stylegan2(resolution, kimg=kimg, mapping_layers=2, style_mixing=0.9 if path_length else 0.0, rampup=0.05,
                     path_length=path_length, asked_batch=asked_batch, **numbers)
    tree["g"] |= {"z_dim": 128, "w_dim": 128, "channel_base": 32 * channels, "channel_max": channels}
    tree["d"] |= {"channel_base": 32 * channels, "channel_max": channels}
    tree["terms"]["ada_controller"]["kimg"] = 50.0
    tree["data"]["flip"] = True
    tree["every"] = {"log_kimg": 0.5, "preview_kimg": 4, "checkpoint_kimg": 10}
    return tree


# ------------------------------------------------------------------------------------------------------------ published figures


def cost(runs: int, years: float, gpus: int, figure: str) -> str:
    """The paper's account of its computation (figure 25), per run."""
    return f"{years * 365.25 / runs / gpus:.1f} days on {gpus} V100 GPUs ({figure}: {runs} runs took {years:g} V100-years)"


FIG_7, FIG_8A = cost(174, 10.82, 8, "figure 7"), cost(69, 4.18, 8, "figure 8a")
FIG_11A, FIG_11B = cost(30, 1.71, 8, "figure 11a"), cost(30, 0.93, 2, "figure 11b")
FIG_9, FIG_19 = cost(40, 0.71, 8, "figure 9"), cost(54, 3.34, 8, "figure 19")

FFHQ_SIZES = {"1k": 1000, "2k": 2000, "5k": 5000, "10k": 10000, "20k": 20000, "30k": 30000, "50k": 50000, "70k": None, "140k": None}


def ffhq(size: str) -> tuple[str, ...]:
    """Settings for a subset of FFHQ at 256 pixels: the published figures need box filtering; 140k is all of it, mirrored too."""
    images = FFHQ_SIZES[size]
    subset = (f"data.max_images={images}",) if images else ("data.flip=true",) if size == "140k" else ()
    return ("data.resolution=256", "data.filter=box", *subset)


METRICS = {"FID": "fid50k_full", "IS": "is50k", "recall": "pr50k3_full/recall", "KID x1000": "kid50k_full", "FID 10k": "fid10k_test"}


def cells(table: str, row: str, data: str, protocol: str, cost: str, settings: tuple[str, ...], source: str = "", waits: str = "",
          **figures: Figure) -> list[Target]:
    """One target per figure of a row; a figure is a value, or (value, standard deviation). Names: FID, IS, recall, KID_x1000, FID_10k."""
    named = {name.replace("_", " "): figure for name, figure in figures.items()}
    against = f"{source}:test" if "FID 10k" in named else ""
    return row_of(f"stylegan2-ada/{table}", row, data, protocol, cost, settings, named, METRICS, source=source, against=against,
                  times={"KID x1000": 1000.0}, waits=waits)


BEST_KID = "the snapshot of best KID: 50,000 generated images against the whole training set"
BEST_FID = "the snapshot of best FID of the best run: 50,000 generated images against all 70,000 of FFHQ"


def small_sets(row: str, figures: dict[str, tuple[float, float, float | None]], settings: tuple[str, ...]) -> list[Target]:
    """Figure 11a from scratch, and figures 13 to 16, which add recall: {set: (FID, KID x 1000, recall or None)}. Mirrored."""
    out = []
    for data, (fid, kid, recall) in figures.items():
        resolution, number = SMALL_SETS[data]
        lines = (f"data.resolution={resolution}", "data.flip=true", *settings)
        out += cells("11a", row, data, BEST_KID, FIG_11A, lines, FID=fid, KID_x1000=kid)
        if recall is not None:
            out += cells(number, row, data, BEST_KID, FIG_11A, lines, FID=fid, KID_x1000=kid, recall=recall)
    return out


SMALL_SETS = {"MetFaces (1336)": (1024, "12"), "BreCaHAD (1944)": (512, "13"), "AFHQ Cat (5153)": (512, "14"),
              "AFHQ Dog (4739)": (512, "15"), "AFHQ Wild (4738)": (512, "16")}
CONDITIONAL = ("data.labels=auto",)
BEST_OF_5 = "best snapshot of each of 5 runs, mean: "
CIFAR_FID = BEST_OF_5 + "50,000 generated images against the 50,000 training images"
CIFAR_IS = BEST_OF_5 + "50,000 generated images in 10 parts"


def cifar10(row: str, unconditional: tuple[tuple[float, float], tuple[float, float]],
            conditional: tuple[tuple[float, float], tuple[float, float]], settings: tuple[str, ...] = ()) -> list[Target]:
    """Figure 11b: (FID, IS) without and with classes, each (value, standard deviation)."""
    out = []
    for data, (fid, inception), more in (("CIFAR-10", unconditional, ()), ("CIFAR-10 conditional", conditional, CONDITIONAL)):
        out += cells("11b", row, data, CIFAR_FID, FIG_11B, settings + more, "cifar10", FID=fid)
        out += cells("11b", row, data, CIFAR_IS, FIG_11B, settings + more, "cifar10", IS=inception)
    return out
