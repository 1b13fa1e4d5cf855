"""Terms become phases. The lazy gain and the order of updates are decided here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..seam import Needs, Side, Term


@dataclass(frozen=True)
class Phase:
    """One optimiser step: which side, which terms, every how many iterations, and what each loss is multiplied by.

    main: holds the adversarial loss; its passes update network buffers, those of the other phases don't.
    """

    side: Side
    names: tuple[str, ...]
    every: int
    gain: Mapping[str, float]
    main: bool

    @property
    def key(self) -> str:
        return f"{self.side}:{'main' if self.main else self.every}"


def phases_of(terms: Mapping[str, Term], order: str) -> list[Phase]:
    """The phases of an iteration in their order: per side the main one, then one per interval of the terms with a step of their own.

    Observers stand in all phases of their side.
    """
    out: list[Phase] = []
    for side in order:
        mine = {n: t for n, t in terms.items() if t.needs(side) is not None}
        own = sorted({t.every for t in mine.values() if t.own_step})
        for every in [None, *own]:
            names = tuple(n for n, t in mine.items() if (not t.own_step if every is None else t.observes or (t.own_step and t.every == every)))
            gain = {n: float(terms[n].every if terms[n].gain is None else terms[n].gain) for n in names}
            if names:
                out.append(Phase(side, names, every or 1, gain, every is None))
    return out


def lazy_correction(plan: list[Phase], side: Side) -> float:
    """c = k/(k+1) for the Adam of one player, with 1/k the sum of 1/every over its own-step phases; 1 without any.

    StyleGAN2's correction (Karras et al. 2020, appendix B): lr <- lr c, betas <- betas^c. Without own steps 1/k = 0 and c = 1.
    """
    per_iteration = sum(1 / p.every for p in plan if p.side == side and not p.main)
    return 1 / (1 + per_iteration)


def union(terms: Mapping[str, Term], names: tuple[str, ...], side: Side) -> Needs:
    out = Needs()
    for name in names:
        out = out | (terms[name].needs(side) or Needs())
    return out
