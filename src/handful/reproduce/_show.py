"""Tables and results as lines of text, and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import in_shell
from ..recipes._targets import Target
from . import _tables
from ._job import Job
from ._tables import RESULT, Row


def papers() -> list[str]:
    """Papers, their tables, and how many figures each has."""
    figures = {name: 0 for name in _tables.tables()}
    for r in _tables.rows():
        figures[r.table] += len(r.targets)
    lines = []
    for paper, cited in _tables.PAPERS.items():
        lines += [f"{paper}: {cited}"]
        mine = [name for name in figures if name.split("/")[0] == paper]
        lines += aligned([(name, f"{figures[name]} figures" if figures[name] else "no figures", _tables.TITLES.get(name, "")) for name in mine])
    return [*lines, "", "handful reproduce PAPER/TABLE shows a table, with --row ROW it trains and scores that row"]


def table(found: Sequence[Row], out: Path) -> list[str]:
    """The figures, published and measured; below, by letter, how they were measured and what they cost, and the settings."""
    lines, among = [], _tables.results(out)
    for name in dict.fromkeys(r.table for r in found):
        mine = [r for r in found if r.table == name]
        protocols = list(dict.fromkeys(t.protocol for r in mine for t in r.targets))
        costs = list(dict.fromkeys(t.cost for r in mine for t in r.targets))
        letters = {text: letter(i) for i, text in enumerate([*protocols, *costs])}
        lines += [f"{name}: {_tables.TITLES.get(name, '')}", _tables.PAPERS.get(name.split('/')[0], ""), ""]
        heads = ("row", "data set", "published", "measured here", "notes", "trained by")
        lines += aligned([heads, *(_line(r, among, letters) for r in mine)])
        lines += ["", *(f"{letters[p]}  measured: {p}" for p in protocols), *(f"{letters[c]}  cost: {c}" for c in costs), ""]
    return lines[:-1]


def _line(row: Row, among: Sequence[dict[str, Any]], letters: dict[str, str]) -> tuple[str, ...]:
    found = {t.figure: _tables.measured(t, row, among) for t in row.targets}
    measured = "  ".join(f"{figure} {text}" for figure, text in found.items()) if set(found.values()) != {"-"} else "-"
    notes = dict.fromkeys([*(letters[t.protocol] for t in row.targets), *(letters[t.cost] for t in row.targets)])
    return row.name, row.data, "  ".join(f"{t.figure} {published(t)}" for t in row.targets), measured, " ".join(notes), trained_by(row)


def as_json(found: Sequence[Row], out: Path) -> str:
    among = _tables.results(out)
    return json.dumps([{"table": r.table, "row": r.name, "data": r.data, "figure": t.figure, "published": t.value, "spread": t.spread,
                        "protocol": t.protocol, "cost": t.cost, "recipe": r.recipe, "settings": list(r.settings), "metric": t.metric,
                        "source": t.source, "against": t.against, "waits": t.waits, "measured": _tables.measured(t, r, among)}
                       for r in found for t in r.targets], indent=1, ensure_ascii=False)


def result(job: Job, facts: dict[str, Any]) -> list[str]:
    """What was measured beside what was published, and where it stands."""
    mine = [r for r in facts["records"] if r["command"] == job.command]
    lines = [f"{job.row.table}, {job.row.name}, {job.row.data}, seed {job.seed}:"]
    for r in mine:
        lines += [f"  {r['figure'].rsplit(': ', 1)[1]} {r['value']:.4g}, published {r['published']:g}  ({r['note']})"]
    return [*lines, f"kept in {in_shell(job.folder / RESULT)}"]


def over_seeds(row: Row, results: Sequence[dict[str, Any]]) -> list[str]:
    """Mean and standard deviation of each figure over the runs."""
    lines = []
    for t in row.targets:
        figure = f"{t.row}, {t.data}: {t.figure}"
        values = [r["value"] for facts in results for r in facts["records"] if r["table"] == t.table and r["figure"] == figure]
        if len(values) > 1:
            lines += [f"{figure} over {len(values)} seeds: {statistics.mean(values):.4g} +- {statistics.stdev(values):.2g}, published {published(t)}"]
    return lines


def published(t: Target) -> str:
    usual = t.figure.split()[0] in ("FID", "IS")             # which papers print with two decimals
    return (f"{t.value:.2f}" if usual else f"{t.value:g}") + ("" if t.spread is None else f" +- {t.spread:g}")


def trained_by(row: Row) -> str:
    return f"waits for {row.waits}" if row.waits else " ".join([row.recipe, *(f"--set {in_shell(s)}" for s in row.settings)])


def letter(i: int) -> str:
    return f"[{chr(ord('a') + i)}]"


def aligned(lines: Sequence[Sequence[str]], indent: int = 2) -> list[str]:
    wide = [max(map(len, column)) for column in zip(*lines)][:-1]
    return [" " * indent + "  ".join([*(c.ljust(w) for c, w in zip(cells, wide)), cells[-1]]).rstrip() for cells in lines]
