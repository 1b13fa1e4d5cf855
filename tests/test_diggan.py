"""DigGAN: its average slot by slot, its pairings, the release's literal behaviour, its state, and what it shares with other penalties."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch

from formulas import Formula, call, linear, pictures
from handful.errors import HandfulError, UsageError
from handful.terms import DigGAN
from handful.terms.diggan import dig_penalty, weight_for
from making import noise_set, of_two_processes, run_steps, tiny_trainer, weights
from tiny import TinyD

R1 = torch.tensor([1.0, 2.0, 3.0, 4.0])                    # norms on reals and on fakes in three batches
F1 = torch.tensor([2.0, 2.0, 1.0, 0.5])
R2, F2 = torch.tensor([3.0, 1.0, 0.0, 2.0]), torch.tensor([1.0, 4.0, 2.0, 2.5])
R3, F3 = torch.tensor([0.5, 5.0, 1.0, 1.0]), torch.tensor([2.0, 1.0, 3.0, 0.0])


def steep(slopes: torch.Tensor) -> Formula:
    """D(x_i) = slope_i sum(x_i) / sqrt(its values): the length of its gradient by image i is |slope_i|."""
    return Formula(lambda x, extra: slopes * x.flatten(1).sum(1) / x[0].numel() ** 0.5)


def batch(term: DigGAN, real: torch.Tensor, fake: torch.Tensor, parts: int = 1, **ctx):
    """One step on images with gradients of these lengths, in `parts` micro-batches: the mean loss; the state is committed."""
    results = []
    for at in range(0, len(real), len(real) // parts):
        slots = range(at, at + len(real) // parts)
        slopes = {"real": real[at:slots.stop], "fake": fake[at:slots.stop]}
        results.append(by_side(term, slopes, slots, len(real), **ctx))
    gathered = {k: torch.cat([r.gather[k] for r in results]).detach() for k in results[0].gather}
    term.commit("d", {}, gathered, None, len(real))
    return sum(r.loss for r in results) / parts, results


def by_side(term, slopes, slots, size, **ctx):
    """A call whose real and fake pass have discriminators of their own."""
    from tiny import context, look

    passes = {k: look(steep(v), pictures(len(v)).float(), term.needs("d").real) for k, v in slopes.items()}
    return term(context(slots=slots, batch=size, **passes, **ctx))


def value(real, fake):
    return (real - fake).square().mean().item()


# --------------------------------------------------------------------------------------------------- what it computes, by hand


def test_three_batches_slot_by_slot():
    """g_1; then (g_before + g) / 2 in every slot, the past detached: d/dg_F,i = weight (2 / B) alpha (g_F,i - g_R,i)."""
    term = DigGAN(weight=7.0)
    loss, (result,) = batch(term, R1, F1)
    assert loss.item() == pytest.approx(7 * value(R1, F1)) and result.stats["gap"].tolist() == pytest.approx((R1 - F1).square().tolist())
    fake = F2.clone().requires_grad_()
    loss, (result,) = batch(term, R2, fake)
    real2, fake2 = (R1 + R2) / 2, (F1 + F2) / 2
    assert loss.item() == pytest.approx(7 * value(real2, fake2))
    torch.testing.assert_close(torch.autograd.grad(loss, fake)[0], 7 * 2 / 4 * 0.5 * (fake2 - real2))
    assert result.stats["gap"].tolist() == pytest.approx((R2 - F2).square().tolist())                      # raw, as the paper plots it
    assert result.stats["penalty"].mean().item() == pytest.approx(loss.item())
    assert result.stats["grad_norm_real"].tolist() == pytest.approx(R2.tolist()) and not any(v.requires_grad for v in result.stats.values())
    loss, _ = batch(term, R3, F3)
    assert loss.item() == pytest.approx(7 * value((real2 + R3) / 2, (fake2 + F3) / 2))
    torch.testing.assert_close(term.real_norms, (real2 + R3) / 2)


def test_alpha():
    term = DigGAN(weight=1.0, alpha=0.2)
    batch(term, R1, F1)
    assert batch(term, R2, F2)[0].item() == pytest.approx(value(0.8 * R1 + 0.2 * R2, 0.8 * F1 + 0.2 * F2))
    plain = DigGAN(weight=1.0, alpha=1.0)
    batch(plain, R1, F1)
    assert batch(plain, R2, F2)[0].item() == pytest.approx(value(R2, F2))


def test_sorted_compares_by_rank_and_averages_by_rank():
    term = DigGAN(weight=1.0, pairing="sorted")
    loss, (result,) = batch(term, R1, F1)
    assert loss.item() == pytest.approx(value(R1, torch.tensor([0.5, 1.0, 2.0, 2.0])))
    assert result.stats["gap"].mean().item() == pytest.approx(loss.item())
    loss, _ = batch(term, R2, F2)
    real, fake = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 2.5, 4.0])
    assert loss.item() == pytest.approx(value((R1 + real) / 2, (torch.tensor([0.5, 1.0, 2.0, 2.0]) + fake) / 2))
    assert not term.exact_under_accumulation


def test_batch_means_leave_the_spread_alone():
    term = DigGAN(weight=1.0, reduction="batch_mean_norm")
    assert batch(term, R1, R1.flip(0))[0].item() == 0 and not term.exact_under_accumulation
    term = DigGAN(weight=1.0, reduction="batch_mean_norm")
    batch(term, R1, F1)
    assert batch(term, R2, F2)[0].item() == pytest.approx((((R1 + R2) / 2).mean() - ((F1 + F2) / 2).mean()).item() ** 2)


@pytest.mark.parametrize("alpha", [0.5, 0.3])
def test_studiogan_literally(alpha):
    """The first time reals count; then weight (1 - alpha)^2 mean (f - f_before)^2, f_before the raw norms of the last time."""
    term = DigGAN(weight=1.0, alpha=alpha, studiogan_literal=True)
    assert batch(term, R1, F1)[0].item() == pytest.approx(value(R1, F1))
    real, fake = R2.clone().requires_grad_(), F2.clone().requires_grad_()
    loss, _ = batch(term, real, fake)
    assert loss.item() == pytest.approx((1 - alpha) ** 2 * value(F2, F1))
    d_real, d_fake = torch.autograd.grad(loss, (real, fake), allow_unused=True)
    assert d_real is None or not d_real.any()
    torch.testing.assert_close(d_fake, 2 / 4 * (1 - alpha) ** 2 * (F2 - F1))
    assert batch(term, R3, F3)[0].item() == pytest.approx((1 - alpha) ** 2 * value(F3, F2))


@pytest.mark.parametrize("keywords", [{}, {"pairing": "sorted"}, {"reduction": "batch_mean_norm"}, {"studiogan_literal": True}])
def test_the_function_is_the_term(keywords):
    """On one network, batch by batch, reals and fakes in one pass or in two; with gradients to D's weights."""
    torch.manual_seed(0)
    D, term, state = TinyD(), DigGAN(weight=1.0, alpha=0.3, **keywords), None
    for step in range(3):
        real, fake = pictures(5, step, 16, 3).float(), pictures(5, step + 9, 16, 3).float()
        result = call(term, D, real, fake)
        leaves = real.clone().requires_grad_(), fake.clone().requires_grad_()
        logits = D(torch.cat(leaves)).logits.chunk(2) if step % 2 else [D(x).logits for x in leaves]
        penalty, state = dig_penalty(logits[0], leaves[0], logits[1], leaves[1], state, 0.3, **keywords)
        torch.testing.assert_close(penalty, result.loss)
        weights_of = [p for n, p in D.named_parameters() if n != "head.bias"]
        torch.testing.assert_close(*(torch.autograd.grad(v, weights_of) for v in (penalty, result.loss)))
        term.commit("d", {}, {k: v.detach() for k, v in result.gather.items()}, None, 5)
        torch.testing.assert_close(state, (term.real_norms, term.fake_norms))
        assert not state[0].requires_grad


