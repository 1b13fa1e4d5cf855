"""One call of `evaluate`: the sets are opened, each picture is looked at once, the metrics computed."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .. import config as config_module
from ..data import Dataset, test_of
from ..data import load as load_data
from ..errors import HandfulError, UsageError
from ..features import available
from ..features.extractor import extractor as pretrained
from ..infer.model import Model, load
from . import _cache, _sets
from ._given import SAYS, Given
from ._metric import Job, Metric, Resources
from ._pass import Seen, Wanted, look
from ._pictures import Drawn, Held, Pictures
from ._pretrained import pretrained_networks, said, second_spaces
from ._protocols import FRESH, protocol
from ._world import World

REALS = "looking at the reals"            # the stage, in words
Progress = Callable[[str, int, int, float | None], None]
Which = tuple[str, bool]                 # "all", "train", "test"; mirrored?


@dataclass
class Clock:
    """Tells a progress callback of each stage how long it will yet take."""

    progress: Progress | None

    def stage(self, name: str) -> Callable[[int, int], None]:
        started = time.monotonic()

        def tick(done: int, total: int) -> None:
            if self.progress:
                self.progress(name, done, total, (time.monotonic() - started) / done * (total - done) if done else None)

        return tick


@dataclass
class Session:
    """One call of `evaluate`, from opening to the last metric."""

    metrics: dict[str, Metric]
    samples: int | None
    device: torch.device
    batch: int
    world: World
    clock: Clock
    cache: bool
    memory_mb: int
    stack: ExitStack                         # what is to be closed or put back after the call
    second_space: bool = False               # see `evaluate`
    reported: bool = False                   # see `_protocols.reported`
    model: Model | None = None
    fakes: Pictures | None = None
    reals: dict[Which, Pictures] = field(default_factory=dict)
    networks: dict[str, nn.Module] = field(default_factory=dict)
    seen: dict[tuple[Which | str, str], Seen] = field(default_factory=dict)          # by set ("fakes" or which reals) and network
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)                 # reals, fakes
    notes: dict[str, str] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)                             # see Resources
    used: dict[str, list[str]] = field(default_factory=dict)                         # pretrained networks of the run, see `_pretrained`
    twins: dict[str, dict[str, str]] = field(default_factory=dict)                   # metric -> second space -> its twin's name among `metrics`
    missing: dict[str, str] = field(default_factory=dict)                            # metric -> weights of a second space that aren't here

    def open(self, model, data, res, truncation, statistics, skip_bad, say, heldout: Dataset | str | None = None, trust=(), first: int = 0) -> None:
        """Finds the fakes and, for each kind of reals that is wanted, the reals."""
        if isinstance(model, str | os.PathLike) and _sets.is_model(model):
            model = load(model, self.device, trust)
        reading = self.clock.stage("reading DATA")
        if isinstance(model, Model):
            if res is not None:
                raise UsageError("--res is for two folders; with a model the images are prepared at its own size")
            self.model = model
            self.used = pretrained_networks(config_module.to_tree(model.config)) if self.second_space else {}
            wanted = {m.reals for m in self.metrics.values()}
            sets = _sets.beside_model(model, data, wanted, skip_bad, reading, say)
            if heldout is not None and "test" in wanted:
                sets["test"] = load_data(heldout, progress=reading, **_sets.as_trained(model)) if isinstance(heldout, str) else heldout
            self.fakes = Drawn(model, sets["all"], truncation, statistics or model.config.evaluate.statistics, first)
        else:
            if self.reported:
                raise UsageError("--reported is for a model: of pictures nobody knows by which seeds they were made")
            if statistics is not None:
                raise UsageError(f"--statistics {statistics} is about a model's batch norm; pictures are compared as they are")
            self.fakes, whole = (_sets.opened(given, res, skip_bad, self.stack, reading, given is data) for given in (model, data))
            sets = dict.fromkeys(("all", "train", "test"), whole)
            other = None if isinstance(data, Tensor | Dataset) else test_of(data)
            if other and any(m.reals == "test" for m in self.metrics.values()):
                sets["test"] = _sets.opened(other, res, skip_bad, self.stack, reading, True)
        for m in self.metrics.values():
            mirrored = m.flips == "yes" or m.flips == "trained" and self.model is not None and self.model.config.data.flip
            m.flips = "yes" if mirrored else "no"
            found = sets[m.reals]
            if isinstance(found, Dataset):
                found = Held(found, mirrored)
            elif mirrored:
                raise UsageError("flips=yes needs --res: files at their own sizes are compared as they are")
            self.reals.setdefault(self._which(m), found)

    def plan(self, extractor: str | nn.Module | None, resize: str | None) -> None:
        """How many pictures each metric takes, and the networks: whatever is missing is said before any picture is looked at."""
        self._plan(self.metrics, extractor, resize)
        if self.used:
            self._plan(self._twins(), None, None)

    def _twins(self) -> dict[str, Metric]:
        """The metrics of features once more, in the spaces that the run did not use. They stand among the others, so that one pass serves all."""
        made: dict[str, Metric] = {}
        for name, m in self.metrics.items():
            if m.alone or m.takes[1] == "splits":            # those are defined by one network
                continue
            spaces, self.missing[name] = self.world.from_first(second_spaces(self.used, m.extractor, available))
            self.twins[name] = {space: f"{name} by {space}" for space in spaces}
            for space, twin in self.twins[name].items():
                made[twin] = copy.copy(m)
                made[twin].extractor = space
        self.metrics |= made
        return made

    def _plan(self, metrics: dict[str, Metric], extractor: str | nn.Module | None, resize: str | None) -> None:
        for name, m in metrics.items():
            if m.alone:
                m.prepare(self._job(name), name)
                continue
            self.counts[name] = m.counts(self.reals[self._which(m)].count, self.fakes.count, self.samples, name)
            m.enough(*self.counts[name], name)
            if self.samples and m.samples not in (None, self.samples):
                self.notes[name] = f"the name fixes {m.samples} samples, not {self.samples}"
            own = m.extractor
            if isinstance(extractor, nn.Module) and not all(hasattr(extractor, word) for word in SAYS):
                extractor = self._found_out(extractor, self.reals[self._which(m)])
            m.extractor = own if extractor is None else extractor if isinstance(extractor, str) else extractor.name
            if m.extractor not in self.networks:
                given = isinstance(extractor, nn.Module)
                self.networks[m.extractor] = extractor.to(self.device) if given else self._pretrained(m.extractor, resize)
            network = self.networks[m.extractor]
            if m.takes[1] == "splits":
                if not hasattr(network, "logits"):
                    why = f"the classes of inception, which '{m.extractor}' doesn't know"
                    raise HandfulError(f"{name} is defined by {why}; leave --features out")
                network.logits(torch.zeros(1, network.dim, device=self.device))      # raises where its weights are missing
            if protocol(name) and (m.extractor != own or resize not in (None, "official")):
                before = f"{self.notes[name]}; " if name in self.notes else ""
                self.notes[name] = f"{before}not with the network and resizing that {name} is defined with"
            m.announce(Resources(shared=self.shared), self._key(name))

    def _found_out(self, network: nn.Module, reals: Pictures) -> Given:
        """Somebody's network with the name and digest that it lacks, in eval mode until the call is over."""
        modes = [(m, m.training) for m in network.modules()]
        self.stack.callback(lambda: [setattr(m, "training", mode) for m, mode in modes])
        _, picture = next(iter(reals.batches([0], 1)))
        return Given(network.to(self.device).eval(), picture.to(self.device))

    def _pretrained(self, name: str, resize: str | None) -> nn.Module:
        if resize is not None and name != "inception":
            raise UsageError(f"--resize {resize}: inception alone can be resized for in two ways, not '{name}'")
        return pretrained(name, self.device, **({} if resize is None else {"resize": resize}))

    def look(self) -> None:
        """One pass over each set of reals, less what the cache holds, and one over the fakes."""
        for which, pictures in self.reals.items():
            stage = REALS + ("" if which == ("all", False) else f" ({which[0]}{', mirrored' if which[1] else ''})")
            self._look(stage, which, pictures, self._wanted(which))
        self._look("sampling and looking" if self.model else "looking at the pictures", "fakes", self.fakes, self._wanted("fakes"))

    def ahead(self) -> dict[str, tuple[int, int]]:
        """How many (fakes, reals) each network would be shown by `look`."""
        found = {name: [w.count, 0] for name, w in self._wanted("fakes").items()}
        for which, pictures in self.reals.items():
            for name, w in self._wanted(which).items():
                kept = self._keeps(name) and _cache.path_of(self._statistics(pictures, name, w)).is_file()
                found[name][1] += 0 if kept else w.count
        return {name: (fakes, reals) for name, (fakes, reals) in found.items()}

    def _wanted(self, which: Which | str) -> dict[str, Wanted]:
        """What the metrics want of one set, by network."""
        wanted: dict[str, Wanted] = {}
        side = int(which == "fakes")
        for name, m in self.metrics.items():
            if not m.alone and which in ("fakes", self._which(m)) and m.takes[side]:
                wanted.setdefault(m.extractor, Wanted()).add(m.takes[side], self.counts[name][side])
        return wanted

    def _look(self, stage: str, which: Which | str, pictures: Pictures, wanted: dict[str, Wanted]) -> None:
        lasting = which != "fakes"
        names = {n: self._statistics(pictures, n, w) for n, w in wanted.items() if lasting and self._keeps(n)}
        found = {n: _cache.read(parts, wanted[n].header(self.networks[n])) for n, parts in names.items()} if self.world.rank == 0 else {}
        found = self.world.from_first(found)                 # one process decides for all
        for n in [n for n in names if found[n] is not None]:
            self.seen[which, n] = Seen.of(found[n])
            del wanted[n]
        if wanted:
            new = look(pictures, wanted, self.networks, batch=self.batch, device=self.device, world=self.world,
                       progress=self.clock.stage(stage))
            for n, seen in new.items():
                self.seen[which, n] = seen
                if n in names and self.world.rank == 0:
                    _cache.write(names[n], seen.tensors())

    def _keeps(self, network: str) -> bool:
        return self.cache and getattr(self.networks[network], "lasting", True)

    def _statistics(self, pictures: Pictures, network: str, wanted: Wanted) -> list[Any]:
        return self._cache_name(pictures, network, wanted.kept, sorted(wanted.moments))

    def _cache_name(self, pictures: Pictures, network: str, *more: Any) -> list[Any]:
        net = self.networks[network]
        return [pictures.fingerprint, net.name, net.digest, net.resize, *more]

    def scores(self) -> dict[str, dict[str, Any]]:
        """All results, keyed as asked."""
        twins = {twin for named in self.twins.values() for twin in named.values()}
        return {name: self._with_second(name, self._score(name)) for name in self.metrics if name not in twins}

    def _with_second(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        """A result with what has to stand beside it where the run used pretrained networks."""
        if not self.used:
            return found
        second = {space: self._score(twin) for space, twin in self.twins.get(name, {}).items()}
        figure = self.metrics[name].extractor or next(iter(self.metrics[name].weights), "")
        note = said(self.used, figure, second, self.missing.get(name, ""))
        return found | {"pretrained": {"networks": list(self.used), "note": note}} | ({"second": second} if second else {})

    def _score(self, name: str) -> dict[str, Any]:
        m = self.metrics[name]
        which = self._which(m)
        if m.alone:
            return m.run(self._job(name))
        n_real, n_fake = self.counts[name]
        network = self.networks[m.extractor]
        resources = self._resources(m, self.clock.stage(name))
        real = self.seen[which, m.extractor].stats(m.takes[0], n_real) if m.takes[0] else None
        found = m.compute(real, self.seen["fakes", m.extractor].stats(m.takes[1], n_fake), resources, self._key(name))
        note = "; ".join(filter(None, [found.pop("note", ""), self.notes.get(name, "")]))
        how = f"; {self.fakes.manner}" if self.fakes.manner else ""
        if self.reported:
            how += f"; seeds {FRESH} to {FRESH + n_fake - 1}, which no choice used"
        about = {"better": m.better, "protocol": f"{m.words(n_real, n_fake)}; {network.name}, {network.resize}{how}",
                 "count_real": n_real if m.takes[0] else 0, "count_fake": n_fake,
                 **({"model_images_seen": self.model.images_seen} if self.model else {}),
                 "resize": network.resize, "extractor": network.name, "extractor_digest": network.digest}
        return {**found, **about, **({"note": note} if note else {})}

    def _job(self, name: str) -> Job:
        labels = self.fakes.labels if isinstance(self.fakes, Drawn) else lambda seeds: None
        reals = self.reals[self._which(self.metrics[name])]
        return Job(self.model, reals, self.fakes, labels, self.device, self.batch, self.world, self.clock.stage(name))

    def _resources(self, m: Metric, tick: Callable[[int, int], None]) -> Resources:
        pictures = self.reals[self._which(m)]

        def kept(parts: list[Any], make: Callable[[], float]) -> float:
            place = self._cache_name(pictures, m.extractor, *parts)
            found = _cache.read(place, {"value": (torch.float64, ())}) if self._keeps(m.extractor) else None
            if found is None:
                found = {"value": torch.tensor(make(), dtype=torch.float64)}
                if self._keeps(m.extractor) and self.world.rank == 0:
                    _cache.write(place, found)
            return float(found["value"])

        computing = torch.device("cpu") if self.device.type == "mps" else self.device        # fp64 is needed
        return Resources(computing, self.memory_mb, tick, self.shared, kept)

    def _key(self, name: str) -> Any:
        """Metrics with the same key compute from the same features."""
        m = self.metrics[name]
        return m.extractor, self._which(m), self.counts[name]

    @staticmethod
    def _which(m: Metric) -> Which:
        return m.reals, m.flips == "yes"
