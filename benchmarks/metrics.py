"""What the metrics cost: seconds and peak memory of FID, KID, precision and recall on made-up features; images/s of the networks.

    python benchmarks/metrics.py [--counts 5000 50000] [--metrics fid kid pr] [--networks inception] [--memory-mb 256] [--device cpu]
    [--threads 1] [--record DEVICE] [--note TEXT]

Features are 2048 numbers an image, not negative, of unequal scale, correlated. FID streams them (they are never held), as
`evaluate` does above 10000 images; its seconds are those of the sums, the distance and the bias together. Precision and recall come
in blocks of --memory-mb; their work grows with the square of the count, so that --counts 50000 takes long on a CPU. Each figure
comes from a process of its own: memory is its peak over what torch and the features take (on a GPU: the allocator's peak, features
included). Networks without weights here run on untrained ones, which takes as long.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import torch

from handful.features import available
from handful.features.extractor import names

DIM = 2048


def features(n: int, seed: int, batch: int = 512):
    """Batches of made-up features, [batch,2048]."""
    fixed = torch.Generator().manual_seed(0)
    mix, scale = torch.randn(256, DIM, generator=fixed) / 16, torch.rand(DIM, generator=fixed)
    g = torch.Generator().manual_seed(seed)
    for at in range(0, n, batch):
        rows = min(batch, n - at)
        yield ((torch.randn(rows, 256, generator=g) @ mix + 0.3 * torch.randn(rows, DIM, generator=g)).relu() * scale)


def peak_mb(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def one(metric: str, n: int, device: torch.device, memory_mb: int) -> dict[str, float]:
    """Seconds (CPU-seconds over all threads on a CPU) and MB of one metric between n reals and n fakes."""
    from handful.metrics import FID, KID, Precision
    from handful.metrics._metric import Resources
    from handful.metrics._stats import Moments, Stats

    clock = time.process_time if device.type == "cpu" else time.perf_counter
    resources = Resources(device, memory_mb)
    before = 0.0 if device.type == "cuda" else peak_mb(device)
    if metric == "fid":
        sec, sets = 0.0, []
        for seed in (1, 2):
            halves = Moments(DIM, device), Moments(DIM, device)
            for i, part in enumerate(features(n, seed)):
                start = clock()
                halves[i % 2].add(part)
                sec += clock() - start
            sets.append(Stats(halves=tuple(h.settle() for h in halves)))
    else:
        sets = [Stats(features=torch.empty(n, DIM)) for _ in range(2)]      # filled in place, so that the peak until here is what they take
        for seed, stats in enumerate(sets, 1):
            for at, part in enumerate(features(n, seed)):
                stats.features[512 * at:512 * (at + 1)] = part
        sec, before = 0.0, 0.0 if device.type == "cuda" else peak_mb(device)
    start = clock()
    value = {"fid": FID(), "kid": KID(), "pr": Precision(with_recall=True)}[metric].compute(*sets, resources)["value"]
    if device.type == "cuda":
        torch.cuda.synchronize()
    return {"value": value, "sec": sec + clock() - start, "mb": max(peak_mb(device) - before, 0.0)}


def accuracy(n: int = 3000) -> float:
    """How far KID in fp32 is from KID in fp64."""
    from handful.metrics._metric import Resources
    from handful.metrics.kid import pairs

    x, y = (torch.cat(list(features(n, seed))) for seed in (1, 2))
    return abs(pairs(x, y, Resources())[0] - pairs(x.double(), y.double(), Resources())[0])


def images_per_sec(name: str, device: torch.device, size: int = 128, seconds: float = 8.0) -> float:
    from importlib import import_module

    from handful.features.extractor import CLASSES

    module, cls = CLASSES[name]
    made = getattr(import_module(f"handful.features.{module}"), cls)
    net = made.load(device) if available(name) else made().to(device, memory_format=torch.channels_last)
    x = torch.randint(0, 256, (64 if device.type == "cuda" else net.batch, 3, size, size), dtype=torch.uint8, device=device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    with torch.inference_mode():
        net(x)
        start, done = clock(), 0
        while clock() - start < seconds:
            float(net(x)[0, 0])
            done += len(x)
        return done / (clock() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="*", default=[5000, 50_000])
    parser.add_argument("--metrics", nargs="*", default=["fid", "kid", "pr"], choices=["fid", "kid", "pr"])
    parser.add_argument("--networks", nargs="*", default=names(), choices=names())
    parser.add_argument("--memory-mb", type=int, default=256, help="of the blocks of kid and pr")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", metavar="DEVICE", help="Keep the figures for docs/results.md, under this name of the machine.")
    parser.add_argument("--note", default="", help="kept with the figures")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if args.one:
        print(json.dumps(one(args.one[0], int(args.one[1]), device, args.memory_mb)))
        return
    what = "CPU-s" if device.type == "cpu" else "s"
    rows = []
    for n in args.counts:
        for metric in args.metrics:
            on = ["--device", args.device, "--threads", str(args.threads), "--memory-mb", str(args.memory_mb)]
            line = [sys.executable, __file__, "--one", metric, str(n), *on]
            done = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
            print(f"{metric:4} {n:6} of each: {done['sec']:8.1f} {what} {done['mb']:8.0f} MB   (value {done['value']:.6g})", flush=True)
            command = f"python benchmarks/metrics.py --counts {n} --metrics {metric} --networks {' '.join(on)}"
            note = f"in blocks of {args.memory_mb} MB" if metric != "fid" else "sums of a stream"
            rows += [(f"{metric} of {n} and {n}: {unit}", done[key], unit, command, note) for key, unit in (("sec", what), ("mb", "MB"))]
    for name in args.networks:
        rate, note = images_per_sec(name, device), "" if available(name) else "untrained weights"
        print(f"{name}: {rate:.2f} images/{what} {note}", flush=True)
        rows.append((f"{name} at 128 pixels: images/{what}", rate, f"images/{what}",
                     f"python benchmarks/metrics.py --counts --networks {name} --device {args.device} --threads {args.threads}", note))
    if args.metrics and args.counts and "kid" in args.metrics:
        error = accuracy()
        print(f"kid in fp32 against fp64, 3000 of each: {error:.1e} apart")
        command = "python benchmarks/metrics.py --counts 5000 --metrics kid --networks"
        rows.append(("kid in fp32 against fp64, 3000 of each: difference", error, "", command, ""))
    if args.record:
        from ledger import record

        load = f"load of the machine {os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") and device.type == "cpu" else ""
        for figure, value, unit, command, note in rows:
            record(figure, value, unit, command, device=args.record, group="Metrics", note="; ".join(filter(None, [note, args.note, load])))


if __name__ == "__main__":
    main()
