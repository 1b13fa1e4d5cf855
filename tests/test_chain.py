"""CHAIN: the layer against its rule and the specification; the discriminator against one that overwrites its maps; penalty and controller."""

from __future__ import annotations

import copy
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful import catalog, config
from handful.arch import fastgan
from handful.arch.chain import MEANS, Chain, Discriminator
from handful.errors import HandfulError, UsageError
from handful.rng import Rng
from handful.seam import Needs, Result, Term, View
from handful.terms import CHAIN, Reconstruction
from handful.training.trainer import Trainer
from making import noise_set, of_two_processes, run_steps, tiny_trainer, weights

ON = torch.tensor(True)
NARROW = '{{"use": "chain", "width": 1, "p": {}}}'
OF = {"d:real": (0, 0), "d:fake": (1, 1), "g:fake": (1, 2)}                # rows of r and b


def trainer_of(*settings: str, p: float = 0.5, **over) -> Trainer:
    return tiny_trainer("data.resolution=32", f"d={NARROW.format(p)}", "terms.chain.start=0", *settings, dataset=noise_set(resolution=32), **over)


def state(d: nn.Module) -> dict[str, Tensor]:
    """Copies of all r and b."""
    return {k: v.clone() for k, v in d.state_dict().items() if k.endswith((".r", ".b"))}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


# --------------------------------------------------------------------------------------------------------------- the layer


def test_the_layer_gives_the_specification_s_vector_twice():
    layer = Chain(3).double()
    x = torch.from_numpy(np.random.RandomState(0).randn(2, 3, 2, 2) * np.array([1, 2, 0.5])[None, :, None, None]).requires_grad_()
    g = torch.from_numpy(np.random.RandomState(1).randn(2, 3, 2, 2))
    for out, r, b, dx in ([[1.681433, 3.136011, -0.051609], [1.026923, 1.323514, 0.932994], [-0.005440, 0.106552, 0.006524],
                           [1.557614, 0.425898, 0.319398]],
                          [[1.607332, 2.745930, -0.051609], [1.051154, 1.614676, 0.872688], [-0.010096, 0.189195, 0.012395],
                           [1.496980, 0.198571, 0.319770]]):
        y = layer(x, ON, torch.ones(2, 3, dtype=torch.bool), "d:real")
        grad, = torch.autograd.grad(y, x, g)
        for found, wanted in ((y[0, :, 0, 0], out), (layer.r[0], r), (layer.b[0], b), (grad[0, :, 0, 0], dx)):
            assert found.tolist() == pytest.approx(wanted, abs=6e-7)


def by_hand(x: np.ndarray, mix: np.ndarray, g: np.ndarray, r: np.ndarray, b: np.ndarray):
    """The layer's rule in loops over channels, images and pixels; r and b move in place. Returns x' and its gradient."""
    out, dx = x.copy(), np.zeros_like(x)
    n, channels, height, width = x.shape
    places = list(itertools.product(range(n), range(height), range(width)))
    for c in range(channels):
        r[c] = 0.9 * r[c] + 0.1 * sum(x[i, c, u, v] ** 2 for i, u, v in places) / len(places)
    s = min(r) ** 0.5
    for c in range(channels):
        y = {at: x[at[0], c, at[1], at[2]] / (r[c] + 1e-5) ** 0.5 for at in places}
        inner = {at: s * g[at[0], c, at[1], at[2]] * mix[at[0], c] for at in places}
        b[c] = 0.9 * b[c] + 0.1 * sum(y[at] * inner[at] for at in places) / len(places)
        for at in places:
            i, u, v = at
            if mix[i, c]:
                out[i, c, u, v] = s * y[at]
            dx[i, c, u, v] = (1 - mix[i, c]) * g[i, c, u, v] + (inner[at] - b[c] * y[at]) / (r[c] + 1e-5) ** 0.5
    return out, dx


