"""Statistics of real images, kept between calls: named by content and network, wherever the files lie. Those unused for longest go."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ..errors import HandfulError
from ..features import weights
from ..files import atomic
from ..tensors import Header, must_be_finite, read_header, read_tensors

VERSION = 2                              # to be raised when what is kept changes its meaning
MOST_FILES, MOST_BYTES = 200, 2 * 10**9


def folder() -> Path:
    """$HANDFUL_CACHE/metrics, or beside the weights in the platform's cache folder."""
    return weights.cache_folder().parent / "metrics"


def path_of(parts: Sequence[object]) -> Path:
    return folder() / f"{hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:32]}.safetensors"


def read(parts: Sequence[object], wanted: Header) -> dict[str, Tensor] | None:
    """What was kept under these parts of a name, or None. wanted: dtype and shape of each tensor; a damaged file, and one that holds other tensors
    or numbers that aren't finite, counts as none."""
    path = path_of(parts)
    try:
        if not path.is_file() or read_header(path)[1] != wanted:
            return None
        found = read_tensors(path)
        must_be_finite(found, str(path))
    except (HandfulError, OSError):
        return None
    with suppress(OSError):                                  # someone else's can be read, not marked
        os.utime(path)                                       # used now
    return found


def write(parts: Sequence[object], tensors: dict[str, Tensor]) -> None:
    """Keeps tensors; does without where the folder can't be written to: nothing but time is lost."""
    from safetensors.torch import save_file

    tensors = {name: torch.as_tensor(value).cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        atomic(path_of(parts), lambda p: save_file(tensors, p, {"parts": json.dumps([VERSION, *parts])}))
        prune()
    except HandfulError:
        pass


def prune() -> None:
    """Drops what was unused for longest, beyond MOST_FILES or MOST_BYTES, and what killed processes left half written a day ago. Processes may
    do so at once: a file goes whole, and whoever reads it still has it."""
    found = []
    for path in folder().glob("*.safetensors"):
        try:
            found.append((path.stat().st_mtime, path.stat().st_size, path))
        except OSError:                                      # another process was faster
            continue
    size = 0
    old = [path for path in folder().glob(".*.tmp") if _age(path) > 86_400]
    for i, (_, bytes_, path) in enumerate(sorted(found, reverse=True)):
        size += bytes_
        if i and (i >= MOST_FILES or size > MOST_BYTES):     # never the newest
            old.append(path)
    for path in old:
        try:
            path.unlink(missing_ok=True)
        except OSError:                                      # open elsewhere, on Windows: next time
            continue


def _age(path: Path) -> float:
    """Seconds since it was last written."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
