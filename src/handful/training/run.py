"""A run from start to end: what `handful train` and `handful.train` do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import catalog, data
from .. import config as config_module
from ..config import Config
from ..data.loading import load_for, relabelled
from ..errors import HandfulError, UsageError
from ..files import in_shell, parse_json, read_bounded, write_text
from ..infer.model import Model, load, pick_device
from ..ops.memory import keep_freed_memory
from ..seam import Term
from ..tensors import read_header
from . import checkpoint, choose, distributed, evaluation
from . import log as log_module
from . import threads as threads_module
from .folder import Owner, empty, free_name, has_checkpoints, make, must_be_free, own
from .init_from import Start, check_state, fine_tuning, starting_from
from .log import Log, duration
from .loop import fit, to_images
from .pretrained import settle
from .trainer import Trainer

MAY_CHANGE = ("train.kimg", "train.micro_batch", "train.precision", "train.compile", "train.threads", "train.threads_fixed", "train.guard_kimg",
              "every.", "evaluate.", "optim_g.", "optim_d.", "data.path", "data.labels", "data.groups", "data.skip_bad", "notes", "handful",
              "recipe")
FILLED_IN = ("data.count", "data.class_names", "data.fingerprint")

COPIES_SEC, COPIES_SHARE = 1e-6, 0.05         # per value of the training images, measured on one CPU core; at most this share of the run's time

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
class _Wish:
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


def train(path: str | os.PathLike | None = None, recipe: str = "auto", out: str | os.PathLike | None = None, kimg: float | None = None, *,
          res: int | None = None, batch: int | None = None, seed: int | None = None, labels: str | None = None, device: str = "auto",
          precision: str | None = None, settings: Mapping[str, Any] | Iterable[str] = (), skip_bad: bool = False, dry_run: bool = False,
          init_from: str | os.PathLike | None = None, resume: str | os.PathLike | None = None, threads: int | None = None,
          trust: Iterable[str] = (), report: bool = True, quiet: bool = False, say: Say | None = None,
          reading: Callable[[int, int], None] | None = None) -> Run:
    """Trains a generator on the images of a folder or zip; returns a handle on the run's folder.

    recipe: a name of `handful list recipes`, the config.json of another run, or "auto": a good choice for data and machine. res in pixels;
    kimg: thousands of real images shown to D; settings: {"g.ngf": 32} or ["g.ngf=32"], over the recipe's; a class may stand for its name. resume: a
    run folder to go on with, bit for bit; `path` may then be left out, and `kimg` lengthens it; "auto": the run in `out` where it has begun, else a
    new one. init_from: a MODEL whose weights to start from. threads: of the CPU (none: chosen by timing steps). trust: modules outside of the
    package whose classes a file (config.json, a model, a checkpoint) may name. reading: called with (done, total) while images are read.
    Errors: HandfulError, UsageError.
    """
    say = say or (lambda line: None if quiet else print(line))
    lines = [f"{k}={json.dumps(v, default=_name_of)}" for k, v in settings.items()] if isinstance(settings, Mapping) else list(settings)
    given = {"data.path": None if path is None else os.fspath(path), "train.kimg": kimg, "data.resolution": res, "train.batch": batch,
             "seed": seed, "data.labels": labels, "train.precision": precision, "data.skip_bad": skip_bad or None, "train.threads": threads,
             "train.threads_fixed": None if threads is None else True}
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
        wish = _Wish(lines, recipe, None if out is None else Path(out), init_from, frozenset(trust), dry_run, report, quiet,
                     say if rank == 0 else (lambda line: None), reading if rank == 0 else None, on, rank, world)
        if auto and distributed.from_first(has_checkpoints(wish.out), world):
            return _resume(wish.out, wish, _same_recipe)
        return _resume(Path(resume), wish) if resume is not None and not auto else _start(wish)
    finally:
        torch.set_num_threads(before)


def _name_of(value: Any) -> str:
    """A class in the settings, by its name."""
    if isinstance(value, type):
        return f"{value.__module__}:{value.__qualname__}"
    raise UsageError(f"settings: {value!r} is neither plain data nor a class")


def _start(wish: _Wish) -> Run:
    say, device, rank, world = wish.say, wish.device, wish.rank, wish.world
    start = None if wish.init_from is None else starting_from(wish.init_from, wish.all_trust, say)
    asked = config_module.assign({}, wish.lines)
    place = config_module.sections(asked, "data", "train").data
    scanned = data.scan(place.path, labels=place.labels)

    def settings(lines: list[str], asked: Mapping[str, Any]) -> tuple[choose.Choice, dict[str, Any]]:
        choice = choose.choose(wish.recipe, scanned, device, asked, world)
        tree = config_module.assign(choice.tree, lines)
        if choice.file:
            config_module.refuse_outside(tree, choice.file, wish.trust, wish.given)
        return choice, tree

    lines = wish.lines
    choice, tree = settings(lines, asked)
    labels = config_module.sections(tree, "data").data.labels
    by_itself = labels is None and choose.wants_classes(config_module.parse(tree))
    if by_itself:                                         # a recipe for labelled images takes what DATA has
        labels = "auto"
    if labels != place.labels:
        lines = [*lines, f"data.labels={json.dumps(labels)}"]
        scanned, asked = relabelled(scanned, place.path, labels), config_module.assign({}, lines)
        choice, tree = settings(lines, asked)
    if start is not None:
        tree = config_module.assign(fine_tuning(choice.tree, say), lines)
    if place.holdout:                                     # they are kept out to be looked at
        tree["terms"] = tree.get("terms") or {}
        tree["terms"].setdefault("heldout_logits", {"use": "heldout_logits"})
    config = config_module.parse(tree)
    config.notes = choice.why
    on_classes = choose.about_classes(config, scanned.classes)
    if by_itself:
        on_classes = [f"{config.g.name} is made for labelled images: takes the {scanned.num_classes} classes of {place.path}", *on_classes]
    for line in [*choice.why, *on_classes]:
        say(line)
    folder = wish.out if wish.out is not None else free_name(Path("runs"), f"{data.stem(config.data.path)}-{config.recipe}")
    if rank == 0:
        must_be_free(folder)
    if config.every.tensorboard:
        log_module.summary_writer()                       # missing? then before anything is made
    dataset = _load(config, say, wish.reading)
    for line in choose.about_classes(config, dataset.classes):                    # data.max_images may have left a class with few
        if line not in on_classes:
            say(line)
    config = config_module.resolved(_filled_in(config, dataset))
    named = wish.recipe != "auto" and not any(line.startswith("terms.reconstruction.loss=") for line in lines)
    config = settle(config, say, may_do_without=not named, dry_run=wish.dry_run, rank=rank, world=world)
    evaluation.planned(config)                            # what can't be scored is said now
    found = choose.estimate(config, device, rank, world)
    for line in [*(found.notes if wish.dry_run else []), found.line]:
        say(line)
    if wish.dry_run:
        return Run(folder, finished=False)
    config.train.threads = found.threads or config.train.threads
    if start is not None:
        start.class_names = dataset.class_names
    trainer = _trainer(config, dataset, device, rank, world, start)
    trainer.threads = found.threads
    if trainer.heldout is not None:
        choose.about_classes(config, trainer.dataset.classes)                     # what is left of them without the held-out images
    with _owned(make(folder, named=wish.out is not None) if rank == 0 else folder, wish) as owner:
        if rank == 0:
            folder = owner.folder
            must_be_free(folder)                          # another process may have been here meanwhile
            empty(folder)
            write_text(folder / "config.json", config_module.dumps(config))
        return _run(trainer, distributed.from_first(folder, world), 0.0, wish, owner, {})


def _resume(folder: Path, wish: _Wish, check: Callable[[Config, _Wish, Path], None] | None = None) -> Run:
    """check: of the run's settings against the wish, besides the lines."""
    if not (folder / "config.json").exists():
        raise UsageError(f"{folder} is not a run folder: it has no config.json" if folder.is_dir() else
                         f"--resume {folder}: there is no such folder; name the one that handful train made")
    if wish.dry_run:
        return _go_on(folder, wish, check, None)
    with _owned(folder, wish) as owner:
        return _go_on(folder, wish, check, owner)


