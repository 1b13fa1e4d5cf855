"""AugSelf: what was drawn becomes targets, the objective and the divergence that it stands for, who gets gradients, what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck

from formulas import pictures
from handful.augment import ADA, DiffAugment, Flip
from handful.errors import HandfulError, UsageError
from handful.rng import Rng
from handful.seam import Augmented, Context, Judged, Pass, View
from handful.terms import AugSelf
from handful.terms.augself import error, targets
from handful.training.networks import LiveNets
from making import noise_set, run_steps, tiny_trainer, weights
from tiny import TinyD, TinyG

BATCH = 4
FEATURE = frozenset({"pre_logits"})


def ready(D, T=None, side: str = "d", classes: int = 0, **how):
    torch.manual_seed(0)
    G = TinyG(num_classes=classes)
    nets = LiveNets(G, D, copy.deepcopy(G), T or DiffAugment(), labels=torch.arange(6) % 3 if classes else None)
    term = AugSelf(**how)
    term.setup(nets)
    for module, on in ((G, side == "g"), (D, side == "d"), (term, side == "d")):
        module.requires_grad_(on)
    return nets, term


def step(side: str, nets, c=None, real=None) -> Context:
    rng, view = Rng(11, batch=BATCH, slots=range(BATCH)), View(True, FEATURE)
    made = nets.forward_g(rng.randn(BATCH, nets.G.z_dim), c, rng.fork("noise"))
    passes = {}
    for kind, x in (("fake", made.image), ("real", pictures(BATCH, 2, 16, 3).float() if real is None else real)):
        x = x.detach() if side == "d" else x
        aug = nets.augment.draw(x, rng.fork("T", kind))
        passes[kind] = Pass(x, aug.image, nets.forward_d(aug.image, c, {}, view), view, generated=made if kind == "fake" else None, c=c, aug=aug)
    return Context(side, 0, 0, 0, BATCH, range(BATCH), Rng(7, batch=BATCH, slots=range(BATCH)), nets, passes)


# ----------------------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_diffaugments_ranges_become_minus_one_to_one(size):
    T = DiffAugment("color,translation,cutout")
    x = torch.zeros(1, 3, *size).expand(4000, -1, -1, -1)
    params = T.draw_params(x, Rng(0))
    w = targets(params, T, size)
    assert w.shape == (4000, 7) and list(sorted(params)) == ["brightness", "contrast", "cutout", "saturation", "translation"]
    assert w.abs().max() <= 1 and (w.amax(0) > 0.95).all() and (w.amin(0) < -0.95).all() and w.mean(0).abs().max() < 0.06
    torch.testing.assert_close(w[:, 0], 2 * params["brightness"])
    torch.testing.assert_close(w[:, 4], params["saturation"] - 1)
    neutral = {"brightness": torch.zeros(1), "saturation": torch.ones(1), "contrast": torch.ones(1), "translation": torch.zeros(1, 2, dtype=int)}
    assert targets(neutral, T, size).abs().max() == 0
    far = {"translation": torch.tensor([[round(size[0] / 8), -round(size[1] / 8)]])}
    assert targets(far, T, size).tolist() == [[1, -1]]


def test_ada_unapplied_is_zero_and_applied_is_bounded():
    T = ADA("bgcfnc", p=0.0)
    x = torch.zeros(1, 3, 32, 32).expand(300, -1, -1, -1)
    params = T.draw_params(x, Rng(0))
    params.pop("noise_field")
    assert targets(params, T, (32, 32)).abs().max() < 1e-6
    T.p.fill_(1.0)
    params = T.draw_params(x, Rng(0))
    params.pop("noise_field")
    w = targets(params, T, (32, 32))
    assert w.shape == (300, 12 + 3 + 6 + 4 + 1) and w.abs().max() == 2 and w.isfinite().all() and (w.std(0) > 0.05).sum() >= 25


def test_adas_parameters_in_numbers():
    T, side = ADA("bgcfnc"), (20, 40)                                           # height, width
    found = targets({"geometry": torch.tensor([[[0.0, -0.5, 10.0], [1.5, 1.0, -5.0]]])}, T, side)
    assert found.tolist() == [[-1, -0.25, 0.5, 2, 0, -0.5]]                    # 3 would be past the bound
    assert targets({"imgfilter": torch.tensor([[1.0, 2.0, 0.5, 2 ** 0.5]])}, T, side)[0].tolist() == pytest.approx([0, 1, -1, 0.5])
    assert targets({"noise": torch.tensor([0.05])}, T, side).tolist() == [[0.5]]
    holes = torch.tensor([[0.5, 0.25, 1.0], [0.0, 0.3, 0.3]])
    assert targets({"cutout": holes}, T, side).tolist() == [[1, -0.5, 1], [0, 0, 0]]
    color = torch.eye(3, 4)[None].clone()
    color[0, 0, 3], color[0, 1, 1] = 0.25, 0.5
    assert targets({"color": color}, T, side)[0].tolist() == [0, 0, 0, 0.25, 0, -0.5, 0, 0, 0, 0, 0, 0]


def test_the_directions_of_adas_map_hold_for_any_shape_of_image():
    """A turn by 90 degrees of positions from -1 to 1 in a 2:1 picture: an edge's middle lands where the map says."""
    T, side = ADA("bg"), (16, 32)
    turn = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])                 # in pixels: (column, row) -> (-row, column)
    w = targets({"geometry": turn}, T, side).view(2, 3) + torch.eye(2, 3)
    assert (w[:, :2] @ torch.tensor([0.0, 1.0])).tolist() == [-0.5, 0]         # 8 rows down: 8 columns left, half of 16


