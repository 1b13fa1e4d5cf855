"""DigGAN: keeps D's gradients on reals and on fakes alike in length, so that neither side of few images is learnt faster than the other.

Fang, Sun, Schwing: DigGAN: Discriminator gradient Gap Regularization for GAN Training with Limited Data, NeurIPS 2022, equation 3. Adds to L_D

    weight E (g_R - g_F)^2,    g <- (1 - alpha) g_before + alpha ||dD/dT(x)||,    T(x) the augmented image that D saw.

What the paper leaves open follows the released BigGAN-CIFAR code: a norm per sample, real i beside fake i; the average runs slot by slot (slot i
of the batch with slot i of the last time), its past detached, so that the gradient has a factor alpha; the first application is unsmoothed; only
the first of the D steps of an iteration has the penalty (`substeps="first"`), and what is left out is not made up for (gain 1, whatever `every`).
alpha 0.5 on all real data. The weight depends on the data (`weight_for`): 1000/a, with augmentation 10/a^2, a the share of the data; 100, the
default here, is the paper's for StyleGAN2-ADA on 100 to 389 pictures.

Pairing (table 6): "random" as above; "same_class" gives the fakes the labels of the reals; "sorted" compares norms rank by rank (then the average
runs by rank). reduction="batch_mean_norm" compares the two batch means instead, which leaves the spread within a batch alone.

`studiogan_literal=True` does what the code of the Tiny-ImageNet and CUB-200 runs does, where the second line of the average assigns to the wrong
variable. The first time (g_R - g_F)^2; from then on g_R <- alpha f + (1 - alpha) f_before while g_F = f, f the norms on fakes, so the penalty is

    weight (1 - alpha)^2 E (f - f_before)^2

and reals no longer count. That code applies it with every=4, substeps="all", weight 1000. It runs D twice more for it; here the passes are shared.

Deviations: the average is saved with the run (the release forgets it on resume) and covers the whole batch, over processes and micro-batches (the
literal code lets each micro-batch follow the one before it). A norm of exactly zero has the derivative 0. Where the batch size has changed, every
slot starts from the mean of what was kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from handful.errors import within
from handful.seam import At, Conflict, Context, Needs, Nets, Result, Side, Term, View
from handful.terms._points import TWICE, root

Pairing = Literal["random", "same_class", "sorted"]
Reduction = Literal["per_sample", "batch_mean_norm"]
State = tuple[Tensor, Tensor]


class DigGAN(Term):
    """weight; alpha: weight of the new norms, 0 to 1; pairing, reduction: above; every: in iterations; substeps: in the first D step of an iteration
    or in all; own_step: a step of its own, beside R1's where `every` is the same; at: the gradient by T(x) ("x_in") or by x, through T ("x").

    weight=0 watches the gap and adds nothing. Buffers real_norms, fake_norms [batch], empty until the first step. Stats per pair, fp32: gap, the
    unsmoothed (g_R - g_F)^2; penalty, the smoothed one times weight; grad_norm_real, grad_norm_fake. Refused for pairing by class where the
    networks have no classes. Raises UsageError for numbers out of range.
    """

    conflicts = (
        Conflict("images without labels, where pairing=same_class",
                 lambda term, nets: term.pairing == "same_class" and not (nets.G.num_classes and nets.D.num_classes),
                 "terms.{name}.pairing=same_class pairs images of one class, but these networks have no classes: {remedy}",
                 "give labels (--labels folders), or take pairing=random"),
        TWICE)

    gain = 1.0
    real_norms: Tensor
    fake_norms: Tensor

    def __init__(self, weight: float = 100.0, alpha: float = 0.5, pairing: Pairing = "random", reduction: Reduction = "per_sample", every: int = 1,
                 substeps: Literal["first", "all"] = "first", own_step: bool = False, studiogan_literal: bool = False, at: At = "x_in") -> None:
        super().__init__()
        within(0, weight=weight)
        within(1e-9, 1, alpha=alpha)
        self.weight, self.alpha, self.pairing, self.reduction, self.every = weight, alpha, pairing, reduction, every
        self.substeps, self.own_step, self.studiogan_literal, self.at = substeps, own_step, studiogan_literal, at
        self.exact_under_accumulation = pairing != "sorted" and reduction == "per_sample"
        for name in ("real_norms", "fake_norms"):
            self.register_buffer(name, torch.zeros(0))

    def needs(self, side: Side) -> Needs | None:
        view = View(pixel_grad=True)
        return Needs(view, view, same_labels=self.pairing == "same_class") if side == "d" else None

    def active(self, side: Side, step: int, substep: int) -> bool:
        return super().active(side, step, substep) and (substep == 0 or self.substeps == "all")

    def forward(self, ctx: Context) -> Result:
        norms = _paired(root(ctx.real.grad_norm_sq(self.at)), root(ctx.fake.grad_norm_sq(self.at)), self.pairing)
        before = self._before(ctx)
        smooth = _smoothed(norms, before, self.alpha, self.studiogan_literal)
        penalty = self.weight * _squared_gap(smooth, self.reduction)                                      # [B]
        kept = smooth if before is None else [torch.where(new.isfinite(), new, old) for new, old in zip(smooth, before)]
        real, fake = (norm.detach() for norm in norms)
        stats = {"gap": (real - fake).square(), "penalty": penalty.detach(), "grad_norm_real": real, "grad_norm_fake": fake}
        return Result(penalty.mean() if self.weight else None, stats, {"real_norms": kept[0], "fake_norms": kept[1]})

    def _before(self, ctx: Context) -> State | None:
        """What is kept for this micro-batch's slots; None at the very first time."""
        kept = self.real_norms, self.fake_norms
        if not len(kept[0]):
            return None
        if len(kept[0]) != ctx.batch:
            return tuple(norms.mean().expand(len(ctx.slots)) for norms in kept)
        return tuple(norms[ctx.slots.start:ctx.slots.stop] for norms in kept)

    def commit(self, side: Side, means: Mapping[str, Tensor], gathered: Mapping[str, Tensor], nets: Nets, images: int) -> None:
        for name, norms in gathered.items():
            if getattr(self, name).shape != norms.shape:                         # the first time, and after a change of the batch size
                setattr(self, name, torch.empty_like(norms))
            getattr(self, name).copy_(norms)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *more: Any) -> None:
        for name in ("real_norms", "fake_norms"):                                # as long as the batch that they were made with
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *more)


