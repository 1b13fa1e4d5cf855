"""A run from start to end: what `handful train` and `handful.train` do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import config as config_module
from .. import data
from ..config import Config
from ..data.loading import load_for, refusal, relabelled
from ..errors import HandfulError, UsageError
from ..files import in_shell, load_checkpoint, write_text
from ..infer.model import Model, load, pick_device
from ..ops.memory import keep_freed_memory
from ..seam import Discriminator, Generator
from . import checkpoint, choose, evaluation, reduce
from . import log as log_module
from .fit import fit, to_images
from .log import Log, duration
from .loop import Trainer

ADA = tuple(f"terms.ada_controller.{k}" for k in ("target", "kimg", "interval", "max_p"))
MAY_CHANGE = (*ADA, "train.kimg", "train.micro_batch", "train.precision", "train.compile", "train.guard_kimg", "every.", "evaluate.", "optim_g.",
              "optim_d.", "data.path", "data.labels", "data.groups", "data.skip_bad", "notes", "handful", "recipe")

COPIES_SEC, COPIES_SHARE = 1e-6, 0.05         # per value of the training images, measured on one CPU core; at most this share of the run's time


@dataclass(frozen=True)
class Run:
    """A handle on a run's folder. finished: False where the user stopped it."""

    folder: Path
    finished: bool = True

    def model(self) -> Model:
        """The averaged generator of the run."""
        return load(self.folder)

    def config(self) -> Config:
        return config_module.read(self.folder / "config.json")

    def log(self) -> list[dict[str, Any]]:
        """Every line of log.jsonl."""
        return log_module.read(self.folder / "log.jsonl")

    def metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics.jsonl: images, metric, value, protocol."""
        return log_module.read(self.folder / "metrics.jsonl")


def train(path: str | os.PathLike | None = None, recipe: str = "auto", out: str | os.PathLike | None = None, kimg: float | None = None, *,
          res: int | None = None, batch: int | None = None, seed: int | None = None, labels: str | None = None, device: str = "auto",
          precision: str | None = None, settings: Mapping[str, Any] | Iterable[str] = (), skip_bad: bool = False, dry_run: bool = False,
          init_from: str | os.PathLike | None = None, resume: str | os.PathLike | None = None, report: bool = True, quiet: bool = False,
          say: Callable[[str], None] | None = None) -> Run:
    """Trains a generator on the images of a folder or zip; returns a handle on the run's folder.

    recipe: a name of `handful list recipes`, the config.json of another run, or "auto": a good choice for data and machine. res in pixels;
    kimg: thousands of real images shown to D; settings: {"g.ngf": 32} or ["g.ngf=32"], over the recipe's. resume: a run folder to go on with,
    bit for bit; `path` may then be left out, and `kimg` lengthens it. init_from: a MODEL whose weights to start from. Errors: HandfulError,
    UsageError.
    """
    say = say or (lambda line: None if quiet else print(line))
    lines = [f"{k}={json.dumps(v)}" for k, v in settings.items()] if isinstance(settings, Mapping) else list(settings)
    given = {"data.path": None if path is None else os.fspath(path), "train.kimg": kimg, "data.resolution": res, "train.batch": batch,
             "seed": seed, "data.labels": labels, "train.precision": precision, "data.skip_bad": skip_bad or None}
    lines = [f"{k}={json.dumps(v)}" for k, v in given.items() if v is not None] + lines
    if resume is not None:
        if init_from is not None or out is not None or recipe != "auto":
            raise UsageError("--resume goes on with a run as it is; leave out --out, --recipe and --init-from")
        return _resume(Path(resume), lines, device, dry_run, report, quiet, say)
    if path is None:
        raise UsageError("name the images to train on: handful train DATA")
    return _start(lines, recipe, out, device, dry_run, init_from, report, quiet, say)


def _start(lines: list[str], recipe: str, out: str | os.PathLike | None, device_name: str, dry_run: bool,
           init_from: str | os.PathLike | None, report: bool, quiet: bool, say: Callable[[str], None]) -> Run:
    device, rank, world = _join(device_name)
    say = say if rank == 0 else (lambda line: None)
    asked = config_module.assign({}, lines)
    place = config_module.sections(asked, "data", "train").data
    scanned = data.scan(place.path, labels=place.labels)
    choice = choose.choose(recipe, scanned, device, asked, world)
    tree = config_module.assign(choice.tree, lines)
    labels = config_module.sections(tree, "data").data.labels
    by_itself = labels is None and choose.wants_classes(config_module.parse(tree))
    if by_itself:                                         # a recipe for labelled images takes what DATA has
        labels = "auto"
    if labels != place.labels:
        lines = [*lines, f"data.labels={json.dumps(labels)}"]
        scanned, asked = relabelled(scanned, place.path, labels), config_module.assign({}, lines)
        choice = choose.choose(recipe, scanned, device, asked, world)
    tree = config_module.assign(choice.tree if init_from is None else _fine_tuning(choice.tree, say), lines)
    if place.holdout:                                     # they are kept out to be looked at
        tree.setdefault("terms", {}).setdefault("heldout_logits", {"use": "heldout_logits"})
    config = config_module.parse(tree)
    config.notes = choice.why
    on_classes = choose.about_classes(config, scanned.classes)
    if by_itself:
        on_classes = [f"{config.g.name} is made for labelled images: takes the {scanned.num_classes} classes of {place.path}", *on_classes]
    for line in [*choice.why, *on_classes]:
        say(line)
    folder = Path(out) if out is not None else free_name(Path("runs"), f"{data.stem(config.data.path)}-{config.recipe}")
    if rank == 0 and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _in_use(folder)
    if config.every.tensorboard:
        log_module.summary_writer()                       # missing? then before anything is made
    if dry_run:
        if scanned.problems and not config.data.skip_bad:
            say(str(refusal(scanned.problems, scanned.count + len(scanned.problems), scanned.path)))
        config.data.class_names = scanned.class_names
        config.data.count = min(scanned.count, config.data.max_images or scanned.count)
        found = choose.estimate(config, device, rank, world)
        for line in [*found.notes, found.line]:
            say(line)
        return Run(folder, finished=False)
    dataset = _load(config, say, quiet)
    for line in choose.about_classes(config, dataset.classes):                    # data.max_images may have left a class with few
        if line not in on_classes:
            say(line)
    config = config_module.resolved(_filled_in(config, dataset))
    evaluation.planned(config)                            # what can't be scored is said now
    say(choose.estimate(config, device, rank, world).line)
    start = None if init_from is None else _starting_from(init_from, dataset.class_names, device, say)
    trainer = _trainer(config, dataset, device, rank, world, start)
    if trainer.heldout is not None:
        choose.about_classes(config, trainer.dataset.classes)                     # what is left of them without the held-out images
    if rank == 0:
        folder = _make(folder, named=out is not None)
        write_text(folder / "config.json", config_module.dumps(config))
    return _run(trainer, reduce.from_first(folder, world), 0.0, report, quiet, say)


def _resume(folder: Path, lines: list[str], device_name: str, dry_run: bool, report: bool, quiet: bool, say: Callable[[str], None]) -> Run:
    if not (folder / "config.json").exists():
        raise UsageError(f"{folder} is not a run folder: it has no config.json" if folder.is_dir() else
                         f"--resume {folder}: there is no such folder; name the one that handful train made")
    device, rank, world = _join(device_name)
    say = say if rank == 0 else (lambda line: None)
    old = config_module.resolved(config_module.read(folder / "config.json"))      # settings that came later are at their defaults
    config = config_module.resolved(config_module.parse(config_module.assign(config_module.to_tree(old), lines)))
    changed = config_module.differences(old, config)
    refused = [k for k in changed if not k.startswith(MAY_CHANGE)]
    if refused:
        what = "; ".join(f"{k} is {json.dumps(changed[k][0])}, not {json.dumps(changed[k][1])}" for k in refused)
        raise UsageError(f"{folder} can't go on with other settings: {what}; start a new run for these, with --init-from {in_shell(folder)}")
    for key, (was, now) in changed.items():
        if key != "notes":
            say(f"changed: {key} {json.dumps(was)} -> {json.dumps(now)}")
    if not data.exists(config.data.path):
        raise HandfulError(f"the images of this run are no longer at {config.data.path}; name them: handful train DATA --resume {in_shell(folder)}")
    dataset = _load(config, say, quiet)
    if old.data.fingerprint and dataset.fingerprint != old.data.fingerprint:
        raise UsageError(f"{config.data.path} holds other images than this run was trained on ({len(dataset)} now, {old.data.count} then); "
                         f"name the right ones: handful train DATA --resume {in_shell(folder)}")
    state = _last_good(folder, say)
    images, sec = state["progress"]["images_seen"], state["progress"].get("sec", 0.0)
    if "train.kimg" in changed and to_images(config.train.kimg) < min(images, to_images(old.train.kimg)):
        raise UsageError(f"--kimg {config.train.kimg:g}: {folder} has seen {images} images already; give more than {images / 1000:g}")
    if dry_run:
        say(f"{folder} stands at {images} of {config.train.kimg * 1000:.0f} images")
        return Run(folder, finished=False)
    trainer = _trainer(config, dataset, device, rank, world)
    trainer.load_state_dict(state)
    del state                                            # it would stay in memory for the whole run
    if rank == 0:
        log_module.rewind(folder, images)
        write_text(folder / "config.json", config_module.dumps(config))
    if images >= to_images(config.train.kimg):
        say(f"{folder} is done: {images} of {config.train.kimg * 1000:.0f} images; lengthen it with --kimg")
    return _run(trainer, folder, sec, report, quiet, say)


def _run(trainer: Trainer, folder: Path, sec: float, report: bool, quiet: bool, say: Callable[[str], None]) -> Run:
    total = to_images(trainer.config.train.kimg)
    log = Log(folder, total_images=total, start_images=trainer.images_seen, quiet=quiet or trainer.rank > 0,
              tensorboard=trainer.config.every.tensorboard, machine=choose.machine(trainer.device)) if trainer.rank == 0 else _Silent()
    started, before = time.perf_counter(), trainer.images_seen
    with log:
        finished = fit(trainer, folder, log, sec_before=sec)
        if finished and trainer.rank == 0 and trainer.images_seen > before:
            _look_for_copies(trainer, folder, log, sec + time.perf_counter() - started, say)
    found = checkpoint.index(folder) if trainer.rank == 0 else {}
    if found.get("best") not in (None, found.get("last")):
        say(f"model.safetensors is the best by {found['metric']} ({found['value']:.4g}), after {int(Path(found['best']).stem)} of "
            f"{trainer.images_seen} images")
    if trainer.rank == 0 and report:
        from .report import write_report

        write_report(folder)
    return Run(folder, finished)


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
        figures = write(folder, load(folder, trainer.device), trainer.dataset, trainer.heldout, progress=show)
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
    return device, *reduce.start(device)


class _Silent:
    """What the other ranks log to."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None: ...
    def say(self, line: str, images: int | None = None) -> None: ...
    def progress(self, images: int) -> None: ...
    def write(self, images: int, values: Mapping[str, float]) -> None: ...
    def score(self, images: int, name: str, found: Mapping[str, Any]) -> None: ...
    def stage(self, line: str) -> None: ...


