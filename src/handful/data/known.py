"""Sets that DATA may call by name: `cifar10`, `cifar10:10%`, `cifar10:test`, and so cifar100."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from handful.data import records
from handful.data.cifar import PIXELS, SIDE, Cifar
from handful.data.containers import Source
from handful.data.problems import show
from handful.errors import UsageError


@dataclass(frozen=True)
class Selection:
    """What a name asks for: a part ("train" or "test") and how many of it; of the training images the first `count` of the drawn order."""

    known: Cifar
    part: str
    count: int

    @property
    def whole(self) -> bool:
        return self.count == self.known.sizes[self.part]


def parse(typed: str) -> Selection | None:
    """What a name of a set stands for; None for anything else. Raises UsageError for a set's name followed by what isn't there."""
    name, colon, which = typed.partition(":")
    if (known := records.SETS.get(name)) is None:
        return None
    if not colon or which in known.sizes:
        part = which or "train"
        return Selection(known, part, known.sizes[part])
    share = re.fullmatch(r"(\d{1,9}(?:\.\d*)?|\.\d+)%", which)
    count = round(float(share[1]) / 100 * known.sizes["train"]) if share else 0
    if not 0 < count <= known.sizes["train"]:
        raise UsageError(f"'{show(typed)}': after '{name}:' comes a share of the training images, above 0% and up to 100%, or train or test; "
                         f"write {name}, {name}:10% or {name}:test")
    return Selection(known, "train", count)


def rows(selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Records uint8 [N, 1 + 3072] of a selection, mapped, and each one's place in its part, int64 [N]. Fetches the set where it isn't here."""
    known, part, count = selection.known, selection.part, selection.count
    parts = [part, "drawn"] if part == "train" and count <= known.count_of("drawn") else [part]

    def look() -> tuple[str, Path] | None:
        return next(((p, path) for p in parts if (path := records.find(known, p))), None)

    found, path = records.obtained(known, look)
    if selection.whole:
        return records.mapped(path), np.arange(count)
    places = known.order()[:count]
    return records.mapped(path)[:count] if found == "drawn" else records.mapped(path)[places], places


class Records(Source):
    """A selection's pictures under the names train/CLASS/INDEX.png, INDEX being the place in the official order."""

    kind = "records"

    def __init__(self, path: str, selection: Selection):
        super().__init__(path)
        known = selection.known
        self._rows, places = rows(selection)
        named = [f"{selection.part}/{known.classes[label]}/{place:05d}.png" for label, place in zip(self._rows[:, 0].tolist(), places.tolist())]
        self._row = {name: i for i, name in enumerate(named)}
        self.names = sorted(named)
        self.classes = {name: int(self._rows[i, 0]) for name, i in self._row.items()}, list(known.classes)
        what = "training" if selection.part == "train" else "test"
        share = f"{selection.count} of its {known.sizes['train']} training images, drawn by numpy's seed 0 as DiffAugment's release does"
        self.said = [f"{known.said}: {f'its {selection.count} {what} images' if selection.whole else share}"]
        self.test = "test" if selection.part == "train" else None

    def open(self, name: str) -> BinaryIO:
        pixels = self._rows[self._row[name], 1:].reshape(3, SIDE, SIDE).transpose(1, 2, 0)
        return io.BytesIO(b"P6 %d %d 255\n" % (SIDE, SIDE) + pixels.tobytes())       # PPM: what needs no decoding

    def size(self, name: str) -> int:
        return PIXELS

    def read_extra(self, name: str) -> bytes | None:
        return None
