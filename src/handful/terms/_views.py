"""Shared by the methods that show D further versions of a step's images: which they are, and one run of D for several of them where that may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from handful.rng import Rng, joined
from handful.seam import At, Context, Discriminator, Judged, Nets

Shown = tuple[Tensor, Tensor | None, Mapping[str, Tensor] | None]      # images, their classes, their further scales (None: made from the images)


def shown(ctx: Context, kind: str, at: At) -> Shown:
    """The images of a shared pass, "x_in" as D saw them or "x" before augmentation; in D's step without a graph."""
    seen = ctx.passes[kind]
    if at == "x_in":
        x, extra = seen.x_in, seen.extra
    else:
        x, extra = seen.x, seen.generated.extra if seen.generated else None
    if ctx.side == "d":
        x, extra = x.detach(), extra and {k: v.detach() for k, v in extra.items()}
    return x, seen.c, extra


def judged(ctx: Context, views: Mapping[str, Shown], rng: Rng, want: frozenset[str] = frozenset(), *, augment: bool = False,
           net: Discriminator | None = None, logits: bool = True) -> dict[str, Judged]:
    """What D (or `net`) says of each of `views`, augmented anew or as they are: in one run, or in one each where it has batch statistics (which are
    then their own) or further scales are to be augmented. logits: False where the features will do."""
    D, rngs = net or ctx.nets.D, {name: rng.fork(name) for name in views}
    if len(views) == 1 or D.has_batch_stats or (augment and any(extra for _, _, extra in views.values())):
        return {name: ctx.nets.judge(x, c, rng=rngs[name], want=want, augment=augment, extra=extra, net=net, logits=logits).judged
                for name, (x, c, extra) in views.items()}
    x, c, _ = zip(*views.values())
    scales = [] if augment else [{k: (extra or {}).get(k, v) for k, v in D.extra_of(x).items()} for x, _, extra in views.values()]
    together = {k: torch.cat([s[k] for s in scales]) for k in scales[0]} if scales else None
    all_ = ctx.nets.judge(torch.cat(x), None if c[0] is None else torch.cat(c), rng=joined(*rngs.values()), want=want, augment=augment,
                          extra=together, net=net, logits=logits).judged
    sizes = [len(part) for part in x]
    features = {name: value.split(sizes) for name, value in all_.features.items()}
    found = all_.logits.split(sizes) if len(all_.logits) else [all_.logits] * len(views)                  # none where D stopped before
    return {name: replace(all_, logits=found[i], features={k: parts[i] for k, parts in features.items()}) for i, name in enumerate(views)}


def squared_gap(a: Tensor, b: Tensor) -> Tensor:
    """(D(x) - D(y))^2 of each image, [B]; of several logits [B,*] each is squared by itself."""
    return (a - b).reshape(len(a), -1).square().mean(1)


def vector(features: Tensor) -> Tensor:
    """Features [B,C,h,w] (averaged over space) or [B,C] -> fp32 [B,C]."""
    features = features.float()
    return features.mean((2, 3)) if features.ndim == 4 else features


@torch.no_grad()
def picture_shape(nets: Nets) -> tuple[int, int, int]:
    """Channels, height and width of the images of a run: those that G makes."""
    rng = Rng(0, next(nets.G.parameters()).device)
    z, c = nets.latents(2, rng)
    return tuple(nets.generate(z, c, rng=rng.fork("noise")).image.shape[1:])

