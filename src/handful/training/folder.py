"""A run's folder: whether it is free, made, or has something to go on from; and who owns it, one process at a time.

The owner holds two locks. A lock of the operating system on the file `.lock` ends with its process, however that ends, and serves all processes
of one machine. `lock.json` is for people and for other machines that share the folder: owner, host, and a heartbeat, which is the file's own
time of change. The age of the heartbeat is taken against a file written to the same folder now, so that the clocks of two machines don't matter.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import HandfulError, UsageError
from ..files import in_shell, parse_json, read_bounded, write_text

BEAT_SEC = 20.0
EXPIRES_SEC = 120.0                          # a heartbeat of another machine that is older belongs to a process that is gone
MADE = ("config.json", "log.jsonl", "metrics.jsonl", "report.html", "neighbours.json", "neighbours.jpg", "model.safetensors", "request.json",
        "lock.json", ".lock", "previews", "checkpoints", "ema")
FINISHED = ("model.safetensors", "report.html", "neighbours.json", "metrics.jsonl")      # written after a checkpoint, which may be deleted since
PARTS = (".", "checkpoints", "previews", "ema")


def free_name(parent: Path, name: str) -> Path:
    """parent/name, or parent/name-2 ... when there is one already."""
    number, path = 2, parent / name
    while path.exists():
        path, number = parent / f"{name}-{number}", number + 1
    return path


def must_be_free(folder: Path) -> None:
    """Raises UsageError where a new run can't begin in `folder`: it is a file, holds a run with checkpoints, or holds other files.

    A run of which nothing was saved yet, because it was killed before its first checkpoint, is begun again in its place.
    """
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} exists and is a file; name another --out")
    if has_checkpoints(folder):
        raise UsageError(f"{folder} exists and is not empty; go on with it (handful train --resume {in_shell(folder)}) or name another --out")
    if not all(map(_made, folder.iterdir())) or any((folder / name).exists() for name in FINISHED):
        raise UsageError(f"{folder} exists and is not empty; name another --out")


def has_checkpoints(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("*.pt"))


def make(folder: Path, *, named: bool) -> Path:
    """Makes the run's folder. Of two runs that choose one name by themselves, one takes another; a folder that the user named may exist."""
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=named)
        (folder / "previews").mkdir(exist_ok=True)
    except FileExistsError:
        if named:
            raise UsageError(f"{folder} exists and is a file; name another --out") from None
        return make(free_name(folder.parent, folder.name), named=False)
    except OSError as error:
        raise HandfulError(f"{folder} can't be made ({error.strerror}); name another --out") from None
    return folder


def empty(folder: Path) -> None:
    """Removes what a run left that was killed before its first checkpoint; nothing else is there (`must_be_free`)."""
    for name in ("log.jsonl", "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for path in [*(folder / "previews").glob("*"), *folder.glob("events.out.tfevents.*")]:
        path.unlink(missing_ok=True)


class Owner:
    """Possession of a run's folder, from `own`. `check()` before each write."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, uuid.uuid4().hex
        info = os.stat(folder)
        self._is = (info.st_dev, info.st_ino)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._write()
        self._thread.start()

    def check(self) -> None:
        """Raises HandfulError where the folder was moved or deleted, or another process has taken the run."""
        try:
            info = os.stat(self.folder)
            there = (info.st_dev, info.st_ino) == self._is
        except OSError:
            there = False
        if not there:
            raise HandfulError(f"{self.folder} was deleted or renamed while it was trained, so nothing more can be saved; where it was renamed, go "
                               f"on with: handful train --resume NEW_NAME")
        now = _read(self.folder)
        if now and now.get("owner") != self.token:
            raise HandfulError(f"{self.folder} has been taken over by {_who(now)}, since this process gave no sign of life for {EXPIRES_SEC / 60:g} "
                               f"minutes; it stops here, the other one goes on")

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        if _read(self.folder).get("owner") == self.token:
            with suppress(OSError):
                (self.folder / "lock.json").unlink()

    def _write(self) -> None:
        write_text(self.folder / "lock.json", json.dumps(
            {"owner": self.token, "host": platform.node(), "machine": _machine(), "pid": os.getpid(), "heartbeat": time.time()}))

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SEC):
            with suppress(HandfulError, OSError):             # the next `check` says what is wrong
                self.check()
                self._write()


@contextmanager
def own(folder: Path) -> Iterator[Owner]:
    """Possession of a run's folder for this process. What killed processes left half written is removed.

    Raises HandfulError, naming the owner, where another process has it.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    held = True
    try:
        lock.acquire()
    except Timeout:
        raise _taken(folder, _read(folder)) from None
    except PermissionError as error:
        raise HandfulError(f"no permission to write to {folder}: change its rights, or copy it to a place of your own") from error
    except (OSError, NotImplementedError):                    # a file system without such locks: the heartbeat alone decides
        held = False
    try:
        there = _read(folder)
        if there and not (held and there.get("machine") == _machine()) and (_age(folder) or 0.0) < EXPIRES_SEC:
            raise _taken(folder, there)
        owner = Owner(folder)
        try:
            _sweep(folder)
            yield owner
        finally:
            owner.release()
    finally:
        if held:
            lock.release()


def _made(path: Path) -> bool:
    return path.name in MADE or path.name.startswith("events.out.tfevents.") or path.name.startswith(".") and path.name.endswith(".tmp")


def _sweep(folder: Path) -> None:
    for part in PARTS:
        for path in (folder / part).glob(".*.tmp"):
            with suppress(OSError):
                path.unlink()


def _machine() -> str:
    """The running kernel where it says which it is (containers of one machine share it), else the network card's address."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{uuid.getnode():x}"


def _read(folder: Path) -> dict[str, Any]:
    """lock.json, {} where there is none that can be read."""
    try:
        return parse_json(read_bounded(folder / "lock.json", 10**5), "lock.json", dict)
    except HandfulError:
        return {}


def _age(folder: Path) -> float | None:
    """Seconds since the heartbeat, by the clock of the file system; None where that can't be told."""
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime - (folder / "lock.json").stat().st_mtime
    except OSError:
        return None
    finally:
        with suppress(OSError):
            probe.unlink()


def _who(lock: dict[str, Any]) -> str:
    return f"process {str(lock.get('pid', '?'))[:20]} on {str(lock.get('host', 'another machine'))[:80]}"


def _taken(folder: Path, lock: dict[str, Any]) -> HandfulError:
    age = _age(folder)
    said = f", whose last sign of life is {age:.0f} s old" if age is not None and lock else ""
    return HandfulError(f"{folder} is being trained by {_who(lock)}{said}; wait for it, or stop it first (a lock without an owner expires by itself "
                        f"after {EXPIRES_SEC / 60:g} minutes)")
