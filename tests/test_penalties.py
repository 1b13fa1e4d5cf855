"""Every penalty of D's gradient, of its logits and of weights against closed forms on a linear and a quadratic D, to second order in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from formulas import Formula, call, linear, pictures, quadratic
from handful.augment import DiffAugment
from handful.errors import HandfulError, UsageError
from handful.nn.conv import Embedding, ToMap
from handful.nn.equalized import EqualConv2d, EqualLinear
from handful.rng import Rng
from handful.seam import View
from handful.terms import DRAGAN, R1, R2, Consistency, DigGAN, GradientPenalty, LeCam
from handful.terms._points import root
from handful.terms.orthogonal import filters, off_diagonal
from making import noise_set, run_steps, tiny_trainer, weights
from tiny import TinyD

REAL, FAKE = pictures(), pictures(seed=1)
TERMS = {"r1": lambda: R1(3.0, at="x_in"), "r2": lambda: R2(3.0, at="x_in"), "gp1": lambda: GradientPenalty(3.0, drift=0.5),
         "gp0": lambda: GradientPenalty(3.0, target=0), "dragan": lambda: DRAGAN(3.0), "dragan_normal": lambda: DRAGAN(3.0, noise="normal"),
         "diggan": lambda: DigGAN(3.0), "consistency": lambda: Consistency(3.0),
         "lecam": lambda: LeCam(3.0, start=0, one_sided=False, update="after")}


@pytest.fixture(autouse=True)
def in_fp64(monkeypatch):
    """The seam rounds logits and gradients to fp32; here they stay as they are."""
    monkeypatch.setattr(torch.Tensor, "float", lambda t: t)


def made(name: str):
    term = TERMS[name]()
    if name == "lecam":                                                        # averages of an earlier step
        term.commit("d", {"real_logit": torch.tensor(0.7), "fake_logit": torch.tensor(-0.4), "decay": torch.tensor(0.9)}, {}, None, 3)
    return term.double()


def between() -> torch.Tensor:
    """x^ of the gradient penalty, by its formula."""
    u = Rng(7, batch=3, slots=range(3)).rand(3)[:, None, None, None]
    return u * REAL + (1 - u) * FAKE


def around(noise: str) -> torch.Tensor:
    """x^ of DRAGAN, by its formula."""
    rng, s = Rng(7, batch=3, slots=range(3)), ((REAL - REAL.mean()).square().sum() / (REAL.numel() - 1)).sqrt()
    if noise == "normal":
        return REAL + 0.5 * s * rng.randn(3, 1, 4, 4)
    v = rng.rand(3, 1, 4, 4)
    return REAL + rng.rand(3)[:, None, None, None] * (0.5 * s * v)


def shifted(term: Consistency) -> torch.Tensor:
    rng = Rng(7, batch=3, slots=range(3))
    flip = rng.fork("flip").rand(3) < 0.5
    image = torch.where(flip[:, None, None, None], REAL.flip(3), REAL)
    out = torch.zeros_like(image)
    for i, (down, right) in enumerate(term.shift.draw_params(image, rng.fork("shift"))["translation"].tolist()):
        for row in range(4):
            for col in range(4):
                if 0 <= row - down < 4 and 0 <= col - right < 4:
                    out[i, 0, row, col] = image[i, 0, row - down, col - right]
    assert not torch.equal(out, REAL)
    return out


# --------------------------------------------------------------------------------------------------- value and weight gradient


def expected(name: str, points, norm, d_norm, logit, d_logit):
    """Value and derivative of a penalty of weight 3. norm(x) [n], d_norm(x) [n,*]: of the gradient's length; logit, d_logit: of D."""
    def column(v, like):
        return v.view(-1, *[1] * (like.ndim - 1))

    def mean_of(factor, x, derivative):
        d = derivative(x)
        return (column(factor, d) * d).mean(0)

    if name in ("r1", "r2"):
        x = REAL if name == "r1" else FAKE
        return 1.5 * norm(x).square().mean(), mean_of(3 * norm(x), x, d_norm)
    if name == "gp0":
        return 3 * norm(points).square().mean(), mean_of(6 * norm(points), points, d_norm)
    if name == "gp1":
        value = 3 * (norm(points) - 1).square().mean() + 0.5 * logit(REAL).square().mean()
        return value, mean_of(6 * (norm(points) - 1), points, d_norm) + mean_of(logit(REAL), REAL, d_logit)
    if name.startswith("dragan"):
        return 3 * (norm(points) - 1).square().mean(), mean_of(6 * (norm(points) - 1), points, d_norm)
    if name == "diggan":
        gap = norm(REAL) - norm(FAKE)
        return 3 * gap.square().mean(), mean_of(6 * gap, REAL, d_norm) - mean_of(6 * gap, FAKE, d_norm)
    if name == "consistency":
        gap = logit(points) - logit(REAL)
        return 3 * gap.square().mean(), mean_of(6 * gap, points, d_logit) - mean_of(6 * gap, REAL, d_logit)
    over, under = logit(REAL) + 0.4, 0.7 - logit(FAKE)
    return (3 * (over.square().mean() + under.square().mean()),
            mean_of(6 * over, REAL, d_logit) - mean_of(6 * under, FAKE, d_logit))


