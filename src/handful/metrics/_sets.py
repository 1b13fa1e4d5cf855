"""What `evaluate` is given, as sets of pictures: a model and its real images, or two folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset, load, locate, test_of
from ..errors import HandfulError, UsageError
from ..infer.model import Model
from ..rng import derive
from ._pictures import Filed, Held, Pictures

Given = str | os.PathLike | Dataset | Tensor
Ticks = Callable[[int, int], None]
MODEL_FILES = (".pt", ".safetensors", ".pkl")


def is_model(path: str | os.PathLike) -> bool:
    """A run's folder has a config.json; a folder of pictures hasn't."""
    path = Path(path).expanduser()
    return path.suffix in MODEL_FILES or (path / "config.json").is_file()


def opened(given: Given, res: int | None, skip_bad: bool, stack: ExitStack, progress: Ticks, by_content: bool = False) -> Pictures:
    """Pictures as they are, or at `res` pixels a side; files are closed with `stack`. by_content: reals, see `_pictures`."""
    if isinstance(given, Tensor | Dataset):
        return Held(_dataset(given))
    if res is not None:
        return Held(load(given, resolution=res, skip_bad=skip_bad, progress=progress))
    if skip_bad:
        raise UsageError("--skip-bad needs --res: without it files are compared as they are, all of them")
    found = Filed(given, by_content)
    stack.callback(found.source.close)
    return found


def beside_model(model: Model, given: Given, wanted: set[str], skip_bad: bool, progress: Ticks,
                 say: Callable[[str], None]) -> dict[str, Dataset]:
    """The real images as the model's were prepared: "all", and of "train" (what it was trained on) and "test" those that are
    wanted.

    Where DATA has a test set of its own (`data.test_of`), "test" is that. Else images that aren't the model's own, by their
    fingerprint, are taken as a whole for either. Raises HandfulError where "test" is wanted of the very images that it was trained
    on.
    """
    config = model.config.data
    if isinstance(given, Tensor | Dataset):
        whole = _dataset(given)
        size = config.resolution if isinstance(config.resolution, tuple) else (config.resolution,) * 2
        if (whole.channels, *whole.resolution) != (config.channels, *size):
            are, makes = ("x".join(map(str, shape)) for shape in ((whole.channels, *whole.resolution), (config.channels, *size)))
            raise UsageError(f"the images are {are}, the model makes {makes}; give a path: they are prepared as its training images then")
        return dict.fromkeys(("all", "train", "test"), whole)
    same_place = bool(config.path) and locate(given).resolve() == locate(config.path).resolve()
    labels = (config.labels if same_place else "auto") if model.generator.num_classes else None
    settings = as_trained(model, skip_bad) | {"labels": labels}
    whole = load(given, progress=progress, **settings)
    for note in whole.notes:
        say(note)
    sets = {"all": whole}
    if wanted & {"train", "test"}:
        own = settings | {"fit": config.fit, "max_images": config.max_images, "first": config.subset == "first", "seed": model.config.seed}
        trained = load(given, **own) if config.max_images or config.fit == "zoomed" else whole
        sets |= {"train": whole, "test": whole}
        if trained.fingerprint == config.fingerprint:
            sets["train"], sets["test"] = trained.split(config.holdout, derive(model.config.seed, "holdout"))
        elif "train" in wanted:
            say(f"{given} is not the very set that the model was trained on; all of it is taken as the training images")
        if "test" in wanted and (other := test_of(given)):
            sets["test"] = load(other, progress=progress, **as_trained(model, skip_bad))
        if "test" in wanted and sets["test"] is None:
            raise HandfulError(f"{given} is what the model was trained on, nothing was held out; name a test set, or take ..._train")
    return sets


def as_trained(model: Model, skip_bad: bool = False) -> dict[str, Any]:
    """How the model's training images were prepared, for `load`; without labels. Nothing is zoomed: for scores no size is drawn."""
    config = model.config.data
    return dict(resolution=config.resolution, channels=config.channels, fit="crop" if config.fit == "zoomed" else config.fit,
                filter=config.filter, window=config.window, skip_bad=skip_bad or config.skip_bad)


def _dataset(given: Dataset | Tensor) -> Dataset:
    if isinstance(given, Dataset):
        return given
    if given.dtype != torch.uint8 or given.dim() != 4:
        raise UsageError(f"pictures are uint8 [N,C,H,W], not {given.dtype} {list(given.shape)}")
    return Dataset(given)
