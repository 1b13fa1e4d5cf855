"""What each regulariser adds to a D step, alone and beside others: its cost over that of the plain step.

    python benchmarks/terms.py [stylegan2_32_narrow biggan_cifar] [--batch 4] [--seconds 25] [--device cuda] [--record DEVICE]

"plain" is D's step of the recipe with the adversarial loss alone (latents, G without gradient, augmentation, D forward and backward, Adam). A term's
extra is its step's time over that of the plain steps before and after it, less 1: CPU time of the process, on a GPU wall time. All of them take
turns on one trainer, round after round, as many as fit into --seconds; the median counts, so that other work on the machine hardly does. "gradients"
counts the backward passes through D that make gradients by pixels (for gradients by x, the one through the augmentation too): penalties that ask
for the same ones share them. Batches are smaller than the recipes' own on a CPU, which matters to what doesn't depend on them (orthogonal).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time

import torch

from handful import catalog, config
from handful.data import Dataset
from handful.ops.memory import keep_freed_memory
from handful.training import choose
from handful.training.trainer import Trainer

BATCH = {"biggan_cifar": 4}
TERMS = {"r1": {"at": "x_in"}, "r1_by_x": {"use": "r1"}, "r2": {"at": "x_in"}, "diggan": {}, "gradient_penalty": {}, "dragan": {}, "consistency": {},
         "plain_consistency": {"use": "consistency", "against": "plain"}, "lecam": {"start": 0}, "orthogonal": {"of": "d"},
         "bcr": {}, "zcr": {}, "rotation": {}, "augself": {}}
# name: the terms, in how many D steps of how many they run, and whether in a step of their own.
CASES = {"r1": (("r1",), 1, 1, False), "r2": (("r2",), 1, 1, False), "r1 + r2": (("r1", "r2"), 1, 1, False),
         "diggan": (("diggan",), 1, 1, False), "r1 + r2 + diggan": (("r1", "r2", "diggan"), 1, 1, False),
         "diggan in 1 of 4 D steps": (("diggan",), 1, 4, False), "r1 by x, in a step of its own, 1 of 16": (("r1_by_x",), 1, 16, True),
         "r1 by x + diggan, in a step of their own, 1 of 16": (("r1_by_x", "diggan"), 1, 16, True),
         "gradient_penalty": (("gradient_penalty",), 1, 1, False), "dragan": (("dragan",), 1, 1, False),
         "consistency": (("consistency",), 1, 1, False), "lecam": (("lecam",), 1, 1, False), "orthogonal (of d)": (("orthogonal",), 1, 1, False),
         "bcr": (("bcr",), 1, 1, False), "zcr": (("zcr",), 1, 1, False), "rotation": (("rotation",), 1, 1, False),
         "augself": (("augself",), 1, 1, False)}


class Steps:
    """D's step of a recipe with any of the terms: one trainer holds them all, and a phase names those that run."""

    def __init__(self, recipe: str, batch: int | None, device: torch.device) -> None:
        labelled = recipe.startswith("biggan")
        known = {"resolution": None, "count": 100, "device": device.type, "num_classes": 10 * labelled, "batch": None}
        tree = {"recipe": recipe, **catalog.load("recipes", recipe)(**known)}
        # No rate: the weights stay, so that no penalty drives the networks of the next one anywhere.
        changes = {"train": {"batch": batch or tree["train"]["batch"], "micro_batch": None}, "optim_d": {"lr": 1e-12}}
        tree = config.merge(tree, changes) | {"terms": {name: {"use": name} | keywords for name, keywords in TERMS.items()}}
        parsed = config.resolved(config.parse(tree))
        self.batch, side = parsed.train.batch, parsed.data.resolution
        images = torch.randint(0, 256, (2 * self.batch, 3, side, side), dtype=torch.uint8)
        dataset = Dataset(images, torch.arange(len(images)) % 10, [str(i) for i in range(10)]) if labelled else Dataset(images)
        dataset.place(device, choose.data_budget(device))
        self.trainer, self.device = Trainer(parsed, dataset, device), device
        self.main = next(p for p in self.trainer.plan if p.side == "d" and p.main)

    def seconds(self, terms: tuple[str, ...] = (), own: bool = False) -> float:
        """Of one step with these terms; own: in a step of their own, without the adversarial loss."""
        phase = dataclasses.replace(self.main, names=terms if own else ("adv", *terms), main=not own)
        start = self.clock()
        self.trainer._run(phase, 0, 0)
        return self.clock() - start

    def gradients(self, terms: tuple[str, ...], own: bool) -> int:
        """Backward passes through D that make gradients by pixels, counted."""
        grad, count = torch.autograd.grad, []
        torch.autograd.grad = lambda *a, **k: (count.append(k.get("create_graph")), grad(*a, **k))[1]
        try:
            self.seconds(terms, own)
        finally:
            torch.autograd.grad = grad
        return len(count)

    def clock(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def measure(recipe: str, args: argparse.Namespace) -> dict:
    """{case: (extra, gradients)} of a recipe, with the plain step's own time."""
    steps = Steps(recipe, args.batch or (BATCH.get(recipe) if args.device == "cpu" else None), torch.device(args.device))
    gradients = {name: steps.gradients(terms, own) for name, (terms, _, _, own) in CASES.items()}           # also the first, slow calls
    extra = {name: [] for name in CASES}
    start, plain, rounds = steps.clock(), [steps.seconds()], 0
    while not rounds or steps.clock() - start < args.seconds:
        for name, (terms, times, of, own) in CASES.items():
            spent = steps.seconds(terms, own)
            plain.append(steps.seconds())
            beside = (plain[-2] + plain[-1]) / 2
            extra[name].append(times / of * (spent - (0 if own else beside)) / beside)
        rounds += 1
    return {"recipe": recipe, "batch": steps.batch, "joint": steps.trainer.config.train.joint, "rounds": rounds, "device": args.device,
            "plain_ms": 1e3 * statistics.median(plain), "extra": {k: statistics.median(v) for k, v in extra.items()}, "gradients": gradients}


def show(found: dict) -> None:
    passes = "reals and fakes in one pass of D" if found["joint"] else "reals and fakes each in a pass of D"
    unit = "ms" if found["device"] != "cpu" else "CPU-ms"
    print(f"\n{found['recipe']}, batch {found['batch']}, {passes}, {found['rounds']} rounds: a plain D step takes {found['plain_ms']:.0f} {unit}\n"
          f"| terms | extra, in plain D steps | gradients |\n|---|---|---|")
    for name, value in found["extra"].items():
        print(f"| {name} | {value:+.2f} | {found['gradients'][name]} |")


def keep(found: dict, args: argparse.Namespace) -> None:
    from ledger import record

    command = "python benchmarks/terms.py " + " ".join(a for a in sys.argv[1:] if a not in ("--record", args.record))
    for name, value in found["extra"].items():
        note = f"batch {found['batch']}, {found['gradients'][name]} gradients by pixels, {found['rounds']} rounds, torch {torch.__version__}"
        record(f"{found['recipe']}: {name}, extra per D step, in plain D steps", round(value, 4), "", command.strip(), device=args.record,
               seed=0, group="Cost of regularisers", note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["stylegan2_32_narrow", "biggan_cifar"])
    parser.add_argument("--batch", type=int, help="none: the recipe's; biggan_cifar's is 4 on a CPU")
    parser.add_argument("--seconds", type=float, default=25.0, help="of measuring for each recipe (CPU time on a CPU)")
    parser.add_argument("--threads", type=int, default=1, help="more than one counts waiting too where the machine is busy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", metavar="DEVICE", help="write the figures into the ledger, as measured on DEVICE (in words)")
    args = parser.parse_args()
    keep_freed_memory()                                       # as the trainer does
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    for recipe in args.recipes:
        found = measure(recipe, args)
        print(json.dumps(found)) if args.json else show(found)
        if args.record:
            keep(found, args)


if __name__ == "__main__":
    main()
