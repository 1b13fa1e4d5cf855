"""What pictures cost once a generator is trained: images/s and CPU-seconds per image of G alone, one at a time and in batches.

    python benchmarks/sampling.py                                          the widths of the published recipes at 32, 64, 128 and 256 pixels
    python benchmarks/sampling.py paper256 stylegan2_auto@64 --batches 1,8 --threads 2
    python benchmarks/sampling.py cifar@32 --device cuda --precision auto --record "H200"

A recipe is taken at its own resolution, or at the one after the @. Untrained weights, evaluation mode, no truncation, latents drawn beforehand; noise
is part of G's work. A plain 3x3 convolution runs in the same process as calibration: machines and their load differ, the ratio less so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import nullcontext

import torch

from handful import catalog, config
from handful.infer.model import generator_of
from handful.ops.memory import keep_freed_memory
from handful.rng import Rng
from handful.training import choose
from handful.training.loop import memory_gb
from handful.training.networks import DTYPES
from ledger import record
from train_step import plain_convolution, wait

RECIPES = ("cifar@32", "stylegan2_auto@64", "stylegan2_auto@128", "paper256@256")
COLUMNS = ("recipe", "batch", "images/s", "CPU-s/image", "plain conv", "peak GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE[@RESOLUTION]")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--batches", default="1,16", help="with commas")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timed sampling per figure")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "auto", "bf16", "fp16"))
    parser.add_argument("--record", metavar="DEVICE", help="write the figures into the ledger under this device's name")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()                                       # as sampling in a run does
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    rows = []
    for name in args.recipes:
        G = generator(name, args.settings, device)
        rows += [measure(name, G, int(n), choose.precision(args.precision, device), args.seconds) for n in args.batches.split(",")]
    for row in rows if args.record else ():
        keep(row, args)
    print(json.dumps(rows) if args.json else table(rows))


def generator(name: str, settings: list[str], device: torch.device):
    """G of `RECIPE[@RESOLUTION]`, untrained."""
    recipe, _, side = name.partition("@")
    tree = catalog.load("recipes", recipe)(resolution=int(side) if side else None, count=100, device=device.type, num_classes=0, batch=None)
    torch.manual_seed(0)
    return generator_of(config.parse(config.assign({"recipe": recipe, **tree}, settings))).to(device).eval().requires_grad_(False)


@torch.inference_mode()
def measure(name: str, G, batch: int, precision: str, seconds: float) -> dict:
    device = next(G.parameters()).device
    z, rng = torch.randn(batch, G.z_dim, device=device), Rng(0, device)
    c = torch.arange(batch, device=device) % G.num_classes if G.num_classes else None
    autocast = lambda: torch.autocast(device.type, dtype=DTYPES[precision]) if DTYPES[precision] else nullcontext()
    plain = plain_at_grad(device)

    def draw() -> None:
        with autocast():
            G.sample(z, c, rng=rng)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(10 if device.type == "cuda" else 1):
        draw()
    wait(device)
    times, wall, cpu = 0, time.perf_counter(), time.process_time()
    while times < 2 or time.perf_counter() - wall < seconds:
        draw()
        wait(device)
        times += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"recipe": name, "batch": batch, "images/s": batch * times / wall, "CPU-s/image": cpu / batch / times, "plain conv": plain,
            "peak GB": memory_gb(device), "precision": precision, "device": choose.machine(device), "torch": torch.__version__}


def plain_at_grad(device: torch.device) -> float:
    """The calibration of train_step.py, which differentiates."""
    with torch.inference_mode(False), torch.enable_grad():
        return plain_convolution(device)


def keep(row: dict, args: argparse.Namespace) -> None:
    command = "python benchmarks/sampling.py " + " ".join(a for a in sys.argv[1:] if a not in ("--record", args.record, "--json"))
    note = f"{row['precision']}, torch {row['torch']}, plain convolution {row['plain conv']:.0f} GFLOP/s"
    for figure, unit in (("images/s", "images/s"), ("CPU-s/image", "CPU-s")):
        label = " ".join([row["recipe"], *args.settings, row["precision"], f"batch {row['batch']}"])
        record(f"{label}: {figure}", row[figure], unit, command.strip(), device=args.record, seed=0, group="Sampling", note=note)


def table(rows: list[dict]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join([r["recipe"], str(r["batch"]), *(f"{r[k]:.3g}" for k in COLUMNS[2:])]) + " |" for r in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
