"""Pretrained networks of a run, and a second feature space for the figures of such a run.

A generator that was trained through features of an ImageNet network is rewarded for what such networks see, and so are figures in the features of
another one: matching the distribution of ImageNet's classes lowers FID while the images do not become better, and discriminators on ImageNet features
do just that (Kynkaanniemi, Karras, Aittala, Aila, Lehtinen, "The Role of ImageNet Classes in Frechet Inception Distance", 2022, arXiv
2203.06026). So the same figures are also given in features that neither the run nor the figure uses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch

from .. import catalog
from ..catalog import Use
from ..errors import HandfulError
from ..features import available, weights

ORDER = ("lpips_vgg16", "efficientnet", "inception")     # of second spaces: the first that is not used is taken
BESIDE = "dinov2"                                        # trained without labels; taken too, where its weights are on this machine
_SAME = {"vgg16": "lpips", "inception_logits": "inception"}      # VGG16's convolutions are those of LPIPS
_IMAGENET = {"inception", "lpips", "lpips_alexnet", "efficientnet"}


def pretrained_networks(config: Mapping[str, Any], trust: Iterable[str] | None = None) -> dict[str, list[str]]:
    """The pretrained networks that a run computes with: {name as in `handful weights list`: the settings that bring it in, "d" or
    "terms.reconstruction"}. Empty where there are none.

    config: the plain tree of a configuration (`config.to_tree`). A term says so by its `pretrained`; an architecture (and a loss or an augmentation)
    by its class method `needs_weights(settings)`, which gets all its settings, defaults included, and returns names. trust: modules outside of
    the package that may be imported; None: all. Methods of other modules, and such as can't be built, are left out.
    """
    found: dict[str, list[str]] = {}
    for place, kind, which, use in _uses(config):
        if trust is not None and catalog.is_outside(use.name) and catalog.module_of(use.name) not in trust:
            continue
        try:
            names = _of_a_term(use) if kind == "terms" else _of_a_class(catalog.part(kind, use.name, which), use.kwargs)
        except HandfulError:
            continue
        for name in names:
            found.setdefault(name, []).append(place)
    return found


def _uses(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Use]]:
    """(place, kind, which of an architecture's classes, method) of all methods of a configuration's tree."""
    terms = config.get("terms")
    places = [*((place, config.get(place), *kind) for place, kind in catalog.PLACES.items()),
              *((f"terms.{name}", said, "terms", "") for name, said in (terms.items() if isinstance(terms, Mapping) else ()))]
    for place, said, kind, which in places:
        if isinstance(said, Mapping) and isinstance(said.get("use"), str):
            yield place, kind, which, Use(said["use"], **{k: v for k, v in said.items() if k != "use" and isinstance(k, str)})


def _of_a_term(use: Use) -> Iterable[str]:
    with torch.random.fork_rng(devices=[]):                  # a term may draw its first weights
        return getattr(catalog.build("terms", use), "pretrained", ())


def _of_a_class(cls: type, settings: Mapping[str, Any]) -> Iterable[str]:
    asked = getattr(cls, "needs_weights", None)
    defaults = {name: p.default for name, p in catalog.keywords(cls).items() if p.default is not p.empty}
    return asked({**defaults, **settings}) if asked else ()


def second_spaces(used: Collection[str], figure: str, here: Callable[[str], bool] = available) -> tuple[list[str], str]:
    """(feature networks that a figure is given in too, weights to be got for one that is not on this machine or "").

    used: networks of the run. figure: the network of the figure. here: whether weights are on this machine. The first is the same on every machine:
    the first of ORDER that is not used, or, where all of them are, DINOv2.
    """
    taken = {_same(name) for name in (*used, figure)}
    first = next((name for name in (*ORDER, BESIDE) if _same(name) not in taken), None)
    wanted = [name for name in dict.fromkeys((first, BESIDE)) if name and _same(name) not in taken]
    present = [name for name in wanted if here(weights.entry_of(name))]
    return present, weights.entry_of(first) if first and first not in present else ""


def said(used: Mapping[str, Iterable[str]], figure: str, spaces: Iterable[str] = (), missing: str = "") -> str:
    """In one sentence or two: which networks the run was trained with, what that means for figures in features of `figure`, and where the others are.

    used: of `pretrained_networks`. spaces, missing: of `second_spaces`.
    """
    names = " and ".join(f"'{name}' ({', '.join(places)})" for name, places in used.items())
    text = f"the run was trained with the pretrained {'network' if len(used) == 1 else 'networks'} {names}"
    mine = {_same(name) for name in used}
    if _same(figure) in mine:
        text += f"; figures in features of '{figure}', which it used itself, can overstate the quality"
    elif _same(figure) in _IMAGENET and mine & _IMAGENET:
        text += f", trained on ImageNet as '{figure}' is: figures in its features can overstate the quality"
    if there := " and ".join(f"'{name}'" for name in spaces):
        text += f"; the same figures in features of {there}, which the run did not use, stand beside them"
    if missing:
        text += f"; for the same figures in features that the run did not use: handful weights get {missing}"
    return text


def _same(name: str) -> str:
    name = weights.entry_of(name)
    return _SAME.get(name, name)
