"""`--gpus N`: what becomes of N processes, one of which fails, is killed, or is asked to stop. Most run a few lines in place of a training."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from handful.cli import LOST, _launch
from handful.cli._launch import Processes, start_processes
from runs import TINY, TRUST
from test_run_folder import program, wait_for

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals"),
              pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")]        # torch closes those of processes that it ends alone
HEAD = ("import os, signal, sys, time\nfrom handful.cli import _say\nrank = int(os.environ['RANK'])\n"
        "def fail(text, code):\n    os._exit(_say('handful', text, code))\n")


def launched(body: str, count: int = 2) -> int:
    """`body` in each process, in place of the command."""
    return start_processes(count, (), ("-c", HEAD + body))


@pytest.mark.parametrize(("body", "code", "lines"), [
    ("print('heard', rank)", 0, []),
    ("fail(f'no data, says {rank}', 2)", 2, ["handful: no data, says RANK"]),
    ("fail('the disk is full', 1) if rank else time.sleep(60)", 1, ["handful: the disk is full"]),
    ("fail('the disk is full', 1) if rank == 0 else time.sleep(60)", 1, ["handful: the disk is full"]),
    (f"fail('the disk is full', 1) if rank else (time.sleep(0.05), fail('another has ended', {LOST}))", 1, ["handful: the disk is full"]),
    (f"os.kill(os.getpid(), signal.SIGKILL) if rank else (time.sleep(0.05), fail('another has ended', {LOST}))", 1, ["KILLED"]),
    ("os.kill(os.getpid(), signal.SIGKILL) if rank else fail('an error that the loss of the other caused', 1)", 1, ["KILLED"]),
    (f"fail('another has ended', {LOST}) if rank == 0 else None", 1, ["handful: another has ended"]),
    ("sys.exit('a crash before anything could be said properly') if rank else time.sleep(60)", 1, ["a crash before anything could be said properly"]),
    ("os._exit(3) if rank else time.sleep(60)", 3, ["SILENT"]),
    ("os._exit(130) if rank == 0 else None", 130, []),
])
def test_one_line_says_why_and_the_exit_code_comes_through(body, code, lines, capfd):
    started = time.monotonic()
    assert launched(body) == code
    out, err = capfd.readouterr()
    where = f"handful: process 2 of 2 (rank 1) on {platform.node()}"
    known = {"KILLED": f"{where} was ended by SIGKILL (out of memory, or by someone); go on from the last checkpoint with --resume RUN",
             "SILENT": f"{where} ended with exit code 3 and said nothing"}
    assert [line.replace("says 0", "says RANK").replace("says 1", "says RANK") for line in err.splitlines()] == [known.get(n, n) for n in lines]
    assert out == ("heard 0\n" if "heard" in body else "") and time.monotonic() - started < 20


def test_who_does_not_end_when_asked_is_killed(monkeypatch, capfd):
    monkeypatch.setattr(_launch, "GRACE_SEC", 1)
    body = ("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    assert launched("if rank:\n    while not os.path.exists('pid'): time.sleep(0.01)\n    fail('it broke', 1)\n" + body) == 1
    assert capfd.readouterr().err == "handful: it broke\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)


def test_debug_shows_the_traceback_of_the_process_that_failed(capfd):
    body = "if rank == 0: time.sleep(60)\nprint('Traceback', file=sys.stderr, flush=True)\nfail('it broke', 1)"
    assert start_processes(2, ("--debug",), ("-c", HEAD + body)) == 1
    assert [line for line in capfd.readouterr().err.splitlines() if "torch" not in line] == ["Traceback", "handful: it broke"]


@pytest.mark.skipif(not Path("/proc/net/tcp6").exists(), reason="looks into Linux' /proc")
def test_the_store_is_not_reachable_from_other_machines(tmp_path):
    processes = Processes(2, (), str(tmp_path))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    addresses = [row[1] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == processes.store.port]
    assert addresses == [f"0100007F:{processes.store.port:04X}"]


# ------------------------------------------------------------------------------------------------------------------ signals


SAVING = """
asked = []
for name in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'):
    signal.signal(getattr(signal, name), lambda number, frame: asked.append(number))
print('ready', os.getpid(), flush=True)
open(f'ready{rank}', 'w').write(str(os.getpid()))
while not asked: time.sleep(0.01)
time.sleep(0.8)
open(f'saved{rank}', 'w').close()
os._exit(0 if rank else 130)
"""


def launcher(body: str) -> subprocess.Popen:
    """The launcher as a process of its own, once its processes are ready."""
    code = f"import sys\nfrom handful.cli._launch import start_processes\nsys.exit(start_processes(2, (), ('-c', {HEAD + body!r})))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: all(Path(f"ready{rank}").exists() and Path(f"ready{rank}").read_text() for rank in (0, 1)))
    return process


def gone() -> bool:
    return not any(Path(f"/proc/{Path(f'ready{rank}').read_text()}").exists() for rank in (0, 1))


@pytest.mark.parametrize(("names", "to_group"), [
    (["SIGINT"], False), (["SIGINT"], True), (["SIGHUP"], False), (["SIGUSR2"], False), (["SIGUSR1", "SIGTERM", "SIGINT", "SIGTERM"], True)])
def test_signals_reach_the_processes_and_none_is_left_behind(names, to_group):
    process = launcher(SAVING)
    for name in names:
        (os.killpg if to_group else os.kill)(process.pid, getattr(signal, name))
        time.sleep(0.1)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and not err and out.startswith("ready")
    assert Path("saved0").exists() and Path("saved1").exists() and gone()


def test_who_is_stopped_before_it_trains_says_so():
    process = launcher("open(f'ready{rank}', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "handful: stopped\n") and gone()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into Linux' /proc")
def test_ctrl_z_holds_all_processes_until_they_go_on():
    process = launcher(SAVING)
    state = lambda pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    pids = [process.pid, *(int(Path(f"ready{rank}").read_text()) for rank in (0, 1))]
    process.send_signal(signal.SIGTSTP)
    wait_for(lambda: all(state(pid) == "T" for pid in pids), 10)
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: all(state(pid) != "T" for pid in pids), 10)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130 and gone()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_training_whose_launcher_is_killed_stops_and_is_saved(photos):
    process = program("train", photos, "--out", "run", "--kimg", "4000", "--gpus", "2", *TINY, *TRUST, start_new_session=True)
    wait_for(lambda: list(Path("run/checkpoints").glob("*.pt")))
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    said = process.communicate(timeout=60)[0]                                        # until the last process has closed the pipe
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)
    assert len(pids) == 2 and "stopped and saved; go on with: handful train --resume run" in said
    assert len(list(Path("run/checkpoints").glob("*.pt"))) == 2 and not (Path("run") / "lock.json").exists()
