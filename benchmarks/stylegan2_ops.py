"""StyleGAN2's convolutions and resampling, plain and as `impl="auto"` picks them, at the shapes of its configurations.

    python benchmarks/stylegan2_ops.py [--only 32 64 128 256] [--threads 1] [--repeats 2] [--device cpu] [--record DEVICE]

For each resolution of a configuration: the 3x3 convolution, up and down by 2, and the filter alone, up (the generator's RGB skip) and down (a
residual discriminator's skip). "forward" keeps no graph; "gradients" are forward and the gradients by map and weight; "second order" is forward, the
gradient by the map, and the gradients of its squared norm by map and weight (R1, path length). CPU-ms per image over all threads (wall ms on a
GPU), the least of the repetitions; GFLOP/s are nominal, 2 per multiply-add of the plain convolutions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan_ops import least
from handful.ops.conv import conv2d, conv2d_down, conv2d_up
from handful.ops.memory import keep_freed_memory
from handful.ops.upfirdn import downsample2d, upsample2d
from ledger import record

CONFIGS = {32: (32, 1.0), 64: (8, 0.5), 128: (8, 0.5), 256: (4, 0.5)}           # resolution -> batch, fmaps
ORDERS = ("forward", "gradients", "second order")


def layers(resolution: int, fmaps: float) -> list[tuple[str, Callable, int, int, int, int]]:
    """Name, operator, channels in and out, side of the input, and side of the maps on which nominal products are counted (0: none)."""
    channels = lambda side: min(int(32768 * fmaps / side), 512)
    rows, side = [("3x3", conv2d, channels(4), channels(4), 4, 4)], 8
    while side <= resolution:
        c, wide = channels(side), channels(side // 2)
        rows += [("3x3", conv2d, c, c, side, side), ("up", conv2d_up, wide, c, side // 2, side // 2), ("down", conv2d_down, c, wide, side, side // 2),
                 ("filter up", upsample2d, 3, 0, side // 2, 0), ("filter down", downsample2d, c, 0, side, 0)]
        side *= 2
    return rows


def work(f: Callable[..., Tensor], inputs: list[Tensor], order: str, impl: str) -> Callable[[], object]:
    def forward() -> None:
        with torch.no_grad():
            f(*inputs, impl=impl)

    def gradients() -> None:
        y = f(*inputs, impl=impl)
        torch.autograd.grad(y, inputs, y.detach())

    def second() -> None:
        y = f(*inputs, impl=impl)
        g, = torch.autograd.grad(y.square().sum(), inputs[0], create_graph=True)
        torch.autograd.grad(g.square().sum(), inputs)

    return {"forward": forward, "gradients": gradients, "second order": second}[order]


def table(resolution: int, args: argparse.Namespace, device: torch.device) -> dict[str, tuple[float, float]]:
    """Prints the layers of one configuration; returns the sums (seconds per image, ref and auto) over all 3x3 convolutions of G and D.

    A block of either has one without resampling and one with: up in G, down in D.
    """
    batch, fmaps = CONFIGS[resolution]
    print(f"\n{resolution} pixels, batch {batch}, fmaps {fmaps}: ms per image, ref -> auto (times faster)\n")
    print(f"| layer | {' | '.join(ORDERS)} | GFLOP/s, gradients |\n|---|---|---|---|---|")
    sums = {order: [0.0, 0.0] for order in ORDERS}
    for name, f, cin, cout, side, counted in layers(resolution, fmaps):
        torch.manual_seed(0)
        inputs = [torch.randn(batch, cin, side, side, device=device).requires_grad_()]
        if counted:
            inputs.append((torch.randn(cout, cin, 3, 3, device=device) / (9 * cin) ** 0.5).requires_grad_())
        cells = []
        for order in ORDERS:
            took = [least(work(f, inputs, order, impl), device, args.repeats) / batch for impl in ("ref", "auto")]
            cells.append(f"{took[0] * 1e3:.2f} -> {took[1] * 1e3:.2f} ({took[0] / took[1]:.2f})")
            if counted:
                times = 2 if f is conv2d else 1
                sums[order] = [a + times * b for a, b in zip(sums[order], took, strict=True)]
            if order == "gradients":
                gflop = 3 * 2 * 9 * cin * cout * counted ** 2 / 1e9
                rate = " -> ".join(f"{gflop / t:.0f}" for t in took) if counted else ""
        shape = f"{cin} to {cout}, from {side}" if counted else f"{cin} maps, from {side}"
        print(f"| {name}, {shape} | {' | '.join(cells)} | {rate} |", flush=True)
    return {order: (ref, auto) for order, (ref, auto) in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--record", metavar="DEVICE", help="write the sums into the ledger, as measured on DEVICE (in words)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    device = torch.device(args.device)
    x, w = torch.randn(8, 128, 64, 64, device=device), torch.randn(128, 128, 3, 3, device=device)
    rate = 2 * 9 * 8 * 128 * 128 * 64 ** 2 / 1e9 / least(lambda: F.conv2d(x, w, padding=1), device, 5)
    print(f"torch {torch.__version__}, {args.threads} threads; a plain 3x3 convolution (128 maps, 64 x 64): {rate:.0f} GFLOP/s")
    unit = "ms" if device.type == "cuda" else "CPU-ms"
    for resolution in args.only:
        for order, (ref, auto) in table(resolution, args, device).items():
            print(f"\nthe 3x3 convolutions of G and D, {order}: {ref * 1e3:.0f} -> {auto * 1e3:.0f} {unit} per image ({ref / auto:.2f})")
            if args.record:
                given = [a for a in sys.argv[1:] if a not in ("--record", args.record)]
                record(f"{resolution} px, the 3x3 convolutions of G and D, {order}: {unit} per image", auto * 1e3, "ms",
                       " ".join(["python benchmarks/stylegan2_ops.py", *given]), device=args.record, seed=0, group="StyleGAN2's operators",
                       note=f"plain operators {ref * 1e3:.4g} ms; plain 3x3 convolution {rate:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
