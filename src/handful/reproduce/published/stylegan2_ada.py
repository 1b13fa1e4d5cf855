"""The figures of the paper on ADA (Karras et al., NeurIPS 2020), whose tables stand in its figures, and its release's table of costs.

Figure 8a compares with other methods on FFHQ at 256 pixels (appendix D.2), here as settings of the recipe paper256. None of them augments images,
and each is taken by itself. Where a method is more than numbers its file says more (terms/NAME.py). Rotations and zCR act in every step, beside the
lazy regularisers; WGAN-GP replaces these, and with them the correction of Adam. ADA's controller drives PA-GAN's bits and the strength of dropout as
it does augmentations. bCR comes on top of ADA. APA, of which no figures are at hand, is paper256 with --set augment=apa, and with its data
augmentation --set augment.policy=bgc besides.

Settings of the figures that have curves but no numbers:
Figures 4 and 21, sets of augmentations at a fixed strength: --set augment.policy=P with P of blit, geom, color, filter, noise,
cutout, bg, bgc, bgcf, bgcfn, bgcfnc; --set augment.p=0.4 --set terms.ada_controller=null;
Figure 5, the heuristics and their targets: --set terms.ada_controller.target=0.3 ... 0.9, or, with targets of 0.2 ... 0.8, --set
terms.ada_controller.statistic=r_v --set data.holdout=0.1;
Figure 7a, bCR alone: --set augment=none --set terms.ada_controller=null --set terms.bcr={};
Figure 8b, the capacity of D: --set d.capacity=F with F of 0.25, 0.5, 0.75, 1, 1.5, 2;
Figure 19, config F, the baseline and ADA on more subsets: the rows of figure 18 with another --set data.max_images=N. Figure 9, transfer learning,
and figure 19's BigGAN are rows that wait;
Figure 20a, bCR's moves, with the settings of figure 7a: --set terms.bcr.shift=F with F of 0.015625, 0.03125, 0.0625 (4, 8 and 16 pixels), or turns:
--set terms.bcr.policy= --set terms.bcr.rotate_degrees=10, 20 or 45;
Figure 20b: --set terms.bcr.policy=xint,xflip, or --set data.flip=true; shifts of the reals alone: --set augment.policy=xint --set
augment.xint_max=0.03125 --set augment.p=1 --set 'train.augment_at=["real"]' --set terms.ada_controller=null.

No recipe of this version can run some of the rows: they say what they wait for, and have the settings that they would have. `handful train
--init-from` starts from other weights, but a row can't name any, and nothing freezes layers of D. BigGAN in figures 18 and 19 has the
hyperparameters of Schonfeld et al. (arXiv 2002.12655), which the paper doesn't repeat.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...recipes.stylegan2 import stylegan2_auto
from .._target import Figure, Target, made_by, row_of
from . import diffaugment

CITATION = "Karras et al.: Training Generative Adversarial Networks with Limited Data, NeurIPS 2020 (numbers are those of its figures)"
TITLES = {
    "7c": "subsets of FFHQ and LSUN Cat", "8a": "ways against overfitting, FFHQ", "9a": "transfer to FFHQ, training curves",
    "9b": "transfer to FFHQ with ADA, training curves", "9c": "transfer to subsets of FFHQ", "9d": "transfer between sets", "11a": "small sets",
    "11b": "CIFAR-10", "12": "MetFaces, by transfer", "13": "BreCaHAD", "14": "AFHQ Cat", "15": "AFHQ Dog", "16": "AFHQ Wild",
    "17": "CIFAR-10, the best models", "18": "FFHQ, the best runs", "19a": "BigGAN on subsets of FFHQ", "19b": "BigGAN on subsets of LSUN Cat",
    "FID-10k": "CIFAR-10 against its test images", "cost": "the release's table of costs"}
NO_ADA = ("augment=none", "terms.ada_controller=null")
CONFIG_F = (*NO_ADA, "train.precision=fp32")          # no mixed precision then (figure 24)
METRICS = {"FID": "fid50k_full", "IS": "is50k", "recall": "pr50k3_full/recall", "KID x1000": "kid50k_full", "FID 10k": "fid10k_test"}


def cells(table: str, row: str, data: str, protocol: str, cost: str, settings: tuple[str, ...], source: str = "", waits: str = "",
          **figures: Figure) -> list[Target]:
    """One target per figure of a row; a figure is a value, or (value, standard deviation). Names: FID, IS, recall, KID_x1000, FID_10k."""
    named = {name.replace("_", " "): figure for name, figure in figures.items()}
    against = f"{source}:test" if "FID 10k" in named else ""
    return row_of(f"stylegan2-ada/{table}", row, data, protocol, cost, settings, named, METRICS, source=source, against=against,
                  times={"KID x1000": 1000.0}, waits=waits)


def cost(runs: int, years: float, gpus: int, figure: str) -> str:
    """The paper's account of its computation (figure 25), per run."""
    return f"{years * 365.25 / runs / gpus:.1f} days on {gpus} V100 GPUs ({figure}: {runs} runs took {years:g} V100-years)"