def weight_for(fraction: float, augmented: bool) -> float:
    """The paper's weight (section 4.1) for this share of a data set, 0 to 1: 1000/a without augmentation, 10/a^2 with DiffAugment.

    5000 and 250 at 20 %. The text says percentage; its own example shows that the fraction is meant. Raises UsageError out of range.
    """
    within(1e-9, 1, fraction=fraction)
    return 10 * (1 / fraction) ** 2 if augmented else 1000 / fraction


def dig_penalty(logits_real: Tensor, x_real: Tensor, logits_fake: Tensor, x_fake: Tensor, state: State | None = None, alpha: float = 0.5, *,
                pairing: Pairing = "random", reduction: Reduction = "per_sample", studiogan_literal: bool = False) -> tuple[Tensor, State]:
    """DigGAN for anyone's own loop: (penalty, new state). Add weight * penalty to D's loss, hand the state to the next call, None to the first.

    x_*: leaves [B,C,H,W] with requires_grad that the logits [B] or [B,*] were computed from (fakes detached from G), in one forward pass or in two.
    state: detached norms of the last time ([B'], [B']), real and fake; its mean where B' differs from B. "same_class" is "random" with fakes made
    from the reals' labels in their order. Raises ValueError where there are not as many fakes as reals.
    """
    if len(x_real) != len(x_fake):
        raise ValueError(f"dig_penalty pairs reals and fakes, but was given {len(x_real)} reals and {len(x_fake)} fakes")
    with torch.autocast(x_real.device.type, enabled=False):
        scores = sum(v.reshape(len(v), -1).mean(1).sum() for v in (logits_real, logits_fake))
        grads = torch.autograd.grad(scores, (x_real, x_fake), create_graph=True)
        wide = (g.float() if g.dtype in (torch.float16, torch.bfloat16) else g for g in grads)
        norms = _paired(*(root(g.square().flatten(1).sum(1)) for g in wide), pairing)
    if state is not None and len(state[0]) != len(x_real):
        state = tuple(norms.mean().expand(len(x_real)) for norms in state)
    real, fake = _smoothed(norms, state, alpha, studiogan_literal)
    return _squared_gap((real, fake), reduction).mean(), (real.detach(), fake.detach())


def _paired(real: Tensor, fake: Tensor, pairing: Pairing) -> State:
    return (real.sort().values, fake.sort().values) if pairing == "sorted" else (real, fake)


def _smoothed(norms: State, before: State | None, alpha: float, literal: bool) -> State:
    if before is None:
        return norms
    if literal:
        return alpha * norms[1] + (1 - alpha) * before[1], norms[1]
    return tuple(alpha * new + (1 - alpha) * old for new, old in zip(norms, before))


def _squared_gap(norms: State, reduction: Reduction) -> Tensor:
    """[B]; of the batch means every element is the same."""
    real, fake = norms
    if reduction == "batch_mean_norm":
        return (real.mean() - fake.mean()).square().expand(len(real))
    return (real - fake).square()
