"""Files that can't be used: what is wrong with each, and what to do about it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

from handful.data.memory import DECODING

R = TypeVar("R")
MAX_PIXELS = 300 * 10**6
LONGEST = 200  # characters of a name that are shown


@dataclass(frozen=True)
class Problem:
    """One file that can't be used: its name inside the source, what is wrong with it, and what to do about it."""

    name: str
    fault: str
    remedy: str

    def __str__(self) -> str:
        return f"{show(self.name)}: {self.fault}; {self.remedy}"


class Unusable(Exception):
    """Raised inside a worker for a file that can't be used; becomes a `Problem`."""

    def __init__(self, fault: str, remedy: str):
        super().__init__(fault)
        self.fault, self.remedy = fault, remedy


def show(name: str) -> str:
    """`name` on one printable line, whatever bytes a file name holds; of a very long one the two ends."""
    name = name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}...{name[-LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else "?" for c in name)


def count(n: int, what: str) -> str:
    """"1 image", "2 images"."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def attempt(source: Any, name: str, work: Callable[[Any], R]) -> R | Problem:
    """`work` on a member of the source; any fault of the file becomes a `Problem` with a remedy."""

    def look() -> R:
        with source.open(name) as file:
            return work(file)

    try:
        if source.size(name) == 0:
            raise Unusable("empty (0 bytes)", "copy it again, or delete it")
        return DECODING.within(source.held(name), look)
    except Exception as error:
        fault, remedy = _explain(error, name)
        return Problem(name, fault, remedy)


def of_system(error: OSError) -> tuple[str, str]:
    """Fault and remedy of a file or folder that the system doesn't hand out."""
    if isinstance(error, PermissionError):
        return "no permission to read it", "chmod u+r it"
    if isinstance(error, FileNotFoundError):
        return "a link to nothing", "delete it, or put the file back"
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself", "delete it"
    if error.errno == errno.ENAMETOOLONG:
        return "its path is too long", "shorten its name, or those of the folders around it"
    return f"can't be read ({error.strerror or error})", "copy it again, or delete it"


def _explain(error: Exception, name: str) -> tuple[str, str]:
    if isinstance(error, Unusable):
        return error.fault, error.remedy
    if isinstance(error, OSError) and error.errno:  # Pillow's own have no number
        return of_system(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"larger than {MAX_PIXELS // 10**6} million pixels", "make it smaller in an image editor"
    if isinstance(error, UnidentifiedImageError):
        if name.lower().endswith((".heic", ".heif")):
            return "HEIC, which can't be read here", "convert it to JPEG or PNG"
        return "not an image, or its beginning is damaged", "open it in a viewer; save it again, or delete it"
    if isinstance(error, MemoryError):
        said = f" ({error})" if str(error) else ""
        return f"too large for the memory{said}", "make it smaller in an image editor, or close other programs"
    text = " ".join(str(error).split())
    if any(word in text for word in ("truncated", "broken data stream", "unrecognized data stream", "not processed", "Truncated")):
        return f"cut short ({text})", "copy or download it again"
    return f"damaged ({text or type(error).__name__})", "open it in a viewer; save it again, or delete it"
