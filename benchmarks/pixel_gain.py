"""What FastGAN's reconstruction by pixels must be multiplied by, so that its gradients by D's weights are as large as those by LPIPS.

    python benchmarks/pixel_gain.py PHOTOS --record "2 cores AMD EPYC with AVX512-BF16"

Trains fastgan256 on PHOTOS by either loss, and at the start and after --every steps measures both gradients, of one batch, at the same weights.
What is trained by gets smaller, so the two courses go apart; at the start neither has had its way. Needs the weights of LPIPS (handful weights get
lpips).
"""

from __future__ import annotations

import argparse
import math

import torch

from handful import catalog, config, data
from handful.ops.memory import keep_freed_memory
from handful.seam import Context
from handful.training import choose
from handful.training.trainer import Trainer
from ledger import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--recipe", default="fastgan256")
    parser.add_argument("--by", choices=("lpips", "pixel"), default="lpips", help="what is trained by")
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--record", metavar="DEVICE")
    args = parser.parse_args()
    keep_freed_memory()
    tree = catalog.load("recipes", args.recipe)(resolution=None, count=100, device="cpu", num_classes=0, batch=None)
    settings = config.resolved(config.parse({"recipe": args.recipe, **tree}))
    settings.terms["reconstruction"] = settings.terms["reconstruction"].but(loss="lpips")
    dataset = data.load(args.photos, resolution=settings.data.resolution, fit=settings.data.fit)
    device = torch.device("cpu")
    trainer = Trainer(settings, dataset, device, precision=choose.precision("auto", device))
    term, ratios = trainer.terms["reconstruction"], []
    lpips, term._lpips = term._lpips, term._lpips if args.by == "lpips" else ()
    for i in range(args.times):
        by_lpips, by_pixels = norms(trainer, lpips)
        ratios.append(by_lpips / by_pixels)
        print(f"after {trainer.iteration} steps: by LPIPS {by_lpips:.4g}, by pixels {by_pixels:.4g}, ratio {ratios[-1]:.4g}", flush=True)
        for _ in range(args.every if i + 1 < args.times else 0):
            trainer.step()
    for i, ratio in enumerate(ratios if args.record else ()):
        command = f"python benchmarks/pixel_gain.py PHOTOS --by {args.by} --every {args.every} --times {args.times}"
        record(f"{args.recipe}: gradient norm by LPIPS / by pixels, after {i * args.every} steps by {args.by}", ratio, "", command,
               device=args.record, seed=0, group="Reconstruction by pixels", note=f"{len(dataset)} images of cats")


def norms(trainer: Trainer, by_lpips: tuple) -> tuple[float, float]:
    """Norms of the gradients by D's weights of the reconstruction of one batch, by LPIPS and by pixels."""
    term, nets = trainer.terms["reconstruction"], trainer.nets
    parameters = [p.requires_grad_() for p in nets.D.parameters()]
    slots = range(trainer.batch)
    rng = trainer._rng("pixel gain", batch=trainer.batch, slots=slots)
    index = trainer.sampler.indices(trainer.images_seen, trainer.batch)
    found = []
    for lpips in (by_lpips, ()):
        kept, term._lpips = term._lpips, lpips
        image, _ = trainer.dataset.batch(index, None, trainer.device)
        real = nets.judge(image, rng=rng.fork("augment"), want=frozenset(term.sources.values()))
        loss = term(Context("d", trainer.iteration, 0, trainer.images_seen, trainer.batch, slots, rng.fork("term"), nets, {"real": real})).loss
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append(math.sqrt(sum(float(g.square().sum()) for g in grads if g is not None)))
        term._lpips = kept
    return found[0], found[1]


if __name__ == "__main__":
    main()
