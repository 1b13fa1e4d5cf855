"""What an LPIPS reconstruction term costs: CPU-seconds (or GPU seconds) per picture pair, beside a plain 3x3 convolution in the same run.

    python benchmarks/lpips.py [--size 128] [--batch 1 8] [--net vgg16] [--device cpu] [--threads 1] [--json FILE]

The weights are made up: speed does not depend on them. "direct GFLOP" counts the products of the plain convolutions (2 per
multiply-add) once per forward and once more for the gradient of the first picture, whatever algorithm runs.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
import torch.nn.functional as F

from handful.features import LPIPS


def seconds(work, device: torch.device, repeats: int) -> float:
    """The fastest of some runs: CPU-seconds over all threads, wall seconds on a GPU."""
    work()
    best = float("inf")
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return best


def gflop(net: LPIPS, size: int) -> float:
    """Of one picture's way through the trunk."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += 2 * module.weight[0].numel() * output[0].numel()

    hooks = [conv.register_forward_hook(count) for conv in net.convs]
    net.targets(torch.zeros(1, 3, size, size, device=net.shift.device))
    for hook in hooks:
        hook.remove()
    return total / 1e9


def cost(net: LPIPS, batch: int, size: int, repeats: int) -> list[float]:
    """Seconds a picture: targets, forward, forward and backward."""
    device = net.shift.device
    a, b = (torch.rand(batch, 3, size, size, device=device) * 2 - 1 for _ in range(2))
    given, ready = a.clone().requires_grad_(), net.targets(b)
    runs = (
        lambda: net.targets(b),
        lambda: net.forward_targets(a, ready),
        lambda: torch.autograd.grad(net.forward_targets(given, ready).sum(), given),
    )
    return [seconds(run, device, repeats) / batch for run in runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--net", default="vgg16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)

    x, w = torch.randn(8, 128, 64, 64, device=device), torch.randn(128, 128, 3, 3, device=device)
    with torch.inference_mode():
        plain = 2 * 9 * 128 * x.numel() / 1e9 / seconds(lambda: F.conv2d(x, w, padding=1), device, args.repeats)
    print(f"plain 3x3 convolution (8x128x64x64): {plain:.0f} GFLOP/s\n")
    print("impl  batch   targets   forward   forward+backward   pair   (ms a picture)   direct GFLOP/s   of plain")
    records = []
    for impl in ("ref", "fast"):
        net = LPIPS(args.net, impl).to(device)
        work = gflop(net, args.size)
        for batch in args.batch:
            times = cost(net, batch, args.size, args.repeats)
            pair = times[0] + times[2]
            rate = 3 * work / pair
            row = dict(zip(("targets_sec", "forward_sec", "forward_backward_sec"), times))
            records.append({"impl": impl, "batch": batch, **row, "pair_sec": pair, "direct_gflop_per_sec": rate, "of_plain": rate / plain})
            t, f, fb = (1e3 * sec for sec in times)
            print(f"{impl:4}  {batch:5}   {t:7.1f}   {f:7.1f}   {fb:16.1f}   {1e3 * pair:4.0f}   {rate:31.0f}   {rate / plain:8.2f}")
    if args.json:
        about = {"size": args.size, "net": args.net, "device": str(device), "threads": args.threads, "torch": torch.__version__}
        with open(args.json, "w") as file:
            json.dump({**about, "gflop_per_picture": work, "plain_gflop_per_sec": plain, "rows": records}, file, indent=1)


if __name__ == "__main__":
    main()
