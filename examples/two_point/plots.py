"""The figures of the two-point experiment, as the paper draws them: D and the points, positions over the run, R over the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from handful.files import atomic

from .game import REAL, Setting, State, Trace, networks

BLUE, RED, GREY = "#2f6fb2", "#c8372d", "#555555"


def draw(out: Path, *, vanilla: Trace, diggan: Trace, seed: int, noisy: Trace, noisy_at: Sequence[int], variances: Sequence[float], optimal: State,
         stays: Trace, escapes: Trace, place: int, others: Sequence[int]) -> list[Path]:
    """Writes the PNGs and returns their paths. seed: the run that is drawn; place: the same among the trapped ones; others: runs not chosen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def figure(rows: int, columns: int, **how: Any):
        fig = Figure(figsize=(3.3 * columns, 2.4 * rows), dpi=110, layout="constrained")
        FigureCanvasAgg(fig)
        return fig, fig.subplots(rows, columns, squeeze=False, **how)

    def save(fig: Any, name: str) -> None:
        atomic(out / name, lambda p: fig.savefig(p, format="png"))
        paths.append(out / name)

    paths: list[Path] = []
    fig, axes = figure(2, 3)
    for row, trace, name in zip(axes, (vanilla, diggan), ("vanilla", "DigGAN")):
        curve(row[0], trace.end[seed:seed + 1], f"{name}: D at the end")
        positions(row[1], trace, seed, f"{name}: generated points")
        gap(row[2], trace, seed, f"{name}: R")
    save(fig, "two-point-1-3.png")

    fig, axes = figure(1, 4, sharey=True)
    for ax, at, variance in zip(axes[0], noisy_at, variances):
        positions(ax, noisy, at, f"noise of variance {variance:g}")
    save(fig, "two-point-2.png")

    fig, axes = figure(1, 4)
    curve(axes[0, 0], optimal[place:place + 1], "optimal D, trapped G")
    curve(axes[0, 1], optimal[place:place + 1], "its slope", slope=True)
    positions(axes[0, 2], stays, place, "vanilla from there")
    positions(axes[0, 3], escapes, place, "DigGAN from there")
    save(fig, "two-point-4.png")

    fig, axes = figure(2, 4, sharex=True, sharey=True)
    for ax, s in zip(axes.flat, others):
        positions(ax, diggan, s, f"DigGAN, seed {s}")
    save(fig, "two-point-seeds.png")
    return paths


def positions(ax: Any, trace: Trace, run: int, title: str) -> None:
    ax.plot(trace.at, trace.x[:, run], color=BLUE, lw=0.9)
    for r in REAL:
        ax.axhline(r, color=RED, lw=1)
    ax.update_datalim([(0, -1), (0, 5)])                     # as far as this at least; sharing axes go as far as any of them
    ax.autoscale_view()
    ax.set(title=title, xlabel="iteration", ylabel="position")


def gap(ax: Any, trace: Trace, run: int, title: str) -> None:
    ax.plot(trace.at, trace.gap[:, run], color=GREY, lw=0.9)
    ax.set(title=title, xlabel="iteration", ylabel="R")
    ax.set_ylim(bottom=0)


@torch.inference_mode()
def curve(ax: Any, state: State, title: str, slope: bool = False) -> None:
    """D's logit (or |dD/dx|) around the points, the real ones in red, the generated ones in blue."""
    D, G = networks(Setting(), state)
    fake, _ = G.forward(state.z)
    low, high = min(-1.5, float(fake.min()) - 0.5), max(5.5, float(fake.max()) + 0.5)
    x = torch.linspace(low, high, 500, dtype=state.d.dtype)[None]

    def d(x):
        y, by_x = D.forward(x)
        return (by_x.abs() if slope else y)[0]

    ax.plot(x[0], d(x), color=GREY, lw=1.1)
    real = x.new_tensor([REAL])
    ax.scatter(real[0], d(real), s=46, color=RED, zorder=3, label="real")
    ax.scatter(fake[0], d(fake), s=26, color=BLUE, marker="D", zorder=4, label="generated")
    ax.legend(fontsize=7)
    ax.set(title=title, xlabel="x", ylabel="|dD/dx|" if slope else "D(x), logit")


