"""Was anything memorised? The training images nearest to samples, against how near reals lie to each other: `handful neighbours`.

Distances: "pixel", the mean absolute difference; "features", Euclidean, of Inception's; "lpips" (Zhang et al., CVPR 2018), of pictures
reduced to 64 pixels and only among the nearest by the other two, for all pairs would take hours. Mirror images of the training set count
as training images. What the figures mean: `_copies`.

The reals to compare with are the held-out images, else each training image against the others: at most REALS of them, drawn by the run's
seed; by LPIPS as many as there are samples, or LPIPS_REALS. Training images that are equal pixel for pixel, also mirrored, are taken once:
otherwise a real would be at distance 0 from its double, and no sample could be nearer than that. Held-out images that equal a training
image are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Dataset
from ..data.loading import load_for
from ..data.problems import count
from ..errors import HandfulError, UsageError
from ..errors import nearest as hint
from ..files import write_text
from ..infer import Model, load
from ..infer.grid import save_image
from ..rng import derive
from . import _copies as copies
from . import _search as search
from ._metric import Metric, Resources
from ._nearest_sheet import sheet
from ._search import Found, Images
from ._stats import Stats

KINDS = ("pixel", "lpips", "features")
REALS, LPIPS_REALS = 1000, 64
SHOWN, ROWS = 3, 32                      # neighbours in the sheet, per kind; rows of it
DOUBLE = 1e-3                            # of the usual distance: features of one picture twice, to rounding
FILES = "neighbours.json", "neighbours.jpg"

Progress = Callable[[str, int, int], None]           # (what is done, how many of it, of how many)


@dataclass
class Nearest(Metric):
    """`Nearest()(real_features, fake_features)`: the share of fakes nearer to a real than the closest percent of reals are to each other.

    New images score about 0.01, copies up to 1. Reals that have a double are not among those whose distances are compared with.
    """

    better = "lower"
    least = 3

    def compute(self, real: Stats, fake: Stats, resources: Resources, key: Any = None) -> dict[str, Any]:
        x, y = real.features, fake.features
        k = min(copies.NEAR, len(x) - 1)
        of_fakes = search.by_features(torch.stack([y, y]), x, k)
        of_reals = search.by_features(torch.stack([x, x]), x, k, torch.arange(len(x))).distance
        single = of_reals[:, 0] > DOUBLE * of_reals[:, -1].median()
        found = copies.compare(of_fakes.distance, of_reals[single] if single.any() else of_reals, pairs=True)
        return {"value": found["closer"]["share"], **found}


@dataclass(frozen=True)
class Neighbours:
    """figures: everything measured, plain data. sheet: uint8 [H,W,3]."""

    figures: dict[str, Any]
    sheet: np.ndarray

    @property
    def sentence(self) -> str:
        return self.figures["sentence"]

    def save(self, folder: Path | str) -> tuple[Path, Path]:
        """Writes neighbours.json and neighbours.jpg into the folder; returns their paths."""
        figures, picture = (Path(folder) / name for name in FILES)
        save_image(picture, self.sheet, quality=88)
        write_text(figures, json.dumps(self.figures, indent=1, ensure_ascii=False))
        return figures, picture


def neighbours(model: Model | Path | str, data: Path | str, samples: int = 64, *, kinds: Sequence[str] = KINDS, seeds: Sequence[int] | None = None,
               device: str = "auto", progress: Progress | None = None, trust: Iterable[str] = ()) -> Neighbours:
    """The nearest training images of a model's samples. data: the images that it was trained on; they are prepared as its settings say.

    samples: seeds 0 ... samples - 1, unless `seeds` are given. kinds: of "pixel", "lpips", "features"; those whose weights aren't here are left
    out, and said. trust: modules outside of the package whose classes the model's file may name. Raises HandfulError, UsageError.
    """
    check_kinds(kinds)
    progress = progress or (lambda *_: None)
    loaded = model if isinstance(model, Model) else load(model, device, trust)
    settings = loaded.config.data.model_copy(update={"path": str(data)})
    dataset = load_for(settings, loaded.config.seed, progress=lambda done, total: progress("reading the images", done, total))
    notes, heldout = [], None
    if settings.fingerprint and dataset.fingerprint != settings.fingerprint:
        notes.append(f"{data} does not hold what the model was trained on: the samples are compared with all of it")
    else:
        dataset, heldout = dataset.split(settings.holdout, derive(loaded.config.seed, "holdout"))
    found = compare(loaded, dataset, heldout, seeds=range(samples) if seeds is None else seeds, kinds=kinds, progress=progress)
    found.figures["notes"] = notes + found.figures["notes"]
    return found


def write(run_folder: Path | str, model: Model, dataset: Dataset, heldout: Dataset | None = None, samples: int = 64,
          kinds: Sequence[str] = ("pixel",), progress: Progress | None = None) -> dict[str, Any]:
    """`compare`, into a run's folder, where the report finds it. Returns the figures."""
    found = compare(model, dataset, heldout, seeds=range(samples), kinds=kinds, progress=progress)
    found.save(run_folder)
    return found.figures


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises UsageError for kinds that there aren't."""
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"no distance '{kind}'{hint(kind, KINDS)}")
    if not kinds:
        raise UsageError(f"name at least one distance of {', '.join(KINDS)}")


