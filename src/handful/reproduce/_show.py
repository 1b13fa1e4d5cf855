"""Tables and results as lines of text, and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import in_shell
from . import _tables
from ._job import Job
from ._tables import RESULT, Row
from ._target import Target


@dataclass
class Counts:
    """Of some rows' figures: runnable, which a run trains and scores; waiting; costs, which no run scores; they sum up to figures. measured: of the
    runnable those with a result by the row's own settings, whole: at the whole schedule. drawn: settings of curves, which have no number."""

    runnable: int = 0
    waiting: int = 0
    costs: int = 0
    measured: int = 0
    whole: int = 0
    drawn: int = 0

    @property
    def figures(self) -> int:
        return self.runnable + self.waiting + self.costs


def counts(rows: Iterable[Row], among: Sequence[Mapping[str, Any]]) -> Counts:
    """among: the results to look for what was measured in."""
    out = Counts()
    for row in rows:
        setting = _tables.setting(row)
        mine = [facts for facts in among if facts["setting"] == setting and not facts["other"]]
        for t in row.targets:
            if t.value is None:
                out.drawn += 1
            elif row.waits:
                out.waiting += 1
            elif not t.metric:
                out.costs += 1
            else:
                found = [facts for facts in mine if _tables.value_of(t, facts["found"]) is not None]
                out.runnable += 1
                out.measured += bool(found)
                out.whole += any(facts["share"] == 1 for facts in found)
    return out


def papers(out: Path = Path("runs/reproduce")) -> list[str]:
    """Papers, their tables, and how many figures each has, of which so many can be run, wait, and were measured under a folder."""
    lines, among, rows = [], _tables.results(out), _tables.rows()
    for paper, cited in _tables.PAPERS.items():
        mine = [name for name in _tables.tables() if name.split("/")[0] == paper]
        of = {name: counts([r for r in rows if r.table == name], among) for name in mine}
        whole = counts([r for r in rows if r.table in mine], among)
        lines += [f"{paper}: {cited}", f"  {_said(whole)}"]
        lines += aligned([(name, _figures(c), _parts(c), _tables.TITLES.get(name, "")) for name, c in of.items()])
    return [*lines, "", "runnable: --row trains and scores it; waiting: the table says for what; costs: time, memory and parameters, not scores",
            f"measured: results under {in_shell(out)} with the row's own settings, at whatever share of the schedule",
            "handful reproduce PAPER/TABLE shows a table, with --row ROW it trains and scores that row"]


def _figures(c: Counts) -> str:
    number, what = (c.figures, "figure") if c.figures else (c.drawn, "setting")
    return f"{number} {what}{'' if number == 1 else 's'}" if number else "no figures"


def _parts(c: Counts) -> str:
    named = [(c.runnable, "runnable"), (c.waiting, "waiting"), (c.costs, "costs"), (c.measured, "measured"), (c.drawn, "without a number")]
    return ", ".join(f"{n} {what}" for n, what in named if n)


def _said(c: Counts) -> str:
    """Of a whole paper."""
    text = f"{_figures(c)}: {c.runnable} runnable, {c.waiting} waiting" + (f", {c.costs} costs" if c.costs else "")
    text += f"; {c.measured} measured" + (f", {c.whole} of them at the whole schedule" if c.measured else "")
    return text + (f"; {c.drawn} settings of curves without a number, all waiting" if c.drawn else "")


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


def over_seeds(job: Job, results: Sequence[dict[str, Any]]) -> list[str]:
    """Each figure over the runs: their mean and standard deviation, or the best of them where that is the paper's rule."""
    lines = []
    for t in job.row.targets:
        figure = f"{t.row}, {t.data}: {t.figure}"
        values = [r["value"] for facts in results for r in facts["records"] if r["table"] == t.table and r["figure"] == figure]
        if len(values) > 1:
            best = f"best, as the paper counts, {min(values):.4g}; mean " if job.rule.best_seed else ""
            lines += [f"{figure} over {len(values)} seeds: {best}{statistics.mean(values):.4g} +- {statistics.stdev(values):.2g}, "
                      f"published {published(t)}"]
    return lines


def published(t: Target) -> str:
    if t.value is None:
        return "(drawn, no number)"
    usual = t.figure.split()[0] in ("FID", "IS")             # which papers print with two decimals
    return (f"{t.value:.2f}" if usual else f"{t.value:g}") + ("" if t.spread is None else f" +- {t.spread:g}")


def trained_by(row: Row) -> str:
    lines = [f"--set {in_shell(s)}" for s in row.settings]
    if row.waits:
        return " ".join([f"waits for {row.waits}" + (", with" if lines else ""), *lines])
    return " ".join([row.recipe, *lines])


def letter(i: int) -> str:
    return f"[{chr(ord('a') + i)}]"


def aligned(lines: Sequence[Sequence[str]], indent: int = 2) -> list[str]:
    wide = [max(map(len, column)) for column in zip(*lines)][:-1]
    return [" " * indent + "  ".join([*(c.ljust(w) for c, w in zip(cells, wide)), cells[-1]]).rstrip() for cells in lines]
