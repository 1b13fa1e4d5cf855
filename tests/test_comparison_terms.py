"""bCR, zCR and auxiliary rotation: closed forms, steps written by hand beside the terms, who gets gradients, what is refused."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck

from formulas import Formula, call, linear, pictures
from handful.augment import ADA, DiffAugment
from handful.errors import HandfulError, UsageError
from handful.rng import Rng
from handful.seam import Augmented, Context, Discriminator, Generated, Generator, Judged, Pass, View
from handful.terms import BCR, ZCR, Rotation
from handful.terms._views import judged, shown
from handful.training.networks import LiveNets
from making import noise_set, of_two_processes, run_steps, tiny_trainer, weights
from tiny import TinyD, TinyG

BATCH = 4
ALL = ["terms.bcr.shift=0.125", "terms.zcr.weight_g=0.2", "terms.rotation.weight_g=1", "terms.augself.weight_g=0.5", "augment=diffaug"]


@pytest.fixture
def in_fp64(monkeypatch):
    """The seam rounds images, logits and features to fp32; here they stay as they are."""
    monkeypatch.setattr(torch.Tensor, "float", lambda t: t)


def step(side: str, nets: LiveNets, term, *, T=None, c=None, real=None, n: int = BATCH) -> Context:
    """A step as the trainer has it: G's shared pictures, augmented by T and judged, and some reals."""
    rng, view = Rng(11, batch=n, slots=range(n)), View(True, frozenset(nets.D.feature_info) if hasattr(nets.D, "feature_info") else frozenset())
    nets.G.requires_grad_(side == "g"), nets.D.requires_grad_(side == "d"), term.requires_grad_(side == "d")
    z = rng.randn(n, nets.G.z_dim).to(next(nets.G.parameters()).dtype)
    made = nets.forward_g(z, c, rng.fork("noise"))
    passes = {}
    for kind, x, scales in (("fake", made.image, made.extra), ("real", real, {})):
        if x is not None:
            if side == "d":
                x, scales = x.detach(), {k: v.detach() for k, v in scales.items()}
            aug = T.draw(x, rng.fork("T", kind), scales) if T else Augmented(x, scales)
            extra = {k: aug.extra.get(k, v) for k, v in nets.D.extra_of(aug.image).items()}
            seen = nets.forward_d(aug.image, c, extra, view, rng=rng.fork("d", kind))
            passes[kind] = Pass(x, aug.image, seen, view, extra, made if kind == "fake" else None, c, aug)
    return Context(side, 0, 0, 0, n, range(n), Rng(7, batch=n, slots=range(n)), nets, passes)


def tiny_nets(seed: int = 0, double: bool = False, classes: int = 0, **g) -> LiveNets:
    torch.manual_seed(seed)
    G, D = TinyG(num_classes=classes, **g), TinyD(num_classes=classes)
    return LiveNets(*((n.double() if double else n) for n in (G, D, copy.deepcopy(G))), None, labels=torch.arange(6) % classes if classes else None)


def ready(term, nets):
    torch.manual_seed(3)
    term.setup(LiveNets(copy.deepcopy(nets.G).to(torch.float32), nets.D, nets.G_ema, nets.augment, labels=nets.labels))
    return term.to(next(nets.D.parameters()).dtype)


class Counting(TinyD):
    """Says what it was given."""

    def __init__(self, **how):
        super().__init__(**how)
        self.seen = []

    def forward(self, image, c=None, extra=None, want=frozenset()):
        self.seen.append((image, c, extra))
        return super().forward(image, c, extra, want)


class BatchD(Counting):
    has_batch_stats = True


# ---------------------------------------------------------------------------------------------------------------------- bCR


def shifted(x: torch.Tensor, right: int, down: int) -> torch.Tensor:
    """One image [C,H,W] moved by whole pixels, what comes in mirrored about the border pixels' centres."""
    _, h, w = x.shape
    rows, cols = [[min(abs(p), 2 * (n - 1) - abs(p)) for p in range(-by, n - by)] for n, by in ((h, down), (w, right))]
    return x[:, rows][:, :, cols]


