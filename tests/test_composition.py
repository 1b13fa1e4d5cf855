"""What the page on composition says is so: its axes are the catalogue's, a sample of its cells comes out as recorded, refusals name a remedy."""

from __future__ import annotations

import random
import re

import pytest
from torch import nn

import composing
import composing_page as page
from handful import catalog
from handful.errors import HandfulError
from handful.seam import Needs, Result, Term, View
from making import tiny_trainer

RECORDED = page.read()
SAMPLE = random.Random(6).sample([*composing.cells()], 36) + random.Random(6).sample([*composing.pairs()], 8)


def test_every_method_is_on_the_page():
    now = {str(cell) for cell in (*composing.cells(), *composing.pairs())}
    assert now == set(RECORDED), f"run: {page.COMMAND} {' '.join(_of(now) ^ _of(set(RECORDED)))}"


def test_the_page_is_made_from_the_records():
    assert page.PAGE.read_text(encoding="utf-8") == page.render(RECORDED), f"run: {page.COMMAND}"


def _of(keys: set[str]) -> set[str]:
    return {name for key in keys for name in key.split(" + ")}


@pytest.mark.parametrize("cell", SAMPLE, ids=str)
def test_a_sample_comes_out_as_recorded(cell):
    assert composing.outcome(cell) == RECORDED.get(str(cell)), f"run: {page.COMMAND} {' '.join([cell.arch, *cell.terms])}"


def test_what_does_not_work_is_refused_in_a_line_with_a_remedy():
    for reason in {status for status in RECORDED.values() if status not in ("acts", "watches")}:
        assert reason.startswith("refused: ") and "\n" not in reason
        assert re.search(r"(--set|--\w+|\b(take|leave|give|set|choose|list)) \w", reason), reason


def strength(kind: str, name: str) -> float | None:
    """The default of its p, where it has one."""
    p = catalog.keywords(catalog.load(kind, name)).get("p")
    return None if p is None else p.default


@pytest.mark.parametrize("kind, name", [(k, n) for k in ("augment", "terms") for n in catalog.names(k) if strength(k, n) == 0])
def test_a_strength_of_0_that_nothing_moves_is_said_aloud(kind, name):
    """The page gives every strength a value; the default of some is 0, to be moved by a controller."""
    method = {"augment": {"use": name}} if kind == "augment" else {"terms": {name: {"use": name}}}
    notes = tiny_trainer(**method).notes
    assert any("does nothing" in note and "p=0" in note for note in notes), notes


class Idle(Term):
    """Has a loss that depends on nothing."""

    def needs(self, side):
        return Needs(real=View(logits=True)) if side == "d" else None

    def forward(self, ctx):
        return Result(0 * ctx.real.logits.mean(), {"value": ctx.real.logits})


class Headless(Idle):
    """Has a head that its loss doesn't reach."""

    def setup(self, nets):
        self.head = nn.Linear(3, 3)

    def forward(self, ctx):
        return Result(ctx.real.logits.square().mean())


class Blind(Idle):
    """Watches, but all that it sees is 0."""

    def forward(self, ctx):
        return Result(None, {"value": 0 * ctx.real.logits})


class Mute(Idle):
    def forward(self, ctx):
        return Result()


class Exploding(Idle):
    def forward(self, ctx):
        return Result(ctx.real.logits.mean() / 0)


class Late(Idle):
    def forward(self, ctx):
        raise HandfulError("too late to refuse")


@pytest.mark.parametrize("term, fault", [
    (Idle, "training goes the same way without it"), (Headless, "no gradient moved terms.faulty.head.weight"), (Blind, "all that it logs is 0"),
    (Mute, "neither a loss nor a value"), (Exploding, "d/bad_grads is 2"), (Late, "HandfulError when run: too late")])
def test_a_term_that_does_not_work_is_found_out(term, fault, monkeypatch):
    monkeypatch.setitem(composing.AT_ONCE, "faulty", {"use": f"test_composition:{term.__name__}"})
    composing.run.cache_clear()
    found = composing.outcome(composing.Cell("dcgan", "none", False, ("faulty",)))
    assert found.startswith("fails: ") and fault in found