COST_7, COST_8A = cost(174, 10.82, 8, "figure 7"), cost(69, 4.18, 8, "figure 8a")
COST_9, COST_19 = cost(40, 0.71, 8, "figure 9"), cost(54, 3.34, 8, "figure 19")
COST_11A, COST_11B = cost(30, 1.71, 8, "figure 11a"), cost(30, 0.93, 2, "figure 11b")

# -------------------------------------------------------------------------------------------------------------- subsets of FFHQ and LSUN Cat

FFHQ_SIZES = {"1k": 1000, "2k": 2000, "5k": 5000, "10k": 10000, "20k": 20000, "30k": 30000, "50k": 50000, "70k": None, "140k": None}
SIZES = ("2k", "10k", "140k")                 # of figure 8a, and of InsGen's table 1, which quotes it
MEDIAN = "50,000 generated images against all {n:,}, whatever the subset trained on; median of 3 runs"
MEAN = "50,000 generated images against all 70,000 of FFHQ, whatever the subset trained on; mean of 3 runs"
BEST_FID = "the snapshot of best FID of the best run: 50,000 generated images against all 70,000 of FFHQ"
BCR = ("terms.bcr.weight_real=10", "terms.bcr.weight_fake=10")
ROWS = {"baseline": NO_ADA, "ADA": (), "ADA + bCR": BCR}
FIG_7C_FFHQ = {"1k": (100.16, 21.29, 22.61), "5k": (49.68, 10.96, 10.58), "10k": (30.74, 8.13, 7.53), "30k": (12.31, 5.46, 4.57),
               "70k": (5.28, 4.30, 3.91), "140k": (3.71, 3.81, 3.62)}
FIG_7C_CAT = {1: (186.91, 43.25, 38.82), 5: (96.44, 16.95, 16.80), 10: (50.66, 13.13, 12.90), 30: (15.90, 10.50, 9.68), 100: (8.56, 9.26, 8.73),
              200: (7.98, 9.22, 9.03)}
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
FIG_18 = {"config F": {"2k": (66.77, 0.002), "5k": (39.42, 0.030), "30k": (8.80, 0.283), "140k": (3.81, 0.452)},       # FID, recall
          "baseline": {"2k": (76.61, 0.000), "5k": (43.72, 0.010), "30k": (11.40, 0.258), "140k": (3.54, 0.452)},
          "ADA": {"2k": (15.76, 0.135), "5k": (10.78, 0.185), "30k": (5.40, 0.354), "140k": (3.79, 0.440)},
          "ADA + bCR": {"2k": (17.05, 0.076), "5k": (10.21, 0.155), "30k": (4.55, 0.327), "140k": (3.55, 0.412)}}


def ffhq(size: str) -> tuple[str, ...]:
    """Settings for a subset of FFHQ at 256 pixels: the published figures need box filtering; 140k is all of it, mirrored too."""
    images = FFHQ_SIZES[size]
    lines = (f"data.max_images={images}",) if images else ("data.flip=true",) if size == "140k" else ()
    return ("data.resolution=256", "data.filter=box", *lines)


def subset(data: str, size: str) -> tuple[str, ...]:
    """Settings for a subset of FFHQ or LSUN Cat at 256 pixels."""
    return ffhq(size) if data == "FFHQ" else ("data.resolution=256", f"data.max_images={1000 * int(size.removesuffix('k'))}")