def _trainer(config: Config, dataset: data.Dataset, device: torch.device, rank: int, world: int,
             start: Callable[[Generator, Discriminator], None] | None = None) -> Trainer:
    precision = choose.precision(config.train.precision, device)
    dataset.place(device, choose.data_budget(device))
    return Trainer(config, dataset, device, rank=rank, world=world, precision=precision,
                   compile=choose.compiles(config.train.compile, device), start=start)


def _load(config: Config, say: Callable[[str], None], quiet: bool) -> data.Dataset:
    dataset = load_for(config.data, config.seed)
    for note in dataset.notes:
        say(note)
    return dataset


def _fine_tuning(tree: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """A recipe's settings for weights that are trained already, as in StyleGAN2-ADA's release: p moves fast, the average has its full length."""
    tree = json.loads(json.dumps(tree))
    said = []
    controller = tree.get("terms", {}).get("ada_controller")
    if controller and controller.get("statistic") != "linear" and controller.get("kimg", 500) > 100:
        controller["kimg"] = 100.0
        said.append("terms.ada_controller.kimg=100")
    if tree.get("ema", {}).get("rampup") is not None:
        tree["ema"]["rampup"] = None
        said.append("ema.rampup=null")
    if said:
        say(f"starting from trained weights: {', '.join(said)}")
    return tree


def _filled_in(config: Config, dataset: data.Dataset) -> Config:
    config.data.count, config.data.fingerprint = len(dataset), dataset.fingerprint
    config.data.class_names = list(dataset.class_names)
    return config


def free_name(parent: Path, name: str) -> Path:
    """parent/name, or parent/name-2 ... when there is one already."""
    number, path = 2, parent / name
    while path.exists():
        path, number = parent / f"{name}-{number}", number + 1
    return path


def _make(folder: Path, *, named: bool) -> Path:
    """Makes the run's folder and takes possession of it: of two runs that start at once, one takes another name, or gives up if it was named."""
    try:
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "previews").mkdir(exist_ok=True)
    except FileExistsError:
        if named:
            raise _in_use(folder) from None
        return _make(free_name(folder.parent, folder.name), named=False)
    except OSError as error:
        raise HandfulError(f"{folder} can't be made ({error.strerror}); name another --out") from None
    return folder


