"""Statistics of real images, kept between calls: named by content and network, wherever the files lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import HandfulError
from ..features import weights
from ..files import atomic

VERSION = 1                              # to be raised when what is kept changes its meaning


def folder() -> Path:
    """$HANDFUL_CACHE/metrics, or beside the weights in the platform's cache folder."""
    return weights.cache_folder().parent / "metrics"


def path_of(parts: Sequence[object]) -> Path:
    return folder() / f"{hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:32]}.safetensors"


def read(parts: Sequence[object]) -> dict[str, Tensor] | None:
    """What was kept under these parts of a name, or None; a damaged file counts as none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = path_of(parts)
    try:
        return load_file(path) if path.is_file() else None
    except (SafetensorError, OSError, ValueError):
        return None


def write(parts: Sequence[object], tensors: dict[str, Tensor]) -> None:
    """Keeps tensors; does without where the folder can't be written to: nothing but time is lost."""
    from safetensors.torch import save_file

    tensors = {name: torch.as_tensor(value).cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        atomic(path_of(parts), lambda p: save_file(tensors, p, {"parts": json.dumps([VERSION, *parts])}))
    except HandfulError:
        pass
