"""Files on the ground floor: written atomically; small ones read within bounds."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import HandfulError, NoPermission


def atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Writes to a temporary name in the same folder, syncs, renames: a reader finds the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise HandfulError(f"{path} can't be written ({error.strerror or error}); free some space or choose another folder; "
                           f"what was saved before is untouched") from error
    except RuntimeError as error:                            # torch's writer wraps what the disk says
        raise HandfulError(f"{path} can't be written ({first_line(error)}); is the disk full?") from error
    finally:
        if temporary.exists():                               # where the folder is a file, unlink would fail
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    atomic(path, lambda p: p.write_text(text, encoding="utf-8"))


def in_shell(path: Path | str) -> str:
    """A path as it is typed in a shell, in quotes where it needs them."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_bounded(path: Path, most: int = 64 * 10**6) -> bytes:
    """The bytes of a small file of ours. Raises HandfulError, saying what the system said, where it can't be read or is larger than `most`."""
    try:
        if not path.is_file() and path.exists():
            raise HandfulError(f"{path} is not a regular file; name another")
        if path.stat().st_size > most:
            raise HandfulError(f"{path} is larger than {most // 10**6} MB, so it isn't what it is taken for; restore it from a copy")
        return path.read_bytes()
    except FileNotFoundError:
        raise HandfulError(f"{path} doesn't exist") from None
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path | str, error: OSError) -> HandfulError:
    """What the system said of a file that can't be read, which is not the file's fault."""
    if isinstance(error, PermissionError):
        return NoPermission(f"no permission to read {path}: change its rights (chmod u+r), or those of the folders above it")
    return HandfulError(f"{path} can't be read ({error.strerror or error}); restore it from a copy")


def parse_json(text: bytes | str, said: str, shape: type) -> Any:
    """JSON that came in a file, of a `shape` (dict, list). Raises HandfulError, naming what was `said`, for anything else: no number that Python
    has no room for, no NaN, no nesting without end."""
    try:
        found = loads(text)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:100]
        raise HandfulError(f"{said} can't be read: {why}; restore it from a copy") from None
    if not isinstance(found, shape):
        raise HandfulError(f"{said} holds a {type(found).__name__}, not a {shape.__name__}; restore it from a copy")
    return found


def loads(text: bytes | str) -> Any:
    """`json.loads` without what no file of ours has. Raises ValueError for NaN, infinities and whole numbers of more than 64 bits; RecursionError
    for nesting without end."""
    return json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_integer)


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"{text[:20]}... is too large a number")
    return int(text)
