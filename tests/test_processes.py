"""Two processes are one: the same weights as a single process with the whole batch, and the same on both ranks bit for bit."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from handful.metrics._metric import Metric
from making import noise_set, of_two_processes, picture_folder, run_steps, tiny_trainer, weights

SETTINGS = ["terms.r1.gamma=1.0", "terms.r1.every=2", "terms.r1.own_step=true", "terms.lecam.update=after", "terms.lecam.start=0",
            "optim_g.eps=1e-3", "optim_d.eps=1e-3"]                          # eps: Adam must not blow rounding up where a gradient is nearly 0
OVER = {"augment": {"use": "diffaug", "policy": "color,translation,cutout"}, "g": {"use": "tiny:TinyG", "noise": 0.1}}


def work(out: Path) -> None:
    """What each rank runs under torchrun."""
    from handful.training import distributed, ema

    torch.set_num_threads(1)
    rank, world = distributed.start(torch.device("cpu"))
    trainer = run_steps(tiny_trainer(*SETTINGS, rank=rank, world=world, **OVER), 4)
    synced = tiny_trainer("data.resolution=64", dataset=noise_set(resolution=64), rank=rank, world=world, optim_g={"eps": 1e-3},
                          optim_d={"eps": 1e-3}, **FASTGAN)
    run_steps(synced, 2)
    plain = tiny_trainer("data.resolution=64", "g.sync_batch_norm=false", "d.sync_batch_norm=false", dataset=noise_set(resolution=64),
                         rank=rank, world=world, **FASTGAN)
    run_steps(plain, 2)
    if rank == 0:                                                            # as before a preview: nobody else is there to answer
        ema.standing(copy.deepcopy(synced.nets.G_ema), 2, 4)
    styled = run_steps(tiny_trainer(*STYLED, dataset=noise_set(resolution=32, classes=3), rank=rank, world=world, **STYLEGAN2), 4)
    torch.save({"tiny": weights(trainer), "log": trainer.take_log(), "fastgan": weights(synced), "plain": weights(plain), "styled": weights(styled),
                "p": styled.nets.augment.p, "unread": unread(out, rank, world)}, out / f"rank{rank}.pt")
    distributed.leave()


def unread(out: Path, rank: int, world: int) -> list[str]:
    """What is said where one process alone can't read the images to score against."""
    from handful.infer.model import Model
    from handful.training.evaluation import Evaluation

    said: list[str] = []
    against = picture_folder(out / f"only{rank}") if rank == 0 else out / "nothing"
    trainer = tiny_trainer(f"evaluate.against={against}", 'evaluate.metrics=["test_processes:Slow"]', rank=rank, world=world)
    log = SimpleNamespace(say=lambda line, images: said.append(line), stage=lambda line: None)
    evaluation = Evaluation(trainer, out, log)
    assert not evaluation.score(Model(trainer.nets.G_ema, trainer.config))
    return said


FASTGAN = {"g": {"use": "fastgan", "ngf": 4, "z_dim": 8, "sync_batch_norm": True}, "d": {"use": "fastgan", "ndf": 4, "sync_batch_norm": True},
           "loss": {"use": "soft_hinge"}, "train": {"batch": 8, "share_fakes": True}}
# One image a group: the minibatch statistics of halves aren't those of the whole. Style mixing, noise, ADA's draws, held-out images are shared.
STYLED = ["data.resolution=32", "data.holdout=0.25", "terms.r1.every=2", "terms.r1.own_step=true", "terms.ada_controller.kimg=0.2",
          "terms.ada_controller.interval=2", "terms.ada_controller.target=-1", "terms.ada_controller.start=null",
          "terms.heldout_logits.every=1", "train.order=gd", "optim_g.eps=1e-3", "optim_d.eps=1e-3"]
STYLEGAN2 = {"g": {"use": "stylegan2", "z_dim": 16, "w_dim": 16, "channel_base": 256, "channel_max": 16, "mapping_layers": 2},
             "d": {"use": "stylegan2", "channel_base": 256, "channel_max": 16, "minibatch_group": 1}, "augment": {"use": "ada", "p": 0.5}}


