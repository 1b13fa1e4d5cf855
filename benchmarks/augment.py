"""DiffAugment by itself: CPU-milliseconds per image, forward, and forward with backward, both implementations in one run.

    python benchmarks/augment.py [--policy color,translation,cutout] [--seconds 1] [--record DEVICE]

Every figure is the least of the repetitions that fit into --seconds, in CPU time of this process on one thread, so that other work on the machine
counts little. The last line is a plain 3x3 convolution (16 images, 64 maps, 64 x 64), to compare machines by.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from handful.augment import DiffAugment
from ledger import record

SIZES = {32: 64, 128: 8, 256: 8}                                                  # side: images per batch


def cpu_ms(run: Callable[[], object], seconds: float) -> float:
    """The least CPU time of one call, in milliseconds."""
    run()
    best, spent = float("inf"), 0.0
    while spent < seconds:
        start = time.process_time()
        run()
        took = time.process_time() - start
        best, spent = min(best, took), spent + took
    return best * 1e3


def measure(policy: str, seconds: float) -> list[dict]:
    rows = []
    for side, batch in SIZES.items():
        x, grad = torch.randn(batch, 3, side, side, requires_grad=True), torch.randn(batch, 3, side, side)
        for impl in ("ref", "fast"):
            T = DiffAugment(policy, impl=impl)
            with torch.no_grad():
                forward = cpu_ms(lambda: T(x), seconds) / batch                   # noqa: B023
            both = cpu_ms(lambda: torch.autograd.grad(T(x), x, grad), seconds) / batch     # noqa: B023
            rows.append({"side": side, "batch": batch, "impl": impl, "forward_ms": round(forward, 4), "both_ms": round(both, 4)})
    return rows


def convolution(seconds: float) -> dict:
    x, w = torch.randn(16, 64, 64, 64), torch.randn(64, 64, 3, 3)
    ms = cpu_ms(lambda: F.conv2d(x, w, padding=1), seconds)
    return {"convolution_ms": round(ms, 2), "gflops": round(2 * 16 * 64 * 64 * 64 * 64 * 9 / ms / 1e6, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--policy", default="color,translation,cutout")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--record", metavar="DEVICE", help="write the fast figures into the ledger, as measured on DEVICE (in words)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, calibration = measure(args.policy, args.seconds), convolution(args.seconds)
    print(f"{args.policy}, torch {torch.__version__}\n{'px':>4} {'batch':>5} {'impl':>5} {'forward':>9} {'+backward':>10}   CPU-ms per image")
    for r in rows:
        print(f"{r['side']:>4} {r['batch']:>5} {r['impl']:>5} {r['forward_ms']:>9.4f} {r['both_ms']:>10.4f}")
    print(f"plain convolution: {calibration['convolution_ms']} CPU-ms, {calibration['gflops']} GFLOP/s")
    if args.record:
        for r in rows:
            if r["impl"] == "fast":
                for name, key in (("forward", "forward_ms"), ("forward and backward", "both_ms")):
                    record(f"DiffAugment ({args.policy}) at {r['side']}: {name}, CPU-ms per image", r[key], "ms", "python benchmarks/augment.py",
                           device=args.record, group="Augmentation alone",
                           note=f"plain convolution in the same run: {calibration['gflops']} GFLOP/s")


if __name__ == "__main__":
    main()
