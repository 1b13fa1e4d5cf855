"""A new run: data is looked at, a recipe chosen, the configuration made, the trainer built, each once; then its cost is measured, and it runs."""

from __future__ import annotations

from pathlib import Path

from .. import config as config_module
from .. import data
from ..config import Config
from ..data import Dataset
from ..data.loading import relabelled
from ..files import write_text
from . import choose, distributed, evaluation
from . import log as log_module
from .estimate import estimate
from .folder import empty, free_name, make, must_be_free
from .init_from import fine_tuning, starting_from
from .pretrained import settle
from .session import Run, Wish, load_data, owned, run, trainer_of


def start(wish: Wish) -> Run:
    """Errors: HandfulError, UsageError; nothing is written before the trainer is built."""
    say, device, rank, world = wish.say, wish.device, wish.rank, wish.world
    weights = None if wish.init_from is None else starting_from(wish.init_from, wish.all_trust, say)
    config, said = _configured(wish, fine_tuned=weights is not None)
    for line in said:
        say(line)
    folder = wish.out if wish.out is not None else free_name(Path("runs"), f"{data.stem(config.data.path)}-{config.recipe}")
    if rank == 0:
        must_be_free(folder)
    if config.every.tensorboard:
        log_module.summary_writer()                       # missing? then before anything is made
    dataset = load_data(config, say, wish.reading)
    for line in choose.about_classes(config, dataset.classes):                    # data.max_images may have left a class with few
        if line not in said:
            say(line)
    config = _completed(config, dataset, wish)
    if weights is not None:
        weights.class_names = dataset.class_names
    trainer = trainer_of(config, dataset, device, rank, world, weights)
    if trainer.heldout is not None:
        choose.about_classes(config, trainer.dataset.classes)                     # what is left of them without the held-out images
    found = estimate(trainer)
    for line in [*(trainer.notes if wish.dry_run else []), found.line]:
        say(line)
    if wish.dry_run:
        return Run(folder, finished=False)
    trainer.threads, config.train.threads = found.threads, found.threads or config.train.threads
    with owned(make(folder, named=wish.out is not None) if rank == 0 else folder, wish) as owner:
        if rank == 0:
            folder = owner.folder
            must_be_free(folder)                          # another process may have been here meanwhile
            empty(folder)
            write_text(folder / "config.json", config_module.dumps(config))
        return run(trainer, distributed.from_first(folder, world), 0.0, wish, owner, {})


def _configured(wish: Wish, fine_tuned: bool) -> tuple[Config, list[str]]:
    """The checked configuration: the recipe's settings, those for trained weights, the user's over both. And what to tell the user of it."""
    asked = config_module.assign({}, wish.lines)
    place = config_module.sections(asked, "data", "train").data                   # what reading the images takes, before anything is read
    scanned = data.scan(place.path, labels=place.labels)
    choice = choose.choose(wish.recipe, scanned, wish.device, asked, wish.world)
    tree = config_module.assign(choice.tree, wish.lines)
    if choice.file:                                       # before any class that it names is imported
        config_module.refuse_outside(tree, choice.file, wish.trust, wish.given)
    if fine_tuned:
        tree = config_module.assign(fine_tuning(choice.tree, wish.say), wish.lines)
    if place.holdout:                                     # they are kept out to be looked at
        tree["terms"] = tree.get("terms") or {}
        tree["terms"].setdefault("heldout_logits", {"use": "heldout_logits"})
    config = config_module.parse(tree)
    config.notes = choice.why
    by_itself = config.data.labels is None and choose.wants_classes(config)
    if by_itself:                                         # an architecture for labelled images takes what DATA has
        config.data.labels = "auto"
    if config.data.labels != place.labels:                # it wasn't the user who said so
        scanned = relabelled(scanned, place.path, config.data.labels)
    about = choose.about_classes(config, scanned.classes)
    if by_itself:
        about = [f"{config.g.name} is made for labelled images: takes the {scanned.num_classes} classes of {place.path}", *about]
    return config, [*choice.why, *about]


def _completed(config: Config, dataset: Dataset, wish: Wish) -> Config:
    """The same with what the data says, and what this machine decides; every setting written out."""
    config.data.count, config.data.fingerprint = len(dataset), dataset.fingerprint
    config.data.class_names = list(dataset.class_names)
    config = config_module.resolved(config)
    named = wish.recipe != "auto" and not any(line.startswith("terms.reconstruction.loss=") for line in wish.lines)
    config = settle(config, wish.say, may_do_without=not named, dry_run=wish.dry_run, rank=wish.rank, world=wish.world)
    evaluation.planned(config)                            # what can't be scored is said now
    return config
