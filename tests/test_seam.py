"""The test of the seam: sketches of the methods that later versions bring, each one class and no edit elsewhere.

They are drawn after their papers in miniature, to show that what each needs (a controller that sees lazy phases, state per slot, heads with
optimisers of their own, a discriminator with random bits inside, second order through G) is there; not to be used.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handful.seam import Augment, Augmented, Discriminator, Needs, Result, Term, View
from making import noise_set, run_steps, tiny_trainer, weights

OVER = {"augment": {"use": "test_seam:Mirror"}}


class Mirror(Augment):
    """Something with a strength: mirrors a share p of the images."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("p", torch.tensor(p))

    def draw(self, x, rng, extra=None):
        on = (rng.rand(len(x)) < self.p)[:, None, None, None]
        return Augmented(torch.where(on, x.flip(3), x), extra or {}, {"on": on[:, 0, 0, 0]})


class Controller(Term):
    """ADA's: every 4 iterations p moves by the sign of (mean sign of D's logits on reals - target), lazy phases counted in."""

    observes = True

    def __init__(self, speed: float = 0.1) -> None:
        super().__init__()
        self.speed = speed
        for name in ("total", "count", "images"):
            self.register_buffer(name, torch.zeros(()))

    def needs(self, side):
        return Needs(real=View(logits=True)) if side == "d" else None

    def forward(self, ctx):
        return Result(stats={"sign": ctx.real.logits.sign()})

    def commit(self, side, means, gathered, nets, images):
        self.total += means["sign"]
        self.count += 1
        self.images += images
        due = self.images >= 4 * 8
        step = torch.sign(self.total / self.count - 0.6) * self.speed
        nets.augment.p.add_(torch.where(due, step, 0)).clamp_(0, 1)
        for b in (self.total, self.count, self.images):
            b.mul_(~due)


class GradientGap(Term):
    """DigGAN's: per-sample gradient norms at T(x), averaged slot by slot with those of the last time; the first D step alone."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("state", torch.full((2, 8), float("nan")))

    def needs(self, side):
        view = View(logits=True, pixel_grad=True)
        return Needs(real=view, fake=view) if side == "d" else None

    def active(self, side, step, substep):
        return substep == 0

    def forward(self, ctx):
        norms = torch.stack([p.grad_norm_sq("x_in").sqrt() for p in (ctx.real, ctx.fake)])                  # [2,b]
        before = self.state[:, ctx.slots.start:ctx.slots.stop]
        norms = torch.where(before.isnan(), norms, 0.5 * norms + 0.5 * before)
        return Result(self.weight * (norms[0] - norms[1]).square().mean(), gather={"real": norms[0], "fake": norms[1]})

    def commit(self, side, means, gathered, nets, images):
        self.state.copy_(torch.stack([gathered["real"], gathered["fake"]]))


class PathLength(Term):
    """StyleGAN2's, by z: an own lazy step of G, half a batch of its own, second order through G."""

    own_step = True

    def __init__(self, weight: float = 2.0, every: int = 4) -> None:
        super().__init__()
        self.weight, self.every = weight, every
        self.register_buffer("mean", torch.zeros(()))

    def needs(self, side):
        return Needs() if side == "g" else None

    def forward(self, ctx):
        half = range(ctx.slots.start // 2, ctx.slots.stop // 2)
        rng = ctx.rng.fork("half", batch=ctx.batch // 2, slots=half)
        z, c = ctx.nets.latents(len(half), rng)
        out = ctx.nets.generate(z.requires_grad_(), c, rng=rng.fork("noise"))
        y = rng.fork("y").randn(len(half), *out.image.shape[1:]) / out.image[0, 0].numel() ** 0.5
        grad, = torch.autograd.grad((out.image * y).sum(), out.latent, create_graph=True)
        length = grad.square().sum(1).sqrt()
        return Result(self.weight * (length - self.mean).square().mean(), {"length": length})

    def commit(self, side, means, gathered, nets, images):
        self.mean.lerp_(means["length"], 0.01)


class Instances(Term):
    """InsGen's: a head per side of D's features with settings of its own, a momentum copy of D, a ring of keys."""

    optim = {"head": ("d", {"lr": 1e-2, "betas": (0.0, 0.99)}), "fake_head": ("d", {"lr": 2e-2, "betas": (0.0, 0.99)})}
    exact_under_accumulation = True

    def __init__(self, length: int = 24) -> None:
        super().__init__()
        self.register_buffer("queue", F.normalize(torch.randn(length, 4), dim=1))
        self.register_buffer("at", torch.zeros((), dtype=torch.long))

    def setup(self, nets):
        width = nets.D.feature_info["pre_logits"].channels
        self.head, self.fake_head = nn.Linear(width, 4), nn.Linear(width, 4)
        self.momentum = copy.deepcopy(nets.D).requires_grad_(False)

    def needs(self, side):
        return Needs(real=View(features=frozenset({"pre_logits"})), fake=View(features=frozenset({"pre_logits"}))) if side == "d" else None

    def forward(self, ctx):
        loss, keys = 0.0, []
        for head, p in ((self.head, ctx.real), (self.fake_head, ctx.fake)):
            query = F.normalize(head(p.features["pre_logits"].float()), dim=1)
            with torch.no_grad():
                again = ctx.nets.judge(p.x.detach(), p.c, rng=ctx.rng.fork("key"), want=frozenset({"pre_logits"}), net=self.momentum)
                key = F.normalize(head(again.features["pre_logits"].float()), dim=1)
            logits = torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue.T], 1) / 0.2
            loss = loss + F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
            keys.append(key)
        return Result(loss, gather={"keys": keys[0]})

    def commit(self, side, means, gathered, nets, images):
        rows = (self.at + torch.arange(len(gathered["keys"]))) % len(self.queue)
        self.queue[rows] = gathered["keys"]
        self.at.copy_((self.at + len(rows)) % len(self.queue))
        torch._foreach_lerp_(list(self.momentum.parameters()), list(nets.D.parameters()), 0.001)


