"""One pass over a set of pictures for all metrics: each network sees each picture once, and keeps no more than is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..tensors import Header
from ._pictures import Pictures
from ._stats import Moments, Splits, Stats, in_first_half
from ._world import World

KEPT = 10_000                            # up to here the features themselves are kept (80 MB), for they serve everything


@dataclass
class Wanted:
    """Of one set through one network: features of the first `kept` pictures; sums over the first n, for each n."""

    kept: int = 0
    moments: set[int] = field(default_factory=set)
    splits: set[int] = field(default_factory=set)

    def add(self, what: str, n: int) -> None:
        if what == "features" or what == "moments" and n <= KEPT:
            self.kept = max(self.kept, n)
        elif what == "moments":
            self.moments.add(n)
        elif what == "splits":
            self.splits.add(n)

    @property
    def count(self) -> int:
        return max(self.kept, *self.moments, *self.splits, 0)

    def header(self, network: nn.Module) -> Header:
        """Dtype and shape of what `Seen.tensors` gives."""
        found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {"features": (torch.float32, (self.kept, network.dim))} if self.kept else {}
        for key in (f"{n}.{i}" for n in self.moments for i in range(2)):
            found |= {f"{key}.count": (torch.int64, ()), f"{key}.sum": (torch.float64, (network.dim,)),
                      f"{key}.outer": (torch.float64, (network.dim, network.dim))}
        return found


class Seen:
    """What came of it: features [kept,D] fp32 on the CPU, sums over two halves by n, splits by n."""

    def __init__(self, wanted: Wanted, network: nn.Module, share: range, device: torch.device) -> None:
        sums_on = device if device.type == "cuda" else "cpu"                 # Apple's GPU has no fp64
        # Under way, `features` are the rows of this process's share of the pictures.
        self.features = torch.empty(len(range(share.start, min(share.stop, wanted.kept))), network.dim)
        self.halves = {n: (Moments(network.dim, sums_on), Moments(network.dim, sums_on)) for n in wanted.moments}
        self.splits: dict[int, Splits] = {}
        if wanted.splits:
            classes = network.logits(torch.zeros(1, network.dim, device=device)).shape[1]
            self.splits = {n: Splits(n, classes) for n in wanted.splits}
        self._first_half = {n: in_first_half(n) for n in wanted.moments}

    def tensors(self) -> dict[str, Tensor]:
        """To be kept; `of` reads it. Without splits."""
        kept = {"features": self.features} if len(self.features) else {}
        for n, halves in self.halves.items():
            for i, m in enumerate(halves):
                kept |= {f"{n}.{i}.count": torch.tensor(m.count), f"{n}.{i}.sum": m.sum, f"{n}.{i}.outer": m.outer}
        return kept

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Seen:
        new = cls.__new__(cls)
        new.features, new.splits, new.halves = tensors.get("features", torch.empty(0, 0)), {}, {}
        for n in sorted({int(name.split(".")[0]) for name in tensors if "." in name}):
            halves = tuple(Moments(len(tensors[f"{n}.{i}.sum"])) for i in range(2))
            for i, m in enumerate(halves):
                m.count, m.sum, m.outer = int(tensors[f"{n}.{i}.count"]), tensors[f"{n}.{i}.sum"], tensors[f"{n}.{i}.outer"]
            new.halves[n] = halves
        return new

    def stats(self, what: str, n: int) -> Stats | None:
        """What a metric that takes `what` of the first n pictures computes with."""
        if what == "splits":
            return Stats(splits=self.splits[n])
        if what == "moments" and n in self.halves:
            return Stats(halves=self.halves[n])
        return Stats(features=self.features[:n]) if what else None

    def take(self, places: Tensor, features: Tensor, network: nn.Module, start: int) -> None:
        """places int64 [B] of the pictures in the whole set; features [B,D]; start: the first place of this process's share."""
        kept = places - start < len(self.features)
        self.features[places[kept] - start] = features[kept.to(features.device)].float().cpu()
        for n, halves in self.halves.items():
            inside, half = places < n, self._first_half[n][places.clamp(max=n - 1)]
            for part, moments in zip((inside & half, inside & ~half), halves):
                moments.add(features[part.to(features.device)])
        if self.splits:
            logits = network.logits(features)
            for n, splits in self.splits.items():
                inside = places < n
                splits.add(places[inside], logits[inside.to(logits.device)])

    def together(self, wanted: Wanted, total: int, world: World) -> None:
        """Joins what the processes have."""
        if wanted.kept:
            shares = [world.span(total, rank) for rank in range(world.size)]
            self.features = world.gathered(self.features, [len(range(s.start, min(s.stop, wanted.kept))) for s in shares])
        for halves in self.halves.values():
            for moments in halves:
                moments.settle()
                moments.count = int(world.summed(torch.tensor(moments.count)))
                moments.sum, moments.outer = world.summed(moments.sum), world.summed(moments.outer)
        for splits in self.splits.values():
            splits.probabilities, splits.negentropy = world.summed(splits.probabilities), world.summed(splits.negentropy)


@torch.no_grad()
def look(pictures: Pictures, wanted: dict[str, Wanted], networks: dict[str, nn.Module], *, batch: int, device: torch.device,
         world: World, progress: Callable[[int, int], None]) -> dict[str, Seen]:
    """Shows the first pictures to the networks, as many as each needs. All processes of `world` call it and get the same.

    networks: `handful.features.Extractor`s by name, with `logits` where splits are wanted. progress: called with (done, total) of
    this process's share.
    """
    total = max((w.count for w in wanted.values()), default=0)
    share = world.span(total)
    seen = {name: Seen(w, networks[name], share, device) for name, w in wanted.items()}
    done = 0
    progress(0, len(share))
    for part in world.parts(total, batch):
        for places, images in pictures.batches(part, batch):
            for name, w in wanted.items():
                if int(places.min()) < w.count:
                    seen[name].take(places, networks[name](images), networks[name], share.start)
        done += len(part)
        progress(done, len(share))
    for name, w in wanted.items():
        seen[name].together(w, total, world)
    return seen
