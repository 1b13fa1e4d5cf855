"""Are the samples copies? Their distances to the training images against those of reals, as figures and in plain words.

Two figures per kind of distance. `closer`: how many samples lie nearer to a training image than the closest percent of reals do. `stands_out`:
the same for the ratio of the nearest distance to the mean of the next ones (Carlini et al., "Extracting Training Data from Diffusion Models",
USENIX Security 2023, section 4.2, normalise in this way): a blurred or plain picture is near to many images, a copy to one.

If samples were new images from the reals' source, how many of n fall below the k-th smallest of R reals follows the negative hypergeometric
distribution, which gives p, and the share of copies that n samples would show. A single copy has no small p; `blatant` counts samples that are
nearer than HALF the least distance of any real, and stand out by as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NEAR = 8                                 # nearest images that are looked at
ALARM = 0.01                             # p below which it is said
CONFIDENCE = 0.95
HALF = 0.5
NEAR_DUPLICATES = 0.25                   # closest percent of the reals / their median, below which the set itself holds near duplicates
FARTHER = 0.25                           # rank below which the samples are said to lie farther away than reals
NAMES = {"pixel": "pixels", "lpips": "LPIPS", "features": "Inception features"}


def compare(fake: Tensor, real: Tensor, pairs: bool) -> dict[str, Any]:
    """Figures of one kind from the distances of fakes [n,K] and reals [R,K] to their K nearest training images, in order.

    pairs: the reals are measured against each other.
    """
    found: dict[str, Any] = {
        "fakes": spread(fake[:, 0]), "reals": spread(real[:, 0]),
        "rank": rank(fake[:, 0], real[:, 0]), "closer": below(fake[:, 0], real[:, 0], pairs)}
    blatant = fake[:, 0] < HALF * real[:, 0].min()
    if fake.shape[1] > 2:
        found["stands_out"] = below(ratio(fake), ratio(real), pairs)
        blatant &= ratio(fake) < HALF * ratio(real).min()
    found["blatant"] = int(blatant.sum())
    return found | {"detectable_share": detectable(len(fake), *independent(len(real), pairs))}


def ratio(distance: Tensor) -> Tensor:
    """[n]: the nearest distance as a share of the mean of the next ones; 1: it is one of many, 0: a copy."""
    return distance[:, 0] / distance[:, 1:].mean(1).clamp(min=1e-12)


def spread(values: Tensor) -> dict[str, float]:
    low, middle = torch.quantile(values.double(), torch.tensor([0.01, 0.5], dtype=torch.float64)).tolist()
    return {"least": float(values.min()), "percent": low, "median": middle}


def closest(reals: int) -> int:
    """Which of the reals' sorted values bounds their closest percent: the first where there are fewer than 100."""
    return max(1, reals // 100)


def independent(reals: int, pairs: bool) -> tuple[int, int]:
    """(k, R) for `tail`. Two reals that are nearest to each other have one distance between them: at worst half the values are independent."""
    return (max(1, closest(reals) // 2), max(1, reals // 2)) if pairs else (closest(reals), reals)


def below(fake: Tensor, real: Tensor, pairs: bool) -> dict[str, float]:
    """How many fakes lie below the closest percent of reals, and how probable as many are without copying."""
    bound = float(real.sort().values[closest(len(real)) - 1])
    count, (k, reals) = int((fake < bound).sum()), independent(len(real), pairs)
    return {"bound": bound, "count": count, "share": count / len(fake), "expected": k / (reals + 1), "p": tail(count, len(fake), k, reals)}


def rank(fake: Tensor, real: Tensor) -> float:
    """How often a sample lies nearer than a real, ties half: 0.5 where both do alike, the area under the ROC curve."""
    real = real.double().sort().values
    more = len(real) - torch.searchsorted(real, fake.double(), right=True)
    ties = torch.searchsorted(real, fake.double(), right=True) - torch.searchsorted(real, fake.double())
    return float((more + ties / 2).double().mean()) / len(real)


def tail(count: int, n: int, k: int, reals: int) -> float:
    """P(at least `count` of n lie below the k-th smallest of `reals`) when all are drawn alike: negative hypergeometric."""
    if count == 0:
        return 1.0
    x = torch.arange(count, n + 1, dtype=torch.float64)
    choose = lambda a, b: torch.lgamma(a + 1) - torch.lgamma(b + 1) - torch.lgamma(a - b + 1)               # log of the binomial coefficient
    whole = choose(torch.tensor(float(n + reals), dtype=torch.float64), torch.tensor(float(n), dtype=torch.float64))
    return float((choose(x + k - 1, x) + choose(n - x + reals - k, n - x) - whole).exp().sum().clamp(max=1))


def detectable(n: int, k: int, reals: int) -> float | None:
    """The smallest share of copies that n samples would show (p < ALARM) with the stated confidence; None: none, there are too few."""
    needed = next((c for c in range(1, n + 1) if tail(c, n, k, reals) < ALARM), None)
    if needed is None:
        return None
    missed = lambda q: sum(math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(q) + (n - i) * math.log1p(-q))
                           for i in range(needed))
    low, high = 1e-9, 1 - 1e-9
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if missed(middle) <= 1 - CONFIDENCE else (middle, high)
    return high


def suspicion(kinds: Mapping[str, Mapping[str, Any]], distances: Mapping[str, Tensor]) -> Tensor:
    """[n], the smaller the more suspicious: nearness times standing out, each as a multiple of the reals' bound; of the kinds the smallest."""
    found = []
    for kind, distance in distances.items():
        figures = kinds[kind]
        value = distance[:, 0] / max(figures["closer"]["bound"], 1e-12)
        if "stands_out" in figures:
            value = value * ratio(distance) / max(figures["stands_out"]["bound"], 1e-12)
        found.append(value)
    return torch.stack(found).amin(0)


def verdict(figures: Mapping[str, Any]) -> str:
    """"copies", "smooth" (near, but to many images alike) or "none"."""
    near, alone = figures["closer"]["p"] < ALARM, figures.get("stands_out", figures["closer"])["p"] < ALARM
    return "copies" if alone or figures["blatant"] else "smooth" if near else "none"


def sentence(kinds: Mapping[str, Mapping[str, Any]], n: int, reals: int, heldout: bool) -> str:
    """What the figures say."""
    who = f"{reals} held-out {'real' if reals == 1 else 'reals'}" if heldout else f"{reals} reals, each against the others,"
    than = f"99 % of {who}" if closest(reals) > 1 or reals >= 100 else f"any of {who}"
    verdicts = {kind: verdict(figures) for kind, figures in kinds.items()}
    for wanted in ("copies", "smooth"):
        at = [kind for kind, found in verdicts.items() if found == wanted]
        if not at:
            continue
        worst = max(at, key=lambda kind: (kinds[kind]["closer"]["p"] < ALARM, kinds[kind]["blatant"], kinds[kind]["closer"]["share"]))
        f = kinds[worst]
        by = f" by {NAMES[worst]}" + (f" (alike by {' and '.join(NAMES[k] for k in at if k != worst)})" if len(at) > 1 else "")
        closer = f"{percent(f['closer']['share'])} of {n} samples lie closer to a training image than {than} do{by}"
        if wanted == "smooth":
            return (f"{closer}, but to many training images at once, as blurred or plain pictures do: more likely smoothness than copying; "
                    f"look at the first rows")
        if f["closer"]["p"] < ALARM:
            said = closer
        elif f["blatant"]:
            verb = "is" if f["blatant"] == 1 else "are"
            said = f"{f['blatant']} of {n} samples {verb} less than half as far from a training image as any of {who} is{by}"
        else:
            share = percent(f["stands_out"]["share"])
            said = f"in {share} of {n} samples the nearest training image stands out from the next ones more than in {than}{by}"
        return f"{said}: it may have memorised; look at the first rows"
    share = min((f["detectable_share"] for f in kinds.values() if f["detectable_share"] is not None), default=None)
    if share is None:
        more = "hold out more images (data.holdout)" if heldout else "take more samples (--samples)"
        return f"nothing can be said: {n} samples and {reals} reals are too few; {more}"
    seeing = {kind: f for kind, f in kinds.items() if kind != "pixel"} or kinds                # by pixels a blur is near to everything
    far = all(f["rank"] < FARTHER for f in seeing.values())
    return (f"no sign of copying at this sample size: {n} samples would show a share of copies above {percent(share)} with 95 % confidence"
            + ("; but they lie farther from the training images than reals do: look again when they are better" if far else ""))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.01 else f"{100 * share:.0f} %"


def notes(kinds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    hidden = [NAMES[k] for k, f in kinds.items() if f["closer"]["bound"] < NEAR_DUPLICATES * f["reals"]["median"]]
    return [f"the reals hold near duplicates (by {', '.join(hidden)}), against which copies would not stand out; "
            f"`handful data check` names them"] if hidden else []
