"""Sets of pictures that can be looked at in any part: a data set in memory, files at their own sizes, samples of a model.

Every set has one fixed order, drawn at random: its first n are a fair choice. Reals are ordered by their contents before that, so that neither
names nor places of the files have a say: statistics kept under the contents' fingerprint are those of the very same pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..data import Dataset
from ..data.decode import Preparation, picture, pixels
from ..data.loading import refusal
from ..data.problems import Problem, attempt
from ..data.sources import open_source
from ..data.threads import in_threads
from ..infer.model import Model, SeedRng, to_uint8
from ..nn.norm import batch_statistics
from ..rng import derive
from . import _cache

Batches = Iterator[tuple[Tensor, Tensor]]


class Pictures(Protocol):
    """count: how many there are, None for as many as one wants. fingerprint: of the pixels alone, None where they aren't lasting.
    manner: how they were made, in words, where there is more than one way."""

    count: int | None
    fingerprint: str | None
    manner: str

    def batches(self, at: Sequence[int], batch: int) -> Batches:
        """The pictures at these places, in batches of one size: (places int64 [B], uint8 or fp32 [B,C,H,W] in 0..255)."""
        ...


def shuffled(n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive("metrics", "order", n)))


def digests(images: Iterable[np.ndarray]) -> list[bytes]:
    """16 bytes for each picture [C,H,W]: of its pixels and its shape, nothing else."""
    return [hashlib.blake2b(np.ascontiguousarray(x), digest_size=16, key=repr(x.shape).encode()).digest() for x in images]


def in_order(found: Sequence[bytes]) -> list[int]:
    """Places in the order of the pictures' contents, whatever their names and wherever they lie."""
    return sorted(range(len(found)), key=found.__getitem__)


class Held:
    """A data set in memory; mirrored: each picture and its mirror image. Its order is one of content."""

    manner = ""
    _known = WeakIdKeyDictionary()                           # images -> their digests: a run asks again with every evaluation

    def __init__(self, dataset: Dataset, mirrored: bool = False) -> None:
        self.dataset, self._mirrored = dataset, mirrored
        self.count = len(dataset) * (2 if mirrored else 1)

    @cached_property
    def _digests(self) -> list[bytes]:
        images, rows = self.dataset.images, self.dataset.rows
        if images not in self._known:
            self._known[images] = [digest for part in images.split(256) for digest in digests(part.cpu().numpy())]
        found = self._known[images]
        return found if rows is None else [found[row] for row in rows.tolist()]

    @cached_property
    def order(self) -> Tensor:
        """int64 [count]: which picture stands at each place; from len(dataset) on they are mirror images."""
        places = torch.tensor(in_order(self._digests))
        return (torch.cat([places, places + len(places)]) if self._mirrored else places)[shuffled(self.count)]

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"".join([*sorted(self._digests), b"mirrored" if self._mirrored else b""])).hexdigest()

    def batches(self, at: Sequence[int], batch: int) -> Batches:
        images, rows, n = self.dataset.images, self.dataset.rows, len(self.dataset)
        for places in torch.as_tensor(at, dtype=torch.int64).split(batch):
            index = self.order[places]
            inside = index % n if rows is None else rows.cpu()[index % n]
            part = images.index_select(0, inside.to(images.device))
            mirror = (index >= n).to(part.device)
            yield places, torch.where(mirror[:, None, None, None], part.flip(3), part) if self._mirrored else part


