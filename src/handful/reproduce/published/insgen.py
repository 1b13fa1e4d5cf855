"""The tables of InsGen (Yang, Shen, Xu, Zhou, NeurIPS 2021). recipes/insgen.py says what the paper leaves open about the settings.

The release recommends a p that rises along a straight line below 5000 images, which the rows on 2K have.

ADA's 3.88 on all of FFHQ in table 1 is the paper on ADA's figure, 3.76 in table 3 the authors' own run. DiffAugment's 7.86 on 10K is the one that
its release lists, and is run with its settings; of 24.32 on 2K neither settings nor source are told: here paper256 with DiffAugment in ADA's place.

Settings of the figures that have curves but no numbers: 3a, the length of the fakes' queue: --set terms.insgen.queue_fake=N; 3b, extremely few
images: --set data.max_images=N with N of 100, 250, 500, 1000.
"""

from __future__ import annotations

from ...recipes.insgen import FEW_KIMG
from .._target import Target, made_by, row_of
from . import diffaugment
from .stylegan2_ada import CONFIG_F, FFHQ_SIZES, FIG_8A, METRICS, SIZES, ffhq

CITATION = "Yang, Shen, Xu, Zhou: Data-Efficient Instance Generation from Instance Discrimination, NeurIPS 2021"
TITLES = {"1": "FFHQ, 256 pixels", "2": "AFHQ, 512 pixels", "3": "FFHQ, one part after the other"}
OF_FFHQ = "50,000 generated images against all 70,000 of FFHQ, whatever the subset trained on; 140k are the 70,000 mirrored"
OF_AFHQ = "50,000 generated images against the whole training set"
COST = "8 GPUs with mixed precision, time not stated"
QUOTED = COST + "; quoted from the paper on ADA"

TABLE_1 = {"ADA": (15.60, 7.29, 3.88), "InsGen": (11.92, 4.90, 3.31)}             # at SIZES; what it quotes is in FIG_8A
TABLE_1_DIFFAUGMENT = 24.32                   # on 2K; that on 10K is the figure of DiffAugment's release
TABLE_2 = {"StyleGAN2": (5.13, 19.4, 3.48), "ContraD": (3.82, 7.16, 2.54), "ADA": (3.55, 7.40, 3.05), "InsGen": (2.60, 5.44, 1.77)}
TABLE_3_ADA = (15.60, 7.29, 3.76)
TABLE_3 = {                                   # what turns InsGen into the row; FID at SIZES, the last of which is there called 70K
    "C_D^r": (("terms.insgen.weight_fake=0", "terms.insgen.weight_g=0"), (14.15, 5.98, 3.56)),
    "C_D^r + C_D^f without perturbation": (("terms.insgen.weight_g=0", "terms.insgen.perturb_std=0", "terms.insgen.perturb=same"),
                                           (13.46, 5.68, 3.67)),
    "C_D^r + C_D^f": (("terms.insgen.weight_g=0",), (12.19, 5.30, 3.49)),
    "C_D^r + C_D^f + C_G^f": ((), (11.92, 4.90, 3.31))}
AFHQ = ("AFHQ Cat (5153)", "AFHQ Dog (4739)", "AFHQ Wild (4738)")
MANY_KIMG = 25_000
COLUMNS = {"2k": ("terms.ada_controller.statistic=linear", f"terms.ada_controller.length_kimg={FEW_KIMG}"),     # else the recipe is made for it
           "10k": ("terms.r1.gamma=0.3", f"train.kimg={MANY_KIMG}"),
           "140k": ("terms.r1.gamma=0.8", f"train.kimg={MANY_KIMG}")}


def cell(table: str, row: str, data: str, fid: float, settings: tuple[str, ...], protocol: str = OF_FFHQ, cost: str = COST) -> list[Target]:
    return row_of(f"insgen/{table}", row, data, protocol, cost, settings, {"FID": fid}, METRICS)


def mirrored(size: str) -> tuple[str, ...]:
    """A column for paper256, with every image mirrored too."""
    return ffhq(size) if FFHQ_SIZES[size] is None else (*ffhq(size), "data.flip=true")


def paper256() -> list[Target]:
    """ADA and its rivals in tables 1 and 3."""
    out = []
    for row, (lines, fids) in FIG_8A.items():
        if row not in ("WGAN-GP", "spectral norm", "ADA"):
            name = "StyleGAN2" if row == "baseline" else row
            out += [t for size, (fid, _) in zip(SIZES, fids) for t in cell("1", name, f"FFHQ {size}", fid, (*lines, *ffhq(size)), cost=QUOTED)]
    lines = ("augment=diffaug", "augment.policy=color,translation,cutout", "terms.ada_controller=null", *ffhq("2k"))
    out += cell("1", "DiffAugment", "FFHQ 2k", TABLE_1_DIFFAUGMENT, lines, OF_FFHQ + "; settings not stated")
    for table, figures in (("1", TABLE_1["ADA"]), ("3", TABLE_3_ADA)):
        out += [t for size, fid in zip(SIZES, figures) for t in cell(table, "ADA", f"FFHQ {size}", fid, mirrored(size))]
    return out


def insgen256() -> list[Target]:
    """InsGen on FFHQ: table 1's last row, table 3 but for ADA."""
    rows = [("1", "InsGen", (), TABLE_1["InsGen"]), *(("3", row, lines, fids) for row, (lines, fids) in TABLE_3.items())]
    return [t for table, row, lines, fids in rows for size, fid in zip(SIZES, fids)
            for t in cell(table, row, f"FFHQ {size}", fid, (*ffhq(size), *COLUMNS[size], *lines))]


def afhq(row: str, *settings: str, cost: str = COST) -> list[Target]:
    """A row of table 2."""
    lines = ("data.resolution=512", "data.flip=true", *settings)
    return [t for data, fid in zip(AFHQ, TABLE_2[row]) for t in cell("2", row, data, fid, lines, OF_AFHQ, cost)]


def paper512() -> list[Target]:
    """ADA and ContraD in table 2. ContraD's batch, length and mirroring aren't stated; its contrast is over the whole batch, so that isn't cut."""
    warm_up = 3000 * 64 / 1000
    contrad = ("augment=simclr", "augment.form=hq", "terms.contrad.hidden=512", "terms.ada_controller=null", "terms.path_length=null",
               "terms.r1.at=x_in", f"optim_g.warmup_kimg={warm_up:g}", f"optim_d.warmup_kimg={warm_up:g}", "train.micro_batch=null")
    return [*afhq("ADA", cost=QUOTED), *afhq("ContraD", *contrad, cost=COST + "; quoted from the paper on ContraD")]


def released() -> list[Target]:
    """What table 1 quotes from DiffAugment's release: 10,000 images of FFHQ."""
    fid = diffaugment.RELEASED_MANY["StyleGAN2 + DiffAugment"]["FFHQ 10k"]
    return cell("1", "DiffAugment", "FFHQ 10k", fid, diffaugment.released_many("FFHQ", 10_000), diffaugment.OF_ALL,
                "the figure that DiffAugment's release lists, on 8 GPUs")


TARGETS = (*made_by("insgen256", insgen256()), *made_by("insgen512", afhq("InsGen")), *made_by("paper256", paper256()),
           *made_by("paper512", paper512()), *made_by("stylegan2", afhq("StyleGAN2", *CONFIG_F, cost=QUOTED)),
           *made_by("stylegan2_diffaug_fewshot", released()))