def test_bcr_moves_by_whole_pixels_and_mirrors():
    x, term = pictures(200, side=32), BCR(shift=1 / 8)
    rng = Rng(5)
    maps = term.draw(x, rng)
    by = -maps[:, :, 2]                                                       # the map leads from the output to the input
    assert torch.equal(maps[:, :, :2], torch.eye(2).expand(200, 2, 2)) and torch.equal(by, by.round())
    for axis in by.T.tolist():
        counts = torch.tensor([axis.count(v) for v in range(-4, 5)]) / 200   # uniform in -4 .. 4 but for the ends, where rounding leaves half
        assert (counts - torch.tensor([1, *[2] * 7, 1]) / 16).abs().max() < 0.07 and counts.sum() == 1
    smooth = F.avg_pool2d(F.pad(x, (4,) * 4, mode="reflect"), 5, 1)[..., 2:-2, 2:-2]
    for images, inside, off in ((x, slice(7, -7), 1e-5), (smooth, slice(None), 0.03)):          # ADA's mirror, outside, isn't quite symmetric
        moved = term.move.transform(images, {"geometry": maps})
        expected = torch.stack([shifted(one, *move) for one, move in zip(images, by.int().tolist())])
        torch.testing.assert_close(moved[..., inside, inside], expected[..., inside, inside], atol=off, rtol=0)


def test_bcr_at_256_pixels_is_eight_either_way():
    by = BCR().draw(torch.zeros(500, 1, 256, 256), Rng(0))[:, :, 2]
    assert by.abs().max() == 8 and torch.equal(by, by.round())


