"""R1: keeps D flat around the reals, so that it stops pushing fakes that have arrived.

Mescheder, Geiger, Nowozin: Which Training Methods for GANs do actually Converge?, ICML 2018, equation 9. Adds to L_D
(gamma / 2) E ||dD(T(x))/dx||^2, the norm over all of C, H and W, the expectation over reals.

Defaults: gamma 10 (the paper; DiffAugment's few-shot runs); every step; by x, through the augmentation T, as in DiffAugment's few-shot runs
("better diversity") and StyleGAN2-ADA. `at="x_in"` takes the gradient by T(x), as DiffAugment's StyleGAN2-CIFAR does (gamma 0.1). StyleGAN2's
lazy form is `every=16, own_step=True`. No deviations; in the paper and here D(x) is one number, the mean where D gives several logits.
"""

from __future__ import annotations

from handful.seam import At, Context, Needs, Result, Side, Term, View
from handful.terms._points import TWICE


class R1(Term):
    """gamma: weight. every, own_step: lazy regularisation (the trainer multiplies by `every`). at: "x" before augmentation, "x_in" after.

    Stats per real: penalty (gamma / 2 ||.||^2) and grad_norm (||.||), fp32.
    """

    conflicts = (TWICE,)

    def __init__(self, gamma: float = 10.0, every: int = 1, own_step: bool = False, at: At = "x") -> None:
        super().__init__()
        self.gamma, self.every, self.own_step, self.at = gamma, every, own_step, at

    def needs(self, side: Side) -> Needs | None:
        return Needs(real=View(pixel_grad=True)) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        norm_sq = ctx.real.grad_norm_sq(self.at)                                  # [B]
        penalty = self.gamma / 2 * norm_sq
        return Result(penalty.mean(), {"penalty": penalty.detach(), "grad_norm": norm_sq.detach().sqrt()})