def paper256() -> Iterator[Target]:
    """Figures 7c, 8a and 18."""
    for size, values in FIG_7C_FFHQ.items():
        for (row, lines), fid in zip(ROWS.items(), values):
            yield from cells("7c", row, f"FFHQ {size}", MEDIAN.format(n=70000), COST_7, (*lines, *ffhq(size)), FID=fid)
    for kilo, values in FIG_7C_CAT.items():
        for (row, lines), fid in zip(ROWS.items(), values):
            yield from cells("7c", row, f"LSUN Cat {kilo}k", MEDIAN.format(n=200000), COST_7, (*lines, *subset("LSUN Cat", f"{kilo}k")), FID=fid)
    for row, (lines, fids) in FIG_8A.items():
        for size, fid in zip(SIZES, fids):
            yield from cells("8a", row, f"FFHQ {size}", MEAN, COST_8A, (*lines, *ffhq(size)), FID=fid)
    for row, lines in ROWS.items():
        yield from best_of_ffhq(row, lines, COST_7)


def best_of_ffhq(row: str, settings: tuple[str, ...], cost: str) -> Iterator[Target]:
    """A row of figure 18."""
    for size, (fid, recall) in FIG_18[row].items():
        yield from cells("18", row, f"FFHQ 256x256, {size}", BEST_FID, cost, (*settings, *ffhq(size)), FID=fid, recall=recall)


# ----------------------------------------------------------------------------------------------------------------------- small sets

SMALL_SETS = {"MetFaces (1336)": (1024, "12"), "BreCaHAD (1944)": (512, "13"), "AFHQ Cat (5153)": (512, "14"),
              "AFHQ Dog (4739)": (512, "15"), "AFHQ Wild (4738)": (512, "16")}
BEST_KID = "the snapshot of best KID: 50,000 generated images against the whole training set"
SCRATCH = {                                   # FID, KID x 1000, and recall, where figures 13 to 16 have it
    "config F": {"MetFaces (1336)": (57.26, 35.66, None), "BreCaHAD (1944)": (97.72, 89.76, 0.027), "AFHQ Cat (5153)": (5.13, 1.54, 0.215),
                 "AFHQ Dog (4739)": (19.37, 9.62, 0.196), "AFHQ Wild (4738)": (3.48, 0.77, 0.143)},
    "ADA": {"MetFaces (1336)": (18.22, 2.41, None), "BreCaHAD (1944)": (15.71, 2.88, 0.340), "AFHQ Cat (5153)": (3.55, 0.66, 0.430),
            "AFHQ Dog (4739)": (7.40, 1.16, 0.454), "AFHQ Wild (4738)": (3.05, 0.45, 0.147)}}


def small_sets(row: str, settings: tuple[str, ...], pixels: int | None = None) -> Iterator[Target]:
    """Figure 11a from scratch, and figures 13 to 16, which add recall, mirrored. pixels: of the sets, where not all of them are wanted."""
    for data, (fid, kid, recall) in SCRATCH[row].items():
        resolution, number = SMALL_SETS[data]
        lines = (f"data.resolution={resolution}", "data.flip=true", *settings)
        if pixels in (None, resolution):
            yield from cells("11a", row, data, BEST_KID, COST_11A, lines, FID=fid, KID_x1000=kid)
            if recall is not None:
                yield from cells(number, row, data, BEST_KID, COST_11A, lines, FID=fid, KID_x1000=kid, recall=recall)


# ------------------------------------------------------------------------------------------------------------------------- CIFAR-10

CONDITIONAL = ("data.labels=auto",)
BEST_OF_5 = "best snapshot of each of 5 runs, mean: "
CIFAR_FID = BEST_OF_5 + "50,000 generated images against the 50,000 training images"
CIFAR_IS = BEST_OF_5 + "50,000 generated images in 10 parts"
FID_10K = "10,000 generated images against 10,000 validation images"
SINGLE_FID, SINGLE_IS = "the single best model by FID, 50,000 images", "the single best model by IS, 50,000 images"
QUOTED = "; quoted from DiffAugment's paper"


