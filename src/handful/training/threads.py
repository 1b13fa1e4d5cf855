"""How many threads a run on a CPU computes with.

The number is part of the arithmetic: sums are divided among the threads, so gradients of one and of two threads differ in their last bits. It is
chosen once, by timing real steps, and stored with the run. On a machine with other work more threads can be several times slower than one,
because every operator waits for the slowest of them; then the number may change, at a checkpoint alone, and the change is part of the run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import TYPE_CHECKING

import torch

from . import distributed

if TYPE_CHECKING:
    from .trainer import Trainer

SECONDS, SHARE = 6.0, 0.02           # for all trials together, and of the time that the run will take
LEAST = 3                            # steps of each number that count, where they are not very long
HOPELESS = 1.5                       # a number that takes so many times the best one's time ends the search in its direction
CLEAR = 0.97                         # more threads must save this much of the time of fewer: they disturb other programs, and are disturbed
SLOW, PATIENCE_SEC, WINDOW_SEC = 0.6, 180.0, 30.0


def usable() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fixed(asked: int | None) -> int | None:
    """The number that needs no trial: the one asked for, or the user's OMP_NUM_THREADS; None where it is to be found out."""
    return asked or (torch.get_num_threads() if os.environ.get("OMP_NUM_THREADS") else None)


def candidates(world: int = 1) -> list[int]:
    """What is tried, the most first: all cores that this process has for itself, then half of them, and so on."""
    n = max(1, min(usable(), torch.get_num_threads() if world == 1 else usable()) // world)
    out = [n]
    while out[-1] > 1:
        out.append(out[-1] // 2)
    return out


def measure(step: Callable[[], float], world: int = 1, seconds: float = SECONDS) -> dict[int, float]:
    """Seconds per step by the number of threads. step: runs one and returns its seconds; all processes of a run call this together.

    Each number runs one step that doesn't count. The steps of two numbers take turns, so that both see the same machine. seconds: for all that comes
    after the first steps; up to twice as much for LEAST steps of each.
    """
    tried: dict[int, list[float]] = {}
    numbers = candidates(world)

    def timed(n: int) -> None:
        torch.set_num_threads(n)
        tried.setdefault(n, []).append(step())

    if len(numbers) == 1:
        torch.set_num_threads(numbers[0])
        return {numbers[0]: step()}
    for n in numbers:
        for _ in range(2):
            timed(n)
        del tried[n][0]
        times = distributed.from_first({k: median(v) for k, v in tried.items()}, world)
        if times[n] > HOPELESS * min(times.values()):
            break
    started, rounds = time.perf_counter(), 1
    while distributed.from_first(time.perf_counter() - started < seconds * (2 if rounds < LEAST else 1), world):
        times = distributed.from_first({k: median(v) for k, v in tried.items()}, world)
        alive = [n for n, sec in times.items() if sec <= HOPELESS * min(times.values())]
        if len(alive) == 1 and rounds >= LEAST:
            break
        for n in alive:
            timed(n)
        rounds += 1
    return distributed.from_first({k: median(v) for k, v in tried.items()}, world)


def measure_in_place(trainer: Trainer) -> dict[int, float]:
    """`measure` by steps of a run itself, which is then put back to where it was, to the bit."""
    def step() -> float:
        started = time.perf_counter()
        trainer.iteration = 1                                 # without lazy phases, as most iterations are
        trainer.step()
        return time.perf_counter() - started

    with trainer.preserved():
        return measure(step, trainer.world)


def best(sec_per_step: Mapping[int, float]) -> int:
    """The fewest threads that nothing beats clearly."""
    chosen, *more = sorted(sec_per_step)
    for n in more:
        if sec_per_step[n] < CLEAR * sec_per_step[chosen]:
            chosen = n
    return chosen


class Watch:
    """When a run should look again at its number of threads: its speed was below SLOW times the start's for PATIENCE_SEC; or the number was changed
    PATIENCE_SEC ago, since what slowed the run down may be over.

    start: images/s at the start of the run, None: not known yet, the first WINDOW_SEC say it. changed: whether the number is another than the one
    that the run began with. Time that isn't spent in steps doesn't count.
    """

    def __init__(self, start: float | None = None, changed: bool = False) -> None:
        self.start, self.changed = start, changed
        self._images, self._sec, self._slow_sec, self._since = 0, 0.0, 0.0, 0.0

    @property
    def due(self) -> bool:
        return self._slow_sec >= PATIENCE_SEC or self.changed and self._since >= PATIENCE_SEC

    def look(self, images: int, sec: float) -> None:
        """A step has shown `images` in `sec` seconds."""
        self._images, self._sec, self._since = self._images + images, self._sec + sec, self._since + sec
        if self._sec < WINDOW_SEC:
            return
        speed = self._images / self._sec
        if self.start is None:
            self.start = speed
        self._slow_sec = self._slow_sec + self._sec if speed < SLOW * self.start else 0.0
        self._images, self._sec = 0, 0.0

    def again(self, changed: bool) -> None:
        """The number was looked at anew; changed: as above."""
        self.changed = changed
        self._images, self._sec, self._slow_sec, self._since = 0, 0.0, 0.0, 0.0