def test_the_function_bears_another_batch_size_and_refuses_uneven_ones():
    x = pictures(2).requires_grad_()
    logits = linear(torch.ones(16, dtype=torch.float64))(x).logits
    other = (3 * x.detach()).requires_grad_()
    _, state = dig_penalty(logits, x, 2 * other.flatten(1).sum(1), other, (torch.tensor([1.0, 2, 6]).double(), torch.zeros(3).double()))
    assert state[0].tolist() == pytest.approx([3.5, 3.5]) and state[1].tolist() == pytest.approx([4, 4])            # |w| = 4, mean 3
    with pytest.raises(ValueError, match="2 reals and 1 fakes"):
        dig_penalty(logits, x, logits[:1], x[:1])


def test_weights_by_the_share_of_the_data():
    assert [weight_for(a, False) for a in (1, 0.2, 0.1)] == [1000, 5000, 10000]
    assert [weight_for(a, True) for a in (1, 0.2, 0.1)] == pytest.approx([10, 250, 1000])
    with pytest.raises(UsageError, match="fraction=20"):
        weight_for(20, True)


# ------------------------------------------------------------------------------------------------------------------- its state


def test_micro_batches_hold_to_their_slots():
    whole, cut = DigGAN(weight=1.0), DigGAN(weight=1.0)
    for real, fake in ((R1, F1), (R2, F2), (R3, F3)):
        assert batch(whole, real, fake)[0].item() == pytest.approx(batch(cut, real, fake, parts=2)[0].item())
        assert torch.equal(whole.real_norms, cut.real_norms) and torch.equal(whole.fake_norms, cut.fake_norms)


