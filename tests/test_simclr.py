"""SimCLR's augmentation against its definition: crops and blur by scipy, colours step by step; its draws; gradients to second order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from handful.augment import SimCLR
from handful.augment._simclr_maps import blurring, cropping, recoloring
from handful.errors import UsageError
from handful.rng import Rng
from handful.seam import View
from making import run_steps, tiny_trainer
from tiny import TinyD, look

GREY = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)


def pictures(b: int = 5, c: int = 3, h: int = 24, w: int = 32) -> torch.Tensor:
    return torch.rand(b, c, h, w, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def identity(n: int, form: str = "cifar") -> dict[str, torch.Tensor]:
    params = {"crop": torch.tensor([[0.5, 0.5, 1.0, 1.0]]).repeat(n, 1), "flip": torch.zeros(n, dtype=torch.bool),
              "color": torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(n, 1), "grey": torch.zeros(n, dtype=torch.bool)}
    return params | ({"blur": torch.zeros(n)} if form == "hq" else {})


# ------------------------------------------------------------------------------------------------------------------ the maps


@pytest.mark.parametrize("form", ["cifar", "hq"])
def test_nothing_drawn_is_the_identity(form):
    x = pictures()
    assert torch.allclose(SimCLR(form).transform(x, identity(5, form)), x, atol=1e-12)


def test_a_crop_is_bilinear_sampling_of_the_reflected_image():
    x = pictures()
    crop = torch.tensor([[0.5, 0.5, 0.6, 0.4], [0.3, 0.7, 0.55, 0.5], [0.4, 0.5, 1.15, 0.87], [0.5, 0.55, 0.9, 1.15], [0.9, 0.1, 0.5, 0.5]])
    flip = torch.tensor([False, True, False, True, False])
    found = SimCLR().transform(x, identity(5) | {"crop": crop, "flip": flip})
    h, w = x.shape[2:]
    for i in range(5):
        cx, cy, width, height = (float(v) for v in crop[i].double())
        columns = (cx + width * ((np.arange(w) + 0.5) / w - 0.5)) * w - 0.5
        rows = (cy + height * ((np.arange(h) + 0.5) / h - 0.5)) * h - 0.5
        at = np.meshgrid(rows, columns[::-1] if flip[i] else columns, indexing="ij")
        for c in range(3):
            expected = ndimage.map_coordinates(x[i, c].numpy(), at, order=1, mode="reflect")
            assert np.allclose(found[i, c].numpy(), expected, atol=1e-6)
    rows, columns = cropping(crop.double(), flip, h, w)
    assert all(torch.allclose(m.sum(2), torch.ones(m.shape[:2]).double()) for m in (rows, columns))


@pytest.mark.parametrize("n", [24, 40, 64, 512])
def test_blur_is_a_cut_gaussian_on_the_reflected_image(n):
    sigma = torch.tensor([0.0, 0.1, 0.9, 2.0], dtype=torch.float64)
    matrix, x, radius = blurring(sigma, n), torch.randn(n, dtype=torch.float64), int(0.1 * n) // 2
    for s, m in zip(sigma.tolist(), matrix):
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(s, 1e-3)) ** 2)
        assert np.allclose((m @ x).numpy(), ndimage.correlate1d(x.numpy(), taps / taps.sum(), mode="reflect"), atol=1e-12)
    assert torch.allclose(matrix, matrix.mT) and torch.allclose(matrix.sum(1), torch.ones(4, n).double())      # the mean is kept
    assert torch.equal(matrix[0], torch.eye(n).double())
    assert (matrix[3, n // 2] > 0).sum() == 2 * radius + 1 and (2 * radius + 1) % 2 == 1


def by_steps(x: torch.Tensor, b: float, c: float, s: float, hue: float, grey: bool) -> torch.Tensor:
    """One image [3,H,W], operator by operator in [0,1]."""
    y = (x + 1) / 2 * b
    mean = (GREY[:, None, None] * y).sum(0).mean()
    y = (y - mean) * c + mean
    luma = (GREY[:, None, None] * y).sum(0)
    y = (y - luma) * s + luma
    axis, angle = torch.ones(3).double() / math.sqrt(3), 2 * math.pi * hue                 # Rodrigues' rotation, pixel by pixel
    along = (axis[:, None, None] * y).sum(0)
    cross = torch.linalg.cross(axis[:, None, None].expand_as(y), y, dim=0)
    y = y * math.cos(angle) + cross * math.sin(angle) + axis[:, None, None] * along * (1 - math.cos(angle))
    y = (GREY[:, None, None] * y).sum(0).expand(3, -1, -1) if grey else y
    return 2 * y - 1


def test_colours_are_the_operators_one_after_the_other():
    x = pictures(4)
    color = torch.tensor([[1.3, 0.7, 1.5, 0.1], [0.6, 1.4, 0.2, -0.2], [1.0, 1.0, 1.0, 0.0], [1.8, 0.2, 0.0, 0.17]], dtype=torch.float64)
    grey = torch.tensor([False, True, True, False])
    found = recoloring(x, color, grey)
    for i in range(4):
        assert torch.allclose(found[i], by_steps(x[i], *color[i].tolist(), bool(grey[i])), atol=1e-12)
    third = recoloring(x, torch.tensor([[1, 1, 1, 1 / 3]]).double().expand(4, 4), torch.zeros(4, dtype=torch.bool))
    assert torch.allclose(third, x.roll(1, 1), atol=1e-6)                     # red becomes green, green blue
    one = recoloring(x[:, :1], color, grey)                                   # grey pictures: brightness and contrast
    for i in range(4):
        y = (x[i, :1] + 1) / 2 * color[i, 0]
        assert torch.allclose(one[i], 2 * ((y - y.mean()) * color[i, 1] + y.mean()) - 1)


def test_blur_before_or_after_the_colours_is_the_same():
    """Why one pair of matrices may do both."""
    x, aug = pictures(4, h=40, w=40), SimCLR("hq")
    params = aug.draw_params(x, Rng(2)) | {"blur": torch.tensor([0.5, 1.0, 1.5, 2.0])}
    sharp = aug.transform(x, {**params, "blur": torch.zeros(4)})
    m = blurring(params["blur"].double(), 40)[:, None]
    assert torch.allclose(m @ sharp @ m.mT, aug.transform(x, params), atol=1e-10)


def test_cutout_is_a_black_square_with_an_odd_side():
    x = torch.zeros(2, 3, 32, 32, dtype=torch.float64)
    params = identity(2) | {"cutout": torch.tensor([[0.5, 0.25, 1.0], [0.5, 0.5, 0.0]])}
    y = SimCLR(cutout=True).transform(x, params)
    expected = torch.zeros(32, 32).double()
    expected[8 - 7:8 + 8, 16 - 7:16 + 8] = -1                                # 15 pixels about row 8, column 16
    assert torch.allclose(y[0], expected.expand(3, -1, -1), atol=1e-12) and torch.allclose(y[1], x[1], atol=1e-12)
    wide = SimCLR("hq", cutout=True).transform(torch.zeros(1, 1, 512, 512), identity(1, "hq") | {"cutout": torch.tensor([[0.5, 0.5, 1.0]])})
    assert (wide < -0.5).sum() == 255 * 255


# ----------------------------------------------------------------------------------------------------------------- the draws


@pytest.mark.parametrize("form, area, jitter, turn", [("cifar", 0.2, 0.4, 0.1), ("hq", 0.08, 0.8, 0.2)])
def test_draws_are_distributed_as_the_policy_says(form, area, jitter, turn):
    n = 40000
    p = SimCLR(form, cutout=True).draw_params(torch.empty(1, 3, 32, 32).expand(n, -1, -1, -1), Rng(4))
    x, y, width, height = p["crop"].unbind(1)
    a, ratio = width * height, (width / height).log() / math.log(4 / 3)
    assert area <= a.min() < area + 0.01 and 0.99 < a.max() <= 1.0001 and abs(a.mean() - (1 + area) / 2) < 0.01
    assert ratio.abs().max() <= 1.0001 and abs(ratio.mean()) < 0.02 and abs(ratio.square().mean() - 1 / 3) < 0.02        # log-uniform
    inside = width < 1
    assert (x[inside] - width[inside] / 2).min() > -1e-6 and (x[inside] + width[inside] / 2).max() < 1 + 1e-6
    assert abs(((x - 0.5) / (1 - width) * 2)[inside].square().mean() - 1 / 3) < 0.02 and y.min() < 0.35 and y.max() > 0.65
    assert abs(p["flip"].float().mean() - 0.5) < 0.01 and abs(p["grey"].float().mean() - 0.2) < 0.01
    off = (p["color"] == torch.tensor([1.0, 1.0, 1.0, 0.0])).all(1)
    assert abs(off.float().mean() - 0.2) < 0.01                               # jittered together or not at all
    on = p["color"][~off]
    for i in range(3):
        assert abs(on[:, i].min() - (1 - jitter)) < 0.01 and abs(on[:, i].max() - (1 + jitter)) < 0.01 and abs(on[:, i].mean() - 1) < 0.02
    assert turn - 0.01 < on[:, 3].abs().max() <= turn and abs(on[:, 3].mean()) < 0.01
    assert ("blur" in p) == (form == "hq")
    if form == "hq":
        blurred = p["blur"] > 0
        assert abs(blurred.float().mean() - 0.5) < 0.01 and 0.1 <= p["blur"][blurred].min() < 0.11 and 1.99 < p["blur"].max() <= 2
    assert abs(p["cutout"][:, 2].mean() - 0.5) < 0.01 and p["cutout"][:, :2].min() >= 0 and p["cutout"][:, :2].max() < 1


@pytest.mark.parametrize("form", ["cifar", "hq"])
def test_further_scales_have_draws_of_their_own(form):
    x, aug = pictures().float(), SimCLR(form, cutout=True)
    drawn = aug.draw(x, Rng(3), {"small": x[..., ::2, ::2]})
    again = aug.draw(x[..., ::2, ::2], Rng(3).fork("small"))
    assert torch.equal(drawn.extra["small"], again.image) and torch.equal(drawn.params["small.crop"], again.params["crop"])
    assert not torch.equal(drawn.params["small.crop"], drawn.params["crop"]) and torch.equal(drawn.image, aug.draw(x, Rng(3)).image)
    assert {k for k in drawn.params if "." not in k} == {"crop", "flip", "color", "grey", "cutout"} | ({"blur"} if form == "hq" else set())


# ------------------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("channels", [1, 3])
def test_affine_with_exact_derivatives_to_second_order(channels):
    aug, x = SimCLR("hq", cutout=True), pictures(3, channels, 20, 20)
    params = aug.draw_params(x, Rng(6))
    small = x[:2, :, :4, :4].requires_grad_()
    mini = aug.draw_params(small, Rng(6))
    assert torch.autograd.gradcheck(lambda v: aug.transform(v, mini), small)
    assert torch.autograd.gradgradcheck(lambda v: aug.transform(v, mini).square().sum(), small)
    a, b = pictures(3, channels, 20, 20), pictures(3, channels, 20, 20).flip(3)
    mean = (aug.transform(a, params) + aug.transform(b, params)) / 2
    assert torch.allclose(aug.transform((a + b) / 2, params), mean, atol=1e-12)
    other = {k: v[1:2] for k, v in params.items()}
    assert torch.allclose(aug.transform(a[1:2], other), aug.transform(a, params)[1:2], atol=1e-12)           # each by itself


def test_r1_by_the_image_before_augmentation_is_the_transposed_map():
    """grad_x D(T x) = T' grad D, T' by finite differences of T."""
    d, aug, x = TinyD(resolution=8).double(), SimCLR(), pictures(2, 3, 8, 8)
    seen = look(d, x, View(logits=True, pixel_grad=True), aug, Rng(5))
    found = seen.pixel_grad("x")
    inner = seen.pixel_grad("x_in").double()
    params = aug.draw_params(x, Rng(5))
    columns = aug.transform(torch.zeros(2, 3, 8, 8).double(), params)
    for k in range(0, 192, 17):
        unit = torch.zeros(2, 192).double()
        unit[:, k] = 1
        moved = aug.transform(unit.view(2, 3, 8, 8), params) - columns
        assert torch.allclose((moved * inner).flatten(1).sum(1), found.flatten(1)[:, k].double(), atol=1e-6)
    seen.grad_norm_sq("x").sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (d.stem.weight, d.conv2.weight, d.head.weight))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trains_with_r1_through_it(precision):
    trainer = run_steps(tiny_trainer('augment={"use": "simclr", "cutout": true}', "terms.r1.gamma=1.0", "terms.r1.at=x", precision=precision), 2)
    log = trainer.take_log()
    assert log["d/bad_grads"] == log["g/bad_grads"] == 0 and log["d/r1/penalty"] > 0


# ------------------------------------------------------------------------------------------------------------------- the rest


def test_half_precision_is_computed_in_full():
    x, aug = pictures().float(), SimCLR("hq")
    params = aug.draw_params(x, Rng(2))
    full, half = aug.transform(x, params), aug.transform(x.bfloat16(), params)
    assert half.dtype == torch.bfloat16 and torch.allclose(full, half.float(), atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(aug.transform(x, params), full)
    assert aug.draw(x.double(), Rng(2)).image.dtype == torch.float64


def test_one_graph_for_the_compiler():
    x, aug = pictures().float(), SimCLR("hq", cutout=True)
    params = aug.draw_params(x, Rng(2))
    y = aug.transform(x, params)
    torch._dynamo.reset()
    assert torch.allclose(torch.compile(aug.transform, fullgraph=True, backend="aot_eager")(x, params), y, atol=1e-5)


def test_images_that_it_cannot_augment_are_refused():
    for bad in (torch.zeros(2, 4, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8)):
        with pytest.raises(UsageError, match="simclr takes images .B,C,H,W. of 1 or 3 channels"):
            SimCLR()(bad)
    assert repr(SimCLR("hq")) == "SimCLR(form='hq', cutout=False)"
