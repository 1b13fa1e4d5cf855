"""The tables of DiffAugment (Zhao et al., NeurIPS 2020), and the figures that its release lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from .._target import Figure, Target, made_by, row_of

CITATION = "Zhao, Liu, Lin, Zhu, Han: Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS 2020"
TITLES = {
    "1": "CIFAR-10: where the augmentation acts", "2": "ImageNet at 128 pixels", "3": "CIFAR-10 and CIFAR-100", "4": "few images, 256 pixels",
    "5": "CIFAR-10", "6": "CIFAR-100", "8a": "CIFAR-10: a smaller BigGAN", "8b": "CIFAR-10: stronger R1", "10": "CIFAR-10: stronger R1, its best IS",
    "A.1": "ImageNet: D's learning rate, CR, other papers", "released": "few images, the models that came with the code",
    "ffhq": "FFHQ and LSUN Cat, the models that came with the code"}
NO_AUG = ("augment=none",)
SHARES = ("100%", "20%", "10%")
SETS = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}
SCORES = {"IS": "is10k", "FID": "fid10k_test"}
MEAN_OF_5 = "10,000 generated images against the 10,000 test images; the snapshot of best FID, mean of 5 evaluations; TensorFlow's Inception"
BEST_5K = "5000 generated images against the training set, which isn't mirrored; the best snapshot; TensorFlow's Inception"
TWO_GPUS, FOUR_GPUS = "about a day on 2 GPUs", "4 GPUs, at most 750k iterations"

TABLE_5 = {                                   # CIFAR-10: (IS, FID) at 100, 20 and 10 % of the data; table 3 repeats the FIDs
    "BigGAN": ((9.06, 9.59), (8.41, 21.58), (7.62, 39.78)),
    "BigGAN + DiffAugment": ((9.16, 8.70), (8.65, 14.04), (8.09, 22.40)),
    "CR-BigGAN": ((9.20, 9.06), (8.43, 20.62), (7.66, 37.45)),
    "CR-BigGAN + DiffAugment": ((9.17, 8.49), (8.61, 12.84), (8.49, 18.70)),
    "StyleGAN2": ((9.18, 11.07), (8.28, 23.08), (7.33, 36.02)),
    "StyleGAN2 + DiffAugment": ((9.40, 9.89), (9.21, 12.15), (8.84, 14.50))}
TABLE_6 = {                                   # CIFAR-100
    "BigGAN": ((10.92, 12.87), (9.11, 33.11), (5.94, 66.71)),
    "BigGAN + DiffAugment": ((10.66, 12.00), (9.47, 22.14), (8.38, 33.70)),
    "CR-BigGAN": ((10.95, 11.26), (8.44, 36.91), (7.91, 47.16)),
    "CR-BigGAN + DiffAugment": ((10.81, 11.25), (9.12, 20.28), (8.70, 26.90)),
    "StyleGAN2": ((9.51, 16.54), (7.86, 32.30), (7.01, 45.87)),
    "StyleGAN2 + DiffAugment": ((10.04, 15.22), (9.82, 16.65), (9.06, 20.75))}
BIGGAN_KIMG = {"CIFAR-10": (50_000, 50_000, 25_000), "CIFAR-100": (100_000, 50_000, 25_000)}       # the release's epochs, in images shown
BIGGAN_CIFAR_KIMG = 50_000                    # the recipe's own

TABLE_1 = {                                   # CIFAR-10, BigGAN: (IS, FID) by policy; where T acts
    "baseline": ((9.06, 9.59), (9.06, 9.59), (9.06, 9.59)),
    "reals only": ((5.94, 49.38), (6.51, 37.95), (8.40, 19.16)),
    "reals+fakes, D only": ((3.00, 126.96), (3.76, 114.14), (3.50, 100.13)),
    "DiffAugment": ((9.25, 8.59), (9.16, 8.70), (9.07, 9.04))}
POLICIES = ("color,translation,cutout", "translation,cutout", "translation")
PLACES = {"reals only": ('train.augment_at=["real"]',), "reals+fakes, D only": ('train.augment_at=["real","fake_d"]',), "DiffAugment": ()}

TABLE_2 = {                                   # ImageNet at 128 pixels: ((IS, deviation), (FID, deviation)) at 100, 50 and 25 %
    "BigGAN": (((94.5, 0.4), (7.62, 0.02)), ((89.9, 0.2), (9.64, 0.04)), ((46.5, 0.4), (25.37, 0.07))),
    "BigGAN + DiffAugment": (((100.8, 0.2), (6.80, 0.02)), ((91.9, 0.5), (8.88, 0.06)), ((74.2, 0.5), (13.28, 0.07)))}

FEW = ("100-shot-obama", "100-shot-grumpy-cat", "100-shot-panda", "AnimalFace-cat 160", "AnimalFace-dog 389")
TABLE_4 = {"StyleGAN2": (89.18, 61.97, 90.96, 95.75, 164.54), "StyleGAN2 + DiffAugment": (54.39, 29.90, 13.21, 46.51, 62.78)}
TABLE_4_PRETRAINED = {
    "Scale/shift": (50.72, 34.20, 21.38, 54.83, 83.04),
    "MineGAN": (235.00, 287.96, 331.86, 279.48, 254.08),
    "TransferGAN": (48.73, 34.06, 23.20, 52.61, 82.38),
    "TransferGAN + DiffAugment": (39.85, 29.77, 17.12, 49.10, 65.57),
    "FreezeD": (41.87, 31.22, 17.95, 47.70, 70.46),
    "FreezeD + DiffAugment": (35.75, 29.34, 14.50, 46.07, 61.03)}
CR_PLAIN = (*NO_AUG, "terms.consistency.against=shifted")
HALF = ("g.width=32", "d.width=32")           # half the channels of CIFAR's BigGAN: a quarter of its parameters
R1_SWEEP = {0.1: 34.05, 1e3: 26.87, 1e4: 29.14}                   # FID by the weight of R1, where the text has it

RELEASED = {"StyleGAN2": (80.20, 48.90, 34.27, 71.71, 130.19), "StyleGAN2 + DiffAugment": (46.87, 27.08, 12.06, 42.44, 58.85)}
RELEASED_MANY = {                             # FID by set and size
    "StyleGAN2": {"FFHQ 70k": 3.81, "FFHQ 30k": 6.16, "FFHQ 10k": 14.75, "FFHQ 5k": 26.60, "FFHQ 1k": 62.16,
                  "LSUN Cat 30k": 10.12, "LSUN Cat 10k": 17.93, "LSUN Cat 5k": 34.69, "LSUN Cat 1k": 182.85},
    "StyleGAN2 + DiffAugment": {"FFHQ 70k": 4.24, "FFHQ 30k": 5.05, "FFHQ 10k": 7.86, "FFHQ 5k": 10.45, "FFHQ 1k": 25.66,
                                "LSUN Cat 30k": 9.68, "LSUN Cat 10k": 12.07, "LSUN Cat 5k": 16.11, "LSUN Cat 1k": 42.26}}
OF_ALL = "50,000 generated images against all images of the set, whatever the subset trained on; TensorFlow's Inception"


def policy(groups: str) -> tuple[str, str]:
    """The settings for DiffAugment with these groups of operators."""
    return "augment=diffaug", f"augment.policy={groups}"


def source_of(data: str, share: str) -> str:
    """What `handful` calls a share of CIFAR."""
    return SETS[data] if share == "100%" else f"{SETS[data]}:{share}"


def cifar(row: str, kimg: Mapping[str, Iterable[float]] | None, cost: str, settings) -> list[Target]:
    """Tables 3, 5 and 6 of one row. settings: of (share) the lines that make it; kimg: the lengths, where they differ from the recipe's."""
    out = []
    for number, data, values in (("5", "CIFAR-10", TABLE_5), ("6", "CIFAR-100", TABLE_6)):
        lengths = kimg[data] if kimg else (None,) * len(SHARES)
        for share, (inception, fid), length in zip(SHARES, values[row], lengths):
            lines = settings(share) + ((f"train.kimg={length}",) if length not in (None, BIGGAN_CIFAR_KIMG) else ())
            place = {"source": source_of(data, share), "against": f"{SETS[data]}:test"}
            where = (row, f"{data} {share}", MEAN_OF_5, cost, lines)
            out += row_of("diffaugment/3", *where, {"FID": fid}, SCORES, **place)
            out += row_of(f"diffaugment/{number}", *where, {"IS": inception, "FID": fid}, SCORES, **place)
    return out


