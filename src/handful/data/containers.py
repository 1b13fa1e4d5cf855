"""Where pictures come from: a folder of any depth or a zip. A source lists image names and opens them; it decodes nothing, extracts
nothing to disk and changes nothing.

Names are paths inside the source with forward slashes, in plain string order (the order of the official StyleGAN2-ADA datasets).
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from handful.data.problems import Problem, Unusable, count, show
from handful.errors import HandfulError

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .bmp .dib .tif .tiff .webp .avif .jp2 .j2k .jpx .ppm .pgm .pbm .pnm .tga .qoi .pcx"
    " .sgi .heic .heif".split()
)
SILENT_SUFFIXES = frozenset(".json .csv .tsv .txt .md .npz .npy .xml .yaml .yml .html .pdf .log .sha256".split())
JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")  # what a file without a known suffix may still be

MAX_RATIO, MAX_RATIO_BYTES, MAX_ZIP_BYTES = 200, 100 * 10**6, 10**12  # a zip beyond these is a bomb, not pictures


class Source:
    """Images in a folder or a zip; a context manager.

    names: the images, sorted. problems: what can't even be opened. other: files left alone, by suffix; silent: expected ones.
    classes: (class number by name, names of the classes) where the set itself says them. said: what the user should be told of it.
    test: the split to score against what this one trains, where the set has one.
    """

    kind = "source"

    def __init__(self, path: str):
        self.path = path
        self.names: list[str] = []
        self.problems: list[Problem] = []
        self.other: Counter[str] = Counter()
        self.silent: Counter[str] = Counter()
        self.classes: tuple[dict[str, int], list[str]] | None = None
        self.said: list[str] = []
        self.test: str | None = None

    def open(self, name: str) -> BinaryIO:
        """The bytes of a member, seekable; safe to call from any thread. Raises OSError or `Unusable`."""
        raise NotImplementedError

    def size(self, name: str) -> int:
        """Bytes of a member, unpacked."""
        raise NotImplementedError

    def read_extra(self, name: str) -> bytes | None:
        """The bytes of a file beside the images (dataset.json), or None when there is none."""
        raise NotImplementedError

    def close(self) -> None:
        pass

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def require_images(self) -> None:
        """Raises HandfulError, saying what was found instead, when there is no image at all."""
        if self.names or self.problems:
            return
        found = ", ".join(f"{n} {suffix}" for suffix, n in (self.other + self.silent).most_common(4))
        hint = "; give one of the zips itself" if self.other[".zip"] else ""
        raise HandfulError(
            f"no images in '{self.path}' (found {found or 'nothing'}){hint};"
            " DATA is a folder or a zip of JPEG, PNG, WebP, TIFF, GIF or BMP files"
        )

    def notes(self) -> list[str]:
        if not self.other:
            return self.said
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in self.other.most_common(5))
        return [*self.said, f"left alone: {count(self.other.total(), 'other file')} ({kinds})"]

    def _sort_in(self, name: str) -> bool:
        """Files `name` under images, silent or other files; True when it is an image."""
        path = PurePosixPath(name)
        if any(part.startswith(".") or part.lower() in JUNK for part in path.parts):
            return False
        suffix = path.suffix.lower()
        if suffix in SILENT_SUFFIXES:
            self.silent[suffix] += 1
            return False
        if suffix not in IMAGE_SUFFIXES and not self._looks_like_image(name):
            self.other[suffix or "without a suffix"] += 1
            return False
        self.names.append(name)
        return True

    def _looks_like_image(self, name: str) -> bool:
        try:
            with self.open(name) as file:
                head = file.read(16)
        except (OSError, Unusable):
            return False
        return head.startswith(MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


class Folder(Source):
    """A folder of any depth. Links are followed, each real folder once."""

    kind = "folder"

    def __init__(self, path: str):
        super().__init__(path)
        self.root = Path(path).expanduser()
        self._seen: set[tuple[int, int]] = set()
        try:
            self._walk("")
        except PermissionError:
            raise HandfulError(f"no permission to read the folder '{path}'; try: chmod -R u+rX '{path}'") from None
        self.names.sort()

    def _walk(self, folder: str) -> None:
        where = self.root / folder
        with os.scandir(where) as entries:
            info = os.stat(where)
            if info.st_ino and (info.st_dev, info.st_ino) in self._seen:
                return
            self._seen.add((info.st_dev, info.st_ino))
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if not entry.is_dir():
                if entry.is_symlink() or entry.is_file():  # a dangling link is reported later, a socket or a pipe never read
                    self._sort_in(name)
            elif not entry.name.startswith(".") and entry.name.lower() not in JUNK:
                try:
                    self._walk(name)
                except PermissionError:
                    remedy = f"chmod -R u+rX '{where / entry.name}'"
                    self.problems.append(Problem(name, "no permission to list this folder", remedy))

    def open(self, name: str) -> BinaryIO:
        path = self.root / name
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Unusable("not a regular file", "remove it")
        return open(path, "rb")

    def size(self, name: str) -> int:
        return os.stat(self.root / name).st_size

    def read_extra(self, name: str) -> bytes | None:
        path = self.root / name
        return path.read_bytes() if path.is_file() else None


class Zip(Source):
    """A zip, stored or deflated. Every thread opens it for itself, since a ZipFile shares one file position."""

    kind = "zip"

    def __init__(self, path: str):
        super().__init__(path)
        self.file = Path(path).expanduser()
        self._local = threading.local()
        self._opened: list[zipfile.ZipFile] = []
        self._lock = threading.Lock()
        self._infos: dict[str, zipfile.ZipInfo] = {}
        try:
            infos = self._zip().infolist()
        except zipfile.BadZipFile:
            raise HandfulError(f"'{path}' is not a zip, or was cut short; copy or download it again") from None
        except PermissionError:
            raise HandfulError(f"no permission to read '{path}'; try: chmod u+r '{path}'") from None
        for info in infos:
            name = self._safe_name(info)
            if info.is_dir() or name.endswith("/"):
                continue
            self._infos[name] = info
        unpacked = sum(info.file_size for info in self._infos.values())
        if unpacked > MAX_ZIP_BYTES:
            raise HandfulError(f"'{path}' unpacks to {unpacked / 1e12:.1f} TB: refused; unpack it yourself if you trust it")
        for name in sorted(self._infos):
            if self._sort_in(name) and self._infos[name].flag_bits & 1:
                self.names.pop()
                self.problems.append(Problem(name, "encrypted in the zip", "unpack it with its password and zip it again without"))

    def _safe_name(self, info: zipfile.ZipInfo) -> str:
        name = info.filename.replace("\\", "/")
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
            fault = f"holds the member '{show(info.filename)}', which points outside of the zip"
            raise HandfulError(f"'{self.path}' {fault}: refused; make the zip again")
        if info.file_size > MAX_RATIO_BYTES and info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise HandfulError(
                f"'{self.path}' holds the member '{show(name)}', which unpacks to {info.file_size / 1e6:.0f} MB from"
                f" {info.compress_size / 1e3:.0f} kB: refused; unpack it yourself if you trust it"
            )
        return name

    def _zip(self) -> zipfile.ZipFile:
        if not hasattr(self._local, "zip"):
            self._local.zip = zipfile.ZipFile(self.file)
            with self._lock:
                self._opened.append(self._local.zip)
        return self._local.zip

    def open(self, name: str) -> BinaryIO:
        try:
            return io.BytesIO(self._zip().read(self._infos[name]))
        except zipfile.BadZipFile as error:
            raise Unusable(f"damaged in the zip ({error})", "make the zip again") from None
        except (NotImplementedError, RuntimeError) as error:
            raise Unusable(f"packed in a way that can't be read ({error})", "zip it again, stored or deflated") from None

    def size(self, name: str) -> int:
        return self._infos[name].file_size

    def read_extra(self, name: str) -> bytes | None:
        return self.open(name).read() if name in self._infos else None

    def close(self) -> None:
        for opened in self._opened:
            opened.close()


def common_folder(names: list[str]) -> str:
    """The deepest folder that holds all `names`, with its slash ("" when there is none): what a zip's wrapping folder is."""
    shared = ""
    for parts in zip(*(name.split("/")[:-1] for name in (min(names), max(names)))) if names else ():
        if parts[0] != parts[1]:
            break
        shared += parts[0] + "/"
    return shared
