"""A cell of a published table as data: `handful reproduce` and the results page read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Target:
    """A cell of a paper's table: where it stands, on what data, how it was measured, and what it cost.

    value: None where the paper draws a point of a curve without a number; only rows that wait have none. settings: the `--set` lines that turn the
    recipe into this row. spread: the standard deviation over runs that the paper prints, if any. metric: the name by which `handful evaluate`
    computes the figure ("fid10k_test"), NAME/KEY for a further value of one ("pr50k3_full/recall"); "" where it can't. times: what the metric's value
    is multiplied by in the table. source, against: DATA that `handful` knows by name, to train on and to score against; "" where the user must give
    it, or where samples are scored against the training images. Where the reference is another part of a set that the user gives, against is
    "validation". waits: what this version lacks to run the row. recipe: the recipe that makes the row; "" where none does, and then it waits.
    """

    table: str                # "fastgan/2"
    row: str
    data: str
    figure: str               # "FID", "hours per 10k iterations"
    value: float | None
    protocol: str
    cost: str
    settings: tuple[str, ...] = ()
    spread: float | None = None
    metric: str = ""
    source: str = ""
    against: str = ""
    times: float = 1.0
    waits: str = ""
    recipe: str = ""


Figure = float | tuple[float, float] | None   # a value, or (value, standard deviation), or none


def row_of(table: str, row: str, data: str, protocol: str, cost: str, settings: tuple[str, ...], figures: Mapping[str, Figure],
           metrics: Mapping[str, str], *, source: str = "", against: str = "", times: Mapping[str, float] | None = None,
           waits: str = "") -> list[Target]:
    """One target per figure of a row on one set. metrics: of each figure by its name; times: likewise, where it isn't 1."""
    out = []
    for name, figure in figures.items():
        value, spread = figure if isinstance(figure, tuple) else (figure, None)
        metric = metrics.get(name, "")
        out.append(Target(table, row, data, name, value, protocol, cost, settings, spread, metric, source, against, (times or {}).get(name, 1.0),
                          waits))
    return out


def made_by(recipe: str, targets: Iterable[Target]) -> tuple[Target, ...]:
    """The targets as rows of this recipe."""
    return tuple(replace(t, recipe=recipe) for t in targets)
