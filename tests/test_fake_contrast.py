"""Contrast of perturbed fakes: without its three techniques it is InsGen's task of the fakes; with them it does what its page says.

Two processes: test_insgen.py.
"""

from __future__ import annotations

import math

import pytest
import torch

from handful.errors import UsageError
from handful.terms.fake_contrast import FakeContrast
from making import noise_set, run_steps, tiny_trainer, weights

PLAIN = ["noise_related=false", "diversity_aware=false", "forget=1"]
EXACT = ["optim_g.eps=1e-3", "optim_d.eps=1e-3"]


def trainer(*settings: str, **over):
    return tiny_trainer("terms.fake_contrast.use=fake_contrast", "terms.fake_contrast.queue=20",
                        *(s if "." in s.split("=")[0] else f"terms.fake_contrast.{s}" for s in settings), **over)


def results_of(t, steps: int = 1):
    """(context, result) of each D step."""
    found = []
    hook = t.terms["fake_contrast"].register_forward_hook(lambda m, i, o: found.append((i[0], o)))
    run_steps(t, steps)
    hook.remove()
    return found


@pytest.mark.parametrize("query, mode", [("own", "released"), ("shared", "shared")])
def test_without_its_techniques_it_is_insgens_task_of_the_fakes(query, mode):
    over = {"augment": {"use": "diffaug"}}
    mine = tiny_trainer(*(f"terms.c.{s}" for s in ["use=fake_contrast", *PLAIN, "queue=20", f"query={query}"]), **over)
    theirs = tiny_trainer(*(f"terms.c.{s}" for s in ["use=insgen", "weight_real=0", "weight_g=0", "enqueue=key", "perturb=same", "queue_fake=20",
                                                     f"mode={mode}"]), **over)
    run_steps(mine, 4), run_steps(theirs, 4)
    for a, b in ((mine.nets.D, theirs.nets.D), (mine.nets.G, theirs.nets.G), (mine.terms["c"].head, theirs.terms["c"].fake_head)):
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert mine.nets.runs == theirs.nets.runs


def test_the_perturbation_follows_the_latent():
    """e = std |z| n: the same n as without, so that the quotient of the two is |z|."""
    made = {}
    for related in ("true", "false"):
        t = trainer(f"noise_related={related}", "perturb_std=0.3")
        generate = t.nets.generate
        t.nets.generate = lambda z, c=None, *, rng, g=generate, r=related: (made.__setitem__(r, z), g(z, c, rng=rng))[1]
        (ctx, _), = results_of(t)
    z = ctx.fake.generated.z
    related, plain = made["true"] - z, made["false"] - z
    assert torch.allclose(related, plain * z.abs(), atol=1e-6) and plain.std().item() == pytest.approx(0.3, rel=0.25)


def test_only_z_moves():
    """Noise stays that of the query, unless it is to be fresh."""
    for perturb, same in (("same", True), ("fresh", False)):
        t = trainer("perturb_std=0", f"perturb={perturb}", g={"use": "tiny:TinyG", "noise": 1.0})
        generate, images = t.nets.generate, []
        t.nets.generate = lambda z, c=None, *, rng, g=generate, k=images: (k.append(g(z, c, rng=rng)), k[-1])[1]
        (ctx, _), = results_of(t)
        assert torch.equal(images[0].image, ctx.fake.x) is same


def test_older_keys_count_less_and_surplus_ones_not_at_all():
    t = trainer("forget=0.5", "diversity_aware=false")
    term = t.terms["fake_contrast"]
    assert term._counting(8).exp().tolist() == pytest.approx([0.25] * 4 + [0.5] * 8 + [1.0] * 8)            # the newest stand at the end
    for pointer, ages in ((8, [0] * 8 + [2] * 4 + [1] * 8), (4, [0] * 4 + [2] * 4 + [1] * 8 + [0] * 4)):
        term.head.queue_ptr.fill_(pointer)
        assert term._counting(8).tolist() == pytest.approx([math.log(0.5) * a for a in ages])
    t = trainer("forget=1")
    term = t.terms["fake_contrast"]
    term.head.queue_ptr.fill_(10)
    assert (term._counting(8) == 0).all()                                                                    # nothing measured yet
    for diversity, counted in ((1.0, 20), (0.75, 15), (0.5, 10), (0.1, 8)):                                  # at least a batch
        term.diversity.fill_(diversity)
        counts = term._counting(8)
        newest = [(9 - i) % 20 for i in range(counted)]
        assert (counts[newest] == 0).all() and (counts == -torch.inf).sum() == 20 - counted
    assert trainer(*PLAIN).terms["fake_contrast"]._counting(8) is None


