"""What a run says while it goes: `log.jsonl` for programs, a bar or plain lines for people, TensorBoard on request."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import HandfulError
from ..files import loads, unreadable, write_text

NAME = "log.jsonl"
REWOUND = (NAME, "metrics.jsonl")


class Log:
    """The log of one run; also a context manager.

    folder: the run's. total_images, start_images: where the run ends, and where this process took it up. quiet: nothing on
    the screen (the file is written all the same). tensorboard: scalars too, which needs the extra. machine: the device in
    words, for the report.

    A line of log.jsonl is {"images": n, NAME: value ...}, {"images": n, "note": text} or {"images": n, "machine": text}.
    NaN and infinities are null.
    """

    def __init__(self, folder: Path, *, total_images: int, start_images: int = 0, quiet: bool = False, tensorboard: bool = False,
                 machine: str = "") -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._events = summary_writer()(str(folder), purge_step=start_images or None) if tensorboard else None
        path = folder / NAME
        self._scores = folder / "metrics.jsonl"
        broken_end = path.is_file() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
        self._file = open(path, "a", encoding="utf-8", newline="\n", buffering=1)
        if broken_end:
            self._file.write("\n")
        self.images = start_images
        self._speed = _Speed(start_images)
        screen: type[_Screen] = _Screen if quiet else _Bar if sys.stderr.isatty() else _Lines
        self._screen = screen(start_images, total_images)
        self._values: dict[str, float] = {}
        self._status: tuple[str, ...] = ()
        if machine:
            self._append({"images": start_images, "machine": machine})

    def write(self, images: int, values: Mapping[str, float], status: Sequence[str] = ()) -> None:
        """Appends one line with `values` after `images` images, and shows them. status: further parts of the progress line."""
        self.images, self._status = images, tuple(status)
        self._values = {k: float(v) for k, v in values.items()}
        self._append({"images": images, **{k: _finite(v) for k, v in self._values.items()}})
        if self._events:
            for name, value in self._values.items():
                self._events.add_scalar(name, value, images)
        self.progress(images)

    def score(self, images: int, name: str, found: Mapping[str, Any]) -> None:
        """A metric's value goes to metrics.jsonl with all that belongs to it, and is said."""
        line = {"images": images, "metric": name, **{k: _finite(v) if isinstance(v, float) else v for k, v in found.items()}}
        with open(self._scores, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        if self._events:
            self._events.add_scalar(f"metrics/{name}", found["value"], images)
        spread = f" +- {found['stderr']:.2g}" if isinstance(found.get("stderr"), float) else ""
        self._screen.say(f"{name} {found['value']:.4g}{spread} after {_kimg(images)} kimg ({found.get('protocol', '')})")

    def stage(self, line: str) -> None:
        """What goes on beside the training, for the screen alone."""
        self._screen.stage(line)

    def say(self, line: str, images: int | None = None) -> None:
        """A line for people, above the bar; it goes to log.jsonl as a note."""
        self._append({"images": self.images if images is None else images, "note": line})
        self._screen.say(line)

    def change_threads(self, images: int, was: int, now: int, why: str) -> None:
        """From `images` on the run computes with another number of threads: for people, and for `changes_of_threads`."""
        line = f"{now} threads in place of {was} from here on ({why})"
        self._append({"images": images, "threads": now, "note": line})
        self._screen.say(line)

    def progress(self, images: int) -> None:
        """Moves the bar; cheap enough for every step."""
        self.images = images
        self._speed.at(images)
        if self._screen.due(images):
            self._screen.show(images, self._speed.images_per_sec(), self._values, self._status)

    def close(self) -> None:
        if self._file.closed:
            return
        self._screen.show(self.images, self._speed.images_per_sec(), self._values, self._status)
        self._screen.close()
        self._file.close()
        if self._events:
            self._events.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def read(path: Path | str) -> list[dict[str, Any]]:
    """The readable lines of a JSON-lines file, in order, without those that a killed process left broken. [] without a file."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise unreadable(path, error) from None
    return [line for line in map(_parsed, text.splitlines()) if line is not None]


def rewind(folder: Path, images: int) -> None:
    """On resume: drops what lies beyond `images`, and half-written lines, from log.jsonl and metrics.jsonl. Atomic."""
    for path in (Path(folder) / name for name in REWOUND):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        kept = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in read(path) if _images_of(line) <= images)
        if kept != text:
            write_text(path, kept)


def start_speed(folder: Path) -> float | None:
    """Images/s at the start of the run: the median of the first lines of its log but the very first, None where there are too few."""
    speeds = [line["images_per_sec"] for line in read(Path(folder) / NAME)[:50] if isinstance(line.get("images_per_sec"), int | float)][1:6]
    return median(speeds) if len(speeds) >= 3 else None


def changes_of_threads(folder: Path, after: int) -> dict[int, int]:
    """The number of threads by the images seen where it changed, beyond `after` images; without what a roll-back undid."""
    changes: dict[int, int] = {}
    for line in read(Path(folder) / NAME):
        images, number = _images_of(line), line.get("threads")
        changes = {k: v for k, v in changes.items() if k <= images}
        if isinstance(number, int) and 1 <= number <= 1024:
            changes[int(images)] = number
    return {k: v for k, v in changes.items() if k > after}


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _images_of(line: Mapping[str, Any]) -> float:
    images = line.get("images")
    return images if isinstance(images, int | float) else 0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def summary_writer() -> Any:
    """TensorBoard's writer class. Raises HandfulError where the extra is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise HandfulError("TensorBoard is missing: pip install 'handful[tensorboard]', or leave every.tensorboard off") from None
    return SummaryWriter


# --------------------------------------------------------------------------------------------------------------- the screen


class _Speed:
    """Images per second of wall time over the last minute: previews and checkpoints count, so that the time left is true."""

    def __init__(self, images: int) -> None:
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), images)])
        self._last = self._marks[0]

    def at(self, images: int) -> None:
        now = time.monotonic()
        self._last = (now, images)
        if now - self._marks[-1][0] >= 1:
            self._marks.append(self._last)
            while now - self._marks[0][0] > 60 and len(self._marks) > 2:
                self._marks.popleft()

    def images_per_sec(self) -> float:
        seconds = self._last[0] - self._marks[0][0]
        return (self._last[1] - self._marks[0][1]) / seconds if seconds >= 1 else 0.0       # 0: not known yet


