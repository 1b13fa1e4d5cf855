"""What all metrics share: how many images of which set they take, and how they are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import HandfulError, UsageError
from ..features import weights
from ..infer.model import Model
from ._pictures import Pictures
from ._stats import Stats
from ._world import World

REALS = ("all", "train", "test")
FLIPS = ("no", "yes", "trained")


@dataclass
class Resources:
    """Where and with how much a metric computes. memory_mb: of blocks of a matrix between all images; progress: called with (done,
    total).

    shared: what metrics on the same features can use of each other's work. kept(parts, make): a number that depends on the reals
    alone, made or remembered.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory_mb: int = 256
    progress: Callable[[int, int], None] = lambda done, total: None
    shared: dict[Any, Any] = field(default_factory=dict)
    kept: Callable[[list[Any], Callable[[], float]], float] = lambda parts, make: make()


@dataclass
class Job:
    """What a metric gets that makes its own pictures. model: None for a folder; labels: classes of samples by seed; batch: images
    at once."""

    model: Model | None
    reals: Pictures
    fakes: Pictures
    labels: Callable[[Sequence[int]], Tensor | None]
    device: torch.device
    batch: int
    world: World
    progress: Callable[[int, int], None]


@dataclass
class Metric:
    """A metric. Its settings are its protocol.

    samples: how many fakes; none: chosen for the size of the set. max_reals: at most so many reals. reals: "all" of DATA, "train"
    what the model was trained on, "test" what it never saw. flips: "no", "yes" reals and their mirror images, "trained" as in
    training. extractor: a feature network of `handful.features.extractor`; "" for none.
    """

    samples: int | None = None
    max_reals: int | None = None
    reals: str = "all"
    flips: str = "no"
    extractor: str = "inception"

    takes = ("features", "features")     # of the reals, of the fakes: "features", "moments" (a sum suffices), "splits", "" nothing
    better = "lower"
    least = 2                            # images of either set
    alone = False                        # True: makes its own images (`run`), no pass over features

    def __post_init__(self) -> None:
        for name, known in (("reals", REALS), ("flips", FLIPS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(known)}")

    def __call__(self, real: Tensor, fake: Tensor, resources: Resources | None = None) -> dict[str, Any]:
        """From features [N,D] and [M,D]: {"value", "protocol", "count_real", "count_fake", ...}. All of both are taken."""
        real, fake = Stats(features=real.detach().float().cpu()), Stats(features=fake.detach().float().cpu())
        self.enough(real.count, fake.count, type(self).__name__)
        found = self.compute(real, fake, resources or Resources())
        return {**found, "protocol": self.words(real.count, fake.count), "count_real": real.count, "count_fake": fake.count}

    def counts(self, reals: int, fakes: int | None, samples: int | None, name: str) -> tuple[int, int]:
        """How many of each set are taken. fakes: how many there are (None: as many as one wants); samples: as the user asked, or
        None.

        Raises HandfulError where a protocol's number can't be had.
        """
        if self.samples is not None and fakes is not None and fakes < self.samples:
            raise HandfulError(f"{name} takes {self.samples} samples, but there are {fakes}; plain ones take what there is")
        wanted = self.samples or samples or max(5000, min(reals, 50_000))
        return min(reals, self.max_reals or reals), wanted if fakes is None else min(wanted, fakes)

    def enough(self, reals: int, fakes: int, name: str) -> None:
        for n, what, taken in ((reals, "reals", self.takes[0]), (fakes, "samples", self.takes[1])):
            if taken and n < self.least:
                raise HandfulError(f"{name} needs at least {self.least} {what}, there {'is' if n == 1 else 'are'} {n}")

    def announce(self, resources: Resources, key: Any) -> None:
        """Called before any `compute`, so that metrics of the same features (`key`) can share their work."""

    def compute(self, real: Stats | None, fake: Stats, resources: Resources, key: Any = None) -> dict[str, Any]:
        """{"value": float, more}."""
        raise NotImplementedError

    @property
    def weights(self) -> list[str]:
        """What of `handful weights list` it needs."""
        return [] if self.alone else [weights.entry_of(self.extractor), *(["inception_logits"] if self.takes[1] == "splits" else [])]

    @property
    def pictures(self) -> int:
        """How many samples one that is `alone` makes for itself."""
        return 0

    def prepare(self, job: Job, name: str) -> None:
        """For a metric that is `alone`: whatever may be missing is said here, before any other metric has done its work."""

    def run(self, job: Job) -> dict[str, Any]:
        """For a metric that is `alone`: the whole result."""
        raise NotImplementedError

    def words(self, reals: int, fakes: int) -> str:
        """The protocol in words, without the extractor."""
        whose = {"all": "reals", "train": "training images", "test": "unseen reals"}[self.reals]
        return f"{fakes} samples against {reals} {whose}{' and their mirror images' if self.flips == 'yes' else ''}"