def test_what_does_not_count_has_no_say():
    """Keys past the diversity change neither loss nor gradient."""
    losses = []
    for fill in (0.0, 1.0):
        t = trainer("forget=1")
        term = t.terms["fake_contrast"]
        term.diversity.fill_(0.4)
        term.head.queue[:, 0] = fill                                                                         # the oldest but 11 of 20
        (_, out), = results_of(t)
        losses.append((out.loss.item(), term.head.mlp[2].weight.grad.clone()))
    assert losses[0][0] == losses[1][0] and torch.equal(losses[0][1], losses[1][1]) and torch.isfinite(losses[0][1]).all()


def test_diversity_is_the_fakes_variance_by_the_reals():
    t = trainer("tap=conv2")
    (ctx, out), = results_of(t)
    real, fake = (p.features["conv2"].mean((2, 3)).var(0, correction=0).sum() for p in (ctx.real, ctx.fake))
    assert t.terms["fake_contrast"].diversity.item() == pytest.approx((fake / real).item(), rel=1e-4) and fake < real
    before = t.terms["fake_contrast"].diversity.item()
    (ctx, out), = results_of(t)
    real, fake = (p.features["conv2"].mean((2, 3)).var(0, correction=0).sum() for p in (ctx.real, ctx.fake))
    assert t.terms["fake_contrast"].diversity.item() == pytest.approx(before + 0.01 * ((fake / real).clamp(max=1).item() - before), rel=1e-4)
    assert out.stats["diversity"].tolist() == pytest.approx([before] * 8)


def test_passes_of_d_and_a_weight_of_0():
    def runs(*settings):
        t = trainer(*settings)
        run_steps(t, 1)
        return t.nets.runs
    assert (runs(), runs("query=shared"), runs("weight=0")) == (5, 4, 3)                                     # without it 3
    idle, without = run_steps(trainer("weight=0"), 2), run_steps(tiny_trainer(), 2)
    assert all(torch.equal(v, without.nets.D.state_dict()[k]) for k, v in idle.nets.D.state_dict().items())
    assert set(idle.terms["fake_contrast"].state_dict()) == {"diversity"}


@pytest.mark.parametrize("query", ["own", "shared"])
def test_accumulation_and_resume_are_exact(query):
    settings = [f"query={query}", *EXACT]
    whole, parts, first, second = (trainer(*settings, *more, augment={"use": "diffaug"}) for more in ([], ["train.micro_batch=2"], [], []))
    run_steps(whole, 4), run_steps(parts, 4)
    assert torch.allclose(weights(whole), weights(parts), rtol=1e-4, atol=1e-5)
    second.load_state_dict(run_steps(first, 2).state_dict())
    assert torch.equal(weights(run_steps(second, 2)), weights(whole))


def test_classes_further_scales_and_half_precision():
    over = {"g": {"use": "fastgan", "ngf": 4, "z_dim": 8}, "d": {"use": "fastgan", "ndf": 4}, "data": {"resolution": 64},
            "train": {"batch": 4, "share_fakes": True}, "augment": {"use": "diffaug"}}
    t = run_steps(trainer(dataset=noise_set(12, resolution=64, classes=3), precision="bf16", **over), 2)
    assert torch.isfinite(weights(t)).all() and t.take_log()["d/bad_grads"] == 0 and not t.terms["fake_contrast"].slow_d.training


def test_head_has_the_rate_of_g():
    groups = {g["name"]: g["lr"] for g in trainer("optim_g.lr=1e-3", "optim_d.lr=2e-3").optim["d"].param_groups}
    assert groups["fake_contrast.head"] == 1e-3


def test_bad_settings_say_what_to_do():
    for bad in ({"forget": 0}, {"forget": 1.1}, {"temperature": 0}, {"queue": 0}, {"weight": -1}, {"momentum": 2}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            FakeContrast(**bad)
    with pytest.raises(UsageError, match="terms.fake_contrast.tap=map_4.*it has conv1"):
        trainer("tap=map_4")