class _WithBits(Discriminator):
    draws = True

    def __init__(self, inner: Discriminator, strength: float) -> None:
        super().__init__()
        self.inner, self.feature_info, self.num_classes = inner, inner.feature_info, inner.num_classes
        self.stem, self.mix = inner.stem, nn.Conv2d(4, 3, 1)
        self.register_buffer("p", torch.tensor(strength))

    def forward(self, image, c=None, extra=None, want=frozenset(), *, rng):
        bit = (rng.rand(len(image), 1, 1, 1) < self.p).float().expand(-1, 1, *image.shape[2:])
        return self.inner(self.mix(torch.cat([image, bit], 1)), c, extra, want)


class Bits:
    """PA-GAN's place: random bits beside the image, inside the discriminator. A wrapper and no term."""

    def __init__(self, strength: float = 0.5) -> None:
        self.strength = strength

    def wrap(self, d):
        return _WithBits(d, self.strength)


def use(name: str, **keywords) -> str:
    import json

    return f"terms.{name.lower()}={json.dumps({'use': f'test_seam:{name}', **keywords})}"


ALL = [use("Controller"), use("GradientGap"), use("PathLength"), use("Instances"), use("Bits"), "terms.r1.own_step=true", "terms.r1.every=2",
       "terms.lecam.update=after", "terms.lecam.start=0", "train.d_steps=2"]


def test_a_controller_sees_the_lazy_phase_and_counts_iterations():
    trainer = tiny_trainer(use("Controller"), "terms.r1.own_step=true", "terms.r1.every=2", **OVER)
    assert [(p.key, p.names) for p in trainer.plan if p.side == "d"] == [("d:main", ("adv", "controller")), ("d:2", ("controller", "r1"))]
    assert trainer.optim["d"].param_groups[0]["lr"] == pytest.approx(2e-4 * 2 / 3)              # the observer is no phase of its own
    controller = trainer.terms["controller"]
    counts = []
    for _ in range(3):
        trainer.step()
        counts.append((controller.count.item(), controller.images.item()))
    assert counts == [(2, 8), (3, 16), (5, 24)]
    trainer.nets.augment.p.fill_(0.5)
    trainer.step()
    assert controller.count == 0 and abs(trainer.nets.augment.p - 0.5) == pytest.approx(0.1)
    assert trainer.state_dict()["augment"]["p"] == trainer.nets.augment.p


def test_gradient_gap_shares_the_gradient_with_r1_and_keeps_slots_apart():
    plain = run_steps(tiny_trainer("terms.r1.at=x_in", **OVER), 1).nets.runs
    both = run_steps(tiny_trainer("terms.r1.at=x_in", use("GradientGap"), **OVER), 1)
    assert both.nets.runs == plain and both.terms["gradientgap"].state.isfinite().all()
    parts = run_steps(tiny_trainer("terms.r1.at=x_in", use("GradientGap"), "train.micro_batch=2", **OVER), 2)
    whole = run_steps(both, 1)
    assert torch.allclose(parts.terms["gradientgap"].state, whole.terms["gradientgap"].state, atol=1e-5)


def test_heads_train_with_settings_of_their_own():
    trainer = tiny_trainer(use("Instances"), **OVER)
    groups = {g["name"]: g for g in trainer.optim["d"].param_groups}
    assert groups["instances.head"]["lr"] == 1e-2 and groups["instances.fake_head"]["lr"] == 2e-2
    assert not any("instances" in g["name"] for g in trainer.optim["g"].param_groups)
    before = {k: v.clone() for k, v in trainer.terms.state_dict().items()}
    run_steps(trainer, 2)
    moved = {k.split(".")[1] for k, v in trainer.terms.state_dict().items() if not torch.equal(v, before[k])}
    assert {"head", "fake_head", "queue", "at"} <= moved


@pytest.mark.parametrize("joint", [False, True])
def test_a_wrapper_draws_through_the_same_streams(joint):
    settings = [use("Bits"), f"train.joint={str(joint).lower()}", "terms.r1.gamma=1.0"]
    whole, parts = (run_steps(tiny_trainer(*settings, *more, **OVER), 2) for more in ([], ["train.micro_batch=2"]))
    assert torch.allclose(weights(whole), weights(parts), rtol=0, atol=3e-5)
    assert "mix.weight" in whole.state_dict()["D"]
    assert not torch.equal(whole.state_dict()["D"]["mix.weight"], tiny_trainer(*settings, **OVER).state_dict()["D"]["mix.weight"])


@pytest.mark.parametrize("classes", [0, 3])
def test_all_of_them_together_accumulate_and_resume(classes):
    def make(*more):
        return tiny_trainer(*ALL, *more, dataset=noise_set(classes=classes), optim_g={"eps": 1e-3}, optim_d={"eps": 1e-3}, **OVER)

    straight = run_steps(make(), 6)
    assert torch.isfinite(weights(straight)).all()
    second = make()
    second.load_state_dict(copy.deepcopy(run_steps(make(), 3).state_dict()))
    assert torch.equal(weights(run_steps(second, 3)), weights(straight))
    assert torch.allclose(weights(run_steps(make("train.micro_batch=4"), 6)), weights(straight), rtol=0, atol=1e-4)
    log = straight.take_log()
    assert log["d/bad_grads"] == log["g/bad_grads"] == 0 and "g/pathlength/length" in log