def test_a_flip_is_a_target_too_and_unknown_parameters_are_as_drawn():
    x = torch.zeros(50, 1, 4, 4)
    w = targets(Flip().draw(x, Rng(0)).params, Flip(), (4, 4))
    assert w.shape == (50, 1) and set(w.flatten().tolist()) == {0, 1}
    assert targets({"cutout": torch.tensor([[0.3, 9.0, 0.1, -0.5]])}, Flip(), (4, 4))[0].tolist() == pytest.approx([0.3, 2, 0.1, -0.5])


# --------------------------------------------------------------------------------------------------------------- objective


def test_gs_loss_is_the_arithmetic_harmonic_divergence_at_the_best_prediction():
    """Four pictures, p_R and p_F: the prediction where D's loss is stationary, and G's loss there."""
    g = torch.Generator().manual_seed(0)
    w = torch.rand(4, 3, generator=g, dtype=torch.float64) * 2 - 1             # the parameters with each picture: all of one length
    w = w / w.norm(dim=1, keepdim=True)
    real, fake = (torch.rand(4, generator=g, dtype=torch.float64).softmax(0) for _ in range(2))
    best = (w * ((real - fake) / (real + fake))[:, None]).requires_grad_()
    d_loss = (real * error(best, w) + fake * error(best, -w)).sum()
    assert torch.autograd.grad(d_loss, best)[0].abs().max() < 1e-15
    g_loss = (fake * (error(best, w) - error(best, -w))).sum()
    divergence = 1 - (2 * real * fake / (real + fake)).sum()
    torch.testing.assert_close(g_loss.detach() * 3, 4 * divergence)
    assert divergence > 0.01


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("classes", [0, 3])
def test_beside_a_step_by_hand(hidden, classes):
    for side in "dg":
        D = TinyD(num_classes=classes)
        nets, term = ready(D, side=side, classes=classes, weight_d=0.7, weight_g=0.3, hidden=hidden)
        c = torch.arange(BATCH) % 3 if classes else None
        ctx = step(side, nets, c)
        runs = nets.runs
        result = term(ctx)
        assert nets.runs == runs + 1                                           # one further run, reals and fakes together

        def predicted(p, c=c, D=D, term=term):
            f = [D(x, c, None, FEATURE).features["pre_logits"] for x in (p.x_in, p.x)]
            return term.head(f[0] - f[1])

        real, fake = ctx.passes["real"], ctx.passes["fake"]
        w = [targets(p.aug.params, nets.augment, (16, 16)) for p in (real, fake)]
        if side == "d":
            expected = 0.7 * (F.mse_loss(predicted(real), w[0]) + F.mse_loss(predicted(fake), -w[1]))
            assert set(result.stats) == {"error_real", "error_fake"}
        else:
            expected = 0.3 * (F.mse_loss(predicted(fake), w[1]) - F.mse_loss(predicted(fake), -w[1]))
            torch.testing.assert_close(expected, -0.3 * 4 * (predicted(fake) * w[1]).mean())
            assert set(result.stats) == {"gap"}
        torch.testing.assert_close(result.loss, expected)
        assert not any(v.requires_grad or len(v) != BATCH for v in result.stats.values())


