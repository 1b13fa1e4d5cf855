"""BigGAN on CIFAR: its operators beside their plain forms, and what a step of D and of G costs with either.

    python benchmarks/biggan_ops.py [operators|steps|penalty] [--batch 50] [--width 64] [--threads 1] [--repeats 2] [--record DEVICE]

CPU-seconds of this process over all threads, the least of the repetitions. operators: forward and backward at the shapes of a D step (twice the
batch) and of G. steps: DiffAugment's recipe, 4 steps of D (G without gradients, one joint pass of D over fakes and reals) to one of G, Adam
included, without augmentation; "plain" has torch's operators in the plain order. penalty: a step of D without and with a penalty on its pixel
gradients (DigGAN's, in the first of the four).
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan_ops import least
from handful.arch.biggan import Discriminator, Generator
from handful.losses.hinge import Hinge
from handful.nn.conditional_norm import ConditionalBatchNorm2d
from handful.nn.conv import Conv3x3
from handful.nn.residual import DBlock, GBlock
from handful.ops.conv import conv2d
from handful.ops.memory import keep_freed_memory
from handful.ops.poolconv import poolconv
from handful.ops.upconv import upconv
from handful.rng import Rng
from handful.seam import LossContext
from ledger import record

CPU = torch.device("cpu")


def plainly(net: nn.Module) -> nn.Module:
    """The same network in the plain order: upsample, convolve, pool, each by torch's operator; the shortcuts' convolutions at full size."""
    def up(block: GBlock, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = block.conv1(F.relu(block.norm1(x, condition)))
        return block.conv2(F.relu(block.norm2(h, condition))) + block.shortcut(F.interpolate(x, scale_factor=2))

    def down(block: DBlock, x: Tensor) -> Tensor:
        h = block.conv2(F.relu(block.conv1(F.relu(x) if block.preactivate else x)))
        if not block.preactivate or not block.down:
            x = F.avg_pool2d(x, 2) if block.down else x
            return h + (x if block.shortcut is None else block.shortcut(x))
        return h + F.avg_pool2d(block.shortcut(x), 2)

    for m in net.modules():
        if isinstance(m, Conv3x3):
            m.operator = functools.partial(m.operator, impl="ref")
        if isinstance(m, GBlock | DBlock):
            m.forward = functools.partial(up if isinstance(m, GBlock) else down, m)
    return net


def compared(name: str, plain: Callable[[], Tensor], ours: Callable[[], Tensor], inputs: tuple[Tensor, ...], repeats: int) -> None:
    grad = torch.randn_like(ours())
    a, b = (least(lambda: torch.autograd.grad(f(), inputs, grad), CPU, repeats) for f in (plain, ours))        # noqa: B023
    print(f"| {name} | {a:.3f} | {b:.3f} | {a / b:.2f} |", flush=True)


def operators(batch: int, c: int, repeats: int) -> None:
    print(f"forward and backward of map and weights, {c} channels, CPU-s\n\n| operator | plain | here | ratio |\n|---|---|---|---|")
    leaf = lambda *shape: torch.randn(*shape, requires_grad=True)                                              # noqa: E731
    w, point = leaf(c, c, 3, 3), leaf(c, c, 1, 1)
    for b, side in ((2 * batch, 8), (2 * batch, 16), (batch, 32)):
        x = leaf(b, c, side, side)
        compared(f"3x3, {b} x {side}x{side}", lambda: conv2d(x, w, impl="ref"), lambda: conv2d(x, w), (x, w), repeats)             # noqa: B023
    for side in (16, 32):
        x = leaf(2 * batch, c, side, side)
        compared(f"3x3 and pooling, {2 * batch} x {side}x{side}", lambda: poolconv(x, w, impl="ref"), lambda: poolconv(x, w), (x, w), repeats)   # noqa: B023
    compared("1x1 and pooling: pooled first", lambda: F.avg_pool2d(F.conv2d(x, point), 2), lambda: F.conv2d(F.avg_pool2d(x, 2), point),
             (x, point), repeats)
    for side in (4, 8, 16):
        x = leaf(batch, c, side, side)
        compared(f"upsampling and 3x3, {batch} x {side}x{side}", lambda: upconv(x, w, impl="ref"), lambda: upconv(x, w), (x, w), repeats)        # noqa: B023
    double = lambda y: F.interpolate(y, scale_factor=2)                                                        # noqa: E731
    compared("upsampling and 1x1: convolved first", lambda: F.conv2d(double(x), point), lambda: double(F.conv2d(x, point)), (x, point), repeats)
    x, labels = leaf(batch, c, 32, 32), torch.randint(10, (batch,))
    norm, bare = ConditionalBatchNorm2d(c, classes=10), nn.BatchNorm2d(c, affine=False)
    by_hand = lambda: F.relu(bare(x) * (1 + norm.gain(labels))[:, :, None, None] + norm.shift(labels)[:, :, None, None])           # noqa: E731
    compared("conditional norm and ReLU", by_hand, lambda: F.relu_(norm(x, labels)), (x, *norm.parameters()), repeats)


class Steps:
    def __init__(self, args: argparse.Namespace, plain: bool) -> None:
        torch.manual_seed(0)
        self.G, self.D = (cls(num_classes=10, width=args.width) for cls in (Generator, Discriminator))
        if plain:
            plainly(self.G), plainly(self.D)
        self.optim = {n: torch.optim.Adam(n.parameters(), 2e-4, (0.0, 0.999), fused=True) for n in (self.G, self.D)}
        self.n, self.rng, self.loss = args.batch, Rng(0), Hinge()
        self.real, self.z = torch.rand(self.n, 3, 32, 32) * 2 - 1, torch.randn(self.n, self.G.z_dim)
        self.c = torch.randint(10, (self.n,))

    def d(self, penalty: bool = False) -> None:
        self.D.requires_grad_(True)
        with torch.no_grad():
            fake = self.G(self.z, self.c, rng=self.rng).image
        x = torch.cat([fake, self.real]).requires_grad_(penalty)
        logits = self.D(x, torch.cat([self.c, self.c])).logits
        loss = self.loss.d(logits[self.n:], logits[:self.n], LossContext(self.rng))
        if penalty:
            grad, = torch.autograd.grad(logits.sum(), x, create_graph=True)
            norms = grad.flatten(1).norm(dim=1)
            loss = loss + (norms[self.n:] - norms[:self.n]).square().mean()
        self._move(self.D, loss)

    def g(self) -> None:
        self.D.requires_grad_(False)
        self._move(self.G, self.loss.g(self.D(self.G(self.z, self.c, rng=self.rng).image, self.c).logits, None, LossContext(self.rng)))

    def _move(self, net: nn.Module, loss: Tensor) -> None:
        loss.backward()
        self.optim[net].step()
        self.optim[net].zero_grad()


def steps(args: argparse.Namespace, x: Tensor, w: Tensor) -> dict[str, float]:
    print("CPU-s\n\n| form | D step | G step | per real image | plain 3x3 convolution, GFLOP/CPU-s |\n|---|---|---|---|---|")
    for plain in (True, False):
        s = Steps(args, plain)
        d, g = least(s.d, CPU, args.repeats), least(s.g, CPU, args.repeats)
        each, speed = (4 * d + g) / (4 * args.batch), 2 * 9 * 8 * 128 ** 2 * 64 ** 2 / 1e9 / least(lambda: F.conv2d(x, w, padding=1), CPU, 5)
        print(f"| {'plain' if plain else 'here'} | {d:.2f} | {g:.2f} | {each:.4f} | {speed:.0f} |", flush=True)
    return {"CPU-s per real image": each, "D step, CPU-s": d, "G step, CPU-s": g}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["operators", "steps", "penalty"], default=["operators", "steps", "penalty"])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--record", metavar="DEVICE", help="write the figures of `steps` into the ledger under this device's name")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    if "operators" in args.what:
        operators(args.batch, 4 * args.width, args.repeats)
    if "steps" in args.what:
        found = steps(args, torch.randn(8, 128, 64, 64), torch.randn(128, 128, 3, 3))
        command = " ".join(["python benchmarks/biggan_ops.py", *(a for a in sys.argv[1:] if a not in ("--record", args.record))])
        for figure, value in found.items() if args.record else ():
            record(f"BigGAN, CIFAR, batch {args.batch}, width {args.width}: {figure}", value, "CPU-s", command,
                   device=args.record, seed=0, group="BigGAN")
    if "penalty" in args.what:
        s = Steps(args, False)
        alone, with_it = least(s.d, CPU, args.repeats), least(lambda: s.d(penalty=True), CPU, args.repeats)
        print(f"\nD step {alone:.2f} CPU-s, with a penalty on its pixel gradients {with_it:.2f} ({with_it / alone:.2f} times)")


if __name__ == "__main__":
    main()