def cifar10(row: str, unconditional: tuple[tuple[float, float], tuple[float, float]],
            conditional: tuple[tuple[float, float], tuple[float, float]], settings: tuple[str, ...] = ()) -> list[Target]:
    """Figure 11b: (FID, IS) without and with classes, each (value, standard deviation)."""
    out = []
    for data, (fid, inception), more in (("CIFAR-10", unconditional, ()), ("CIFAR-10 conditional", conditional, CONDITIONAL)):
        out += cells("11b", row, data, CIFAR_FID, COST_11B, settings + more, "cifar10", FID=fid)
        out += cells("11b", row, data, CIFAR_IS, COST_11B, settings + more, "cifar10", IS=inception)
    return out


def cifar() -> Iterator[Target]:
    """The tuned rows of figure 11b, FID-10k, and figure 17."""
    yield from cifar10("ADA + tuning", ((2.92, 0.05), (9.83, 0.04)), ((2.42, 0.04), (10.14, 0.09)))
    sets = {"CIFAR-10": (), "CIFAR-10 conditional": CONDITIONAL}
    for (data, lines), fid in zip(sets.items(), ((7.01, 0.06), (6.54, 0.06))):
        yield from cells("FID-10k", "ADA + tuning", data, FID_10K + "; mean of the paper's runs", COST_11B, lines, "cifar10", FID_10k=fid)
    for row, said, figures in (("best FID", SINGLE_FID, ((2.85, 9.74), (2.38, 10.00))), ("best IS", SINGLE_IS, ((5.70, 10.08), (3.62, 10.33)))):
        for (data, lines), (fid, inception) in zip(sets.items(), figures):
            yield from cells("17", row, data, said, COST_11B, lines, "cifar10", FID=fid, IS=inception)


def cifar_baseline() -> list[Target]:
    """Figure 11b's rows Baseline and + ADA."""
    return (cifar10("baseline", ((8.32, 0.09), (9.21, 0.09)), ((6.96, 0.41), (9.53, 0.06)), NO_ADA)
            + cifar10("ADA", ((5.33, 0.35), (10.02, 0.07)), ((3.49, 0.17), (10.24, 0.07))))


def biggan_cifar() -> list[Target]:
    """The FID-10k that the paper quotes from DiffAugment's."""
    row = "CR-BigGAN + DiffAugment"
    return cells("FID-10k", row, "CIFAR-10 conditional", FID_10K, diffaugment.TWO_GPUS + QUOTED, diffaugment.BIGGAN_ROWS[row]("100%"), "cifar10",
                 FID_10k=8.49)


def stylegan2_diffaug_cifar() -> list[Target]:
    """Likewise of StyleGAN2."""
    return cells("FID-10k", "StyleGAN2 + DiffAugment", "CIFAR-10", FID_10K, diffaugment.FOUR_GPUS + QUOTED, diffaugment.PLAINER, "cifar10",
                 FID_10k=9.89)


# -------------------------------------------------------------------------------------------------------------------- the table of costs

HOURS = {                                     # the release's expected hours per 1000 kimg, and sec/kimg, on 1, 2, 4, 8 V100 GPUs
    128: ((4 + 5 / 60, "12.8-13.7"), (2 + 6 / 60, "6.5-6.8"), (1 + 20 / 60, "4.1-4.6"), (1 + 13 / 60, "3.9-4.9")),
    256: ((6 + 36 / 60, "21.6-24.2"), (3 + 27 / 60, "11.2-11.8"), (1 + 45 / 60, "5.6-5.9"), (1 + 24 / 60, "4.4-5.5")),
    512: ((21 + 3 / 60, "72.5-74.9"), (10 + 59 / 60, "37.7-40.0"), (5 + 29 / 60, "18.7-19.1"), (2 + 48 / 60, "9.5-9.7")),
    1024: ((24 + 20, "154.3-161.6"), (23 + 9 / 60, "80.6-86.2"), (11 + 36 / 60, "40.1-40.8"), (5 + 54 / 60, "20.2-20.6"))}


def for_gpus(resolution: int, gpus: int) -> tuple[str, ...]:
    """The settings of the recipe stylegan2_auto that the number of GPUs changes."""
    tree = stylegan2_auto(resolution, gpus=gpus)
    lines = (f"data.resolution={resolution}",)
    if gpus > 1:
        lines += (f"train.batch={tree['train']['batch']}", f"terms.r1.gamma={tree['terms']['r1']['gamma']!r}",
                  f"ema.halflife_kimg={tree['ema']['halflife_kimg']!r}")
    return lines


