"""Which methods go together: every architecture with every term and augmentation, and every two terms; what their classes state, and what happens.

`stated` asks the classes (seam.Conflict, Term.roles), `built` the trainer, `outcome` trains for some steps and judges. tests/test_composition.py
compares them.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from handful import catalog
from handful.catalog import Use
from handful.config import Config
from handful.errors import HandfulError
from handful.seam import CONTROLS_AUGMENT, CONTROLS_D, Nets, Wrapper
from handful.training import choose
from handful.training.trainer import Trainer
from making import TERMS_NEED, noise_set, pair, run_steps, tiny_config, weights

STEPS, SIDE, IMAGES, BATCH, CLASSES = 2, 32, 24, 4, 3
PAIRS_ON = ("stylegan2", "ada", False)                    # architecture, augmentation, labels

# So that each does something at once; whatever has a strength p is given 0.5 as well.
AT_ONCE: dict[str, dict[str, Any]] = {
    "lecam": {"start": 0}, "chain": {"start": 0}, "ada_controller": {"start": None, "kimg": 0.008, "interval": 1},      # p goes to 0 or 1 at once
    "reconstruction": {"loss": "pixel"}, "vision_aided": {"random": 1, "size": 32}}      # the pretrained weights may not be on this machine


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
    """What became of a cell: the fault (refused: ..., fails: ...; empty where it ran), G's weights at the end, what was logged, and the terms that
    must change training though they have no loss: those inside D, and controllers."""

    fault: str
    weights: Tensor | None = None
    log: Mapping[str, float] | None = None
    acting: frozenset[str] = frozenset()


def cells() -> Iterator[Cell]:
    every = [catalog.names(kind) for kind in ("arch", "augment", "terms")]
    for terms, arch, augment, labels in itertools.product([(), *((t,) for t in every[2])], every[0], every[1], (False, True)):
        yield Cell(arch, augment, labels, terms)


def pairs() -> Iterator[Cell]:
    """Any two terms; two wrappers in both orders."""
    for two in itertools.permutations(catalog.names("terms"), 2):
        if two[0] < two[1] or all(hasattr(catalog.load("terms", t), "wrap") for t in two):
            yield Cell(*PAIRS_ON, two)


# ----------------------------------------------------------------------------------------------------------------- building


def settings(kind: str, name: str) -> dict[str, Any]:
    """The keywords with which a method is built, and which it is ("use")."""
    more = {"use": name} | AT_ONCE.get(name, {})
    return ({"p": 0.5} if "p" in catalog.keywords(catalog.load(kind, more["use"])) else {}) | more


def needed(terms: Iterable[str]) -> tuple[str, ...]:
    """Settings of the run that the terms can't do without. Augmentations are an axis of the table, so none is put in."""
    return tuple(dict.fromkeys(s for t in terms for s in TERMS_NEED.get(t, []) if s.startswith(("data.", "train."))))


def configured(cell: Cell, more: tuple[str, ...] = ()) -> Config:
    return tiny_config(f"data.resolution={SIDE}", f"train.batch={BATCH}", "data.path=photos", *more,
                       **pair(cell.arch), augment=settings("augment", cell.augment), terms={t: settings("terms", t) for t in cell.terms})