BIGGAN_ROWS = {                               # the lines that make a row on a share of CIFAR
    "BigGAN": lambda share: NO_AUG,
    "BigGAN + DiffAugment": lambda share: policy("translation,cutout"),
    "CR-BigGAN": lambda share: CR_PLAIN,
    "CR-BigGAN + DiffAugment": lambda share: (
        (*policy("cutout"), "terms.consistency.against=shifted") if share == "100%" else
        (*policy("translation,cutout"), "terms.consistency.against=plain"))}
STRONGEST, PLAINER = policy("color,translation,cutout"), policy("color,cutout")           # of StyleGAN2: on parts of the data, on all of it


def biggan_cifar() -> list[Target]:
    """Table 1, the BigGAN and CR-BigGAN rows of tables 3, 5 and 6, and figure 8a."""
    out = []
    for row, figures in TABLE_1.items():
        for groups, (inception, fid) in zip(POLICIES, figures):
            lines = NO_AUG if row == "baseline" else (*policy(groups), *PLACES[row])
            out += row_of("diffaugment/1", row, f"CIFAR-10, {groups.replace(',', '+')}", MEAN_OF_5, TWO_GPUS, lines,
                          {"IS": inception, "FID": fid}, SCORES, source="cifar10", against="cifar10:test")
    out += chain.from_iterable(cifar(row, BIGGAN_KIMG, TWO_GPUS, lines) for row, lines in BIGGAN_ROWS.items())
    for row, value in (("BigGAN", 29.02), ("BigGAN + DiffAugment", 21.57)):
        lines = (*BIGGAN_ROWS[row]("10%"), *HALF, f"train.kimg={BIGGAN_KIMG['CIFAR-10'][2]}")
        out += of_tenth("8a", f"{row}, a quarter of the size", lines, {"FID": value}, TWO_GPUS)
    return out


