"""Runs that are killed at random moments and gone on with, against one that never was: not one bit may differ.

    python benchmarks/kills.py --kills 20                     one process with two threads
    python benchmarks/kills.py --kills 20 --gpus 2            two processes
    python benchmarks/kills.py --threads 1 --kimg 2 --signal SIGTERM

The straight run goes first. Then the same command line with `--resume auto` is started and killed (SIGKILL) after a random time, again and again,
and in the end left alone; every tensor of the last checkpoint, the model file, the snapshots in ema/ and the values in the log must be the straight
run's. The pause before a kill is up to --longest seconds after the first checkpoint of a start was there to go on from.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

SETTINGS = ("every.checkpoint_kimg=0.08", "every.log_kimg=0.04", "every.preview_kimg=0.2", "every.preview_images=4", "evaluate.metrics=[]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kimg", type=float, default=1.0)
    parser.add_argument("--recipe", default="stylegan2_32_narrow")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=1, help="processes")
    parser.add_argument("--longest", type=float, default=12.0)
    parser.add_argument("--signal", default="SIGKILL")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "handful", "train", "demo", "--recipe", args.recipe, "--kimg", str(args.kimg), "--batch", "8", "--device",
                "cpu",
                "--threads", str(args.threads), *(part for s in SETTINGS for part in ("--set", s)), *(["--gpus",
                                                                                                       str(args.gpus)] if args.gpus > 1 else [])]
        subprocess.run([*line, "--out", f"{folder}/straight"], check=True, capture_output=True)
        killed, torn = 0, f"{folder}/torn"
        while killed < args.kills:
            process = subprocess.Popen([*line, "--out", torn, "--resume", "auto"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       start_new_session=True)
            try:
                process.wait(draw.uniform(2, args.longest))
                break                                        # it is done before it was killed
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, getattr(signal, args.signal))
                process.wait()
                killed += 1
            time.sleep(0.1)
        last = subprocess.run([*line, "--out", torn, "--resume", "auto"], check=True, capture_output=True, text=True)
        left = [str(p.relative_to(torn)) for p in Path(torn).rglob("*.tmp")]
        faults = compared(Path(folder) / "straight", Path(torn))
        what = f"{args.recipe}, {args.threads} threads, {args.gpus} process{'es' if args.gpus > 1 else ''}"
        print(f"{what}: {killed} kills by {args.signal}, {len(faults)} differences, files left half written: {len(left)}")
        notes = [line["note"] for line in map(json.loads, (Path(torn) / "log.jsonl").open()) if "note" in line]
        print("\n".join([*faults[:10], *(notes if faults else [last.stdout.splitlines()[-2]])]))
        sys.exit(bool(faults or left))


def compared(straight: Path, torn: Path) -> list[str]:
    """What differs between two runs' last states."""
    a, b = (torch.load(max((run / "checkpoints").glob("*.pt")), weights_only=True) for run in (straight, torn))
    for state in (a, b):
        del state["config"], state["progress"]["sec"]
    faults = differences(a, b, "")
    if (straight / "model.safetensors").read_bytes() != (torn / "model.safetensors").read_bytes():
        faults.append("model.safetensors")
    stored = [{p.name: p.read_bytes() for p in (run / "ema").glob("*.safetensors")} for run in (straight, torn)]
    faults += [f"ema/{name}" for name in sorted(stored[0].keys() | stored[1].keys()) if stored[0].get(name) != stored[1].get(name)]
    logs = [[{k: v for k, v in line.items() if k not in ("sec", "images_per_sec", "memory_gb")} for line in map(json.loads,
                                                                                                                run.open()) if "d/loss" in line]
            for run in (straight / "log.jsonl", torn / "log.jsonl")]
    return faults + (["the log"] if logs[0] != logs[1] else [])


def differences(a, b, where: str) -> list[str]:
    if isinstance(a, dict):
        return [f for k in a.keys() | b.keys() for f in differences(a.get(k), b.get(k), f"{where}.{k}")]
    if isinstance(a, list | tuple):
        return [f for i, (x, y) in enumerate(zip(a, b)) for f in differences(x, y, f"{where}.{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [where]


if __name__ == "__main__":
    main()