def test_who_gets_gradients():
    for side, moved in (("d", ("D", "head")), ("g", ("G",))):
        nets, term = ready(TinyD(), side=side)
        term(step(side, nets)).loss.backward()
        parts = {"G": nets.G.named_parameters(), "head": term.head.named_parameters(),
                 "D": ((n, p) for n, p in nets.D.named_parameters() if not n.startswith("head"))}
        for name, parameters in parts.items():
            grads = [p.grad for _, p in parameters]
            assert all(g is not None and g.abs().sum() > 0 for g in grads) if name in moved else all(g is None for g in grads), (side, name)


def test_gradient_reaches_the_fakes_through_both_pictures(monkeypatch):
    """G's loss by y, against finite differences in fp64: y goes in augmented and as it is."""
    monkeypatch.setattr(torch.Tensor, "float", lambda t: t)
    nets, term = ready(TinyD(), side="g", weight_g=10.0)
    nets.D.double(), term.double()
    view, params = View(True, FEATURE), nets.augment.draw_params(torch.zeros(2, 3, 16, 16), Rng(3))

    def loss(y):
        y = y.repeat_interleave(4, 2).repeat_interleave(4, 3)
        x_in = nets.augment.transform(y, params)
        fake = Pass(y, x_in, nets.forward_d(x_in, None, {}, view), view, aug=Augmented(x_in, {}, params))
        return term(Context("g", 0, 0, 0, 2, range(2), Rng(7, batch=2, slots=range(2)), nets, {"fake": fake})).loss

    assert gradcheck(loss, pictures(2, 4, 4, 3).requires_grad_())


def test_the_head_learns_to_tell_brightness():
    """D's features: the mean of the picture, which brightness moves by itself. The difference alone gives the answer."""
    class Mean(TinyD):
        def forward(self, image, c=None, extra=None, want=frozenset()):
            mean = image.mean((1, 2, 3))
            return Judged(mean, {"pre_logits": F.pad(mean[:, None], (0, 15))})

    nets, term = ready(Mean(), DiffAugment("color"))
    with torch.no_grad():
        term.head.weight.zero_()
        term.head.bias.zero_()
        term.head.weight[0, 0] = 2.0                                           # w_brightness = 2 b
    stats = term(step("d", nets)).stats
    params = step("d", nets).passes["real"].aug.params
    own = (targets({k: v for k, v in params.items() if k != "brightness"}, nets.augment, (16, 16)).square().sum(1) / 3)
    torch.testing.assert_close(stats["error_real"], own, atol=1e-6, rtol=1e-5)
    assert (stats["error_fake"] > stats["error_real"].min()).any()             # a fake's brightness counts the other way round


class BatchD(TinyD):
    has_batch_stats = True


