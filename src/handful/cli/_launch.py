"""`handful train --gpus N`: the same command in N processes of this machine, and what became of them."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import click

GRACE_SEC = 10                       # for the other processes to end when one has
LAUNCHED = "HANDFUL_LAUNCHED"        # tells a process that whoever started it says which one was lost
LOST = 75                            # exit code of one that only lost another
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")      # passed on; what a run does about them: training/loop.py


def start_processes(count: int, args: Sequence[str]) -> int:
    """The command once per GPU; returns its exit code. The first process speaks for all; when one fails the others go too, its line is shown, and
    one that was killed is named."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), LAUNCHED: "1"}
    line = [sys.executable, "-m", "handful", *args]
    with tempfile.TemporaryFile("w+") as others:
        processes = [subprocess.Popen(line, env=os.environ | place | {"RANK": str(i), "LOCAL_RANK": str(i)},
                                      **({"stdout": subprocess.DEVNULL, "stderr": others} if i else {})) for i in range(count)]

        def stop(number: int, frame: object) -> None:
            """Ctrl-C in a terminal reaches the processes by itself, a lone signal doesn't; a second SIGTERM does no harm."""
            for p in processes:
                if p.poll() is None and os.name != "nt":
                    p.terminate()

        numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        old = {n: signal.signal(n, stop) for n in numbers if signal.getsignal(n) not in (signal.SIG_IGN, None)}
        try:
            while not any(p.poll() for p in processes) and any(p.poll() is None for p in processes):
                time.sleep(0.1)
            lost = [(i, p.returncode) for i, p in enumerate(processes) if p.poll()]
            until = time.monotonic() + GRACE_SEC
            while any(p.poll() is None for p in processes) and time.monotonic() < until:
                time.sleep(0.1)
        finally:
            for p in processes:
                if p.poll() is None:                  # it waits for one that is gone
                    p.kill()
            for n, handler in old.items():
                signal.signal(n, handler)
        codes = [p.wait() for p in processes]
        others.seek(0)
        said = others.read().strip() if codes[0] in (0, LOST) or codes[0] < 0 else ""          # else the first has said why
    if said and any(c > 0 and c != LOST for c in codes[1:]):
        click.echo(said, err=True)
    elif killed := [(i, code) for i, code in lost if code < 0]:
        click.echo(f"handful: {_ends(killed, count)}; go on from the last checkpoint with --resume RUN", err=True)
    elif silent := [(i, code) for i, code in lost if i and code != LOST and codes[0] in (0, LOST)]:
        click.echo(f"handful: {_ends(silent, count)} and said nothing", err=True)
    return next((c for c in codes if c > 0 and c != LOST), 1) if any(codes) else 0


def _ends(ended: Sequence[tuple[int, int]], count: int) -> str:
    """Which process, where, and how: "process 2 of 2 on HOST was ended by SIGKILL (out of memory, or killed by someone)"."""
    return ", ".join(f"process {i + 1} of {count} (rank {i}) on {platform.node()} {_how(code)}" for i, code in ended)


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (" (out of memory, or by someone)" if name == "SIGKILL" else "")
