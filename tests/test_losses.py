"""The adversarial losses: values on paper, gradients, extreme logits, shapes, the random margin."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from handful import catalog
from handful.errors import HandfulError
from handful.losses import Hinge, LeastSquares, NonSaturating, Relativistic, SoftHinge, Wasserstein
from handful.rng import Rng
from handful.seam import AdversarialLoss, Context, Judged, LossContext, Pass, View
from handful.training.adversarial import Adversarial

EVERY = [Hinge, SoftHinge, NonSaturating, Wasserstein, LeastSquares, Relativistic]
REAL, FAKE = [2.0, 0.5, -1.0, 0.0], [-3.0, 0.25, 1.0, 0.0]


def softplus(t):
    return log(1 + exp(t))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def tensors(*lists):
    return [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in lists]


VALUES = {
    Hinge: (mean(max(0, 1 - r) for r in REAL) + mean(max(0, 1 + f) for f in FAKE), -mean(FAKE)),
    NonSaturating: (mean(softplus(-r) for r in REAL) + mean(softplus(f) for f in FAKE), mean(softplus(-f) for f in FAKE)),
    Wasserstein: (mean(FAKE) - mean(REAL), -mean(FAKE)),
    LeastSquares: (mean((r - 1) ** 2 / 2 for r in REAL) + mean(f ** 2 / 2 for f in FAKE), mean((f - 1) ** 2 / 2 for f in FAKE)),
    Relativistic: (mean(softplus(f - r) for r, f in zip(REAL, FAKE)), mean(softplus(r - f) for r, f in zip(REAL, FAKE)))}


@pytest.mark.parametrize("cls", VALUES)
def test_values(cls):
    real, fake = tensors(REAL, FAKE)
    d, g = VALUES[cls]
    assert cls().d(real, fake, ctx(0)).item() == pytest.approx(d, rel=1e-12)
    assert cls().g(fake, real, ctx(0)).item() == pytest.approx(g, rel=1e-12)


GRADIENTS = {      # of four times the loss: dd/dreal, dd/dfake, dg/dfake
    Hinge: (lambda r, f: -float(r < 1), lambda r, f: float(f > -1), lambda r, f: -1.0),
    NonSaturating: (lambda r, f: -1 / (1 + exp(r)), lambda r, f: 1 / (1 + exp(-f)), lambda r, f: -1 / (1 + exp(f))),
    Wasserstein: (lambda r, f: -1.0, lambda r, f: 1.0, lambda r, f: -1.0),
    LeastSquares: (lambda r, f: r - 1, lambda r, f: f, lambda r, f: f - 1),
    Relativistic: (lambda r, f: -1 / (1 + exp(r - f)), lambda r, f: 1 / (1 + exp(r - f)), lambda r, f: -1 / (1 + exp(f - r)))}


@pytest.mark.parametrize("cls", GRADIENTS)
def test_gradients(cls):
    real, fake = tensors(REAL, FAKE)
    found = (*torch.autograd.grad(cls().d(real, fake, ctx(0)), (real, fake)), *torch.autograd.grad(cls().g(fake, real, ctx(0)), fake))
    for gradient, expected in zip(found, GRADIENTS[cls]):
        assert (4 * gradient).tolist() == pytest.approx([expected(r, f) for r, f in zip(REAL, FAKE)], abs=1e-12)


@pytest.mark.parametrize("cls", EVERY)
def test_extreme_logits_stay_finite(cls):
    for a in (1e4, -1e4):
        for b in (1e4, -1e4):
            real, fake = torch.full((4,), a, requires_grad=True), torch.full((4,), b, requires_grad=True)
            for loss in (cls().d(real, fake, ctx(0)), cls().g(fake, real, ctx(0))):
                grads = [g for g in torch.autograd.grad(loss, (real, fake), allow_unused=True) if g is not None]
                assert loss.isfinite() and all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("cls", EVERY)
def test_several_logits_per_image_are_averaged(cls):
    """[B,50] counts as 50 B logits; a scalar comes out."""
    real, fake = torch.randn(3, 50), torch.randn(3, 50)
    loss = cls(spread=0.0) if cls is SoftHinge else cls()
    assert isinstance(loss, AdversarialLoss)
    for whole, flat in ((loss.d(real, fake, ctx(0)), loss.d(real.flatten(), fake.flatten(), ctx(0))),
                        (loss.g(fake, real, ctx(0)), loss.g(fake.flatten(), real.flatten(), ctx(0)))):
        assert whole.shape == ()
        torch.testing.assert_close(whole, flat)


def test_only_the_relativistic_loss_is_paired():
    assert [cls.paired for cls in EVERY] == [False] * 5 + [True]
    for cls in EVERY[:5]:
        assert cls().g(torch.zeros(2), None, ctx(0)).shape == ()


def test_unpaired_logits_are_refused():
    loss = Relativistic()
    with pytest.raises(HandfulError, match=r"\[4\] and \[3\].*train.g_batch"):
        loss.d(torch.zeros(4), torch.zeros(3), ctx(0))
    with pytest.raises(HandfulError, match=r"\[4, 2\] and \[4\]"):
        loss.g(torch.zeros(4), torch.zeros(4, 2), ctx(0))
    with pytest.raises(HandfulError, match="reals' logits"):
        loss.g(torch.zeros(4), None, ctx(0))


# ------------------------------------------------------------------------------------------------------ FastGAN's soft hinge


def test_margins_are_uniform_and_drawn_apart():
    """With a real logit of 0 and a fake of -1e4 the loss is the mean of the reals' margins, and the other way round."""
    zeros, far, n = torch.zeros(40000, 1), torch.full((40000, 1), 1e4), 40000
    drawn = Rng(3)
    real_margin, fake_margin = 0.8 + 0.2 * drawn.rand(n, 1), 0.8 + 0.2 * drawn.rand(n, 1)
    assert SoftHinge().d(zeros, -far, ctx(3)) == pytest.approx(real_margin.mean().item(), rel=1e-6)
    assert SoftHinge().d(far, zeros, ctx(3)) == pytest.approx(fake_margin.mean().item(), rel=1e-6)
    assert abs(torch.corrcoef(torch.cat([real_margin, fake_margin], 1).T)[0, 1]) < 0.02
    logits = torch.linspace(0.7, 1.1, n)[:, None].requires_grad_()               # the share of active logits is the margins' distribution
    (g,) = torch.autograd.grad(SoftHinge().d(logits, -far, ctx(4)), logits)
    active = (g != 0).float().view(4, -1).mean(1)
    assert active.tolist() == pytest.approx([1.0, 0.75, 0.25, 0.0], abs=0.02)


