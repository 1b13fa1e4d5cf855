"""What a run leaves behind to go on from and to sample from: plain, atomic, loadable without executing anything."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import config as config_module
from ..config import Config
from ..errors import HandfulError, NoPermission
from ..files import atomic, parse_json, read_bounded, write_text
from ..metrics._pretrained import pretrained_networks
from ..nn import frozen
from ..tensors import FORMAT, load_checkpoint, write_tensors

_NAME = re.compile(r"\d{1,15}\.pt", re.ASCII)


def save(folder: Path, config: Config, state: Mapping[str, Any], keep: int) -> Path:
    """checkpoints/IMAGES_SEEN.pt and the index; older files beyond the last `keep` go, but not the best. Returns the path."""
    images = state["progress"]["images_seen"]
    path = folder / "checkpoints" / f"{images:09d}.pt"
    whole = {"format": FORMAT, "config": config_module.dumps(config), **state}
    atomic(path, lambda p: torch.save(whole, p))
    found = index(folder) | {"last": path.name}
    write_text(folder / "checkpoints" / "index.json", json.dumps(found))
    for old in sorted((folder / "checkpoints").glob("*.pt"))[:-keep]:
        if old != path and old.name != found["best"]:
            old.unlink(missing_ok=True)
    return path


def index(folder: Path) -> dict[str, Any]:
    """{last, best: file names or None; metric, value: by which it is the best}. A missing or damaged index knows nothing."""
    found = {"last": None, "best": None, "metric": None, "value": None}
    try:
        read = parse_json(read_bounded(folder / "checkpoints" / "index.json"), "index.json", dict)
    except NoPermission:
        raise
    except HandfulError:
        return found
    last, best, metric, value = (read.get(key) for key in found)
    found["last"] = last if _is_name(last) else None
    if _is_name(best) and isinstance(metric, str) and isinstance(value, int | float) and math.isfinite(value):
        found |= {"best": best, "metric": metric, "value": value}
    return found


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def forget_best(folder: Path) -> None:
    write_text(folder / "checkpoints" / "index.json", json.dumps(index(folder) | {"best": None, "metric": None, "value": None}))


def mark_best(folder: Path, path: Path, metric: str, value: float) -> None:
    write_text(folder / "checkpoints" / "index.json", json.dumps(index(folder) | {"best": path.name, "metric": metric, "value": value}))


def all_of(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return sorted((p for p in (folder / "checkpoints").glob("*.pt") if _is_name(p.name)), key=lambda p: int(p.stem), reverse=True)


def newest_good(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that can be read, and its contents; damaged ones are named and left where they are. Raises HandfulError."""
    found = all_of(folder)
    if not found:
        raise HandfulError(f"{folder} has no checkpoint to go on from: nothing was saved yet; begin it again: handful train DATA --out {folder}")
    fault: HandfulError | None = None
    for path in found:
        try:
            return path, load_checkpoint(path)
        except NoPermission:
            raise
        except HandfulError as error:
            fault = error
            say(str(error))
    raise HandfulError(f"no checkpoint of {folder} can be read; the last fault: {fault}")


def save_model(path: Path, config: Config, G_ema: torch.nn.Module, images_seen: int, about: Mapping[str, str] | None = None) -> None:
    """model.safetensors: the averaged generator alone, with the configuration in its metadata, and the names of the pretrained networks that it was
    trained with, where there are any: figures in features of such networks can overstate its quality. about: more metadata."""
    held, used = frozen.digests(G=G_ema), list(pretrained_networks(config_module.to_tree(config)))
    write_tensors(path, G_ema.state_dict(), {"format": "pt", "handful": str(FORMAT), "config": config_module.dumps(config),
                                             "images_seen": str(images_seen), **({"frozen": json.dumps(held)} if held else {}),
                                             **({"pretrained": json.dumps(used)} if used else {}), **(about or {})})