def _go_on(folder: Path, wish: _Wish, check: Callable[[Config, _Wish, Path], None] | None, owner: Owner | None) -> Run:
    say, rank, world = wish.say, wish.rank, wish.world
    old = config_module.resolved(config_module.read(folder / "config.json", wish.trust, wish.given))      # later settings: at their defaults
    if check is not None:
        check(old, wish, folder)
    config = config_module.resolved(config_module.parse(config_module.assign(config_module.to_tree(old), wish.lines)))
    changed = _must_be_same(folder, old, config)
    for key, (was, now) in changed.items():
        if key != "notes":
            say(f"changed: {key} {json.dumps(was)} -> {json.dumps(now)}")
    if not data.exists(config.data.path):
        raise HandfulError(f"the images of this run are no longer at {config.data.path}; name them: handful train DATA --resume {in_shell(folder)}")
    path, state = checkpoint.newest_good(folder, say)
    check_state(config, state, path)
    images, sec = state["progress"]["images_seen"], state["progress"].get("sec") or 0.0
    if "train.kimg" in changed and to_images(config.train.kimg) < min(images, to_images(old.train.kimg)):
        raise UsageError(f"--kimg {config.train.kimg:g}: {folder} has seen {images} images already; give more than {images / 1000:g}")
    dataset = _load(config, say, wish.reading)
    if old.data.fingerprint and dataset.fingerprint != old.data.fingerprint:
        raise UsageError(f"{config.data.path} holds other images than this run was trained on ({len(dataset)} now, {old.data.count} then); "
                         f"name the right ones: handful train DATA --resume {in_shell(folder)}")
    if wish.dry_run:
        say(f"{folder} stands at {images} of {config.train.kimg * 1000:.0f} images")
        return Run(folder, finished=False)
    trainer = _trainer(config, dataset, wish.device, rank, world)
    trainer.load_state_dict(state, str(path))
    asked = any(line.partition("=")[0] == "train.threads" for line in wish.lines)
    _as_before(trainer, state["progress"], asked, say)
    del state                                            # it would stay in memory for the whole run
    changes = distributed.from_first(log_module.changes_of_threads(folder, images), world)          # before the first process rewinds the log
    if rank == 0:
        log_module.rewind(folder, images)
        write_text(folder / "config.json", config_module.dumps(config))
    if images >= to_images(config.train.kimg):
        say(f"{folder} is done: {images} of {config.train.kimg * 1000:.0f} images; lengthen it with --kimg")
    return _run(trainer, folder, sec, wish, owner, {} if asked else changes)


