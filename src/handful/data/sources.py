"""What DATA may be: a folder, a zip, a split of a set as it is distributed, or a name that handful knows."""

from __future__ import annotations

import difflib
import errno
import os
import re
import stat
import zipfile
from pathlib import Path

from handful.data import known
from handful.data.containers import IMAGE_SUFFIXES, Folder, Source, Zip
from handful.data.distributed import SPLITS, recognise
from handful.data.problems import show
from handful.data.records import SETS
from handful.errors import HandfulError

NAMED = {"demo": Path(__file__).parent / "demo" / "emoji.zip"}  # sets that come with handful; a file of that name comes first
GIVEN = {"tiny-imagenet": "tiny-imagenet-200", "cub200": "CUB_200_2011", "imagenet": "ILSVRC"}  # sets that the user has to bring
_WINDOWS = os.name == "nt"
_SPLIT = re.compile(rf"(.+):({'|'.join(SPLITS)})", re.DOTALL)


def locate(path: str | os.PathLike) -> Path:
    """Where DATA lies: as typed, or what a name that comes with handful stands for."""
    where = Path(os.path.expanduser(path))
    return where if os.path.exists(where) else NAMED.get(os.fspath(path), where)


def exists(path: str | os.PathLike) -> bool:
    """Whether DATA is on this machine, or is a set by name, which can be fetched."""
    typed = os.fspath(path)
    return os.path.exists(locate(typed)) or known.parse(typed) is not None or os.path.exists(_parted(typed)[0])


def stem(path: str | os.PathLike) -> str:
    """DATA as a word for a file's name: "cats", "cifar10-10pct", "CUB_200_2011-test"."""
    typed = os.fspath(path)
    if os.path.exists(locate(typed)):
        return Path(os.path.realpath(locate(typed))).stem or "images"
    if known.parse(typed) is not None:
        return typed.replace(":", "-").replace("%", "pct")
    where, split = _parted(typed)
    return f"{Path(os.path.realpath(where)).stem or 'images'}{f'-{split}' if split else ''}"


def test_of(path: str | os.PathLike) -> str | None:
    """DATA of the test images that belong to training images: "cifar10:10%" -> "cifar10:test", a set's folder -> "FOLDER:val" or "FOLDER:test".
    None where there are none, where DATA is a test set itself, or isn't here.
    """
    typed = os.fspath(path)
    if not os.path.exists(locate(typed)) and (chosen := known.parse(typed)) is not None:
        return f"{chosen.known.name}:test" if chosen.part == "train" else None
    try:
        with open_source(typed) as source:
            return None if source.test is None else f"{source.path}:{source.test}"
    except HandfulError:
        return None


def open_source(path: str | os.PathLike) -> Source:
    """Opens DATA; a set by name that isn't on this machine is fetched. Raises HandfulError, one line with the remedy, when it isn't there,
    can't be read or isn't one of those.
    """
    typed = os.fspath(path)
    where = locate(typed)
    here = os.path.exists(where)
    if where is NAMED.get(typed):
        return Zip(str(where))
    if not here and (chosen := known.parse(typed)) is not None:
        return known.Records(typed, chosen)
    split = None
    if not here:
        where, split = _parted(typed)
        typed = typed.removesuffix(f":{split}")
    try:
        info = os.stat(where)
    except PermissionError:
        raise HandfulError(f"no permission to reach '{typed}'; make the folders above it readable (chmod u+x)") from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            raise HandfulError(f"the path '{show(typed)}' is too long; correct it, or go into the folder and call it '.'") from None
        raise HandfulError(_absent(typed, where)) from None
    if stat.S_ISDIR(info.st_mode):
        return recognise(Folder(typed), split)
    if not stat.S_ISREG(info.st_mode):  # to open a pipe may take for ever
        raise HandfulError(f"'{typed}' is a pipe or a device, neither a folder nor a zip; save what comes out of it as a file")
    if where.suffix.lower() == ".zip" or zipfile.is_zipfile(where):
        return recognise(Zip(typed), split)
    if where.suffix.lower() in IMAGE_SUFFIXES:
        raise HandfulError(f"'{typed}' is one image; DATA is a folder or a zip of at least 2")
    raise HandfulError(f"'{typed}' is neither a folder nor a zip; unpack it into a folder, or make a zip of the images")


def _parted(typed: str) -> tuple[Path, str | None]:
    """"PATH:val" as PATH and "val"; a drive's letter is no PATH."""
    found = _SPLIT.fullmatch(typed)
    if found and not (_WINDOWS and len(found[1]) == 1):
        return Path(os.path.expanduser(found[1])), found[2]
    return Path(os.path.expanduser(typed)), None


def _absent(typed: str, path: Path) -> str:
    name = typed.partition(":")[0]
    if name.lower() in GIVEN:
        return f"'{typed}' is a set that handful does not fetch: download and unpack it, and name its folder, as in .../{GIVEN[name.lower()]}"
    fault = f"there is no folder or file '{typed}'"
    if path.is_symlink():
        return f"{fault}, it is a link to '{os.readlink(path)}', which is not there; mend the link"
    try:
        close = [path.parent / name for name in difflib.get_close_matches(path.name, os.listdir(path.parent), n=1, cutoff=0.6)]
    except (OSError, ValueError):
        close = []
    close += difflib.get_close_matches(name.lower(), [*SETS, *NAMED], n=1, cutoff=0.7)
    return f"{fault}; did you mean '{close[0]}'?" if close else f"{fault}; check the spelling and the current folder"
