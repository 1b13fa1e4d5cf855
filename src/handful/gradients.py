"""Gradients of a discriminator's score by the pixels of shared passes, each computed once however many terms ask for it (`seam.Pass`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .seam import At, Pass


def by_pixels(seen: Pass, at: At) -> tuple[Tensor, ...]:
    """d(sum of the scores)/d(inputs), fp32, with graph: of the images [B,C,H,W], and of the further inputs of a fake (its other scales). Kept in the
    pass, so that a second call costs nothing.

    at: "x_in", what D saw; "x", before the augmentation T: the vector-Jacobian product of T on the former, so that both share D's backward.
    """
    if at not in seen.kept:
        with torch.autocast(seen.x.device.type, enabled=False):
            if at == "x_in":
                _differentiate(seen)
            else:
                inner, ins, outs = by_pixels(seen, "x_in"), (seen.x, *seen.sources.values()), _inputs(seen)
                same = all(o is i for o, i in zip(outs, ins))
                grads = inner if same else torch.autograd.grad(outs, ins, inner, create_graph=True)
                seen.kept[at] = tuple(g.float() for g in grads)
    return seen.kept[at]


def _inputs(seen: Pass) -> tuple[Tensor, ...]:
    return seen.x_in, *(seen.extra[k] for k in seen.sources)


def _differentiate(seen: Pass) -> None:
    """One backward through D, for every pass of the run that wants gradients by its pixels."""
    run = seen.beside or [seen]
    wanting = [p for p in run if p.view.pixel_grad] or [seen]
    scores = sum(replace(p.judged, logits=p.judged.logits.float()).score.sum() for p in run)
    grads = iter(torch.autograd.grad(scores, [i for p in wanting for i in _inputs(p)], create_graph=True))
    for p in wanting:
        p.kept["x_in"] = tuple(next(grads).float() for _ in _inputs(p))
