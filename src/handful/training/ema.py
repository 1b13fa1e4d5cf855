"""The averaged generator: what people sample from."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import Ema
from ..nn.spectral import Spectral
from ..rng import Rng, derive
from ..seam import Generator

POWER_ITERATIONS = 5                 # from the live vectors, which are near: sigma of the averaged weights to a percent or two


def decay(settings: Ema, batch: int, images_seen: int) -> float:
    """The factor on the old average for this iteration; images_seen counts before this iteration's batch (StyleGAN2-ADA's convention)."""
    if images_seen < settings.start_kimg * 1000:
        return 0.0
    if settings.halflife_kimg is None:
        return settings.decay or 0.0
    half = settings.halflife_kimg * 1000
    if settings.rampup is not None:
        half = min(half, settings.rampup * images_seen)
    return 0.5 ** (batch / max(half, 1e-8))


@torch.no_grad()
def update(G_ema: nn.Module, G: nn.Module, settings: Ema, batch: int, images_seen: int) -> None:
    """G_ema <- decay G_ema + (1 - decay) G over parameters; buffers are copied, or averaged likewise with `buffers="ema"`.

    Spectral norm's vectors are copied always: an average of unit vectors is none.
    """
    beta = decay(settings, batch, images_seen)
    averaged, live = list(G_ema.parameters()), list(G.parameters())
    pairs = list(zip(G_ema.buffers(), G.buffers()))
    if settings.buffers == "ema":
        turning = {id(b) for m in G.modules() if isinstance(m, Spectral) for b in m.buffers(recurse=False)}
        smooth = [b.is_floating_point() and id(b) not in turning for _, b in pairs]
        averaged += [a for (a, _), s in zip(pairs, smooth) if s]
        live += [b for (_, b), s in zip(pairs, smooth) if s]
        pairs = [pair for pair, s in zip(pairs, smooth) if not s]
    torch._foreach_lerp_(averaged, live, 1 - beta)
    for a, b in pairs:
        a.copy_(b)


@torch.no_grad()
def settle(G_ema: nn.Module, G: nn.Module) -> None:
    """Spectral norm's vectors of the average for the average's own weights, which aren't those that the live vectors belong to. Depends on the two
    networks alone, however often it is called; training never reads it, since the next step copies the live vectors again."""
    for averaged, live in zip(G_ema.modules(), G.modules()):
        if isinstance(averaged, Spectral) and averaged.u is not None:
            averaged.u.copy_(live.u)
            averaged.v.copy_(live.v)
            for _ in range(POWER_ITERATIONS):
                averaged.sigma(iterate=True)


@torch.no_grad()
def standing(G: Generator, batches: int = 8, batch: int = 16, rule: Literal["own", "accumulated"] = "own") -> None:
    """Replaces batch norm's statistics by those measured over `batches` batches of `batch` of G's own samples (BigGAN's standing statistics).

    The average of the weights has other statistics than any of the generators it averages; with these, a picture depends on its seed alone
    and not on the batch it was made in. Deterministic: the samples come from a fixed stream, their classes are uniform.

    rule: "own", each batch is normalised by its own statistics, of which the means are kept, variances unbiased; "accumulated" (compare_gan), each
    norm keeps the means of the batches' means and of their population variances, and a batch is normalised by those so far, its own among them.
    """
    norms = [m for m in G.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        return
    device = next(G.parameters()).device
    kept = [(m.momentum, getattr(m, "sync", False)) for m in norms]
    for m in norms:
        m.train(rule == "own")
        m.reset_running_stats()
        m.momentum, m.sync = None, False                 # a plain average over the batches; and of one process: the others are not here
    hooks = [m.register_forward_pre_hook(_accumulate) for m in norms if rule == "accumulated"]
    rng = Rng(derive("standing statistics"), device)
    for _ in range(batches):
        c = rng.randint(G.num_classes, batch) if G.num_classes else None
        G(rng.randn(batch, G.z_dim), c, rng=rng)
    for hook in hooks:
        hook.remove()
    for m, (momentum, sync) in zip(norms, kept):
        m.momentum, m.sync = momentum, sync
        m.eval()


def _accumulate(norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
    """Takes a batch [B,C,H,W] into the means over the batches, by which the norm, in evaluation mode, is about to divide it."""
    norm.num_batches_tracked.add_(1)
    var, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
    for kept, new in ((norm.running_mean, mean), (norm.running_var, var)):
        kept.add_((new - kept) / norm.num_batches_tracked)
