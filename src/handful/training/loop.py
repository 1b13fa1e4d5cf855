"""Around the step: log, previews, checkpoints, signals, the end of a run, and what happens when a run goes wrong."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import HandfulError
from ..files import in_shell
from ..infer.grid import grid, save_image
from ..infer.model import Model
from . import checkpoint, distributed, ema, ema_choice
from . import threads as threads_module
from .accuracy import Accuracy
from .evaluation import Alarm, Evaluation, Stopped, test_images
from .folder import Owner
from .log import Log, start_speed
from .trainer import Trainer

EXPLODED = 1e6                       # a logit or loss beyond this is not coming back
ROLL_BACKS = 1                       # how often a session may go back
STOP_EVERY = 10                      # iterations between two looks at the other processes' wish to stop: each costs a wait for the device
MOST_COLUMNS = 16                    # of a preview
NOT_STORED = "the averages of other lengths are not stored in ema/: they are too large for it, or have numbers beyond half precision"
ECHO_SEC = 1.0                       # a second Ctrl-C within this is the first one, passed on


STOPS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")      # a terminal that closes, and what clusters send before the time is up


class Stop:
    """Whether the user asked to stop (Ctrl-C, or another of STOPS), and when. A second Ctrl-C stops at once, but not an echo of the first: programs
    that start others (timeout, task runners) pass on what the terminal has sent to all of them already."""

    asked = False
    at = 0.0


def fit(trainer: Trainer, folder: Path, log: Log, *, sec_before: float = 0.0, owner: Owner | None = None,
        changes: Mapping[int, int] | None = None, go_on: bool = False) -> bool:
    """Runs until `train.kimg`, or until `evaluate.stop` ends it. Returns False where the user stopped it (everything is saved). Only rank 0 writes.

    folder: the run's; sec_before: training time of earlier sessions, in seconds; owner: asked before each write; changes: of the number of threads,
    by images seen, which the run made before it went back to where it is now; go_on: a run that evaluate.stop has ended goes on all the same.
    """
    config, first = trainer.config, trainer.rank == 0
    total = to_images(config.train.kimg)
    started, images_before = time.perf_counter(), trainer.images_seen
    tick, tick_images = started, trainer.images_seen
    patience = to_images(min(config.train.guard_kimg, config.train.kimg / 10))
    rolled_back, good = 0, trainer.images_seen            # good: until here the numbers were sound
    with _signals() as stop:
        evaluation, alarm = Evaluation(trainer, folder, log, lambda: stop.asked), Alarm(trainer.terms)
        pace = _Pace(trainer, folder, log, changes or {})
        judged = Accuracy(trainer, test_images(config), lambda line: log.say(line, trainer.images_seen)) if first else None

        def save(snapshot: bool = False) -> None:
            if owner is not None:
                owner.check()
            _save(trainer, folder, sec_before + time.perf_counter() - started, snapshot)

        def score() -> bool:
            """False where the user stopped it."""
            try:
                _score(trainer, folder, evaluation)
            except Stopped:
                return False
            return True

        if first and trainer.images_seen == 0:
            _preview(trainer, folder)
            save()                                        # so that a roll-back always has where to go
        if _interrupted(trainer, evaluation) and evaluation.affordable(sec_before, False) and not score():
            return False
        ended = evaluation.end()
        if ended and go_on:
            trainer.stop_from, ended = trainer.images_seen, ""
            if first:
                save()                                    # so that a resume knows that the user went on
        while trainer.images_seen < total and not ended:
            before, step_started = trainer.images_seen, time.perf_counter()
            trainer.step()
            now = trainer.images_seen
            pace.watch.look(now - before, time.perf_counter() - step_started)
            while trainer.notes:
                log.say(trainer.notes.pop(0), now)
            log.progress(now)
            done = now >= total
            halt = done or _agreed(stop.asked, trainer)
            sec = sec_before + time.perf_counter() - started
            scoring = (done or _due(before, now, evaluation.every_kimg)) and evaluation.affordable(sec, done)
            saving = _due(before, now, config.every.checkpoint_kimg) or scoring
            if _due(before, now, config.every.log_kimg) or saving or halt:        # nothing is saved unlooked at
                values = trainer.take_log()
                values |= trainer.derived(values)
                trouble, exploded = _trouble(values, trainer.stuck, trainer.average_is_finite())
                good = good if trouble else now
                if exploded or now - good >= patience and trouble:
                    rolled_back += 1
                    _roll_back(trainer, folder, log, trouble, again=rolled_back <= ROLL_BACKS)
                    tick, tick_images, good = time.perf_counter(), trainer.images_seen, trainer.images_seen
                    continue
                speed = (now - tick_images) / max(time.perf_counter() - tick, 1e-9)
                if first:
                    values |= judged.look() if saving or halt else {}
                    log.write(now, {"step": trainer.iteration, "sec": sec, "images_per_sec": speed, "memory_gb": memory_gb(trainer.device),
                                    **values}, trainer.status(values))
                    for line in filter(None, [*trainer.advice(values), alarm.look(trainer.overfitting(values))]):
                        log.say(line, now)
                tick, tick_images = time.perf_counter(), now
            if first and (_due(before, now, config.every.preview_kimg) or done):
                _preview(trainer, folder)
            if saving and good == now and not halt:
                pace.at_checkpoint()                      # before it is written: what follows is computed with the new number
            if first and (saving and good == now or halt):
                save(snapshot=good == now and _due(before, now, config.every.checkpoint_kimg))
            if scoring and good == now:
                if not score():                           # everything is saved already; a last score is made up for on resume
                    return False
                ended = evaluation.end()
                if first and (done or ended):
                    save()                                # with the time that the scores took
                tick = time.perf_counter()
            if halt and not done:
                return False
        if first and trainer.images_seen == images_before and not checkpoint.all_of(folder):
            save()
        if trainer.images_seen == images_before and not ended and evaluation.missing() and evaluation.affordable(sec_before, True) and not score():
            return False                                  # it was stopped or killed before its last score
        if ended and trainer.images_seen < total:
            log.say(f"ended after {trainer.images_seen} of {total} images: {ended}; to go on: handful train --resume {in_shell(folder)} "
                    f"--kimg {config.train.kimg:g}", trainer.images_seen)
        try:
            ema_choice.choose(trainer, folder, log, evaluation, lambda: sampler(trainer), sec_before + time.perf_counter() - started,
                              owner.check if owner is not None else lambda: None)
        except Stopped:
            return False
    return True


def _interrupted(trainer: Trainer, evaluation: Evaluation) -> bool:
    """Whether a run with evaluate.stop was stopped or killed between a checkpoint and the evaluation that belongs to it: the rule counts on it."""
    now, config = trainer.images_seen, trainer.config
    before = now - trainer.batch * config.train.d_steps
    return config.evaluate.stop is not None and before >= 0 and _due(before, now, evaluation.every_kimg) and evaluation.missing()


class _Pace:
    """The number of threads of a run on a CPU, which may change at its checkpoints: again as in `changes`, and where it has become slow."""

    def __init__(self, trainer: Trainer, folder: Path, log: Log, changes: Mapping[int, int]) -> None:
        self.trainer, self.log, self.changes = trainer, log, changes
        self.may_change = (trainer.device.type == "cpu" and trainer.threads is not None and threads_module.fixed(None) is None
                           and not trainer.config.train.threads_fixed)
        self.watch = threads_module.Watch(start_speed(folder), trainer.threads != trainer.config.train.threads)

    def at_checkpoint(self) -> None:
        """Called by all processes of a run where its state is about to be saved."""
        trainer, now = self.trainer, self.trainer.images_seen
        if now in self.changes:
            self._change(self.changes[now], "as before")
        elif now > max(self.changes, default=0) and self.may_change and distributed.from_first(self.watch.due, trainer.world):
            taken = threads_module.measure_in_place(trainer)
            chosen = threads_module.best(taken)
            if chosen != trainer.threads:
                figures = ", ".join(f"{n}: {trainer.batch * trainer.config.train.d_steps / sec:.3g}" for n, sec in sorted(taken.items()))
                self._change(chosen, f"images/s by threads {figures}")
            torch.set_num_threads(trainer.threads)
            self.watch.again(trainer.threads != trainer.config.train.threads)

    def _change(self, threads: int, why: str) -> None:
        self.log.change_threads(self.trainer.images_seen, self.trainer.threads, threads, why)
        self.trainer.threads = threads
        torch.set_num_threads(threads)


def to_images(kimg: float) -> int:
    """kimg in images, without the crumbs of binary fractions (0.07 * 1000 > 70)."""
    return round(kimg * 1000)


def _due(before: int, now: int, every_kimg: float) -> bool:
    """True when a multiple of the interval lies in (before, now]: a function of the counts, so that a resumed run keeps the same beat."""
    every = max(to_images(every_kimg), 1)
    return now // every > before // every


def _agreed(asked: bool, trainer: Trainer) -> bool:
    """Any rank's wish to stop is everybody's: else the others would wait in a collective for ever."""
    if trainer.world == 1 or trainer.iteration % STOP_EVERY:
        return asked and trainer.world == 1
    flag = torch.tensor(float(asked), device=trainer.device)
    torch.distributed.all_reduce(flag)
    return bool(flag > 0)


def _trouble(values: dict[str, float], stuck: tuple[str, ...], average_is_finite: bool) -> tuple[str, bool]:
    """What is wrong with this stretch of the log, in words, "" when nothing is; and whether waiting is useless: it exploded, or the average of G,
    which never forgets, took up what isn't finite."""
    watched = {k: v for k, v in values.items() if k.split("/")[-1].startswith(("loss", "logits"))}
    for key, value in watched.items():
        if abs(value) > EXPLODED:
            return f"{key} is {value:.3g}", True
    if not average_is_finite:
        return "the averaged generator is not finite", True
    for side, name in (("d", "the discriminator"), ("g", "the generator")):
        if side in stuck:
            return f"the gradients of {name} are not finite", False
    return next((f"{key} is {value}" for key, value in watched.items() if math.isnan(value)), ""), False


