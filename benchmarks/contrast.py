"""What a contrastive task adds to a training step: the cost of D's and G's steps with it over that of the same steps without.

    python benchmarks/contrast.py [stylegan2_32_narrow stylegan2_auto] [--batch 4] [--seconds 40] [--device cuda] [--record DEVICE]

A step is one iteration of the recipe: G's and D's optimiser steps with augmentation, and the lazy regularisers by their share (each step of theirs
over its interval). Each case has a trainer of its own, which runs its main steps with the term and without it in turn, round after round, as many as
fit into --seconds; the extra is the median of with over without, over the whole step. On a CPU it is CPU time of the process, on a GPU wall time.
stylegan2_auto is taken at 64 pixels, on a CPU with batch 4. "D passes": runs of D (and of its slow copy) in one iteration, those of the loss
included. --set changes settings of the recipe (--set augment=none).
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
from handful.training.phases import Phase
from handful.training.trainer import Trainer

RESOLUTION, BATCH = {"stylegan2_auto": 64}, {"stylegan2_auto": 4}
CASES = {"insgen, released": {"use": "insgen"}, "insgen, shared": {"use": "insgen", "mode": "shared"},
         "fake_contrast": {"use": "fake_contrast"}}
CASES |= {f"insgen, shared, queues of {n}": {"use": "insgen", "mode": "shared", "queue_real": n, "queue_fake": n} for n in (25, 500, 5000)}
COUNT = 5000                                                  # training images that the trainer believes in: as many as the longest queue


class Steps:
    """The main steps of a recipe with one more term, or without it."""

    def __init__(self, recipe: str, term: dict, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        known = {"resolution": RESOLUTION.get(recipe), "count": COUNT, "device": args.device, "num_classes": 0, "batch": None}
        tree = {"recipe": recipe, **catalog.load("recipes", recipe)(**known)}
        batch = args.batch or (BATCH.get(recipe) if args.device == "cpu" else None) or tree["train"]["batch"]
        # No rate: the weights stay where they are, so that every round does the same work. p: as in the middle of a run.
        changes = {"train": {"batch": batch, "micro_batch": None}, "optim_d": {"lr": 1e-12}, "optim_g": {"lr": 1e-12}, "augment": {"p": 0.5},
                   "terms": {"contrast": term}}
        self.config = config.resolved(config.parse(config.assign(config.merge(tree, changes), args.set)))
        side = self.config.data.resolution
        dataset = Dataset(torch.randint(0, 256, (64, 3, side, side), dtype=torch.uint8).repeat(-(-COUNT // 64), 1, 1, 1)[:COUNT])
        dataset.place(self.device, choose.data_budget(self.device))
        self.trainer = Trainer(self.config, dataset, self.device)
        self.main = [p for p in self.trainer.plan if p.main]
        self.lazy = [p for p in self.trainer.plan if not p.main]

    def seconds(self, contrast: bool) -> float:
        """Of both main steps."""
        return sum(self._seconds(dataclasses.replace(p, names=tuple(n for n in p.names if contrast or n != "contrast"))) for p in self.main)

    def lazy_seconds(self) -> float:
        """Of the steps that other terms have of their own, by their share of an iteration."""
        return sum(self._seconds(p) / p.every for p in self.lazy)

    def passes(self) -> int:
        before = self.trainer.nets.runs
        self.seconds(True)
        return self.trainer.nets.runs - before

    def _seconds(self, phase: Phase) -> float:
        start = clock(self.device)
        self.trainer._run(phase, 0, 0)
        return clock(self.device) - start


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(recipe: str, args: argparse.Namespace) -> dict:
    """{case: extra} of a recipe, with the plain step's own time."""
    steps = {name: Steps(recipe, term, args) for name, term in CASES.items()}
    passes = {name: s.passes() for name, s in steps.items()}                                        # also the first, slow calls
    first = next(iter(steps.values()))
    for _ in range(2):
        first.lazy_seconds(), first.seconds(False)
    added, plain, lazy, rounds, start = {name: [] for name in CASES}, [], [], 0, time.perf_counter()
    while not rounds or time.perf_counter() - start < args.seconds:
        lazy.append(first.lazy_seconds())
        for name, s in steps.items():
            without, with_it, again = s.seconds(False), s.seconds(True), s.seconds(False)
            plain += [without, again]
            added[name].append(2 * with_it / (without + again) - 1)
        rounds += 1
    main = statistics.median(plain)
    share = main / (main + statistics.median(lazy))                                                 # of the main steps in a whole one
    c = first.config
    return {"recipe": recipe, "resolution": c.data.resolution, "batch": c.train.batch, "rounds": rounds, "device": args.device, "passes": passes,
            "plain_ms": 1e3 * main / share, "extra": {k: share * statistics.median(v) for k, v in added.items()}}


def show(found: dict) -> None:
    unit = "ms" if found["device"] != "cpu" else "CPU-ms"
    print(f"\n{found['recipe']}, {found['resolution']} pixels, batch {found['batch']}, {found['rounds']} rounds: a step without takes "
          f"{found['plain_ms']:.0f} {unit}\n| term | extra per step | D passes |\n|---|---|---|")
    for name, value in found["extra"].items():
        print(f"| {name} | {100 * value:+.0f} % | {found['passes'][name]} |")


def keep(found: dict, args: argparse.Namespace) -> None:
    from ledger import record

    command = "python benchmarks/contrast.py " + " ".join(a for a in sys.argv[1:] if a not in ("--record", args.record))
    for name, value in found["extra"].items():
        note = f"{found['resolution']} pixels, batch {found['batch']}, {found['rounds']} rounds, torch {torch.__version__}"
        record(f"{found['recipe']}: {name}, extra per training step, in plain steps", round(value, 4), "", command.strip(), device=args.record,
               seed=0, group="Cost of contrastive tasks", note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["stylegan2_32_narrow"])
    parser.add_argument("--batch", type=int, help="none: the recipe's; stylegan2_auto's is 4 on a CPU")
    parser.add_argument("--seconds", type=float, default=40.0, help="of measuring for each recipe")
    parser.add_argument("--threads", type=int, default=1, help="more than one counts waiting too where the machine is busy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of handful train")
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