def _in_use(folder: Path) -> UsageError:
    if not folder.is_dir():
        return UsageError(f"{folder} exists and is a file; name another --out")
    go_on = f"go on with it (handful train --resume {in_shell(folder)}) or " if (folder / "config.json").exists() else ""
    return UsageError(f"{folder} exists and is not empty; {go_on}name another --out")


def _last_good(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The newest checkpoint that can be read; damaged ones are named and left where they are."""
    found = checkpoint.all_of(folder)
    if not found:
        raise HandfulError(f"{folder} has no checkpoint to go on from; start again with --out NAME")
    fault: HandfulError | None = None
    for path in found:
        try:
            return load_checkpoint(path)
        except HandfulError as error:
            fault = error
            say(str(error))
    raise HandfulError(f"no checkpoint of {folder} can be read; the last fault: {fault}")


def _starting_from(model: str | os.PathLike, class_names: list[str], device: torch.device,
                   say: Callable[[str], None]) -> Callable[[Generator, Discriminator], None]:
    """What fills new networks with the weights of another run: G, and so its average, from its average, D where the file has one."""
    path = Path(model)
    source = load(path, device)
    found = checkpoint.all_of(path) if path.is_dir() else [path] if path.suffix == ".pt" else []
    wanted = [source.generator.state_dict(), *([load_checkpoint(found[0], device)["D"]] if found else [])]

    def start(*networks: torch.nn.Module) -> None:
        for name, net, tensors in zip("GD", networks, wanted):
            try:
                net.load_state_dict(tensors if name == "G" else _without_wrappers(tensors, net))
            except RuntimeError as error:
                raise UsageError(f"--init-from {model}: its {name} has another shape ({str(error).splitlines()[-1].strip()[:120]}); "
                                 f"train with the settings that it was made with") from None
        say(f"starting from {model} ({source.images_seen} images): " + ("G and D" if found else "G alone, the file has no D"))
        if changed := [f"{was} -> {now}" for was, now in zip(source.class_names, class_names) if was != now]:
            say(f"classes go by number, and some have other names there: {', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}")

    return start


def _without_wrappers(tensors: Mapping[str, torch.Tensor], net: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    """The architecture's own part of a D that terms were put around (terms/_wrapped.py calls it `inner`); what they brought starts anew."""
    while tensors.keys() != net.state_dict().keys() and any(k.startswith("inner.") for k in tensors):
        tensors = {k.removeprefix("inner."): v for k, v in tensors.items() if k.startswith("inner.")}
    return tensors
