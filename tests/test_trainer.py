"""What must be right in the trainer: lazy terms, accumulation, shared passes, precision, compiled twins, neutrality, resuming."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import pytest
import torch
import torch.nn.functional as F

from handful import HandfulError, catalog
from handful.rng import Rng, derive
from handful.seam import Augment, Augmented, Context, Needs, Result, Term, View
from handful.terms import R1, PathLength
from handful.training import optim
from handful.training.adversarial import Adversarial
from handful.training.phases import lazy_correction, phases_of
from making import noise_set, run_steps, tiny_config, tiny_trainer, weights

DIFFAUG = {"augment": {"use": "diffaug", "policy": "color,translation,cutout"}}


def terms_of(**terms: Term) -> dict[str, Term]:
    return {"adv": Adversarial(catalog.build("losses", catalog.Use("hinge"))), **terms}


# ------------------------------------------------------------------------------------------------------------ the plan


def test_folded_lazy_term_is_multiplied_by_its_interval_and_joins_the_main_phase():
    plan = phases_of(terms_of(r1=R1(1.0, every=4)), "dg")
    assert [(p.side, p.names, p.every, p.main) for p in plan] == [("d", ("adv", "r1"), 1, True), ("g", ("adv",), 1, True)]
    assert plan[0].gain == {"adv": 1.0, "r1": 4.0}
    assert lazy_correction(plan, "d") == lazy_correction(plan, "g") == 1


def test_own_step_is_a_phase_and_corrects_adam_once():
    plan = phases_of(terms_of(r1=R1(1.0, every=16, own_step=True)), "gd")
    assert [(p.side, p.names, p.every, p.main) for p in plan] == [
        ("g", ("adv",), 1, True), ("d", ("adv",), 1, True), ("d", ("r1",), 16, False)]
    assert lazy_correction(plan, "d") == pytest.approx(16 / 17)
    settings = tiny_config("optim_d.lr=0.0025", "optim_d.betas=[0,0.99]").optim_d
    group = optim.build("d", torch.nn.Linear(2, 2), {}, {"d": settings}, plan).param_groups[0]
    assert group["lr"] == pytest.approx(0.00235294, abs=1e-8) and group["betas"][1] == pytest.approx(0.9905855, abs=1e-7)   # spec, table 5.2


def test_two_own_steps_of_one_player_add_their_rates():
    plan = phases_of(terms_of(a=R1(1.0, every=16, own_step=True), b=R1(1.0, every=4, own_step=True)), "dg")
    k = 1 / (1 / 16 + 1 / 4)
    assert lazy_correction(plan, "d") == pytest.approx(k / (k + 1))


def test_gain_of_a_release_replaces_the_interval():
    term = R1(1.0, every=4)
    term.gain = 1.0
    assert phases_of(terms_of(r1=term), "dg")[0].gain["r1"] == 1.0


# ------------------------------------------------------------------------------------------- the loop beside one by hand


def by_hand(steps: int, every: int, own_step: bool) -> torch.Tensor:
    """The same training written out: non-saturating loss, R1 at every n-th iteration, Adam, EMA 0.9."""
    t = tiny_trainer()                                                       # for its initial weights alone
    G, D, G_ema = copy.deepcopy(t.nets.G), copy.deepcopy(t.nets.D), copy.deepcopy(t.nets.G)
    c = every / (every + 1) if own_step else 1.0
    for p in [*G.parameters(), *D.parameters()]:
        p.requires_grad_(True)
    og = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)
    od = torch.optim.Adam(D.parameters(), lr=2e-4 * c, betas=(0.5**c, 0.999**c), fused=True)
    data, gamma = noise_set(), 3.0
    for step in range(steps):
        at = step * 8
        order = t.sampler.indices(at, 8)
        flip = torch.rand(8, generator=torch.Generator().manual_seed(derive(0, at, "flip"))) < 0.5
        x = data.images[order].float() / 127.5 - 1
        x = torch.where(flip[:, None, None, None], x.flip(3), x)

        def latents(key, at=at):
            rng = Rng(derive(0, at, key, "fake"))
            return rng.randn(8, G.z_dim), rng.fork("noise")

        lazy = step % every == 0
        z, noise = latents("d:main")
        fake = G(z, rng=noise).image.detach()
        real_in = x.clone().requires_grad_(lazy)
        logits_real, logits_fake = D(real_in).logits, D(fake).logits
        loss = F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()

        def r1(logits, images):
            grad, = torch.autograd.grad(logits.sum(), images, create_graph=True)
            return gamma / 2 * grad.square().sum([1, 2, 3]).mean()

        if lazy and not own_step:
            loss = loss + every * r1(logits_real, real_in)
        od.zero_grad()
        loss.backward()
        od.step()
        if lazy and own_step:
            od.zero_grad()
            real_in = x.clone().requires_grad_()
            (every * r1(D(real_in).logits, real_in)).backward()
            od.step()
        z, noise = latents("g:main")
        og.zero_grad()
        F.softplus(-D(G(z, rng=noise).image).logits).mean().backward()
        og.step()
        with torch.no_grad():
            G.commit({"z": z.mean(0)})
            for a, b in zip(G_ema.parameters(), G.parameters()):
                a.lerp_(b, 0.1)
            for a, b in zip(G_ema.buffers(), G.buffers()):
                a.copy_(b)
    parts = [*G.state_dict().values(), *D.state_dict().values(), *G_ema.state_dict().values()]
    return torch.cat([p.detach().double().reshape(-1) for p in parts])


@pytest.mark.parametrize("own_step", [False, True])
def test_equals_a_hand_written_loop(own_step):
    trainer = tiny_trainer("terms.r1.gamma=3.0", "terms.r1.every=2", f"terms.r1.own_step={str(own_step).lower()}")
    assert torch.allclose(weights(run_steps(trainer, 6)), by_hand(6, 2, own_step), rtol=0, atol=1e-7)


# --------------------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("settings", [
    ["terms.r1.gamma=1.0"], ["terms.r1.gamma=1.0", "terms.r1.every=2", "terms.r1.own_step=true"], ["terms.r2.gamma=1.0"],
    ["terms.lecam.update=after", "terms.lecam.start=0"], ["loss=relativistic"], ["loss=soft_hinge"], ["train.joint=true"],
    ["train.share_fakes=true"], ["train.d_steps=2"], ["train.order=gd"]], ids=lambda s: s[0])
def test_four_micro_batches_equal_one_batch(settings):
    whole = run_steps(tiny_trainer(*settings, **DIFFAUG), 3)
    parts = run_steps(tiny_trainer(*settings, "train.micro_batch=2", **DIFFAUG), 3)
    assert not parts.notes
    # Adam's first steps divide gradients by their own size, so rounding is amplified where a gradient is nearly zero
    assert torch.allclose(weights(whole), weights(parts), rtol=0, atol=3e-5)
    moved = weights(whole) - weights(tiny_trainer(*settings, **DIFFAUG))
    assert moved.abs().max() > 3e-4


def test_what_accumulation_changes_is_said_once():
    assert "lecam" in tiny_trainer("terms.lecam.weight=0.3", "train.micro_batch=2").notes[0]


# ------------------------------------------------------------------------------------------------------- shared passes


def test_terms_share_passes():
    trainer = tiny_trainer("terms.r1.gamma=1.0", "terms.r2.gamma=1.0", "terms.lecam.start=0")
    trainer.step()
    assert trainer.nets.runs == 3                                            # reals and fakes for D, fakes for G


def test_fastgans_shared_fakes_need_one_generator_pass():
    calls = []
    for setting in ("true", "false"):
        trainer = tiny_trainer(f"train.share_fakes={setting}")
        count = []
        trainer.nets.G.register_forward_hook(lambda *a, count=count: count.append(1))
        run_steps(trainer, 2)
        calls.append(len(count))
    assert calls == [2, 4]


def test_shared_fakes_are_the_same_pictures_in_both_steps():
    seen = {}

    class Watch(Term):
        def needs(self, side):
            return Needs(fake=View(logits=True))

        def forward(self, ctx):
            seen.setdefault(ctx.images_seen, []).append(ctx.fake.x_in.detach().clone())
            return Result()

    trainer = tiny_trainer("train.share_fakes=true", **DIFFAUG)
    trainer.terms["watch"] = Watch()
    trainer.plan = phases_of(trainer.terms, "dg")
    run_steps(trainer, 2)
    assert all(torch.equal(d, g) for d, g in seen.values()) and not torch.equal(seen[0][0], seen[8][0])


def test_touching_what_was_not_declared_names_the_line_to_add():
    class Greedy(Term):
        def needs(self, side):
            return Needs(real=View(logits=True)) if side == "d" else None

        def forward(self, ctx: Context):
            return Result(ctx.real.pixel_grad().square().mean())

    trainer = tiny_trainer()
    trainer.terms["greedy"] = Greedy()
    trainer.plan = phases_of(trainer.terms, "dg")
    with pytest.raises(RuntimeError, match="term 'greedy'.*add pixel_grad=True"):
        trainer.step()


def test_features_that_were_not_declared_name_the_line_to_add():
    class Greedy(Term):
        def needs(self, side):
            return Needs(real=View(logits=True)) if side == "d" else None

        def forward(self, ctx: Context):
            return Result(ctx.real.features["conv1"].mean())

    trainer = tiny_trainer()
    trainer.terms["greedy"] = Greedy()
    trainer.plan = phases_of(trainer.terms, "dg")
    with pytest.raises(RuntimeError, match=r"term 'greedy'.*add features=frozenset\(\{\"conv1\"\}\)"):
        trainer.step()


@pytest.mark.parametrize("networks", [{"g": {"use": "fastgan", "ngf": 4, "z_dim": 8}}, {"d": {"use": "fastgan", "ndf": 4}}], ids=str)
def test_a_generator_may_make_scales_that_the_discriminator_does_not_take(networks):
    trainer = tiny_trainer("data.resolution=32", "train.joint=true", "terms.r2.gamma=1.0", "terms.r1.gamma=1.0",
                           dataset=noise_set(resolution=32), **DIFFAUG, **networks)
    assert torch.isfinite(weights(run_steps(trainer, 2))).all() and trainer.take_log()["d/bad_grads"] == 0


@pytest.mark.parametrize("joint", [True, False])
def test_penalties_share_one_backward_through_each_run_of_d(joint, monkeypatch):
    settings = [f"train.joint={str(joint).lower()}", "terms.r1.gamma=1.0", "terms.r2.gamma=2.0", "terms.r3.use=r1", "terms.r3.at=x_in"]
    trainer, runs, grad = tiny_trainer(*settings, "terms.r1.at=x_in", "terms.r2.at=x_in"), [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: runs.append(1) or grad(*args, **kwargs))
    trainer.step()
    assert len(runs) == (1 if joint else 2)                    # three penalties; one run of D over fakes and reals, or two
    monkeypatch.undo()
    apart = run_steps(tiny_trainer(*settings[1:], "terms.r1.at=x_in", "terms.r2.at=x_in"), 1)
    assert torch.allclose(weights(trainer), weights(apart), rtol=1e-4, atol=1e-5)


def test_a_joint_step_leaves_nothing_to_the_garbage_collector():
    trainer, judged = tiny_trainer("train.joint=true", "terms.diggan.weight=0"), []
    forward = trainer.terms["diggan"].forward
    trainer.terms["diggan"].forward = lambda ctx: judged.extend(weakref.ref(p.judged) for p in (ctx.real, ctx.fake)) or forward(ctx)
    gc.collect()
    gc.disable()
    try:
        run_steps(trainer, 2)
        assert len(judged) == 4 and not any(ref() for ref in judged)
    finally:
        gc.enable()


def test_a_larger_batch_of_g_runs_at_once():
    trainer, seen = tiny_trainer("train.g_batch=16"), []
    trainer.nets.G.register_forward_hook(lambda module, args, out: seen.append(len(out.image)))
    trainer.step()
    assert seen == [8, 16]


def test_frozen_parameters_stay_frozen():
    trainer = tiny_trainer()
    trainer.nets.D.stem.requires_grad_(False)
    trainer.optim["d"] = optim.build("d", trainer.nets.D, trainer.terms, {"d": trainer.config.optim_d}, trainer.plan)
    before = trainer.nets.D.stem.weight.clone(), trainer.nets.D.conv2.weight.clone()
    run_steps(trainer, 2)
    assert torch.equal(trainer.nets.D.stem.weight, before[0]) and not torch.equal(trainer.nets.D.conv2.weight, before[1])


@pytest.mark.parametrize("setting, why", [("terms.train.use=r1", "'train': that name is taken"), ("terms.adv.use=r1", "'adv'"),
                                          ("terms.G.use=r1", "'G'"), ("terms.x.use=tiny:TinyG", "is neither a Term nor a Wrapper"),
                                          ("terms.r1.every=0", "1 or more")])
def test_terms_that_can_not_be_are_refused(setting, why):
    with pytest.raises(HandfulError, match=why):
        tiny_trainer(setting)


@pytest.mark.parametrize("where, changed", [(["real"], 1), (["real", "fake_d"], 2), (["real", "fake_d", "fake_g"], 3), ([], 0)])
def test_augmentation_acts_where_it_is_told_to(where, changed):
    touched = set()

    class Watch(Term):
        def needs(self, side):
            return Needs(real=View(logits=True), fake=View(logits=True)) if side == "d" else Needs(fake=View(logits=True))

        def forward(self, ctx):
            for name, p in ctx.passes.items():
                if not torch.equal(p.x.detach(), p.x_in.detach()):
                    touched.add((ctx.side, name))
            return Result()

    for share in (False, True):
        touched.clear()
        trainer = tiny_trainer(**DIFFAUG, train={"augment_at": where, "share_fakes": share})
        trainer.terms["watch"] = Watch()
        trainer.plan = phases_of(trainer.terms, "dg")
        trainer.step()
        assert len(touched) == changed


# ---------------------------------------------------------------------------------------------------------- neutrality


@pytest.mark.parametrize("settings", [
    ["terms.r1.gamma=0.0"], ["terms.r2.gamma=0.0"], ["terms.lecam.weight=0.0", "terms.lecam.start=0"]], ids=lambda s: s[0])
def test_a_term_of_no_weight_changes_nothing(settings):
    plain, more = tiny_trainer(**DIFFAUG), tiny_trainer(*settings, **DIFFAUG)
    run_steps(plain, 4), run_steps(more, 4)
    n = len(weights(plain))
    assert torch.equal(weights(plain), weights(more)[:n])


def test_a_noisy_extra_pass_of_no_weight_leaves_even_batch_norm_alone():
    class Noisy(Term):
        def needs(self, side):
            return Needs(real=View(logits=True), fake=View(logits=True))      # on G's side the reals are a pass that nobody else asked for

        def forward(self, ctx):
            extra = ctx.nets.judge(ctx.fake.x.detach(), rng=ctx.rng.fork("x"), want=frozenset({"pre_logits"}))
            ctx.nets.generate(ctx.rng.randn(len(ctx.slots), ctx.nets.G.z_dim), rng=ctx.rng)
            return Result(0.0 * (ctx.real.logits.mean() + extra.logits.mean()) * ctx.rng.rand(len(ctx.slots)).mean())

    def narrow(**over):
        return tiny_trainer("data.resolution=64", dataset=noise_set(resolution=64), g={"use": "fastgan", "ngf": 4, "z_dim": 8},
                            d={"use": "fastgan", "ndf": 4}, **over)

    plain, more = narrow(), narrow()
    more.terms["noisy"] = Noisy()
    more.plan = phases_of(more.terms, "dg")
    run_steps(plain, 2), run_steps(more, 2)
    assert torch.equal(weights(plain), weights(more))


# ----------------------------------------------------------------------------------------------- precision and compiling


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_tracks_full(precision):
    full, half = (run_steps(tiny_trainer("terms.r1.gamma=1.0", precision=p), 10) for p in ("fp32", precision))
    assert torch.isfinite(weights(half)).all()
    a, b = full.take_log(), half.take_log()
    assert b["d/bad_grads"] == b["g/bad_grads"] == 0
    for key in ("d/loss", "g/loss", "d/logits_real", "d/r1/penalty"):
        assert b[key] == pytest.approx(a[key], abs=0.03), key


def test_logits_reach_the_loss_in_full_precision():
    class Watch(Term):
        def needs(self, side):
            return Needs(real=View(logits=True, pixel_grad=True)) if side == "d" else None

        def forward(self, ctx):
            assert ctx.real.logits.dtype == ctx.real.pixel_grad().dtype == torch.float32
            return Result()

    trainer = tiny_trainer(precision="bf16")
    trainer.terms["watch"] = Watch()
    trainer.plan = phases_of(trainer.terms, "dg")
    trainer.step()


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_compiled_twins_share_weights_and_leave_second_order_to_the_raw_network(monkeypatch):
    real_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: real_compile(m, backend="aot_eager"))
    settings = ["terms.r1.gamma=1.0", "terms.r1.every=2"]
    plain, twin = run_steps(tiny_trainer(*settings), 4), run_steps(tiny_trainer(*settings, compile=True), 4)
    assert torch.allclose(weights(plain), weights(twin), rtol=0, atol=1e-5)
    assert not any("_orig_mod" in k for k in twin.nets.D.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_pass_leaves_the_graph_of_second_order_alone(monkeypatch):
    """Batch norm saves its buffers for the backward pass; the compiled pass over the fakes moves them before it comes to that."""
    real_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: real_compile(m, backend="aot_eager"))
    over = dict(g={"use": "fastgan", "ngf": 4, "z_dim": 8}, d={"use": "fastgan", "ndf": 4}, optim_g={"eps": 1e-3}, optim_d={"eps": 1e-3})
    plain, twin = (run_steps(tiny_trainer("data.resolution=32", "terms.r1.gamma=0.1", dataset=noise_set(resolution=32), compile=c, **over), 2)
                   for c in (False, True))
    assert (weights(plain) - weights(twin)).abs().max() < 1e-4


# ------------------------------------------------------------------------------------------------------------ resuming


EVERYTHING = ["terms.r1.gamma=1.0", "terms.r1.every=2", "terms.r2.own_step=true", "terms.r2.every=3", "terms.lecam.start=2",
              "optim_d.warmup_kimg=0.03", "ema.halflife_kimg=0.05", "ema.rampup=0.05"]


def test_n_and_n_steps_are_two_n_steps_bit_for_bit(tmp_path):
    straight = run_steps(tiny_trainer(*EVERYTHING, **DIFFAUG), 8)
    first = run_steps(tiny_trainer(*EVERYTHING, **DIFFAUG), 4)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = tiny_trainer(*EVERYTHING, **DIFFAUG)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.manual_seed(123456)                                                # nothing may come from the global generator
    run_steps(second, 4)
    assert torch.equal(weights(straight), weights(second))
    for side in ("g", "d"):
        for a, b in zip(straight.optim[side].state.values(), second.optim[side].state.values()):
            assert all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)


def test_another_seed_is_another_run():
    assert not torch.equal(weights(run_steps(tiny_trainer(), 2)), weights(run_steps(tiny_trainer("seed=1"), 2)))


# --------------------------------------------------------------------------------------------------------------- guard


def test_non_finite_gradients_are_zeroed_and_counted():
    class Broken(Term):
        def needs(self, side):
            return Needs(real=View(logits=True)) if side == "d" else None

        def forward(self, ctx):
            return Result(ctx.real.logits.mean() * (float("nan") if ctx.step == 1 else 0.0))

    trainer = tiny_trainer()
    trainer.terms["broken"] = Broken()
    trainer.plan = phases_of(trainer.terms, "dg")
    trainer.step()
    assert trainer.take_log()["d/bad_grads"] == 0
    run_steps(trainer, 3)
    assert torch.isfinite(weights(trainer)).all()
    assert trainer.take_log()["d/bad_grads"] == 1 and trainer.stuck == ()                # steps, not tensors
    trainer.iteration = 1
    trainer.step()
    assert trainer.take_log()["d/bad_grads"] == 1 and trainer.stuck == ("d",)


def test_one_bad_batch_reaches_no_state():
    trainer = tiny_trainer("terms.lecam.start=0", "augment=none")
    image = trainer.dataset.batch

    def poisoned(index, flip, device):
        x, c = image(index, flip, device)
        return (x * float("nan") if trainer.iteration == 1 else x), c

    trainer.dataset.batch = poisoned
    run_steps(trainer, 3)
    log = trainer.take_log()
    assert torch.isfinite(weights(trainer)).all() and log["d/bad_grads"] == 1
    assert all(map(math.isfinite, log.values()))


def test_out_of_memory_halves_the_micro_batch_and_says_so():
    trainer = tiny_trainer("train.share_fakes=true")
    reference = run_steps(tiny_trainer("train.share_fakes=true"), 2)
    forward, calls = trainer.nets.forward_d, []

    def greedy(x_in, *args, **kwargs):
        calls.append(len(x_in))
        if len(x_in) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x_in, *args, **kwargs)

    trainer.nets.forward_d = greedy
    run_steps(trainer, 2)
    assert trainer.micro_batch == 2 and calls[:3] == [8, 4, 2] and "micro-batches of 2" in trainer.notes[-1]
    assert torch.allclose(weights(trainer), weights(reference), rtol=0, atol=3e-5)


def test_schedules_are_functions_of_images_seen():
    config = tiny_config("optim_d.lr=1.0", "optim_d.warmup_kimg=2", "optim_d.decay_from_kimg=6", "train.kimg=10")
    opt = torch.optim.Adam([{"params": [torch.zeros(1, requires_grad=True)], "base_lr": 1.0, "like": "d"}])
    found = []
    for images in (0, 1000, 2000, 6000, 8000, 10000):
        optim.schedule(opt, {"d": config.optim_d}, images, config)
        found.append(opt.param_groups[0]["lr"])
    assert found == pytest.approx([0, 0.5, 1, 1, 0.5, 0])


@pytest.mark.parametrize("settings, why", [(["train.share_fakes=true", "train.order=gd"], "D's step must come first"),
                                           (["ema.rampup=0.05"], "set ema.halflife_kimg too")])
def test_settings_that_would_be_ignored_are_refused(settings, why):
    with pytest.raises(HandfulError, match=why):
        tiny_trainer(*settings)


def test_gradients_of_a_further_pass_count_the_further_scales_of_a_fake():
    trainer = tiny_trainer("data.resolution=64", dataset=noise_set(resolution=64), g={"use": "fastgan", "ngf": 4, "z_dim": 8},
                           d={"use": "fastgan", "ndf": 4})
    z, c = trainer.nets.latents(3, Rng(1))
    with torch.no_grad():
        made = trainer.nets.generate(z, c, rng=Rng(2))
    alone = trainer.nets.judge(made.image, c, rng=Rng(3), augment=False, extra=made.extra, pixel_grad=True)
    image = alone.pixel_grad("x").square().flatten(1).sum(1)
    assert (alone.grad_norm_sq("x") > image).all() and torch.equal(alone.grad_norm_sq("x"), alone.grad_norm_sq("x_in"))


@pytest.mark.filterwarnings("ignore")                                     # the compiler's own, of several kinds
def test_two_compiled_passes_before_one_backward(monkeypatch):
    """The partitioner that inductor uses saves spectral norm's vectors themselves; the pass over the fakes must not move those of the reals."""
    real_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: real_compile(m, backend="aot_eager_decomp_partition"))
    over = {"g": {"use": "fastgan", "ngf": 4, "z_dim": 8}, "d": {"use": "fastgan", "ndf": 4}, "train": {"batch": 4, "share_fakes": True}}
    plain, twin = (run_steps(tiny_trainer("data.resolution=32", "terms.r1.gamma=0.1", "terms.r1.every=2", compile=c,
                                          dataset=noise_set(8, resolution=32), **over), 3) for c in (False, True))
    assert torch.allclose(weights(plain), weights(twin), rtol=1e-3, atol=1e-3)


