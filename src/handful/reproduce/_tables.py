"""The published tables as rows, each of which one run reproduces; and which of their figures have been measured here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import HandfulError, NoPermission, UsageError, nearest
from ..files import parse_json, read_bounded
from . import published
from ._target import Target

RESULT = "result.json"                   # in the folder of a row's run
TWO_POINT = "diggan/two-point"
PAPERS = {name: paper.CITATION for name, paper in published.PAPERS.items()}
TITLES = {f"{name}/{number}": title for name, paper in published.PAPERS.items() for number, title in paper.TITLES.items()}
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
    for t in published.targets():
        found.setdefault((t.table, t.row, t.data, t.recipe, t.settings), []).append(t)
    order = list(TITLES)
    out = [Row(*key, tuple(targets)) for key, targets in found.items()]
    return tuple(sorted(out, key=lambda r: order.index(r.table) if r.table in order else len(order)))


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
