"""Sets of pictures that can be looked at in any part: a data set in memory, files at their own sizes, samples of a model.

Every set has one fixed order, drawn at random from its size: its first n are a fair choice whatever the order of the files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Dataset
from ..data.decode import Preparation, picture, pixels
from ..data.loading import refusal
from ..data.problems import Problem, attempt
from ..data.sources import open_source
from ..data.threads import in_threads
from ..infer.model import Model, SeedRng, to_uint8
from ..nn.norm import batch_statistics
from ..rng import derive

TOGETHER = 50                            # samples that share batch statistics, as in the evaluations of BigGAN, DiffAugment and DigGAN

Batches = Iterator[tuple[Tensor, Tensor]]


class Pictures(Protocol):
    """count: how many there are, None for as many as one wants. fingerprint: of the content and order, None where it isn't
    lasting. manner: how they were made, in words, where there is more than one way."""

    count: int | None
    fingerprint: str | None
    manner: str

    def batches(self, at: Sequence[int], batch: int) -> Batches:
        """The pictures at these places, in batches of one size: (places int64 [B], uint8 [B,C,H,W])."""
        ...


def shuffled(n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive("metrics", "order", n)))


class Held:
    """A data set in memory; mirrored: each picture and its mirror image."""

    manner = ""

    def __init__(self, dataset: Dataset, mirrored: bool = False) -> None:
        self.dataset = dataset
        self.count = len(dataset) * (2 if mirrored else 1)
        self.order = shuffled(self.count)
        self._mirrored = mirrored
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            total = hashlib.sha256(f"{self.dataset.fingerprint} {self._mirrored}".encode())
            rows = self.dataset.rows
            if not self.dataset.fingerprint:
                rows = torch.arange(len(self.dataset)) if rows is None else rows
                for part in rows.split(256):
                    total.update(self.dataset.images[part.to(self.dataset.images.device)].cpu().numpy().tobytes())
            elif rows is not None:
                total.update(rows.cpu().numpy().tobytes())
            self._fingerprint = total.hexdigest()
        return self._fingerprint

    def batches(self, at: Sequence[int], batch: int) -> Batches:
        images, rows, n = self.dataset.images, self.dataset.rows, len(self.dataset)
        for places in torch.as_tensor(at, dtype=torch.int64).split(batch):
            index = self.order[places]
            inside = index % n if rows is None else rows.cpu()[index % n]
            part = images.index_select(0, inside.to(images.device))
            mirror = (index >= n).to(part.device)
            yield places, torch.where(mirror[:, None, None, None], part.flip(3), part) if self._mirrored else part


class Filed:
    """Files of a folder or a zip at their own sizes, decoded as they are wanted. Raises HandfulError for one that can't be used."""

    manner = ""

    def __init__(self, path: str | os.PathLike) -> None:
        self.source = open_source(path)
        self.source.require_images()
        if self.source.problems:
            raise refusal(self.source.problems, len(self.source.names) + len(self.source.problems), self.source.path)
        self.names = [self.source.names[i] for i in shuffled(len(self.source.names))]
        self.count = len(self.names)
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """Over the bytes of the files, in order: reading them takes a hundredth of what a network takes to look at them."""
        if self._fingerprint is None:
            total = hashlib.sha256(b"files")
            of_file = lambda name: attempt(self.source, name, lambda file: hashlib.file_digest(file, "sha256").hexdigest())
            in_threads(of_file, self.names, lambda name, digest: total.update(str(digest).encode()))
            self._fingerprint = total.hexdigest()
        return self._fingerprint

    def batches(self, at: Sequence[int], batch: int) -> Batches:
        places = list(at)
        for start in range(0, len(places), batch):
            some = places[start:start + batch]
            groups: dict[tuple, list[tuple[int, np.ndarray]]] = {}
            decoded: list[tuple[int, np.ndarray]] = []
            in_threads(self._decoded, some, lambda *found, to=decoded: to.append(found))
            for place, rows in decoded:
                groups.setdefault(rows.shape, []).append((place, rows))
            for group in groups.values():
                yield torch.tensor([place for place, _ in group]), torch.from_numpy(np.stack([pixels for _, pixels in group]))

    def _decoded(self, place: int) -> np.ndarray:
        found = attempt(self.source, self.names[place], lambda file: pixels(picture(file, Preparation.of(None))[0]))
        if isinstance(found, Problem):
            raise refusal([found], self.count, self.source.path)
        return found


class Drawn:
    """Samples of a model: the picture at place i is that of seed i, of the class of a random image of the data set.

    statistics: "standing", batch norm as people's samples have it; "batch", that of each batch of TOGETHER samples (seeds 0 .. 49, 50 .. 99, ...),
    so that a picture still depends on its seed alone.
    """

    count = fingerprint = None

    def __init__(self, model: Model, data: Dataset | None, truncation: float = 1.0, statistics: str = "standing") -> None:
        self.model, self.truncation = model, truncation
        self.classes = _classes(model, data)                 # int64 [images with a class of the model], or None
        normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.generator.modules())
        self.statistics = statistics if normed else ""       # without batch norm there is no difference
        self._made: tuple[int, Tensor] = (-1, torch.empty(0))

    @property
    def manner(self) -> str:
        return {"": "", "standing": "batch norm with standing statistics", "batch": f"batch norm over each {TOGETHER} samples"}[self.statistics]

    def labels(self, seeds: Sequence[int]) -> Tensor | None:
        """c int64 [N]: as the data's labels are distributed; the classes in turn where the data has none."""
        if self.classes is None:
            return self.model.label(None, list(seeds))
        found = [int(self.classes[derive("metrics", "label", seed) % len(self.classes)]) for seed in seeds]
        return torch.tensor(found, device=self.model.device)

    def batches(self, at: Sequence[int], batch: int) -> Batches:
        seeds = list(at)
        if self.statistics == "batch":
            for number, some in groupby(seeds, lambda seed: seed // TOGETHER):
                if self._made[0] != number:
                    self._made = number, self._pictures(list(range(number * TOGETHER, (number + 1) * TOGETHER)))
                yield (places := torch.tensor(list(some))), self._made[1][places % TOGETHER]
            return
        for start in range(0, len(seeds), batch):
            some = seeds[start:start + batch]
            yield torch.tensor(some), self._pictures(some)

    @torch.inference_mode()
    def _pictures(self, seeds: list[int]) -> Tensor:
        """uint8 [N,C,H,W]"""
        rng, G = SeedRng(seeds, self.model.device), self.model.generator
        with batch_statistics(G) if self.statistics == "batch" else nullcontext():
            image = G.sample(self.model.latents(seeds), self.labels(seeds), rng=rng, truncation=self.truncation)
        return torch.from_numpy(np.ascontiguousarray(to_uint8(image).transpose(0, 3, 1, 2)))


def _classes(model: Model, data: Dataset | None) -> Tensor | None:
    """The data's labels as class numbers of the model, by their names."""
    if model.generator.num_classes == 0 or data is None or data.labels is None:
        return None
    known = {name: i for i, name in enumerate(model.class_names)}
    number = torch.tensor([known.get(name, -1) for name in data.class_names])
    found = number[data.labels.cpu()]
    return found[found >= 0] if (found >= 0).any() else None
