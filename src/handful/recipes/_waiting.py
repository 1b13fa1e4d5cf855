"""Published rows that no recipe of this version can run, and what they wait for; the settings are those that they would have.

`handful train --init-from` starts from other weights, but a row can't name any, and nothing freezes layers of D. BigGAN in StyleGAN2-ADA's figures
18 and 19 has the hyperparameters of Schonfeld et al. (arXiv 2002.12655), which the paper doesn't repeat.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import _diffaugment, _fastgan
from ._stylegan2 import BEST_FID, BEST_KID, CIFAR_FID, CONDITIONAL, CONFIG_F, FIG_9, FIG_11A, FIG_11B, FIG_19, NO_ADA, SMALL_SETS, cells, ffhq
from ._targets import Target

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


def subset(data: str, size: str) -> tuple[str, ...]:
    """Settings for a subset of FFHQ or LSUN Cat at 256 pixels."""
    return ffhq(size) if data == "FFHQ" else ("data.resolution=256", f"data.max_images={1000 * int(size.removesuffix('k'))}")


def small_sets() -> Iterator[Target]:
    """Figure 11a's transfer columns, and figure 12."""
    for data, values in TRANSFER.items():
        pixels, _ = SMALL_SETS[data]
        for (row, (recipe, lines)), (plain, frozen) in zip(METHODS.items(), values):
            where = {"recipe": recipe or f"paper{pixels}", "source": "FFHQ-140k", "pixels": pixels}
            mine = (f"data.resolution={pixels}", "data.flip=true", *lines)
            yield from cells("11a", f"{row} + transfer", data, BEST_KID, FIG_11A, mine, waits=START.format(**where), KID_x1000=plain)
            yield from cells("11a", f"{row} + transfer + Freeze-D", data, BEST_KID, FIG_11A, mine, waits=FREEZE_D.format(layers=13, **where),
                             KID_x1000=frozen)
            if data.startswith("MetFaces"):
                fid, kid, recall = FIG_12[row]
                yield from cells("12", f"{row} + transfer", data, BEST_KID, FIG_11A, mine, waits=START.format(**where), FID=fid, KID_x1000=kid,
                                 recall=recall)


def transfer() -> Iterator[Target]:
    """Figure 9: a and b are the training curves of some points of c, which has every size; d has other sets, and ADA (with or without Freeze-D isn't
    said). The curves from scratch in c are figure 7's."""
    start, freeze = (text.format(recipe="paper256", source="CelebA-HQ", pixels=256, layers=10) for text in (START, FREEZE_D))
    for table, rows, sizes in (("9a", ("baseline",), FIG_9_CURVES), ("9b", ("ADA",), FIG_9_CURVES), ("9c", FIG_9_ROWS, FIG_9_SIZES)):
        for row in rows:
            for name, waits in ((f"{row} + transfer", start), (f"{row} + transfer + Freeze-D", freeze)):
                for size in sizes:
                    yield from cells(table, name, f"FFHQ {size}", OF_ALL.format(data="FFHQ"), FIG_9, (*FIG_9_ROWS[row], *subset("FFHQ", size)),
                                     waits=waits, FID=None)
    for data, sources in PAIRS.items():
        for source in sources:
            for size in FIG_9_SIZES:
                yield from cells("9d", f"ADA + transfer from {source}", f"{data} {size}", OF_ALL.format(data=data), FIG_9, subset(data, size),
                                 waits=START.format(recipe="paper256", source=source, pixels=256), FID=None)


def cifar10() -> Iterator[Target]:
    """Figure 11b's other methods, other works' FID-10k, and figure 17's training images."""
    said = "as its own paper has it: the average where given, else the single best"
    for row, (fid, inception, classes, waits) in OTHERS.items():
        data, lines = ("CIFAR-10 conditional", CONDITIONAL) if classes else ("CIFAR-10", ())
        protocol = CIFAR_FID.partition(": ")[2] + ", of the public model" if row == "ProGAN" else said
        yield from cells("11b", row, data, protocol, "quoted", lines, "cifar10", waits, FID=fid)
        yield from cells("11b", row, data, said, "quoted", lines, "cifar10", waits, IS=inception)
    for row, data, fid, waits in (("Tran et al.", "CIFAR-10", 10.89, "the method of Tran et al. (arXiv 2006.05338)"),
                                  ("Z. Zhao et al.", "CIFAR-10 conditional", 8.30, "the settings of Z. Zhao et al. (arXiv 2006.02595)")):
        yield from cells("FID-10k", row, data, _diffaugment.ADA_SAYS, "quoted", (), "cifar10", waits, FID_10k=fid)
    for data in ("CIFAR-10", "CIFAR-10 conditional"):
        yield from cells("17", "real images", data, "the training images themselves", FIG_11B, (), "cifar10",
                         "rows that score pictures without training (handful evaluate FOLDER does)", IS=11.24)


def biggan() -> Iterator[Target]:
    for size, fid in BIGGAN_FIDS.items():
        yield from cells("18", "BigGAN", f"FFHQ 256x256, {size}", BEST_FID, FIG_19, ffhq(size), waits=BIGGAN, FID=fid)
    for table, (data, sizes) in zip(("19a", "19b"), FIG_19_SIZES.items()):
        for size in sizes:
            yield from cells(table, "BigGAN", f"{data} {size}", OF_ALL.format(data=data) + "; median of 5 runs", FIG_19, subset(data, size),
                             waits=BIGGAN, FID=None)


TARGETS = (*_diffaugment.pretrained(), *_diffaugment.waiting(), *_fastgan.waiting(), *small_sets(), *transfer(), *cifar10(), *biggan())