def _roll_back(trainer: Trainer, folder: Path, log: Log, trouble: str, *, again: bool) -> None:
    remedy = "lower optim_d.lr and optim_g.lr (--set optim_d.lr=1e-4), or take --precision fp32"
    if not again or not checkpoint.all_of(folder):
        raise HandfulError(f"training broke down at {trainer.images_seen} images: {trouble}; {remedy}, then resume")
    detours, at = trainer.detours + 1, trainer.images_seen
    path, state = checkpoint.newest_good(folder, lambda line: log.say(line, at))
    trainer.load_state_dict(state)
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    trainer.detours = detours                             # other latents and augmentations than those that led here
    if trainer.averages is not None and trainer.rank == 0:
        trainer.averages.after_load(folder, trainer.images_seen, lambda line: log.say(line, at))
    log.say(f"{trouble}: back to {path.name}, once; if it happens again the run stops", trainer.images_seen)


@torch.no_grad()
def _preview(trainer: Trainer, folder: Path) -> None:
    wanted, classes = trainer.config.every.preview_images, trainer.nets.G.num_classes
    # Seed s shows class s % classes: a column for each class, or several where there are few.
    columns = classes * max(1, round(wanted ** 0.5 / classes)) if 1 < classes <= MOST_COLUMNS else None
    images = sampler(trainer).sample(range(-(-wanted // columns) * columns if columns else wanted), batch=trainer.micro_batch)
    save_image(folder / "previews" / f"{trainer.images_seen:09d}.jpg", grid(images, columns))


def sampler(trainer: Trainer) -> Model:
    """The averaged generator with spectral norm for its own weights, its batch statistics measured where the configuration says so; once per state,
    since a preview, a checkpoint and a score may follow each other."""
    how = trainer.config.ema
    if trainer.settled_at != trainer.iteration:
        ema.settle(trainer.nets.G_ema, trainer.nets.G)
        if how.buffers == "standing":
            ema.standing(trainer.nets.G_ema, how.standing_batches, how.standing_batch, how.standing_rule)
        trainer.settled_at = trainer.iteration
    return Model(trainer.nets.G_ema, trainer.config, trainer.images_seen)


def _save(trainer: Trainer, folder: Path, sec: float, snapshot: bool = False) -> None:
    """A checkpoint, and the model where none is marked as the best. snapshot: first one of the averages of other lengths, which the checkpoint lists;
    what is no longer in its list goes afterwards, so that a kill in between leaves nothing that the next resume doesn't put right."""
    model, averages = sampler(trainer), trainer.averages
    if snapshot and averages is not None:
        if averages.write(folder, trainer.images_seen):
            averages.note(trainer.images_seen)
        elif trainer.images_seen == to_images(trainer.config.every.checkpoint_kimg):                     # once
            trainer.notes.append(NOT_STORED)
    state = trainer.state_dict()
    state["progress"]["sec"] = sec
    checkpoint.save(folder, trainer.config, state, trainer.config.every.keep_checkpoints)
    if averages is not None:
        averages.tidy(folder)
    if checkpoint.index(folder)["best"] is None:          # else it is that of the best
        checkpoint.save_model(folder / "model.safetensors", trainer.config, model.generator, trainer.images_seen)


def _score(trainer: Trainer, folder: Path, evaluation: Evaluation) -> None:
    """The checkpoint just written becomes the best where it is."""
    model = sampler(trainer)
    if evaluation.score(model) and trainer.rank == 0:
        path = folder / "checkpoints" / f"{trainer.images_seen:09d}.pt"
        checkpoint.mark_best(folder, path, evaluation.chooser, evaluation.value)
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
    """The signals of STOPS set a flag; the step is finished and saved. Handlers can be set from the main thread alone. A signal that was ignored at
    the start (SIGHUP under nohup) stays ignored."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.asked and number == signal.SIGINT and time.monotonic() - stop.at > ECHO_SEC:
            raise KeyboardInterrupt
        if not stop.asked:
            stop.asked, stop.at = True, time.monotonic()

    numbers = [getattr(signal, name) for name in STOPS if hasattr(signal, name)]               # Windows has two of them
    old = {n: signal.signal(n, ask) for n in numbers if signal.getsignal(n) not in (signal.SIG_IGN, None)}
    try:
        yield stop
    finally:
        for n, handler in old.items():
            signal.signal(n, handler)
