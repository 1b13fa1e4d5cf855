"""A folder or zip, decoded once into a `Dataset`; and a look at the headers alone."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from statistics import median_low
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from handful.data.containers import Source, common_folder
from handful.data.dataset import Dataset
from handful.data.decode import Facts, Preparation, header, picture, pixels
from handful.data.groups import read_groups
from handful.data.labels import read_labels
from handful.data.memory import free_memory
from handful.data.problems import Problem, attempt, count, show
from handful.data.sources import open_source
from handful.data.stores import Mapped, Memory, cache_folder, read_cached, write_description
from handful.data.threads import in_threads
from handful.errors import HandfulError, UsageError
from handful.rng import derive

if TYPE_CHECKING:
    from handful.config import Data

Progress = Callable[[int, int], None]


@dataclass
class Scan:
    """What a look at the headers says. `sizes` are (width, height) after EXIF orientation, `median_size` their medians."""

    path: str
    sizes: list[tuple[int, int]] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)
    animated: int = 0
    classes: dict[str, int] = field(default_factory=dict)         # images of each class, by its name
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def class_names(self) -> list[str]:
        return list(self.classes)

    @property
    def count(self) -> int:
        """Images that seem usable."""
        return len(self.sizes)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def median_size(self) -> tuple[int, int]:
        return median_low(w for w, _ in self.sizes), median_low(h for _, h in self.sizes)


def scan(path: str | os.PathLike, *, labels: str | os.PathLike | None = None, labels_required: bool = False) -> Scan:
    """Reads the headers of all images, no pixels. `labels` as in `load`.

    Raises HandfulError when DATA isn't there, holds no image, holds no usable image, or has no labels where they are required.
    """
    with open_source(path) as source:
        source.require_images()
        found = read_labels(source, labels)
        notes = source.notes() + found.notes
        result = Scan(source.path, classes=found.counts(), problems=list(source.problems), notes=notes)

        def take(name: str, facts: Facts | Problem) -> None:
            if isinstance(facts, Problem):
                result.problems.append(facts)
                if found.numbers is not None:
                    result.classes[found.class_names[found.numbers[name]]] -= 1
                return
            result.sizes.append(facts.size)
            result.modes[facts.mode] += 1
            result.animated += facts.animated

        in_threads(lambda name: attempt(source, name, header), source.names, take)
        if not result.sizes:
            raise refusal(result.problems, len(result.problems), source.path)
        if labels_required and not result.class_names:
            raise HandfulError(f"'{source.path}' has no labels; put each class into a folder of its own, or give a CSV file")
        return result


def relabelled(scanned: Scan, path: str | os.PathLike, labels: str | os.PathLike | None) -> Scan:
    """A scan of the same DATA with other labels, without looking at the images again (so unusable ones are counted in their class)."""
    with open_source(path) as source:
        return replace(scanned, classes=read_labels(source, labels).counts())


def load(
    path: str | os.PathLike,
    *,
    resolution: int | tuple[int, int],
    channels: int = 3,
    fit: str = "crop",
    filter: str = "lanczos",
    labels: str | os.PathLike | None = None,
    groups: str | os.PathLike | None = None,
    max_images: int | None = None,
    first: bool = False,
    seed: int = 0,
    skip_bad: bool = False,
    window: tuple[float, float] | None = None,
    memory: str = "auto",
    cache_dir: str | os.PathLike | None = None,
    progress: Progress | None = None,
    min_images: int = 2,
) -> Dataset:
    """Decodes a folder, a zip or a set by name ("cifar10:10%") into a `Dataset`. Nothing of the source is changed.

    resolution: pixels of a side, or (height, width).
    fit: crop (centre), pad (mid-grey), stretch, or zoomed (a crop whose size is drawn for each image by the seed and its name, once, since images
    are decoded once). filter: lanczos, box, bicubic, bilinear, nearest or bilinear_tf1 (TensorFlow 1's, not antialiased); it moves FID.
    labels: None, "auto", "folders", "json" or a CSV file (see `read_labels`).
    groups: None, a regular expression on file names or a CSV file (see `read_groups`): what `Dataset.split` keeps together.
    max_images: a subset by `seed`, drawn as the official StyleGAN2-ADA datasets do; with first=True the first ones in the order of names.
    skip_bad: leave unusable files out instead of refusing.
    window: (black, white) values of 16-bit and float greyscale; by default the full range 0..65535.
    memory: "ram"; "map" (a file in cache_dir, by default $HANDFUL_CACHE/datasets or ~/.cache/handful/datasets, found again by the
    bytes of the source's files); "auto": "ram" when the images take less than half of the free memory.
    progress: called with (done, total).
    Decoding holds half of the free memory at most, and no more than 4 GB: images that need more are decoded one at a time.

    Raises HandfulError in one line: no images, fewer than min_images, unusable files without skip_bad (all of them counted), labels
    or groups that don't fit, a full disk. Raises UsageError for a setting that makes no sense.
    """
    preparation = Preparation.of(resolution, channels, fit, filter, window)
    if preparation.resolution is None:
        raise UsageError("resolution is missing; give the pixels of a side, or (height, width)")
    if memory not in ("auto", "ram", "map"):
        raise UsageError(f"memory must be auto, ram or map, not '{memory}'")
    with open_source(path) as source:
        source.require_images()
        found = read_labels(source, labels)
        names = subset(source.names, max_images, seed, first)
        shape = (channels, *preparation.resolution)
        if memory == "auto":
            memory = "ram" if len(names) * int(np.prod(shape)) < free_memory() // 2 else "map"
        numbers = None if found.numbers is None else [found.numbers[name] for name in names]
        grouped, note = (None, "") if groups is None else read_groups(source, groups)
        notes = source.notes() + found.notes + ([note] if note else [])
        cached = None
        if memory == "map":
            about = [numbers, found.class_names, skip_bad] + ([] if grouped is None else [[grouped[name] for name in names]])
            about += [f"seed {seed}"] if fit == "zoomed" else []
            cached = cache_folder(cache_dir) / f"{_key(source, names, preparation, *about)}.npy"
            kept = read_cached(cached, shape)
            if kept is not None:
                return _dataset(*kept, found.class_names, True, min_images, source.path)
        store = Memory(len(names), shape) if cached is None else Mapped(cached, len(names), shape)
        try:
            said = _decode(source, names, preparation, seed, store, skip_bad, progress)
            said["labels"] = None if numbers is None else [found.numbers[name] for name in said["names"]]
            said["groups"] = None if grouped is None else [grouped[name] for name in said["names"]]
            said["fingerprint"] = _fingerprint(said, said.pop("digests"), preparation, found.class_names)
            said["notes"] = notes + said["notes"]
            rows = store.finish()
            if cached is not None:
                write_description(cached, said)
        except BaseException:
            store.discard()
            raise
        return _dataset(rows, said, found.class_names, cached is not None, min_images, source.path)


def load_for(data: Data, seed: int, **more: Any) -> Dataset:
    """`load`, as a run's settings say (`config.data`, `config.seed`): the same images, prepared in the same way. more: as in `load`."""
    dataset = load(data.path, resolution=data.resolution, channels=data.channels, fit=data.fit, filter=data.filter, labels=data.labels,
                   groups=data.groups, max_images=data.max_images, first=data.subset == "first", seed=seed, skip_bad=data.skip_bad,
                   window=data.window, **more)
    if data.groups is not None and not data.holdout:
        dataset.notes.append("data.groups does nothing without data.holdout: no image is held out")
    return dataset


def subset(names: list[str], max_images: int | None, seed: int, first: bool = False) -> list[str]:
    """At most `max_images` names: shuffled by legacy NumPy RandomState(seed), the first kept and sorted, as StyleGAN2-ADA does; with `first` not
    shuffled."""
    if max_images is None or max_images >= len(names):
        return list(names)
    if max_images < 1:
        raise UsageError(f"max_images must be 1 or more, not {max_images}")
    if first:
        return names[:max_images]
    index = np.arange(len(names))
    np.random.RandomState(seed % 2**32).shuffle(index)
    return [names[i] for i in np.sort(index[:max_images])]


def _decode(source: Source, names: list[str], preparation: Preparation, seed: int, store, skip_bad: bool, progress: Progress | None) -> dict:
    problems, kept, digests, facts = list(source.problems), [], [], []
    shared = len(common_folder(source.names))  # so that a zip and its folder have the same draws

    def work(name: str):
        def prepare(file):
            image, about = picture(file, preparation, derive(seed, "zoomed", name[shared:]))
            row = pixels(image)
            return row, about, hashlib.sha256(row).digest()

        return attempt(source, name, prepare)

    def take(name: str, result) -> None:
        if isinstance(result, Problem):
            problems.append(result)
            return
        row, about, digest = result
        if skip_bad or not problems:  # after the first bad file the rest is only looked at
            store.add(row)
        kept.append(name)
        facts.append(about)
        digests.append(digest)

    in_threads(work, names, take, progress)
    if problems and (not kept or not skip_bad):
        raise refusal(problems, len(names) + len(source.problems), source.path)
    notes = notes_of(facts, preparation)
    if len(set(digests)) < len(digests):
        repeated = count(len(digests) - len(set(digests)), "image")
        notes.append(f"repeated pixel for pixel: {repeated}; `handful data check` names them")
    if problems:
        notes.append(f"skipped {count(len(problems), 'unusable file')}: {_some(problems)}")
    return {"names": kept, "digests": digests, "notes": notes}


def notes_of(facts: list[Facts], preparation: Preparation) -> list[str]:
    """What was done to the images beyond resizing, each said once."""
    notes = []
    if animated := sum(about.animated for about in facts):
        notes.append(f"{count(animated, 'animated or many-page file')}: the first frame is taken")
    if transparent := sum(about.transparent for about in facts):
        notes.append(f"{count(transparent, 'image')} with transparency: laid over white")
    if preparation.resolution and (enlarged := sum(about.enlarged for about in facts)):
        height, width = preparation.resolution
        notes.append(f"{count(enlarged, 'image')} smaller than {width}x{height}: enlarged, a lower resolution may look better")
    peaks = [about.peak for about in facts if about.peak is not None]
    if peaks and preparation.window is None:
        highest = f"the largest value is {max(peaks):g}; data.window changes it"
        notes.append(f"{count(len(peaks), '16-bit image')}: scaled by the full range 0..65535 ({highest})")
    elif peaks:
        low, high = preparation.window
        notes.append(f"{count(len(peaks), '16-bit or float image')}: scaled from {low:g}..{high:g}")
    return notes


def _fingerprint(said: dict, digests: list[bytes], preparation: Preparation, class_names: list[str]) -> str:
    """sha256 over the settings and each image's name (below the folder that all share), label and pixels; over groups where there are any."""
    total = hashlib.sha256(json.dumps(["handful-data-1", asdict(preparation), class_names]).encode())
    shared = len(common_folder(said["names"]))
    for name, label, digest in zip(said["names"], said["labels"] or [None] * len(digests), digests):
        total.update(json.dumps([name[shared:], label]).encode() + digest)
    if said["groups"] is not None:  # they decide what is held out
        total.update(json.dumps(["groups", said["groups"]]).encode())
    return total.hexdigest()


def _key(source: Source, names: list[str], preparation: Preparation, *more) -> str:
    """Names a cached file by the bytes of the files themselves, which takes a hundredth of decoding them."""
    about = ["handful-cache-1", asdict(preparation), names, [str(problem) for problem in source.problems], *more]
    total = hashlib.sha256(json.dumps(about).encode())
    in_threads(
        lambda name: attempt(source, name, lambda file: hashlib.file_digest(file, "sha256").digest()),
        names,
        lambda name, digest: total.update(str(digest).encode()),
    )
    return total.hexdigest()[:32]


def _dataset(rows: np.ndarray, said: dict, class_names: list[str], mapped: bool, min_images: int, path: str) -> Dataset:
    if len(rows) < min_images:
        only = "only 1 usable image" if len(rows) == 1 else f"only {len(rows)} usable images"
        raise HandfulError(f"{only} in '{path}'; training needs at least {min_images}, and 50 or more for good results")
    labels = None if said["labels"] is None else torch.tensor(said["labels"], dtype=torch.int64)
    groups = None if said.get("groups") is None else torch.tensor(said["groups"], dtype=torch.int64)
    return Dataset(torch.from_numpy(rows), labels, class_names, said["names"], said["fingerprint"], said["notes"], mapped, groups=groups)


def refusal(problems: list[Problem], total: int, path: str) -> HandfulError:
    """One line for the files that can't be used, out of `total`."""
    listing = f"`handful data check {shlex.quote(path)}` lists them all"
    if len(problems) == total:
        return HandfulError(f"not one of {count(total, 'image')} in '{path}' can be used: {_some(problems)}; {listing} with a remedy")
    faults = f"{len(problems)} of {count(total, 'image')} in '{path}' can't be used: {_some(problems)}"
    return HandfulError(f"{faults}; {listing}, --skip-bad goes on without them")


def _some(problems: list[Problem]) -> str:
    return ", ".join(f"{show(p.name)} ({p.fault})" for p in problems[:3]) + (", ..." if len(problems) > 3 else "")
