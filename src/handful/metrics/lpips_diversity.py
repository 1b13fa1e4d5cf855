"""LPIPS diversity: the mean perceptual distance of two fakes; and that of a fake to its nearest real. Low: all alike; or copied.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), with VGG16; as a measure of
variety since Zhu et al., "Toward Multimodal Image-to-Image Translation" (NIPS 2017). The value is the mean over 500 disjoint pairs
of fakes. Beside it: `reals`, the same of the reals, to compare with, and `nearest_real`, the mean over 64 fakes (FastGAN's check)
of the smallest distance to a real.

LPIPS depends on the size of the pictures: they are taken at their own up to 128 pixels, larger ones reduced to that (bilinear,
antialiased, made square), and at up to 64 pixels for the nearest real. `handful neighbours` looks into copying in earnest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..features import LPIPS
from ._blocks import exact_products
from ._metric import Job, Metric
from ._pictures import Pictures

SMALLEST = 32                            # pixels; LPIPS is made for more, and impossible below 16


@dataclass
class LPIPSDiversity(Metric):
    """pairs: of fakes, and of reals; nearest: fakes whose nearest real is sought, among at most max_reals; size: pixels, none: see
    above."""

    extractor: str = ""
    max_reals: int | None = 1000
    pairs: int = 500
    nearest: int = 64
    size: int | None = None
    takes = ("features", "features")
    better = "higher"
    alone = True
    weights = ("lpips",)

    @property
    def pictures(self) -> int:
        return 2 * self.pairs

    def prepare(self, job: Job, name: str) -> None:
        self.enough(*self._counts(job), name)
        self.net = LPIPS.load("vgg16", job.device)

    def _counts(self, job: Job) -> tuple[int, int]:
        fakes = 2 * self.pairs if job.fakes.count is None else min(job.fakes.count, 2 * self.pairs)
        return min(job.reals.count, self.max_reals or job.reals.count), fakes

    def run(self, job: Job) -> dict[str, Any]:
        net, (reals, fakes) = self.net, self._counts(job)
        pairs, real_pairs, nearest = fakes // 2, min(reals // 2, self.pairs), min(self.nearest, fakes)
        _, first = next(iter(job.reals.batches([0], 1)))
        size = self.size or min(128, max(SMALLEST, *first.shape[2:]))
        near_size = min(64, size)
        done = [0, sum(len(job.world.span(n)) for n in (pairs, real_pairs, reals))]

        def tick(n: int) -> None:
            done[0] += n
            job.progress(*done)

        with torch.no_grad(), exact_products():
            within, among = (_pairwise(net, job, s, n, size, tick) for s, n in ((job.fakes, pairs), (job.reals, real_pairs)))
            some = (range(at, min(at + job.batch, nearest)) for at in range(0, nearest, job.batch))
            targets = torch.cat([embedding(net, _sized(job, job.fakes, part, near_size)) for part in some])
            least = targets.new_full((len(targets),), float("inf"))
            for part in job.world.parts(reals, job.batch):
                x = _sized(job, job.reals, part, near_size)
                least = torch.minimum(least, distances(targets, embedding(net, x)).min(1).values)
                tick(len(x))
        least = job.world.gathered(least[None], [1] * job.world.size).min(0).values
        words = f"{pairs} pairs of samples, {real_pairs} of reals at {size} pixels; {nearest} samples against {reals} reals at {near_size}"
        words += f"; {job.fakes.manner}" if job.fakes.manner else ""
        about = {"protocol": words, "better": self.better, "extractor": "lpips vgg16", "count_real": reals, "count_fake": fakes,
                 "resize": f"bilinear, antialiased, to {size} pixels"}
        return {"value": float(within.mean()), "stderr": float(within.std(correction=int(pairs > 1)) / pairs**0.5),
                "reals": float(among.mean()), "nearest_real": float(least.mean()), **about}


def _sized(job: Job, pictures: Pictures, at: range, size: int) -> Tensor:
    """The pictures at these places, in order: [B,C,size,size] in [-1,1]."""
    found = {}
    for places, images in pictures.batches(at, len(at)):
        x = images.to(job.device, torch.float32) / 127.5 - 1
        if x.shape[2:] != (size, size):
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
        found |= dict(zip(places.tolist(), x))
    return torch.stack([found[place] for place in sorted(found)])


def _pairwise(net: LPIPS, job: Job, pictures: Pictures, pairs: int, size: int, tick: Callable[[int], None]) -> Tensor:
    """The distance of pictures 2i and 2i + 1, [pairs]."""
    found = [torch.zeros(0)]
    for part in job.world.parts(pairs, max(1, job.batch // 2)):
        x = _sized(job, pictures, range(2 * part.start, 2 * part.stop), size)
        found.append(net(x[::2], x[1::2]).cpu())
        tick(len(part))
    return job.world.gathered(torch.cat(found), [len(job.world.span(pairs, r)) for r in range(job.world.size)])


def embedding(net: LPIPS, x: Tensor) -> Tensor:
    """Vectors [B,D] whose squared distance is the LPIPS of the pictures x [B,C,H,W]: unit features by the roots of their
    weights."""
    parts = [(unit * (head / unit.shape[1]).sqrt()).flatten(1) for unit, head in zip(net.targets(x), net.heads)]     # unit [B,HW,C]
    return torch.cat(parts, 1)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of rows, [N,M]."""
    return torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1)[None], a, b.T, alpha=-2).clamp_(min=0)