def compare(model: Model, dataset: Dataset, heldout: Dataset | None = None, *, seeds: Sequence[int] = range(64), kinds: Sequence[str] = KINDS,
            progress: Progress | None = None) -> Neighbours:
    """The samples of `seeds` against the images that the model was trained on; heldout: others of the same source, if there are any."""
    check_kinds(kinds)
    progress = progress or (lambda *_: None)
    samples, done = [], 0
    for part in model.stream(seeds):
        samples.append(torch.from_numpy(part).permute(0, 3, 1, 2))                                          # [B,C,H,W]
        progress("making samples", done := done + len(part), len(seeds))
    if not samples:
        raise UsageError("no seeds: name some, e.g. 0-63")
    sets, notes = _sets(torch.cat(samples), dataset, heldout, torch.device("cpu") if model.device.type == "mps" else model.device, model.config.seed)
    found, left_out = _searched(sets, kinds, model.device, progress)
    of_kind = {kind: copies.compare(*(f.distance for f in pair), heldout is None) for kind, pair in found.items()}
    n, reals = len(sets.fakes), len(sets.reals)
    order = copies.suspicion(of_kind, {kind: pair[0].distance for kind, pair in found.items()}).sort(stable=True).indices
    figures = {
        "sentence": copies.sentence(of_kind, n, reals, heldout is not None),
        "notes": notes + copies.notes(of_kind) + [f"{copies.NAMES[kind]}: left out, {why}" for kind, why in left_out.items()],
        "samples": n, "images_seen": model.images_seen, "training_images": len(dataset), "distinct": len(sets.base), "reals": reals,
        "reals_are": "held-out images against the training images" if heldout is not None else "training images, each against the others",
        "protocol": {kind: _protocol(kind, pair) for kind, pair in found.items()}, "kinds": of_kind,
        "rows": [_row(i, seeds, dataset, sets, found) for i in order.tolist()]}
    return Neighbours(figures, _sheet(order[:ROWS], seeds, sets, found, of_kind, n))


# ------------------------------------------------------------------------------------------------------------------ the parts


@dataclass(frozen=True)
class _Sets:
    fakes: Images
    base: Images                       # the training images, each once
    reals: Images
    itself: Tensor | None                # which of `base` each real is; None: they are held out
    names: Tensor                        # which of the data set each of `base` is


def _sets(fakes: Tensor, dataset: Dataset, heldout: Dataset | None, device: torch.device, seed: int) -> tuple[_Sets, list[str]]:
    known, notes = search.digests(Images(dataset)), []
    first = torch.tensor(sorted({d: i for i, d in reversed(list(enumerate(known.tolist())))}.values()))
    if len(first) < len(known):
        notes.append(f"{count(len(known) - len(first), 'training image')} equal to another, or to its mirror image: each picture is taken once")
    if len(first) < 2:
        raise HandfulError("all training images are the same picture; there is nothing to compare with")
    base, itself = Images(dataset, device).only(first), None
    if heldout is None:
        itself = torch.randperm(len(first), generator=torch.Generator().manual_seed(derive(seed, "neighbours")))[:REALS].sort().values
        reals = base.only(itself)
    else:
        theirs = search.digests(Images(heldout))
        new = (~torch.isin(theirs, known)).nonzero()[:REALS, 0]
        if len(new) < min(len(theirs), REALS):
            notes.append(f"{count(int(torch.isin(theirs, known).sum()), 'held-out image')} equal to a training image: left out")
        if not len(new):
            raise HandfulError("every held-out image is a training image too; name groups (data.groups) or take the doubles out")
        reals = Images(heldout, device).only(new)
    return _Sets(Images(fakes, device), base, reals, itself, first), notes


