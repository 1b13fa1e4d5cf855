"""R1, R2 and LeCam against closed forms, to second order, and their state."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from handful.augment import DiffAugment
from handful.errors import UsageError
from handful.rng import Rng
from handful.seam import Discriminator, Judged, Pass, View
from handful.terms import R1, R2, LeCam
from tiny import TinyD, TinyG, context, look

CASES = [(R1, "real"), (R2, "fake")]


class Formula(Discriminator):
    """A discriminator given by a formula of the image."""

    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self, image, c=None, extra=None, want=frozenset()):
        return Judged(self.of(image, extra))


def linear(w):
    return Formula(lambda x, extra: (x * w).flatten(1).sum(1))


def images(n=4, seed=0, height=8, width=8):
    return torch.rand(n, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def run(term, which, D, x, T=None, seed=1, **ctx):
    view = getattr(term.needs("d"), which)
    return term(context(**{which: look(D, x, view, T, Rng(seed)).seen_by(view, "the test")}, **ctx))


# --------------------------------------------------------------------------------------------------------------- R1 and R2


@pytest.mark.parametrize("cls,which", CASES)
def test_needs_are_what_is_read(cls, which):
    term = cls()
    need = term.needs("d")
    assert getattr(need, which) == View(pixel_grad=True) and not (need.fake if which == "real" else need.real)
    assert not need.same_labels and term.needs("g") is None and term.exact_under_accumulation
    lazy = cls(gamma=1.0, every=16, own_step=True)
    assert (lazy.every, lazy.own_step, lazy.gain) == (16, True, None) and lazy.active("d", 32, 0) and not lazy.active("d", 33, 0)


@pytest.mark.parametrize("cls,which", CASES)
@pytest.mark.parametrize("every", [1, 16])
def test_linear_d(cls, which, every):
    """D(x) = <w, x>: gamma/2 ||w||^2, whatever x is; the interval is the trainer's business."""
    w = images(1)[0]
    result = run(cls(gamma=3.0, every=every), which, linear(w), images())
    assert result.loss.item() == pytest.approx(1.5 * w.square().sum().item(), rel=1e-6)
    assert result.stats["penalty"].tolist() == pytest.approx([result.loss.item()] * 4, rel=1e-6)
    assert result.stats["grad_norm"].tolist() == pytest.approx([w.norm().item()] * 4, rel=1e-6)
    assert not any(v.requires_grad for v in result.stats.values())


