"""`handful data prepare`: a folder or zip of ready PNGs with a dataset.json, readable by the official StyleGAN2-ADA tools too."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from handful.data.decode import Facts, Preparation, picture
from handful.data.labels import read_labels
from handful.data.loading import notes_of, refusal
from handful.data.problems import Problem, attempt
from handful.data.sources import open_source
from handful.data.threads import in_threads
from handful.errors import HandfulError, UsageError


@dataclass
class Prepared:
    """What `prepare` wrote."""

    path: str
    count: int = 0
    class_names: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def prepare(
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    resolution: int | tuple[int, int],
    fit: str = "crop",
    filter: str = "lanczos",
    labels: str | os.PathLike | None = None,
    channels: int = 3,
    skip_bad: bool = False,
    window: tuple[float, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Writes DATA, cropped and resized, to OUT: a folder, or an uncompressed zip when OUT ends with .zip. Keywords as in `load`.

    Files are `00000/img00000000.png` ... and a dataset.json with {"labels": [[name, number], ...] or null} (the official format)
    and, under keys of our own, "class_names", "source_names" (what each picture was called) and "preparation". OUT appears whole
    or not at all. Raises HandfulError when OUT is there already (an empty folder may be) or lies inside DATA, when the disk is
    full, and where `load` does.
    """
    preparation = Preparation.of(resolution, channels, fit, filter, window)
    if preparation.resolution is None:
        raise UsageError("resolution is missing; give the pixels of a side, or (height, width)")
    target = Path(os.path.expanduser(out))
    with open_source(path) as source:
        _refuse_target(target, Path(os.path.expanduser(path)))
        source.require_images()
        found = read_labels(source, labels)
        result = Prepared(os.fspath(out), class_names=found.class_names, problems=list(source.problems))
        pairs: list[list] = []
        kept: list[str] = []
        facts: list[Facts] = []
        writer = (_ZipWriter if target.suffix.lower() == ".zip" else _FolderWriter)(target)

        def work(name: str):
            return attempt(source, name, lambda file: _encoded(*picture(file, preparation)))

        def take(name: str, done) -> None:
            if isinstance(done, Problem):
                result.problems.append(done)
                return
            if result.problems and not skip_bad:
                return  # nothing will be kept: only look for more bad files
            encoded, about = done
            member = f"{len(kept) // 1000:05d}/img{len(kept):08d}.png"
            writer.write(member, encoded)
            pairs.append([member, found.numbers[name] if found.numbers is not None else None])
            kept.append(name)
            facts.append(about)

        try:
            in_threads(work, source.names, take, progress)
            if result.problems and (not kept or not skip_bad):
                raise refusal(result.problems, len(source.names) + len(source.problems), source.path)
            about = {"resolution": preparation.resolution, "fit": fit, "filter": filter, "window": preparation.window}
            said = {"labels": pairs if found.numbers is not None else None, "class_names": found.class_names}
            writer.write("dataset.json", json.dumps(said | {"source_names": kept, "preparation": about}).encode())
            writer.finish()
        except OSError as error:
            fault = f"can't write '{out}' ({error.strerror or error})"
            raise HandfulError(f"{fault}; nothing was kept, make room or choose another OUT") from None
        finally:
            writer.discard()
    result.count = len(kept)
    result.notes = source.notes() + found.notes + notes_of(facts, preparation)
    height, width = preparation.resolution
    if height != width or height & (height - 1):
        result.notes.append(f"{width}x{height}: the official StyleGAN2-ADA tools need a square with a power of two a side")
    return result


def _encoded(image: Image.Image, about: Facts) -> tuple[bytes, Facts]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # half the size of level 0, which the official tool writes, at little cost
    return buffer.getvalue(), about


def _refuse_target(target: Path, data: Path) -> None:
    if os.path.isdir(target) and target.suffix.lower() != ".zip":
        if any(target.iterdir()):
            raise HandfulError(f"'{target}' is there already and not empty; choose another OUT, or remove it first")
    elif os.path.exists(target):
        raise HandfulError(f"'{target}' is there already; choose another OUT, or remove it first")
    if os.path.isdir(data) and target.resolve().is_relative_to(data.resolve()):
        raise HandfulError(f"OUT '{target}' lies inside DATA '{data}'; choose a place outside, so that DATA stays as it is")


class _FolderWriter:
    def __init__(self, target: Path):
        self.target = target
        self.temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        self.made: set[Path] = set()

    def write(self, name: str, content: bytes) -> None:
        path = self.temporary / name
        if path.parent not in self.made:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.made.add(path.parent)
        path.write_bytes(content)

    def finish(self) -> None:
        if self.target.is_dir():
            self.target.rmdir()  # empty, as checked: Windows can't rename over it
        os.replace(self.temporary, self.target)

    def discard(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)


class _ZipWriter:
    def __init__(self, target: Path):
        self.target = target
        self.temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        self.zip: zipfile.ZipFile | None = None

    def write(self, name: str, content: bytes) -> None:
        if self.zip is None:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.zip = zipfile.ZipFile(self.temporary, "w", zipfile.ZIP_STORED)
        self.zip.writestr(zipfile.ZipInfo(name), content)  # ZipInfo: a fixed date, so that equal data make equal zips

    def finish(self) -> None:
        self.zip.close()
        os.replace(self.temporary, self.target)

    def discard(self) -> None:
        if self.zip is not None:
            try:
                self.zip.close()
            except OSError:
                pass  # a full disk: the file goes anyway
        self.temporary.unlink(missing_ok=True)