class Filed:
    """Files of a folder or a zip at their own sizes, decoded as they are wanted. Raises HandfulError for one that can't be used.

    by_content: their order is one of content, which takes a look at all of them; else one of their names.
    """

    manner = ""

    def __init__(self, path: str | os.PathLike, by_content: bool = False) -> None:
        self.source = open_source(path)
        self.source.require_images()
        if self.source.problems:
            raise refusal(self.source.problems, len(self.source.names) + len(self.source.problems), self.source.path)
        self.count, self._by_content = len(self.source.names), by_content

    @cached_property
    def names(self) -> list[str]:
        """In the order of the set."""
        order = in_order(self._digests) if self._by_content else range(self.count)
        return [self.source.names[order[i]] for i in shuffled(self.count)]

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"".join(sorted(self._digests))).hexdigest()

    @cached_property
    def _digests(self) -> list[bytes]:
        """Of the pixels of each file. What a file's bytes decode to is kept: reading them takes a hundredth of decoding them."""
        of_bytes: list[bytes] = []
        hashed = lambda name: attempt(self.source, name, lambda file: hashlib.file_digest(file, "sha256").digest())
        in_threads(hashed, self.source.names, lambda name, digest: of_bytes.append(str(digest).encode()))
        order = in_order(of_bytes)
        place = ["pixels of files", hashlib.sha256(b"".join(of_bytes[i] for i in order)).hexdigest()]
        kept = _cache.read(place, {"digests": (torch.uint8, (self.count, 16))})
        if kept is None:
            found: list[bytes] = []
            in_threads(lambda i: digests([self._decoded(self.source.names[i])])[0], range(self.count), lambda i, digest: found.append(digest))
            _cache.write(place, {"digests": torch.frombuffer(bytearray(b"".join(found[i] for i in order)), dtype=torch.uint8).view(-1, 16)})
            return found
        of_pixels = [row.tobytes() for row in kept["digests"].numpy()]
        return [of_pixels[rank] for rank in np.argsort(order)]

    def batches(self, at: Sequence[int], batch: int) -> Batches:
        places = list(at)
        for start in range(0, len(places), batch):
            some = places[start:start + batch]
            groups: dict[tuple, list[tuple[int, np.ndarray]]] = {}
            decoded: list[tuple[int, np.ndarray]] = []
            in_threads(lambda place: self._decoded(self.names[place]), some, lambda *found, to=decoded: to.append(found))
            for place, rows in decoded:
                groups.setdefault(rows.shape, []).append((place, rows))
            for group in groups.values():
                yield torch.tensor([place for place, _ in group]), torch.from_numpy(np.stack([pixels for _, pixels in group]))

    def _decoded(self, name: str) -> np.ndarray:
        found = attempt(self.source, name, lambda file: pixels(picture(file, Preparation.of(None))[0]))
        if isinstance(found, Problem):
            raise refusal([found], self.count, self.source.path)
        return found


class Drawn:
    """Samples of a model: the picture at place i is that of seed first + i, of the class of a random image of the data set.

    statistics: "standing", batch norm as people's samples have it; "batch", that of each `evaluate.together` samples (seeds 0 .. 49, 50 .. 99, ...),
    so that a picture still depends on its seed alone. Pictures are uint8, as people get them, or with the model's `evaluate.rounded=false` fp32.
    """

    count = fingerprint = None

    def __init__(self, model: Model, data: Dataset | None, truncation: float = 1.0, statistics: str = "standing", first: int = 0) -> None:
        self.model, self.truncation, self.first = model, truncation, first
        self.classes = _classes(model, data)                 # int64 [images with a class of the model], or None
        normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.generator.modules())
        self.statistics = statistics if normed else ""       # without batch norm there is no difference
        self.rounded, self.together = model.config.evaluate.rounded, model.config.evaluate.together
        self._made: tuple[int, Tensor] = (-1, torch.empty(0))

    @property
    def manner(self) -> str:
        norm = {"": "", "standing": "batch norm with standing statistics", "batch": f"batch norm over each {self.together} samples"}[self.statistics]
        return "; ".join(filter(None, [norm, "" if self.rounded else "samples not rounded to 8 bits"]))

    def labels(self, seeds: Sequence[int]) -> Tensor | None:
        """c int64 [N]: as the data's labels are distributed; the classes in turn where the data has none."""
        if self.classes is None:
            return self.model.label(None, list(seeds))
        found = [int(self.classes[derive("metrics", "label", seed) % len(self.classes)]) for seed in seeds]
        return torch.tensor(found, device=self.model.device)

    def batches(self, at: Sequence[int], batch: int) -> Batches:
        seeds = list(at)
        if self.statistics == "batch":
            for number, some in groupby(seeds, lambda seed: seed // self.together):
                if self._made[0] != number:
                    self._made = number, self._pictures(list(range(number * self.together, (number + 1) * self.together)))
                yield (places := torch.tensor(list(some))), self._made[1][places % self.together]
            return
        for start in range(0, len(seeds), batch):
            some = seeds[start:start + batch]
            yield torch.tensor(some), self._pictures(some)

    @torch.inference_mode()
    def _pictures(self, places: list[int]) -> Tensor:
        """uint8 [N,C,H,W], or fp32 in 0..255."""
        seeds = [self.first + place for place in places]
        rng, G = SeedRng(seeds, self.model.device), self.model.generator
        with batch_statistics(G) if self.statistics == "batch" else nullcontext():
            image = G.sample(self.model.latents(seeds), self.labels(seeds), rng=rng, truncation=self.truncation)
        if not self.rounded:
            return (image.float() * 127.5 + 127.5).clamp(0, 255)
        return torch.from_numpy(np.ascontiguousarray(to_uint8(image).transpose(0, 3, 1, 2)))


def _classes(model: Model, data: Dataset | None) -> Tensor | None:
    """The data's labels as class numbers of the model, by their names."""
    if model.generator.num_classes == 0 or data is None or data.labels is None:
        return None
    known = {name: i for i, name in enumerate(model.class_names)}
    number = torch.tensor([known.get(name, -1) for name in data.class_names])
    found = number[data.labels.cpu()]
    return found[found >= 0] if (found >= 0).any() else None
