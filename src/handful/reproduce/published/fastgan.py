"""The tables of FastGAN (Liu et al., ICLR 2021). recipes/fastgan.py says where the paper, its release and the recipes differ.

Table 1's parameters are reached neither by the text nor by the release. In millions, at 256 and at 1024 pixels:

    the paper's own model       47.363 and 47.413; the release's networks and decoders have 40.654 and 40.705, those of the text 36.658 and 36.666
    its baseline                44.359 and 44.377; the release's networks without excitation and decoders have 33.708 and 33.726
    StyleGAN2                   108.843 and 109.229; config F has 58.898 and 59.383

Since not even config F's number is met, the widths of "StyleGAN2@0.5", which table 3 compares with, and of "StyleGAN2@0.25" can't be told.

The rows of table 2: the baseline has neither excitation (in G and, as the release has it, in D) nor decoders, "skip" is the former, "decode" the
latter. A length in hours is here the iterations that table 1's pace gives in them, in whole tens of thousands, after which checkpoints were
scored; the paper's own model has the release's length in tables 2 and 3, and so have the two rows of which table 1 has no pace.

Some figures of StyleGAN2 are those that DiffAugment's release lists, to the last digit, and are run with its settings: all of table 2, 1000, 5k
and 10k images of FFHQ in tables 3 and 4 (of 256 pixels there). The fine-tuned ones of table 2 are FreezeD with DiffAugment in DiffAugment's table 4.
"""

from __future__ import annotations

from .._target import Target, made_by, row_of
from . import diffaugment

CITATION = "Liu, Zhu, Song, Elgammal: Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image Synthesis, ICLR 2021"
TITLES = {
    "1": "cost of training", "2": "few images, 256 pixels", "3": "few images, 1024 pixels", "4": "more images, 1024 pixels",
    "5": "inversion of images into latents", "6": "self-supervision of D"}
BEST_OF_5 = "best of the checkpoints saved every 10k iterations, best of 5 seeds"
PROTOCOL = f"5000 generated images against the whole training set, {BEST_OF_5}"
PROTOCOL_50K = f"50,000 generated images against the whole training set, {BEST_OF_5}"
BATCH, STEP = 8, 10_000                       # images of an iteration; iterations between checkpoints

TABLE_1 = {                                   # hours per 10k iterations, GB of GPU memory, million parameters: at 256 pixels, at 1024
    "StyleGAN2@0.25": ((1, 7, 27.557), (3.6, 12, 27.591)),
    "StyleGAN2@0.5": ((1.8, 16, 45.029), (5, 23, 45.15)),
    "StyleGAN2": ((3.8, 18, 108.843), (7, 36, 109.229)),
    "Baseline": ((0.7, 5, 44.359), (1.3, 9, 44.377)),
    "Ours": ((1, 6.5, 47.363), (1.7, 10, 47.413))}
COSTS = ("hours per 10k iterations", "GB of GPU memory", "million parameters")
SIZES = ("256x256", "1024x1024")
NO_SLE, NO_DECODERS = ("g.sle=false", "d.sle=false"), ("terms.reconstruction=null",)
VARIANTS = {"Baseline": NO_SLE + NO_DECODERS, "Baseline + Skip": NO_DECODERS, "Baseline + decode": NO_SLE, "Ours": ()}

FEW = ("AnimalFace-dog 389", "AnimalFace-cat 160", "100-shot-obama", "100-shot-panda", "100-shot-grumpy-cat")
TABLE_2 = {
    "StyleGAN2": (58.85, 42.44, 46.87, 12.06, 27.08),
    "StyleGAN2 finetune": (61.03, 46.07, 35.75, 14.5, 29.34),
    "Baseline": (108.19, 150.3, 62.74, 15.4, 42.13),
    "Baseline + Skip": (94.21, 72.97, 52.50, 14.39, 38.17),
    "Baseline + decode": (56.25, 36.74, 44.34, 10.12, 29.38),
    "Ours": (50.66, 35.11, 41.05, 10.03, 26.65)}
FEW_LARGE = {"Art 1000": 1000, "FFHQ 1000": 1000, "Flower 1000": 1000, "Pokemon 800": None, "Anime 120": None, "Skull 100": None, "Shell 60": None}
TABLE_3 = {                                   # None: not tried ("N/A")
    "StyleGAN2": (74.56, 25.66, 45.23, 190.23, 152.73, 127.98, 241.37),
    "StyleGAN2 finetune": (None, None, 36.72, 60.12, 61.23, 107.68, 220.45),
    "Baseline": (62.27, 38.35, 42.25, 67.86, 101.23, 186.45, 202.32),
    "Ours": (45.08, 24.45, 25.66, 57.19, 59.38, 130.05, 155.47)}
MORE = {"Art 2k": 2000, "Art 5k": 5000, "Art 10k": 10_000, "FFHQ 2k": 2000, "FFHQ 5k": 5000, "FFHQ 10k": 10_000, "FFHQ 70k": None, "Nature 2k": 2000,
        "Nature 5k": 5000, "Nature 10k": 10_000}
