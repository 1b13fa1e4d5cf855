"""`--init-from MODEL`: a new run begins with the weights of another one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import catalog, tensors
from .. import config as config_module
from ..config import Config
from ..errors import HandfulError, UsageError
from ..files import parse_json
from ..infer.model import check_networks, load
from ..nn import frozen
from ..seam import Discriminator, Generator, Term
from . import checkpoint


@dataclass
class Start:
    """One snapshot of another run: its raw G, its D and the average of G; of a .safetensors the average alone. Filled in by the trainer's
    call, which returns the average's tensors."""

    model: str
    config: Config
    images_seen: int
    average: Mapping[str, Tensor]
    G: Mapping[str, Tensor]
    D: Mapping[str, Tensor] | None
    say: Callable[[str], None]
    held: Mapping[str, str] = field(default_factory=dict)         # digests of its frozen parts
    class_names: list[str] = field(default_factory=list)          # of the new run

    def __call__(self, G: Generator, D: Discriminator) -> Mapping[str, Tensor]:
        for name, net, found in (("G", G, self.G), ("D", D, self.D)):
            if found is None:
                continue
            frozen.must_be(self.held, f"--init-from {self.model}", **{name: net})
            try:
                net.load_state_dict(found if name == "G" else without_wrappers(found, net.state_dict().keys()))
            except RuntimeError as error:
                raise UsageError(f"--init-from {self.model}: its {name} has another shape ({str(error).splitlines()[-1].strip()[:120]}); "
                                 f"train with the settings that it was made with") from None
        self.say(f"starting from {self.model} ({self.images_seen} images): " + ("G alone, the file has no D" if self.D is None else "G and D"))
        if changed := [f"{was} -> {now}" for was, now in zip(self.config.data.class_names, self.class_names) if was != now]:
            self.say(f"classes go by number, and some have other names there: {', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}")
        return self.average


def starting_from(model: str | os.PathLike, trust: Iterable[str], say: Callable[[str], None]) -> Start:
    """The weights of a run folder (of its best snapshot where one is marked, else of the newest), a checkpoint or a .safetensors.

    Raises HandfulError where there is nothing to load, it is damaged, or holds other tensors than its own configuration describes.
    """
    path = Path(model)
    if path.is_dir() and (path / "config.json").exists() and checkpoint.all_of(path):
        path, state = _snapshot(path, say)
    elif path.suffix == ".pt":
        state = tensors.load_checkpoint(path)
    else:
        alone = load(path, "cpu", trust)
        found = alone.generator.state_dict()
        held = frozen.digests(G=alone.generator)
        return Start(str(model), alone.config, alone.images_seen, found, found, None, say, held)
    config = config_module.from_file(parse_json(state["config"], f"the configuration in {path}", dict), str(path), trust)
    check_state(config, state, path)
    for name in ("G", "D", "G_ema"):
        tensors.must_be_finite(state[name], f"{path} ({name})")
    return Start(str(model), config, state["progress"]["images_seen"], state["G_ema"], state["G"], state["D"], say,
                 {re.sub(r"^D\.(inner\.)+", "D.", path): digest for path, digest in state.get("frozen", {}).items()})


def check_state(config: Config, state: Mapping[str, Any], path: Path) -> None:
    """Raises HandfulError where the networks of a checkpoint are not those of the configuration. Allocates nothing."""
    for name in ("G", "G_ema"):
        check_networks(config, f"{path} ({name})", tensors.header_of(state[name]))
    tensors.header_of(state["D"])                         # its names are short texts from here on
    if not any(catalog.is_outside(use.name) for use in config.terms.values()):            # an author's wrapper may name its parts as it likes
        check_networks(config, f"{path} (D)", D=tensors.header_of(without_wrappers(state["D"], None)))


def without_wrappers(found: Mapping[str, Tensor], wanted: Iterable[str] | None) -> Mapping[str, Tensor]:
    """The architecture's own part of a D that terms were put around (terms/_wrapped.py calls it `inner`); what they brought starts anew. wanted:
    the names to arrive at, None: no wrapper's at all."""
    while found.keys() != wanted and any(k.startswith("inner.") for k in found):
        found = {k.removeprefix("inner."): v for k, v in found.items() if k.startswith("inner.")}
    return found


def fine_tuning(tree: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """A recipe's settings for weights that are trained already, as in StyleGAN2-ADA's release: p moves fast, the average has its full length."""
    tree = json.loads(json.dumps(tree))
    said = []
    for name, use in (tree.get("terms") or {}).items():
        if isinstance(use, dict) and issubclass(cls := catalog.part("terms", use.get("use", name), ""), Term):
            changed = cls.fine_tuning({k: v for k, v in use.items() if k != "use"})
            use |= changed
            said += [f"terms.{name}.{k}={v:g}" if isinstance(v, float) else f"terms.{name}.{k}={json.dumps(v)}" for k, v in changed.items()]
    if (tree.get("ema") or {}).get("rampup") is not None:
        tree["ema"]["rampup"] = None
        said.append("ema.rampup=null")
    if said:
        say(f"starting from trained weights: {', '.join(said)}")
    return tree


def _snapshot(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    best = checkpoint.index(folder)["best"]
    if best is not None and (folder / "checkpoints" / best).exists():
        try:
            return folder / "checkpoints" / best, tensors.load_checkpoint(folder / "checkpoints" / best)
        except HandfulError as error:
            say(str(error))
    return checkpoint.newest_good(folder, say)
