"""Runs of tiny networks by the command, as a user would have them, and what they leave."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

import handful
from handful.cli import group, run

TINY = ["--res", "16", "--batch", "4", "--device", "cpu", "--set", "g=tiny:TinyG", "--set", "d=tiny:TinyD", "--set", "terms={}",
        "--set", "loss=hinge", "--set", "every.preview_images=4", "--set", "every.checkpoint_kimg=0.04", "--set", "every.log_kimg=0.008",
        "--recipe", "fastgan64_narrow", "--set", "evaluate.metrics=[]"]


TINY_SETTINGS = {"g": "tiny:TinyG", "d": "tiny:TinyD", "terms": {}, "loss": "hinge", "every.preview_images": 4, "every.log_kimg": 0.008,
                 "every.checkpoint_kimg": 0.04, "evaluate.metrics": []}


TRUST = ("--trust", "tiny")                              # the files of these runs name the networks of tiny.py
load = partial(handful.load, trust=["tiny"])


def command(*args: str) -> int:
    return run(group, [str(a) for a in args] + list(TRUST if args[0] in ("train", "generate", "evaluate", "neighbours", "report") else ()))


def tensors(folder: Path, images: int) -> dict:
    return torch.load(folder / "checkpoints" / f"{images:09d}.pt", weights_only=True)


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k not in ("sec", "config"))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def refused(capsys, *args: str, code: int = 2) -> str:
    """Runs a command that must fail with one line, and returns the line."""
    assert command(*args) == code
    err = capsys.readouterr().err.strip()
    assert err.startswith("handful") and "\n" not in err and "Traceback" not in err
    return err