def _must_be_same(folder: Path, old: Config, config: Config) -> dict[str, tuple[Any, Any]]:
    """The settings that differ. Raises UsageError where one of them may not."""
    changed = config_module.differences(old, config)
    classes = {name: catalog.part("terms", use.name, "") for name, use in config.terms.items()}
    may = (*MAY_CHANGE, *(f"terms.{name}.{k}" for name, cls in classes.items() if issubclass(cls, Term) for k in cls.may_change))
    refused = [k for k in changed if not k.startswith(may)]
    if refused:
        what = "; ".join(f"{k} is {json.dumps(changed[k][0])}, not {json.dumps(changed[k][1])}" for k in refused)
        raise UsageError(f"{folder} can't go on with other settings: {what}; start a new run for these, with --init-from {in_shell(folder)}")
    return changed


def _same_recipe(old: Config, wish: _Wish, folder: Path) -> None:
    """With --resume auto the recipe is named again: it must be the run's."""
    if wish.recipe.endswith(".json"):
        tree = config_module.assign(config_module.as_it_was(config_module.read_tree(Path(wish.recipe))), wish.lines)
        theirs = config_module.resolved(config_module.from_file(tree, wish.recipe, wish.trust, wish.given))
        for key in FILLED_IN:
            setattr(theirs.data, key.partition(".")[2], getattr(old.data, key.partition(".")[2]))
        _must_be_same(folder, old, theirs)
    elif wish.recipe not in ("auto", old.recipe):
        raise UsageError(f"{folder} can't go on with other settings: its recipe is {old.recipe}, not {wish.recipe}; name another --out for it")