class Head(Term):
    """A head that trains in D's step with the settings of G's Adam (InsGen's head for fakes); and a role."""

    optim = {"head": ("d", "g")}
    roles = frozenset({"judge of everything"})

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(1, 1)

    def needs(self, side):
        return Needs(real=View(logits=True)) if side == "d" else None

    def forward(self, ctx):
        return Result(self.head(ctx.real.logits[:, None]).mean())


def test_a_head_may_train_with_the_other_sides_settings():
    plan = phases_of(terms_of(head=Head(), r1=R1(1.0, every=16, own_step=True), pl=PathLength(every=4, own_step=True)), "gd")
    settings = tiny_config("optim_d.lr=0.002", "optim_g.lr=0.0025", "optim_g.betas=[0,0.99]")
    net, head = optim.build("d", torch.nn.Linear(2, 2), terms_of(head=Head()), {"g": settings.optim_g, "d": settings.optim_d}, plan).param_groups
    assert net["lr"] == pytest.approx(0.002 * 16 / 17)
    optim.schedule(both := torch.optim.Adam([net, head]), {"g": settings.optim_g, "d": tiny_config("optim_d.warmup_kimg=1").optim_d}, 0, settings)
    assert [g["lr"] / g["base_lr"] for g in both.param_groups] == [0, 1]              # and with its schedule
    head["lr"] = head["base_lr"]
    assert head["name"] == "head.head" and head["lr"] == pytest.approx(0.0025 * 0.8) and head["betas"][1] == pytest.approx(0.99 ** 0.8)