def stylegan2_cifar() -> list[Target]:
    """The StyleGAN2 rows of tables 3, 5 and 6, and figure 8b."""
    out = (cifar("StyleGAN2", None, FOUR_GPUS, lambda share: NO_AUG)
           + cifar("StyleGAN2 + DiffAugment", None, FOUR_GPUS, lambda share: PLAINER if share == "100%" else STRONGEST))
    for gamma, value in R1_SWEEP.items():
        lines = NO_AUG if gamma == 0.1 else (*NO_AUG, f"terms.r1.gamma={gamma:g}")
        cost = FOUR_GPUS + {0.1: "; table 5 has 36.02 for this setting", 1e4: "; the best at 440k, worse after that"}.get(gamma, "")
        out += of_tenth("8b", f"StyleGAN2, R1 of {gamma:g}", lines, {"FID": value}, cost)
    return out


def of_tenth(table: str, row: str, lines: tuple[str, ...], figures: Mapping[str, float], cost: str, waits: str = "") -> list[Target]:
    """A row of figures 8 and 10: 10 % of CIFAR-10, numbers in the text of section 4.4."""
    return row_of(f"diffaugment/{table}", row, "CIFAR-10 10%", MEAN_OF_5.replace(", mean of 5 evaluations", ""), cost, lines, figures, SCORES,
                  source="cifar10:10%", against="cifar10:test", waits=waits)


def imagenet() -> list[Target]:
    """Table 2. Learning rates of D: 5e-4 without DiffAugment, with it 4e-4 on all of the data and 2e-4 on parts of it. And appendix A.1."""
    parts = {"100%": ((), "4e-4"), "50%": (("data.max_images=640583", "train.kimg=614400"), "2e-4"),
             "25%": (("data.max_images=320291", "train.kimg=245760"), "2e-4")}
    out = []
    for row, figures in TABLE_2.items():
        for (share, (lines, lr)), (inception, fid) in zip(parts.items(), figures):
            mine = (*NO_AUG, "optim_d.lr=5e-4") if row == "BigGAN" else (f"optim_d.lr={lr}",)
            out += on_imagenet("2", row, share, {"IS": inception, "FID": fid}, (*mine, *lines))
    out += on_imagenet("A.1", "BigGAN, D's learning rate 2e-4", "50%", {"IS": 75.7, "FID": 10.79}, (*NO_AUG, "optim_d.lr=2e-4", *parts["50%"][0]))
    return out + on_imagenet("A.1", "CR-BigGAN", "100%", {"IS": 82.0, "FID": 7.95}, (*CR_PLAIN, "optim_d.lr=5e-4"),
                             "; weight and D's learning rate aren't stated, here those of the rows on CIFAR and of BigGAN")


