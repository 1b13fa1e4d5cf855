"""Where pictures come from: a folder of any depth or a zip. A source lists image names and opens them; it decodes nothing, extracts
nothing to disk and changes nothing.

Names are paths inside the source with forward slashes, in plain string order (the order of the official StyleGAN2-ADA datasets).
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from handful.data.problems import Problem, Unusable, count, of_system, show
from handful.errors import HandfulError
from handful.files import read_bounded

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .bmp .dib .tif .tiff .webp .avif .jp2 .j2k .jpx .ppm .pgm .pbm .pnm .tga .qoi .pcx"
    " .sgi .heic .heif".split()
)
SILENT_SUFFIXES = frozenset(".json .csv .tsv .txt .md .npz .npy .xml .yaml .yml .html .pdf .log .sha256".split())
JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")  # what a file without a known suffix may still be

MAX_RATIO, MAX_RATIO_BYTES, MAX_ZIP_BYTES = 200, 100 * 10**6, 10**12  # a zip beyond these is a bomb, not pictures
MAX_MEMBER_BYTES = 2 * 10**9  # a zip's member is read whole into memory
MAX_TABLE_BYTES = 256 * 10**6  # the labels of all of ImageNet take 70 MB
NOT_REGULAR = ("not a regular file", "remove it")  # a pipe or a device: opening it may hang
ZIP_FAULTS = (zipfile.BadZipFile, EOFError, IndexError, OverflowError, ValueError, struct.error, zlib.error)  # what a damaged one raises


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

    def held(self, name: str) -> int:
        """Bytes of memory that a member takes while it is open."""
        return 0

    def read_extra(self, name: str) -> bytes | None:
        """The bytes of a file beside the images (dataset.json), or None when there is none. Raises HandfulError when it can't be read."""
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

    def _head(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read(16)

    def _looks_like_image(self, name: str) -> bool:
        try:
            head = self._head(name)
        except (OSError, Unusable):
            return False
        return head.startswith(MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


class Folder(Source):
    """A folder of any depth. Links are followed, each real folder once; what can't be reached is a problem, and the rest goes on."""

    kind = "folder"

    def __init__(self, path: str):
        super().__init__(path)
        self.root = Path(os.path.expanduser(path))
        self._seen: set[tuple[int, int]] = set()
        waiting = [""]
        while waiting:  # not recursive: folders may lie deeper than Python calls itself
            waiting += reversed(self._look_into(waiting.pop()))
        self.names.sort()

    def _look_into(self, folder: str) -> list[str]:
        """Takes in the files of a folder; returns the folders in it."""
        where = self.root / folder
        try:
            with os.scandir(where) as entries:
                info = os.stat(where)
                if info.st_ino and (info.st_dev, info.st_ino) in self._seen:
                    return []
                self._seen.add((info.st_dev, info.st_ino))
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._refuse_folder(folder, error)
            return []
        named = ((f"{folder}/{entry.name}" if folder else entry.name, entry) for entry in found)
        return [name for name, entry in named if self._is_folder(name, entry)]

    def _refuse_folder(self, folder: str, error: OSError) -> None:
        denied = isinstance(error, PermissionError)
        fault, remedy = of_system(error)
        if not folder:
            if denied:
                raise HandfulError(f"no permission to read the folder '{self.path}'; try: chmod -R u+rX '{self.path}'") from None
            raise HandfulError(f"the folder '{self.path}': {fault}; {remedy}") from None
        if denied:
            fault, remedy = "no permission to list this folder", f"chmod -R u+rX '{self.root / folder}'"
        self.problems.append(Problem(folder, fault, remedy))

    def _is_folder(self, name: str, entry: os.DirEntry) -> bool:
        """Whether an entry is a folder to look into; a file is taken in, or is a problem."""
        if entry.name.startswith(".") or entry.name.lower() in JUNK:
            return False
        try:
            if entry.is_dir():
                return True
            if entry.is_file() or not os.path.exists(entry.path):  # a dangling link is reported when it is opened
                self._sort_in(name)
            elif PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES | {".zip"}:
                self.problems.append(Problem(name, *NOT_REGULAR))
        except OSError as error:  # a link in a circle; one entry is no reason to give up the others
            self.problems.append(Problem(name, *of_system(error)))
        return False

    def open(self, name: str) -> BinaryIO:
        path = self.root / name
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Unusable(*NOT_REGULAR)
        return open(path, "rb")

    def size(self, name: str) -> int:
        return os.stat(self.root / name).st_size

    def read_extra(self, name: str) -> bytes | None:
        path = self.root / name
        return read_bounded(path, MAX_TABLE_BYTES) if os.path.lexists(path) and not path.is_dir() else None


class Zip(Source):
    """A zip, stored or deflated. Every thread opens it for itself, since a ZipFile shares one file position."""

    kind = "zip"

    def __init__(self, path: str):
        super().__init__(path)
        self.file = Path(os.path.expanduser(path))
        self._local = threading.local()
        self._opened: list[zipfile.ZipFile] = []
        self._lock = threading.Lock()
        self._infos: dict[str, zipfile.ZipInfo] = {}
        self._twice: set[str] = set()
        try:
            infos = self._zip().infolist()
        except (*ZIP_FAULTS, NotImplementedError):
            raise HandfulError(f"'{path}' is not a zip, or was cut short; copy or download it again") from None
        except PermissionError:
            raise HandfulError(f"no permission to read '{path}'; try: chmod u+r '{path}'") from None
        except OSError as error:
            raise HandfulError(f"can't read '{path}' ({error.strerror or error}); copy it again") from None
        for info in infos:
            name = self._safe_name(info)
            if info.is_dir() or name.endswith("/"):
                continue
            if name in self._infos:
                self._twice.add(name)
            self._infos[name] = info
        unpacked = sum(info.file_size for info in self._infos.values())
        if unpacked > MAX_ZIP_BYTES:
            raise HandfulError(f"'{path}' unpacks to {unpacked / 1e12:.1f} TB: refused; unpack it yourself if you trust it")
        for name in sorted(self._infos):
            if self._sort_in(name) and (fault := self._fault(name)):
                self.names.pop()
                self.problems.append(Problem(name, *fault))

    def _fault(self, name: str) -> tuple[str, str] | None:
        """What is wrong with a member, and the remedy, as far as the zip's directory says."""
        if name in self._twice:
            return "two members of this name in the zip", "keep one of them, and zip it again"
        if self._infos[name].flag_bits & 1:
            return "encrypted in the zip", "unpack it with its password and zip it again without"
        if self._infos[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others can't be unpacked within bounds
            return "packed in a way that can't be read", "zip it again, stored or deflated"
        if self.size(name) > MAX_MEMBER_BYTES:
            return f"{self.size(name) / 1e9:.1f} GB in the zip", "unpack the zip into a folder"
        return None

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
        return io.BytesIO(self._unpacked(name, self.size(name)))

    def _head(self, name: str) -> bytes:
        return self._unpacked(name, 16)

    def _unpacked(self, name: str, n: int) -> bytes:
        """The first n bytes of a member. (A ZipFile's own `read` first unpacks all that there is, whatever the directory says.)"""
        try:
            with self._zip().open(self._infos[name]) as member:
                return member.read(n)
        except ZIP_FAULTS as error:
            raise Unusable(f"damaged in the zip ({error})", "make the zip again") from None
        except (NotImplementedError, RuntimeError) as error:
            raise Unusable(f"packed in a way that can't be read ({error})", "zip it again, stored or deflated") from None

    def size(self, name: str) -> int:
        return self._infos[name].file_size

    def held(self, name: str) -> int:
        return self._infos[name].file_size + self._infos[name].compress_size

    def read_extra(self, name: str) -> bytes | None:
        if name not in self._infos:
            return None
        try:
            if fault := self._fault(name):
                raise Unusable(*fault)
            if self.size(name) > MAX_TABLE_BYTES:
                raise Unusable(f"larger than {MAX_TABLE_BYTES // 10**6} MB", "make it smaller or remove it")
            return self.open(name).read()
        except Unusable as error:
            raise HandfulError(f"'{show(name)}' in '{self.path}': {error.fault}; {error.remedy}") from None
        except OSError as error:
            raise HandfulError(f"can't read '{self.path}' ({error.strerror or error}); copy it again") from None

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