def test_another_batch_size_starts_from_the_mean():
    term = DigGAN(weight=1.0)
    batch(term, R1, F1)
    loss, _ = batch(term, R2[:2], F2[:2])
    assert loss.item() == pytest.approx(value((R1.mean() + R2[:2]) / 2, (F1.mean() + F2[:2]) / 2)) and len(term.real_norms) == 2


def test_state_is_saved_and_loads_into_a_fresh_term():
    term, fresh = DigGAN(weight=1.0), DigGAN(weight=1.0)
    empty = copy.deepcopy(term.state_dict())
    batch(term, R1, F1)
    fresh.load_state_dict(term.state_dict())
    assert batch(term, R2, F2)[0] == batch(fresh, R2, F2)[0]
    fresh.load_state_dict(empty)                                               # back to the beginning: unsmoothed again
    assert batch(fresh, R2, F2)[0].item() == pytest.approx(value(R2, F2))


def test_what_is_not_finite_leaves_no_trace():
    term = DigGAN(weight=1.0)
    batch(term, R1, F1)
    batch(term, torch.tensor([float("inf"), 1.0, 0.0, 2.0]), F2)
    torch.testing.assert_close(term.real_norms, torch.tensor([1.0, 1.5, 1.5, 3.0]))


@pytest.mark.parametrize("settings", [["pairing=same_class"], ["pairing=sorted"], ["substeps=all", "every=2"], ["own_step=true", "every=2"],
                                      ["studiogan_literal=true"], ["at=x", "reduction=batch_mean_norm"], ["weight=0"]])
def test_resume_bit_for_bit_and_micro_batches(settings):
    def make(*more):
        lines = [f"terms.diggan.{s}" for s in ("weight=10", *settings)]
        return tiny_trainer(*lines, "train.d_steps=2", "augment=diffaug", *more, dataset=noise_set(classes=3), optim_d={"eps": 1e-3},
                            optim_g={"eps": 1e-3})

    straight, second = run_steps(make(), 4), make()
    second.load_state_dict(copy.deepcopy(run_steps(make(), 2).state_dict()))
    assert torch.equal(weights(run_steps(second, 2)), weights(straight))
    log = straight.take_log()
    assert log["d/bad_grads"] == 0 and log["d/diggan/gap"] > 0 and log["d/diggan/grad_norm_fake"] > 0
    if straight.terms["diggan"].exact_under_accumulation:
        torch.testing.assert_close(weights(run_steps(make("train.micro_batch=4"), 4)), weights(straight), rtol=0, atol=1e-5)
    if settings == ["weight=0"]:
        bare = run_steps(tiny_trainer("train.d_steps=2", "augment=diffaug", dataset=noise_set(classes=3), optim_d={"eps": 1e-3},
                                      optim_g={"eps": 1e-3}), 4)
        assert torch.equal(weights(bare), weights(straight)[:-16])             # it watches, and all else is as without it


def test_two_gloo_processes_equal_one(tmp_path):
    a, b = of_two_processes(__file__, tmp_path)
    one = run_steps(tiny_trainer(*SHARED, dataset=noise_set(classes=3)), 3)
    assert torch.equal(a, b) and (weights(one) - a).abs().max() < 1e-5


SHARED = ["terms.diggan.pairing=same_class", "terms.consistency.weight=1", "terms.gradient_penalty.weight=1", "augment=diffaug",
          "terms.orthogonal.of=both", "optim_g.eps=1e-3", "optim_d.eps=1e-3"]


def work(out: Path) -> None:
    from handful.training import distributed

    torch.set_num_threads(1)
    rank, world = distributed.start(torch.device("cpu"))
    torch.save(weights(run_steps(tiny_trainer(*SHARED, dataset=noise_set(classes=3), rank=rank, world=world), 3)), out / f"rank{rank}.pt")
    distributed.leave()


# --------------------------------------------------------------------------------------------------------- its place in the step


def test_when_it_runs_and_what_it_is_multiplied_by():
    term = DigGAN(every=4)
    assert [term.active("d", *at) for at in ((0, 0), (0, 1), (1, 0), (4, 0))] == [True, False, False, True]
    assert DigGAN(substeps="all").active("d", 3, 2)
    trainer = tiny_trainer("terms.diggan.every=4", "train.d_steps=2")
    assert next(p for p in trainer.plan if p.side == "d").gain["diggan"] == 1.0
    counts = []
    forward = trainer.terms["diggan"].forward
    trainer.terms["diggan"].forward = lambda ctx: (counts.append((ctx.step, ctx.substep)), forward(ctx))[1]
    run_steps(trainer, 5)
    assert counts == [(0, 0), (4, 0)]