@pytest.mark.parametrize("of", OF)
def test_the_layer_follows_its_rule_and_moves_the_means_of_its_pass_alone(of):
    rows, draw = OF[of], np.random.RandomState(3)
    layer = Chain(3).double()
    r, b = np.ones(3), np.zeros(3)
    for _ in range(3):
        x, g, mix = draw.randn(4, 3, 2, 3) * np.array([1, 3, 0.4])[None, :, None, None], draw.randn(4, 3, 2, 3), draw.rand(4, 3) < 0.6
        leaf = torch.from_numpy(x).requires_grad_()
        y = layer(leaf, ON, torch.from_numpy(mix), of)
        grad, = torch.autograd.grad(y, leaf, torch.from_numpy(g))
        out, dx = by_hand(x, mix.astype(float), g, r, b)
        np.testing.assert_allclose(y.detach().numpy(), out, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(grad.numpy(), dx, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(layer.r[rows[0]].numpy(), r, rtol=1e-13)
        np.testing.assert_allclose(layer.b[rows[1]].numpy(), b, rtol=1e-11)
    assert (layer.r[1 - rows[0]] == 1).all() and all((layer.b[i] == 0).all() for i in range(3) if i != rows[1])


def test_a_layer_that_is_off_is_the_identity_and_its_means_stand_still():
    layer = Chain(3)
    layer.b.fill_(0.7)
    x, g = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
    y = layer(x, torch.tensor(False), torch.zeros(2, 3, dtype=torch.bool), "d:real")
    assert torch.equal(y, x) and torch.equal(torch.autograd.grad(y, x, g)[0], g)
    assert (layer.r == 1).all() and (layer.b == 0.7).all()


@pytest.mark.parametrize("kwargs", [{}, {"variant": "batch"}])
def test_what_moves_nothing_has_the_derivative_of_its_formula(kwargs):
    """Extra passes, scaled by the mean of both r; and the form without running means, whose minimum is constant."""
    layer = Chain(3, **kwargs).double()
    if not kwargs:
        layer.r.copy_(torch.tensor([[1.0, 2, 3], [3, 1, 0.5]]))
        layer.b.fill_(1)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    mix = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 1, 0]], dtype=torch.bool)
    y = layer(x, ON, mix, "other")
    square = x.square().mean((0, 2, 3)) if kwargs else torch.tensor([2, 1.5, 1.75], dtype=torch.float64)
    least = (square + 1e-5).min().sqrt().detach() if kwargs else square.min().sqrt()
    plain = torch.where(mix[:, :, None, None], x / (square + 1e-5).sqrt()[:, None, None] * least, x)
    assert torch.allclose(y, plain, rtol=1e-12)
    assert torch.allclose(*(torch.autograd.grad(v.pow(3).sum(), x)[0] for v in (y, plain)), rtol=1e-11)
    assert same(before, layer.state_dict())


def test_half_precision_keeps_its_statistics_in_single():
    layer = Chain(3)
    x = (torch.randn(2, 3, 16, 16) * 30).bfloat16().requires_grad_()
    y = layer(x, ON, torch.ones(2, 3, dtype=torch.bool), "d:fake")
    y.float().square().sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16 and layer.r.dtype == layer.b.dtype == torch.float32
    assert torch.allclose(layer.r[1], 0.9 + 0.1 * x.detach().float().square().mean((0, 2, 3)), rtol=1e-5) and layer.b[1].abs().min() > 0


# ------------------------------------------------------------------------------------------------------- the discriminator


@pytest.mark.parametrize("size, count, g_count", [(256, 10_644_321, 29_127_654), (1024, 10_644_321 + 3576, None)])
def test_parameters_of_the_release(size, count, g_count):
    with torch.device("meta"):
        d, decoders = Discriminator(size), Reconstruction(loss="pixel", decoders=("whole", "part"))
        decoders.setup(SimpleNamespace(D=d))
        g = fastgan.Generator(size, side_image=False)
    assert decoders.sources == {"whole": "map_8", "part": "map_16"}
    assert sum(p.numel() for p in d.parameters()) == count
    assert sum(p.numel() for m in (d, decoders) for p in m.parameters()) == {256: 12_933_921, 1024: 12_937_497}[size]
    assert g_count in (None, sum(p.numel() for p in g.parameters()))


