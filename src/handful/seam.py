"""The contract: every type that architectures, augmentations, losses, terms and the trainer share. No algorithm lives here.

Terms declare what they need of the two shared passes (reals and fakes through the discriminator); the trainer takes the union, runs each
network once per micro-batch, multiplies lazy terms, reduces over processes and steps. A method is one file against this page.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from . import gradients
from .rng import Rng, ambient

Side = Literal["d", "g"]
At = Literal["x", "x_in"]
PassOf = Literal["d:real", "d:fake", "g:real", "g:fake", "other"]        # in whose step a pass through D is, and of which images

# Roles (`Term.roles`) that more than one room knows.
CONTROLS_AUGMENT = "controller of the augmentation's strength"
CONTROLS_D = "controller of the strength of what is inside D"


# ---------------------------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True)
class Generated:
    """What a generator returns.

    image [B,C,H,W] in [-1,1]; latent: what path length differentiates by (ws; z where there is no mapping); z [B,z_dim] and c [B] as used.
    extra: further scales by name (FastGAN's smaller image). stats: per-sample values for the generator's own `commit` (mean of w). rng: where its
    noise and style mixing came from, as the trainer fills it in: `nets.generate(other_z, c, rng=made.rng.again())` has the same ones.
    """

    image: Tensor
    latent: Tensor
    z: Tensor
    c: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    rng: Rng | None = None


@dataclass(frozen=True)
class Judged:
    """What a discriminator returns: logits [B] or [B,*] (patches, several heads), and features by name.

    heads: how many logits each of several heads has, where it wants them told apart: logits are [B,sum(heads)] then.
    parts: where the heads are those of several discriminators: of each (how many of the heads are its own, its weight). The weights sum to 1; the
    adversarial loss is the weighted sum of the losses of the parts.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    heads: tuple[int, ...] = ()
    parts: tuple[tuple[int, float], ...] = ()

    @property
    def score(self) -> Tensor:
        """D(x) of each image, [B]: the mean of its logits; of several heads the mean of their means; of several parts the weighted sum of theirs."""
        if self.heads:
            return sum(weight * torch.stack([head.mean(1) for head in heads]).mean(0) for weight, heads in self.by_part())
        return self.logits.flatten(1).mean(1) if self.logits.ndim > 1 else self.logits

    def by_part(self) -> list[tuple[float, list[Tensor]]]:
        """(weight, the logits [B,n] of each head) of every part; one part of weight 1 where there are no others."""
        heads = iter(self.logits.split(self.heads, 1))
        return [(weight, [next(heads) for _ in range(count)]) for count, weight in self.parts or ((len(self.heads), 1.0),)]


@dataclass(frozen=True)
class FeatureInfo:
    """A named feature of a discriminator: channels, and the side of its map in pixels (0: a vector)."""

    channels: int
    resolution: int = 0


class Generator(nn.Module):
    """Base of generators. The constructor's keywords are its configuration; `resolution`, `channels`, `num_classes` are always among them.

    `has_batch_stats`: True where an image depends on the others of its batch in training mode (batch norm). `wants_classes`: made for labelled
    images; a run on images without labels is refused, though the network itself can be built without classes.
    """

    z_dim: int
    num_classes: int
    conflicts: ClassVar[tuple[Conflict, ...]] = ()
    has_batch_stats: ClassVar[bool] = False
    wants_classes: ClassVar[bool] = False

    def forward(self, z: Tensor, c: Tensor | None = None, *, rng: Rng) -> Generated:
        """z [B,z_dim], c int64 [B] or None; rng feeds noise and style mixing."""
        raise NotImplementedError

    @classmethod
    def needs_weights(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """The pretrained weights (names of `handful weights list`) without which a network of these settings can't compute."""
        return ()

    def commit(self, means: Mapping[str, Tensor]) -> None:
        """Once per optimiser step of G with the batch means of `Generated.stats` (w_avg and the like)."""

    def sample(self, z: Tensor, c: Tensor | None = None, *, rng: Rng, truncation: float = 1.0) -> Tensor:
        """Images [B,C,H,W] for people. truncation: 1 none, 0 the average picture. Default: scales z, for want of a mapping network."""
        return self(z * truncation, c, rng=rng).image


class Discriminator(nn.Module):
    """Base of discriminators. `feature_info` always has "pre_logits"; `stem` is the first layer, so that a wrapper can add to it; where there are
    several first layers, the names of the others end with "_stem". None: a wrapper that adds to the first layers is refused."""

    num_classes: int
    feature_info: Mapping[str, FeatureInfo]
    stem: nn.Module | None
    has_batch_stats: ClassVar[bool] = False
    draws: ClassVar[bool] = False            # True: forward takes `rng` too (a wrapper that drops out, or appends random bits)
    stops: ClassVar[bool] = False            # True: forward takes logits=False too, and then goes no further than the features wanted
    knows_pass: ClassVar[bool] = False       # True: forward takes `of` too, a PassOf: of a shared pass which it is, of every other one "other"
    second_order: ClassVar[bool] = True      # False: its backward pass is hand-written: not differentiable by itself, and may move buffers

    def forward(self, image: Tensor, c: Tensor | None = None, extra: Mapping[str, Tensor] | None = None,
                want: frozenset[str] = frozenset()) -> Judged:
        """image [B,C,H,W] in [-1,1] after augmentation; extra: further scales; want: names of the features to return."""
        raise NotImplementedError

    @classmethod
    def needs_weights(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """The pretrained weights (names of `handful weights list`) without which a network of these settings can't compute."""
        return ()

    def check(self, facts: Facts) -> tuple[str, ...]:
        """Once, before training: what the user should know of a run with these facts. Raises HandfulError where it can't be trained like that."""
        return ()

    def extra_of(self, image: Tensor) -> Mapping[str, Tensor]:
        """The further scales of a *real* image, as the generator would give them for a fake. Default: none."""
        return {}


# ---------------------------------------------------------------------------------------------------- what a term declares


@dataclass(frozen=True)
class View:
    """What is wanted of one shared pass. `pixel_grad` makes it second order: the raw network runs, never the compiled one."""

    logits: bool = False
    features: frozenset[str] = frozenset()
    pixel_grad: bool = False

    def __or__(self, other: View) -> View:
        return View(self.logits or other.logits, self.features | other.features, self.pixel_grad or other.pixel_grad)

    def __bool__(self) -> bool:
        return self.logits or bool(self.features) or self.pixel_grad


@dataclass(frozen=True)
class Needs:
    """What is wanted of the passes of one phase; needs of several terms are joined with |.

    same_labels: the fakes have the labels of the reals, in their order (paired by class), not labels drawn anew.
    """

    real: View = View()
    fake: View = View()
    heldout: View = View()
    same_labels: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.real | other.real, self.fake | other.fake, self.heldout | other.heldout, self.same_labels or other.same_labels)


@dataclass(frozen=True)
class Result:
    """What a term returns for one micro-batch.

    loss: the mean over the micro-batch, or None (observers, controllers). stats: per-sample values, averaged over micro-batches and ranks by
    the trainer, then logged and given to `commit`. gather: per-sample values, concatenated over them in global order.
    """

    loss: Tensor | None = None
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    gather: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Augmented:
    """image [B,C,H,W], the further scales, and the parameters that were drawn (what AugSelf predicts), each [B,*]."""

    image: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    params: Mapping[str, Tensor] = field(default_factory=dict)


class _Declared(dict):
    """Features by name; one that was not declared is an error that names the line to add."""

    def __init__(self, features: Mapping[str, Tensor], must: Callable[[bool, str], None]) -> None:
        super().__init__(features)
        self._must = must

    def __missing__(self, name: str) -> Tensor:
        self._must(False, f'features=frozenset({{"{name}"}})')
        raise KeyError(name)


@dataclass(frozen=True)
class Pass:
    """One shared forward pass through the discriminator, and the gradients that several terms may ask of it.

    x: the images [B,C,H,W] before augmentation; x_in: what D saw; extra: the further scales that D saw; generated, c, aug, meta (index of a
    real image in its set, ...) as they are known. A term sees the pass through the View it declared; touching more is an error.
    """

    x: Tensor
    x_in: Tensor
    judged: Judged
    view: View
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    generated: Generated | None = None
    c: Tensor | None = None
    aug: Augmented | None = None
    meta: Mapping[str, Tensor] = field(default_factory=dict)
    sources: Mapping[str, Tensor] = field(default_factory=dict)      # leaves of further inputs of their own (a fake's extra scales), by name
    asked: str = "needs(...)"
    beside: list[Pass] = field(default_factory=list, repr=False)      # judged in the same run of D, this one among them: one backward serves all
    kept: dict[str, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)     # gradients by pixels that were asked for already

    def seen_by(self, view: View, asked: str) -> Pass:
        """The same pass through another View; gradients stay shared."""
        return replace(self, view=view, asked=asked)

    def _must(self, declared: bool, line: str) -> None:
        if not declared:
            raise RuntimeError(f"{self.asked} reads what it did not declare: add {line} to its View")

    @property
    def logits(self) -> Tensor:
        """fp32 [B] or [B,*]."""
        self._must(self.view.logits, "logits=True")
        return self.judged.logits

    @property
    def score(self) -> Tensor:
        """D(x) of each image, fp32 [B]: the mean of its logits (`Judged.score`)."""
        self._must(self.view.logits, "logits=True")
        return self.judged.score

    @property
    def features(self) -> Mapping[str, Tensor]:
        """By name, in the precision that D ran in."""
        return _Declared({k: v for k, v in self.judged.features.items() if k in self.view.features}, self._must)

    def pixel_grad(self, at: At = "x_in") -> Tensor:
        """d(sum_i D(x_i))/dx, fp32 [B,C,H,W], with graph; memoised. The sum goes over all images of the run of D.

        at: "x_in" the augmented image that D saw, "x" the image before augmentation: the vector-Jacobian product of T on the former, so that
        both share D's backward. D(x_i) is the score of image i.
        """
        self._must(self.view.pixel_grad, "pixel_grad=True")
        return gradients.by_pixels(self, at)[0]

    def grad_norm_sq(self, at: At = "x_in") -> Tensor:
        """Squared L2 norm of the gradient per image, fp32 [B]. Further inputs of a fake (its smaller scale) count as part of the image."""
        self._must(self.view.pixel_grad, "pixel_grad=True")
        return sum(g.square().flatten(1).sum(1) for g in gradients.by_pixels(self, at))


@dataclass(frozen=True)
class Facts:
    """What a term may want to know of the run when it is set up.

    count: training images (none of the held-out ones); flip: whether half of them are shown mirrored; batch: images of one D step over all
    processes; micro_batch: how many of them pass D together, on one device: what there is of negatives in a batch; paired: the loss compares
    reals with fakes (relativistic), so that a constant in D is free and the sign of a logit says nothing; augment_at: where the augmentation acts
    ("real", "fake_d", "fake_g"; None: not known).
    """

    count: int = 0
    flip: bool = False
    batch: int = 0
    micro_batch: int = 0
    paired: bool = False
    augment_at: tuple[str, ...] | None = None


class Nets(Protocol):
    """The networks, and the only door to extra passes: they run with the precision as set and network buffers frozen."""

    facts: Facts

    G: Generator
    D: Discriminator
    G_ema: Generator
    augment: Augment

    def autocast(self) -> AbstractContextManager:
        """The precision of the networks' passes, for a term's own heads: features reach it in that precision."""

    def latents(self, n: int, rng: Rng) -> tuple[Tensor, Tensor | None]:
        """z [n,z_dim] and labels c [n] (None without classes), drawn as the trainer draws them for the shared fakes."""

    def generate(self, z: Tensor, c: Tensor | None = None, *, rng: Rng) -> Generated: ...

    def judge(self, x: Tensor, c: Tensor | None = None, *, rng: Rng, want: frozenset[str] = frozenset(), augment: bool = True,
              extra: Mapping[str, Tensor] | None = None, net: Discriminator | None = None, pixel_grad: bool = False,
              logits: bool = True) -> Pass: ...


@dataclass(frozen=True)
class Context:
    """All that a term may see of one micro-batch. Held-out images may be looked at, never trained on: that pass has no graph.

    step: iterations done; substep: number of the D step within the iteration; images_seen: reals shown to D so far; batch: images of the
    global batch; slots: this micro-batch's range of them; rng: the term's own stream, the same whatever other terms there are.
    """

    side: Side
    step: int
    substep: int
    images_seen: int
    batch: int
    slots: range
    rng: Rng
    nets: Nets
    passes: Mapping[str, Pass] = field(default_factory=dict)

    def _pass(self, name: str) -> Pass:
        if name not in self.passes:
            raise RuntimeError(f"this term reads the {name} pass without declaring it: add {name}=View(...) to its needs(\"{self.side}\")")
        return self.passes[name]

    @property
    def real(self) -> Pass:
        return self._pass("real")

    @property
    def fake(self) -> Pass:
        return self._pass("fake")

    @property
    def heldout(self) -> Pass:
        return self._pass("heldout")


# ------------------------------------------------------------------------------------------------------------------ methods


@dataclass(frozen=True)
class Conflict:
    """Something that a method can't be combined with, as stated by its class (`conflicts` of a Term, Wrapper, Augment or Generator).

    what: in plain words, for `handful list` and docs/composition.md. applies(method, nets): true where it is so in this run; asked with D wrapped,
    before its `setup`. message: one line for the user; {name} stands for the method's name in the run, {found} for what `applies` returned and
    {remedy} for remedy, in which {name} is filled in too.
    """

    what: str
    applies: Callable[[Any, Nets], object]
    message: str
    remedy: str

    def refusal(self, method: Any, name: str, nets: Nets) -> str | None:
        """The message where the conflict applies, else None."""
        found = self.applies(method, nets)
        return self.message.format(name=name, found=found, remedy=self.remedy.format(name=name)) if found else None


class Term(nn.Module):
    """One addend of the objective, or an observer that adds nothing. State lives in buffers, written in `commit` alone.

    every: lazy interval in iterations; the trainer multiplies the loss by `gain` (None: by `every`; a number where a release does otherwise).
    own_step: an optimiser step of its own (StyleGAN2's lazy regularisation) rather than folded into the main one.
    observes: a controller that wants to see the passes of every step of its side, those of other terms' own steps too (ADA counts the logits of the
    lazy phase).
    exact_under_accumulation: False where the value of a batch is not the mean of those of its micro-batches; the run says so then.
    optim: which side trains a submodule of its own, by the submodule's name, and how: None, as that side's network; "g" or "d", with the settings of
    that one's, the lazy correction included; or settings as of optim_d ({"lr": 1e-3, "betas": (0, 0.99)}). What isn't named trains on D's side, or
    on G's where the term is idle on D's.
    conflicts: what it can't be combined with.
    roles: what only one term of a run can be ("controller of the augmentation's strength"): two that claim the same are refused. The class names all
    roles that it may claim, an object those that it does, known after `setup`.
    pretrained: the networks that it computes with where they are on the machine, and does without elsewhere (`settled`).
    """

    conflicts: ClassVar[tuple[Conflict, ...]] = ()

    every: int = 1
    own_step: bool = False
    gain: float | None = None
    observes: bool = False
    exact_under_accumulation: bool = True
    optim: Mapping[str, tuple[Side, Mapping[str, Any] | Side | None]] = {}
    roles: frozenset[str] = frozenset()
    pretrained: tuple[str, ...] = ()

    # What the rest of the package is told of a term, so that none is known there by its name.
    may_change: ClassVar[frozenset[str]] = frozenset()               # settings that may be changed when a run is resumed
    lengths: ClassVar[tuple[str, ...]] = ()                          # settings in kimg that a shortened run (`reproduce --scale`) shortens
    charts: ClassVar[Mapping[str, Mapping[str, str]]] = {}           # of the report: title -> {one of its stats on D's side: label}
    remedy: ClassVar[str] = ""                                       # against overfitting of D: "{name}" stands for the term's name in the run

    def settled(self, present: Collection[str]) -> Mapping[str, Any]:
        """Settings that depend on which of `pretrained` are present, as they are decided for a new run: they are stored with it, so that another
        machine goes on in the same way."""
        return {}

    def setup(self, nets: Nets) -> None:
        """Once, before training: build heads from `nets.D.feature_info`, copy a momentum encoder. Raise HandfulError where it can't serve
        for a reason that is no conflict of its class (a setting out of range, a network without the layers that it needs)."""

    def needs(self, side: Side) -> Needs | None:
        """What it wants of the passes of this side; None: idle there."""
        return None

    def active(self, side: Side, step: int, substep: int) -> bool:
        """Whether it runs in this step."""
        return step % self.every == 0

    def forward(self, ctx: Context) -> Result:
        """May run once per micro-batch; must not write own state."""
        raise NotImplementedError

    def commit(self, side: Side, means: Mapping[str, Tensor], gathered: Mapping[str, Tensor], nets: Nets, images: int) -> None:
        """Once per optimiser step, the only writer of own state.

        means: of its stats, scalars on the device, equal on all ranks; gathered: what it asked to gather, whole batches in global order;
        images: of the batch, 0 in a step that some term has of its own, so that counting them counts iterations.
        """

    @classmethod
    def fine_tuning(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings, as they were given, that change in a run that starts from trained weights."""
        return {}

    def assume_typical(self, nets: Nets) -> None:
        """Sets the state that it moves to a typical value before the cost of a step is timed. Everything is restored afterwards."""

    # The following are asked whenever the log is written. logged: the means of its stats as plain numbers, by their own names; and of the
    # adversarial loss in D's step (logits_real, logits_fake, r_t), where it has none of that name.

    def derived(self, logged: Mapping[str, float]) -> Mapping[str, float]:
        """Further values for the log, by their whole names ("d/r_v")."""
        return {}

    def status(self, logged: Mapping[str, float]) -> str:
        """What stands in the progress line: "p 0.12"; "" for nothing."""
        return ""

    def overfitting(self, logged: Mapping[str, float]) -> str | None:
        """A sign that D overfits, in words; "" where there is none, None where these values can't tell."""
        return None

    def advice(self, logged: Mapping[str, float]) -> str | None:
        """A line for the user, or None."""
        return None


@dataclass(frozen=True)
class LossContext:
    """What an adversarial loss may know besides the logits.

    rng: a random stream of its own. images_seen: reals shown to D before this step. batch: images of the step over all micro-batches and processes;
    the logits that it is given are those of one micro-batch.
    """

    rng: Rng
    images_seen: int = 0
    batch: int = 0


class AdversarialLoss:
    """Two functions of logits [B] or [B,*] (several of one image), each the mean over all of them: a scalar.

    heads: how a discriminator that names its heads (`Judged.heads`) is weighed: "all", the mean over all logits, so that a head of 56x56 logits
    outweighs one of 7x7 64 to 1; "each", the mean over heads of their means. paired: G's step wants the reals' logits too (relativistic).
    exact_under_accumulation: False where the value of a batch is not the mean of those of its micro-batches (top-k); the run says so then.
    """

    paired: ClassVar[bool] = False
    exact_under_accumulation: ClassVar[bool] = True

    def __init__(self, heads: Literal["all", "each"] = "all") -> None:
        self.heads = heads

    def d(self, real: Tensor, fake: Tensor, ctx: LossContext) -> Tensor:
        """D's loss. real, fake: logits of as many images."""
        raise NotImplementedError

    def g(self, fake: Tensor, real: Tensor | None, ctx: LossContext) -> Tensor:
        """G's loss. real: None unless `paired`."""
        raise NotImplementedError


@runtime_checkable
class Strength(Protocol):
    """Anything whose strength a controller may move: ADA's p, PA-GAN's bits, dropout's sigma."""

    p: Tensor


class Augment(nn.Module):
    """A differentiable, shape-preserving random map of images [B,C,H,W] in [-1,1]; every image has parameters of its own.

    wants_fakes: True where `reals` shows generated images as reals; they are then made for it, of the reals' own classes. identity: True where
    `draw` gives the images themselves, so that two views of one are the same. for_contrast: made for contrastive learning, whose views of an image
    differ strongly.
    """

    conflicts: ClassVar[tuple[Conflict, ...]] = ()
    wants_fakes: ClassVar[bool] = False
    for_contrast: ClassVar[bool] = False
    identity: bool = False

    def draw(self, x: Tensor, rng: Rng, extra: Mapping[str, Tensor] | None = None) -> Augmented:
        """What the trainer calls: random only through rng. extra: further scales of the same images, augmented with draws of their own."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """For anyone's loop: draws from torch's own generator."""
        return self.draw(x, ambient(x.device)).image

    def reals(self, x: Tensor, fakes: Tensor | None, rng: Rng) -> Tensor:
        """The images shown as reals (APA mixes in fakes: detached, as many as x, or None without `wants_fakes`). Default: x."""
        return x


@runtime_checkable
class Wrapper(Protocol):
    """A method that must live inside a discriminator (PA-GAN, adaptive dropout, ContraD's heads); listed among the terms.

    It may be a Term as well. What it puts around or into D is D's from then on: its parameters train with D's, its buffers are saved with D's.
    """

    def wrap(self, d: Discriminator) -> Discriminator: ...