def costs() -> list[Target]:
    return [Target("stylegan2-ada/cost", f"{gpus} GPU{'s' if gpus > 1 else ''}", f"{resolution}x{resolution}", "hours per 1000 kimg", hours,
                   f"the release's own table, with ADA and mixed precision; {pace} s/kimg", f"{gpus} V100", for_gpus(resolution, gpus))
            for resolution, row in HOURS.items() for gpus, (hours, pace) in zip((1, 2, 4, 8), row)]


# ------------------------------------------------------------------------------------------------------------------------ what waits

START = "a way for rows of {recipe} to start from other weights, here those of {source} at {pixels} pixels"
FREEZE_D = "the freezing of D's first {layers} layers, and " + START
TRANSFER = {                                  # figure 11a: KID x 1000 of config F and ADA, transferred and with Freeze-D besides
    "MetFaces (1336)": ((3.16, 2.05), (0.81, 1.33)), "BreCaHAD (1944)": ((18.07, 6.94), (3.36, 1.91)),
    "AFHQ Cat (5153)": ((1.09, 1.00), (0.44, 0.35)), "AFHQ Dog (4739)": ((4.63, 2.80), (1.40, 1.12)),
    "AFHQ Wild (4738)": ((0.31, 0.12), (0.15, 0.14))}
FIG_12 = {"config F": (19.47, 3.16, 0.350), "ADA": (15.34, 0.81, 0.261)}                # MetFaces, transferred: FID, KID x 1000, recall
METHODS = {"config F": ("stylegan2", CONFIG_F), "ADA": ("", ())}                         # ADA has a recipe of its own for each size
FIG_9_SIZES, FIG_9_CURVES = ("1k", "2k", "5k", "10k", "20k"), ("1k", "5k", "20k")
FIG_9_ROWS = {"baseline": NO_ADA, "ADA": ()}
PAIRS = {"LSUN Cat": ("CelebA-HQ", "FFHQ", "LSUN Dog"), "FFHQ": ("CelebA-HQ", "LSUN Dog")}               # figure 9d: to, from
OTHERS = {                                    # figure 11b: FID and IS of other methods on CIFAR-10; with classes or without; what they wait for
    "ProGAN": (15.52, (8.56, 0.06), False, "progressive growing"), "AutoGAN": (12.42, (8.55, 0.10), False, "AutoGAN's networks"),
    "BigGAN": (14.73, 9.22, True, "the settings of BigGAN's paper for CIFAR-10"),
    "BigGAN + tuning": (8.47, (9.07, 0.13), True, "the settings of Kavalerov et al. (arXiv 1912.04216)"),
    "MultiHinge": (6.40, (9.58, 0.09), True, "the multi-hinge loss"), "FQ-GAN": ((5.59, 0.12), 8.48, True, "feature quantisation")}
BIGGAN = "the settings of an unconditional BigGAN (Schonfeld et al., arXiv 2002.12655)"
BIGGAN_FIDS = {"2k": 60.47, "5k": 32.34, "30k": 15.84, "140k": 11.08}                    # figure 18
FIG_19_SIZES = {"FFHQ": ("1k", "2k", "5k", "10k", "20k", "30k", "50k", "70k", "140k"),
                "LSUN Cat": ("1k", "2k", "5k", "10k", "20k", "30k", "50k", "100k", "200k")}
OF_ALL = "50,000 generated images against all of {data}, whatever the subset trained on; a curve without numbers"


def transferred_sets() -> Iterator[Target]:
    """Figure 11a's transfer columns, and figure 12."""
    for data, values in TRANSFER.items():
        pixels, _ = SMALL_SETS[data]
        for (row, (recipe, lines)), (plain, frozen) in zip(METHODS.items(), values):
            where = {"recipe": recipe or f"paper{pixels}", "source": "FFHQ-140k", "pixels": pixels}
            mine = (f"data.resolution={pixels}", "data.flip=true", *lines)
            yield from cells("11a", f"{row} + transfer", data, BEST_KID, COST_11A, mine, waits=START.format(**where), KID_x1000=plain)
            yield from cells("11a", f"{row} + transfer + Freeze-D", data, BEST_KID, COST_11A, mine, waits=FREEZE_D.format(layers=13, **where),
                             KID_x1000=frozen)
            if data.startswith("MetFaces"):
                fid, kid, recall = FIG_12[row]
                yield from cells("12", f"{row} + transfer", data, BEST_KID, COST_11A, mine, waits=START.format(**where), FID=fid, KID_x1000=kid,
                                 recall=recall)