def test_beside_r1s_lazy_step_it_costs_no_step_and_no_backward(differentiations):
    lazy = ["terms.r1.own_step=true", "terms.r1.every=2", "terms.r1.at=x_in", "train.joint=true"]
    alone = run_steps(tiny_trainer(*lazy), 2)
    spent = differentiations.clear()
    both = run_steps(tiny_trainer(*lazy, "terms.diggan.own_step=true", "terms.diggan.every=2"), 2)
    assert [(p.key, p.names) for p in both.plan if p.side == "d"] == [("d:main", ("adv",)), ("d:2", ("r1", "diggan"))]
    assert both.optim["d"].param_groups[0]["lr"] == alone.optim["d"].param_groups[0]["lr"]
    assert differentiations.clear() == spent == 1 and both.plan[1].gain == {"r1": 2.0, "diggan": 1.0}


@pytest.fixture
def differentiations(monkeypatch):
    """Counts torch.autograd.grad: each call is one backward through D."""
    class Count:
        n = 0

        def clear(self):
            n, self.n = self.n, 0
            return n

    count, grad = Count(), torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (setattr(count, "n", count.n + 1), grad(*a, **k))[1])
    return count


@pytest.mark.parametrize("joint, runs", [(True, 1), (False, 2)])
def test_penalties_share_their_gradients(joint, runs, differentiations):
    """R1, R2 and DigGAN: one backward through D where it ran on both halves at once, else one per pass; never one per penalty."""
    def spent(*terms):
        settings = [f'terms.{t}={json.dumps({"use": t, **({} if t == "diggan" else {"at": "x_in"})})}' for t in terms]
        trainer = run_steps(tiny_trainer(*settings, f"train.joint={str(joint).lower()}"), 1)
        return differentiations.clear(), trainer.nets.runs

    none, passes = spent()
    assert none == 0
    for terms in (("r1", "r2"), ("diggan",), ("r1", "diggan"), ("r1", "r2", "diggan")):
        assert spent(*terms) == (runs, passes)


def test_same_class_gives_fakes_the_labels_of_the_reals():
    trainer = tiny_trainer("terms.diggan.pairing=same_class", "train.d_steps=2", dataset=noise_set(classes=3))
    seen = []
    term = trainer.terms["adv"]
    forward = term.forward
    term.forward = lambda ctx: (seen.append(ctx.side == "d" and torch.equal(ctx.real.c, ctx.fake.c)), forward(ctx))[1]
    run_steps(trainer, 1)
    assert seen == [True, False, False]                                        # the first D step alone
    with pytest.raises(HandfulError, match="same_class pairs images of one class, but these networks have no classes.*--labels folders"):
        tiny_trainer("terms.diggan.pairing=same_class")


@pytest.mark.parametrize("setting, line", [("pairing=class", "terms.diggan.pairing='class'"), ("alpha=0", "alpha=0"), ("weight=-1", "weight=-1")])
def test_bad_settings_are_named(setting, line):
    with pytest.raises(UsageError, match=line):
        tiny_trainer(f"terms.diggan.{setting}")


def test_diggan_ada_and_lecam_on_fastgan():
    """A combination that no paper has: fifty steps, finite, resumed bit for bit."""
    def make():
        return tiny_trainer("data.resolution=32", "train.batch=4", "loss=soft_hinge", 'terms.diggan={"use": "diggan", "weight": 10}',
                            "terms.lecam.start=5", "terms.ada_controller.kimg=0.2", "terms.ada_controller.start=0.3",
                            dataset=noise_set(16, resolution=32), g={"use": "fastgan", "ngf": 4, "z_dim": 16}, d={"use": "fastgan", "ndf": 4},
                            augment={"use": "ada"})

    trainer = run_steps(make(), 25)
    saved = copy.deepcopy(trainer.state_dict())
    run_steps(trainer, 25)
    log = trainer.take_log()
    assert log["d/bad_grads"] == log["g/bad_grads"] == 0 and torch.isfinite(weights(trainer)).all()
    assert log["d/diggan/gap"] > 0 and log["d/lecam/penalty"] > 0 and trainer.nets.augment.p != 0.3
    again = make()
    again.load_state_dict(saved)
    assert torch.equal(weights(run_steps(again, 25)), weights(trainer)) and again.nets.augment.p == trainer.nets.augment.p


if __name__ == "__main__":
    work(Path(sys.argv[1]))
