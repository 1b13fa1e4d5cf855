"""Memory for decoding, shared by all threads: small pictures side by side, large ones one at a time.

A file is opened within what it takes while it is open; its decoder then requires more, once the header has said how large the picture is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

R = TypeVar("R")
LEAST, MOST = 10**8, 4 * 10**9  # the system may be wrong about a little; twelve photographs of 24 million pixels are enough at once


class _More(Exception):
    """Raised in a thread that needs `amount` bytes where others hold too much."""

    def __init__(self, amount: int):
        super().__init__(amount)
        self.amount = amount


class Budget:
    """Bytes that all threads together may hold: half of the free memory, within bounds. Who needs more than that waits until nobody holds any.

    A thread waits with nothing in hand, so that no two wait for each other: where its needs grow and don't fit, it drops what it has and
    starts again with the whole of them.
    """

    def __init__(self):
        self.total = self._held = 0
        self._changed = threading.Condition()
        self._mine = threading.local()

    def measure(self) -> None:
        """Sets the total by the memory that is free now, unless some of it is held."""
        with self._changed:
            if not self._held:
                self.total = min(max(free_memory() // (2 * _processes()), LEAST), MOST)

    def within(self, amount: int, work: Callable[[], R]) -> R:
        """`work()`, when `amount` bytes are to be had. Raises MemoryError for what `work` requires and is not free even so."""
        opened = amount
        while True:
            self._take(amount)
            self._mine.opened, self._mine.held = opened, amount
            try:
                return work()
            except _More as more:
                amount = more.amount
            finally:
                self._give(self._mine.held)
                self._mine.held = None

    def require(self, amount: int) -> None:
        """Makes sure of `amount` bytes beside the open file, until `within` returns. Outside of `within` it does nothing."""
        if getattr(self._mine, "held", None) is None:
            return
        needed = self._mine.opened + amount
        lacking = needed - self._mine.held
        if lacking <= 0:
            return
        with self._changed:
            if self._held + lacking > self.total:
                raise _More(needed)
            self._held += lacking
        self._mine.held = needed

    def _take(self, amount: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + amount <= self.total)
            if amount > self.total and amount > (free := free_memory()):
                raise MemoryError(f"it takes {amount / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
            self._held += amount

    def _give(self, amount: int) -> None:
        with self._changed:
            self._held -= amount
            self._changed.notify_all()


DECODING = Budget()  # one for the process, however many data sets are read at once


def _processes() -> int:
    """Of one run on this machine: each reads the data."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(said)) if said.isdecimal() else 1


def free_memory(unknown: int | None = 4 << 30) -> int | None:
    """Bytes that can be taken without swapping, as far as the system tells, or `unknown`; a container's own limit counts."""
    free = unknown
    try:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(meminfo["MemAvailable"].split()[0]) << 10
        limit, used = (Path(f"/sys/fs/cgroup/memory.{what}").read_text().strip() for what in ("max", "current"))
        kept = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        # What the container has read of files counts as used, but makes room.
        free = min(free, int(limit) - int(used) + int(kept["active_file"]) + int(kept["inactive_file"]))
    except (AttributeError, OSError, ValueError, KeyError):
        pass  # each line above is better than the last where a system has it
    return free
