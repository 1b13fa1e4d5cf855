"""Where decoded pixels go: one array in memory, or a memory-mapped file in the cache, written atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from handful.errors import HandfulError


class Memory:
    """Rows in one preallocated array."""

    def __init__(self, count: int, shape: tuple[int, int, int]):
        self.rows = np.empty((count, *shape), np.uint8)
        self.count = 0

    def add(self, row: np.ndarray) -> None:
        self.rows[self.count] = row
        self.count += 1

    def finish(self) -> np.ndarray:
        """uint8 [count, C, H, W]"""
        return self.rows[: self.count]

    def discard(self) -> None:
        pass


class Mapped:
    """Rows in a .npy file under a temporary name; `finish` gives it its own and maps it, `discard` removes it."""

    def __init__(self, path: Path, count: int, shape: tuple[int, int, int]):
        self.path, self.shape, self.count = path, shape, 0
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.temporary, "wb")
            self._write_header(count)
        except OSError as error:
            raise self._refusal(error) from None

    def _write_header(self, count: int) -> None:
        # The header is padded for a first axis of any length, so that it can be written again over itself.
        description = {"descr": "|u1", "fortran_order": False, "shape": (count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, description)

    def add(self, row: np.ndarray) -> None:
        try:
            self.file.write(row)
        except OSError as error:
            raise self._refusal(error) from None
        self.count += 1

    def finish(self) -> np.ndarray:
        """uint8 [count, C, H, W], mapped copy-on-write: nothing written to it reaches the file."""
        try:
            self.file.seek(0)
            self._write_header(self.count)
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self.temporary, self.path)
        except OSError as error:
            raise self._refusal(error) from None
        return np.load(self.path, mmap_mode="c")

    def discard(self) -> None:
        try:
            self.file.close()  # on a full disk even this raises
        except OSError:
            pass
        self.temporary.unlink(missing_ok=True)

    def _refusal(self, error: OSError) -> HandfulError:
        fault = f"can't keep the decoded images in '{self.path.parent}' ({error.strerror})"
        return HandfulError(f"{fault}; make room there, or set HANDFUL_CACHE to another folder")


def cache_folder(given: str | os.PathLike | None, kind: str = "datasets") -> Path:
    """The folder of mapped data sets (or of another kind): as given, else $HANDFUL_CACHE/datasets, else ~/.cache/handful/datasets."""
    if given is not None:
        return Path(os.path.expanduser(given))
    return Path(os.path.expanduser(os.environ.get("HANDFUL_CACHE") or "~/.cache/handful")) / kind


def read_cached(path: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, dict] | None:
    """Pixels uint8 [count, *shape] and their description (names, labels, groups, fingerprint, notes), or None when they aren't there whole."""
    try:
        said = json.loads(path.with_suffix(".json").read_text())
        rows = np.lib.format.open_memmap(path, mode="c")
        texts = [said["fingerprint"], *said["names"], *said["notes"]]
        numbers = [said[what] for what in ("labels", "groups") if said[what] is not None]
        whole = (rows.dtype == np.uint8 and rows.shape == (len(said["names"]), *shape) and all(isinstance(text, str) for text in texts)
                 and all(len(row) == len(rows) and all(type(n) is int and 0 <= n < 2**31 for n in row) for row in numbers))
    except Exception:  # whatever is wrong with them, they are made again
        return None
    return (rows, said) if whole else None


def write_description(path: Path, said: dict) -> None:
    """Beside the pixels and after them: its presence says that they are complete."""
    temporary = path.with_name(f".{path.stem}.json.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(said))
    os.replace(temporary, path.with_suffix(".json"))