def test_every_logit_has_a_margin_of_its_own():
    real = torch.full((2, 50), 0.9, requires_grad=True)
    (g,) = torch.autograd.grad(SoftHinge().d(real, real.detach() - 10, ctx(0)), real)
    assert all(5 < row.count_nonzero() < 45 for row in g)


def test_margins_by_keyword():
    assert SoftHinge(margin=1.0, spread=0.0).d(*tensors(REAL, FAKE), ctx(0)).item() == pytest.approx(VALUES[Hinge][0], rel=1e-6)
    assert catalog.build("losses", catalog.Use("soft_hinge", margin=0.5)).margin == 0.5


def test_micro_batches_see_their_margins_of_the_whole_batch():
    real, fake = torch.randn(8, 50), torch.randn(8, 50)
    whole = SoftHinge().d(real, fake, ctx(1, batch=8, slots=range(0, 8)))
    parts = [SoftHinge().d(real[s.start:s.stop], fake[s.start:s.stop], ctx(1, batch=8, slots=s)) for s in (range(0, 4), range(4, 8))]
    torch.testing.assert_close(whole, sum(parts) / 2)


def ctx(seed: int, **of_batch) -> LossContext:
    return LossContext(Rng(seed, **of_batch))


SIZES = (56 * 56, 7 * 7)                             # logits of two heads


def of_heads(cls, heads: str, named: bool = True):
    """Gradients by the logits of both heads, [(d by real, d by fake), (g by fake)] as mean absolute sums over each head, from the term of a run."""
    torch.manual_seed(0)
    real, fake = (torch.randn(2, sum(SIZES), requires_grad=True) for _ in range(2))
    term = Adversarial(cls(heads=heads))
    passes = {k: Pass(x, x, Judged(x, heads=SIZES if named else ()), View(logits=True)) for k, x in (("real", real), ("fake", fake))}
    found = {side: term(Context(side, 0, 0, 0, 2, range(2), Rng(0), None, passes)) for side in "dg"}
    return real, fake, found


@pytest.mark.parametrize("cls", EVERY)
def test_heads_of_different_size_are_weighed_as_the_loss_says(cls):
    """Over all logits the larger head has 64 times the weight; by heads both have the same, and the loss is the mean of theirs."""
    weights = {}
    for heads in ("all", "each"):
        real, fake, found = of_heads(Wasserstein, heads)
        grad, = torch.autograd.grad(found["g"].loss, fake)
        weights[heads] = [part.sum().item() for part in grad.split(SIZES, 1)]
    assert weights["all"][0] / weights["all"][1] == pytest.approx(64) and weights["each"] == pytest.approx([-0.5, -0.5])
    real, fake, found = of_heads(cls, "each")
    alone = []
    for real_part, fake_part in zip(real.split(SIZES, 1), fake.split(SIZES, 1)):
        loss = cls()
        alone.append((loss.d(real_part, fake_part, ctx(0)), loss.g(fake_part, real_part, ctx(0))))
    if cls is not SoftHinge:                                 # whose margins are drawn
        assert found["d"].loss.item() == pytest.approx(sum(d.item() for d, _ in alone) / 2, rel=1e-5)
        assert found["g"].loss.item() == pytest.approx(sum(g.item() for _, g in alone) / 2, rel=1e-5)
    unnamed, whole = (of_heads(cls, heads, named)[2]["d"].loss.item() for heads, named in (("each", False), ("all", True)))
    assert unnamed == whole                                  # a D that names no heads has one


def test_the_score_of_an_image_is_the_mean_over_heads_of_their_means():
    logits = torch.cat([torch.ones(2, 64), torch.full((2, 1), 3.0)], 1)
    assert Judged(logits, heads=(64, 1)).score.tolist() == [2.0, 2.0]
    assert Judged(logits).score[0].item() == pytest.approx((64 + 3) / 65)
    x = torch.randn(2, 65, requires_grad=True)
    seen = Pass(x, x, Judged(x * 1.0, heads=(64, 1)), View(logits=True, pixel_grad=True))
    assert seen.pixel_grad()[0].tolist() == pytest.approx([0.5 / 64] * 64 + [0.5])          # gradient penalties see the same D(x)
