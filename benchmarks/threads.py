"""The number of threads and the way they wait, on an idle machine and on a busy one: images/s of a run's own steps.

    python benchmarks/threads.py                                   fastgan128_narrow, idle and beside two busy programs
    python benchmarks/threads.py stylegan2_64_narrow --seconds 20 --record "2 cores AMD EPYC with AVX512-BF16"

Each setting is a process of its own, since the way of waiting (OMP_WAIT_POLICY) is read when torch is loaded: every number of threads from one to the
cores, fixed, waiting as the system has it by default (actively, for a while) and passively; and `chosen`, where the process finds the number as
`handful train` does (`training/threads.py`). The settings take turns, --rounds times, and the median counts. A busy program computes with one thread
and never waits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

from ledger import record

BUSY = "while True: sum(range(10**6))"
POLICIES = ("default", "passive")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="fastgan128_narrow")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timed steps per setting and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=2, help="programs beside it")
    parser.add_argument("--record", metavar="DEVICE", help="write the figures into the ledger under this device's name")
    parser.add_argument("--worker", metavar="THREADS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        return work(args.recipe, int(args.worker), args.seconds)
    from handful.training.threads import usable

    fixed = [(str(n), policy) for n in range(1, usable() + 1) for policy in POLICIES]
    settings = [*fixed, ("0", "default")]
    print(f"{args.recipe}, images/s on {usable()} cores, median of {args.rounds} rounds of {args.seconds:g} s")
    for busy in (0, args.busy):
        rows: dict[tuple[str, str], list[dict]] = {s: [] for s in settings}
        beside = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            for _ in range(args.rounds):
                for threads, policy in settings:
                    rows[threads, policy].append(measured(args, threads, policy))
        finally:
            for program in beside:
                program.kill()
        speeds = {s: median(r["images_per_sec"] for r in found) for s, found in rows.items()}
        best = max(speeds[s] for s in fixed)
        where = f"{busy} busy programs" if busy else "idle"
        for (threads, policy), found in rows.items():
            taken = ",".join(str(r["threads"]) for r in found)
            name = f"{threads} threads, {policy} waiting" if threads != "0" else f"chosen ({taken} threads)"
            speed = speeds[threads, policy]
            print(f"{where:>16}  {name:<30} {speed:7.2f}  {speed / best:5.2f} of the best fixed one")
            if args.record:
                what = name if threads != "0" else "chosen by handful train"
                command = " ".join(["python benchmarks/threads.py", args.recipe, f"--seconds {args.seconds:g}", f"--rounds {args.rounds}"])
                more = {"note": f"{taken} threads; {speed / best:.2f} of the best fixed setting"} if threads == "0" else {}
                record(f"{args.recipe}, {where}: {what}", speed, "images/s", command, device=args.record, group="Threads", **more)


def measured(args: argparse.Namespace, threads: str, policy: str) -> dict:
    line = [sys.executable, __file__, args.recipe, "--worker", threads, "--seconds", str(args.seconds)]
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    env |= {"OMP_WAIT_POLICY": policy} if policy != "default" else {}
    return json.loads(subprocess.run(line, env=env, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def work(recipe: str, threads: int, seconds: float) -> None:
    """One setting in this process: prints {"threads", "images_per_sec"}."""
    import torch

    from handful import catalog, config
    from handful.data import Dataset
    from handful.ops.memory import keep_freed_memory
    from handful.training import choose
    from handful.training import threads as threads_module
    from handful.training.trainer import Trainer

    keep_freed_memory()
    tree = catalog.load("recipes", recipe)(resolution=None, count=100, device="cpu", num_classes=0, batch=None)
    settings = config.resolved(config.parse({"recipe": recipe, **tree}))
    if "reconstruction" in settings.terms:                    # its LPIPS needs weights; pixels cost less, for every setting alike
        settings.terms["reconstruction"] = settings.terms["reconstruction"].but(loss="pixel")
    side = settings.data.resolution
    noise = Dataset(torch.randint(0, 256, (100, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    device = torch.device("cpu")
    trainer = Trainer(settings, noise, device, precision=choose.precision("auto", device))

    def step() -> float:
        started = time.perf_counter()
        trainer.step()
        return time.perf_counter() - started

    if threads:
        torch.set_num_threads(threads)
        step()
    else:
        step()
        torch.set_num_threads(threads_module.best(threads_module.measure(step)))
    step()
    took = [step()]
    while sum(took) < seconds:
        took.append(step())
    print(json.dumps({"threads": torch.get_num_threads(), "images_per_sec": settings.train.batch * settings.train.d_steps * len(took) / sum(took)}))


if __name__ == "__main__":
    main()
