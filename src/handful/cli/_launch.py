"""`handful train --gpus N`: the same command in N processes of this machine, which torch's elastic launcher starts, watches and ends.

They are started as torchrun starts them, without torchrun's agent; docs/design/processes-on-one-machine.md says why.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import torch.multiprocessing
from torch.distributed import TCPStore
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, ProcessFailure, SignalException, Std, SubprocessContext

from . import LAUNCHED, LOST

GRACE_SEC = 10                       # for the other processes to end when one has failed
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT")      # passed on; what a run does about them: training/loop.py


def start_processes(count: int, args: Sequence[str], program: Sequence[str] = ("-m", "handful")) -> int:
    """Runs `handful ARGS` in `count` processes and returns the exit code of the whole. The first process has the terminal; when one fails the
    others are ended, and what it said, or what ended it, is shown in one line."""
    if "--debug" not in args:
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="handful-") as folder:
        processes = Processes(count, [*program, *args], folder)
        try:
            failures = processes.run()
        except SignalException:                       # from torch's handlers, in the moment before ours are set: nothing has begun
            click.echo("handful: stopped", err=True)
            return 130
        return _explained(processes, failures, "--debug" in args) if failures else 0


class Processes(SubprocessContext):
    """`count` Python processes with the environment that torchrun would give them, and a store on the loopback interface where they find each other.

    Each has a session of its own, so what the terminal sends reaches this process alone and is passed on.
    line: Python's arguments. folder: for what the processes but the first write to stderr, and for the error of each.
    asked: the signals passed on so far. ended: the processes that were ended because another had failed.
    """

    def __init__(self, count: int, line: Sequence[str], folder: str) -> None:
        listening = socket.create_server(("127.0.0.1", 0))             # by itself TCPStore listens on all interfaces
        port = listening.getsockname()[1]
        self.store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
        place = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                 "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", LAUNCHED: str(os.getpid())}
        ranks = range(count)
        super().__init__("handful", sys.executable, dict.fromkeys(ranks, tuple(line)),
                         {i: place | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in ranks},
                         DefaultLogsSpecs(folder, {i: Std.ERR for i in ranks[1:]}, local_ranks_filter={0}))
        self.asked: set[int] = set()
        self.ended: set[int] = set()

    def run(self) -> dict[int, ProcessFailure]:
        """Starts the processes and waits for all of them; returns those that failed, by rank."""
        with self._passing_signals_on():
            try:
                return self.wait(period=0.1).failures
            finally:
                self.close()

    def close(self, death_sig: signal.Signals | None = None, timeout: int | None = None) -> None:
        """Ends those that still run: by a signal, and by SIGKILL after `timeout` seconds."""
        self.ended |= {i for i, p in self.subprocess_handlers.items() if p.proc.poll() is None}
        super().close(death_sig, GRACE_SEC if timeout is None else timeout)

    def send(self, number: int) -> None:
        for process in self.subprocess_handlers.values():
            process.proc.send_signal(number)          # it leaves alone one that has ended

    @contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        """Starts the processes. Signals that this process ignores (SIGHUP under nohup) it ignores still, and so do they."""
        def ask(number: int, frame: object) -> None:
            self.asked.add(number)
            self.send(number)

        def pause(number: int, frame: object) -> None:
            self.send(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            self.send(signal.SIGCONT)                 # here this process goes on

        handlers = {n: ask for n in SIGNALS} | {"SIGTSTP": pause}
        numbers = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
        before = {n: handler for n in numbers if (handler := signal.getsignal(n)) is not None}
        try:
            self.start()                              # with handlers of torch's own, which would lose the exit codes
            for n, handler in before.items():
                signal.signal(n, handler if handler == signal.SIG_IGN else numbers[n])
            yield
        finally:
            for n, handler in before.items():
                signal.signal(n, handler)


def end_with_launcher() -> None:
    """Called by a process of `start_processes`: should the one that started it be killed, this one stops and saves as at SIGTERM (on Linux)."""
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGTERM)
    if os.name != "nt" and os.getppid() != int(os.environ[LAUNCHED]):         # it is gone already
        raise KeyboardInterrupt


def _explained(processes: Processes, failures: dict[int, ProcessFailure], debug: bool) -> int:
    """Shows why the first process to fail did, unless it has said so itself; returns the exit code of the whole."""
    stopped = {130, *(-number for number in processes.asked)}
    found = {rank: failure.exitcode for rank, failure in failures.items() if rank not in processes.ended or failure.exitcode > 0}
    rank = min(found, key=lambda i: (found[i] == LOST, i in processes.ended, found[i] in stopped, found[i] > 0, i))
    code, said = found[rank], failures[rank].message if os.path.isfile(failures[rank].error_file) else ""
    if code in stopped:
        if said or code < 0:                          # else it was training, and has said how to go on
            click.echo(said or "handful: stopped", err=True)
        return 130
    if code < 0:
        ends = ", ".join(_end(i, processes.nprocs, c) for i, c in found.items() if c < 0)
        click.echo(f"handful: {ends}; go on from the last checkpoint with --resume RUN", err=True)
        return 1
    text = Path(processes.stderrs[rank]).read_text(errors="replace").strip() if rank else ""
    if text and (debug or not said):
        click.echo(text, err=True)
    if said or rank and not text:
        click.echo(said or f"handful: {_end(rank, processes.nprocs, code)} and said nothing", err=True)
    return 1 if code == LOST else code


def _end(rank: int, count: int, code: int) -> str:
    """Which process, where, and how: "process 2 of 2 (rank 1) on HOST was ended by SIGKILL (out of memory, or by someone)"."""
    if code >= 0:
        how = f"ended with exit code {code}"
    else:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        how = f"was ended by {name}" + (" (out of memory, or by someone)" if name == "SIGKILL" else "")
    return f"process {rank + 1} of {count} (rank {rank}) on {platform.node()} {how}"