def points_of(name: str, term):
    if name in ("gp0", "gp1"):
        return between()
    if name.startswith("dragan"):
        return around("normal" if name.endswith("normal") else "uniform")
    return shifted(term) if name == "consistency" else None


@pytest.mark.parametrize("name", TERMS)
def test_linear_d(name):
    """D(x) = w.x: the gradient is w wherever one looks, so GP-1 is (|w| - 1)^2, and the gap is 0."""
    w, term = pictures(1, seed=5).flatten().requires_grad_(), made(name)
    x = {"norm": lambda x: w.detach().norm().expand(len(x)), "d_norm": lambda x: (w / w.norm()).detach().expand(len(x), -1),
         "logit": lambda x: x.flatten(1) @ w.detach(), "d_logit": lambda x: x.flatten(1)}
    value, gradient = expected(name, points_of(name, term), **x)
    result = call(term, linear(w), REAL, FAKE, step=1)
    torch.testing.assert_close(result.loss.detach(), value)
    torch.testing.assert_close(torch.autograd.grad(result.loss, w)[0], gradient)
    assert (name == "diggan") == (result.loss.item() == 0)
    assert not any(v.requires_grad for v in result.stats.values()) and all(len(v) == 3 for v in result.stats.values())


@pytest.mark.parametrize("name", TERMS)
def test_quadratic_d(name):
    """D(x) = x^T A x / 2 has the gradient g = (A + A^T) x / 2, and d|g|/dA = (g x^T + x g^T) / (2 |g|)."""
    a, term = torch.randn(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_(), made(name)
    s = ((a + a.T) / 2).detach()

    def d_norm(x):
        x = x.flatten(1)
        g = x @ s
        outer = g[:, :, None] * x[:, None]
        return (outer + outer.transpose(1, 2)) / (2 * g.norm(dim=1)[:, None, None])

    value, gradient = expected(name, points_of(name, term), norm=lambda x: (x.flatten(1) @ s).norm(dim=1), d_norm=d_norm,
                               logit=lambda x: (x.flatten(1) @ s * x.flatten(1)).sum(1) / 2,
                               d_logit=lambda x: x.flatten(1)[:, :, None] * x.flatten(1)[:, None] / 2)
    result = call(term, quadratic(a), REAL, FAKE, step=1)
    torch.testing.assert_close(result.loss.detach(), value)
    torch.testing.assert_close(torch.autograd.grad(result.loss, a)[0], gradient)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("form", ["linear", "quadratic", "smooth"])
def test_second_order_to_the_weights(name, form):
    """The penalty's gradient to D's weights, and that one's, against finite differences."""
    g = torch.Generator().manual_seed(3)
    w = torch.randn({"linear": (16,), "quadratic": (2, 16), "smooth": (2, 16)}[form], dtype=torch.float64, generator=g, requires_grad=True)

    def penalty(w):
        D = {"linear": lambda: linear(w), "quadratic": lambda: quadratic(w.T @ w),
             "smooth": lambda: Formula(lambda x, extra: torch.tanh(x.flatten(1) @ w.T).sin().sum(1))}[form]()
        return call(made(name), D, REAL, FAKE, step=1).loss

    assert gradcheck(penalty, w) and gradgradcheck(penalty, w)


@pytest.mark.parametrize("name", ["gp1", "dragan", "diggan", "consistency"])
def test_second_order_through_augmentation_and_a_network(name):
    torch.manual_seed(0)
    D, T, real, fake = TinyD(width=2, num_classes=3).double(), DiffAugment(), pictures(2, 0, 8, 3), pictures(2, 1, 8, 3)
    held, names = [p.detach().clone() for p in D.parameters()], [n for n, _ in D.named_parameters()]
    shown = [names.index(n) for n in ("stem.weight", "head.weight", "embed.weight")]
    term = {"gp1": lambda: GradientPenalty(100.0, at="x"), "dragan": lambda: DRAGAN(100.0, at="x"), "diggan": lambda: DigGAN(1e3, at="x"),
            "consistency": lambda: Consistency(100.0, "plain")}[name]()

    def penalty(*some):
        full = dict(zip(names, held)) | {names[i]: w for i, w in zip(shown, some)}
        stub = Formula(None)
        stub.forward = lambda image, c, extra, want: torch.func.functional_call(D, full, (image, c))
        return call(term, stub, real, fake, T, torch.tensor([0, 2])).loss

    inputs = [(30 * held[i] if names[i] == "stem.weight" else held[i]).requires_grad_() for i in shown]
    assert penalty(*inputs) > 0 and gradcheck(penalty, inputs) and gradgradcheck(penalty, inputs)


@pytest.mark.parametrize("name", ["gp1", "gp0", "dragan", "diggan"])
def test_a_gradient_of_zero_has_a_finite_one(name):
    """D dead for some images, and for all: the norm's derivative is 0 there, not NaN."""
    for bias in (-100.0, 0.2):
        w = pictures(1, seed=5).flatten().requires_grad_()
        result = call(made(name), Formula(lambda x, extra: torch.relu(x.flatten(1) @ w + bias)), REAL, FAKE, step=1)      # noqa: B023
        assert torch.autograd.grad(result.loss, w)[0].isfinite().all() and result.loss.isfinite()


def test_root():
    x = torch.tensor([0.0, 4.0], requires_grad=True)
    assert root(x).tolist() == [0, 2] and torch.autograd.grad(root(x).sum(), x)[0].tolist() == [0, 0.25]


# ------------------------------------------------------------------------------------------------------------ what they look at


def test_needs_are_what_is_read():
    logits = View(logits=True)
    for term, real, fake in ((GradientPenalty(), logits, logits), (DRAGAN(), logits, View()), (Consistency(), logits, View())):
        need = term.needs("d")
        assert (need.real, need.fake, need.same_labels) == (real, fake, False) and term.needs("g") is None and term.gain is None
    assert not DRAGAN().exact_under_accumulation and GradientPenalty().exact_under_accumulation and Consistency().exact_under_accumulation


@pytest.mark.parametrize("at", ["x", "x_in"])
def test_between_what_d_saw_or_between_the_images(at):
    """T adds 3 to every pixel. D(x) = |x|^2 / 2 has the gradient x, so the norm tells where it was taken; T(x) = x + 3 there in both."""
    class Add3(DiffAugment):
        def transform(self, x, params):
            return x + 3

    D = Formula(lambda x, extra: x.flatten(1).square().sum(1) / 2)
    result = call(GradientPenalty(at=at), D, REAL, FAKE, Add3(""))
    torch.testing.assert_close(result.stats["grad_norm"], (between() + 3).flatten(1).norm(dim=1))
    half = Formula(lambda x, extra: x.flatten(1).sum(1))

    class Half(DiffAugment):
        def transform(self, x, params):
            return x / 2

    norm = call(GradientPenalty(at=at), half, REAL, FAKE, Half("")).stats["grad_norm"]
    assert norm.tolist() == pytest.approx([2.0 if at == "x" else 4.0] * 3)                          # sqrt(16) ones, halved by T's adjoint


def test_a_further_scale_is_mixed_and_counts():
    """D(x, small) = w.x + v.small: |w|^2 + |v|^2 between reals and fakes; around reals `small` is a part of x, so it is |w + v spread|^2."""
    w, v = pictures(1, 5), pictures(1, 6, side=2)
    D = Formula(lambda x, extra: (x * w).flatten(1).sum(1) + (extra["small"] * v).flatten(1).sum(1), scale=True)
    norm = call(GradientPenalty(), D, REAL, FAKE).stats["grad_norm"]
    assert norm.tolist() == pytest.approx([(w.square().sum() + v.square().sum()).sqrt().item()] * 3)
    spread = w.clone()
    spread[..., ::2, ::2] += v
    assert call(DRAGAN(), D, REAL).stats["grad_norm"].tolist() == pytest.approx([spread.norm().item()] * 3)


def test_labels_are_those_of_the_reals():
    seen = []
    D = linear(pictures(1).flatten())
    forward = D.forward
    D.forward = lambda image, c, extra, want: (seen.append(c), forward(image))[1]
    c = torch.tensor([2, 0, 1])
    for term in (GradientPenalty(), DRAGAN(), Consistency()):
        call(term, D, REAL, FAKE, c=c)
        assert torch.equal(seen[-1], c)


def test_consistency_against_plain():
    """x_ref = T(x), x_aug = x; both sides are differentiated."""
    w, T = pictures(1, seed=5).flatten().requires_grad_(), DiffAugment("cutout")
    result = call(Consistency(weight=10.0, against="plain"), linear(w), REAL, T=T)
    gap = (REAL - T.draw(REAL, Rng(4, batch=3, slots=range(3)).fork("real")).image).flatten(1)
    torch.testing.assert_close(result.loss, 10 * (gap @ w).square().mean())
    torch.testing.assert_close(torch.autograd.grad(result.loss, w)[0], 20 * ((gap @ w)[:, None] * gap).mean(0).detach())


def test_several_logits():
    """The gradient penalty's D(x) is their mean; in consistency and drift each is squared by itself."""
    w = pictures(2, 5).flatten(1)                                              # [2,16]
    D = Formula(lambda x, extra: x.flatten(1) @ w.T)
    norm = call(GradientPenalty(), D, REAL, FAKE).stats["grad_norm"]
    assert norm.tolist() == pytest.approx([w.mean(0).norm().item()] * 3)
    drifting = call(GradientPenalty(weight=0, drift=2.0), D, REAL, FAKE).loss
    torch.testing.assert_close(drifting, 2 * (REAL.flatten(1) @ w.T).square().mean())
    term = Consistency(1.0)
    torch.testing.assert_close(call(term, D, REAL).loss, ((shifted(term) - REAL).flatten(1) @ w.T).square().mean())


def test_slots_draw_what_the_whole_batch_would():
    D, real, fake = quadratic(torch.eye(16).double()), pictures(4), pictures(4, 1)
    for term in (GradientPenalty(), Consistency()):
        whole = call(term, D, real, fake).stats
        part = call(term, D, real[2:], fake[2:], slots=range(2, 4), batch=4).stats
        for k in whole:
            torch.testing.assert_close(whole[k][2:], part[k])


# --------------------------------------------------------------------------------------------------------------- in training


@pytest.mark.parametrize("settings", [["terms.gradient_penalty.drift=0.001", "loss=wasserstein"], ["terms.gradient_penalty.target=0"],
                                      ["terms.gradient_penalty.at=x", "augment=diffaug"], ["terms.dragan.noise=normal"],
                                      ["terms.consistency.against=plain", "augment=diffaug"], ["terms.orthogonal.of=both"]])
def test_they_train(settings):
    name = settings[0].split(".")[1]
    trainer = run_steps(tiny_trainer(*settings, dataset=noise_set(classes=3)), 3)
    assert torch.isfinite(weights(trainer)).all()
    log = trainer.take_log()
    assert log["d/bad_grads"] == 0 and log[f"d/{name}/penalty"] > 0
    if name == "orthogonal":
        assert log["g/orthogonal/penalty"] > 0


@pytest.mark.parametrize("settings, line", [
    (["terms.consistency.against=plain"], r"against=plain compares augmented images with plain ones, but nothing is augmented.*augment=diffaug"),
    (["terms.orthogonal.of=d", "d=test_penalties:OneNumber"], r"terms.orthogonal.of=d: D has no convolution .*terms.orthogonal=null"),
    (["terms.gradient_penalty.target=-1"], "target=-1: give a number of 0 or more"), (["terms.dragan.noise=pink"], "noise"),
    (["terms.orthogonal.of=e"], "terms.orthogonal.of='e'")])
def test_what_they_cant_serve_is_said_in_a_line(settings, line):
    with pytest.raises((HandfulError, UsageError), match=line) as error:
        tiny_trainer(*settings)
    assert "\n" not in str(error.value)


class OneNumber(TinyD):
    """A discriminator of one linear layer with one output."""

    def __init__(self, resolution: int = 16, channels: int = 3, num_classes: int = 0):
        nn.Module.__init__(self)
        self.num_classes, self.feature_info = 0, {}
        self.stem = nn.Linear(channels * resolution ** 2, 1)


# ---------------------------------------------------------------------------------------------------------------- orthogonal


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_off_diagonal(shape):
    """|| W W^T o (1 - I) ||_F^2 and its gradient 4 (W W^T o (1 - I)) W, whichever product is made."""
    w = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    pairs = (w @ w.T * (1 - torch.eye(len(w), dtype=torch.float64))).detach()
    torch.testing.assert_close(off_diagonal(w), pairs.square().sum())
    torch.testing.assert_close(torch.autograd.grad(off_diagonal(w), w)[0], 4 * pairs @ w.detach())
    assert gradcheck(off_diagonal, w) and gradgradcheck(off_diagonal, w)


def test_orthogonal_filters_cost_nothing_whatever_their_length():
    q, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    assert off_diagonal(q[:4] * torch.tensor([[1.0], [5.0], [0.1], [30.0]])).abs() < 1e-8


def test_which_weights_and_which_way_round():
    net = nn.ModuleDict({"conv": nn.Conv2d(3, 5, 3), "up": nn.ConvTranspose2d(3, 5, 2), "linear": nn.Linear(4, 2), "norm": nn.BatchNorm2d(5),
                         "classes": nn.Embedding(7, 4), "own_classes": Embedding(7, 4), "first": ToMap(6, 5), "last": nn.Conv2d(5, 1, 1),
                         "equal": EqualConv2d(3, 5, 3, lrelu=False), "dense": EqualLinear(4, 2, lr=0.01)})
    assert [tuple(w.shape) for w in filters(net)] == [(5, 27), (5, 12), (2, 4), (5, 96), (5, 27), (2, 4)]
    torch.testing.assert_close(filters(net)[1][2], net["up"].weight[:, 2].flatten())
    torch.testing.assert_close(filters(net)[4], net["equal"].weight.flatten(1) / 27 ** 0.5)
    torch.testing.assert_close(filters(net)[5], net["dense"].weight * 0.01 / 2)


@pytest.mark.parametrize("of, sides", [("g", "g"), ("d", "d"), ("both", "gd")])
def test_orthogonal_pulls_on_the_side_that_it_is_of(of, sides):
    trainer = tiny_trainer(f"terms.orthogonal.of={of}", "terms.orthogonal.weight=1")
    before = {s: sum(off_diagonal(w) for w in filters(n)).item() for s, n in (("g", trainer.nets.G), ("d", trainer.nets.D))}
    run_steps(trainer, 1)
    log = trainer.take_log()
    for side in "gd":
        if side in sides:
            assert log[f"{side}/orthogonal/penalty"] == pytest.approx(before[side], rel=1e-4)
        else:
            assert f"{side}/orthogonal/penalty" not in log