def test_two_gloo_processes_equal_one(tmp_path):
    a, b = of_two_processes(__file__, tmp_path)
    assert torch.equal(a["tiny"], b["tiny"]) and torch.equal(a["fastgan"], b["fastgan"])
    assert a["unread"] == b["unread"] and "rank 1 of 2" in a["unread"][0] and "nothing" in a["unread"][0]
    assert torch.equal(a["plain"], b["plain"])                               # each its own batch statistics, one state
    one = run_steps(tiny_trainer(*SETTINGS, **OVER), 4)
    assert (weights(one) - a["tiny"]).abs().max() < 1e-6
    assert all(abs(a["log"][k] - v) < 1e-4 for k, v in one.take_log().items())
    styled = run_steps(tiny_trainer(*STYLED, dataset=noise_set(resolution=32, classes=3), **STYLEGAN2), 4)
    assert torch.equal(a["styled"], b["styled"]) and a["p"] == b["p"] == styled.nets.augment.p > 0.5
    assert torch.allclose(weights(styled), a["styled"], rtol=1e-4, atol=1e-5)
    parts = run_steps(tiny_trainer(*STYLED, "train.micro_batch=2", dataset=noise_set(resolution=32, classes=3), **STYLEGAN2), 4)
    assert torch.allclose(weights(styled), weights(parts), rtol=1e-4, atol=1e-5) and parts.nets.augment.p == styled.nets.augment.p
    synced = run_steps(tiny_trainer("data.resolution=64", dataset=noise_set(resolution=64), optim_g={"eps": 1e-3}, optim_d={"eps": 1e-3},
                                    **FASTGAN), 2)
    off = (weights(synced) - a["fastgan"]).abs()
    assert off.max() < 1e-3 and off.mean() < 1e-6                            # without synchronised statistics the mean is 2e-3


def test_gpus_starts_processes_that_stop_together_and_save(tmp_path):
    """--gpus on the CPU: SIGINT to the command alone reaches all, the run is saved, the exit code is that of a stop."""
    photos = picture_folder(tmp_path / "photos")
    settings = [f"--set={s}" for s in ("g=tiny:TinyG", "d=tiny:TinyD", "terms={}", "loss=hinge", "every.log_kimg=0.04", "every.preview_images=4")]
    line = [sys.executable, "-m", "handful", "train", str(photos), "--out", "run", "--gpus", "2", "--res", "16", "--batch", "4", "--kimg", "4000",
            "--device", "cpu", "--recipe", "fastgan64_narrow", *settings]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    log = tmp_path / "run" / "log.jsonl"
    with subprocess.Popen(line, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        until = time.monotonic() + 150
        while process.poll() is None and time.monotonic() < until and not (log.exists() and "d/loss" in log.read_text()):
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "go on with: handful train --resume run" in said, said
    assert "x 2" in said and len(list((tmp_path / "run" / "checkpoints").glob("*.pt"))) == 2


class Slow(Metric):
    """A score that takes minutes, in small parts; says when it has begun, and where."""

    alone, takes = True, ("", "")

    def run(self, job):
        Path(f"scoring{job.world.rank}").write_text(str(os.getpid()))
        for i, _ in enumerate(job.world.parts(20_000, 1)):
            time.sleep(0.03)
            job.progress(i, 10_000)
        return {"value": 0.0, "protocol": "slow"}


def test_a_score_in_two_processes_stops_when_one_is_asked_to(tmp_path):
    """SIGTERM to one process alone, in the middle of a score: both stop, all is saved, and the run can go on."""
    photos = picture_folder(tmp_path / "photos")
    settings = [f"--set={s}" for s in ("g=tiny:TinyG", "d=tiny:TinyD", "terms={}", "loss=hinge", "every.log_kimg=0.04", "every.preview_images=4",
                                       'evaluate.metrics=["test_processes:Slow"]', "evaluate.budget=1", "every.checkpoint_kimg=0.04")]
    line = [sys.executable, "-m", "handful", "train", str(photos), "--out", "run", "--gpus", "2", "--res", "16", "--batch", "4", "--kimg", "4000",
            "--device", "cpu", "--recipe", "fastgan64_narrow", *settings]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(line, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        until, begun = time.monotonic() + 150, [tmp_path / f"scoring{rank}" for rank in (0, 1)]
        while process.poll() is None and time.monotonic() < until and not all(path.exists() and path.read_text() for path in begun):
            time.sleep(0.2)
        os.kill(int(begun[1].read_text()), signal.SIGTERM)
        asked = time.monotonic()
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "go on with: handful train --resume run" in said and time.monotonic() - asked < 30, said
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("*.pt"))
    assert len(saved) >= 2 and not (tmp_path / "run" / "metrics.jsonl").exists()


def test_gpus_says_a_fault_once(tmp_path):
    done = subprocess.run([sys.executable, "-m", "handful", "train", "nowhere", "--gpus", "2", "--device", "cpu"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "there is no folder or file" in done.stderr


if __name__ == "__main__":
    work(Path(sys.argv[1]))
