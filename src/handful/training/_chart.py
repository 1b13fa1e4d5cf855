"""Curves as inline SVG: the geometry. The page needs no script to show them; its script only reads values off under the pointer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 380, 190
LEFT, RIGHT, TOP, BOTTOM = 50, 372, 8, 166          # the plot's box within the picture
POINTS = 240                                        # more lines than this are averaged
SMOOTH_FROM = 40                                    # fewer points are shown as they are

Floats = NDArray[np.float64]


def chart(title: str, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, Any] | None:
    """One chart of the log's `rows` ({"images": n, KEY: value}): names maps each key to its label. None where there is no finite value.

    Returned: title, series (label, raw and smooth path, dot, last), y and x ticks with their places, and `data` for the reading-off.
    """
    rows = [r for r in rows if any(_number(r.get(k)) is not None for k in names)]
    if not rows:
        return None
    x = _binned(np.array([r["images"] for r in rows], np.float64))
    ys = {k: _binned(np.array([_nan(r.get(k)) for r in rows])) for k in names}
    ys = {k: y for k, y in ys.items() if np.isfinite(y).any()}
    smooth = {k: _smoothed(y) if _noisy(y) else y for k, y in ys.items()}
    low, high, log = _range(np.concatenate([*ys.values()]), np.concatenate([*smooth.values()]))
    first = 0.0 if len(x) == 1 or x[0] < 0.1 * x[-1] else x[0]
    px = _across(x, first, x[-1])

    def place(y: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (np.log10(y) - math.log10(low)) / (math.log10(high) - math.log10(low)) if log else (y - low) / (high - low)
        return BOTTOM - (BOTTOM - TOP) * np.clip(np.where(np.isneginf(t), 0, t), -0.5, 1.5)

    series = []
    for k, y in ys.items():
        line, exact = place(smooth[k]), place(y)
        series.append({"label": names[k], "smooth": _path(px, line), "raw": _path(px, exact) if smooth[k] is not y else "",
                       "dot": (round(px[0], 1), round(float(line[0]), 1)) if len(x) == 1 else None,
                       "last": short(float(smooth[k][np.isfinite(smooth[k])][-1])),
                       "y": [None if math.isnan(v) else round(float(v), 1) for v in line],
                       "text": ["" if math.isnan(v) else short(float(v)) for v in smooth[k]]})
    data = {"px": [round(float(p), 1) for p in px], "at": [count(v) for v in x],
            "series": [{"y": s.pop("y"), "text": s.pop("text")} for s in series]}
    y_ticks = [(short(v), round(float(place(np.array([v]))[0]), 1)) for v in (_decades(low, high) if log else _nice(low, high))]
    x_ticks = [(count(v), round(float(_across(v, first, x[-1])), 1)) for v in _nice(first, x[-1], 4)]
    return {"title": title, "log": log, "series": series, "y_ticks": y_ticks, "x_ticks": x_ticks, "data": data}


def short(value: float) -> str:
    """At most four significant digits: 0.4123, 1.75e-5, 12.5k."""
    if abs(value) >= 10000:
        return count(value)
    if abs(value) >= 1e-3 or value == 0:
        return f"{value:.4g}"
    digits, _, power = f"{value:.2e}".partition("e-")
    return f"{float(digits):g}e-{int(power)}"


def count(value: float) -> str:
    """A number of images: 800, 12.5k, 1.2M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def _across(x: Any, first: float, last: float) -> Any:
    return LEFT + (RIGHT - LEFT) * (x - first) / ((last - first) or 1)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _nan(value: Any) -> float:
    number = _number(value)
    return math.nan if number is None else number


def _binned(values: Floats) -> Floats:
    """Means of at most POINTS runs of neighbouring values; NaN only where a whole run is."""
    if len(values) <= POINTS:
        return values
    known = np.isfinite(values)
    starts = np.linspace(0, len(values), POINTS, endpoint=False).astype(int)
    sums, counts = np.add.reduceat(np.where(known, values, 0.0), starts), np.add.reduceat(known.astype(float), starts)
    return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)


def _noisy(y: Floats) -> bool:
    """Whether a smooth curve tells more than the values: not for counters, memory, ramps, or a few points."""
    y = y[np.isfinite(y)]
    return len(y) >= SMOOTH_FROM and float(np.abs(np.diff(y)).sum()) > 4 * float(np.ptp(y))


def _smoothed(y: Floats) -> Floats:
    """A moving average with weights that halve every 1/40 of the curve, started without bias; gaps stay gaps."""
    keep = 0.5 ** (40 / len(y))
    out, total, weight = np.full_like(y, math.nan), 0.0, 0.0
    for i, value in enumerate(y):
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
            out[i] = total / weight
    return out


def _range(raw: Floats, smooth: Floats) -> tuple[float, float, bool]:
    """(low, high, log scale): all of the smooth curve, and the raw one but for single spikes."""
    raw, smooth = raw[np.isfinite(raw)], smooth[np.isfinite(smooth)]
    p1, p5, p95, p99 = np.percentile(raw, [1, 5, 95, 99])
    few = len(raw) < SMOOTH_FROM
    low = float(min(raw.min() if few else p1, smooth.min()))
    high = float(max(raw.max() if few else p99, smooth.max()))
    if raw.min() > 0 and p95 > 50 * p5:
        return low / 1.3, high * 1.3, True
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if low >= 0 and low < 0.3 * high else low - margin), high + margin, False


def _nice(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], about this many."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    return [10.0**e for e in range(first, last + 1, max(1, (last - first + 1) // 5))]


def _path(px: Floats, py: Floats) -> str:
    """An SVG path, lifted over gaps."""
    out, down = [], False
    for x, y in zip(px, py):
        if math.isnan(y):
            down = False
            continue
        out.append(f"{'L' if down else 'M'}{x:.1f} {y:.1f}")
        down = True
    return "".join(out)
