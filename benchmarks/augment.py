"""DiffAugment and ADA by themselves: CPU-milliseconds per image, forward, and forward with backward.

    python benchmarks/augment.py [--policy color,translation,cutout] [--seconds 1] [--ref] [--record DEVICE]

Every figure is the mean over 8 fixed draws, each the least of the repetitions that fit into its part of --seconds, in CPU time of this process on
one thread, so that other work on the machine counts little. --ref adds ADA's reference, which does what the release does (minutes). The last line
is a plain 3x3 convolution (16 images, 64 maps, 64 x 64), to compare machines by.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from handful.augment import ADA, DiffAugment
from handful.rng import Rng
from handful.seam import Augment
from ledger import record

SIZES = {32: 64, 128: 8, 256: 8}                                                  # side: images per batch
DRAWS = 8


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


def cost(T: Augment, side: int, batch: int, seconds: float) -> dict:
    """CPU-ms per image, the mean over DRAWS fixed draws (ADA's work depends on them on a CPU), each the least of its repetitions."""
    x, grad = torch.randn(batch, 3, side, side, requires_grad=True), torch.randn(batch, 3, side, side)
    forward = both = 0.0
    for seed in range(DRAWS):
        with torch.no_grad():
            forward += cpu_ms(lambda: T.draw(x, Rng(seed)), seconds / DRAWS)      # noqa: B023
        both += cpu_ms(lambda: torch.autograd.grad(T.draw(x, Rng(seed)).image, x, grad), seconds / DRAWS)      # noqa: B023
    return {"side": side, "batch": batch, "forward_ms": round(forward / DRAWS / batch, 4), "both_ms": round(both / DRAWS / batch, 4)}


def measure(policy: str, seconds: float, ref: bool) -> Iterator[dict]:
    """Rows of the table: DiffAugment in both implementations, ADA at several strengths."""
    made = {f"DiffAugment ({policy})": (DiffAugment(policy, impl="ref"), DiffAugment(policy))}
    for name, p in (("bgc", 0.1), ("bgc", 0.5), ("bgc", 1.0), ("bgcfnc", 0.5)):
        made[f"ADA ({name}, p = {p:g})"] = (*((ADA(name, p, impl="ref"),) if ref and p == 0.5 else ()), ADA(name, p))
    for name, Ts in made.items():
        for side, batch in SIZES.items():
            yield from ({"name": name, "impl": T.impl, **cost(T, side, batch, seconds)} for T in Ts)


def convolution(seconds: float) -> dict:
    x, w = torch.randn(16, 64, 64, 64), torch.randn(64, 64, 3, 3)
    ms = cpu_ms(lambda: F.conv2d(x, w, padding=1), seconds)
    return {"convolution_ms": round(ms, 2), "gflops": round(2 * 16 * 64 * 64 * 64 * 64 * 9 / ms / 1e6, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--policy", default="color,translation,cutout")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--ref", action="store_true", help="ADA's reference implementation too")
    parser.add_argument("--record", metavar="DEVICE", help="write the fast figures into the ledger, as measured on DEVICE (in words)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, CPU-ms per image\n{'':<46} {'px':>4} {'batch':>5} {'impl':>5} {'forward':>9} {'+backward':>10}")
    rows = []
    for r in measure(args.policy, args.seconds, args.ref):
        rows.append(r)
        print(f"{r['name']:<46} {r['side']:>4} {r['batch']:>5} {r['impl']:>5} {r['forward_ms']:>9.4f} {r['both_ms']:>10.4f}", flush=True)
    calibration = convolution(args.seconds)
    print(f"plain convolution: {calibration['convolution_ms']} CPU-ms, {calibration['gflops']} GFLOP/s")
    if args.record:
        for r in rows:
            if r["impl"] == "fast":
                for name, key in (("forward", "forward_ms"), ("forward and backward", "both_ms")):
                    record(f"{r['name']} at {r['side']}: {name}, CPU-ms per image", r[key], "ms", "python benchmarks/augment.py",
                           device=args.record, group="Augmentation alone",
                           note=f"plain convolution in the same run: {calibration['gflops']} GFLOP/s")


if __name__ == "__main__":
    main()
