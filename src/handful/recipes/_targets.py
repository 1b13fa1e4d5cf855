"""Published figures that recipes aim at, as data: `handful reproduce` and the results page read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A cell of a paper's table: where it stands, on what data, how it was measured, and what it cost.

    settings: the `--set` lines that turn the recipe into this row. spread: the standard deviation over runs that the paper prints, if any.
    metric: the name by which `handful evaluate` computes the figure ("fid10k_test"); "" where it can't. source, against: DATA that `handful` knows by
    name, to train on and to score against; "" where the user must give it, or where samples are scored against the training images.
    """

    table: str                # "fastgan/2"
    row: str
    data: str
    figure: str               # "FID", "hours per 10k iterations"
    value: float
    protocol: str
    cost: str
    settings: tuple[str, ...] = ()
    spread: float | None = None
    metric: str = ""
    source: str = ""
    against: str = ""
