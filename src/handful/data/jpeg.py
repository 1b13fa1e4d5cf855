"""JPEGs whose header states another size than their data have: a decoder fills up with grey, or stops early, and says nothing.

What tells is when a decoder asks for more data. A picture of one scan must not be complete shortly before the scan's end, and must be at its end,
with surplus bits behind it, which change no picture that is complete. Of many scans (progressive) all are read before the first row comes out.
There the picture must end in grey to be suspected; then its first scan is decoded small, with and without surplus bits, which show where others
are missing. That a header states less than many scans have is not found, nor is anything with arithmetic coding.
"""

from __future__ import annotations

import io
import re
from typing import BinaryIO, NamedTuple

from PIL import Image

from handful.data.problems import Unusable

SLACK = 64  # bytes that a careless encoder may leave behind the last block
ONES = b"\xff\x00" * 12  # no code consists of ones alone: they make no block, and encoders themselves fill up with them
GREY = (126, 130)  # about 128, which a block without coefficients has

_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # of a scan: a marker that is no stuffed byte, no restart and no filling


class _Scan(NamedTuple):
    """Where the data of the first scan lie, and whether it is the only one."""

    start: int
    end: int
    only: bool


def load(image: Image.Image, file: BinaryIO) -> None:
    """`image.load()` for a JPEG that was opened from `file`. Also raises `Unusable` where its header lies about its size."""
    data, scan = _read(file, 64 * 10**6 + 4 * image.width * image.height)
    if scan is None or not scan.only:
        image.load()
        if scan is not None and _ends_in_grey(image) and _small(data, scan) != _small(data, scan, _surplus(data, scan)):
            raise _lie(image, "ends before that")
        return
    solid = len(data[scan.start : scan.end].rstrip(b"\x00\xff"))  # without what is but filling
    near = scan.start + max(0, solid - SLACK)
    parts = [data[near : scan.end] + ONES, data[:near]]

    def read(_: int) -> bytes:
        if not parts:
            raise _lie(image, "ends before that")
        return parts.pop()

    image.load_read = read
    try:
        image.load()
    finally:
        del image.load_read  # it holds the image, which would otherwise stay in memory for a while
    if parts:
        raise _lie(image, "goes on after that")


def _read(file: BinaryIO, most: int) -> tuple[bytes, _Scan | None]:
    """The file up to the end of its first scan and a little more, at most `most` bytes: phones append films."""
    file.seek(0)
    data, scan = b"", None
    while scan is None and (more := min(max(1 << 16, len(data)), most - len(data))):  # each time twice as much, since the search begins anew
        some = file.read(more)
        data += some
        scan = _first_scan(data)
        if len(some) < more:
            break
    return data, scan


def _first_scan(data: bytes) -> _Scan | None:
    """None where there is none, where it has no end, and of kinds that aren't looked at."""
    at, frame, layers, last = 2, 0, 0, len(data) - 10
    while at <= last and data[at] == 0xFF:
        marker = data[at + 1]
        length = 0 if marker == 0xFF else 1 + (data[at + 2] << 8 | data[at + 3])  # what 0xFF begins is but filling
        if marker == 0xDA:  # a scan
            start = at + 1 + length
            end = _END.search(data, start)
            return _Scan(start, end.start(), frame != 0xC2 and layers == data[at + 4]) if end and frame else None
        if 0xC0 <= marker <= 0xC2:  # a frame: baseline, extended or progressive, with Huffman codes
            frame, layers = marker, data[at + 9]
        at += 1 + length
    return None


def _ends_in_grey(image: Image.Image) -> bool:
    corner = image.crop(((image.width - 1) // 8 * 8, (image.height - 1) // 8 * 8, image.width, image.height))
    low, high = (corner.getchannel("K") if image.mode == "CMYK" else corner.convert("L")).getextrema()
    return GREY[0] <= low and high <= GREY[1]


def _surplus(data: bytes, scan: _Scan) -> bytes:
    """The scan's own beginning, without markers; and again behind each restart, one of which is the one that the decoder waits for."""
    some = data[scan.start : scan.start + SLACK].replace(b"\xff", b"\x7f")
    return some + b"".join(bytes([0xFF, restart]) + some for restart in range(0xD0, 0xD8))


def _small(data: bytes, scan: _Scan, surplus: bytes = b"") -> bytes:
    """The pixels of the first scan alone at an eighth of the size, with surplus data behind it."""
    image = Image.open(io.BytesIO(data[: scan.end] + surplus + b"\xff\xd9"), formats=["JPEG"])
    image.draft(None, (1, 1))
    return image.tobytes()


def _lie(image: Image.Image, what: str) -> Unusable:
    return Unusable(f"its header says {image.width}x{image.height}, but its data {what}", "open it in a viewer; save it again, or delete it")