def overwriting(d: Discriminator, image: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """D without CHAIN, its first activations in place: logits, and the maps as they are once all has run."""
    x = d.stem(image)
    maps = {x.shape[2]: x}
    for name, block in d.blocks.items():
        h = block.conv1(F.leaky_relu_(x, 0.2))
        y = F.avg_pool2d(block.conv2(F.leaky_relu(h, 0.2)), 2) + F.avg_pool2d(block.shortcut(x), 2)
        if name in d.excite:
            y = d.excite[name](maps[8 * int(name)], y)
        x = maps[int(name)] = y
    h = d.last.conv1(F.leaky_relu_(x, 0.2))
    return d.to_logit((d.last.conv2(F.leaky_relu(h, 0.2)) + x).sum((2, 3)))[:, 0], maps


@pytest.mark.parametrize("size, links", [(64, ["8"]), (256, ["32", "16", "8"]), (512, ["32", "16", "8"]), (1024, ["32", "16", "8"])])
@torch.no_grad()
def test_maps_are_read_as_they_were_overwritten(size, links):
    d = Discriminator(size, width=2).eval()
    image = torch.randn(2, 3, size, size)
    assert list(d.excite) == links and d.stem(image).shape[1:] == ((8, 64, 64) if size == 64 else (2, 256, 256))
    logits, maps = overwriting(d, image)
    judged = d(image, want=frozenset(d.feature_info))
    assert torch.allclose(judged.logits, logits, atol=1e-5)
    assert all(torch.allclose(judged.features[f"map_{side}"], x, atol=1e-6) for side, x in maps.items())


def test_the_means_are_those_of_all_layers_inputs():
    d, x = Discriminator(32, width=1), torch.randn(2, 3, 32, 32)
    seen = []
    for block in d.blocks.values():
        for conv in (block.conv1, block.conv2, block.shortcut):
            conv.register_forward_hook(lambda m, a, y: seen.append(y.mean((2, 3))))
    means = d(x, want=frozenset({MEANS})).features[MEANS]
    assert torch.allclose(means, torch.cat(seen, 1), atol=1e-6) and means.shape[1] == d.feature_info[MEANS].channels == 3 * (16 + 32)


def test_p_0_is_the_identity_and_evaluation_is_no_training():
    d, x = Discriminator(32, width=1), torch.randn(2, 3, 32, 32)
    d.eval()
    plain = d(x, of="d:real").logits
    assert (torch.cat([m.r.flatten() for m in d.modules() if isinstance(m, Chain)]) == 1).all()
    d.p.fill_(1)
    for m in d.modules():
        if isinstance(m, Chain):
            m.r.uniform_(0.1, 3)
    acting = d(x).logits
    assert not torch.allclose(plain, acting) and torch.equal(acting, d(x).logits)


@pytest.mark.parametrize("kwargs, why", [({"resolution": 48}, "resolution=48"), ({"p": 1.5}, "p=1.5")])
def test_what_cannot_be_is_refused(kwargs, why):
    with pytest.raises(UsageError, match=why):
        Discriminator(**kwargs)


# -------------------------------------------------------------------------------------------------------------- the passes


@pytest.mark.parametrize("loss, passes", [("hinge", ["d:real", "d:fake", "g:fake"]), ("relativistic", ["d:real", "d:fake", "g:real", "g:fake"])])
def test_d_is_told_which_pass_it_judges(loss, passes):
    trainer, seen = trainer_of(f"loss={loss}", "data.holdout=0.25", "terms.heldout_logits={}"), []
    forward = trainer.nets.D.forward
    trainer.nets.D.forward = lambda *a, **k: seen.append(k["of"]) or forward(*a, **k)
    trainer.step()
    assert [of for of in seen if of != "other"] == passes and "other" in seen        # held-out images


def test_a_step_moves_the_means_of_its_passes_and_g_s_step_that_of_the_fakes():
    trainer = trainer_of(p=1)
    layer = trainer.nets.D.blocks["16"].chains[0]
    seen = []
    conv = trainer.nets.D.blocks["16"].conv1
    conv.register_forward_hook(lambda m, a, y: seen.append(y.detach().square().mean((0, 2, 3))))
    trainer.step()
    real, fake, fake_g = seen
    assert torch.allclose(layer.r[0], 0.9 + 0.1 * real, rtol=1e-5)
    assert torch.allclose(layer.r[1], 0.9 * (0.9 + 0.1 * fake) + 0.1 * fake_g, rtol=1e-5)
    assert (layer.b != 0).any(1).all()                                       # one backward pass each, G's too


def test_extra_passes_move_nothing():
    trainer = run_steps(trainer_of("data.holdout=0.25"), 1)
    nets, before = trainer.nets, state(trainer.nets.D)
    x = torch.rand(4, 3, 32, 32, requires_grad=True)
    nets.judge(x, rng=Rng(1)).logits.sum().backward()
    for frozen, of in ((True, "d:real"), (True, "g:fake")):                  # a shared pass that terms alone ask for
        nets.forward_d(x, None, {}, View(logits=True), frozen=frozen, rng=Rng(1), of=of).logits.sum().backward()
    assert x.grad.abs().sum() > 0 and same(before, state(nets.D))
    nets.forward_d(x, None, {}, View(logits=True), rng=Rng(1), of="g:fake").logits.sum().backward()
    assert not same(before, state(nets.D))


def test_accuracy_moves_nothing():
    from handful.training.accuracy import Accuracy

    trainer = run_steps(trainer_of("data.holdout=0.25"), 1)
    before = state(trainer.nets.D)
    assert len(Accuracy(trainer, None, print).look()) == 3 and same(before, state(trainer.nets.D))


def recorded(trainer: Trainer, steps: int = 1) -> list[Tensor]:
    """M of all layers in each pass, in their order."""
    found, mixes = [], trainer.nets.D._mixes

    def keeping(n: int, rng: Rng):
        drawn = mixes(n, rng)
        found.append(torch.cat([m for _, *parts in drawn.values() for m in parts], 1))
        return drawn

    trainer.nets.D._mixes = keeping
    run_steps(trainer, steps)
    return found


def work(out: Path) -> None:
    """What each of two processes runs."""
    from handful.training import distributed

    torch.set_num_threads(1)
    rank, world = distributed.start(torch.device("cpu"))
    trainer = trainer_of(rank=rank, world=world)
    torch.save({"mixes": recorded(trainer), "weights": weights(trainer)}, out / f"rank{rank}.pt")
    distributed.leave()


def test_micro_batches_and_processes_draw_what_the_whole_batch_would(tmp_path):
    whole = recorded(trainer_of())
    assert [m.shape[0] for m in whole] == [8] * 3 and 0.4 < torch.cat(whole).float().mean() < 0.6
    assert not torch.equal(whole[0], whole[1]) and not torch.equal(whole[1], whole[2])
    parts = recorded(trainer_of("train.micro_batch=4"))
    assert [torch.equal(torch.cat(two), one) for two, one in zip(((parts[0], parts[2]), (parts[1], parts[3]), parts[4:]), whole)] == [True] * 3
    a, b = of_two_processes(__file__, tmp_path)
    assert [torch.equal(torch.cat(two), one) for two, one in zip(zip(a["mixes"], b["mixes"]), whole)] == [True] * 3
    assert torch.equal(a["weights"], b["weights"])                           # running means and p are one state


def test_a_run_goes_on_bit_for_bit():
    straight, first, second = (trainer_of("terms.chain.step=0.05", "train.share_fakes=true", p=0.3) for _ in range(3))
    run_steps(straight, 4)
    second.load_state_dict(copy.deepcopy(run_steps(first, 2).state_dict()))
    assert torch.equal(weights(run_steps(second, 2)), weights(straight))


def test_d_runs_raw_beside_a_compiled_g(monkeypatch):
    real_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: real_compile(m, backend="eager"))
    plain, twin = (run_steps(trainer_of(compile=c), 2) for c in (False, True))
    assert torch.allclose(weights(plain), weights(twin), rtol=1e-4, atol=1e-5) and len(twin.nets._fast) == 1