def built(cell: Cell, more: tuple[str, ...] = ()) -> Trainer:
    """more: settings beyond the cell's own. Raises HandfulError where the combination is refused."""
    config = configured(cell, more)
    choose.about_classes(config, {f"c{i}": IMAGES // CLASSES for i in range(CLASSES)} if cell.labels else {})
    return Trainer(config, noise_set(IMAGES, CLASSES if cell.labels else 0, SIDE), torch.device("cpu"))


# ----------------------------------------------------------------------------------------------------------- what is stated


@cache
def plain_nets(cell: Cell) -> Nets:
    """The networks of a cell without terms; built even where a run would be refused for want of labels."""
    return Trainer(configured(cell), noise_set(IMAGES, CLASSES if cell.labels else 0, SIDE), torch.device("cpu")).nets


@cache
def stating() -> dict[str, set[str]]:
    """The methods that state something, each with what it can't be combined with; roles are left out."""
    every = {name: {what for what, _ in catalog.conflicts(kind, name) if not what.startswith("another ")}
             for kind in ("arch", "augment", "terms") for name in catalog.names(kind)}
    return {name: whats for name, whats in every.items() if whats}


def stated(cell: Cell) -> dict[tuple[str, str], str]:
    """The refusals of a cell by the statements of its classes: {(method, what it can't be combined with): message}, in their order."""
    if len(cell.terms) < 2 and not stating().keys() & {cell.arch, cell.augment, *cell.terms}:
        return {}
    terms = {t: settings("terms", t) for t in cell.terms}
    uses = {t: Use(kwargs.pop("use"), **kwargs) for t, kwargs in terms.items()}
    return statements(plain_nets(replace(cell, terms=())), uses, cell.arch, cell.augment)


def statements(plain: Nets, terms: Mapping[str, Use], arch: str, augment: str) -> dict[tuple[str, str], str]:
    """Of a run with these terms. plain: its networks without them."""
    if plain.G.wants_classes and not plain.G.num_classes:
        return {(arch, "images without labels"): f"{arch} is made for labelled images, and 'photos' has no labels: {catalog.GIVE_LABELS}"}
    nets, found, claimed = copy.copy(plain), {}, {}
    methods = {name: catalog.build("terms", use) for name, use in terms.items()}
    for method in methods.values():
        nets.D = method.wrap(copy.deepcopy(nets.D)) if isinstance(method, Wrapper) else nets.D
    for name, method in [(arch, nets.G), (augment, nets.augment), *methods.items()]:
        own = terms[name].name if name in terms else name
        found |= {(own, c.what): line for c in type(method).conflicts if (line := c.refusal(method, name, nets))}
        roles = sorted(getattr(type(method), "roles", ()))
        if shared := [role for role in roles if role in claimed]:
            found[own, shared[0]] = (f"terms.{claimed[shared[0]]} and terms.{name} both want to be the {' and the '.join(shared)}: leave one of "
                                     f"them out (--set terms.{name}=null)")
        claimed |= dict.fromkeys(roles, name)
    return found


def refusal(found: Mapping[tuple[str, str], str]) -> str:
    """What `outcome` says of a combination of which this is stated; empty where nothing is."""
    return f"refused: {'; and '.join(found.values())}" if found else ""


# ------------------------------------------------------------------------------------------------------------------ running


@lru_cache(maxsize=256)
def run(cell: Cell, more: tuple[str, ...] = ()) -> Ran:
    """more: settings beyond the cell's own."""
    try:
        trainer = built(cell, more)
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
    faults = [f"{k} is {log[k]:g}" for k in ("d/bad_grads", "g/bad_grads") if log[k]]
    faults += [f"{k} isn't finite" for k, v in log.items() if not math.isfinite(v)]
    faults += ["weights or buffers aren't finite"] * (not torch.isfinite(weights(trainer)).all())
    faults += [f"no gradient moved {', '.join(unmoved[:3])}"] * bool(unmoved)
    acting = frozenset(name for name, term in trainer.terms.items() if isinstance(term, Wrapper) or term.roles & {CONTROLS_AUGMENT, CONTROLS_D})
    return Ran(f"fails: {'; '.join(faults)}" if faults else "", torch.cat([p.detach().flatten() for p in trainer.nets.G.parameters()]), log, acting)


def outcome(cell: Cell) -> str:
    """"acts": every gradient, weight, buffer and logged value stays finite, every parameter moves, and G ends elsewhere than without each of the
    cell's terms (of no term: without its augmentation). "watches": it doesn't, by a term that has no loss, is no controller and not inside D, and
    logs values. "refused: ..." before the first step, in a line. "fails: ..." whatever else."""
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
        if lost or term in ran.acting:
            return f"fails: {term} {'has a loss' if lost else 'is to change D or a strength'}, but training goes the same way without it"
        if not any(ran.log[k] for k in told):
            return f"fails: {term} adds nothing and all that it logs is 0"
        if len(cell.terms) == 1:
            return "watches"
    return "acts"
