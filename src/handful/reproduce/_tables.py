"""The published tables, put together from the recipes' targets; and which of their figures have been measured here."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .. import catalog
from ..errors import HandfulError, NoPermission, UsageError, nearest
from ..files import parse_json, read_bounded
from ..recipes._targets import Target

RESULT = "result.json"                   # in the folder of a row's run
TWO_POINT = "diggan/two-point"
PAPERS = {
    "fastgan": "Liu, Zhu, Song, Elgammal: Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image Synthesis, ICLR 2021",
    "stylegan2-ada": "Karras et al.: Training Generative Adversarial Networks with Limited Data, NeurIPS 2020 (numbers are those of its figures)",
    "diffaugment": "Zhao, Liu, Lin, Zhu, Han: Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS 2020",
    "diggan": "Fang, Sun, Schwing: DigGAN: Discriminator gradient Gap Regularization for GAN Training with Limited Data, NeurIPS 2022",
    "insgen": "Yang, Shen, Xu, Zhou: Data-Efficient Instance Generation from Instance Discrimination, NeurIPS 2021",
    "r3gan": "Huang, Gokaslan, Kuleshov, Tompkin: The GAN is dead; long live the GAN! A Modern Baseline GAN, NeurIPS 2024"}
TITLES = {
    "fastgan/1": "cost of training", "fastgan/2": "few images, 256 pixels", "fastgan/3": "few images, 1024 pixels",
    "fastgan/4": "more images, 1024 pixels", "fastgan/5": "inversion of images into latents", "fastgan/6": "self-supervision of D",
    "stylegan2-ada/7c": "subsets of FFHQ and LSUN Cat", "stylegan2-ada/8a": "ways against overfitting, FFHQ",
    "stylegan2-ada/9a": "transfer to FFHQ, training curves", "stylegan2-ada/9b": "transfer to FFHQ with ADA, training curves",
    "stylegan2-ada/9c": "transfer to subsets of FFHQ", "stylegan2-ada/9d": "transfer between sets", "stylegan2-ada/11a": "small sets",
    "stylegan2-ada/11b": "CIFAR-10", "stylegan2-ada/12": "MetFaces, by transfer", "stylegan2-ada/13": "BreCaHAD", "stylegan2-ada/14": "AFHQ Cat",
    "stylegan2-ada/15": "AFHQ Dog", "stylegan2-ada/16": "AFHQ Wild", "stylegan2-ada/17": "CIFAR-10, the best models",
    "stylegan2-ada/18": "FFHQ, the best runs", "stylegan2-ada/19a": "BigGAN on subsets of FFHQ", "stylegan2-ada/19b": "BigGAN on subsets of LSUN Cat",
    "stylegan2-ada/FID-10k": "CIFAR-10 against its test images", "stylegan2-ada/cost": "the release's table of costs",
    "diffaugment/1": "CIFAR-10: where the augmentation acts", "diffaugment/2": "ImageNet at 128 pixels", "diffaugment/3": "CIFAR-10 and CIFAR-100",
    "diffaugment/4": "few images, 256 pixels", "diffaugment/5": "CIFAR-10", "diffaugment/6": "CIFAR-100",
    "diffaugment/8a": "CIFAR-10: a smaller BigGAN", "diffaugment/8b": "CIFAR-10: stronger R1", "diffaugment/10": "CIFAR-10: stronger R1, its best IS",
    "diffaugment/A.1": "ImageNet: D's learning rate, CR, other papers", "diffaugment/released": "few images, the models that came with the code",
    "diffaugment/ffhq": "FFHQ and LSUN Cat, the models that came with the code",
    "diggan/1": "CIFAR-10", "diggan/2": "CIFAR-100", "diggan/3": "Tiny-ImageNet and CUB-200", "diggan/4": "few images, StyleGAN2-ADA",
    "diggan/5": "gradient regularisers", "diggan/6": "how reals and fakes are paired", TWO_POINT: "the experiment on two points: many seeds, plots",
    "insgen/1": "FFHQ, 256 pixels", "insgen/2": "AFHQ, 512 pixels", "insgen/3": "FFHQ, one part after the other",
    "r3gan/fid": "FID on CIFAR-10 and FFHQ"}
GIVEN = {                                # sets that handful doesn't know by name, by the beginning of theirs: what they are
    "100-shot-": "the 100 pictures of 256 pixels that came with DiffAugment", "AnimalFace-": "faces of cats or dogs, cut out at 256 pixels",
    "ImageNet": "the training images of ILSVRC 2012, a folder per class", "Tiny": "Tiny-ImageNet's 100,000 training images, a folder per class",
    "CUB": "the 5994 training images of CUB-200-2011, a folder per class", "FFHQ": "Flickr-Faces-HQ", "LSUN": "LSUN Cat, 200,000 images",
    "MetFaces": "1336 faces from works of art", "BreCaHAD": "1944 crops of breast cancer histology", "AFHQ": "animal faces, 512 pixels",
    "Art": "paintings", "Nature": "photographs of landscapes", "Flower": "flowers", "Pokemon": "drawn figures", "Anime": "drawn faces",
    "Skull": "pictures of skulls", "Shell": "pictures of shells", "64x64": "any pictures"}


@dataclass(frozen=True)
class Row:
    """A setting of a table on one set: what one run reproduces, with the figures that it aims at."""

    table: str
    name: str
    data: str
    recipe: str                          # "" where no recipe of this version serves it
    settings: tuple[str, ...]
    targets: tuple[Target, ...]

    @property
    def source(self) -> str:
        return self.targets[0].source

    @property
    def waits(self) -> str:
        return self.targets[0].waits

    @property
    def what(self) -> str:
        """What the user must give for it."""
        return next((f" ({text})" for name, text in GIVEN.items() if self.data.startswith(name)), "")


@cache
def rows() -> tuple[Row, ...]:
    """Every row of every table, in the order of the papers."""
    found: dict[tuple, list[Target]] = {}
    for recipe, target in _targets():
        found.setdefault((target.table, target.row, target.data, recipe, target.settings), []).append(target)
    order = list(TITLES)
    out = [Row(*key, tuple(targets)) for key, targets in found.items()]
    return tuple(sorted(out, key=lambda r: order.index(r.table) if r.table in order else len(order)))


def _targets() -> Iterator[tuple[str, Target]]:
    for name in (*catalog.names("recipes"), "_waiting"):
        module = importlib.import_module(f"handful.recipes.{name}")
        for target in getattr(module, "TARGETS", ()):
            yield "" if target.waits else name, target


def tables() -> list[str]:
    """The names of all tables and experiments, paper by paper."""
    return list(dict.fromkeys([r.table for r in rows()] + [TWO_POINT]))


def table(name: str) -> list[Row]:
    """The rows of a table, or of all tables of a paper. Raises UsageError with the nearest name."""
    found = [r for r in rows() if r.table == name or r.table.split("/")[0] == name]
    if not found:
        raise UsageError(f"unknown table '{name}'{nearest(name, [*tables(), *PAPERS])}")
    return found


def pick(found: Iterable[Row], name: str, data: str | None = None) -> Row:
    """The row of that name, on that set where it has several. Raises UsageError with the nearest names."""
    found = list(found)
    mine = [r for r in found if _same(r.name, name)]
    if not mine:
        raise UsageError(f"{found[0].table} has no row '{name}'{nearest(name, {r.name for r in found})}")
    if data is not None:
        fitting = [r for r in mine if _same(r.data, data)]
        if not fitting:
            raise UsageError(f"{mine[0].table}: '{mine[0].name}' has no column '{data}'{nearest(data, {r.data for r in mine})}")
        mine = fitting
    if len(mine) > 1:
        raise UsageError(f"{mine[0].table}: '{mine[0].name}' has {len(mine)} columns; name one with --data-set: {'; '.join(r.data for r in mine)}")
    return mine[0]


def _same(a: str, b: str) -> bool:
    return "".join(a.split()).lower() == "".join(b.split()).lower()


# ------------------------------------------------------------------------------------------------------------- what was measured


def setting(row: Row) -> dict[str, Any]:
    """What makes the rows of two tables one run: recipe, settings, images."""
    return {"recipe": row.recipe, "settings": list(row.settings), "set": row.source or row.data}


def results(out: Path) -> list[dict[str, Any]]:
    """Every result file under a folder that can be read."""
    found = []
    for path in sorted(out.rglob(RESULT)) if out.is_dir() else ():
        try:
            facts = parse_json(read_bounded(path), str(path), dict)
        except NoPermission:
            raise
        except HandfulError:
            continue
        if _sound(facts):
            found.append(facts)
    return found


def _sound(facts: Mapping[str, Any]) -> bool:
    """Whether it is what `reproduce` writes."""
    kinds = {"setting": dict, "found": dict, "share": int | float, "other": list, "seed": int}
    return all(isinstance(facts.get(key), kind) for key, kind in kinds.items()) and isinstance(facts.get("records", []), list) and all(
        isinstance(scores, dict) and all(isinstance(scores.get(key, 0.0), int | float) for key in ("value", "std", "recall", "stderr"))
        for scores in facts["found"].values())


def value_of(target: Target, found: Mapping[str, Any]) -> float | None:
    """A target's figure among the results of `evaluate`; None where it isn't there."""
    name, _, key = target.metric.partition("/")
    value = found.get(name, {}).get(key or "value")
    return None if value is None else value * target.times


def measured(target: Target, row: Row, among: Iterable[Mapping[str, Any]]) -> str:
    """What was measured for a target, in words: "23.1 (1% of the schedule)"; "-" where nothing was. A * marks settings that aren't the row's."""
    by_share: dict[tuple[float, bool], list[float]] = {}
    for facts in among:
        value = value_of(target, facts["found"])
        if value is not None and facts["setting"] == setting(row):
            by_share.setdefault((facts["share"], bool(facts["other"])), []).append(value)
    parts = []
    for (share, other), values in sorted(by_share.items(), reverse=True):
        text = f"{sum(values) / len(values):.4g}{'*' if other else ''}"
        about = [f"{100 * share:.3g}% of the schedule"] if share != 1 else []
        about += [f"mean of {len(values)} seeds"] if len(values) > 1 else []
        parts.append(text + (f" ({', '.join(about)})" if about else ""))
    return "; ".join(parts) or "-"
