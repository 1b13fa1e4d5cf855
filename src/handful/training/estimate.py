"""What a run will cost on this machine, measured by steps of the run itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from ..config import Config
from ..data import Dataset
from . import distributed, threads
from .choose import machine, precision
from .log import duration
from .loop import memory_gb
from .trainer import Trainer

PROBE_SEC = 20.0                        # half of this goes into steps
BUSY = 1.5                              # a step that takes so many times the median step's time shows that other programs run


@dataclass(frozen=True)
class Estimate:
    """images_per_sec and memory_gb from real steps; sec: of the whole run; threads: of the CPU to compute with, None on another device."""

    images_per_sec: float
    memory_gb: float
    sec: float
    line: str
    threads: int | None = None


def estimate(trainer: Trainer) -> Estimate:
    """Runs a few steps of the trainer and extrapolates; on a CPU also finds out the number of threads, and leaves it set. The trainer is put back to
    where it was, to the bit. Costs a few seconds; where steps are long, PROBE_SEC and the first steps.

    All processes of a run take part, and take the same number of steps.
    """
    device, world, t = trainer.device, trainer.world, trainer.config.train
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def timed(iteration: int) -> float:
        trainer.iteration, start = iteration, time.perf_counter()
        trainer.step()
        _wait(device)
        return time.perf_counter() - start

    with trainer.preserved():
        for term in trainer.terms.values():
            term.assume_typical(trainer.nets)
        _wait(device)
        used = threads.fixed(t.threads) if device.type == "cpu" else None
        if used is not None:
            torch.set_num_threads(used)
        timed(0)                                          # the first step loads code and grows memory: it doesn't count
        if device.type == "cpu" and used is None:
            whole = timed(1) * t.kimg * 1000 / (t.batch * t.d_steps)               # an iteration without lazy phases, as most are
            tried = threads.measure(lambda: timed(1), world, min(threads.SECONDS, threads.SHARE * distributed.from_first(whole, world)))
            used = threads.best(tried)
            torch.set_num_threads(used)
        times, started = [timed(1)], time.perf_counter()
        while distributed.from_first(len(times) < 12 and time.perf_counter() - started < PROBE_SEC / 2, world):
            times.append(timed(1))
        per_step, slowest = median(times), sorted(times)[len(times) * 4 // 5]     # without the odd step that something else held up
        if lazy := [p.every for p in trainer.plan if not p.main]:
            extra = max(0.0, min(timed(0) for _ in range(2)) - per_step) * sum(1 / k for k in lazy) / len(lazy)
            per_step, slowest = per_step + extra, slowest + extra
    shown = t.batch * t.d_steps
    speed, sec = shown / per_step, t.kimg * 1000 * per_step / shown
    memory = memory_gb(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)        # the run counts its own
    pace, length, longest, note = _few_digits(speed), duration(sec), duration(sec * slowest / per_step), ""
    if slowest > BUSY * per_step and longest != length:
        pace, length = f"{_few_digits(shown / slowest)} to {pace}", f"{length} to {longest}"
        note = "; other programs use this machine, so this is uncertain"
    line = (f"{t.kimg:g} kimg at about {pace} images/s on {machine(device)}{f' x {world}' if world > 1 else ''} in "
            f"{precision(t.precision, device)}: {length}, {memory:.1f} GB of memory{note}")
    return Estimate(speed, memory, sec, line, used)


def of_noise(config: Config, device: torch.device) -> Trainer:
    """A trainer of a run whose images aren't on this machine: noise of their shape stands for them. data.count: how many the terms are told of, 0
    where it isn't known."""
    d = config.data
    height, width = (d.resolution, d.resolution) if isinstance(d.resolution, int) else d.resolution
    classes = d.class_names or []
    n = max(config.train.batch, 2) * (2 if d.holdout else 1)
    noise = Dataset(torch.randint(0, 256, (n, d.channels, height, width), dtype=torch.uint8),
                    torch.arange(n) % len(classes) if classes else None, list(classes))
    small = config.model_copy(deep=True)
    small.data.groups, small.data.holdout = None, 0.5 if d.holdout else 0.0       # the noise stands for both parts
    return Trainer(small, noise, device, precision=precision(config.train.precision, device), count=d.count)


def _few_digits(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
