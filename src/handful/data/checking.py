"""`handful data check`: every bad file with its fault and remedy in one pass, duplicates, sizes, classes, a contact sheet."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from handful.data.decode import Facts, Preparation, picture
from handful.data.labels import read_labels
from handful.data.loading import notes_of
from handful.data.problems import Problem, attempt, count, show
from handful.data.similar import groups, near_pairs, thumbprint
from handful.data.sources import open_source
from handful.data.threads import in_threads
from handful.errors import UsageError
from handful.files import atomic

SHEET_IMAGES, SHEET_TILE = 100, 96


@dataclass
class Report:
    """What `check` found. `sizes` count (width, height) after EXIF orientation; `duplicates` and `near` are groups of names."""

    path: str
    names: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    classes: dict[str, int] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)
    near: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict:
        """For JSON."""
        return {
            "path": self.path,
            "usable": len(self.names),
            "problems": [vars(problem) for problem in self.problems],
            "sizes": [{"width": w, "height": h, "count": n} for (w, h), n in self.sizes.most_common()],
            "modes": dict(self.modes),
            "classes": self.classes,
            "duplicates": self.duplicates,
            "near_duplicates": self.near,
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """For people, the problems last: that is where the eye ends up."""
        common = ", ".join(f"{n} of {w}x{h}" for (w, h), n in self.sizes.most_common(3))
        rest = len(self.sizes) - 3
        lines = [f"{self.path}: {count(len(self.names), 'usable image')}, {len(self.problems)} that can't be used"]
        if self.sizes:
            widths, heights = [w for w, _ in self.sizes.elements()], [h for _, h in self.sizes.elements()]
            lines.append(f"sizes: {common}{f', and {rest} other sizes' if rest > 0 else ''}")
            lines.append(f"width {min(widths)} to {max(widths)}, height {min(heights)} to {max(heights)}")
            lines.append("modes: " + ", ".join(f"{n} {mode}" for mode, n in self.modes.most_common()))
        if self.classes:
            empty = sum(not n for n in self.classes.values())
            lines.append("classes: " + ", ".join(f"{show(name)} {n}" for name, n in self.classes.items() if n)
                         + (f"; {count(empty, 'class number')} without images" if empty else ""))
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"same pixels: {', '.join(map(show, group))}" for group in self.duplicates]
        lines += [f"nearly the same: {', '.join(map(show, group))}" for group in self.near]
        return lines + [f"bad: {problem}" for problem in self.problems]


def check(
    path: str | os.PathLike,
    *,
    resolution: int | tuple[int, int] | None = None,
    labels: str | os.PathLike | None = None,
    near: bool = True,
    sheet: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
    **preparation,
) -> Report:
    """Decodes every file of DATA and reports. Nothing of it is changed.

    resolution: what the images would be trained at, to hear how many are smaller. near: also look for near duplicates.
    sheet: a .png or .jpg to write, with up to 100 of the images. Other keywords: fit, filter, channels, window, as in `load`.
    Raises HandfulError when DATA isn't there or holds no image at all; bad files are in the report.
    """
    prepared = Preparation.of(resolution, **preparation)
    if sheet is not None and Path(sheet).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"the contact sheet '{sheet}' must end with .png or .jpg")
    with open_source(path) as source:
        source.require_images()
        found = read_labels(source, labels)
        report = Report(source.path, problems=list(source.problems))
        every = max(1, -(-len(source.names) // SHEET_IMAGES))
        on_sheet = set(source.names[::every]) if sheet is not None else set()
        digests: dict[bytes, list[str]] = {}
        facts: list[Facts] = []
        prints: list[np.ndarray] = []
        tiles: list[Image.Image] = []

        def work(name: str):
            def look(file):
                image, about = picture(file, prepared)
                digest = hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).digest()
                tile = image.copy() if name in on_sheet else None
                if tile is not None:
                    tile.thumbnail((SHEET_TILE, SHEET_TILE), reducing_gap=None)
                return about, digest, thumbprint(image) if near else None, tile

            return attempt(source, name, look)

        def take(name: str, result) -> None:
            if isinstance(result, Problem):
                report.problems.append(result)
                return
            about, digest, small, tile = result
            report.names.append(name)
            facts.append(about)
            report.sizes[about.size] += 1
            report.modes[about.mode] += 1
            digests.setdefault(digest, []).append(name)
            if small is not None:
                prints.append(small)
            if tile is not None:
                tiles.append(tile)

        in_threads(work, source.names, take, progress)
        if found.numbers is not None:
            counts = Counter(found.numbers[name] for name in report.names)
            report.classes = {name: counts[i] for i, name in enumerate(found.class_names)}
        report.notes = source.notes() + found.notes + notes_of(facts, prepared)
        report.duplicates = [names for names in digests.values() if len(names) > 1]
        if prints:
            report.near = _near(report, prints)
        if tiles and sheet is not None:
            _write_sheet(tiles, Path(sheet))
        return report


def _near(report: Report, prints: list[np.ndarray]) -> list[list[str]]:
    """Groups of near duplicates; of images with the same pixels only the first takes part."""
    repeated = {name for names in report.duplicates for name in names[1:]}
    names = [name for name in report.names if name not in repeated]
    unique = np.stack([small for name, small in zip(report.names, prints) if name not in repeated])
    return [[names[i] for i in group] for group in groups(near_pairs(unique))]


def _write_sheet(tiles: list[Image.Image], path: Path) -> None:
    columns = max(1, round(len(tiles) ** 0.5))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * SHEET_TILE, rows * SHEET_TILE), "white")
    for i, tile in enumerate(tiles):
        left, top = i % columns * SHEET_TILE, i // columns * SHEET_TILE
        sheet.paste(tile, (left + (SHEET_TILE - tile.width) // 2, top + (SHEET_TILE - tile.height) // 2))
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=90)
    atomic(path, lambda p: p.write_bytes(encoded.getvalue()))
