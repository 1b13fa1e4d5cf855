"""A run can't be lost: --resume auto, one owner at a time, damage found and stepped over, signals, what a kill leaves behind."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import handful
from handful import HandfulError, UsageError
from handful.cli import group, run
from handful.tensors import load_checkpoint
from handful.training import checkpoint, folder
from handful.training import loop as fit_module
from handful.training.trainer import Trainer
from making import picture_folder, tiny_trainer
from runs import TINY, command, refused, same, tensors

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
AUTO = ("--out", "run", "--resume", "auto")


def program(*args: object, **more) -> subprocess.Popen:
    """`handful ...` as a process of its own, in the current folder."""
    return subprocess.Popen([sys.executable, "-m", "handful", *map(str, args)], env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            **more)


def wait_for(there, sec: float = 60) -> None:
    until = time.monotonic() + sec
    while not there():
        assert time.monotonic() < until
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------------ --resume auto


def test_resume_auto_starts_goes_on_and_says_that_it_is_done(photos, capsys):
    line = ("train", photos, *AUTO, *TINY)
    assert command(*line, "--kimg", "0.04") == 0
    assert command(*line, "--kimg", "0.04") == 0
    assert "run is done: 40 of 40 images" in capsys.readouterr().out
    assert command(*line, "--kimg", "0.08") == 0                                     # it may grow
    assert command("train", photos, "--out", "straight", "--kimg", "0.08", *TINY) == 0
    assert same(tensors(Path("run"), 80), tensors(Path("straight"), 80))
    capsys.readouterr()
    assert "g.width is 8, not 16" in refused(capsys, *line, "--kimg", "0.08", "--set", "g.width=16")
    other = [*TINY[:TINY.index("--recipe")], "--recipe", "fastgan128_narrow", *TINY[TINY.index("--recipe") + 2:]]
    assert "its recipe is fastgan64_narrow, not fastgan128_narrow" in refused(capsys, "train", photos, *AUTO, *other)
    assert "name it with --out RUN" in refused(capsys, "train", photos, "--resume", "auto")
    assert command("train", photos, *AUTO, "--recipe", "straight/config.json", "--device", "cpu") == 0
    assert "train.batch is 4, not 6" in refused(capsys, "train", photos, *AUTO, "--recipe", "straight/config.json", "--batch", "6")


@pytest.mark.parametrize("auto", [True, False])
def test_a_run_killed_before_its_first_checkpoint_is_begun_again(photos, monkeypatch, capsys, auto):
    with monkeypatch.context() as m:
        m.setattr(fit_module, "_save", lambda *_: os._exit(9))                        # the preview is written, the checkpoint isn't
        child = os.fork()
        if child == 0:
            command("train", photos, "--out", "run", "--kimg", "0.04", *TINY)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert {"config.json", "lock.json", "previews"} <= {p.name for p in Path("run").iterdir()} and not checkpoint.all_of(Path("run"))
    (Path("run") / "checkpoints" / ".000000000.pt.77.tmp").write_bytes(b"half")
    assert "begin it again: handful train DATA --out run" in refused(capsys, "train", "--resume", "run", code=1)
    assert command("train", photos, "--out", "run", "--kimg", "0.04", *TINY, *(AUTO if auto else ())) == 0
    assert tensors(Path("run"), 40) and not list(Path("run").rglob("*.tmp")) and not (Path("run") / "lock.json").exists()


def test_a_begun_run_with_a_file_of_the_users_is_left_alone(photos, capsys):
    (Path("run") / "checkpoints").mkdir(parents=True)
    (Path("run") / "novel.txt").write_text("chapter one")
    for more in ((), AUTO):
        assert "run exists and is not empty; name another --out" in refused(capsys, "train", photos, "--out", "run", *more, *TINY)
    assert sorted(p.name for p in Path("run").iterdir()) == ["checkpoints", "novel.txt"]


def test_a_finished_run_without_its_checkpoints_is_not_begun_again(done, photos, capsys):
    for path in (done / "checkpoints").glob("*.pt"):
        path.unlink()                                                                # to free space: the model is still there
    before = {p: p.read_bytes() for p in done.rglob("*") if p.is_file() and p.name not in (".lock", "lock.json")}
    for more in ((), AUTO):
        assert "run exists and is not empty" in refused(capsys, "train", photos, "--out", "run", *more, *TINY)
    assert before == {p: p.read_bytes() for p in before}


def test_what_the_closing_phase_did_not_write_is_made_by_resume(done, photos):
    before = (done / "model.safetensors").read_bytes()
    for name in ("neighbours.json", "neighbours.jpg", "report.html"):
        (done / name).unlink()
    assert command("train", photos, *AUTO, "--kimg", "0.04", *TINY) == 0
    assert all((done / name).exists() for name in ("neighbours.json", "neighbours.jpg", "report.html"))
    times = (done / "neighbours.json").stat().st_mtime_ns
    assert command("train", photos, *AUTO, "--kimg", "0.04", *TINY) == 0
    assert (done / "neighbours.json").stat().st_mtime_ns == times and (done / "model.safetensors").read_bytes() == before


# ---------------------------------------------------------------------------------------------------------------- one owner


def test_a_second_process_is_refused_and_named_the_first(photos, capsys):
    first = program("train", photos, "--out", "run", "--kimg", "4000", *TINY)
    wait_for(lambda: checkpoint.all_of(Path("run")))
    for line in (("train", "--resume", "run"), ("train", photos, *AUTO, *TINY)):
        said = refused(capsys, *line, code=1)
        assert f"run is being trained by process {first.pid} on {platform.node()}" in said
    lock = json.loads((Path("run") / "lock.json").read_text())
    assert {"owner", "host", "pid", "heartbeat"} <= lock.keys() and lock["pid"] == first.pid
    first.kill()                                                                     # its lock.json stays, and holds nobody up
    first.communicate()
    assert (Path("run") / "lock.json").exists()
    assert command("train", "--resume", "run", "--kimg", "0.001", "--set", "every.log_kimg=0.1", "--device", "cpu") in (0, 2)
    assert not (Path("run") / "lock.json").exists()


def test_a_lock_of_another_machine_counts_until_its_heartbeat_is_old(done, capsys):
    lock = done / "lock.json"
    lock.write_text(json.dumps({"owner": "x", "host": "far", "machine": "another", "pid": 7, "heartbeat": 0}))
    assert "run is being trained by process 7 on far, whose last sign of life is 0 s old" in refused(capsys, "train", "--resume", "run", code=1)
    os.utime(lock, (time.time() - folder.EXPIRES_SEC - 5,) * 2)
    assert command("train", "--resume", "run", "--kimg", "0.044", "--device", "cpu") == 0
    lock.write_text("[" * 100_000)                                                   # a broken one is nobody's
    assert command("train", "--resume", "run", "--kimg", "0.048", "--device", "cpu") == 0


def test_who_loses_the_run_to_another_stops(done, monkeypatch):
    with folder.own(done) as owner:
        owner.check()
        (done / "lock.json").write_text(json.dumps({"owner": "x", "host": "far", "machine": "another", "pid": 7}))
        with pytest.raises(HandfulError, match="has been taken over by process 7 on far"):
            owner.check()
    assert json.loads((done / "lock.json").read_text())["owner"] == "x"              # it isn't ours to remove


def test_the_heartbeat_beats(done, monkeypatch):
    monkeypatch.setattr(folder, "BEAT_SEC", 0.05)
    with folder.own(done):
        before = json.loads((done / "lock.json").read_text())["heartbeat"]
        wait_for(lambda: json.loads((done / "lock.json").read_text())["heartbeat"] > before, 10)


@pytest.mark.parametrize("how", ["deleted", "renamed", "replaced"])
def test_a_folder_that_goes_while_it_trains_is_a_failure(photos, monkeypatch, capsys, how):
    import shutil

    step, count = Trainer.step, []

    def moving(self):
        step(self)
        count.append(1)
        if self.images_seen == 12 and self.threads is not None:                      # not in the estimate
            shutil.rmtree("run") if how == "deleted" else os.rename("run", "elsewhere")
            if how == "replaced":
                shutil.copytree("elsewhere", "run")

    monkeypatch.setattr(Trainer, "step", moving)
    assert command("train", photos, "--out", "run", "--kimg", "0.04", *TINY) == 1
    said = capsys.readouterr()
    assert "run was deleted or renamed while it was trained" in said.err and "done:" not in said.out
    if how == "renamed":
        monkeypatch.setattr(Trainer, "step", step)
        assert command("train", "--resume", "elsewhere", "--device", "cpu") == 0 and tensors(Path("elsewhere"), 40)


# ------------------------------------------------------------------------------------------------------------- what is damaged


def test_a_flipped_bit_is_found_anywhere_and_the_older_checkpoint_taken(done, capsys):
    path = done / "checkpoints" / "000000040.pt"
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for at in generator.integers(200, len(whole) - 2000, 12):
        data = bytearray(whole)
        data[at] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(data))
        if not _is_padding(path, at):
            with pytest.raises(HandfulError, match="cut short or damaged"):
                load_checkpoint(path)
    path.write_bytes(whole)
    at = next(i for i in range(len(whole) // 3, len(whole)) if not _is_padding(path, i))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:])
    assert command("train", "--resume", "run", "--kimg", "0.044", "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "000000040.pt is cut short or damaged" in said and tensors(done, 44)


def _is_padding(path: Path, at: int) -> bool:
    """Whether a byte of the zip lies between its members."""
    with zipfile.ZipFile(path) as file, open(path, "rb") as raw:
        for m in file.infolist():
            raw.seek(m.header_offset + 26)
            name, extra = np.frombuffer(raw.read(4), "<u2")
            start = m.header_offset + 30 + int(name) + int(extra)
            if start <= at < start + m.file_size:
                return False
    return True


def test_a_roll_back_steps_over_a_damaged_checkpoint(photos, monkeypatch, capsys):
    step, failed = Trainer.step, []

    def failing(self):
        step(self)
        if self.images_seen == 36 and self.threads is not None and not failed:
            failed.append(1)
            newest = checkpoint.all_of(Path("run"))[0]
            newest.write_bytes(newest.read_bytes()[:-300])
            self._log["d/loss"] = torch.tensor([1e9, 1.0])                           # it exploded
    monkeypatch.setattr(Trainer, "step", failing)
    assert command("train", photos, "--out", "run", "--kimg", "0.06", *TINY, "--set", "every.checkpoint_kimg=0.016") == 0
    said = capsys.readouterr().err
    assert "000000032.pt is cut short or damaged" in said and "back to 000000016.pt, once" in said
    assert tensors(Path("run"), 60)["progress"]["detours"] == 1


def test_an_average_that_is_not_finite_stops_the_run_as_g_does(photos, monkeypatch, capsys):
    step = Trainer.step

    def poisoned(self):
        step(self)
        if self.images_seen >= 24 and self.threads is not None:
            next(self.nets.G_ema.parameters()).data.view(-1)[0] = float("nan")
    monkeypatch.setattr(Trainer, "step", poisoned)
    assert command("train", photos, "--out", "run", "--kimg", "0.06", *TINY, "--set", "every.checkpoint_kimg=0.016") == 1
    said = capsys.readouterr().err
    assert "the averaged generator is not finite: back to 000000016.pt" in said and "training broke down at 24 images" in said
    for path in checkpoint.all_of(Path("run")):                                      # nothing of it was saved
        assert all(t.isfinite().all() for t in torch.load(path, weights_only=True)["G_ema"].values() if t.is_floating_point())
    trainer = tiny_trainer()
    assert trainer.average_is_finite()
    next(trainer.nets.G_ema.buffers()).fill_(float("inf"))
    assert not trainer.average_is_finite()


def test_the_model_follows_the_umask_and_is_byte_reproducible(done, photos, tmp_path):
    mask = os.umask(0)
    os.umask(mask)
    assert (done / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask
    script = ("import sys, handful; sys.path.insert(0, sys.argv[2]); from handful.training.checkpoint import save_model; from pathlib import Path;"
              "m = handful.load(sys.argv[1], trust=['tiny']); save_model(Path('again.safetensors'), m.config, m.generator, m.images_seen)")
    for seed in ("1", "2", "3"):                                                     # Python's own hashes differ; so do the library's, always
        subprocess.run([sys.executable, "-c", script, str(done), str(Path(__file__).parent)], env={**ENV, "PYTHONHASHSEED": seed}, check=True)
        assert Path("again.safetensors").read_bytes() == (done / "model.safetensors").read_bytes()


# ------------------------------------------------------------------------------------------------------------------ signals


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGHUP"])
def test_what_clusters_send_saves_and_stops(photos, name):
    process = program("train", photos, "--out", "run", "--kimg", "4000", *TINY)
    wait_for(lambda: checkpoint.all_of(Path("run")))
    process.send_signal(getattr(signal, name))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "stopped and saved; go on with: handful train --resume run" in said
    assert checkpoint.all_of(Path("run"))[0].stem != "000000000" and not (Path("run") / "lock.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_hangup_that_was_ignored_stays_ignored(photos):
    process = program("train", photos, "--out", "run", "--kimg", "4000", *TINY, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for(lambda: checkpoint.all_of(Path("run")))
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_is_named(photos, rank):
    process = program("train", photos, "--out", "run", "--kimg", "4000", "--gpus", "2", *TINY, start_new_session=True)
    wait_for(lambda: checkpoint.all_of(Path("run")))
    ranks = {int(re.search(r"\0?RANK=(\d)", Path(f"/proc/{pid}/environ").read_text())[1]): int(pid)
             for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()}
    os.kill(ranks[rank], signal.SIGKILL)
    lines = process.communicate(timeout=60)[0].splitlines()
    named = [line for line in lines if line.startswith("handful: ")]
    assert process.returncode == 1 and named == [
        f"handful: process {rank + 1} of 2 (rank {rank}) on {platform.node()} was ended by SIGKILL (out of memory, or by someone); "
        f"go on from the last checkpoint with --resume RUN"]


def test_another_number_of_processes_is_said(done, photos, capsys):
    capsys.readouterr()
    assert command("train", "--resume", "run", "--kimg", "0.044", "--device", "cpu") == 0
    assert "bit for bit" not in capsys.readouterr().out
    process = program("train", "--resume", "run", "--kimg", "0.06", "--device", "cpu", "--gpus", "2", "--trust", "tiny")
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 0 and "no longer bit for bit what it would have been: 1 process until now, 2 from here on" in said


# ------------------------------------------------------------------------------------------------------------- --init-from


def test_init_from_takes_one_snapshot_and_raw_g(done, photos, capsys):
    """G and D of the best checkpoint, where one is marked; its average becomes the average."""
    assert command("train", "--resume", "run", "--kimg", "0.08", "--device", "cpu") == 0
    assert command("train", photos, "--out", "newest", "--kimg", "0", "--init-from", "run", *TINY) == 0
    assert same(tensors(Path("newest"), 0)["G"], tensors(done, 80)["G"]) and same(tensors(Path("newest"), 0)["D"], tensors(done, 80)["D"])
    checkpoint.mark_best(done, done / "checkpoints" / "000000040.pt", "kid", 0.5)
    assert command("train", photos, "--out", "best", "--kimg", "0", "--init-from", "run", *TINY) == 0
    assert "starting from run (40 images): G and D" in capsys.readouterr().out
    best, source = tensors(Path("best"), 0), tensors(done, 40)
    for name in ("G", "D", "G_ema"):
        assert same(best[name], source[name])
    assert not same(best["G"], best["G_ema"])
    assert command("train", photos, "--out", "alone", "--kimg", "0", "--init-from", "run/model.safetensors", *TINY) == 0
    assert "G alone, the file has no D" in capsys.readouterr().out
    assert same(tensors(Path("alone"), 0)["G"], handful.load("run", trust=["tiny"]).generator.state_dict())


def test_a_bad_init_from_fails_before_the_data_is_read(photos, monkeypatch, capsys):

    monkeypatch.setattr("handful.data.scan", lambda *_, **__: pytest.fail("the data was read"))
    for bad in ("nowhere", "nowhere.pt", str(photos)):
        assert command("train", photos, "--init-from", bad, *TINY) == 1
    Path("bad.pt").write_bytes(b"no checkpoint")
    assert command("train", photos, "--init-from", "bad.pt", *TINY) == 1


def test_free_names_and_wrong_use():
    with pytest.raises(UsageError, match="name the images"):
        handful.train(resume="auto", out="run")
    picture_folder(Path("photos"))
    assert run(group, ["train", "photos", "--resume", "auto"]) == 2
