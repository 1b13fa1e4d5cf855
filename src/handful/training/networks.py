"""How a network is run: precision, compiled or raw, buffers live or frozen. Autocast stands here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..rng import Rng
from ..seam import Augment, Augmented, Discriminator, Facts, Generated, Generator, Judged, Pass, PassOf, View

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class LiveNets:
    """The networks of a run (`seam.Nets`). Raw modules own parameters and state; compiled twins share them and serve first order only."""

    def __init__(self, G: Generator, D: Discriminator, G_ema: Generator, augment: Augment, *, precision: str = "fp32",
                 compile: bool = False, labels: Tensor | None = None, fake_labels: str = "data", facts: Facts | None = None) -> None:
        self.G, self.D, self.G_ema, self.augment = G, D, G_ema, augment
        self.labels, self.fake_labels, self.facts = labels, fake_labels, facts or Facts()
        self.dtype = DTYPES[precision]
        self._fast = {}
        if compile:
            # A buffer that moves in the backward pass would be a copy by then (`_buffers_of`), so such a D runs raw.
            self._fast = {id(net): torch.compile(net) for net in (G, D) if getattr(net, "second_order", True)}
        self.runs = 0                                    # passes through D so far: what sharing saves is counted in the tests

    @property
    def device(self) -> torch.device:
        return next(self.G.parameters()).device

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, dtype=self.dtype) if self.dtype else nullcontext()

    # ------------------------------------------------------------------------------------- the shared passes of a phase

    def forward_g(self, z: Tensor, c: Tensor | None, rng: Rng, *, frozen: bool = False, raw: bool = False) -> Generated:
        net = self.G if raw else self._fast.get(id(self.G), self.G)
        with self.autocast(), self._buffers_of(self.G, frozen):
            out = net(z, c, rng=rng)
        return Generated(out.image.float(), out.latent, z, c, {k: v.float() for k, v in out.extra.items()}, out.stats, rng)

    def forward_d(self, x_in: Tensor, c: Tensor | None, extra: Mapping[str, Tensor], view: View, *, frozen: bool = False,
                  net: Discriminator | None = None, rng: Rng | None = None, of: PassOf = "other") -> Judged:
        raw = net or self.D
        how = {"rng": rng} if raw.draws else {}
        if raw.knows_pass:
            how["of"] = of
        if raw.stops and not view.logits and not view.pixel_grad:
            how["logits"] = False
        run = raw if view.pixel_grad else self._fast.get(id(raw), raw)
        self.runs += 1
        with self.autocast(), self._buffers_of(raw, frozen):
            out = run(x_in, c, extra, view.features, **how)
        return replace(out, logits=out.logits.float())

    def _buffers_of(self, net: nn.Module, frozen: bool) -> AbstractContextManager:
        """A compiled graph may save a buffer itself for its backward pass, which the next pass would overwrite: with compiled twins about every
        pass works on copies, and what a live one wrote is taken over."""
        return frozen_buffers(net, keep=not frozen) if frozen or id(net) in self._fast else nullcontext()

    # --------------------------------------------------------------------------------- further passes, for terms (seam.Nets)

    def latents(self, n: int, rng: Rng) -> tuple[Tensor, Tensor | None]:
        z = rng.randn(n, self.G.z_dim)
        if not self.G.num_classes:
            return z, None
        if self.fake_labels == "classes":
            return z, rng.fork("labels").randint(self.G.num_classes, n)
        return z, self.labels[rng.fork("labels").randint(len(self.labels), n)]

    def generate(self, z: Tensor, c: Tensor | None = None, *, rng: Rng) -> Generated:
        return self.forward_g(z, c, rng, frozen=True, raw=True)

    def judge(self, x: Tensor, c: Tensor | None = None, *, rng: Rng, want: frozenset[str] = frozenset(), augment: bool = True,
              extra: Mapping[str, Tensor] | None = None, net: Discriminator | None = None, pixel_grad: bool = False,
              logits: bool = True) -> Pass:
        """A further pass of images x through D (or `net`); extra: the further scales of a fake, None for reals; logits: False where features do."""
        if pixel_grad:
            x, extra = _differentiable(x), {k: _differentiable(v) for k, v in (extra or {}).items()}
        aug = self.augment.draw(x, rng, extra or {}) if augment else Augmented(x, extra or {})
        seen = aug.extra if extra else (net or self.D).extra_of(aug.image)
        view = View(logits=logits, features=want, pixel_grad=pixel_grad)
        judged = self.forward_d(aug.image, c, seen, view, frozen=True, net=net, rng=rng.fork("d"))
        return Pass(x, aug.image, judged, view, seen, None, c, aug, sources=extra if pixel_grad else {}, asked="nets.judge(...)")


def _differentiable(x: Tensor) -> Tensor:
    return x if x.requires_grad else x.detach().requires_grad_()


@contextmanager
def frozen_buffers(module: nn.Module, keep: bool = False) -> Iterator[None]:
    """Whatever the pass writes into buffers (batch norm's statistics, spectral norm's vectors) is undone: copies stand in for them.

    Not restored in place: a graph that saved a buffer must find the values that it was made with. keep: what was written is taken over.
    """
    held = [(m, k, b) for m in module.modules() for k, b in m._buffers.items() if b is not None]
    for m, k, b in held:
        m._buffers[k] = b.clone()
    try:
        yield
    finally:
        for m, k, b in held:
            if keep:
                b.copy_(m._buffers[k])
            m._buffers[k] = b