TABLE_4 = {
    "StyleGAN2": (70.02, 48.36, 41.23, 18.38, 10.45, 7.86, 4.4, 67.12, 41.47, 39.05),
    "Baseline": (60.02, 51.23, 49.38, 36.45, 27.86, 25.12, 17.62, 71.47, 66.05, 62.28),
    "Ours": (44.57, 43.27, 42.53, 19.01, 17.93, 16.45, 12.38, 52.47, 45.07, 43.65)}
TRACKED = ("AnimalFace-cat 160", "AnimalFace-dog 389", "FFHQ 1024x1024", "Art 1024x1024")
TABLE_5 = {
    "Baseline @ 20k iter": (2.113, 2.073, 2.589, 2.916),
    "Baseline @ 40k iter": (2.513, 2.171, 2.583, 2.812),
    "Ours @ 40k iter": (1.821, 1.918, 2.425, 2.624),
    "Ours @ 80k iter": (1.897, 1.986, 2.342, 2.601)}
CLASSES, ASPECT = "a term by which D tells every image as a class of its own", "a term by which D predicts the original aspect ratio of an image"
TABLE_6 = {                                   # Art, Nature; what the row waits for
    "a. contrastive loss": ((47.14, 57.04), CLASSES),
    "b. predict aspect ratio": ((49.21, 59.22), ASPECT),
    "c. auto-encoding": ((42.53, 43.65), ""),
    "d. a+b": ((46.02, 54.23), f"{CLASSES}, and {ASPECT}"),
    "e. a+b+c": ((44.21, 47.65), f"{CLASSES}, and {ASPECT}")}
WIDTHS = "the widths of its slimmed StyleGAN2, which the paper doesn't tell"


def iterations(row: str, size: str, hours: float) -> int:
    """What table 1's pace of a row gives in so many hours, in whole tens of thousands."""
    return STEP * int(hours / TABLE_1[row][SIZES.index(size)][0])


def length(row: str, size: str, hours: float, batch: int = BATCH) -> tuple[str, ...]:
    return (f"train.kimg={iterations(row, size, hours) * batch / 1000:g}",)


def subset(images: int | None) -> tuple[str, ...]:
    return (f"data.max_images={images}",) if images else ()


def fid(table: str, row: str, data: str, value: float, cost: str, settings: tuple[str, ...] = (), *, protocol: str = PROTOCOL,
        metric: str = "fid5k_train", waits: str = "") -> list[Target]:
    return row_of(f"fastgan/{table}", row, data, protocol, cost, settings, {"FID": value}, {"FID": metric}, waits=waits)


def costs(row: str, size: str, settings: tuple[str, ...] = (), waits: str = "") -> list[Target]:
    """A column of table 1 at one size."""
    figures = dict(zip(COSTS, TABLE_1[row][SIZES.index(size)]))
    sizes = "G and D, with the decoders where there are any; reached by neither the text nor the release (reproduce/published/fastgan.py)"
    return [t for name, value in figures.items()
            for t in row_of("fastgan/1", row, size, sizes if name == COSTS[2] else "10k iterations, batch 8, fp32", "one RTX 2080 Ti", settings,
                            {name: value}, {}, waits=waits)]


def at_256() -> list[Target]:
    """What the recipe at 256 pixels runs of tables 1 and 2."""
    out = [t for row in ("Baseline", "Ours") for t in costs(row, "256x256", VARIANTS[row])]
    for row, settings in VARIANTS.items():
        cost = {"Ours": "5 h on an RTX 2080 Ti (1 h and 6.5 GB per 10k iterations of 8)",
                "Baseline": "5 h on an RTX 2080 Ti (0.7 h and 5 GB per 10k iterations of 8)"}.get(row, "5 h on an RTX 2080 Ti")
        lines = (*settings, *length(row, "256x256", 5)) if row == "Baseline" else settings
        out += [t for data, value in zip(FEW, TABLE_2[row]) for t in fid("2", row, data, value, cost, lines)]
    return out


def at_1024() -> list[Target]:
    """What the recipe at 1024 pixels runs of tables 1, 3, 4 and 6."""
    out = [t for row in ("Baseline", "Ours") for t in costs(row, "1024x1024", VARIANTS[row])]
    for row, pace in (("Baseline", "1.3 h and 9 GB"), ("Ours", "1.7 h and 10 GB")):
        cost = f"8 h on one RTX TITAN ({pace} per 10k iterations of 8 on an RTX 2080 Ti)"
        lines = (*VARIANTS[row], *length(row, "1024x1024", 8)) if row == "Baseline" else VARIANTS[row]
        for (data, images), value in zip(FEW_LARGE.items(), TABLE_3[row]):
            out += fid("3", row, data, value, cost, (*lines, *subset(images)))
        for (data, images), value in zip(MORE.items(), TABLE_4[row]):
            out += many(row, "4", row, data, value, images)
    row = next(name for name, (_, waits) in TABLE_6.items() if not waits)
    return out + [t for data, value in zip(("Art 10k", "Nature 10k"), TABLE_6[row][0]) for t in many("Ours", "6", row, data, value, MORE[data])]


