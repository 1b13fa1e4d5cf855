"""D's features of a mixture of two images shall be the mixture of their features.

After Liu et al.: AdaptiveMix: Improving GAN Training via Feature Space Shrinkage, CVPR 2023, in its plain form: with a ~ U(0, 1) for each pair of
reals x1, x2, it adds to L_D  weight E |f(a x1 + (1 - a) x2) - (a f(x1) + (1 - a) f(x2))|^2. The method's own weights and its noise on features are
left out.
"""

from __future__ import annotations

from handful.seam import Context, Needs, Result, Side, Term, View


class Mixing(Term):
    """weight: of the term; feature: of D (`feature_info`). A real is mixed with its neighbour in the micro-batch."""

    exact_under_accumulation = False                        # the neighbour is one of the micro-batch

    def __init__(self, weight: float = 1.0, feature: str = "pre_logits") -> None:
        super().__init__()
        self.weight, self.feature = weight, feature

    def needs(self, side: Side) -> Needs | None:
        return Needs(real=View(features=frozenset({self.feature}))) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        x, f = ctx.real.x_in, ctx.real.features[self.feature].float()
        a = ctx.rng.rand(len(x))
        of_x, of_f = a.view(-1, 1, 1, 1), a.view(-1, *[1] * (f.ndim - 1))
        mixed = of_x * x + (1 - of_x) * x.roll(1, 0)
        seen = ctx.nets.judge(mixed.detach(), ctx.real.c, rng=ctx.rng.fork("judge"), want=frozenset({self.feature}), augment=False, logits=False)
        gap = seen.features[self.feature].float() - (of_f * f + (1 - of_f) * f.roll(1, 0))
        gap = gap.square().flatten(1).mean(1)
        return Result(self.weight * gap.mean(), {"gap": gap})
