"""ContraD: its two contrasts against plain loops, where gradients go and where they don't, R1 beside it, and what it refuses."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handful.errors import HandfulError, UsageError
from handful.nn.equalized import EqualLinear
from handful.nn.spectral import Spectral
from handful.rng import Rng
from handful.terms import AdaptiveDropout, ContraD
from handful.terms.contrad import FAKE, REAL, nt_xent, supervised
from making import NARROW, noise_set, run_steps, tiny_trainer, weights
from tiny import TinyD


def use(name: str, **settings) -> str:
    return f"terms.{name}={json.dumps({'use': name, **settings})}"


def trainer_of(*more: str, **over):
    return tiny_trainer(use("contrad", hidden=16, width=8), "augment=simclr", *more, **over)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def pictures(n: int = 4, side: int = 16) -> torch.Tensor:
    return (torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(7)) * 2 - 1).double()


# -------------------------------------------------------------------------------------------------------------- the contrasts


def test_nt_xent_is_its_definition():
    a, b = unit(5, 6), unit(5, 6, seed=1)
    z, t = torch.cat([a, b]), 0.1
    loss = torch.zeros(10)
    for i in range(10):
        partner = (i + 5) % 10
        others = [math.exp(float(z[i] @ z[k]) / t) for k in range(10) if k != i]
        loss[i] = -math.log(math.exp(float(z[i] @ z[partner]) / t) / sum(others))
    assert torch.allclose(nt_xent(a, b, t).float(), (loss[:5] + loss[5:]) / 2, atol=1e-5)
    assert torch.allclose(nt_xent(a, a, 1e-3), torch.zeros(5).double(), atol=1e-6)            # the other view is the nearest
    same = F.normalize(torch.ones(4, 3).double(), dim=1)
    assert torch.allclose(nt_xent(same, same, t), torch.full((4,), math.log(7)).double())      # among 2 N - 1 alike


def test_supervised_contrast_is_its_definition():
    fakes, reals, t = unit(4, 6), unit(8, 6, seed=1), 0.1
    all_ = torch.cat([fakes, reals])
    loss = []
    for i in range(4):
        log_z = math.log(sum(math.exp(float(fakes[i] @ all_[k]) / t) for k in range(12) if k != i))
        loss.append(-sum(float(fakes[i] @ fakes[j]) / t - log_z for j in range(4) if j != i) / 3)
    assert torch.allclose(supervised(fakes, reals, t), torch.tensor(loss).double())
    same = F.normalize(torch.ones(4, 3).double(), dim=1)
    assert torch.allclose(supervised(same, torch.cat([same, same]), t), torch.full((4,), math.log(11)).double())


def test_contrasts_have_gradients_and_one_image_alone_adds_nothing():
    for f, shapes in ((nt_xent, ((3, 4), (3, 4))), (supervised, ((3, 4), (6, 4)))):
        args = [unit(*s, seed=i).requires_grad_() for i, s in enumerate(shapes)]
        assert torch.autograd.gradcheck(lambda a, b, f=f: f(a, b, 0.5), args)
    one, two = unit(1, 4).requires_grad_(), unit(2, 4, seed=3)
    losses = nt_xent(one, two[:1], 0.1), supervised(one, two, 0.1)
    assert all(v.item() == 0 for v in losses)
    grad, = torch.autograd.grad(losses[0].sum() + losses[1].sum(), one)
    assert torch.equal(grad, torch.zeros_like(grad))


def test_the_terms_loss_is_the_sum_over_the_views(monkeypatch):
    trainer = trainer_of("train.order=dg")
    term, seen = trainer.terms["contrad"], {}
    forward = term.forward

    def watching(ctx):
        judge = ctx.nets.judge

        def keeping(*args, **kwargs):
            seen["other"] = judge(*args, **kwargs)
            return seen["other"]

        monkeypatch.setattr(ctx.nets, "judge", keeping)
        result = forward(ctx)
        real, fake = ctx.real, ctx.fake
        views = [F.normalize(p.features[REAL].double(), dim=1) for p in (real, seen["other"])]
        as_fakes = [F.normalize(p.features[FAKE].double(), dim=1) for p in (real, seen["other"], fake)]
        same = nt_xent(*views, 0.1).mean()
        alike = supervised(as_fakes[2], torch.cat(as_fakes[:2]), 0.1).mean()
        assert result.loss.item() == pytest.approx((same + alike).item(), rel=1e-4) and result.stats["contrast_real"].shape == (8,)
        assert torch.equal(seen["other"].x, real.x) and not torch.equal(seen["other"].x_in, real.x_in)
        return result

    term.forward = watching
    runs = trainer.nets.runs
    trainer.step()
    assert "other" in seen and trainer.nets.runs == runs + 4                  # reals, fakes, the second view; G's fakes
    log = trainer.take_log()
    assert log["d/loss_contrad"] == pytest.approx(log["d/contrad/contrast_real"] + log["d/contrad/contrast_fake"], rel=1e-4)
    assert -1 <= log["d/contrad/cos_real"] <= 1 and not any(k.startswith("g/contrad") for k in log)


# ------------------------------------------------------------------------------------------------------------- where gradients go


def of_f(net) -> dict[str, torch.Tensor]:
    return {k: p for k, p in net.named_parameters() if k.startswith("inner.") and not k.startswith("inner.head.")}


def test_the_adversarial_loss_of_ds_step_trains_the_head_alone():
    d, x = ContraD(hidden=8, width=4).wrap(TinyD()).double(), pictures()
    judged = d(x, want=frozenset({"conv2", REAL}))
    assert judged.features.keys() == {"conv2", REAL} and judged.features[REAL].shape == (4, 4) and judged.logits.shape == (4,)
    F.softplus(-judged.logits).mean().backward()
    assert all(p.grad is None for p in of_f(d).values()) and all(p.grad.abs().sum() > 0 for p in d.to_logit.parameters())
    judged = d(x, want=frozenset({REAL}))
    judged.features[REAL].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in of_f(d).values())


def test_in_gs_step_the_gradient_reaches_the_image():
    d, x = ContraD(hidden=8, width=4).wrap(TinyD()).double(), pictures().requires_grad_()
    d.requires_grad_(False)
    logits = d(x * 1.0).logits
    grad, = torch.autograd.grad(F.softplus(-logits).mean(), x)
    f = d.inner(x, want=frozenset({"pre_logits"})).features["pre_logits"]
    by_hand, = torch.autograd.grad(F.softplus(-d.to_logit(f)[:, 0]).mean(), x)
    assert torch.allclose(grad, by_hand) and grad.abs().sum() > 0


@pytest.mark.parametrize("smooth", [False, True])
def test_r1_sees_through_the_closed_gate(smooth):
    """L = adversarial (of stopped features) + R1 (of all of D) + a contrast: the same gradients as when each is computed by itself."""
    d, gamma, c = ContraD(hidden=8, width=4).wrap(TinyD()).double(), 3.0, frozenset({REAL})
    if smooth:
        d.inner.stem.weight.data *= 3                                        # well into the bends of its activations
    x = pictures().requires_grad_()
    judged = d(x, want=c)
    grad, = torch.autograd.grad(judged.logits.sum(), x, create_graph=True)
    total = F.softplus(-judged.logits).mean() + gamma / 2 * grad.square().flatten(1).sum(1).mean() + judged.features[REAL].square().mean()
    total.backward()
    found = {k: p.grad.clone() for k, p in d.named_parameters() if p.grad is not None}

    d.zero_grad()
    x = pictures().requires_grad_()
    f = d.inner(x, want=frozenset({"pre_logits"})).features["pre_logits"]
    (F.softplus(-d.to_logit(f.detach())[:, 0]).mean() + d.heads[REAL](f).square().mean()).backward()
    f = d.inner(x, want=frozenset({"pre_logits"})).features["pre_logits"]
    grad, = torch.autograd.grad(d.to_logit(f)[:, 0].sum(), x, create_graph=True)
    (gamma / 2 * grad.square().flatten(1).sum(1).mean()).backward()
    by_hand = {k: p.grad for k, p in d.named_parameters() if p.grad is not None}
    assert found.keys() >= of_f(d).keys() and all(torch.allclose(found[k], by_hand[k], rtol=1e-9, atol=1e-12) for k in found)


@pytest.mark.parametrize("joint", ["false", "true"])
def test_in_a_run_d_learns_features_by_contrast_and_r1_alone(joint):
    """Two adversarial losses: after one step of D the features are the same bit for bit, the heads that judge are not. G learns from both."""
    a, b = (trainer_of(f"loss={loss}", f"train.joint={joint}", use("r1", gamma=1.0, at="x")) for loss in ("non_saturating", "least_squares"))
    fresh = copy.deepcopy(a.nets.G.state_dict())
    for t in (a, b):
        t.step()
    same, other = of_f(a.nets.D), of_f(b.nets.D)
    assert same and all(torch.equal(p, other[k]) for k, p in same.items())
    assert not torch.equal(a.nets.D.to_logit[0].weight, b.nets.D.to_logit[0].weight)
    assert not torch.equal(a.nets.G.dense.weight, fresh["dense.weight"])
    without = trainer_of(f"train.joint={joint}")
    without.step()
    assert not all(torch.equal(p, same[k]) for k, p in of_f(without.nets.D).items())           # R1 did reach them
    assert a.take_log()["d/bad_grads"] == 0


def test_everything_that_should_train_does_and_the_rest_is_frozen():
    trainer = trainer_of()
    before = {k: v.clone() for k, v in trainer.nets.D.state_dict().items()}
    run_steps(trainer, 2)
    moved = {k for k, v in trainer.nets.D.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == before.keys() - {"inner.head.weight", "inner.head.bias"}
    assert not any(k.startswith("contrad") for k in trainer.terms.state_dict())               # all of it is D's


@pytest.mark.parametrize("arch, kind", [("stylegan2", EqualLinear), ("sngan", Spectral), ("biggan", Spectral), ("dcgan", nn.Linear),
                                        ("r3gan", nn.Linear)])
def test_every_architecture_of_one_scale_trains(arch, kind):
    narrow = NARROW.get(arch, {"g": {}, "d": {}})
    trainer = trainer_of("data.resolution=32", "train.batch=4", dataset=noise_set(8, resolution=32), g={"use": arch, **narrow["g"]},
                         d={"use": arch, **narrow["d"]})
    d = trainer.nets.D
    assert all(isinstance(head[i], kind) for head in (d.to_logit, *d.heads.values()) for i in (0, 2))
    assert d.feature_info[REAL].channels == 8 and d.feature_info.keys() > d.inner.feature_info.keys() and d.stem is d.inner.stem
    before = {k: p.detach().clone() for k, p in d.named_parameters() if p.requires_grad}
    run_steps(trainer, 2)
    still = [k for k, p in d.named_parameters() if k in before and torch.equal(p, before[k])]
    assert not still and trainer.take_log()["d/bad_grads"] == 0
    frozen = {k for k, _ in d.named_parameters()} - before.keys()
    assert frozen and all(k.split(".")[-2] in ("out", "to_logit") for k in frozen)


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_the_compiler_closes_the_gate_too(monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: real(m, backend="aot_eager"))
    plain, twin = (run_steps(trainer_of(use("r1", every=2), compile=c), 3) for c in (False, True))
    assert (weights(plain) - weights(twin)).abs().max() < 1e-4


def test_goes_on_bit_for_bit_and_copies_are_independent():
    straight, first, second = (trainer_of(use("r1", gamma=1.0)) for _ in range(3))
    run_steps(straight, 4)
    second.load_state_dict(copy.deepcopy(run_steps(first, 2).state_dict()))
    assert torch.equal(weights(run_steps(second, 2)), weights(straight))
    d = straight.nets.D
    other, x = copy.deepcopy(d), pictures().float()
    was = d(x).logits.detach().clone()
    other.to_logit[0].weight.data.zero_()
    other.inner.stem.weight.data.zero_()
    assert torch.equal(d(x).logits, was) and not torch.equal(other(x).logits, was)


def test_lies_around_dropout_and_under_bits():
    trainer = run_steps(tiny_trainer(use("adaptive_dropout", p=0.3), use("contrad", hidden=16, width=8), use("pa_gan", p=0.3), "augment=simclr"), 2)
    d = trainer.nets.D
    assert d.inner.inner.widths == [8, 16, 16] and trainer.take_log()["d/bad_grads"] == 0
    x = torch.rand(6, 3, 16, 16)
    signs = [torch.sign(d(x, rng=Rng(s)).logits) for s in range(8)]
    assert len({tuple(s.tolist()) for s in signs}) > 1
    dropped = AdaptiveDropout(p=0.3).wrap(ContraD(hidden=16, width=8).wrap(TinyD()))
    assert dropped.widths == [8, 16, 16, 16]                                 # the judging head's first layer, not its second


# ----------------------------------------------------------------------------------------------------------------- what it refuses


def test_what_it_cannot_serve_is_refused_with_the_remedy():
    with pytest.raises(HandfulError, match="without an augmentation they are the same: take one .--set augment=simclr"):
        tiny_trainer(use("contrad"))
    with pytest.raises(HandfulError, match="there is one in each: give train.batch and train.micro_batch 2 or more"):
        trainer_of("train.micro_batch=1")
    with pytest.raises(HandfulError, match="knows no classes: train without labels"):
        trainer_of(dataset=noise_set(classes=3))
    with pytest.raises(HandfulError, match="fastgan looks at further scales of it apart: take another architecture"):
        trainer_of("data.resolution=64", dataset=noise_set(8, resolution=64), g={"use": "fastgan", "ngf": 4}, d={"use": "fastgan", "ndf": 4})
    with pytest.raises(HandfulError, match="list contrad before it"):
        tiny_trainer(use("pa_gan"), use("adaptive_dropout"), use("contrad"), "augment=simclr")
    with pytest.raises(HandfulError, match="both want to be the method that contrasts fakes"):
        trainer_of(use("insgen", queue_real=8, queue_fake=8))
    for bad in ({"temperature": 0.0}, {"weight_fake": -1.0}, {"hidden": 0}):
        with pytest.raises(UsageError, match="or more"):
            ContraD(**bad)


def test_it_says_what_differs():
    assert any("published with views that differ strongly" in n for n in tiny_trainer(use("contrad"), "augment=diffaug").notes)
    whole = trainer_of()
    assert not any("contrad" in n for n in whole.notes)
    parts = run_steps(trainer_of("train.micro_batch=4"), 1)                  # negatives of each alone
    assert any("contrad" in n and "computed per micro-batch" in n for n in parts.notes) and parts.take_log()["d/bad_grads"] == 0


def test_views_that_are_the_same_are_refused():
    for settings in (["augment=none"], ['augment={"use": "apa", "p": 0.5}'], ['augment={"use": "ada", "policy": ""}']):
        with pytest.raises(HandfulError, match="without an augmentation they are the same"):
            tiny_trainer("terms.contrad={}", *settings)
    with pytest.raises(HandfulError, match="train.augment_at leaves some pictures as they are"):
        tiny_trainer("terms.contrad={}", "augment=simclr", 'train.augment_at=["real"]')
    assert tiny_trainer("terms.contrad.weight_fake=0", "terms.fake_contrast={}", "augment=simclr").iteration == 0      # no fakes in it: both may be


def test_all_refusals_are_said_at_once():
    with pytest.raises(HandfulError, match="ada_controller: nothing here has a strength.*; and terms.contrad compares two views"):
        tiny_trainer("terms.ada_controller={}", "terms.contrad={}")
