"""What a new run and one that goes on share: what was asked for, the data, the trainer, the folder, and the way through the loop to the report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import catalog, data
from .. import config as config_module
from ..config import Config
from ..data.loading import load_for
from ..errors import HandfulError
from ..files import in_shell, parse_json, read_bounded
from ..infer.model import Model, load
from ..tensors import read_header
from . import checkpoint, choose, ema_choice
from . import log as log_module
from .evaluation import COPIES_SEC
from .folder import Owner, own
from .init_from import Start
from .log import Log, duration
from .loop import fit, to_images
from .trainer import Trainer

COPIES_SHARE = 0.05                           # of the run's time that looking for copies may take

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """A handle on a run's folder. finished: False where the user stopped it; trust: modules outside of the package whose classes it names."""

    folder: Path
    finished: bool = True
    trust: tuple[str, ...] = ()

    def model(self) -> Model:
        """The averaged generator of the run."""
        return load(self.folder, trust=self.trust)

    def config(self) -> Config:
        return config_module.read(self.folder / "config.json", self.trust)

    def log(self) -> list[dict[str, Any]]:
        """Every line of log.jsonl."""
        return log_module.read(self.folder / "log.jsonl")

    def metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics.jsonl: images, metric, value, protocol."""
        return log_module.read(self.folder / "metrics.jsonl")


@dataclass(frozen=True)
class Wish:
    """What the user asked for, for this process. lines: settings; trust: modules that files may name; given: the classes outside of the package that
    the settings themselves name."""

    lines: list[str]
    recipe: str
    out: Path | None
    init_from: str | os.PathLike | None
    trust: frozenset[str]
    dry_run: bool
    report: bool
    quiet: bool
    say: Say
    reading: Callable[[int, int], None] | None
    device: torch.device
    rank: int
    world: int

    @property
    def given(self) -> set[str]:
        return set(config_module.outside(config_module.assign({}, self.lines)).values())

    @property
    def all_trust(self) -> frozenset[str]:
        return self.trust | {catalog.module_of(name) for name in self.given}


def load_data(config: Config, say: Say, reading: Callable[[int, int], None] | None) -> data.Dataset:
    dataset = load_for(config.data, config.seed, progress=reading)
    for note in dataset.notes:
        say(note)
    return dataset


def trainer_of(config: Config, dataset: data.Dataset, device: torch.device, rank: int, world: int,
             start: Start | None = None) -> Trainer:
    precision = choose.precision(config.train.precision, device)
    dataset.place(device, choose.data_budget(device))
    return Trainer(config, dataset, device, rank=rank, world=world, precision=precision,
                   compile=choose.compiles(config.train.compile, device), start=start)


@contextmanager
def owned(folder: Path, wish: Wish) -> Iterator[Owner | None]:
    """The run's folder for the first process; the others work under its lock."""
    if wish.rank:
        yield None
        return
    with own(folder) as owner:
        yield owner


def run(trainer: Trainer, folder: Path, sec: float, wish: Wish, owner: Owner | None, changes: Mapping[int, int], go_on: bool = False) -> Run:
    total, say, trust = to_images(trainer.config.train.kimg), wish.say, config_module.modules_of(trainer.config)
    log = Log(folder, total_images=total, start_images=trainer.images_seen, quiet=wish.quiet or trainer.rank > 0,
              tensorboard=trainer.config.every.tensorboard, machine=choose.machine(trainer.device)) if trainer.rank == 0 else _Silent()
    started = time.perf_counter()
    with log:
        finished = fit(trainer, folder, log, sec_before=sec, owner=owner, changes=changes, go_on=go_on)
        if finished and trainer.rank == 0 and trainer.images_seen and not _looked_for_copies(folder):
            owner.check()
            _look_for_copies(trainer, folder, log, sec + time.perf_counter() - started, say)
    if trainer.rank:
        return Run(folder, finished, trust)
    found = checkpoint.index(folder)
    if found.get("best") not in (None, found.get("last")) and not ema_choice.is_chosen(folder):
        say(f"model.safetensors is the best by {found['metric']} ({found['value']:.4g}), after {int(Path(found['best']).stem)} of "
            f"{trainer.images_seen} images")
    owner.check()
    if wish.report:
        from .report import write_report

        write_report(folder, trust)
    owner.check()
    return Run(folder, finished, trust)


def _looked_for_copies(folder: Path) -> bool:
    """Whether the neighbours of the run's model have been looked for, in this session or before a kill."""
    try:
        found = parse_json(read_bounded(folder / "neighbours.json"), "neighbours.json", dict)
        return str(found.get("images_seen")) == read_header(folder / "model.safetensors")[0].get("images_seen")
    except HandfulError:
        return False


def _look_for_copies(trainer: Trainer, folder: Path, log: Log, sec: float, say: Callable[[str], None]) -> None:
    """Neighbours by pixels, for the report, where they take little beside the run itself."""
    from ..metrics.nearest import write

    height, width = trainer.dataset.resolution
    expected = len(trainer.dataset) * trainer.dataset.channels * height * width * COPIES_SEC
    if expected > max(COPIES_SHARE * sec, 1):
        log.say(f"not looked for copies of training images, which takes about {duration(expected)}: "
                f"handful neighbours {in_shell(folder)} {in_shell(trainer.config.data.path)} --by pixel")
        return
    show = lambda stage, done, total: log.stage(f"{stage} {done}/{total}")                                   # noqa: E731
    try:
        model = load(folder, trainer.device, config_module.modules_of(trainer.config))
        figures = write(folder, model, trainer.dataset, trainer.heldout, progress=show)
    except Exception as error:                            # never lose a run over it
        log.say(f"not looked for copies of training images: {error}")
    else:
        say(f"nearest training images, by pixels: {figures['sentence']}")


class _Silent:
    """What the other ranks log to."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None: ...
    def say(self, line: str, images: int | None = None) -> None: ...
    def progress(self, images: int) -> None: ...
    def write(self, images: int, values: Mapping[str, float], status: Sequence[str] = ()) -> None: ...
    def score(self, images: int, name: str, found: Mapping[str, Any]) -> None: ...
    def change_threads(self, images: int, was: int, now: int, why: str) -> None: ...
    def stage(self, line: str) -> None: ...
