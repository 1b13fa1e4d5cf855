"""What a run leaves behind to go on from and to sample from: plain, atomic, loadable without executing anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from .. import config as config_module
from ..config import Config
from ..files import FORMAT, atomic, write_text


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
    nothing = {"last": None, "best": None, "metric": None, "value": None}
    try:
        found = json.loads((folder / "checkpoints" / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return nothing
    return nothing | found if isinstance(found, dict) else nothing


def forget_best(folder: Path) -> None:
    write_text(folder / "checkpoints" / "index.json", json.dumps(index(folder) | {"best": None, "metric": None, "value": None}))


def mark_best(folder: Path, path: Path, metric: str, value: float) -> None:
    write_text(folder / "checkpoints" / "index.json", json.dumps(index(folder) | {"best": path.name, "metric": metric, "value": value}))


def config_of(state: Mapping[str, Any]) -> Config:
    return config_module.parse(json.loads(state["config"]))


def all_of(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return sorted((folder / "checkpoints").glob("*.pt"), reverse=True)


def save_model(path: Path, config: Config, G_ema: torch.nn.Module, images_seen: int) -> None:
    """model.safetensors: the averaged generator alone, with the configuration in its metadata."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in G_ema.state_dict().items()}
    metadata = {"format": "pt", "handful": str(FORMAT), "config": config_module.dumps(config), "images_seen": str(images_seen)}

    def write(p: Path) -> None:
        try:
            save_file(tensors, p, metadata)
        except SafetensorError as error:                     # it wraps what the disk says
            raise OSError(str(error)) from error

    atomic(path, write)
