"""The fast operators under StyleGAN2 against their plain twins: values, gradients, gradients of gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from handful.ops import conv, winograd
from handful.ops.conv import conv2d, conv2d_down, conv2d_up
from handful.ops.upfirdn import BINOMIAL, downsample2d, upfirdn2d, upsample2d


def f64(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def orders(f, *inputs: Tensor) -> list[Tensor]:
    """Value, gradients, and gradients of a penalty on the first gradient."""
    y = f(*inputs)
    first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
    return [y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), inputs)]


def assert_same(fast, ref, *inputs: Tensor) -> None:
    for a, b in zip(orders(fast, *inputs), orders(ref, *inputs), strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------------------------------------------------------- 3x3, stride 1


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (4, 4), (5, 9), (8, 8), (3, 12), (17, 6)])
@pytest.mark.parametrize("channels", [(3, 5), (4, 2), (1, 1)])
def test_winograd_equals_the_plain_convolution(size, channels):
    i, o = channels
    x, w = f64(2, i, *size), f64(o, i, 3, 3, seed=1)
    assert_same(partial(conv2d, impl="fast"), partial(conv2d, impl="ref"), x, w)


def test_winograd_in_many_slabs_and_strips(monkeypatch):
    monkeypatch.setattr(winograd, "STRIP", 20)
    monkeypatch.setattr(winograd, "SLAB", 12)
    x, w = f64(5, 2, 9, 10), f64(3, 2, 3, 3, seed=1)                     # 3 x 3 tiles an image
    slabs = list(winograd._slabs(5, 9, 10, 2, 3))
    assert len(slabs) > 1 and len(slabs[0]) > 1
    assert sum(slab.tiles for slab in slabs) == 45
    assert_same(partial(conv2d, impl="fast"), partial(conv2d, impl="ref"), x, w)


def test_winograd_to_second_order():
    x, w = f64(2, 2, 5, 3), f64(3, 2, 3, 3, seed=1)
    fast = partial(conv2d, impl="fast")
    assert gradcheck(fast, (x, w)) and gradgradcheck(fast, (x, w))


def test_winograd_takes_any_strides():
    x, w = f64(2, 6, 9, 4).transpose(2, 3)[:, ::2], f64(3, 5, 3, 3, seed=1).transpose(0, 1)
    assert torch.allclose(conv2d(x, w, impl="fast"), conv2d(x, w, impl="ref"))
    x = x.to(memory_format=torch.channels_last)
    assert torch.allclose(conv2d(x, w, impl="fast"), conv2d(x, w, impl="ref"))


def test_winograd_makes_no_gradient_that_nobody_wants(monkeypatch):
    made = []
    for name in ("_convolve", "_correlate"):
        real = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *a, name=name, real=real: made.append(name) or real(*a))
    for wanted, expected in ((0, ["_convolve"]), (1, ["_correlate"])):
        pair = [f64(1, 2, 4, 4).detach(), f64(2, 2, 3, 3).detach()]
        pair[wanted].requires_grad_()
        y = conv2d(*pair, impl="fast")
        made.clear()
        torch.autograd.grad(y.sum(), pair[wanted])
        assert made == expected


def test_winograds_rounding_in_fp32():
    """Value and both gradients to a few parts in a million of their norm."""
    x, w = f64(2, 64, 32, 32), f64(64, 64, 3, 3, seed=1)
    exact = orders(partial(conv2d, impl="ref"), x, w)[:3]
    g = torch.cos(exact[0]).detach()
    xs, ws = (t.detach().float().requires_grad_() for t in (x, w))
    y = conv2d(xs, ws, impl="fast")
    for a, b in zip([y, *torch.autograd.grad(y, (xs, ws), g.float())], exact, strict=True):
        assert ((a.double() - b).norm() / b.norm()).item() < 3e-6


def test_winograd_under_functional_differentiation():
    x, w = f64(1, 2, 4, 4), f64(2, 2, 3, 3)

    def penalty(w, impl):
        return torch.func.grad(lambda x: conv2d(x, w, impl=impl).sin().sum())(x).square().sum()

    assert torch.allclose(torch.func.grad(penalty)(w, "fast"), torch.func.grad(penalty)(w, "ref"))


def test_when_winograd_is_chosen(monkeypatch):
    used = []
    monkeypatch.setattr(conv, "conv3x3", lambda x, w: used.append(1) or F.conv2d(x, w, padding=1))

    def takes(x, k=3, channels=conv.WINOGRAD_CHANNELS):
        used.clear()
        conv2d(x, torch.zeros(channels, x.shape[1], k, k, dtype=x.dtype))
        return bool(used)

    maps = lambda side, channels=conv.WINOGRAD_CHANNELS, **kw: torch.zeros(1, channels, side, side, **kw)
    assert takes(maps(32)) and takes(maps(29))                                   # 64 tiles
    assert not takes(maps(28)) and not takes(maps(32), k=1)
    assert not takes(maps(32, channels=32)) and not takes(maps(32, dtype=torch.float64)) and not takes(maps(32, dtype=torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not takes(maps(32))


# ------------------------------------------------------------------------------------------------------------------- resampling

LONG = (0.015, 0.003, -0.12, -0.05, 0.49, 0.79, 0.34, -0.07, -0.02, 0.005, 0.01, -0.002)
CASES = [dict(up=1, down=1, padding=(1, 1, 1, 1)), dict(up=1, down=1, padding=(2, 2, 2, 2)), dict(up=2, down=1, padding=(2, 1, 2, 1)),
         dict(up=1, down=2, padding=(1, 1, 1, 1)), dict(up=2, down=1, padding=(6, 5, 6, 5)), dict(up=1, down=2, padding=(5, 5, 5, 5)),
         dict(up=2, down=1, padding=(3, 0, 7, 2)), dict(up=3, down=2, padding=(5, 4, 2, 6)), dict(up=1, down=3, padding=(4, 6, 3, 8)),
         dict(up=2, down=1, padding=(12, 13, 14, 3)), dict(up=1, down=1, padding=(-1, 11, 10, -1)), dict(up=2, down=1, padding=(-3, 9, 8, -4))]


@pytest.mark.parametrize("taps", [BINOMIAL, LONG, (1.0, 2.0, 4.0)], ids=len)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_fast_resampling_equals_the_plain_one(case, taps):
    x = f64(2, 3, 12, 11)
    for flip in (False, True):
        assert_same(*(partial(upfirdn2d, taps=taps, gain=3.0, flip=flip, impl=impl, **case) for impl in ("fast", "ref")), x)


@pytest.mark.parametrize("taps", [BINOMIAL, LONG], ids=len)
def test_fast_resampling_to_second_order(taps):
    for f in (upsample2d, downsample2d):
        f = partial(f, taps=taps, impl="fast")
        assert gradcheck(f, f64(1, 2, 4, 6)) and gradgradcheck(lambda x, f=f: f(x).sin(), f64(1, 2, 4, 6))


def test_resampling_keeps_a_constant_and_places_an_impulse():
    x = torch.zeros(1, 1, 8, 8)
    x[..., 4, 4] = 1
    for impl in ("fast", "ref"):
        ones = torch.ones(1, 2, 8, 8)
        assert torch.allclose(upsample2d(ones, impl=impl)[..., 2:-2, 2:-2], torch.ones(12, 12))
        assert torch.allclose(downsample2d(ones, impl=impl)[..., 1:-1, 1:-1], torch.ones(2, 2))
        assert torch.allclose(upsample2d(x, impl=impl)[0, 0, 9, 7:11], torch.tensor([1.0, 3, 3, 1]) * 3 / 16)
        # A true convolution: the first tap is the sample's own.
        assert torch.allclose(upfirdn2d(x, (1, 0, 0, 0), padding=(3, 0, 3, 0), impl=impl), x)
        assert torch.allclose(upfirdn2d(x, (1, 0, 0, 0), padding=(0, 3, 0, 3), flip=True, impl=impl), x)


def test_fast_resampling_keeps_nothing_for_the_backward_pass():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        upsample2d(f64(1, 2, 4, 4), impl="fast")
        downsample2d(f64(1, 2, 4, 4), impl="fast")
    assert not kept


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (4, 6)])
@pytest.mark.parametrize("k", [3, 1])
@pytest.mark.parametrize("f", [conv2d_up, conv2d_down])
def test_fast_convolutions_with_resampling_equal_the_plain_ones(f, k, size):
    if f is conv2d_down and size == (1, 1):
        size = (2, 2)
    x, w = f64(2, 3, *size), f64(4, 3, k, k, seed=1)
    assert_same(partial(f, impl="fast"), partial(f, impl="ref"), x, w)


def test_operators_compile():
    """Under torch.compile the plain forms are traced."""
    f = torch.compile(lambda x, w: conv2d_down(conv2d(upsample2d(x), w), w), backend="aot_eager", fullgraph=True)
    x, w = torch.randn(1, 2, 4, 4, requires_grad=True), torch.randn(2, 2, 3, 3)
    y = f(x, w)
    assert torch.allclose(y, conv2d_down(conv2d(upsample2d(x), w), w), atol=1e-5)
    y.sum().backward()
