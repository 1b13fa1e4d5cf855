"""zCR, latent consistency regularisation: pictures of nearby latents shall differ, while D judges them alike; for variety of what G makes.

Zhao, Singh, Lee, Zhang, Odena, Zhang: Improved Consistency Regularization for GANs, AAAI 2021, algorithm 2, as Karras et al. compare with it
(Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, appendix D.2). With z' = z + std n, n ~ N(0, 1):

    L_D += weight_d E (D(T(G(z))) - D(G(z')))^2        L_G -= weight_g E mean_pixels (G(z) - G(z'))^2

in every step, T the run's augmentation; the second picture isn't augmented. D's part differentiates D in both places, G's part G in both. Defaults
are those of appendix D.2: std 0.1, weights 0.2 and 0.02. There it is trained in fp32, and lazily regularised by nothing.

Which noise and style mixing G(z') gets is said nowhere (the method's own paper has a G without either). Default noise="same": those of G(z), so that
only z sets the pictures apart. With noise="fresh" ones G could earn its part by louder noise, and D would be asked to overlook another person's
style wherever the styles are mixed.

The mean is over channels and pixels of the image (in [-1,1]); a smaller one (FastGAN's) goes into D beside it and isn't counted in G's part. G(z')
takes a run of G and D apart from the others, with batch statistics, where they have them, of its own.
"""

from __future__ import annotations

from typing import Literal

import torch

from handful.errors import within
from handful.nn.precision import half_type
from handful.seam import Context, Generated, Needs, Nets, Result, Side, Term, View
from handful.terms._views import squared_gap


class ZCR(Term):
    """weight_d, weight_g: one of 0 leaves out its work. std: of what is added to z, above 0; noise: "same" or "fresh", above.

    Stats per fake: penalty in D's step, distance (the mean square between both pictures, without weight) in G's. Raises UsageError for numbers out
    of range.
    """

    def __init__(self, weight_d: float = 0.2, weight_g: float = 0.02, std: float = 0.1, noise: Literal["same", "fresh"] = "same") -> None:
        super().__init__()
        within(0, weight_d=weight_d, weight_g=weight_g)
        within(1e-9, std=std)
        self.weights: dict[Side, float] = {"d": weight_d, "g": weight_g}
        self.std, self.noise = std, noise
        self.notes: list[str] = []

    def setup(self, nets: Nets) -> None:
        with nets.autocast():
            if half_type(next(nets.G.parameters())):
                self.notes.append("zcr: the paper had to train it in full precision, for its uneven gradients; see --precision fp32")

    def needs(self, side: Side) -> Needs | None:
        return Needs(fake=View(logits=True)) if self.weights[side] else None

    def forward(self, ctx: Context) -> Result:
        if ctx.side == "g":
            distance = (ctx.fake.x - self._other(ctx).image).square().flatten(1).mean(1)                              # [B]
            return Result(-self.weights["g"] * distance.mean(), {"distance": distance.detach()})
        with torch.no_grad():
            other = self._other(ctx)
        judged = ctx.nets.judge(other.image, other.c, rng=ctx.rng.fork("judge"), augment=False, extra=other.extra)
        penalty = self.weights["d"] * squared_gap(ctx.fake.logits, judged.logits)                                     # [B]
        return Result(penalty.mean(), {"penalty": penalty.detach()})

    def _other(self, ctx: Context) -> Generated:
        """G(z'), of the same classes."""
        made = ctx.fake.generated
        z = made.z.detach() + self.std * ctx.rng.fork("z").randn(*made.z.shape)
        return ctx.nets.generate(z, made.c, rng=made.rng.again() if self.noise == "same" else ctx.rng.fork("noise"))