def test_bcr_of_a_linear_d(in_fp64):
    """D(x) = w.x: w_r E (w.(M x - x))^2 + w_f E (w.(M y - y))^2, with both places differentiated."""
    real, fake = pictures(3, 0, 8, 3), pictures(3, 1, 8, 3)
    w, term = pictures(1, 5, 8, 3).flatten().requires_grad_(), BCR(2.0, 3.0, shift=1 / 4).double()
    result = call(term, linear(w), real, fake)
    value, gradient = 0, 0
    for x, weight, kind in ((real, 2, "real"), (fake, 3, "fake")):
        maps = term.draw(x, Rng(7, batch=3, slots=range(3)).fork(kind))
        change = (term.move.transform(x, {"geometry": maps}) - x).flatten(1)
        assert maps[:, :, 2].abs().max() == 2
        gap = change @ w.detach()
        value, gradient = value + weight * gap.square().mean(), gradient + weight * (2 * gap[:, None] * change).mean(0)
        torch.testing.assert_close(result.stats[f"penalty_{kind}"], weight * gap.square(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(result.loss.detach(), value, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(torch.autograd.grad(result.loss, w)[0], gradient, rtol=1e-6, atol=1e-8)


def test_bcr_gradient_against_finite_differences(in_fp64):
    term = BCR(shift=1 / 4).double()

    def penalty(w):
        return call(term, Formula(lambda x, extra: torch.tanh(x.flatten(1) @ w.T).sin()), pictures(side=4), pictures(3, 1)).loss

    assert gradcheck(penalty, torch.randn(2, 16, dtype=torch.float64, requires_grad=True))       # two logits: each squared by itself


def test_bcr_moves_what_d_saw_and_leaves_g_alone():
    """Beside a step written by hand: T's pictures are moved, nobody's gradient leads to G, T isn't drawn again."""
    nets, T, term = tiny_nets(), DiffAugment("color,cutout"), ready(BCR(shift=1 / 4), tiny_nets())
    nets.augment = T
    real = pictures(BATCH, 2, 16, 3).float()
    ctx = step("d", nets, term, T=T, real=real)
    result = term(ctx)
    expected = 0
    for kind in ("real", "fake"):
        p = getattr(ctx, kind)
        moved = term.move.transform(p.x_in, {"geometry": term.draw(p.x_in, Rng(7, batch=BATCH, slots=range(BATCH)).fork(kind))})
        expected = expected + 10 * (nets.D(moved).logits - nets.D(p.x_in).logits).square().mean()
    torch.testing.assert_close(result.loss, expected)
    result.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in nets.D.named_parameters() if n != "head.bias")
    assert all(p.grad is None for p in nets.G.parameters()) and term.needs("g") is None


def test_bcr_runs_d_once_or_once_for_each_where_statistics_are_of_the_batch():
    seen = {}
    for cls in (Counting, BatchD):
        torch.manual_seed(0)
        D, term = cls(num_classes=3), BCR(shift=1 / 4)
        nets = LiveNets(TinyG(num_classes=3), D, None, None)
        c = torch.arange(BATCH) % 3
        ctx = step("d", nets, term, real=pictures(BATCH, 2, 16, 3).float(), c=c)
        D.seen.clear()
        seen[cls] = term(ctx).loss.detach(), [len(x) for x, _, _ in D.seen], torch.cat([c for _, c, _ in D.seen])
    assert seen[Counting][1] == [2 * BATCH] and seen[BatchD][1] == [BATCH, BATCH]
    torch.testing.assert_close(seen[Counting][0], seen[BatchD][0])
    assert torch.equal(seen[Counting][2], torch.cat([c, c])) and torch.equal(seen[BatchD][2], torch.cat([c, c]))


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_bcr_without_one_weight_drops_its_work(kind):
    nets, term = tiny_nets(), BCR(**{f"weight_{kind}": 0.0}, shift=1 / 4)
    other = {"real": "fake", "fake": "real"}[kind]
    assert not getattr(term.needs("d"), kind) and getattr(term.needs("d"), other) == View(logits=True)
    result = term(step("d", nets, term, real=pictures(BATCH, 2, 16, 3).float()))
    assert list(result.stats) == [f"penalty_{other}"] and BCR(0, 0).needs("d") is None


def test_bcr_a_fakes_smaller_scale_moves_along_and_a_reals_is_made_anew(in_fp64):
    """D(x, small) = v.small."""
    v = pictures(1, 6, side=8)
    D, term = Formula(lambda x, extra: (extra["small"] * v).flatten(1).sum(1), scale=True), BCR(1.0, 1.0, shift=1 / 4).double()
    real, large, small = pictures(3, 0, 16), pictures(3, 1, 16), pictures(3, 2, 8)
    view, rng = View(logits=True), Rng(7, batch=3, slots=range(3))
    passes = {"real": Pass(real, real, D(real), view, D.extra_of(real)),
              "fake": Pass(large, large, D(large, None, {"small": small}), view, {"small": small}, Generated(large, large, large))}
    result = term(Context("d", 0, 0, 0, 3, range(3), rng, LiveNets(None, D, None, None), passes))
    maps = {k: term.draw(x, rng.fork(k)) for k, x in (("real", real), ("fake", large))}
    assert maps["fake"][:, :, 2].abs().max() > 1
    moved = term.move.transform(real, {"geometry": maps["real"]})[..., ::2, ::2]
    torch.testing.assert_close(result.stats["penalty_real"], ((moved - real[..., ::2, ::2]) * v).flatten(1).sum(1).square())
    half = torch.cat([maps["fake"][:, :, :2], (maps["fake"][:, :, 2:] / 2).round()], 2)
    moved = term.move.transform(small, {"geometry": half})
    torch.testing.assert_close(result.stats["penalty_fake"], ((moved - small) * v).flatten(1).sum(1).square())


def test_bcr_of_figure_20():
    x = torch.zeros(2000, 1, 64, 64)
    flips = BCR(policy="xint,xflip").draw(x, Rng(0))
    assert flips[:, 0, 0].abs().eq(1).all() and abs(flips[:, 0, 0].mean()) < 0.1 and flips[:, 0, 2].abs().max() == 2
    for degrees in (10, 20, 45):
        for policy in ("", "xint"):
            maps = BCR(policy=policy, rotate_degrees=degrees).draw(x, Rng(0))
            angle = torch.atan2(maps[:, 1, 0], maps[:, 0, 0]).rad2deg()
            assert angle.abs().max() <= degrees and abs(angle.std() - degrees / 3 ** 0.5) < degrees / 20 and abs(angle.mean()) < degrees / 10
            torch.testing.assert_close(torch.linalg.det(maps[:, :, :2]), torch.ones(2000))
            assert maps[:, :, 2].abs().max() == (2 if policy else 0)


def test_bcr_turns_a_picture_about_its_centre():
    """A disc off the centre, turned: where its middle lies."""
    at = torch.arange(32) - 15.5
    x = torch.exp(-((at[None] - 8) ** 2 + at[:, None] ** 2) / 8)[None, None]
    term = BCR(policy="", rotate_degrees=45)
    maps = term.draw(x, Rng(1))
    y = term.move.transform(x, {"geometry": maps})[0, 0]
    middle = torch.stack([(y * at[None]).sum(), (y * at[:, None]).sum()]) / y.sum()
    torch.testing.assert_close(maps[0, :, :2] @ middle, torch.tensor([8.0, 0.0]), atol=0.1, rtol=0)


class DrawingD(TinyD):
    draws = True

    def forward(self, image, c=None, extra=None, want=frozenset(), *, rng):
        out = super().forward(image, c, extra, want)
        return Judged(out.logits + rng.randn(len(image)), out.features)


@pytest.mark.parametrize("slots", [range(0, 4), range(2, 4)])
def test_a_joint_run_draws_for_each_what_a_run_of_its_own_would(slots):
    torch.manual_seed(0)
    D, n = DrawingD(), len(slots)
    nets = LiveNets(TinyG(), D, None, None)
    views = {k: (pictures(4, i, 16, 3).float()[slots.start:slots.stop], None, None) for i, k in enumerate("ab")}
    ctx, rng = Context("d", 0, 0, 0, 4, slots, Rng(1, batch=4, slots=slots), nets), Rng(7, batch=4, slots=slots)
    joint = judged(ctx, views, rng, frozenset({"conv2"}))
    for k in "ab":
        own = judged(ctx, {k: views[k]}, rng, frozenset({"conv2"}))[k]
        torch.testing.assert_close(joint[k].logits, own.logits)
        torch.testing.assert_close(joint[k].features["conv2"], own.features["conv2"])
    assert len(joint["a"].logits) == n and nets.runs == 3


# ---------------------------------------------------------------------------------------------------------------------- zCR


class LinearG(Generator):
    """Image = A z + strength * noise, [B,1,4,4]; a smaller scale, every second pixel of its negative."""

    def __init__(self, A: torch.Tensor, strength: float = 0.0):
        super().__init__()
        self.A, self.strength, self.z_dim, self.num_classes = nn.Parameter(A), strength, A.shape[1], 0

    def forward(self, z, c=None, *, rng):
        x = (z @ self.A.T + self.strength * rng.randn(len(z), 16)).view(-1, 1, 4, 4)
        return Generated(x, z, z, c, {"small": -x[..., ::2, ::2]})


def test_zcr_of_a_linear_g(in_fp64):
    """G(z) - G(z') = -std A n: L_G = -weight std^2 mean (A n)^2, which both pictures' gradients make up."""
    A, term = torch.randn(16, 5, dtype=torch.float64), ZCR(0.2, 0.3, std=0.5)
    nets = LiveNets(LinearG(A, 0.7), linear(pictures(1).flatten()), None, None)
    ctx = step("g", nets, term)
    result = term(ctx)
    n = Rng(7, batch=BATCH, slots=range(BATCH)).fork("z").randn(BATCH, 5).double()
    moved = n @ A.T                                                           # [B,16]
    torch.testing.assert_close(result.loss, -0.3 * 0.25 * moved.square().mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(result.stats["distance"], 0.25 * moved.square().mean(1), rtol=1e-6, atol=0)
    gradient, = torch.autograd.grad(result.loss, nets.G.A)
    torch.testing.assert_close(gradient, -0.3 * 0.25 * 2 * moved.T @ n / moved.numel(), rtol=1e-6, atol=1e-12)


def test_zcr_asks_d_for_one_logit_for_both(in_fp64):
    """D(x) = w.x: weight E (w.(T(G(z)) - G(z')))^2, T on the first alone, gradients through both; beside it the smaller scale, as made."""
    A, w = torch.randn(16, 5, dtype=torch.float64), pictures(1, 3).flatten().requires_grad_()
    v, T, term = pictures(1, 4, 2), DiffAugment("color"), ZCR(std=0.5)
    D = Formula(lambda x, extra: x.flatten(1) @ w + (extra["small"] * v).flatten(1).sum(1), scale=True)
    nets = LiveNets(LinearG(A), D, None, T)
    ctx = step("d", nets, term, T=T)
    result = term(ctx)
    z = ctx.fake.generated.z + 0.5 * Rng(7, batch=BATCH, slots=range(BATCH)).fork("z").randn(BATCH, 5)
    other = (z @ A.T).view(-1, 1, 4, 4)
    change = (ctx.fake.x_in - other).flatten(1)
    gap = change @ w.detach() + ((ctx.fake.extra["small"] + other[..., ::2, ::2]) * v).flatten(1).sum(1)
    torch.testing.assert_close(result.stats["penalty"], 0.2 * gap.square(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(result.loss.detach(), 0.2 * gap.square().mean(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(result.loss, w)[0], 0.2 * (2 * gap[:, None] * change).mean(0), rtol=1e-6, atol=1e-12)


def test_zcr_gradient_against_finite_differences(in_fp64):
    nets, term = tiny_nets(double=True, resolution=8, width=2, noise=0.1), ZCR(weight_g=50.0, std=0.5)
    ctx = step("g", nets, term)
    names, held = zip(*((n, p.detach().clone()) for n, p in nets.G.named_parameters()))
    z, rng = ctx.fake.generated.z, ctx.fake.generated.rng

    def loss(*some):
        state = dict(zip(names, held)) | dict(zip(("convs.0.weight", "to_image.weight"), some))
        stub = TinyG(8, width=2)
        stub.forward = lambda z, c, rng: torch.func.functional_call(nets.G, state, (z, c), {"rng": rng})
        live = LiveNets(stub, nets.D, None, None)
        made = live.forward_g(z, None, rng.again())
        fake = Pass(made.image, made.image, ctx.fake.judged, View(logits=True), generated=made)
        return term(Context("g", 0, 0, 0, BATCH, range(BATCH), Rng(7, batch=BATCH, slots=range(BATCH)), live, {"fake": fake})).loss

    inputs = [dict(zip(names, held))[n].requires_grad_() for n in ("convs.0.weight", "to_image.weight")]
    assert abs(loss(*inputs)) > 0.01 and gradcheck(loss, inputs)


@pytest.mark.parametrize("arch", ["tiny", "stylegan2"])
def test_zcr_noise_and_style_mixing_are_the_first_pictures_own_or_fresh(arch):
    from handful.arch.stylegan2 import Generator as StyleGAN2

    torch.manual_seed(0)
    G = TinyG(noise=1.0) if arch == "tiny" else StyleGAN2(16, z_dim=8, w_dim=8, channel_base=128, channel_max=8, mapping_layers=1)
    distances = {}
    for noise in ("same", "fresh"):
        term = ZCR(std=1e-6, noise=noise)
        distances[noise] = term(step("g", LiveNets(G, TinyD(), None, None), term)).stats["distance"]
    assert distances["same"].max() < 1e-8 and distances["fresh"].min() > 1e-4


def test_zcr_trains_g_in_gs_step_and_d_in_ds():
    nets = tiny_nets(classes=3)
    c = torch.arange(BATCH) % 3
    for side, moved, still in (("g", nets.G, nets.D), ("d", nets.D, nets.G)):
        for net in (nets.G, nets.D):
            net.zero_grad()
        term = ZCR()
        term(step(side, nets, term, c=c)).loss.backward()
        assert all(p.grad is not None for p in moved.parameters()) and all(p.grad is None for p in still.parameters())
    assert ZCR(weight_d=0).needs("d") is None and ZCR(weight_g=0).needs("g") is None and ZCR(weight_d=0).needs("g")


# ----------------------------------------------------------------------------------------------------------------- rotation


def by_hand(term: Rotation, D: Discriminator, x: torch.Tensor, c=None) -> torch.Tensor:
    """Cross-entropy of the four turns, the mean over images and turns."""
    total = 0
    for k in range(4):
        features = D(torch.rot90(x, k, (2, 3)), c, None, frozenset({"pre_logits"})).features["pre_logits"]
        logits = features @ term.head.weight.T / features.shape[1] ** 0.5 + term.head.bias
        total = total + F.cross_entropy(logits, torch.full((len(x),), k))
    return total / 4


@pytest.mark.parametrize("side", ["d", "g"])
@pytest.mark.parametrize("classes", [0, 3])
def test_rotation_beside_a_step_by_hand(side, classes):
    nets, T = tiny_nets(classes=classes), DiffAugment("color,cutout")
    nets.augment, term = T, ready(Rotation(), nets)
    c = torch.arange(BATCH) % 3 if classes else None
    ctx = step(side, nets, term, T=T, real=pictures(BATCH, 2, 16, 3).float(), c=c)
    before = nets.runs
    result = term(ctx)
    x = (ctx.real if side == "d" else ctx.fake).x_in
    entropy = by_hand(term, nets.D, x, c)
    torch.testing.assert_close(result.loss, (5 if side == "d" else 10) * entropy)
    torch.testing.assert_close(result.stats["cross_entropy"].mean(), entropy.detach())
    assert nets.runs == before + 1                                            # upright pictures: the shared pass
    result.loss.backward()
    moved, still = ([nets.D, term], nets.G) if side == "d" else ([nets.G], nn.ModuleList([nets.D, term]))
    # Neither logits nor classes have a part in it.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for m in moved for n, p in m.named_parameters()
               if m is not nets.D or n.split(".")[0] not in ("head", "embed"))
    assert all(p.grad is None for p in still.parameters())


def test_rotation_judges_all_four_together_where_statistics_are_of_the_batch():
    seen = {}
    for cls in (Counting, BatchD):
        torch.manual_seed(0)
        D = cls()
        nets = LiveNets(TinyG(), D, None, None)
        term = ready(Rotation(), nets)
        ctx = step("d", nets, term, real=pictures(BATCH, 2, 16, 3).float())
        D.seen.clear()
        seen[cls] = term(ctx).loss.detach(), D.seen
    torch.testing.assert_close(seen[Counting][0], seen[BatchD][0])
    (three, _, _), (four, _, _) = seen[Counting][1][0], seen[BatchD][1][0]
    assert len(three) == 3 * BATCH and torch.equal(four[BATCH:], three) and torch.equal(four[:BATCH], ctx.real.x_in)


def test_rotation_knows_nothing_at_first_and_all_once_d_can_tell():
    """Equal outputs: log 4. A D that says where the brightest quarter is: every turn is right."""
    nets = tiny_nets()
    term = ready(Rotation(), nets)
    nn.init.zeros_(term.head.weight)
    assert term(step("d", nets, term, real=pictures(BATCH, 2, 16, 3).float())).loss.item() == pytest.approx(5 * math.log(4))

    class Corners(TinyD):
        def forward(self, image, c=None, extra=None, want=frozenset()):
            corners = torch.stack([image[:, 0, 0, 0], image[:, 0, -1, 0], image[:, 0, -1, -1], image[:, 0, 0, -1]], 1)
            return Judged(corners.sum(1), {"pre_logits": F.pad(corners, (0, 12))})

    x = torch.zeros(BATCH, 3, 16, 16)
    x[:, :, 0, 0] = 1                                                          # a quarter turn counter-clockwise takes it down, along the left
    nets = LiveNets(TinyG(), Corners(), None, None)
    term = ready(Rotation(), nets)
    term.head.weight.data = 400 * torch.eye(4, 16)
    result = term(step("d", nets, term, real=x))
    assert result.stats["accuracy"].tolist() == [1] * BATCH and result.loss < 1e-6


def test_rotation_gradient_of_the_fakes_against_finite_differences(in_fp64):
    nets = tiny_nets(double=True)
    nets.D.conv2.weight.data *= 10
    term = ready(Rotation(), nets)
    view = View(True, frozenset({"pre_logits"}))

    def loss(x):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        fake = Pass(x, x, nets.forward_d(x, None, {}, view), view)
        return term(Context("g", 0, 0, 0, 2, range(2), Rng(7, batch=2, slots=range(2)), nets, {"fake": fake})).loss

    assert gradcheck(loss, pictures(2, 4, 4, 3).requires_grad_())


def test_rotation_turns_the_smaller_scale_along():
    class Scaled(Counting):
        def extra_of(self, image):
            return {"small": image[..., ::2, ::2]}

    D = Scaled()
    nets = LiveNets(TinyG(), D, None, None)
    term = ready(Rotation(), nets)
    ctx = step("d", nets, term, real=pictures(BATCH, 2, 16, 3).float())
    ctx.real.extra["small"] = small = pictures(BATCH, 5, 8, 3).float()
    term(ctx)
    given = D.seen[-1][2]["small"]
    assert torch.equal(given, torch.cat([torch.rot90(small, k, (2, 3)) for k in (1, 2, 3)]))


def test_rotation_takes_maps_and_vectors_of_features():
    """FastGAN's pre-logits are a map, averaged over space."""
    trainer = tiny_trainer("data.resolution=64", "terms.rotation.weight_g=1", "train.batch=4", dataset=noise_set(8, resolution=64),
                           g={"use": "fastgan", "ngf": 4, "z_dim": 16}, d={"use": "fastgan", "ndf": 4})
    assert trainer.terms["rotation"].head.weight.shape == (4, trainer.nets.D.feature_info["pre_logits"].channels)


class WideG(TinyG):
    def forward(self, z, c=None, *, rng):
        made = super().forward(z, c, rng=rng)
        return Generated(torch.cat([made.image, made.image], 3), z, z, c)


def test_rotation_wants_square_pictures():
    with pytest.raises(HandfulError, match="terms.rotation turns.*square, not 32x16: crop them .*--fit crop") as error:
        tiny_trainer("terms.rotation={}", "g=test_comparison_terms:WideG")
    assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------------------------------------- in training


@pytest.mark.parametrize("settings, line", [
    (["terms.bcr.policy=xint,xflop"], r"terms.bcr: policy='xint,xflop': unknown word 'xflop'; did you mean 'xflip'"),
    (["terms.bcr.policy="], "moves nothing; take policy=xint"), (["terms.bcr.weight_real=-1"], "weight_real=-1: give a number of 0 or more"),
    (["terms.bcr={}"], r"terms.bcr.shift=0.03125 is half a pixel or less of 16, so no picture would move; give 0.0625 or more"),
    (["terms.bcr.shift=2"], "from 0 to 1"), (["terms.bcr.rotate_degrees=200"], "from 0 to 180"), (["terms.zcr.std=0"], "std=0"),
    (["terms.zcr.weight_g=-1"], "weight_g=-1"), (["terms.zcr.noise=other"], "noise"),
    (["terms.rotation.weight_d=0"], "weight_g=10 with weight_d=0: nobody would teach D the task"), (["terms.rotation.weight_d=-1"], "weight_d=-1")])
def test_bad_input_is_said_in_a_line(settings, line):
    with pytest.raises((HandfulError, UsageError), match=line) as error:
        tiny_trainer(*settings)
    assert "\n" not in str(error.value)


def test_notes():
    trainer = tiny_trainer("terms.zcr={}", "terms.rotation={}", precision="bf16", augment={"use": "ada", "p": 0.2})
    assert any("zcr" in n and "fp32" in n for n in trainer.notes) and any("rotate, rotate90" in n for n in trainer.notes)
    ADA("xflip,xint,scale,aniso,xfrac,color")                                   # what the note advises
    assert not tiny_trainer("terms.zcr={}", "terms.rotation={}").notes


@pytest.mark.parametrize("over", [{"dataset": noise_set(classes=3)}, {"train": {"joint": True}}, {"d": {"use": "tiny:TinyD", "patches": 5}}])
def test_they_train_together(over):
    trainer = run_steps(tiny_trainer(*ALL, **over), 3)
    log = trainer.take_log()
    assert torch.isfinite(weights(trainer)).all() and log["d/bad_grads"] == log["g/bad_grads"] == 0
    assert all(log[k] > 0 for k in ("d/bcr/penalty_real", "d/bcr/penalty_fake", "d/zcr/penalty", "g/zcr/distance", "d/rotation/cross_entropy",
                                    "g/rotation/cross_entropy"))


@pytest.mark.parametrize("arch", ["fastgan", "stylegan2"])
def test_they_train_real_architectures(arch):
    from making import NARROW

    trainer = tiny_trainer(*ALL, "data.resolution=32", "train.batch=4", "train.share_fakes=true", dataset=noise_set(8, 3, resolution=32),
                           g={"use": arch, **NARROW[arch]["g"]}, d={"use": arch, **NARROW[arch]["d"]})
    run_steps(trainer, 2)
    assert torch.isfinite(weights(trainer)).all() and trainer.take_log()["d/bad_grads"] == 0


def test_only_ds_step_trains_the_head():
    trainer = tiny_trainer("terms.rotation={}")
    head = trainer.terms["rotation"].head.weight
    main = {p.side: p for p in trainer.plan if p.main}
    for side, moves in (("g", False), ("d", True)):
        before = head.detach().clone(), trainer.nets.D.stem.weight.detach().clone(), trainer.nets.G.dense.weight.detach().clone()
        trainer._run(main[side], 0, 0)
        after = head, trainer.nets.D.stem.weight, trainer.nets.G.dense.weight
        assert [torch.equal(a, b) for a, b in zip(before, after)] == [not moves, not moves, moves]


def test_of_no_weight_they_change_nothing():
    plain = run_steps(tiny_trainer(), 2)
    idle = run_steps(tiny_trainer("terms.bcr={'use':'bcr','weight_real':0,'weight_fake':0,'shift':0.125}".replace("'", '"'),
                                  *(f'terms.{n}={{"use":"{n}","weight_d":0,"weight_g":0}}' for n in ("zcr", "rotation"))), 2)
    for a, b in zip((plain.nets.G, plain.nets.D), (idle.nets.G, idle.nets.D)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_shown_leaves_gs_graph_out_of_ds_step():
    nets, term = tiny_nets(), ZCR()
    for side in "dg":
        ctx = step(side, nets, term)
        assert [shown(ctx, "fake", at)[0].requires_grad for at in ("x", "x_in")] == [side == "g"] * 2


EPS = ["optim_g.eps=1e-3", "optim_d.eps=1e-3"]                  # Adam must not blow rounding up where a gradient is nearly 0


def work(out: Path) -> None:
    """What each rank runs under torchrun."""
    from handful.training import distributed

    torch.set_num_threads(1)
    rank, world = distributed.start(torch.device("cpu"))
    trainer = run_steps(tiny_trainer(*ALL, *EPS, rank=rank, world=world, g={"use": "tiny:TinyG", "noise": 0.1}), 3)
    torch.save({"weights": weights(trainer)}, out / f"rank{rank}.pt")
    distributed.leave()


def test_two_processes_and_micro_batches_are_one_batch(tmp_path):
    g = {"use": "tiny:TinyG", "noise": 0.1}
    one = weights(run_steps(tiny_trainer(*ALL, *EPS, g=g), 3))
    parts = weights(run_steps(tiny_trainer(*ALL, *EPS, "train.micro_batch=2", g=g), 3))
    assert (one - parts).abs().max() < 1e-5
    a, b = (r["weights"] for r in of_two_processes(__file__, tmp_path))
    assert torch.equal(a, b) and (one - a).abs().max() < 1e-5


if __name__ == "__main__":
    work(Path(sys.argv[1]))