def on_imagenet(table: str, row: str, share: str, figures: Mapping[str, Figure], lines: tuple[str, ...] = (), said: str = "",
                waits: str = "") -> list[Target]:
    protocol = ("50,000 generated images against the 50,000 validation images, no truncation; the snapshot of best FID, mean of 3 evaluations; "
                "TensorFlow's Inception")
    return row_of(f"diffaugment/{table}", row, f"ImageNet {share}", protocol, f"at most 3 days on a TPU v2/v3 pod of 128 cores{said}", lines, figures,
                  {"IS": "is50k", "FID": "fid50k_test"}, against="validation", waits=waits)


def released_few(data: str) -> tuple[str, ...]:
    """What turns the recipe into the release's run on a set of few images."""
    return ("train.kimg=500",) if data.startswith("AnimalFace") else ()


def released_many(data: str, images: int | None) -> tuple[str, ...]:
    """Likewise on FFHQ or LSUN Cat, by the release's script for FFHQ: half the feature maps, batch 32, 25,000 kimg, R1 of 1 by the augmented image.
    FFHQ's own images of 256 pixels are box-filtered."""
    return ("g.channel_base=16384", "d.channel_base=16384", "train.batch=32", "train.kimg=25000", "terms.r1.gamma=1", "terms.r1.at=x_in",
            *(("data.filter=box",) if data.startswith("FFHQ") else ()), *((f"data.max_images={images}",) if images else ()))


def few_shot() -> list[Target]:
    """Table 4's rows without pretraining, and the figures of the released models."""
    out = []
    for table, values, cost in (("diffaugment/4", TABLE_4, "4 GPUs, at most 10k iterations on the 100-shot sets and 20k on AnimalFace"),
                                ("diffaugment/released", RELEASED, "300 kimg on the 100-shot sets and 500 on AnimalFace")):
        for row, figures in values.items():
            for data, fid in zip(FEW, figures):
                lines = (("train.batch=32", "train.kimg=640", "terms.r1.gamma=1") if data.startswith("AnimalFace") else
                         ("train.batch=32", "train.kimg=320"))
                lines = lines if table == "diffaugment/4" else released_few(data)
                out += row_of(table, row, data, BEST_5K, cost, (*plain(row), *lines), {"FID": fid}, {"FID": "fid5k_train"})
    for row, by_set in RELEASED_MANY.items():
        for data, fid in by_set.items():
            size = data.split()[-1]
            lines = released_many(data, None if size == "70k" else 1000 * int(size.removesuffix("k")))
            out += row_of("diffaugment/ffhq", row, data, OF_ALL, "8 GPUs" + ("" if data.startswith("FFHQ") else "; the settings of FFHQ's script"),
                          (*plain(row), *lines), {"FID": fid}, {"FID": "fid50k_full"})
    return out


def plain(row: str) -> tuple[str, ...]:
    return NO_AUG if row == "StyleGAN2" else ()


def pretrained() -> list[Target]:
    """Table 4's rows that start from a generator of faces."""
    cost = "1 GPU, at most 10k iterations on the 100-shot sets and 20k on AnimalFace"
    return [t for row, figures in TABLE_4_PRETRAINED.items() for data, fid in zip(FEW, figures)
            for t in row_of("diffaugment/4", row, data, BEST_5K, cost, (), {"FID": fid}, {"FID": "fid5k_train"},
                            waits="transfer learning from a StyleGAN trained on FFHQ")]


def waiting() -> list[Target]:
    """Numbers in the text that no recipe serves: what it quotes from other papers (section 4.1, appendix A.1), and figure 10."""
    return [*on_imagenet("A.1", "CR-BigGAN, in its own paper", "100%", {"FID": 6.66}, said="; quoted", waits="the settings of CR-BigGAN's paper"),
            *on_imagenet("A.1", "BigGAN, in its own paper", "100%", {"FID": 8.7}, said="; quoted", waits="the settings of BigGAN's paper"),
            *of_tenth("10", "StyleGAN2, the best R1 for IS", NO_AUG, {"IS": 7.75}, FOUR_GPUS,
                      waits="the weight of R1 behind it, which the paper doesn't tell (it tried 0.1 to 10,000)")]


TARGETS = (*made_by("biggan_cifar", biggan_cifar()), *made_by("stylegan2_diffaug_cifar", stylegan2_cifar()),
           *made_by("biggan_imagenet", imagenet()), *made_by("stylegan2_diffaug_fewshot", few_shot()), *pretrained(), *waiting())