def test_two_terms_of_one_role_are_refused():
    with pytest.raises(HandfulError, match=r"terms.a and terms.b both want to be the judge of everything: leave .* \(--set terms.b=null\)"):
        tiny_trainer(terms={"a": {"use": "test_trainer:Head"}, "b": {"use": "test_trainer:Head"}})


def test_a_strength_that_nothing_moves_is_said():
    assert any("augment=ada has strength p=0 and nothing moves it" in n for n in tiny_trainer("augment.p=0", augment={"use": "ada"}).notes)
    assert not any("strength p=0" in n for n in tiny_trainer("augment.p=0", "terms.ada_controller={}", augment={"use": "ada"}).notes)
    assert not any("strength p=0" in n for n in tiny_trainer("augment.p=0.2", augment={"use": "ada"}).notes)


class Shown(Augment):
    """Shows fakes as reals, all of them, and keeps what it was given."""

    wants_fakes = True

    def __init__(self):
        super().__init__()
        self.seen = []

    def draw(self, x, rng, extra=None):
        return Augmented(x, extra or {})

    def reals(self, x, fakes, rng):
        self.seen.append(fakes)
        return fakes


@pytest.mark.parametrize("order", ["gd", "dg"])
def test_fakes_that_are_shown_as_reals(order):
    """Those of G's step where it went before, new ones else; detached; in the phase of R1 too; exact under accumulation."""
    lines = (f"train.order={order}", 'terms.r1={"use": "r1", "every": 1, "own_step": true}')
    trainer = tiny_trainer(*lines, augment={"use": "test_trainer:Shown"})
    trainer.step()
    main, lazy = trainer.nets.augment.seen
    assert main.shape == lazy.shape == (8, 3, 16, 16) and not main.requires_grad and torch.equal(main, lazy) == (order == "gd")
    parts = tiny_trainer(*lines, "train.micro_batch=4", augment={"use": "test_trainer:Shown"})
    parts.step()
    assert torch.allclose(torch.cat(parts.nets.augment.seen[:2]), main, atol=1e-6)
