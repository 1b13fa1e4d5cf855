"""The published figures that `handful reproduce` puts measurements beside, one file per paper.

A file has CITATION, TITLES (what each of its tables is about, in the order in which they are shown) and TARGETS: every figure, with the recipe that
makes its row and the settings that turn the recipe into it.
"""

from __future__ import annotations

from .._target import Target
from . import diffaugment, diggan, fastgan, insgen, r3gan, stylegan2_ada

PAPERS = {"fastgan": fastgan, "stylegan2-ada": stylegan2_ada, "diffaugment": diffaugment, "diggan": diggan, "insgen": insgen, "r3gan": r3gan}


def targets(recipe: str | None = None) -> list[Target]:
    """The published figures that a recipe aims at; without a name every figure of every paper, by recipe, and last those that none makes."""
    found = sorted((t for paper in PAPERS.values() for t in paper.TARGETS), key=lambda t: (not t.recipe, t.recipe))
    return [t for t in found if recipe in (None, t.recipe)]
