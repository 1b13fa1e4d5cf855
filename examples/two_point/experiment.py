"""DigGAN's two-point experiment (Fang, Sun, Schwing, "DigGAN", NeurIPS 2022, section 3.3): four games of tiny nets on the points 0 and 4.

    1  vanilla GAN                                        the paper's run ends with both generated points on 0: trapped
    2  the trapped state, noise on D's parameters         small noise: back to 0; variance 5: both on 4; 10: doesn't settle
    3  DigGAN (lambda 1, no smoothing) from 1's start     covers both points, R stays small
    4  D made optimal for the trapped G, with R           vanilla stays, DigGAN escapes

The paper shows one run of each. Here every game is played from many seeds at once, and fractions are given with 95 % intervals (Wilson).
What the paper leaves open is set as its first author's earlier toy experiments (RS-GAN) had it: three linear layers per net ("4 layers" with the
input), torch's default initialisation, SGD with momentum 0.9 and learning rate 0.01, latents uniform in [-5, 5] and fixed, logistic losses, the
non-saturating one for G. `TABLE` varies this: four linear layers, ten steps per player, R of the batch's norms, D's loss halved, Adam (which the
paper cites for its momentum), three times as long. Optimisers start anew in games 2 and 4; D is made optimal by 10 000 further steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handful.errors import HandfulError, within
from handful.files import write_text
from handful.rng import derive

from .game import OUTCOMES, Setting, State, Trace, initial, joined, judge_alone, outcomes, play, wilson

VANILLA, DIGGAN = Setting(), Setting(weight=1.0)
TABLE = {
    "3 layers, vanilla": VANILLA,
    "3 layers, DigGAN": DIGGAN,
    "3 layers, vanilla, 30 000 iterations": replace(VANILLA, iterations=30_000),
    "3 layers, DigGAN, 30 000 iterations": replace(DIGGAN, iterations=30_000),
    "3 layers, DigGAN, norm over the batch": replace(DIGGAN, norm="batch"),
    "3 layers, 10:10 steps, vanilla": replace(VANILLA, d_steps=10, g_steps=10, iterations=1000),
    "3 layers, 10:10 steps, DigGAN": replace(DIGGAN, d_steps=10, g_steps=10, iterations=1000),
    "4 layers, vanilla": replace(VANILLA, layers=4),
    "4 layers, DigGAN": replace(DIGGAN, layers=4),
    "4 layers, DigGAN, norm over the batch": replace(DIGGAN, layers=4, norm="batch"),
    "3 layers, D's loss halved, vanilla": replace(VANILLA, loss_scale=0.5),
    "3 layers, D's loss halved, DigGAN": replace(DIGGAN, loss_scale=0.5),
    "3 layers, Adam, vanilla": replace(VANILLA, optimiser="adam"),
    "3 layers, Adam, DigGAN": replace(DIGGAN, optimiser="adam"),
}
VARIANCES = (0.1, 1.0, 5.0, 10.0)
EVERY = 10                          # iterations between the points of a curve
STILL = 0.1                         # a run whose points moved by more over its last tenth hasn't settled
MIDDLE = 2.0                        # between the real points
BOTH, AT_0, AT_4, OTHER = range(4)


def run(out: Path, seeds: int = 100, say: Callable[[str], object] = print, quick: bool = False) -> dict[str, Any]:
    """Plays all of it and writes two-point.json and the figures into `out`; returns what the JSON holds (`summary` says it in words).

    seeds: starting points; 500 take about twice as long as 100. quick: half the iterations and the first two rows of the table, to see that
    it runs. Raises UsageError for seeds below 1, HandfulError where matplotlib is missing.
    """
    within(1, seeds=seeds)
    _needs_matplotlib()
    started = time.perf_counter()
    cut = (lambda s: replace(s, iterations=s.iterations // 2)) if quick else (lambda s: s)
    rows, traces = [], {}
    for name, setting in list(TABLE.items())[:2 if quick else None]:
        setting = cut(setting)
        trace = play(setting, initial(setting, seeds), EVERY)
        rows.append({"name": name, "setting": asdict(setting), **_told(trace)})
        say(f"{name}: {_fractions(rows[-1]['outcomes'])}")
        if len(traces) < 2:
            traces[name] = trace
    vanilla, diggan = traces.values()
    result = {"quick": quick, "seeds": seeds, "rows": rows}
    trapped = (outcomes(vanilla.final) == AT_0).nonzero()[:, 0]
    result["trapped"] = len(trapped)
    if len(trapped):
        from .plots import draw

        experiments, drawn = _experiments(cut(VANILLA), cut(DIGGAN), initial(VANILLA, seeds), vanilla, diggan, trapped, say)
        result |= experiments
        result["figures"] = [p.name for p in draw(out, **drawn)]
    result["sec"] = round(time.perf_counter() - started, 1)
    result["sentences"] = sentences(result)
    write_text(out / "two-point.json", json.dumps(result, indent=1) + "\n")
    say(f"{out / 'two-point.json'} and {len(result.get('figures', []))} figures written")
    return result


def _experiments(vanilla: Setting, diggan: Setting, first: State, one: Trace, three: Trace, trapped: Tensor,
                 say: Callable[[str], object]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Games 1 to 4 from the seeds whose vanilla run is trapped on 0: what to report, and what to draw."""
    n = len(trapped)
    covered = trapped[outcomes(three.final[trapped]) == BOTH]
    seed = int(covered[0] if len(covered) else trapped[0])
    peak = {k: t.gap[:, trapped].amax(0).median().item() for k, t in (("vanilla", one), ("DigGAN", three))}
    told = {"drawn_seed": seed, "peak_gap": peak, "experiment_1": {"trapped_from_iteration": _trapped_from(one, trapped)},
            "experiment_3": _told(three, trapped)}
    say(f"3. DigGAN from the starts of the {n} trapped runs: {_fractions(told['experiment_3']['outcomes'])}")

    generator = torch.Generator().manual_seed(derive("two-point", "noise"))
    end = one.end[trapped]
    noise = torch.randn(len(VARIANCES), *end.d.shape, generator=generator, dtype=end.d.dtype)
    two = play(vanilla, joined([State(end.d + v ** 0.5 * e, end.g, end.z) for v, e in zip(VARIANCES, noise)]), EVERY)
    told["experiment_2"] = {}
    for i, v in enumerate(VARIANCES):
        told["experiment_2"][f"{v:g}"] = _told(two, torch.arange(i * n, (i + 1) * n))
        say(f"2. noise of variance {v:g}: {_fractions(told['experiment_2'][f'{v:g}']['outcomes'])}")

    optimal, gap = judge_alone(diggan, end, diggan.iterations)
    stays, escapes = play(vanilla, optimal, EVERY), play(diggan, optimal, EVERY)
    told["experiment_4"] = {"gap_of_optimal_d": gap.median().item(), "below_1e-5": int((gap < 1e-5).sum()),
                            "vanilla": _told(stays), "DigGAN": _told(escapes)}
    say(f"4. D optimal, vanilla: {_fractions(told['experiment_4']['vanilla']['outcomes'])}")
    say(f"4. D optimal, DigGAN: {_fractions(told['experiment_4']['DigGAN']['outcomes'])}")
    place = trapped.tolist().index(seed)
    drawn = dict(vanilla=one, diggan=three, seed=seed, noisy=two, noisy_at=[i * n + place for i in range(len(VARIANCES))], variances=VARIANCES,
                 optimal=optimal, stays=stays, escapes=escapes, place=place, others=trapped[:8].tolist())
    return told, drawn


