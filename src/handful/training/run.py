"""A run from start to end: what `handful train` and `handful.train` do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from ..infer.model import pick_device
from ..ops.memory import keep_freed_memory
from . import distributed
from .folder import has_checkpoints
from .resume import resume as go_on
from .resume import same_recipe
from .session import Run, Say, Wish
from .start import start


def train(path: str | os.PathLike | None = None, recipe: str = "auto", out: str | os.PathLike | None = None, kimg: float | None = None, *,
          res: int | None = None, batch: int | None = None, seed: int | None = None, labels: str | None = None, device: str = "auto",
          precision: str | None = None, settings: Mapping[str, Any] | Iterable[str] = (), skip_bad: bool = False, dry_run: bool = False,
          init_from: str | os.PathLike | None = None, resume: str | os.PathLike | None = None, threads: int | None = None, stop: str | None = None,
          trust: Iterable[str] = (), report: bool = True, quiet: bool = False, say: Say | None = None,
          reading: Callable[[int, int], None] | None = None) -> Run:
    """Trains a generator on the images of a folder or zip; returns a handle on the run's folder.

    recipe: a name of `handful list recipes`, the config.json of another run, or "auto": a good choice for data and machine. res in pixels;
    kimg: thousands of real images shown to D; settings: {"g.ngf": 32} or ["g.ngf=32"], over the recipe's; a class may stand for its name. resume: a
    run folder to go on with, bit for bit; `path` may then be left out, and `kimg` lengthens it; "auto": the run in `out` where it has begun, else a
    new one. init_from: a MODEL whose weights to start from. threads: of the CPU (none: chosen by timing steps). stop: "auto" ends the run when its
    scores no longer improve or samples become copies. trust: modules outside of the package whose classes a file (config.json, a model, a
    checkpoint) may name. reading: called with (done, total) while images are read.
    Errors: HandfulError, UsageError.
    """
    say = say or (lambda line: None if quiet else print(line))
    lines = [f"{k}={json.dumps(v, default=_name_of)}" for k, v in settings.items()] if isinstance(settings, Mapping) else list(settings)
    given = {"data.path": None if path is None else os.fspath(path), "train.kimg": kimg, "data.resolution": res, "train.batch": batch,
             "seed": seed, "data.labels": labels, "train.precision": precision, "data.skip_bad": skip_bad or None, "train.threads": threads,
             "train.threads_fixed": None if threads is None else True, "evaluate.stop": stop}
    lines = [f"{k}={json.dumps(v)}" for k, v in given.items() if v is not None] + lines
    auto = resume is not None and os.fspath(resume) == "auto"
    if auto and out is None:
        raise UsageError("--resume auto goes on with the run in --out where there is one: name it with --out RUN")
    if resume is not None and not auto and (init_from is not None or out is not None or recipe != "auto"):
        raise UsageError("--resume goes on with a run as it is; leave out --out, --recipe and --init-from")
    if path is None and (resume is None or auto):
        raise UsageError("name the images to train on: handful train DATA")
    before = torch.get_num_threads()
    try:
        on, rank, world = _join(device)
        wish = Wish(lines, recipe, None if out is None else Path(out), init_from, frozenset(trust), dry_run, report, quiet,
                     say if rank == 0 else (lambda line: None), reading if rank == 0 else None, on, rank, world)
        if auto and distributed.from_first(has_checkpoints(wish.out), world):
            return go_on(wish.out, wish, same_recipe)
        return go_on(Path(resume), wish) if resume is not None and not auto else start(wish)
    finally:
        torch.set_num_threads(before)


def _name_of(value: Any) -> str:
    """A class in the settings, by its name."""
    if isinstance(value, type):
        return f"{value.__module__}:{value.__qualname__}"
    raise UsageError(f"settings: {value!r} is neither plain data nor a class")


def _join(device_name: str) -> tuple[torch.device, int, int]:
    """The device of this process, one GPU each; its rank; among how many."""
    local = os.environ.get("LOCAL_RANK")
    if local is not None and device_name in ("auto", "cuda") and torch.cuda.is_available():
        if int(local) >= torch.cuda.device_count():
            raise UsageError(f"--gpus: process {int(local) + 1} has no GPU, this machine has {torch.cuda.device_count()}; start as many")
        device_name = f"cuda:{local}"
    device = pick_device(device_name)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.set_device(device)
    elif device.type == "cpu":
        keep_freed_memory()
    return device, *distributed.start(device)
