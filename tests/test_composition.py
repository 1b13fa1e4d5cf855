"""What classes state that they can't be combined with is so, and all that is so: a sample of real runs and of builds comes out as stated."""

from __future__ import annotations

import random
import re

import pytest
from torch import nn

import composing
import composition_page as page
from handful import catalog
from handful.augment import NoAugment
from handful.errors import HandfulError
from handful.seam import CONTROLS_D, Conflict, Needs, Result, Term, View
from making import TERMS_NEED, tiny_config, tiny_trainer

SAMPLE = random.Random(6).sample([*composing.cells()], 30) + random.Random(6).sample([*composing.pairs()], 7)
BUILT = random.Random(7).sample([*composing.cells()], 30) + random.Random(7).sample([*composing.pairs()], 6)

# Statements about settings that no cell has, or that few cells meet: settings with which each applies.
BEYOND = [["terms.ada_controller.of=d"], ["terms.ada_controller={}", "terms.pa_gan={}", "terms.adaptive_dropout={}"],
          ["terms.augself={}", "augment=diffaug", 'train.augment_at=["real"]'], ["terms.contrad={}", "augment=simclr", 'train.augment_at=["real"]'],
          ["terms.contrad={}", "augment=simclr", "train.micro_batch=1"], ["terms.consistency.against=plain"], ["terms.diggan.pairing=same_class"],
          ["terms.rotation={}", "g=test_comparison_terms:WideG"], ["terms.pa_gan={}", "terms.contrad={}", "augment=simclr"]]


def fault(cell: composing.Cell) -> str:
    """How a cell is refused or fails when it is built; empty where neither."""
    try:
        composing.built(cell, composing.needed(cell.terms))
    except HandfulError as error:
        return f"refused: {error}"
    return ""


@pytest.mark.parametrize("cell", SAMPLE, ids=str)
def test_a_sample_of_runs_comes_out_as_stated(cell):
    refusal = composing.refusal(composing.stated(cell))
    assert composing.outcome(cell) in ([refusal] if refusal else ["acts", "watches"])


def test_a_further_sample_is_refused_exactly_where_stated():
    for cell in BUILT:
        assert fault(cell) == composing.refusal(composing.stated(cell)), str(cell)


def test_every_statement_applies_somewhere_and_is_what_the_user_reads():
    left = {(name, what) for name, whats in composing.stating().items() for what in whats}
    for settings in BEYOND:
        config = tiny_config(*settings)
        plain = tiny_trainer(*(s for s in settings if not s.startswith("terms."))).nets
        found = composing.statements(plain, config.terms, config.g.name, config.augment.name)
        assert found.keys() & left, f"nothing new is stated of {settings}"
        with pytest.raises(HandfulError, match=f"^{re.escape(composing.refusal(found).removeprefix('refused: '))}$"):
            tiny_trainer(*settings)
        left -= found.keys()
    for cell in random.Random(8).sample(every := [*composing.cells(), *composing.pairs()], len(every)):
        if {name for name, _ in left} & {cell.arch, cell.augment, *cell.terms} and (found := composing.stated(cell)).keys() & left:
            assert fault(cell) == composing.refusal(found), str(cell)
            left -= found.keys()
    assert not left, "states what no combination brings about: correct it, or add the settings to BEYOND"


@pytest.mark.parametrize("name, role", [(n, r) for n in catalog.names("terms") for r in sorted(catalog.load("terms", n).roles)])
def test_a_role_is_one_term_s_alone(name, role):
    needed = ["augment=none", "terms.pa_gan={}"] if role == CONTROLS_D else TERMS_NEED.get(name, [])
    with pytest.raises(HandfulError, match=f"terms.{name} and terms.again both want to be the .*{role}"):
        tiny_trainer(f"terms.{name}={{}}", f'terms.again={{"use": "{name}"}}', *needed)


def test_what_is_stated_is_a_line_with_a_remedy():
    for kind in ("arch", "augment", "terms"):
        for name in catalog.names(kind):
            for what, remedy in catalog.conflicts(kind, name):
                assert "\n" not in what + remedy and "{" not in remedy.replace("={}", ""), (name, what)
                assert re.search(r"(--set|--\w+|\b(take|leave|give|set|choose|list)) \w", remedy), (name, remedy)


def test_the_page_is_what_the_classes_state():
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.render(), f"run: {page.COMMAND}"
    assert len(text.splitlines()) < 60


def strength(kind: str, name: str) -> float | None:
    """The default of its p, where it has one."""
    p = catalog.keywords(catalog.load(kind, name)).get("p")
    return None if p is None else p.default


@pytest.mark.parametrize("kind, name", [(k, n) for k in ("augment", "terms") for n in catalog.names(k) if strength(k, n) == 0])
def test_a_strength_of_0_that_nothing_moves_is_said_aloud(kind, name):
    """The samples give every strength a value; the default of some is 0, to be moved by a controller."""
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


class Secretive(Idle):
    """Refuses a run, and its class doesn't state that."""

    def setup(self, nets):
        raise HandfulError("not with this")


class Open(Idle):
    """States one conflict that applies and one that doesn't."""

    conflicts = (Conflict("anything", lambda term, nets: nets.D.num_classes + 1, "terms.{name} is alone among {found}: {remedy}", "leave {name} out"),
                 Conflict("nothing", lambda term, nets: False, "{remedy}", "leave it"))


class Picky(NoAugment):
    conflicts = (Conflict("small batches", lambda augment, nets: nets.facts.batch < 16, "augment={name} wants {remedy}", "16 images"),)


def test_a_refusal_that_no_class_states_is_found_out(monkeypatch):
    cell = composing.Cell("dcgan", "none", True, ("faulty",))
    monkeypatch.setitem(composing.AT_ONCE, "faulty", {"use": "test_composition:Secretive"})
    monkeypatch.setattr(composing, "stating", lambda: {"faulty": set()})
    composing.run.cache_clear()
    assert fault(cell) == "refused: not with this" != composing.refusal(composing.stated(cell))


def test_all_that_is_stated_is_refused_at_once(monkeypatch):
    line = "terms.{0} is alone among 1: leave {0} out"
    with pytest.raises(HandfulError, match=f"^augment=test_composition:Picky wants 16 images; and {line.format('a')}$"):
        tiny_trainer("augment=test_composition:Picky", "terms.a.use=test_composition:Open")
    with pytest.raises(HandfulError, match=f"^{line.format('a')}; and {line.format('b')}; and not with this$"):
        tiny_trainer(terms={"a": {"use": "test_composition:Open"}, "b": {"use": "test_composition:Open"}, "c": {"use": "test_composition:Secretive"}})
    assert catalog.conflicts("terms", "test_composition:Open") == [("anything", "leave NAME out"), ("nothing", "leave it")]