def test_statistics_of_the_batch_are_of_reals_or_of_fakes():
    nets, term = ready(BatchD())
    runs = nets.runs
    ctx = step("d", nets)
    shared = nets.runs - runs
    loss = term(ctx).loss
    assert nets.runs - runs - shared == 2
    nets.D.has_batch_stats = False
    torch.testing.assert_close(term(ctx).loss, loss)


# --------------------------------------------------------------------------------------------------------------- in a run


@pytest.mark.parametrize("settings, line", [
    (["augment=none"], r"terms.augself predicts what the augmentation draws .* this one draws nothing: take another \(--set augment=diffaug\)"),
    (["augment=diffaug", "augment.policy="], "this one draws nothing"),
    (["augment=diffaug", "terms.augself.weight_d=0"], "weight_g=1 with weight_d=0: nobody would teach D the task"),
    (["augment=diffaug", "terms.augself.weight_g=-1"], "weight_g=-1"), (["augment=diffaug", "terms.augself.hidden=-1"], "hidden=-1")])
def test_bad_input_is_said_in_a_line(settings, line):
    with pytest.raises((HandfulError, UsageError), match=line) as error:
        tiny_trainer("terms.augself.hidden=0", *settings)
    assert "\n" not in str(error.value)


def test_pictures_that_the_run_leaves_as_they_are():
    with pytest.raises(HandfulError, match="train.augment_at leaves some pictures as they are"):
        tiny_trainer("terms.augself={}", "augment=diffaug", 'train.augment_at=["real","fake_g"]')


@pytest.mark.parametrize("augment", [{"use": "flip"}, {"use": "ada", "p": 0.5}, {"use": "ada", "policy": "bgcfnc", "p": 1.0},
                                     {"use": "diffaug", "policy": "cutout"}])
@pytest.mark.parametrize("over", [{}, {"dataset": noise_set(classes=3), "train": {"joint": True}}])
def test_it_trains_with_any_augmentation(augment, over):
    trainer = run_steps(tiny_trainer("terms.augself.hidden=8", augment=augment, **over), 2)
    log = trainer.take_log()
    assert torch.isfinite(weights(trainer)).all() and log["d/bad_grads"] == log["g/bad_grads"] == 0
    assert log["d/augself/error_real"] > 0 and math.isfinite(log["g/augself/gap"])
    assert isinstance(trainer.terms["augself"].head, nn.Sequential)


def test_only_ds_step_trains_the_head():
    trainer = tiny_trainer("terms.augself={}", "augment=diffaug")
    head = trainer.terms["augself"].head.weight
    main = {p.side: p for p in trainer.plan if p.main}
    for side, moves in (("g", False), ("d", True)):
        before = head.detach().clone()
        trainer._run(main[side], 0, 0)
        assert torch.equal(before, head) != moves


def test_of_no_weight_it_changes_nothing():
    plain = run_steps(tiny_trainer("augment=diffaug"), 2)
    idle = run_steps(tiny_trainer("augment=diffaug", "terms.augself.weight_d=0", "terms.augself.weight_g=0"), 2)
    assert idle.nets.runs == plain.nets.runs
    for a, b in zip((plain.nets.G, plain.nets.D), (idle.nets.G, idle.nets.D)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    half = run_steps(tiny_trainer("augment=diffaug", "terms.augself.weight_g=0"), 2)
    assert "g/augself/gap" not in half.take_log() and half.terms["augself"].needs("g") is None


def test_targets_read_no_number_from_a_tensor():
    """A GPU would have to be waited for."""
    T = ADA("bgcfnc")
    params = T.draw_params(torch.zeros(3, 3, 24, 24), Rng(0))
    params.pop("noise_field")
    meta = {k: v.to("meta") for k, v in params.items()}
    assert targets(meta, T, (24, 24)).shape == (3, 26)
    T = DiffAugment()
    assert targets({k: v.to("meta") for k, v in T.draw_params(torch.zeros(3, 3, 24, 24), Rng(0)).items()}, T, (24, 24)).shape == (3, 7)
