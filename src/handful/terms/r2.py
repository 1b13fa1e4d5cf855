"""R2: R1 on the fakes; keeps D flat around what G makes now.

Mescheder, Geiger, Nowozin: Which Training Methods for GANs do actually Converge?, ICML 2018, equation 10. Adds to L_D
(gamma / 2) E ||dD(T(x))/dx||^2, x = G(z) held fixed, the norm over all of C, H and W (a further scale of the fake counts as part of it).

Defaults: gamma 10 as R1's; every step; by x, through the augmentation T, as R1 here. R3GAN (Huang et al., NeurIPS 2024) uses both with one gamma.
No deviations; D(x) is one number, the mean where D gives several logits.
"""

from __future__ import annotations

from handful.seam import At, Context, Needs, Result, Side, Term, View
from handful.terms._points import TWICE


class R2(Term):
    """gamma: weight. every, own_step: lazy regularisation (the trainer multiplies by `every`). at: "x" before augmentation, "x_in" after.

    Stats per fake: penalty (gamma / 2 ||.||^2) and grad_norm (||.||), fp32.
    """

    conflicts = (TWICE,)

    def __init__(self, gamma: float = 10.0, every: int = 1, own_step: bool = False, at: At = "x") -> None:
        super().__init__()
        self.gamma, self.every, self.own_step, self.at = gamma, every, own_step, at

    def needs(self, side: Side) -> Needs | None:
        return Needs(fake=View(pixel_grad=True)) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        norm_sq = ctx.fake.grad_norm_sq(self.at)                                  # [B]
        penalty = self.gamma / 2 * norm_sq
        return Result(penalty.mean(), {"penalty": penalty.detach(), "grad_norm": norm_sq.detach().sqrt()})
