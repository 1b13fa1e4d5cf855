"""Shared by the gradient penalties: a norm that may be zero, the images of a pass, and D's gradient at points that no shared pass holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from handful.seam import At, Conflict, Context, Discriminator, Pass

TWICE = Conflict("a discriminator that can't be differentiated twice, such as chain's", lambda term, nets: not nets.D.second_order,
                 "terms.{name} differentiates D's gradient, and this discriminator can't be differentiated twice: {remedy}",
                 "take another one (--set d=fastgan), or leave the term out (--set terms.{name}=null)")


def root(square: Tensor) -> Tensor:
    """sqrt(square) with the derivative 0 at 0, where sqrt alone makes the gradient infinite, then NaN."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def images_of(seen: Pass, at: At, D: Discriminator) -> tuple[Tensor, dict[str, Tensor]]:
    """Image [B,C,H,W] and further scales of a pass, detached. at: "x_in" what D saw, "x" before augmentation."""
    if at == "x_in":
        return seen.x_in.detach(), {k: v.detach() for k, v in seen.extra.items()}
    made = seen.generated.extra if seen.generated else {}
    return seen.x.detach(), {k: made.get(k, v).detach() for k, v in D.extra_of(seen.x.detach()).items()}


def norm_at(ctx: Context, x: Tensor, extra: Mapping[str, Tensor] | None, at: At) -> Tensor:
    """||dD/dx|| of each x [B,C,H,W] in a further pass through D, labelled as the reals: fp32 [B], with graph.

    extra: further scales, which count as part of x; None: made from x. at: "x_in" D judges x itself, "x" it judges T(x), T drawn anew.
    """
    seen = ctx.nets.judge(x, ctx.real.c, rng=ctx.rng.fork("judge"), augment=at == "x", extra=extra, pixel_grad=True)
    return root(seen.grad_norm_sq(at))