@pytest.mark.parametrize("cls,which", CASES)
def test_quadratic_d(cls, which):
    """D(x) = 1/2 sum a x^2 has the gradient a x: the penalty is gamma/2 mean_i ||a x_i||^2, and d/da = gamma mean_i a x_i^2."""
    x, a = images(), images(1, seed=5)[0].requires_grad_()
    D = Formula(lambda image, extra: (a * image.square()).flatten(1).sum(1) / 2)
    result = run(cls(gamma=10.0), which, D, x)
    expected = (a * x).square().flatten(1).sum(1)
    assert result.loss.item() == pytest.approx(5 * expected.mean().item(), rel=1e-6)
    assert result.stats["grad_norm"].tolist() == pytest.approx(expected.sqrt().tolist(), rel=1e-6)
    (g,) = torch.autograd.grad(result.loss, a)
    torch.testing.assert_close(g, (10 * a * x.square().mean(0)).detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("cls,which", CASES)
def test_several_logits_count_as_their_mean(cls, which):
    w = images(5)
    D = Formula(lambda x, extra: torch.einsum("bchw,pchw->bp", x, w))
    assert run(cls(gamma=2.0), which, D, images()).loss.item() == pytest.approx(w.mean(0).square().sum().item(), rel=1e-6)


@pytest.mark.parametrize("cls,which", CASES)
def test_through_a_shift(cls, which):
    """D(T(x)) = <w, shifted x>: by T(x) the gradient is w; by x it is w shifted back, less what fell off the edge."""
    w, T = images(1)[0], DiffAugment("translation", translation_ratio=0.5)
    x = images(16)
    at_x_in = run(cls(at="x_in"), which, linear(w), x, T).stats["grad_norm"]
    assert at_x_in.tolist() == pytest.approx([w.norm().item()] * 16, rel=1e-6)
    kept = []
    for down, right in T.draw_params(x, Rng(1))["translation"].tolist():
        kept.append(w[:, max(down, 0):8 + min(down, 0), max(right, 0):8 + min(right, 0)].norm().item())
    assert min(kept) < 0.8 * max(kept)
    assert run(cls(at="x"), which, linear(w), x, T).stats["grad_norm"].tolist() == pytest.approx(kept, rel=1e-6)


@pytest.mark.parametrize("cls,which", CASES)
def test_through_colour(cls, which):
    """The adjoints of contrast, then of saturation: (w - mean w) c + mean w, and the like by pixel; brightness has none."""
    w, x, T = images(1)[0], images(6), DiffAugment("color")
    params = T.draw_params(x, Rng(1))
    expected = []
    for s, c in zip(params["saturation"].double(), params["contrast"].double()):
        v = (w - w.mean()) * c + w.mean()
        expected.append(((v - v.mean(0)) * s + v.mean(0)).norm().item())
    assert run(cls(at="x"), which, linear(w), x, T).stats["grad_norm"].tolist() == pytest.approx(expected, rel=1e-6)


def test_r2_counts_a_fakes_further_scale():
    """D(x, small) = <w, x> + <v, small>: ||w||^2 + ||v||^2."""
    w, v = images(1)[0], images(1, seed=2, height=4, width=4)[0]
    D = Formula(lambda x, extra: (x * w).flatten(1).sum(1) + (extra["small"] * v).flatten(1).sum(1))
    x, small = images().requires_grad_(), images(4, 3, 4, 4).requires_grad_()
    scales = {"small": small}
    seen = Pass(x, x, D(x, None, scales), View(pixel_grad=True), extra=scales, sources=scales)
    assert R2(gamma=2.0)(context(fake=seen)).loss.item() == pytest.approx((w.square().sum() + v.square().sum()).item(), rel=1e-6)


@pytest.mark.parametrize("at", ["x", "x_in"])
@pytest.mark.parametrize("cls,which", CASES)
def test_second_order_to_the_weights(cls, which, at, monkeypatch):
    """The penalty's gradients to D's weights, and theirs, against finite differences; through all of DiffAugment."""
    monkeypatch.setattr(torch.Tensor, "float", lambda t: t)                       # the seam rounds gradients to fp32
    torch.manual_seed(0)
    D, x, T = TinyD(width=2, num_classes=3).double(), images(2), DiffAugment()
    weights, names = [p.detach().clone() for p in D.parameters()], [n for n, _ in D.named_parameters()]
    shown = [names.index(n) for n in ("stem.weight", "dense.bias", "head.weight", "embed.weight")]
    labels = torch.tensor([0, 2])

    def penalty(*some):
        full = dict(zip(names, weights)) | {names[i]: w for i, w in zip(shown, some)}
        stub = Formula(None)
        stub.forward = lambda image, c, extra, want: torch.func.functional_call(D, full, (image, c))
        seen = look(stub, x, View(pixel_grad=True), T, Rng(3), labels)
        return cls(gamma=1000.0, at=at)(context(**{which: seen})).loss

    inputs = [(30 * weights[i] if names[i] == "stem.weight" else weights[i]).requires_grad_() for i in shown]
    assert gradcheck(penalty, inputs)
    assert gradgradcheck(penalty, inputs)


def test_r1_reaches_every_weight_that_bends_d():
    """All weights but the last bias."""
    D = TinyD().double()
    result = run(R1(), "real", D, images())
    grads = torch.autograd.grad(result.loss, list(D.parameters()), allow_unused=True)
    assert [n for (n, _), g in zip(D.named_parameters(), grads) if g is None or not g.any()] == ["head.bias"]


# ------------------------------------------------------------------------------------------------------------------- LeCam


def logits(term, real, fake, step=1000, **ctx):
    """LeCam on given logits."""
    need = term.needs("d")
    passes = {}
    for which, values, view in (("real", real, need.real), ("fake", fake, need.fake)):
        x = torch.zeros(len(values), 3, 2, 2)
        passes[which] = look(Formula(lambda image, extra, v=values: v), x, view)
    return term(context(step=step, **passes, **ctx))


def commit(term, *results):
    """As the trainer would: means over all images of the step."""
    means = {k: torch.cat([r.stats[k] for r in results]).mean() for k in results[0].stats}
    term.commit("d", means, {}, None, 4)


def anchored(real=1.5, fake=-0.5, **keywords):
    """A LeCam with these averages."""
    term = LeCam(**keywords)
    commit(term, logits(term, torch.full((2,), real), torch.full((2,), fake), step=0))
    assert (term.real_anchor.item(), term.fake_anchor.item()) == (real, fake)
    return term


REAL, FAKE = torch.tensor([2.0, 0.0, -1.0, 3.0]), torch.tensor([-2.0, 1.0, 2.0, -1.0])


def test_lecam_needs_logits_alone():
    assert LeCam().needs("g") is None
    need = LeCam().needs("d")
    assert need.real == need.fake == View(logits=True)
    assert not LeCam().exact_under_accumulation and LeCam(update="after").exact_under_accumulation


@pytest.mark.parametrize("one_sided", [True, False])
def test_lecam_value_and_gradient(one_sided):
    """Averages 1.5 and -0.5 of the step before: weight (E f(D(x) + 0.5)^2 + E f(1.5 - D(G(z)))^2), f the positive part or the identity."""
    term = anchored(weight=0.3, one_sided=one_sided, update="after")
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    result = logits(term, real, fake)
    clip = (lambda t: t.clamp(min=0)) if one_sided else (lambda t: t)
    over, under = clip(REAL + 0.5), clip(1.5 - FAKE)
    assert result.loss.item() == pytest.approx(0.3 * (over.square().mean() + under.square().mean()).item(), rel=1e-6)
    torch.testing.assert_close(result.stats["penalty"], 0.3 * (over.square() + under.square()))
    dreal, dfake = torch.autograd.grad(result.loss, (real, fake))
    torch.testing.assert_close(dreal, 0.3 * 2 * over / 4)
    torch.testing.assert_close(dfake, -0.3 * 2 * under / 4)


def test_lecam_as_released_moves_the_averages_first():
    """Averages 1.5 and -0.5, this batch's means 1 and 0, decay 0.9: measured against 1.45 and -0.45, which carry no gradient."""
    term = anchored()
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    result = logits(term, real, fake)
    over, under = (REAL + 0.45).clamp(min=0), (1.45 - FAKE).clamp(min=0)
    assert result.loss.item() == pytest.approx(0.3 * (over.square().mean() + under.square().mean()).item(), rel=1e-6)
    dreal, dfake = torch.autograd.grad(result.loss, (real, fake))
    torch.testing.assert_close(dreal, 0.3 * 2 * over / 4)
    torch.testing.assert_close(dfake, -0.3 * 2 * under / 4)
    commit(term, result)
    assert (term.real_anchor.item(), term.fake_anchor.item()) == pytest.approx((1.45, -0.45))


def test_lecam_leaves_the_interval_to_the_trainer():
    term = anchored(every=4)
    assert term.gain is None and [term.active("d", step, 0) for step in (4, 5, 8)] == [True, False, True]
    assert logits(term, REAL, FAKE).loss == logits(anchored(), REAL, FAKE).loss


@pytest.mark.parametrize("update", ["before", "after"])
def test_lecam_start(update):
    """Iterations count from 1 (iteration = steps done + 1): latest values before the 1000th, decay from it on, the penalty from the 1001st."""
    term = LeCam(update=update)
    for step, real, anchor, begun in ((0, 4.0, 4.0, False), (998, 2.0, 2.0, False), (999, 1.0, 1.9, False), (1000, 0.9, 1.8, True)):
        result = logits(term, torch.full((3,), real), torch.full((3,), -1.0), step=step)
        assert (result.loss is not None) == begun and result.stats["penalty"].any() == begun
        commit(term, result)
        assert term.real_anchor.item() == pytest.approx(anchor)


@pytest.mark.parametrize("update", ["before", "after"])
def test_lecam_without_a_warm_up_starts_at_the_first_means(update):
    term = LeCam(start=0, update=update, one_sided=False, weight=1.0)
    result = logits(term, torch.full((2,), 5.0), torch.full((2,), -5.0), step=0)
    assert result.loss.item() == (200.0 if update == "before" else 0.0)          # (5 - -5)^2 twice; "after" has no averages yet
    commit(term, result)
    assert (term.real_anchor.item(), term.fake_anchor.item()) == (5.0, -5.0)
    commit(term, logits(term, torch.zeros(2), torch.zeros(2), step=1))
    assert term.real_anchor.item() == pytest.approx(4.5)


@pytest.mark.parametrize("update,exact", [("before", False), ("after", True)])
def test_lecam_in_micro_batches(update, exact):
    """The averages end alike in any case; the loss only where it is declared exact. forward writes no state."""
    whole, cut = anchored(update=update), anchored(update=update)
    one = logits(whole, REAL, FAKE)
    before = {k: v.clone() for k, v in cut.state_dict().items()}
    parts = [logits(cut, REAL[s], FAKE[s]) for s in (slice(0, 2), slice(2, 4))]
    assert all(torch.equal(v, before[k]) for k, v in cut.state_dict().items())
    assert (abs(one.loss - sum(p.loss for p in parts) / 2).item() < 1e-6) == exact == whole.exact_under_accumulation
    commit(whole, one)
    commit(cut, *parts)
    torch.testing.assert_close(whole.state_dict(), cut.state_dict())


def test_lecam_both_updates_keep_the_same_averages():
    terms = [LeCam(update="before", start=3), LeCam(update="after", start=3)]
    for step in range(8):
        for term in terms:
            g = torch.Generator().manual_seed(step)
            commit(term, logits(term, torch.randn(4, generator=g), torch.randn(4, generator=g), step=step))
    torch.testing.assert_close(terms[0].state_dict(), terms[1].state_dict(), rtol=0, atol=0)


def test_lecam_takes_every_patch_for_itself():
    """Logits [B,2]: squares are averaged over patches, rather than the patches squared as one."""
    term = anchored(one_sided=False, weight=1.0, update="after")
    result = logits(term, torch.tensor([[0.5, -1.5], [-0.5, -0.5]]), torch.full((2, 2), 1.5))
    assert result.loss.item() == pytest.approx(0.5)
    assert result.stats["real_logit"].tolist() == [-0.5, -0.5]


def test_lecam_state_survives_saving():
    term, other = anchored(), LeCam()
    other.load_state_dict(term.state_dict())
    assert logits(term, REAL, FAKE).loss == logits(other, REAL, FAKE).loss


# --------------------------------------------------------------------------------------------------------- the tiny networks


def test_tiny_networks_hold_to_the_seam():
    G, D = TinyG(num_classes=4, noise=0.1, channels=1), TinyD(num_classes=4, channels=1)
    z, c = torch.randn(3, 8), torch.tensor([0, 3, 1])
    made = G(z, c, rng=Rng(0))
    assert made.image.shape == (3, 1, 16, 16) and made.image.abs().max() <= 1
    assert torch.equal(made.image, G(z, c, rng=Rng(0)).image) and not torch.equal(made.image, G(z, c, rng=Rng(1)).image)
    judged = D(made.image, c, want=frozenset(D.feature_info))
    assert judged.logits.shape == (3,) and TinyD(channels=1, patches=5)(made.image).logits.shape == (3, 5)
    for name, info in D.feature_info.items():
        assert judged.features[name].shape == (3, info.channels, *[info.resolution] * (2 if info.resolution else 0))
    alone = D(made.image[1:2], c[1:2]).logits
    torch.testing.assert_close(alone, judged.logits[1:2])
    assert isinstance(D.stem, nn.Module)


def test_bad_keywords_are_named():
    from handful import catalog

    for name, kwargs, line in (("r1", {"at": "y"}, "r1.at='y'"), ("lecam", {"wieght": 1}, "did you mean 'weight'"),
                               ("lecam", {"update": "during"}, "lecam.update='during'")):
        with pytest.raises(UsageError, match=line):
            catalog.check("terms", catalog.Use(name, **kwargs), name)
