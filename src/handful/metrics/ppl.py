"""Perceptual path length: how much a picture changes, by LPIPS, for a small step of the latent. Protocols: ppl2_wend, ppl_zfull ...

Karras, Laine, Aila, "A Style-Based Generator Architecture for GANs" (CVPR 2019), section 4.1; as in StyleGAN2-ADA's release: pairs
at t and t + epsilon on the way between two random latents, d = LPIPS / epsilon^2, the mean of what lies between the 1st and the
99th percentile. w is interpolated linearly, z on the sphere. Noise is drawn anew for each pair and is the same for both of its
pictures. Pictures are reduced to 256 pixels by the mean of whole blocks; `crop` (the older protocols, made for faces) takes rows
3/8 .. 7/8 and columns 2/8 .. 6/8 before that.

The difference of two pictures so near to each other is rounded in fp32: values below about 1 are mostly that.

Plain `ppl` takes 2000 pairs, in w where the architecture has a mapping network, else in z. Deviations: fp32 with LPIPS v0.1 of
`handful.features` in place of the release's own file of the same network; z-space latents keep the length sqrt(z_dim) of a typical
z, which matters to architectures that don't normalise z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import HandfulError, UsageError
from ..features import LPIPS
from ..infer.model import SeedRng
from ..rng import derive
from ._metric import Job, Metric

PAIRS = 2000                             # of plain `ppl`


@dataclass
class PPL(Metric):
    """space: "w", "z" or "auto"; sampling: "end" (t = 0) or "full" (t ~ U(0, 1)); epsilon: the step; crop: the centre of a face."""

    extractor: str = ""
    space: str = "auto"
    sampling: str = "end"
    epsilon: float = 1e-4
    crop: bool = False
    takes = ("", "")
    alone = True
    weights = ("lpips",)
    least = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("space", ("auto", "w", "z")), ("sampling", ("end", "full"))):
            if getattr(self, name) not in known:
                raise UsageError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(known)}")

    @property
    def pictures(self) -> int:
        return 2 * (self.samples or PAIRS)

    def prepare(self, job: Job, name: str) -> None:
        if job.model is None:
            raise HandfulError(f"{name} needs a model: a folder of pictures has no latents to walk between")
        generator = job.model.generator
        mapped = hasattr(generator, "map") and hasattr(generator, "synthesise")
        if self.space == "w" and not mapped:
            arch = job.model.config.g.name
            raise HandfulError(f"{name} walks in w, but '{arch}' has no mapping network; take ppl, which walks in z then")
        self.in_w = mapped and self.space != "z"
        self.net = LPIPS.load("vgg16", job.device, impl="ref")   # rounding is divided by epsilon^2: no fast approximations

    def run(self, job: Job) -> dict[str, Any]:
        n = self.samples or PAIRS
        found: list[Tensor] = []
        for part in job.world.parts(n, job.batch):
            with torch.no_grad():
                a, b = (self._prepared(x) for x in self._pictures(job, list(part)))
                found.append(self.net(a, b).double().cpu() / self.epsilon**2)
            job.progress(sum(map(len, found)), len(job.world.span(n)))
        empty = torch.zeros(0, dtype=torch.float64)
        d = job.world.gathered(torch.cat([empty, *found]), [len(job.world.span(n, r)) for r in range(job.world.size)])
        where = f"{'w' if self.in_w else 'z'}, {'endpoints' if self.sampling == 'end' else 'whole path'}"
        about = {"extractor": "lpips vgg16", "resize": "whole blocks averaged to 256 pixels", "count_real": 0, "count_fake": n}
        return {"value": trimmed_mean(d), **about, "better": self.better,
                "protocol": f"{n} pairs in {where}, epsilon {self.epsilon:g}{', centre crop' if self.crop else ''}, fp32"}

    def _pictures(self, job: Job, pairs: list[int]) -> tuple[Tensor, Tensor]:
        """Both pictures of each pair, [B,C,H,W] around [-1,1], with the same labels and noise."""
        generator, device = job.model.generator, job.device
        z0, z1 = (job.model.latents([2 * i + side for i in pairs]) for side in (0, 1))
        labels = job.labels(pairs)
        t = torch.zeros(len(pairs), 1, device=device)
        if self.sampling == "full":
            t += torch.tensor([[derive("metrics", "ppl", i) / 2**63] for i in pairs], device=device)
        if not self.in_w:
            steps = [slerp(z0, z1, t + e) * z0.shape[1] ** 0.5 for e in (0, self.epsilon)]
            return tuple(generator.sample(z, labels, rng=SeedRng(pairs, device)) for z in steps)
        w0, w1 = generator.map(z0, labels), generator.map(z1, labels)
        t = t.to(w0.dtype)
        noise = generator.noise(len(pairs), SeedRng(pairs, device))
        ways = [torch.lerp(w0, w1, t + e)[:, None].expand(-1, generator.num_ws, -1) for e in (0, self.epsilon)]
        return tuple(generator.synthesise(ws, noise) for ws in ways)

    def _prepared(self, image: Tensor) -> Tensor:
        image, factor = image.float(), image.shape[2] // 256
        if self.crop:
            c = image.shape[2] // 8
            image = image[:, :, 3 * c:7 * c, 2 * c:6 * c]
        return F.avg_pool2d(image, factor) if factor > 1 else image


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The unit vector at part t of the way on the sphere from a to b, [B,D] each; t [B,1]."""
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    angle = t * (a * b).sum(1, keepdim=True).clamp(-1, 1).acos()
    aside = F.normalize(b - (a * b).sum(1, keepdim=True) * a, dim=1)
    return F.normalize(a * angle.cos() + aside * angle.sin(), dim=1)


def trimmed_mean(d: Tensor) -> float:
    """Of what lies between the 1st percentile, rounded down to a value, and the 99th, rounded up."""
    values = d.numpy()
    low, high = np.percentile(values, 1, method="lower"), np.percentile(values, 99, method="higher")
    return float(values[(values >= low) & (values <= high)].mean())
