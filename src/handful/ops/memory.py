"""Freed memory stays with the process. On Linux this alone saves a quarter of the CPU time of a training step at 256 pixels."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4           # mallopt(3)


def keep_freed_memory() -> bool:
    """Tells glibc to serve large blocks from the heap and to keep what is freed. Returns whether it could (elsewhere nothing happens).

    By default every feature map above 32 MB is a fresh mapping, whose pages the kernel clears one fault at a time, in each step anew. Costs
    some memory, because a heap with holes is larger than the sum of its blocks (measured at 256 pixels, batch 8: 3.2 GB where it was 2.9).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):                       # another C library
        return False
    return all(mallopt(option, value) for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 << 20)))
