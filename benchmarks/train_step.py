"""What a training step costs, per recipe: images/s, CPU-seconds, FLOPs and memory per image, and the share of each part.

    python benchmarks/train_step.py                                   every recipe at its own batch (each in a process of its own)
    python benchmarks/train_step.py fastgan256 --set terms.reconstruction=null --threads 2
    python benchmarks/train_step.py fastgan256 --device cuda --steps 50 --compile on --record "H200"

Lazy terms count by their share of the iterations. A plain 3x3 convolution, forward and backward, runs in the same process as calibration:
machines and their load differ, the ratio less so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import nullcontext

COLUMNS = ("recipe", "batch", "images/s", "CPU-s/image", "GFLOP/image", "GFLOP/CPU-s", "plain conv", "peak GB", "shares")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--steps", type=int, default=0, help="timed steps; 0: about 20 seconds of them")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--record", metavar="DEVICE", help="write the figures into the ledger under this device's name")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if len(args.recipes) == 1:
        row = measure(args.recipes[0], args)
        if args.record:
            keep(row, args)
        print(json.dumps(row) if args.json else table([row]))
        return
    from handful import catalog

    rows = []
    for recipe in args.recipes or catalog.names("recipes"):
        line = [sys.executable, __file__, recipe, "--json", *[a for a in sys.argv[1:] if a not in args.recipes and a != "--json"]]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            print(f"{recipe}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    print(json.dumps(rows) if args.json else table(rows))


def measure(recipe: str, args: argparse.Namespace) -> dict:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from handful import catalog, config
    from handful.data import Dataset
    from handful.ops.memory import keep_freed_memory
    from handful.training import choose
    from handful.training.loop import memory_gb
    from handful.training.trainer import Trainer

    keep_freed_memory()                                       # as the trainer does
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    asked = config.assign({}, args.settings).get("data", {}).get("resolution")
    tree = {"recipe": recipe, **catalog.load("recipes", recipe)(resolution=asked, count=100, device=device.type, num_classes=0, batch=None)}
    parsed = config.resolved(config.parse(config.assign(tree, args.settings)))
    res, batch = parsed.data.resolution, parsed.train.batch * parsed.train.d_steps
    dataset = Dataset(torch.randint(0, 256, (2 * batch, parsed.data.channels, res, res), dtype=torch.uint8))
    dataset.place(device, choose.data_budget(device))
    compiled = choose.compiles(args.compile, device)
    build = lambda compiled: Trainer(parsed, dataset, device, precision=choose.precision(args.precision, device), compile=compiled)  # noqa: E731
    phases = Phases(build(False), device)
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = Untracked()
    with counter as flops:
        phases.flops = flops.get_total_flops
        phases.step()
    work = phases.cycle("flops") / batch / 1e9
    if compiled:
        phases = Phases(build(True), device)
    phases.flops, trainer = (lambda: 0), phases.trainer
    plain = plain_convolution(device)
    for _ in range(2 if device.type == "cuda" else 0):
        phases.step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    phases.clear()
    start, steps = time.perf_counter(), 0
    while steps < (args.steps or 10**9) and (args.steps or steps < 2 or time.perf_counter() - start < 20):
        phases.step()
        steps += 1
    wall, cpu, memory = phases.cycle("wall"), phases.cycle("cpu"), memory_gb(device)
    each = {k: round(phases.mean(k, "cpu") / batch, 4) for k in phases.spent}
    parts = watch(trainer, phases, device)
    phases.step()
    total = sum(parts.values()) or 1
    return {"recipe": recipe, "settings": args.settings, "batch": batch, "images/s": batch / wall, "CPU-s/image": cpu / batch,
            "GFLOP/image": work, "GFLOP/CPU-s": work * batch / cpu, "plain conv": plain, "peak GB": memory, "phases": each,
            "shares": {k: round(v / total, 3) for k, v in sorted(parts.items(), key=lambda i: -i[1])}, "steps": steps,
            "device": choose.machine(device), "precision": choose.precision(args.precision, device), "compiled": compiled,
            "torch": torch.__version__}


class Untracked(nullcontext):
    """In place of the counter's module tracker, whose hooks can't bear a gradient by a leaf (R1's): all is counted together."""

    parents = {"Global"}


class Phases:
    """Runs iterations in which every phase is due, and clocks each phase by itself: a cycle is their sum, lazy ones by their share.

    A cycle of StyleGAN2's cifar setting is 16 iterations of 64 images, a quarter of an hour on two cores; one iteration tells as much.
    """

    def __init__(self, trainer, device) -> None:
        self.trainer, self.device, self.flops, self.weight = trainer, device, lambda: 0, 1.0
        self.every = {p.key: p.every for p in trainer.plan}
        self.clear()
        run = trainer._run

        def clocked(phase, at, substep):
            self.weight = 1 / phase.every
            before = self.now()
            run(phase, at, substep)
            self.add(phase.key, before)
            self.weight = 1.0

        trainer._run = clocked

    def clear(self) -> None:
        self.spent: dict[str, dict[str, float]] = {}
        self.iterations = 0

    def now(self) -> dict[str, float]:
        wait(self.device)
        return {"wall": time.perf_counter(), "cpu": time.process_time(), "flops": self.flops()}

    def add(self, key: str, before: dict[str, float]) -> None:
        now, sums = self.now(), self.spent.setdefault(key, defaultdict(float))
        for what in now:
            sums[what] += now[what] - before[what]

    def step(self) -> None:
        self.trainer.iteration = 0                           # so that all are due
        before = self.now()
        self.trainer.step()
        self.add("all", before)
        self.iterations += 1

    def mean(self, key: str, what: str) -> float:
        """Of one iteration in which it runs; "all": of the whole iteration."""
        return self.spent[key][what] / self.iterations

    def cycle(self, what: str) -> float:
        """Of a mean iteration of the run."""
        lazy = sum(self.mean(k, what) * (1 - 1 / self.every[k]) for k in self.spent if k != "all")
        return self.mean("all", what) - lazy


def plain_convolution(device) -> float:
    """GFLOP per CPU-second (per second on a GPU) of a 3x3 convolution, 64 to 64 channels at 128 pixels, batch 8, forward and backward."""
    import torch

    x = torch.randn(8, 64, 128, 128, device=device, requires_grad=True)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False).to(device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    best = float("inf")
    for _ in range(5):
        wait(device)
        start = clock()
        conv(x).sum().backward()
        wait(device)
        best = min(best, clock() - start)
    return 3 * 2 * 8 * 64 * 64 * 9 * 128 * 128 / best / 1e9


def watch(trainer, phases, device) -> dict[str, float]:
    """Wraps the parts of a step in clocks; returns the running sums in seconds, lazy phases by their share. On a GPU the clock waits for the
    device at each end, so these sums serve for shares alone."""
    import torch

    from handful.training import ema

    spent: dict[str, float] = defaultdict(float)
    depth = [0]

    def clocked(name, function):
        def inner(*args, **kwargs):
            if depth[0]:
                return function(*args, **kwargs)
            wait(device)
            depth[0], start = 1, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                wait(device)
                spent[name] += (time.perf_counter() - start) * phases.weight
                depth[0] = 0
        return inner

    trainer.dataset.batch = clocked("data", trainer.dataset.batch)
    trainer.nets.forward_g = clocked("G forward", trainer.nets.forward_g)
    trainer.nets.forward_d = clocked("D forward", trainer.nets.forward_d)
    trainer.nets.augment.draw = clocked("augment", trainer.nets.augment.draw)
    for name, term in trainer.terms.items():
        term.forward = clocked(name, term.forward)
        term.commit = clocked(name, term.commit)
    torch.Tensor.backward = clocked("backward", torch.Tensor.backward)
    for optimiser in trainer.optim.values():
        optimiser.step = clocked("Adam", optimiser.step)
    ema.update = clocked("EMA", ema.update)
    return spent


def wait(device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def keep(row: dict, args: argparse.Namespace) -> None:
    from ledger import record

    command = "python benchmarks/train_step.py " + " ".join(a for a in sys.argv[1:] if a not in ("--record", args.record, "--json"))
    note = f"batch {row['batch']}, {row['precision']}, torch {row['torch']}, plain convolution {row['plain conv']:.0f} GFLOP/s"
    for figure, unit in (("images/s", "images/s"), ("CPU-s/image", "CPU-s"), ("peak GB", "GB")):
        label = " ".join([row["recipe"], *row["settings"], row["precision"]])
        record(f"{label}: {figure}", row[figure], unit, command, device=args.record, seed=0, group="Training step", note=note)


def table(rows: list[dict]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = [" ".join([row["recipe"], *row["settings"]]), str(row["batch"])]
        cells += [f"{row[c]:.3g}" for c in COLUMNS[2:-1]]
        cells.append(", ".join(f"{k} {v:.0%}" for k, v in row["shares"].items() if v >= 0.01))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
