"""Which methods go together: every architecture with every term and augmentation, and every two terms, each run for some steps and judged.

tests/composing_page.py makes a page of it; tests/test_composition.py runs a sample anew and compares.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from handful import catalog
from handful.errors import HandfulError
from handful.training import choose
from handful.training.trainer import Trainer
from making import NARROW, TERMS_NEED, noise_set, run_steps, tiny_config

STEPS, SIDE, IMAGES, BATCH, CLASSES = 2, 32, 24, 4, 3
PAIRS_ON = ("stylegan2", "ada", False)                    # architecture, augmentation, labels
AXES = ("arch", "augment", "terms")

# So that each does something at once; whatever has a strength p is given 0.5 as well.
AT_ONCE: dict[str, dict[str, Any]] = {
    "lecam": {"start": 0}, "ada_controller": {"start": None, "kimg": 0.008, "interval": 1},      # p goes to 0 or 1 at once
    "reconstruction": {"loss": "pixel"}}                  # the weights of LPIPS may not be on this machine


@dataclass(frozen=True)
class Cell:
    """One combination; terms in the order of the configuration."""

    arch: str
    augment: str
    labels: bool
    terms: tuple[str, ...] = ()

    def without(self, term: str) -> Cell:
        return replace(self, terms=tuple(t for t in self.terms if t != term))

    def __str__(self) -> str:
        return " + ".join([self.arch, self.augment, "labels" if self.labels else "no labels", *self.terms])


@dataclass(frozen=True)
class Ran:
    """What became of a cell: the fault (refused: ..., fails: ...; empty where it ran), G's weights at the end, what was logged."""

    fault: str
    weights: Tensor | None = None
    log: Mapping[str, float] | None = None


# ------------------------------------------------------------------------------------------------------------------ running


def settings(kind: str, name: str) -> dict[str, Any]:
    """The keywords with which a method of the table is built."""
    more = {"use": name} | AT_ONCE.get(name, {})
    return ({"p": 0.5} if "p" in catalog.keywords(catalog.load(kind, more["use"])) else {}) | more


def needed(terms: Iterable[str]) -> tuple[str, ...]:
    """Settings of the run that the terms can't do without. Augmentations are an axis of the table, so none is put in."""
    return tuple(dict.fromkeys(s for t in terms for s in TERMS_NEED.get(t, []) if s.startswith(("data.", "train."))))


def build(cell: Cell, more: tuple[str, ...]) -> Trainer:
    narrow = NARROW.get(cell.arch, {"g": {}, "d": {}})
    config = tiny_config(f"data.resolution={SIDE}", f"train.batch={BATCH}", "data.path=photos", *more,
                         g={"use": cell.arch, **narrow["g"]}, d={"use": cell.arch, **narrow["d"]}, augment=settings("augment", cell.augment),
                         terms={t: settings("terms", t) for t in cell.terms})
    dataset = noise_set(IMAGES, CLASSES if cell.labels else 0, SIDE)
    choose.about_classes(config, {f"c{i}": IMAGES // CLASSES for i in range(CLASSES)} if cell.labels else {})
    return Trainer(config, dataset, torch.device("cpu"))


@lru_cache(maxsize=256)
def run(cell: Cell, more: tuple[str, ...] = ()) -> Ran:
    """more: settings beyond the cell's own."""
    try:
        trainer = build(cell, more)
    except HandfulError as error:
        return Ran(f"refused: {error}")
    except Exception as error:
        return Ran(f"fails: {type(error).__name__} when built: {error}")
    moving = {f"{part}.{k}": p for part, module in (("G", trainer.nets.G), ("D", trainer.nets.D), ("terms", trainer.terms))
              for k, p in module.named_parameters() if p.requires_grad}
    before = {k: p.detach().clone() for k, p in moving.items()}
    try:
        run_steps(trainer, STEPS)
        log = trainer.take_log()
    except Exception as error:
        return Ran(f"fails: {type(error).__name__} when run: {error}")
    unmoved = [k for k, p in moving.items() if torch.equal(p, before[k])]
    state = [v for m in (trainer.nets.G, trainer.nets.D, trainer.nets.G_ema, trainer.terms) for v in m.state_dict().values()]
    faults = [f"{k} is {log[k]:g}" for k in ("d/bad_grads", "g/bad_grads") if log[k]]
    faults += [f"{k} isn't finite" for k, v in log.items() if not math.isfinite(v)]
    faults += ["weights or buffers aren't finite"] * (not all(torch.isfinite(v).all() for v in state))
    faults += [f"no gradient moved {', '.join(unmoved[:3])}"] * bool(unmoved)
    return Ran(f"fails: {'; '.join(faults)}" if faults else "", torch.cat([p.detach().flatten() for p in trainer.nets.G.parameters()]), log)


def outcome(cell: Cell) -> str:
    """"acts": training takes another way than without each of the cell's terms (of no term: without its augmentation). "watches": it doesn't, by
    a term that has no loss and logs values. "refused: ..." before the first step, in a line. "fails: ..." whatever else."""
    more = needed(cell.terms)
    ran = run(cell, more)
    if ran.fault:
        return ran.fault
    plain = replace(cell, augment="none")
    if not cell.terms and cell != plain and torch.equal(ran.weights, run(plain).weights):
        return f"fails: training goes the same way without {cell.augment}"
    for term in cell.terms:
        lost = [k for k in ran.log if k.split("/", 1)[1] == f"loss_{term}"]
        told = [k for k in ran.log if k.split("/")[1] == term]
        if not lost and not told:
            return f"fails: {term} logs neither a loss nor a value"
        without = run(cell.without(term), more)
        if without.fault.startswith("fails"):
            return f"fails: without {term}, {without.fault.removeprefix('fails: ')}"
        if without.fault or not torch.equal(ran.weights, without.weights):
            continue                                      # the others may need it
        if lost:
            return f"fails: {term} has a loss, but training goes the same way without it"
        if not any(ran.log[k] for k in told):
            return f"fails: {term} adds nothing and all that it logs is 0"
        if len(cell.terms) == 1:
            return "watches"
    return "acts"


# -------------------------------------------------------------------------------------------------------------------- table


def axes() -> dict[str, list[str]]:
    return {kind: catalog.names(kind) for kind in AXES}


def cells() -> Iterator[Cell]:
    names = axes()
    for terms, arch, augment, labels in itertools.product([(), *((t,) for t in names["terms"])], names["arch"], names["augment"], (False, True)):
        yield Cell(arch, augment, labels, terms)


def pairs() -> Iterator[Cell]:
    """Any two terms; two wrappers in both orders."""
    for two in itertools.permutations(catalog.names("terms"), 2):
        if two[0] < two[1] or all(hasattr(catalog.load("terms", t), "wrap") for t in two):
            yield Cell(*PAIRS_ON, two)
