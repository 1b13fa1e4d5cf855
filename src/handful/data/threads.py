"""Work on many files at once, results in order."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from PIL import Image

from handful.data.memory import DECODING
from handful.data.problems import MAX_PIXELS

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def _pillow_limits() -> Iterator[None]:
    """Our size limit in place of Pillow's, and its warnings (said as problems or notes instead) kept quiet while threads decode."""
    Image.init()  # here, since it isn't safe in threads
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS // 2  # Pillow refuses above twice its limit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def in_threads(
    work: Callable[[T], R], items: Iterable[T], take: Callable[[T, R], Any], progress: Callable[[int, int], None] | None = None
) -> None:
    """`take(item, work(item))`: the work in threads (Pillow and hashlib release the GIL), the taking here, in order.

    Where the work opens files by `attempt`, all threads together hold no more memory than `memory.DECODING` allows.
    """
    items = list(items)
    workers = os.cpu_count() or 1
    waiting: deque = deque()
    done = 0
    DECODING.measure()
    with _pillow_limits():
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        try:
            for i, item in enumerate(items):
                waiting.append((item, pool.submit(work, item)))
                while waiting and (len(waiting) >= 4 * workers or i == len(items) - 1):
                    first, future = waiting.popleft()
                    take(first, future.result())
                    done += 1
                    if progress:
                        progress(done, len(items))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
