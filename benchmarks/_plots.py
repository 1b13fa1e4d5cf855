"""The plots of docs/results.md, drawn from its tables. Each file says which values it shows, so that an outdated one is found without drawing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from _page import Table
from _sections import Plot

FORMAT = {"svg.fonttype": "none", "svg.hashsalt": "handful", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def digest(tables: Sequence[Table]) -> str:
    """Of all values in the tables, with their places."""
    values = [[t.title, row, column, r["value"]] for t in tables for (row, column), r in sorted(t.cells.items())]
    return "values " + hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def is_current(path: Path, tables: Sequence[Table]) -> bool:
    return path.exists() and digest(tables) in path.read_text(encoding="utf-8")


def draw(path: Path, plot: Plot, tables: Sequence[Table]) -> None:
    """Writes an SVG, the same bytes for the same values and the same matplotlib (which must be installed)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(FORMAT):
        height = 3.6 if plot.kind == "lines" else 1 + 0.27 * max(len(t.rows) for t in tables)
        figure, axes = pyplot.subplots(1, len(tables), figsize=(4.4 * len(tables) if plot.kind == "lines" else 8, height), layout="constrained",
                                       squeeze=False)
        for axis, table in zip(axes[0], tables):
            (_lines if plot.kind == "lines" else _bars)(axis, plot, table)
        if plot.kind == "lines":                            # the panels have the same rows
            figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Description": digest(tables)})
        pyplot.close(figure)


def _lines(axis, plot: Plot, table: Table) -> None:
    for row in table.rows:
        points = sorted((float(re.findall(r"[\d.]+", c)[0]), r["value"]) for (at, c), r in table.cells.items() if at == row)
        axis.plot(*zip(*points), marker="o", ms=3.5, lw=1.2, label=row)
    ticks = sorted({float(re.findall(r"[\d.]+", c)[0]) for c in table.columns})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    if plot.log:
        axis.set_yscale("log")
    axis.set(xlabel=plot.x, ylabel=plot.axis or table.title, title=table.title if plot.axis else "")
    axis.grid(alpha=0.3)


def _bars(axis, plot: Plot, table: Table) -> None:
    columns = [c for c in table.columns if re.fullmatch(plot.columns, c)]
    values = {row: {c: table.cells[row, c]["value"] for c in columns if (row, c) in table.cells} for row in table.rows}
    rows = sorted((row for row in values if values[row]), key=lambda row: fmean(values[row].values()))
    for number, column in enumerate(columns):
        at = [(i + 0.4 - 0.8 * (number + 0.5) / len(columns), values[row][column]) for i, row in enumerate(rows) if column in values[row]]
        axis.barh(*zip(*at), height=0.8 / len(columns), label=column)
    axis.set_yticks(range(len(rows)), rows)
    if plot.log:
        axis.set_xscale("log")
    axis.set(xlabel=plot.axis)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.legend(fontsize=8, frameon=False, loc="lower right")