# --------------------------------------------------------------------------------------------------------- what is refused


class Greedy(Term):
    """From outside of the package: states nothing."""

    def needs(self, side):
        return Needs(fake=View(pixel_grad=True)) if side == "d" else None

    def forward(self, ctx):
        return Result(ctx.fake.grad_norm_sq().mean())


@pytest.mark.parametrize("term", ["r1", "r2", "diggan", "dragan", "gradient_penalty"])
def test_penalties_on_d_s_gradient_are_refused(term):
    line = f"terms.{term} differentiates D's gradient, .* take another one .* leave the term out .--set terms.{term}=null.$"
    with pytest.raises(HandfulError, match=line):
        trainer_of(f"terms.{term}={{}}")
    run_steps(trainer_of(f"terms.{term}={{}}", "d.variant=batch"), 1)           # that one can be differentiated twice


def test_inside_a_wrapper_too_and_of_a_term_that_states_nothing():
    with pytest.raises(HandfulError, match="terms.r1 differentiates"):
        trainer_of("terms.pa_gan={}", "terms.r1={}")
    with pytest.raises(HandfulError, match="^terms.greedy: wants D's gradient .* chain can't be differentiated twice: .*terms.greedy=null"):
        trainer_of("terms.greedy.use=test_chain:Greedy")


