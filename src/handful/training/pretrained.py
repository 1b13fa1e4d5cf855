"""Pretrained networks that terms of a new run compute with: fetched once where they are missing; without them the run stops, or does without."""

from __future__ import annotations

from collections.abc import Callable

from .. import catalog, fetch
from ..config import Config
from ..errors import HandfulError, UsageError
from ..features import available, weights
from ..seam import Term
from . import distributed


def settle(config: Config, say: Callable[[str], None], *, may_do_without: bool, dry_run: bool, rank: int, world: int) -> Config:
    """The configuration with each term's `Term.settled` settings. All processes of a run call this; the first fetches.

    may_do_without: the user named neither the recipe nor the loss, so that a run without the weights is one of the choices. dry_run: nothing is
    fetched. Raises HandfulError where weights are missing, can't be fetched and aren't to be done without.
    """
    config = config.model_copy(deep=True)
    for name, use in config.terms.items():
        try:
            term = catalog.build("terms", use)
        except UsageError:                                # the trainer says it, with the setting's place
            continue
        if not isinstance(term, Term) or not term.pretrained:
            continue
        missing = distributed.from_first([network for network in term.pretrained if not available(network)], world)
        if missing and dry_run:
            say(f"terms.{name}: the run would first fetch the weights '{missing[0]}', which are not on this machine")
            continue
        refused = {network: distributed.from_first(_fetched(network, say) if rank == 0 else None, world) for network in missing}
        for network, why in refused.items():
            if why and not (may_do_without and term.settled(())):
                instead = "".join(f", or compare pixels: --set terms.{name}.{k}={v}" for k, v in term.settled(()).items())
                raise HandfulError(f"terms.{name} computes with the weights '{network}', which are not on this machine ({why}): handful weights get "
                                   f"{network}{instead}")
        settled = term.settled([network for network in term.pretrained if not refused.get(network)])
        config.terms[name] = use.but(**settled)
        if any(refused.values()):
            say(f"terms.{name}: {', '.join(f'{k}={v}' for k, v in settled.items())}, for want of the weights '{missing[0]}' "
                f"({refused[missing[0]]}); with them the pictures are better: handful weights get {missing[0]}")
    return config


def _fetched(network: str, say: Callable[[str], None]) -> str:
    """Fetches a network in one short try; returns what went wrong, "" where nothing did."""
    if not fetch.offline():
        say(f"fetching the weights '{network}', once ({weights.ENTRIES[network].said})")
    try:
        with fetch.hurried():
            weights.get(network)
    except HandfulError as error:
        return str(error).partition(";")[0]
    return ""
