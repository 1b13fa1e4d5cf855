"""Two processes are one: the same weights as a single process with the whole batch, and the same on both ranks bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from making import noise_set, run_steps, tiny_trainer, weights

SETTINGS = ["terms.r1.gamma=1.0", "terms.r1.every=2", "terms.r1.own_step=true", "terms.lecam.update=after", "terms.lecam.start=0",
            "optim_g.eps=1e-3", "optim_d.eps=1e-3"]                          # eps: Adam must not blow rounding up where a gradient is nearly 0
OVER = {"augment": {"use": "diffaug", "policy": "color,translation,cutout"}, "g": {"use": "tiny:TinyG", "noise": 0.1}}


def work(out: Path) -> None:
    """What each rank runs under torchrun."""
    from handful.train import reduce

    torch.set_num_threads(1)
    rank, world = reduce.start(torch.device("cpu"))
    trainer = run_steps(tiny_trainer(*SETTINGS, rank=rank, world=world, **OVER), 4)
    synced = tiny_trainer("data.resolution=64", dataset=noise_set(resolution=64), rank=rank, world=world, optim_g={"eps": 1e-3},
                          optim_d={"eps": 1e-3}, **FASTGAN)
    run_steps(synced, 2)
    torch.save({"tiny": weights(trainer), "log": trainer.take_log(), "fastgan": weights(synced)}, out / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


FASTGAN = {"g": {"use": "fastgan", "ngf": 4, "z_dim": 8, "sync_batch_norm": True}, "d": {"use": "fastgan", "ndf": 4, "sync_batch_norm": True},
           "loss": {"use": "soft_hinge"}, "train": {"batch": 8, "share_fakes": True}}


def test_two_gloo_processes_equal_one(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, str(tmp_path)],
                          env=env, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    a, b = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    assert torch.equal(a["tiny"], b["tiny"]) and torch.equal(a["fastgan"], b["fastgan"])
    one = run_steps(tiny_trainer(*SETTINGS, **OVER), 4)
    assert (weights(one) - a["tiny"]).abs().max() < 1e-6
    assert all(abs(a["log"][k] - v) < 1e-4 for k, v in one.take_log().items())
    synced = run_steps(tiny_trainer("data.resolution=64", dataset=noise_set(resolution=64), optim_g={"eps": 1e-3}, optim_d={"eps": 1e-3},
                                    **FASTGAN), 2)
    off = (weights(synced) - a["fastgan"]).abs()
    assert off.max() < 1e-3 and off.mean() < 1e-6                            # without synchronised statistics the mean is 2e-3


if __name__ == "__main__":
    work(Path(sys.argv[1]))
