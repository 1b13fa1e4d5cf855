"""Around the step: log, previews, checkpoints, signals, and what happens when a run goes wrong."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import HandfulError
from ..files import load_checkpoint
from ..infer.grid import grid, save_image
from ..infer.model import Model
from . import checkpoint, ema
from .log import Log
from .loop import Trainer

EXPLODED = 1e6                       # a logit or loss beyond this is not coming back
LATEST_REPLAY = 1                    # how often a run may be rolled back


class Stop:
    """Whether the user asked to stop (Ctrl-C, SIGTERM). A second Ctrl-C stops at once."""

    asked = False


def fit(trainer: Trainer, folder: Path, log: Log, *, sec_before: float = 0.0) -> bool:
    """Runs until `train.kimg`. Returns False where the user stopped it (everything is saved). Only rank 0 writes.

    folder: the run's; sec_before: training time of earlier sessions, in seconds.
    """
    config, first = trainer.config, trainer.rank == 0
    total = math.ceil(config.train.kimg * 1000)
    started, images_before = time.perf_counter(), trainer.images_seen
    tick, tick_images = started, trainer.images_seen
    rolled_back = 0
    with _signals() as stop:
        if first and trainer.images_seen == 0:
            _preview(trainer, folder)
            _save(trainer, folder, 0.0)                   # so that a roll-back always has where to go
        while trainer.images_seen < total:
            before = trainer.images_seen
            trainer.step()
            now = trainer.images_seen
            while trainer.notes:
                log.say(trainer.notes.pop(0), now)
            log.progress(now)
            done = now >= total
            halt = done or _agreed(stop.asked, trainer)
            sec = sec_before + time.perf_counter() - started
            if _due(before, now, config.every.log_kimg) or halt:
                values = trainer.take_log()
                trouble = _trouble(values, (now - tick_images) / trainer.batch)
                if trouble:
                    rolled_back += 1
                    _roll_back(trainer, folder, log, trouble, again=rolled_back <= LATEST_REPLAY)
                    tick, tick_images = time.perf_counter(), trainer.images_seen
                    continue
                speed = (now - tick_images) / max(time.perf_counter() - tick, 1e-9)
                if first:
                    log.write(now, {"step": trainer.iteration, "sec": sec, "images_per_sec": speed, "memory_gb": memory_gb(trainer.device),
                                    **values})
                tick, tick_images = time.perf_counter(), now
            if first and (_due(before, now, config.every.preview_kimg) or done):
                _preview(trainer, folder)
            if first and (_due(before, now, config.every.checkpoint_kimg) or halt):
                _save(trainer, folder, sec)
            if halt:
                return done
        if first and trainer.images_seen == images_before and not checkpoint.all_of(folder):
            _save(trainer, folder, sec_before)
    return True


def _due(before: int, now: int, every_kimg: float) -> bool:
    """True when a multiple of the interval lies in (before, now]: a function of the counts, so that a resumed run keeps the same beat."""
    every = every_kimg * 1000
    return math.floor(now / every) > math.floor(before / every)


def _agreed(asked: bool, trainer: Trainer) -> bool:
    """Any rank's wish to stop is everybody's: else the others would wait in a collective for ever."""
    if trainer.world == 1:
        return asked
    flag = torch.tensor(float(asked), device=trainer.device)
    torch.distributed.all_reduce(flag)
    return bool(flag > 0)


def _trouble(values: dict[str, float], steps: float) -> str | None:
    """What is wrong with this stretch of the log, in words; None when nothing is."""
    for side, name in (("d", "the discriminator"), ("g", "the generator")):
        if values.get(f"{side}/bad_grads", 0) >= max(steps, 1):
            return f"the gradients of {name} are not finite"
    for key, value in values.items():
        if key.split("/")[-1].startswith(("loss", "logits")) and (not math.isfinite(value) or abs(value) > EXPLODED):
            return f"{key} is {value:.3g}"
    return None


def _roll_back(trainer: Trainer, folder: Path, log: Log, trouble: str, *, again: bool) -> None:
    remedy = "lower optim_d.lr and optim_g.lr (--set optim_d.lr=1e-4), or take --precision fp32"
    found = checkpoint.all_of(folder)
    if not again or not found:
        raise HandfulError(f"training broke down at {trainer.images_seen} images: {trouble}; {remedy}, then resume")
    trainer.load_state_dict(load_checkpoint(found[0], trainer.device))
    log.say(f"{trouble}: back to {found[0].name}, once; if it happens again the run stops", trainer.images_seen)
    trainer.config.seed += 1                              # other latents and augmentations than those that led here
    trainer._log.clear()


@torch.no_grad()
def _preview(trainer: Trainer, folder: Path) -> None:
    images = sampler(trainer).sample(range(trainer.config.every.preview_images), batch=trainer.micro_batch)
    save_image(folder / "previews" / f"{trainer.images_seen:09d}.jpg", grid(images))


def sampler(trainer: Trainer) -> Model:
    """The averaged generator, its batch statistics measured where the configuration says so."""
    if trainer.config.ema.buffers == "standing":
        ema.standing(trainer.nets.G_ema)
    return Model(trainer.nets.G_ema, trainer.config, trainer.images_seen)


def _save(trainer: Trainer, folder: Path, sec: float) -> None:
    model = sampler(trainer)
    state = trainer.state_dict()
    state["progress"]["sec"] = sec
    checkpoint.save(folder, trainer.config, state, trainer.config.every.keep_checkpoints)
    checkpoint.save_model(folder / "model.safetensors", trainer.config, model.generator, trainer.images_seen)


def memory_gb(device: torch.device) -> float:
    """Peak memory so far: of the device where it counts its own, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1e9 if sys.platform == "darwin" else 1e6)
    except ImportError:                                   # Windows
        return float("nan")


@contextmanager
def _signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM set a flag; the step is finished and saved. Handlers can be set from the main thread alone."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked = True

    old = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)