def test_one_pass_for_reals_and_fakes_is_refused_and_so_is_a_d_without_layers():
    with pytest.raises(HandfulError, match=r"^train.joint: chain judges reals and fakes in a pass each: .*train.joint=false"):
        trainer_of("train.joint=true")
    with pytest.raises(HandfulError, match=r"^terms.chain: this discriminator has no CHAIN layers; take the one that has .--set d=chain"):
        tiny_trainer("terms.chain={}")


def test_the_pass_cannot_be_differentiated_twice():
    d, x = Discriminator(32, width=1, p=1), torch.randn(2, 3, 32, 32, requires_grad=True)
    grad, = torch.autograd.grad(d(x, of="d:real").logits.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.square().sum().backward()


# -------------------------------------------------------------------------------------------------- penalty and controller


def test_the_penalty_is_that_of_reals_and_of_fakes_times_its_weight():
    trainer = trainer_of("terms.chain.offset=0.1", "terms.chain.weight=3")
    term, found = trainer.terms["chain"], []
    forward = term.forward

    def watching(ctx):
        means = [seen.features[MEANS].detach().double() for seen in (ctx.real, ctx.fake)]
        result = forward(ctx)
        sums = sum(sum(float(column.sum() / len(column)) ** 2 for column in m.T) for m in means)
        found.append((float(result.loss.detach()), 3 * (0.5 + 0.1) * sums, float(result.stats["penalty"][0]), sums))
        return result

    term.forward = watching
    trainer.step()
    (loss, wanted, penalty, sums), = found                                   # once: none in G's step
    assert loss == pytest.approx(wanted, rel=1e-4) and penalty == pytest.approx(sums, rel=1e-4) and sums > 0
    assert term.needs("g") is None


def test_at_p_0_the_penalty_counts_and_the_means_stand_still():
    def ended(*settings: str) -> Trainer:
        return run_steps(trainer_of("terms.chain.start=100", *settings, p=0), 2)

    plain, penal = ended("terms.chain.offset=0"), ended("terms.chain.offset=0.1")
    for trainer in (plain, penal):
        assert all((v == (1 if k.endswith("r") else 0)).all() for k, v in state(trainer.nets.D).items()) and trainer.nets.D.p == 0
    assert not torch.equal(weights(plain), weights(penal)) and penal.take_log()["d/loss_chain"] > 0 == plain.take_log()["d/loss_chain"]
    without = ended("terms.chain.weight=0")
    assert same(without.nets.G.state_dict(), plain.nets.G.state_dict())      # offset 0 and p 0: no penalty


def test_the_controller_in_closed_form():
    trainer, signs = trainer_of("terms.chain.start=2", "terms.chain.step=0.01", "terms.chain.target=0.04", p=0), []
    term, forward = trainer.terms["chain"], trainer.terms["chain"].forward
    term.forward = lambda ctx: signs.append(float(ctx.real.score.detach().sign().mean())) or forward(ctx)
    e, p, ps = 0.0, 0.0, []
    for step in range(8):
        trainer.step()
        if step >= 2:
            e = 0.9 * e + 0.1 * signs[-1]
            p = min(max(p + 0.01 * np.sign(e - 0.04), 0), 1)
        ps.append(p)
        assert float(term.signs) == pytest.approx(e, abs=1e-6) and float(trainer.nets.D.p) == pytest.approx(p, abs=1e-7)
    assert ps[:2] == [0, 0] and max(ps) > 0.01, signs                        # else nothing was shown
    logged = trainer.take_log()
    assert {"d/chain/p", "d/chain/signs", "d/chain/penalty"} <= logged.keys() and trainer.status(logged) == [f"p {np.mean([0, *ps[:-1]]):.2f}"]


@pytest.mark.parametrize("start, sign, ends", [(0.998, 1.0, [0.999, 1, 1]), (0.002, -1.0, [0.001, 0, 0]), (0.5, 1.0, [0.501, 0.502, 0.503])])
def test_p_stays_within_0_and_1_and_does_not_drift(start, sign, ends):
    nets = SimpleNamespace(D=Discriminator(16, width=1, p=start))
    term = CHAIN(start=0)
    term.setup(nets)
    term.signs.fill_(sign)
    for p in ends:
        term.commit("d", {"moves": torch.tensor(1.0), "sign": torch.tensor(sign)}, {}, nets, 8)
        assert float(nets.D.p) == pytest.approx(p, abs=1e-7)
    with pytest.raises(UsageError, match="step=0"):
        CHAIN(step=0)


# -------------------------------------------------------------------------------------------------------------- the recipes


def configured(name: str, *settings: str) -> config.Config:
    tree = {"recipe": name, **catalog.load("recipes", name)(resolution=None, count=100, device="cpu", num_classes=0, batch=None)}
    return config.resolved(config.parse(config.assign(tree, settings)))


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_recipes_are_the_released_settings(size):
    c = configured(f"chain{size}")
    assert (c.data.resolution, c.train.kimg, c.train.batch, c.train.share_fakes, c.ema.decay, c.loss.name) == (size, 800, 8, True, 0.999, "hinge")
    assert all((o.lr, o.betas) == (2e-4, (0.5, 0.999)) for o in (c.optim_g, c.optim_d))
    assert c.g.kwargs["output_activation"] == ("tanh" if size == 1024 else "none") and not c.g.kwargs["side_image"] and c.d.kwargs["width"] == 16
    assert c.augment.kwargs["policy"] == "color,translation" and c.augment.kwargs["order"] == "random"
    chain, reconstruction = c.terms["chain"].kwargs, c.terms["reconstruction"].kwargs
    assert (chain["weight"], chain["offset"], chain["start"], chain["step"], chain["target"]) == (20, 0, 5000, 0.001, 0.5)
    assert (reconstruction["weight"], reconstruction["reduction"], list(reconstruction["decoders"])) == (1, "sum", ["whole", "part"])


@pytest.mark.parametrize("size", [64, 128])
def test_narrow_recipes_train(size):
    c = configured(f"chain{size}_narrow", "train.batch=4", "terms.chain.start=0", "terms.chain.step=0.5")
    trainer = Trainer(c, noise_set(8, resolution=size), torch.device("cpu"))
    before = [p.detach().clone() for net in (trainer.nets.G, trainer.nets.D) for p in net.parameters()]
    log = run_steps(trainer, 2).take_log()
    after = [p for net in (trainer.nets.G, trainer.nets.D) for p in net.parameters()]
    assert torch.isfinite(weights(trainer)).all() and not log["d/bad_grads"] + log["g/bad_grads"]
    assert not any(torch.equal(a, b) for a, b in zip(before, after))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