def transfer() -> Iterator[Target]:
    """Figure 9: a and b are the training curves of some points of c, which has every size; d has other sets, and ADA (with or without Freeze-D isn't
    said). The curves from scratch in c are figure 7's."""
    start, freeze = (text.format(recipe="paper256", source="CelebA-HQ", pixels=256, layers=10) for text in (START, FREEZE_D))
    for table, rows, sizes in (("9a", ("baseline",), FIG_9_CURVES), ("9b", ("ADA",), FIG_9_CURVES), ("9c", FIG_9_ROWS, FIG_9_SIZES)):
        for row in rows:
            for name, waits in ((f"{row} + transfer", start), (f"{row} + transfer + Freeze-D", freeze)):
                for size in sizes:
                    yield from cells(table, name, f"FFHQ {size}", OF_ALL.format(data="FFHQ"), COST_9, (*FIG_9_ROWS[row], *subset("FFHQ", size)),
                                     waits=waits, FID=None)
    for data, sources in PAIRS.items():
        for source in sources:
            for size in FIG_9_SIZES:
                yield from cells("9d", f"ADA + transfer from {source}", f"{data} {size}", OF_ALL.format(data=data), COST_9, subset(data, size),
                                 waits=START.format(recipe="paper256", source=source, pixels=256), FID=None)


def others() -> Iterator[Target]:
    """Figure 11b's other methods, other works' FID-10k, and figure 17's training images."""
    said = "as its own paper has it: the average where given, else the single best"
    for row, (fid, inception, classes, waits) in OTHERS.items():
        data, lines = ("CIFAR-10 conditional", CONDITIONAL) if classes else ("CIFAR-10", ())
        protocol = CIFAR_FID.partition(": ")[2] + ", of the public model" if row == "ProGAN" else said
        yield from cells("11b", row, data, protocol, "quoted", lines, "cifar10", waits, FID=fid)
        yield from cells("11b", row, data, said, "quoted", lines, "cifar10", waits, IS=inception)
    for row, data, fid, waits in (("Tran et al.", "CIFAR-10", 10.89, "the method of Tran et al. (arXiv 2006.05338)"),
                                  ("Z. Zhao et al.", "CIFAR-10 conditional", 8.30, "the settings of Z. Zhao et al. (arXiv 2006.02595)")):
        yield from cells("FID-10k", row, data, FID_10K, "quoted", (), "cifar10", waits, FID_10k=fid)
    for data in ("CIFAR-10", "CIFAR-10 conditional"):
        yield from cells("17", "real images", data, "the training images themselves", COST_11B, (), "cifar10",
                         "rows that score images without training (handful evaluate FOLDER does)", IS=11.24)


def biggan() -> Iterator[Target]:
    for size, fid in BIGGAN_FIDS.items():
        yield from cells("18", "BigGAN", f"FFHQ 256x256, {size}", BEST_FID, COST_19, ffhq(size), waits=BIGGAN, FID=fid)
    for table, (data, sizes) in zip(("19a", "19b"), FIG_19_SIZES.items()):
        for size in sizes:
            yield from cells(table, "BigGAN", f"{data} {size}", OF_ALL.format(data=data) + "; median of 5 runs", COST_19, subset(data, size),
                             waits=BIGGAN, FID=None)


TARGETS = (
    *made_by("paper256", paper256()), *made_by("paper512", small_sets("ADA", (), 512)), *made_by("paper1024", small_sets("ADA", (), 1024)),
    *made_by("stylegan2", (*small_sets("config F", CONFIG_F), *best_of_ffhq("config F", CONFIG_F, COST_19))),
    *made_by("cifar", cifar()), *made_by("cifar_baseline", cifar_baseline()), *made_by("stylegan2_auto", costs()),
    *made_by("biggan_cifar", biggan_cifar()), *made_by("stylegan2_diffaug_cifar", stylegan2_diffaug_cifar()),
    *transferred_sets(), *transfer(), *others(), *biggan())