def many(model: str, table: str, row: str, data: str, value: float, images: int | None) -> list[Target]:
    """A row of 24 hours. All of FFHQ had a batch of 32, with how many iterations isn't said: here as many images as 24 hours show with 8."""
    cost, lines = "24 h on one RTX 2080 Ti", (*VARIANTS[model], *length(model, "1024x1024", 24), *subset(images))
    if model == "Ours" and data == "FFHQ 70k":
        cost, lines = cost + "; batch 32, its iterations aren't stated", (*lines, "train.batch=32")
    return fid(table, row, data, value, cost, lines, protocol=PROTOCOL_50K, metric="fid50k_train")


def stylegan2() -> list[Target]:
    """StyleGAN2's figures that DiffAugment's settings make: the recipe is stylegan2_diffaug_fewshot."""
    out = [*costs("StyleGAN2", "256x256", ("train.batch=8",)), *costs("StyleGAN2", "1024x1024", ("data.resolution=1024", "train.batch=8"))]
    quoted = "; the figure that DiffAugment's release lists"
    for data, value in zip(FEW, TABLE_2["StyleGAN2"]):
        out += fid("2", "StyleGAN2", data, value, "20 h on one RTX 2080 Ti" + quoted, diffaugment.released_few(data))
    out += fid("3", "StyleGAN2", "FFHQ 1000", TABLE_3["StyleGAN2"][1], "24 h or more on one RTX TITAN" + quoted + " at 256 pixels",
               diffaugment.released_many("FFHQ", 1000), protocol=diffaugment.OF_ALL, metric="fid50k_full")
    for (data, images), value in zip(MORE.items(), TABLE_4["StyleGAN2"]):
        if data.startswith("FFHQ"):
            listed = value in diffaugment.RELEASED_MANY["StyleGAN2 + DiffAugment"].values()
            cost = f"called the latest official figures of DiffAugment, whose release {'has this one' if listed else 'lacks this one'}, at 256 pixels"
            out += fid("4", "StyleGAN2", data, value, cost, diffaugment.released_many("FFHQ", images), protocol=diffaugment.OF_ALL,
                       metric="fid50k_full")
        else:
            lines = ("data.resolution=1024", "train.batch=16", *length("StyleGAN2", "1024x1024", 5 * 24, batch=16), *subset(images))
            out += fid("4", "StyleGAN2", data, value, "five days on two RTX TITANs, batch 16", lines, metric="fid50k_train",
                       protocol=PROTOCOL_50K + "; rates, R1 and iterations aren't stated, here those of DiffAugment's release for few images")
    return out


def waiting() -> list[Target]:
    """What no recipe serves."""
    out = [t for row in ("StyleGAN2@0.25", "StyleGAN2@0.5") for size in SIZES for t in costs(row, size, waits=WIDTHS)]
    for data, value in zip(FEW, TABLE_2["StyleGAN2 finetune"]):
        out += fid("2", "StyleGAN2 finetune", data, value, "20 h on one RTX 2080 Ti", waits="transfer learning from a StyleGAN trained on FFHQ")
    for (data, _), value, tuned in zip(FEW_LARGE.items(), TABLE_3["StyleGAN2"], TABLE_3["StyleGAN2 finetune"]):
        if data != "FFHQ 1000":
            out += fid("3", "StyleGAN2", data, value, "24 h or more on one RTX TITAN", waits=WIDTHS)
        if tuned is not None:
            out += fid("3", "StyleGAN2 finetune", data, tuned, "24 h or more on one RTX TITAN",
                       waits="transfer learning from a StyleGAN2 trained on FFHQ with layers of D frozen")
    protocol = "LPIPS between a tenth of the images, kept out of training, and their inversions after 1000 updates of the latents; best of 5 seeds"
    for row, values in TABLE_5.items():
        model, _, trained, _ = row.split()
        lines = (*VARIANTS[model], f"train.kimg={int(trained.removesuffix('k')) * BATCH}", "data.holdout=0.1")
        for data, value in zip(TRACKED, values):
            recipe = "fastgan1024" if data.endswith(SIZES[1]) else "fastgan256"
            out += row_of("fastgan/5", row, data, protocol, "not stated", lines, {"LPIPS": value}, {},
                          waits=f"the inversion of images into latents, by which runs of {recipe} would be scored")
    for row, (values, waits) in TABLE_6.items():
        if waits:
            out += [t for data, value in zip(("Art 10k", "Nature 10k"), values)
                    for t in fid("6", row, data, value, "not stated; batch 8", protocol=PROTOCOL_50K, metric="fid50k_train", waits=waits)]
    return out


TARGETS = (*made_by("fastgan256", at_256()), *made_by("fastgan1024", at_1024()), *made_by("stylegan2_diffaug_fewshot", stylegan2()), *waiting())