def _as_before(trainer: Trainer, progress: Mapping[str, Any], other_threads: bool, say: Say) -> None:
    """The run's own number of threads; and what keeps it from going on bit for bit is said."""
    why = []
    if (was := progress.get("world")) not in (None, trainer.world):
        why.append(f"{was} {'processes' if was > 1 else 'process'} until now, {trainer.world} from here on")
    if trainer.device.type == "cpu":
        stored = trainer.config.train.threads if other_threads or trainer.threads is None else trainer.threads
        if other_threads and trainer.threads not in (None, stored):
            why.append(f"{trainer.threads} threads until now, {stored} from here on")
        trainer.threads = stored                          # None: a run from before they were stored goes on with torch's own number
        if stored is not None:
            torch.set_num_threads(stored)
            if stored > threads_module.usable():
                say(f"this run computes with {stored} threads, and here are {threads_module.usable()} cores: --threads {threads_module.usable()} is "
                    f"faster, but no longer bit for bit")
    if why:
        say(f"from here on the run is no longer bit for bit what it would have been: {'; '.join(why)}")


@contextmanager
def _owned(folder: Path, wish: _Wish) -> Iterator[Owner | None]:
    """The run's folder for the first process; the others work under its lock."""
    if wish.rank:
        yield None
        return
    with own(folder) as owner:
        yield owner


def _run(trainer: Trainer, folder: Path, sec: float, wish: _Wish, owner: Owner | None, changes: Mapping[int, int]) -> Run:
    total, say, trust = to_images(trainer.config.train.kimg), wish.say, config_module.modules_of(trainer.config)
    log = Log(folder, total_images=total, start_images=trainer.images_seen, quiet=wish.quiet or trainer.rank > 0,
              tensorboard=trainer.config.every.tensorboard, machine=choose.machine(trainer.device)) if trainer.rank == 0 else _Silent()
    started = time.perf_counter()
    with log:
        finished = fit(trainer, folder, log, sec_before=sec, owner=owner, changes=changes)
        if finished and trainer.rank == 0 and trainer.images_seen and not _looked_for_copies(folder):
            owner.check()
            _look_for_copies(trainer, folder, log, sec + time.perf_counter() - started, say)
    if trainer.rank:
        return Run(folder, finished, trust)
    found = checkpoint.index(folder)
    if found.get("best") not in (None, found.get("last")):
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


def _trainer(config: Config, dataset: data.Dataset, device: torch.device, rank: int, world: int,
             start: Start | None = None) -> Trainer:
    precision = choose.precision(config.train.precision, device)
    dataset.place(device, choose.data_budget(device))
    return Trainer(config, dataset, device, rank=rank, world=world, precision=precision,
                   compile=choose.compiles(config.train.compile, device), start=start)


def _load(config: Config, say: Say, reading: Callable[[int, int], None] | None) -> data.Dataset:
    dataset = load_for(config.data, config.seed, progress=reading)
    for note in dataset.notes:
        say(note)
    return dataset


def _filled_in(config: Config, dataset: data.Dataset) -> Config:
    config.data.count, config.data.fingerprint = len(dataset), dataset.fingerprint
    config.data.class_names = list(dataset.class_names)
    return config
