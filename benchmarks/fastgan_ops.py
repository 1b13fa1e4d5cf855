"""Where FastGAN's time goes: its operators in both forms at the shapes of its table, and the phases of one iteration.

    python benchmarks/fastgan_ops.py operators [--batch 8] [--device cpu]
    python benchmarks/fastgan_ops.py phases [--resolution 256] [--width 64] [--batch 8] [--reconstruction lpips|pixel|none] [--norm spectral|none]
        [--keep-memory | --no-keep-memory] [--threads 1] [--json FILE]

CPU-seconds of this process over all threads (wall seconds on a GPU), the least of the repetitions; phases are per image and come beside
nominal GFLOP (2 per multiply-add of the plain, unfolded convolutions) and a plain 3x3 convolution as calibration.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.arch.fastgan import Discriminator, Generator
from handful.losses.soft_hinge import SoftHinge
from handful.ops.memory import keep_freed_memory
from handful.ops.upconv import folded, upconv
from handful.rng import Rng
from handful.seam import Context, LossContext, Pass
from handful.terms.reconstruction import Reconstruction

UPCONVS = [(1024, 1024, 4), (512, 512, 8), (256, 256, 16), (128, 256, 32), (128, 128, 64), (64, 64, 128), (32, 32, 256),     # generator
           (512, 256, 8), (128, 128, 16), (64, 128, 32), (64, 64, 64),                                                        # decoders
           (128, 64, 8), (16, 16, 32)]                                                                                        # narrow ones


def now(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def least(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    work()
    best = float("inf")
    for _ in range(repeats):
        start = now(device)
        work()
        best = min(best, now(device) - start)
    return best


def four_phases(x: Tensor, w: Tensor) -> Tensor:
    """The other folded form: a 2x2 convolution for each of the four output phases, then a pixel shuffle."""
    o, i, h, v = w.shape[0], w.shape[1], *x.shape[2:]
    k = folded(w).transpose(0, 1).flip(2, 3).reshape(o, i, 2, 2, 2, 2)                       # rows and columns as (tap, phase)
    padded = F.pad(x, (1, 1, 1, 1))
    phases = [F.conv2d(padded[:, :, a:a + h + 1, b:b + v + 1], k[:, :, :, a, :, b].contiguous()) for a in (0, 1) for b in (0, 1)]
    return F.pixel_shuffle(torch.stack(phases, 2).flatten(1, 2), 2)


def operators(batch: int, device: torch.device) -> None:
    print("seconds per batch, forward and backward of the map and the weights\n")
    print("| upsampled 3x3 | nominal GFLOP | plain 3x3 at the output size | ref | folded | four phases | auto |\n|---|---|---|---|---|---|---|")
    for cin, cout, side in UPCONVS:
        x = torch.randn(batch, cin, side, side, device=device, requires_grad=True)
        w = torch.randn(cout, cin, 3, 3, device=device, requires_grad=True)
        big = torch.randn(batch, cin, 2 * side, 2 * side, device=device, requires_grad=True)
        grad = torch.randn(batch, cout, 2 * side, 2 * side, device=device)
        forms = [lambda: F.conv2d(big, w, padding=1), *(lambda impl=impl: upconv(x, w, impl=impl) for impl in ("ref", "fast")),   # noqa: B023
                 lambda: four_phases(x, w), lambda: upconv(x, w)]                                                                # noqa: B023
        took = [least(lambda: torch.autograd.grad(f(), (big if i == 0 else x, w), grad), device) for i, f in enumerate(forms)]   # noqa: B023
        gflop = 3 * 2 * 9 * batch * cin * cout * (2 * side) ** 2 / 1e9
        print(f"| {cin} -> {cout}, {side} -> {2 * side} | {gflop:.1f} | {' | '.join(f'{t:.4f}' for t in took)} |", flush=True)

    print("\n| elementwise, 64 x 256 x 256 | forward | forward and backward |\n|---|---|---|")
    x, n = torch.randn(batch, 64, 256, 256, device=device, requires_grad=True), torch.randn(batch, 1, 256, 256, device=device)
    strength = torch.zeros(1, device=device, requires_grad=True)
    norm = torch.nn.BatchNorm2d(64).to(device)
    split = lambda: x[:, :32] * x[:, 32:].sigmoid()
    chain = lambda: F.glu(norm(x + strength * n), 1)
    for name, f in {"GLU, F.glu": lambda: F.glu(x, 1), "GLU, split": split, "noise": lambda: x + strength * n, "batch norm": lambda: norm(x),
                    "noise, batch norm, GLU": chain, "average pooling to 4x4": lambda: F.avg_pool2d(x, 64)}.items():
        grad = torch.randn_like(f())
        with torch.no_grad():
            forward = least(f, device)
        print(f"| {name} | {forward:.4f} | {least(lambda: torch.autograd.grad(f(), x, grad), device):.4f} |", flush=True)      # noqa: B023


def phases(args: argparse.Namespace, device: torch.device) -> dict:
    """One iteration as the trainer runs it with shared fakes: D's step on reals and fakes, then G's through the updated D."""
    torch.manual_seed(0)
    batch, size = args.batch, args.resolution
    G, D = (cls(size, norm=args.norm, **{key: args.width}).to(device) for cls, key in ((Generator, "ngf"), (Discriminator, "ndf")))
    term = None
    if args.reconstruction != "none":
        term = Reconstruction(loss=args.reconstruction)
        term.setup(argparse.Namespace(D=D))
        term.to(device)
    want = term.needs("d").real.features if term else frozenset()
    loss, real = SoftHinge(), torch.rand(batch, 3, size, size, device=device) * 2 - 1
    fused = dict(lr=2e-4, betas=(0.5, 0.999), fused=True)
    optim_g, optim_d = torch.optim.Adam(G.parameters(), **fused), torch.optim.Adam([*D.parameters(), *(term.parameters() if term else ())], **fused)
    took: dict[str, list[float]] = {}

    def iteration(step: int) -> None:
        at = now(device)

        def mark(name: str) -> None:
            nonlocal at
            end = now(device)
            took.setdefault(name, []).append((end - at) / batch)
            at = now(device)

        rng = Rng(step, device)
        out = G(rng.randn(batch, G.z_dim), rng=rng)
        mark("G forward")
        D.requires_grad_(True)
        judged = D(real, want=want)
        mark("D forward, reals")
        total = 0
        if term:
            total = term(Context("d", step, 0, 0, batch, range(batch), rng, None, {"real": Pass(real, real, judged, term.needs("d").real)})).loss
            mark("decoders and distance forward")
        fakes = D(out.image.detach(), extra={k: v.detach() for k, v in out.extra.items()}).logits
        mark("D forward, fakes")
        (total + loss.d(judged.logits, fakes, LossContext(rng))).backward()
        mark("D backward (decoders, distance)")
        optim_d.step()
        optim_d.zero_grad()
        if term:
            term.commit("d", {}, {}, None, 0)
        mark("D optimiser")
        D.requires_grad_(False)
        judged = D(out.image, extra=out.extra)
        mark("D forward, for G")
        pixels = [out.image, *out.extra.values()]
        grads = torch.autograd.grad(loss.g(judged.logits, None, LossContext(rng)), pixels)
        mark("D backward, for G")
        torch.autograd.backward(pixels, grads)
        mark("G backward")
        optim_g.step()
        optim_g.zero_grad()
        mark("G optimiser")

    for step in range(2):
        iteration(step)
    took.clear()
    for step in range(args.repeats):
        iteration(2 + step)
    best = {name: min(times) for name, times in took.items()}
    whole = sum(best.values())
    x, w = torch.randn(batch, 128, 64, 64, device=device), torch.randn(128, 128, 3, 3, device=device)
    calibration = 2 * 9 * batch * 128 * 128 * 64 ** 2 / 1e9 / least(lambda: F.conv2d(x, w, padding=1), device, 5)
    print("| phase | seconds per image | share |\n|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {seconds:.4f} | {seconds / whole:.0%} |")
    peak = torch.cuda.max_memory_allocated() / 2 ** 30 if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    print(f"| whole iteration | {whole:.4f} | 100% |\n\nplain 3x3 convolution (128 maps, 64 x 64): {calibration:.1f} GFLOP/s, memory {peak:.2f} GB")
    return {"phases": best, "whole": whole, "calibration_gflops": calibration, "peak_gb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["operators", "phases"])
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--width", type=float, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--reconstruction", choices=["lpips", "pixel", "none"], default="pixel")
    parser.add_argument("--norm", choices=["spectral", "none"], default="spectral")
    parser.add_argument("--keep-memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.keep_memory:
        keep_freed_memory()
    device = torch.device(args.device)
    if args.what == "operators":
        operators(args.batch, device)
        return
    found = phases(args, device)
    if args.json:
        args.json.write_text(json.dumps(found | {k: str(v) for k, v in vars(args).items()}, indent=1))


if __name__ == "__main__":
    main()
