"""A run that goes on: from its newest good checkpoint, bit for bit, with the settings that may change changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import catalog, data
from .. import config as config_module
from ..config import Config
from ..errors import HandfulError, UsageError
from ..files import in_shell, write_text
from ..seam import Term
from . import checkpoint, distributed
from . import log as log_module
from . import threads as threads_module
from .folder import Owner
from .init_from import check_state
from .loop import to_images
from .session import Run, Say, Wish, load_data, owned, run, trainer_of
from .trainer import Trainer

MAY_CHANGE = ("train.kimg", "train.micro_batch", "train.precision", "train.compile", "train.threads", "train.threads_fixed", "train.guard_kimg",
              "every.", "evaluate.", "ema.choose", "optim_g.", "optim_d.", "data.path", "data.labels", "data.groups", "data.skip_bad", "notes",
              "handful", "recipe")
FILLED_IN = ("data.count", "data.class_names", "data.fingerprint")


def resume(folder: Path, wish: Wish, check: Callable[[Config, Wish, Path], None] | None = None) -> Run:
    """check: of the run's settings against the wish, besides the lines."""
    if not (folder / "config.json").exists():
        raise UsageError(f"{folder} is not a run folder: it has no config.json" if folder.is_dir() else
                         f"--resume {folder}: there is no such folder; name the one that handful train made")
    if wish.dry_run:
        return _go_on(folder, wish, check, None)
    with owned(folder, wish) as owner:
        return _go_on(folder, wish, check, owner)


def _go_on(folder: Path, wish: Wish, check: Callable[[Config, Wish, Path], None] | None, owner: Owner | None) -> Run:
    say, rank, world = wish.say, wish.rank, wish.world
    tree = config_module.read_tree(folder / "config.json")
    old = config_module.resolved(config_module.from_file(tree, str(folder / "config.json"), wish.trust, wish.given))      # with later settings
    if "choose" not in (tree.get("ema") or {}):
        say(f"{folder} is older than ema.choose: it keeps no averages of other lengths, and its model is made as before")
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
    dataset = load_data(config, say, wish.reading)
    if old.data.fingerprint and dataset.fingerprint != old.data.fingerprint:
        raise UsageError(f"{config.data.path} holds other images than this run was trained on ({len(dataset)} now, {old.data.count} then); "
                         f"name the right ones: handful train DATA --resume {in_shell(folder)}")
    if wish.dry_run:
        say(f"{folder} stands at {images} of {config.train.kimg * 1000:.0f} images")
        return Run(folder, finished=False)
    trainer = trainer_of(config, dataset, wish.device, rank, world)
    trainer.load_state_dict(state, str(path))
    asked = any(line.partition("=")[0] == "train.threads" for line in wish.lines)
    _as_before(trainer, state["progress"], asked, say)
    del state                                            # it would stay in memory for the whole run
    changes = distributed.from_first(log_module.changes_of_threads(folder, images), world)          # before the first process rewinds the log
    if rank == 0:
        log_module.rewind(folder, images)
        if trainer.averages is not None:
            trainer.averages.after_load(folder, images, say)
        write_text(folder / "config.json", config_module.dumps(config))
    if images >= to_images(config.train.kimg):
        say(f"{folder} is done: {images} of {config.train.kimg * 1000:.0f} images; lengthen it with --kimg")
    # Goes on where evaluate.stop had ended it. A cluster's line is the same at each start, so there the length must have changed.
    longer = any(line.partition("=")[0] == "train.kimg" for line in wish.lines)
    return run(trainer, folder, sec, wish, owner, {} if asked else changes, longer if check is None else "train.kimg" in changed)


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


def same_recipe(old: Config, wish: Wish, folder: Path) -> None:
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