def _searched(sets: _Sets, kinds: Sequence[str], device: torch.device, progress: Progress) -> tuple[dict[str, tuple[Found, Found]], dict[str, str]]:
    """Per kind the nearest of the fakes and of the reals; and why a kind is left out. LPIPS takes its candidates from the other kinds."""
    k = min(copies.NEAR, len(sets.base) - 1)
    tick = lambda what: lambda done, total: progress(what, done, total)
    found, left_out = {}, {}
    if "pixel" in kinds or "lpips" in kinds:
        found["pixel"] = (search.by_pixels(sets.fakes, sets.base, k, None, tick("samples, by pixels")),
                          search.by_pixels(sets.reals, sets.base, k, sets.itself, tick("reals, by pixels")))
    if "features" in kinds:
        try:
            found["features"] = _by_features(_extractor(device), sets, k, tick)
        except HandfulError as error:
            left_out["features"] = str(error)
    if "lpips" in kinds:
        try:
            network = _lpips(sets.base.device)
        except HandfulError as error:
            left_out["lpips"] = str(error)
        else:
            some = torch.linspace(0, len(sets.reals) - 1, min(len(sets.reals), max(len(sets.fakes), LPIPS_REALS))).long()
            fewer = sets.reals.only(some)
            cut = lambda f: Found(f.distance[some], f.index[some], f.mirrored[some])
            found["lpips"] = (search.by_lpips(network, sets.fakes, sets.base, [pair[0] for pair in found.values()], k, tick("samples, by LPIPS")),
                              search.by_lpips(network, fewer, sets.base, [cut(pair[1]) for pair in found.values()], k, tick("reals, by LPIPS")))
    found = {kind: found[kind] for kind in KINDS if kind in found and kind in kinds}
    if not found:
        raise HandfulError("; ".join(left_out.values()))
    return found, left_out


def _by_features(network: nn.Module, sets: _Sets, k: int, tick: Callable[[str], search.Tick]) -> tuple[Found, Found]:
    def seen(images: Images, what: str, *mirrored: bool) -> Tensor:
        ticks = [tick(f"features of {what}{', mirrored' if m else ''}") for m in mirrored]
        return torch.stack([search.features(network, images, m, t).to(sets.base.device) for m, t in zip(mirrored, ticks)])

    base = seen(sets.base, "the training images", False)[0]
    if sets.itself is None:
        reals = seen(sets.reals, "the held-out images", False, True)
    else:
        reals = torch.stack([base[sets.itself.to(base.device)], seen(sets.reals, "the training images", True)[0]])
    fakes = seen(sets.fakes, "the samples", False, True)
    return search.by_features(fakes, base, k), search.by_features(reals, base, k, sets.itself)


def _extractor(device: torch.device):
    from ..features.extractor import extractor

    return extractor("inception", device)


def _lpips(device: torch.device):
    from ..features.lpips import LPIPS

    return LPIPS.load(device=device)


def _protocol(kind: str, pair: tuple[Found, Found]) -> str:
    """How the distances of one kind were measured."""
    what = {"pixel": "mean absolute difference in levels of 0..255", "features": "Euclidean distance of Inception's 2048 features",
            "lpips": f"LPIPS v0.1, VGG16, of pictures reduced to {search.LPIPS_SIDE} pixels if they are larger"}[kind]
    among = "over all training images and their mirror images" if kind != "lpips" else (
        f"among the {copies.NEAR} nearest by pixels, and as many by features where these are measured, mirror images included")
    return f"{what}, {among}; {len(pair[1].index)} reals"


def _row(i: int, seeds: Sequence[int], dataset: Dataset, sets: _Sets, found: dict[str, tuple[Found, Found]]) -> dict[str, Any]:
    row: dict[str, Any] = {"seed": int(seeds[i])}
    for kind, (f, _) in found.items():
        row[kind] = [{"image": dataset.names[at] if dataset.names else at, "distance": d, "mirrored": m}
                     for d, at, m in zip(f.distance[i, :SHOWN].tolist(), sets.names[f.index[i, :SHOWN]].tolist(), f.mirrored[i, :SHOWN].tolist())]
    return row


def _sheet(order: Tensor, seeds: Sequence[int], sets: _Sets, found: dict[str, tuple[Found, Found]], of_kind: dict[str, dict], n: int) -> np.ndarray:
    image = lambda x: x.cpu().permute(0, 2, 3, 1).numpy()                                                   # [B,C,H,W] -> [B,H,W,C]
    shown = {}
    for kind, (f, _) in found.items():
        index, mirrored, times = (t[order, :SHOWN] for t in (f.index, f.mirrored, f.distance / max(of_kind[kind]["closer"]["bound"], 1e-12)))
        x = sets.base.take(index.flatten())
        x = torch.where(mirrored.flatten().to(x.device)[:, None, None, None], x.flip(-1), x)
        texts = [[f"{t:.2f}" + (" mirrored" if m else "") for t, m in zip(*pair)] for pair in zip(times.tolist(), mirrored.tolist())]
        shown[f"nearest by {copies.NAMES[kind]}"] = image(x).reshape(*index.shape, *image(x).shape[1:]), (times < 1).numpy(), texts
    some = "" if len(order) == n else f", the first {len(order)} of {n}"
    legend = (f"Samples and the training images nearest to them, the most suspicious first{some}. A number is the distance as a multiple of that "
              f"within which the closest {'percent' if len(sets.reals) >= 100 else 'one'} of {len(sets.reals)} reals lies; below 1 it is red.")
    return sheet(image(sets.fakes.take(order)), [f"seed {seeds[i]}" for i in order.tolist()], shown, legend)