def progress_line(images: int, total: int, images_per_sec: float, values: Mapping[str, float], status: Sequence[str] = ()) -> str:
    """"kimg 3.2/100 | 75 img/s | 12 min left | D real 0.41 fake -0.38 | p 0.12 | 1.9 GB"; what isn't known yet is left out. status: what the terms
    add to it."""
    parts = [f"kimg {_kimg(images)}/{_kimg(total)}" if total >= 1000 else f"image {images} of {max(images, total)}"]   # the last batch may go beyond
    if images_per_sec > 0:
        parts += [f"{images_per_sec:.3g} img/s" if images_per_sec < 100 else f"{images_per_sec:.0f} img/s"]
        parts += [f"{duration((total - images) / images_per_sec)} left"] if images < total else []
    if "d/logits_real" in values and "d/logits_fake" in values:
        parts += [f"D real {values['d/logits_real']:.2f} fake {values['d/logits_fake']:.2f}"]
    parts += status
    if bad := values.get("d/bad_grads", 0) + values.get("g/bad_grads", 0):
        parts += [f"{bad:.0f} bad gradients"]
    if values.get("memory_gb", 0) > 0:
        parts += [f"{values['memory_gb']:.1f} GB"]
    return " | ".join(parts)


def duration(seconds: float) -> str:
    """For people: "40 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def _kimg(images: int) -> str:
    return f"{images / 1000:.1f}".removesuffix(".0")


class _Screen:
    """Shows nothing; what the other two have in common."""

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total = start, total

    def due(self, images: int) -> bool:
        return False

    def show(self, images: int, images_per_sec: float, values: Mapping[str, float], status: Sequence[str] = ()) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def stage(self, line: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines(_Screen):
    """For a pipe or a job's log: a line after every 5 % or minute, never two within 10 s."""

    def __init__(self, start: int, total: int) -> None:
        super().__init__(start, total)
        self._shown = (time.monotonic() - 10, start)

    def due(self, images: int) -> bool:
        waited = time.monotonic() - self._shown[0]
        return waited >= 10 and (waited >= 60 or images - self._shown[1] >= 0.05 * (self.total - self.start))

    def show(self, images: int, images_per_sec: float, values: Mapping[str, float], status: Sequence[str] = ()) -> None:
        if images != self._shown[1]:
            self.say(progress_line(images, self.total, images_per_sec, values, status))
        self._shown = (time.monotonic(), images)

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def stage(self, line: str) -> None:
        if time.monotonic() - self._shown[0] >= 30:
            self.say(line)
            self._shown = (time.monotonic(), self._shown[1])


class _Bar(_Screen):
    """For a terminal: one rich line, redrawn at most four times a second."""

    def __init__(self, start: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(start, total)
        self._progress = Progress(BarColumn(bar_width=24), TextColumn("{task.description}", markup=False), auto_refresh=False,
                                  console=Console(stderr=True, highlight=False))
        self._task = self._progress.add_task("starting", total=total, completed=start)
        self._progress.start()
        self._shown = 0.0

    def due(self, images: int) -> bool:
        return time.monotonic() - self._shown >= 0.25

    def show(self, images: int, images_per_sec: float, values: Mapping[str, float], status: Sequence[str] = ()) -> None:
        self._shown = time.monotonic()
        text = progress_line(images, self.total, images_per_sec, values, status)
        self._progress.update(self._task, completed=images, description=text, refresh=True)

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False)

    def stage(self, line: str) -> None:
        if time.monotonic() - self._shown >= 0.25:
            self._shown = time.monotonic()
            self._progress.update(self._task, description=line, refresh=True)

    def close(self) -> None:
        self._progress.stop()
