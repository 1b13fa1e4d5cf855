"""The shared passes: what the terms of a step look at, each network run once per micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..config import Train
from ..data import Dataset, Sampler
from ..rng import Rng, joined
from ..seam import Augmented, Generated, Judged, Needs, Pass, View
from .networks import LiveNets
from .phases import Phase


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch of one optimiser step.

    phase; at: images seen before the step; batch: images of all processes; slots: this part's place among them; stream: makes the random stream
    of a key; keep_graph: D's step leaves G's graph for G's step to go back through.
    """

    phase: Phase
    at: int
    batch: int
    slots: range
    stream: Callable[..., Rng]
    keep_graph: bool

    def rng(self, *key: object, **device: str) -> Rng:
        return self.stream(self.at, *key, batch=self.batch, slots=self.slots, **device)


class SharedPasses:
    """Called once per micro-batch: {"real", "fake", "heldout"} as they are needed. Between D's and G's step of an iteration it holds what the two
    share; `clear` forgets it."""

    def __init__(self, config: Train, nets: LiveNets, dataset: Dataset, heldout: Dataset | None, sampler: Sampler, flip: bool) -> None:
        self.config, self.nets, self.dataset, self.heldout, self.sampler, self.flip = config, nets, dataset, heldout, sampler, flip
        self._shared: dict[int, tuple[Generated, Augmented]] = {}
        self._made: dict[tuple[int, range], Tensor] = {}  # what G's step of this iteration showed, for an augmentation that wants fakes

    def clear(self) -> None:
        self._shared.clear()
        self._made.clear()

    def __call__(self, part: MicroBatch, need: Needs, adversarial: Needs) -> dict[str, Pass]:
        """The shared passes of one micro-batch, each network run once.

        Passes that the adversarial loss doesn't ask for leave network buffers alone, so that a term of no weight changes nothing.
        """
        drawn = self._real_batch(part) if need.real or need.same_labels else None
        ready: dict[str, dict[str, Any]] = {}                        # what a Pass holds before D has judged it
        fake = self._fakes(part, need, drawn[1] if drawn and need.same_labels else None)
        if need.real:
            ready["real"] = self._reals(part, need.real, drawn)
        if fake:
            ready["fake"] = fake
        views = {"real": need.real, "fake": need.fake}
        asked = {"real": adversarial.real, "fake": adversarial.fake}
        rngs = {k: part.rng(part.phase.key, k, "d") for k in ready}
        jointly = self.config.joint and part.phase.side == "d" and len(ready) == 2
        if jointly:
            judged = self._judge_jointly(ready, need.real | need.fake, joined(rngs["fake"], rngs["real"]), frozen=not part.phase.main)
        else:
            judged = {k: self.nets.forward_d(r["x_in"], r["c"], r["extra"], views[k], frozen=not asked[k], rng=rngs[k],
                                             of=f"{part.phase.side}:{k}") for k, r in ready.items()}
        beside: list[Pass] = []
        passes = {k: Pass(judged=judged[k], view=views[k], beside=beside if jointly else [], **r) for k, r in ready.items()}
        beside += passes.values() if jointly else ()
        return passes | ({"heldout": self._heldout(part, need.heldout)} if need.heldout else {})

    def _judge_jointly(self, ready: Mapping[str, dict[str, Any]], view: View, rng: Rng, *, frozen: bool) -> dict[str, Judged]:
        """One D pass over fakes, then reals (the order of DiffAugment's BigGAN); batch statistics then span both."""
        order = [ready["fake"], ready["real"]]
        extra = {k: torch.cat([r["extra"][k] for r in order]) for k in order[0]["extra"]}
        c = None if order[0]["c"] is None else torch.cat([r["c"] for r in order])
        both = self.nets.forward_d(torch.cat([r["x_in"] for r in order]), c, extra, view, frozen=frozen, rng=rng)
        n = len(order[0]["x"])
        return {k: replace(both, logits=both.logits[part], features={f: v[part] for f, v in both.features.items()})
                for k, part in (("fake", slice(0, n)), ("real", slice(n, None)))}

    def _real_batch(self, part: MicroBatch) -> tuple[Tensor, Tensor | None, Tensor]:
        index = self.sampler.indices(part.at, part.batch)[part.slots.start:part.slots.stop]
        flip = None
        if self.flip:
            flip = part.rng("flip", device="cpu").rand(len(part.slots)) < 0.5
        x, c = self.dataset.batch(index, flip, self.nets.device)
        return x, c, index

    def _reals(self, part: MicroBatch, view: View, drawn: tuple) -> dict[str, Any]:
        x, c, index = drawn
        rng = part.rng(part.phase.key, "real")
        shown = self._shown_as_reals(part, c) if self.nets.augment.wants_fakes else None
        x = self.nets.augment.reals(x, shown, rng.fork("mix"))
        if view.pixel_grad:
            x = x.detach().requires_grad_()
        aug = self.nets.augment.draw(x, rng.fork("augment")) if "real" in self.config.augment_at else Augmented(x)
        return {"x": x, "x_in": aug.image, "extra": self.nets.D.extra_of(aug.image), "c": c, "aug": aug, "meta": {"index": index}}

    @torch.no_grad()
    def _shown_as_reals(self, part: MicroBatch, c: Tensor | None) -> Tensor:
        """Fakes for an augmentation that shows them as reals: those of G's step of this iteration where it made as many, else new ones of the
        reals' classes. Never those that this D step judges as fakes, nor in G's step its own."""
        if part.phase.side == "d" and (part.batch, part.slots) in self._made and c is None:
            return self._made[part.batch, part.slots]
        rng = part.rng(part.phase.key, "shown")
        return self.nets.forward_g(rng.randn(len(part.slots), self.nets.G.z_dim), c, rng.fork("noise"), frozen=True).image

    @torch.no_grad()
    def _heldout(self, part: MicroBatch, view: View) -> Pass:
        """Held-out images, one after the other through the whole set, as D sees reals; without a graph."""
        index = (part.at + torch.arange(part.slots.start, part.slots.stop)) % len(self.heldout)
        x, c = self.heldout.batch(index, None, self.nets.device)
        rng = part.rng(part.phase.key, "heldout")
        aug = self.nets.augment.draw(x, rng.fork("augment")) if "real" in self.config.augment_at else Augmented(x)
        extra = self.nets.D.extra_of(aug.image)
        judged = self.nets.forward_d(aug.image, c, extra, view, frozen=True, rng=rng.fork("d"))
        return Pass(x, aug.image, judged, view, extra, None, c, aug, {"index": index})

    def _fakes(self, part: MicroBatch, need: Needs, labels: Tensor | None) -> dict[str, Any] | None:
        if not need.fake:
            return None
        phase, slots = part.phase, part.slots
        sharing = self.config.share_fakes and phase.main and self.config.order == "dg"
        rng = part.rng("shared" if sharing else phase.key, "fake")
        where = f"fake_{phase.side}"
        held = self._shared.get(slots.start) if sharing and phase.side == "g" else None
        if held is None:
            z, c = self.nets.latents(len(slots), rng)
            c = c if labels is None else labels
            ran_before = sharing and phase.side == "g"               # in D's step: G's buffers have moved already
            with nullcontext() if phase.side == "g" or (sharing and part.keep_graph) else torch.no_grad():
                generated = self.nets.forward_g(z, c, rng.fork("noise"), frozen=ran_before or not phase.main)
                aug = self._augmented(generated.image, generated.extra, rng, where)
            if sharing and phase.side == "d" and part.keep_graph:
                self._shared[slots.start] = (generated, aug)
        else:
            generated, aug = held
            if ("fake_d" in self.config.augment_at) != ("fake_g" in self.config.augment_at):
                aug = self._augmented(generated.image, generated.extra, rng, where)
        x, sources = generated.image, dict(generated.extra)
        if phase.side == "g" and phase.main and self.nets.augment.wants_fakes:
            self._made[part.batch, slots] = x.detach()
        if phase.side == "d":                                         # G is not to learn from D's step
            x, sources = x.detach(), {k: v.detach() for k, v in sources.items()}
            if need.fake.pixel_grad:                                  # leaves of their own; the same draws once more, for the graph of T
                x, sources = x.requires_grad_(), {k: v.requires_grad_() for k, v in sources.items()}
                aug = self._augmented(x, sources, rng, where)
            else:
                aug = Augmented(aug.image.detach(), {k: v.detach() for k, v in aug.extra.items()}, aug.params)
        extra = {k: aug.extra.get(k, v) for k, v in self.nets.D.extra_of(aug.image).items()}       # G may make scales that this D doesn't take
        return {"x": x, "x_in": aug.image, "extra": extra, "generated": generated, "c": generated.c, "aug": aug,
                "sources": {k: v for k, v in sources.items() if k in extra} if need.fake.pixel_grad else {}}

    def _augmented(self, image: Tensor, extra: Mapping[str, Tensor], rng: Rng, where: str) -> Augmented:
        if where not in self.config.augment_at:
            return Augmented(image, extra)
        return self.nets.augment.draw(image, rng.fork("augment"), extra)