def _told(trace: Trace, which: Tensor | None = None) -> dict[str, Any]:
    """Counts of the outcomes with fractions and intervals, of all runs or of those named; by their last tenth, how many runs hadn't settled
    ("moving"), and how many had one point about each of the real ones all along, on it or not ("apart")."""
    which = torch.arange(len(trace.final)) if which is None else which
    counts = outcomes(trace.final[which]).bincount(minlength=len(OUTCOMES)).tolist()
    last = trace.x[-max(2, len(trace.x) // 10):, which]
    moving = int(((last.amax(0) - last.amin(0)).amax(1) > STILL).sum())
    apart = int(((last.amin(2) < MIDDLE) & (last.amax(2) > MIDDLE)).all(0).sum())
    return {"of": len(which), "moving": moving, "apart": _counted(apart, len(which)),
            "outcomes": {k: _counted(c, len(which)) for k, c in zip(OUTCOMES, counts)}}


def _counted(count: int, of: int) -> dict[str, Any]:
    return {"count": count, "fraction": count / of, "interval": wilson(count, of)}


def _trapped_from(trace: Trace, trapped: Tensor) -> dict[str, float]:
    """Quartiles of the iteration from which both points stay on 0."""
    on = outcomes(trace.x[:, trapped].flatten(0, 1)).view(len(trace.at), -1) == AT_0        # [T,n]
    stays = on.flip(0).cummin(0).values.flip(0)
    first = (~stays).sum(0).double() * EVERY
    return {name: first.quantile(q).item() for name, q in (("quarter", 0.25), ("median", 0.5), ("three_quarters", 0.75))}


def _fractions(found: dict[str, Any]) -> str:
    return ", ".join(f"{k} {_share(v)}" for k, v in found.items())


def _share(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{100 * found['fraction']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def sentences(result: dict[str, Any]) -> list[str]:
    """What was found beside what the paper shows, from the numbers alone."""
    if result["quick"]:
        return ["Shortened to half the iterations: these fractions can't be compared with the paper."]
    of = {r["name"]: r["outcomes"] for r in result["rows"]}
    found = of["3 layers, vanilla"]
    said = [f"1. {_share(found['both at 0'])} of {result['seeds']} vanilla runs end with both points on 0, as the paper's does; "
            f"{_share(found['both modes'])} cover both points without any help."]
    if not result["trapped"]:
        return [*said, "No run was trapped: the other three experiments have nothing to start from; take more seeds."]
    start, peak, four = result["experiment_1"]["trapped_from_iteration"], result["peak_gap"], result["experiment_4"]
    said[0] += (f" Trapped from iteration {start['median']:.0f} (quartiles {start['quarter']:.0f}, {start['three_quarters']:.0f}; "
                f"the paper: about 3000).")
    back = {v: _share(r["outcomes"]["both at 0"]) for v, r in result["experiment_2"].items()}
    there = {v: _share(r["outcomes"]["both at 4"]) for v, r in result["experiment_2"].items()}
    said.append(f"2. Back on 0 after noise of variance 0.1: {back['0.1']}, 1: {back['1']}, 5: {back['5']}, 10: {back['10']}; both on 4 after "
                f"5: {there['5']}. Not settled after 10: {result['experiment_2']['10']['moving']} of {result['trapped']} (the paper's run doesn't).")
    three, moving = result["experiment_3"]["outcomes"], result["experiment_3"]["moving"]
    verdict = "as the paper's does" if three["both modes"]["fraction"] > 0.5 else "the paper's figure shows such a run, which is not the rule"
    said.append(f"3. DigGAN from the same starts ends on 0 in {_share(three['both at 0'])}, and covers both points in "
                f"{_share(three['both modes'])}: {verdict}. {moving} of {result['trapped']} are still moving; in "
                f"{_share(result['experiment_3']['apart'])} the points stay about one mode each. "
                f"The largest R of a run has the median {peak['DigGAN']:.2g} with DigGAN and {peak['vanilla']:.2g} without.")
    stays, escapes = four["vanilla"]["outcomes"], four["DigGAN"]["outcomes"]
    said.append(f"4. From the optimal D vanilla stays on 0 in {_share(stays['both at 0'])}, DigGAN in {_share(escapes['both at 0'])}; "
                f"DigGAN covers both points in {_share(escapes['both modes'])}. The optimal D's gap has the median "
                f"{four['gap_of_optimal_d']:.1g}; {four['below_1e-5']} of {result['trapped']} are below the paper's 1e-5.")
    regular, long = of["3 layers, DigGAN"], (of[f"3 layers, {k}, 30 000 iterations"]["both modes"] for k in ("vanilla", "DigGAN"))
    said.append(f"Over all seeds both points are covered by {_share(found['both modes'])} without and {_share(regular['both modes'])} with "
                f"DigGAN; after 30 000 iterations by {' and '.join(map(_share, long))}.")
    return said


def summary(result: dict[str, Any]) -> str:
    """The table and the sentences as plain text."""
    lines = [f"{'':42}{''.join(f'{k:>18}' for k in (*OUTCOMES, 'one about each'))}{'still moving':>14}"]
    for row in result["rows"]:
        shares = "".join(f"{_share(found):>18}" for found in (*row["outcomes"].values(), row["apart"]))
        lines.append(f"{row['name']:42}{shares}{100 * row['moving'] / row['of']:>12.0f} %")
    return "\n".join([*lines, "", *result["sentences"]])


def _needs_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise HandfulError("the figures need matplotlib; install it with: pip install 'handful[plots]'") from None
