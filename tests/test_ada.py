"""ADA's pipeline against the release's numbers, the paper's formulas written out, and the claim that it doesn't leak."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from handful import catalog
from handful.augment import ADA
from handful.augment import _ada_geometry as geo
from handful.augment._ada_band import correlate, downsampled, reflect, upsampled
from handful.augment._ada_filter import BANK
from handful.augment._ada_params import GATE, NORMAL, PRESETS, UNIFORM, WORDS, Draws, color_of, geometry_of
from handful.catalog import Use
from handful.errors import UsageError
from handful.rng import Rng
from handful.seam import Augment, Strength

IMPLS = ("fast", "ref")
EVERYTHING = "bgcfnc"
SINGLE = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac", "brightness", "contrast", "lumaflip", "hue", "saturation",
          "imgfilter", "noise", "cutout")


def images(n=3, channels=3, height=32, width=32, seed=0, dtype=torch.float32):
    return (torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1).to(dtype)


def drawn(policy, n=20000, p=1.0, size=(32, 32), seed=0, **constants):
    """The parameters of many images, without the images."""
    return ADA(policy, p, **constants).draw_params(torch.empty(1, device="meta").expand(n, 3, *size), Rng(seed))


# -------------------------------------------------------------------------------------------------- the release's numbers

# transformation, then for each percentile 0.05, 0.35, 0.65, 0.95: mean, std, [0,0,10,20], [1,2,3,7] of the output
VECTORS = {
    "xflip": ((-0.078304, 0.702761, 0.656986, -0.772764), (-0.078304, 0.702761, 0.656986, -0.772764),
              (-0.078046, 0.702768, -0.904484, -0.865919), (-0.078046, 0.702768, -0.904484, -0.865919)),
    "rotate90": ((-0.078304, 0.702761, 0.656986, -0.772764), (-0.078046, 0.702768, 0.913992, -0.472987),
                 (-0.077915, 0.70278, -0.796331, 0.38585), (-0.078194, 0.702771, -0.812615, 0.007033)),
    "xint": ((-0.079962, 0.702382, 0.734397, 0.656987), (-0.084687, 0.702015, 0.898708, -0.464602),
             (-0.075075, 0.703111, 0.311541, -0.958924), (-0.047387, 0.705313, -0.772765, -0.756802)),
    "scale": ((-0.089279, 0.699874, 0.75554, -0.998009), (-0.076876, 0.70122, 0.678413, -0.854838),
              (-0.083388, 0.700718, 0.632087, -0.67451), (-0.085572, 0.700479, 0.55906, -0.313493)),
    "rotate": ((-0.141517, 0.691488, -0.997476, -0.621964), (-0.125007, 0.694628, -0.964741, -0.9829),
               (-0.054356, 0.70345, 0.876031, 0.120958), (-0.038159, 0.703667, -0.232614, 0.891256)),
    "aniso": ((-0.113857, 0.696129, 0.857909, -0.908557), (-0.082312, 0.700592, 0.707933, -0.802245),
              (-0.077882, 0.70131, 0.599789, -0.741276), (-0.0671, 0.702126, 0.405383, -0.667809)),
    "xfrac": ((-0.076646, 0.700731, 0.533061, 0.827023), (-0.085058, 0.700659, 0.912181, -0.43174),
              (-0.074615, 0.701852, 0.276739, -0.966642), (-0.041387, 0.703662, -0.907919, -0.663668)),
    "brightness": ((-0.310921, 0.702761, 0.424369, -1.005382), (-0.132796, 0.702761, 0.602494, -0.827257),
                   (-0.023811, 0.702761, 0.711479, -0.718272), (0.154314, 0.702761, 0.889604, -0.540147)),
    "contrast": ((-0.052326, 0.469619, 0.43903, -0.516399), (-0.071248, 0.639437, 0.597787, -0.703133),
                 (-0.086058, 0.772356, 0.722048, -0.849292), (-0.117178, 1.051647, 0.983147, -1.156403)),
    "lumaflip": ((-0.078304, 0.702761, 0.656987, -0.772765), (-0.078304, 0.702761, 0.656987, -0.772765),
                 (0.078304, 0.702761, -0.715322, 0.547174), (0.078304, 0.702761, -0.715322, 0.547174)),
    "hue": ((-0.078304, 0.702761, 0.816881, -0.42851), (-0.078304, 0.702761, 0.938631, -0.401148),
            (-0.078304, 0.702761, 0.399389, -1.051389), (-0.078304, 0.702761, 0.610909, -0.676879)),
    "saturation": ((-0.078304, 0.534927, 0.673129, -0.710339), (-0.078304, 0.642068, 0.662006, -0.753353),
                   (-0.078304, 0.782914, 0.650924, -0.796211), (-0.078304, 1.239181, 0.620837, -0.912559)),
    "imgfilter": ((-0.049185, 0.441425, 0.412673, -0.485396), (-0.076204, 0.683916, 0.639369, -0.752042),
                  (-0.076087, 0.682865, 0.638386, -0.750886), (-0.04284, 0.384478, 0.359435, -0.422777)),
    "cutout": ((-0.0723, 0.667837, 0.656987, 0.0), (-0.057069, 0.609551, 0.656987, 0.0),
               (-0.067825, 0.60826, 0.656987, -0.772765), (-0.061191, 0.66893, 0.656987, -0.772765)),
    "bgc": ((-0.227187, 0.352015, -0.674095, -0.712613), (-0.165525, 0.576049, 0.745303, 0.172243),
            (0.07471, 0.851972, -0.118605, 0.656482), (-0.154101, 1.850353, 2.616605, 0.680477)),
}
QUANTILES = (0.05, 0.35, 0.65, 0.95)


def waves():
    n, k, y, x = torch.meshgrid(torch.arange(2.0), torch.arange(3.0), torch.arange(32.0), torch.arange(32.0), indexing="ij")
    return torch.sin(0.3 * x + 0.1 * y + k + n)


@pytest.mark.parametrize("impl,tolerance", [("ref", 1e-5), ("fast", 1e-3)])
@pytest.mark.parametrize("policy", VECTORS)
def test_the_releases_vectors(policy, impl, tolerance):
    """The fast path may differ by a little in the statistics, which count samples from outside the image."""
    T, x = ADA(policy, impl=impl), waves()
    for q, expected in zip(QUANTILES, VECTORS[policy]):
        y = T.transform(x, T.percentile_params(x, q))
        got = torch.stack([y.mean(), y.std(correction=0), y[0, 0, 10, 20], y[1, 2, 3, 7]])
        torch.testing.assert_close(got, torch.tensor(expected), rtol=0, atol=tolerance)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("policy,q,to", [("xflip", 0.65, (5, 22)), ("rotate90", 0.35, (22, 5)), ("rotate90", 0.65, (26, 22)),
                                         ("rotate90", 0.95, (9, 26)), ("xint", 0.95, (9, 13))])
def test_where_a_pixel_goes(impl, policy, q, to):
    x = torch.zeros(1, 1, 32, 32)
    x[0, 0, 5, 9] = 1
    T = ADA(policy, impl=impl)
    y = T.transform(x, T.percentile_params(x, q))[0, 0]
    assert divmod(int(y.argmax()), 32) == to
    peak = {"xint": 1.0}.get(policy, 0.930 if q == 0.65 and policy == "rotate90" else 0.965)        # sym6 isn't symmetric
    assert float(y.max()) == pytest.approx(peak, abs=1e-3)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (2, 1, 24, 40), (2, 3, 7, 5)])
def test_p_0_is_the_identity(impl, shape):
    x = images(*shape)
    assert (ADA(EVERYTHING, p=0.0, impl=impl)(x) - x).abs().max() < 6e-6
    assert torch.equal(ADA("filter,noise,cutout", p=0.0, impl=impl)(x), x)


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (2, 1, 24, 40), (2, 3, 7, 5), (1, 1, 1, 3)])
def test_the_identity_survives_sampling(shape):
    """Where no image is left out: the wavelet reconstructs perfectly, borders included."""
    x = images(*shape)
    same = torch.eye(2, 3).expand(len(x), 2, 3)
    for f in (geo._sampled, geo._straight):
        assert (f(x, same) - x).abs().max() < 1e-5
    assert (correlate(reflect(x, 21, 21, 21, 21), BANK, torch.ones(len(x), 4)) - x).abs().max() < 1e-6


def test_the_filter_bank():
    bank = torch.tensor(BANK, dtype=torch.float64)
    delta = torch.zeros(43, dtype=torch.float64)
    delta[21] = 1
    torch.testing.assert_close(bank.sum(0), delta, rtol=0, atol=1e-15)
    torch.testing.assert_close(bank.sum(1), delta.new_tensor([1, 0, 0, 0]), rtol=0, atol=1e-15)
    torch.testing.assert_close(bank, bank.flip(1), rtol=0, atol=1e-15)
    for band, expected in zip(bank[:, 21:], [
        [0.125, 0.11865234, 0.10546875, 0.08905029, 0.0703125, 0.05108643, 0.03222656, 0.01428223, 0, -0.00646973, -0.00878906, -0.00906372,
         -0.0078125, -0.00631714, -0.00439453, -0.00201416, 0, 0.00054932, 0.00048828, 0.00027466, 0, -0.00003052],
        [0.125, 0.09228516, 0.03515625, -0.02459717, -0.0703125, -0.06866455, -0.04785156, -0.02307129, 0, 0.00744629, 0.00878906, 0.00906372,
         0.0078125, 0.00631714, 0.00439453, 0.00201416, 0, -0.00054932, -0.00048828, -0.00027466, 0, 0.00003052],
        [0.25, 0.0703125, -0.140625, -0.09570312, 0, 0.01757812, 0.015625, 0.00878906, 0, -0.00097656], [0.5, -0.28125, 0, 0.03125]],
    ):
        torch.testing.assert_close(band, torch.cat([band.new_tensor(expected), band.new_zeros(22 - len(expected))]), rtol=0, atol=6e-9)


# ---------------------------------------------------------------------------------------------------- the formulas, written out


def numbers(n):
    rng = Rng(5)
    return Draws(dict(zip(GATE, (rng.rand(n, len(GATE)) < 0.6).unbind(1))), dict(zip(UNIFORM, rng.rand(n, len(UNIFORM)).unbind(1))),
                 dict(zip(NORMAL, rng.randn(n, len(NORMAL)).unbind(1))))


def test_geometry_is_the_product_in_order():
    """G <- M G for each transformation; the module gathers the inverse."""
    d, n, (h, w), T = numbers(50), 50, (24, 40), ADA("bg")
    got = geometry_of(d, T.enabled, T.constants, h, w)
    eye = torch.eye(3, dtype=torch.float64)

    def turn(a):
        return eye.new_tensor([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])

    def move(x, y):
        return eye.new_tensor([[1, 0, x], [0, 1, y], [0, 0, 1]])

    for i in range(n):
        on, u, z = ({k: v[i].item() for k, v in part.items()} for part in d)
        steps = [("xflip", torch.diag(eye.new_tensor([1 - 2 * math.floor(2 * u["xflip"]), 1, 1]))),
                 ("rotate90", turn(-math.floor(4 * u["rotate90"]) * math.pi / 2)),
                 ("xint", move(round((2 * u["xint_x"] - 1) * 0.125 * w), round((2 * u["xint_y"] - 1) * 0.125 * h))),
                 ("scale", torch.diag(eye.new_tensor([2 ** (0.2 * z["scale"])] * 2 + [1]))),
                 ("rotate_pre", turn(-(2 * u["rotate_pre"] - 1) * math.pi)),
                 ("aniso", torch.diag(eye.new_tensor([2 ** (0.2 * z["aniso"]), 2 ** (-0.2 * z["aniso"]), 1]))),
                 ("rotate_post", turn(-(2 * u["rotate_post"] - 1) * math.pi)),
                 ("xfrac", move(0.125 * z["xfrac_x"] * w, 0.125 * z["xfrac_y"] * h))]
        G = eye
        for name, M in steps:
            G = M @ G if on[name] else G
        torch.testing.assert_close(got[i].double(), G.inverse()[:2], rtol=1e-4, atol=1e-4)


def test_colour_is_the_product_in_order():
    d, T = numbers(50), ADA("color")
    got, grey = color_of(d, T.enabled, T.constants, 3), color_of(d, T.enabled, T.constants, 1)
    v = torch.tensor([1, 1, 1, 0], dtype=torch.float64)[:, None] / 3 ** 0.5
    eye = torch.eye(4, dtype=torch.float64)
    for i in range(50):
        on, u, z = ({k: t[i].item() for k, t in part.items()} for part in d)
        a = (2 * u["hue"] - 1) * math.pi
        cross = torch.zeros(4, 4, dtype=torch.float64)
        cross[:3, :3] = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / 3 ** 0.5
        rodrigues = math.cos(a) * eye + (1 - math.cos(a)) * v @ v.T + math.sin(a) * cross
        rodrigues[3, 3] = 1
        shift = eye.clone()
        shift[:3, 3] = 0.2 * z["brightness"]
        c = 2 ** (0.5 * z["contrast"])
        steps = [("brightness", shift), ("contrast", torch.diag(eye.new_tensor([c, c, c, 1]))),
                 ("lumaflip", eye - 2 * math.floor(2 * u["lumaflip"]) * v @ v.T), ("hue", rodrigues),
                 ("saturation", v @ v.T + 2 ** z["saturation"] * (eye - v @ v.T))]
        C = eye
        for name, M in steps:
            C = M @ C if on[name] else C
        torch.testing.assert_close(got[i].double(), C[:3], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grey[i].double().mean(0) @ eye.new_tensor([[1, 0], [1, 0], [1, 0], [0, 1]]),     # hue, saturation don't matter
                                   C[:3].mean(0) @ eye.new_tensor([[1, 0], [1, 0], [1, 0], [0, 1]]), rtol=1e-5, atol=1e-5)


def test_gains_keep_the_expected_power():
    g = drawn("filter", 2000)["imgfilter"].double()
    one = drawn("filter", 2000, imgfilter_bands=(0, 0, 1, 0))["imgfilter"].double()
    power = one.new_tensor([10, 1, 1, 1]) / 13
    torch.testing.assert_close((one.square() * power).sum(1), one.new_ones(2000), rtol=0, atol=1e-6)                     # a single band: kept exactly
    assert torch.equal(one[:, 0], one[:, 1]) and (one[:, 2] / one[:, 0]).log2().std() == pytest.approx(1, rel=0.06)
    assert (g.log2().std(0)[1:] > 1).all() and g.log2().std(0)[0] < 0.6                               # most of the power is in the lowest
    assert torch.equal(drawn("filter", 5, p=0.0)["imgfilter"], torch.ones(5, 4))


def test_a_grey_image_takes_the_mean_of_the_colours():
    x, T = images(6, 1), ADA("color", impl="ref")
    params = T.draw_params(x, Rng(3))
    y, z = T.transform(x, params), T.transform(x.expand(6, 3, 32, 32), params).mean(1, keepdim=True)
    torch.testing.assert_close(y, z, rtol=1e-5, atol=1e-5)


def test_cutout():
    T, x = ADA("cutout"), torch.ones(2, 3, 10, 20)
    y = T.transform(x, {"cutout": torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])})
    assert torch.equal(y[0, 0] == 0, (torch.arange(20) // 5 % 3 > 0)[None] & (torch.arange(10) < 2)[:, None])    # the rows 0, 1 of 0 .. 2.5
    assert torch.equal(y[1], x[1])


def test_noise_has_its_std():
    x, T = torch.zeros(4, 3, 64, 64), ADA("noise")
    params = T.draw_params(x, Rng(1))
    torch.testing.assert_close(T.transform(x, params).flatten(1).std(1), params["noise"], rtol=0.03, atol=0)
    assert drawn("noise", size=(1, 1))["noise"].square().mean().sqrt() == pytest.approx(0.1, rel=0.03)


# -------------------------------------------------------------------------------------------------------- statistics of draws


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0, 1.7])
def test_rates(p):
    """How often each transformation does something; p above 1 counts as 1."""
    n, r = 20000, min(p, 1.0)
    rates = {"xflip": r / 2, "rotate90": r * 3 / 4, "scale": r, "rotate": r, "aniso": r, "xfrac": r, "brightness": r, "contrast": r,
             "lumaflip": r / 2, "hue": r, "saturation": r, "imgfilter": 1 - (1 - r) ** 4}
    same = {"geometry": torch.eye(2, 3), "color": torch.eye(3, 4), "imgfilter": torch.ones(4)}
    for name, rate in rates.items():
        (key, value), = drawn(name, n, p).items()
        assert ((value - same[key]).abs() > 1e-6).flatten(1).any(1).double().mean() == pytest.approx(rate, abs=0.015), name
    assert (drawn("cutout", n, p)["cutout"][:, 0] == 0.5).double().mean() == pytest.approx(r, abs=0.015)
    assert (drawn("noise", n, p, (1, 1))["noise"] > 0).double().mean() == pytest.approx(r, abs=0.015)


@pytest.mark.parametrize("p", [0.36, 0.75, 1.0])
def test_either_rotation_happens_as_often(p):
    """Each with 1 - sqrt(1 - p): told apart by a strong anisotropy between them."""
    g = drawn("rotate,aniso", p=p, aniso_std=1.0, rotate_max=0.1)["geometry"][:, :, :2].double()
    aniso = ((g.square().sum(1) - 1).abs() > 1e-3).any(1)
    g, each = g[aniso], 1 - (1 - p) ** 0.5
    pre, post = (g[:, :, 0] * g[:, :, 1]).sum(1).abs() > 1e-5, (g[:, 0] * g[:, 1]).sum(1).abs() > 1e-5     # columns, rows no longer orthogonal
    assert pre.double().mean() == pytest.approx(each, abs=0.02) and post.double().mean() == pytest.approx(each, abs=0.02)
    assert (pre | post).double().mean() == pytest.approx(p, abs=0.02)


def test_sizes_of_what_is_drawn():
    def moments(value, std):
        assert abs(value.double().mean()) < 0.03 * std and value.double().std() == pytest.approx(std, rel=0.03)

    def entry(name, i=0, j=0, key="geometry", **more):
        return drawn(name, **more)[key][:, i, j]

    moments(entry("scale").log2(), 0.2)
    moments(entry("aniso").log2(), 0.2)
    moments(entry("xfrac", 0, 2, size=(16, 64)), 8.0)
    moments(entry("xfrac", 1, 2, size=(16, 64)), 2.0)
    moments(entry("brightness", 0, 3, "color"), 0.2)
    moments(entry("contrast", 1, 1, "color").log2(), 0.5)
    color = drawn("saturation")["color"]
    moments((color[:, 0, 0] - color[:, 0, 1]).log2(), 1.0)
    for values, half in ((entry("xint", 0, 2, size=(16, 64)), 8), (entry("xint", 1, 2, size=(16, 64)), 2)):
        assert torch.equal(values, values.round()) and values.abs().max() == half
        assert values.double().var() == pytest.approx((2 * half) ** 2 / 12, rel=0.06 + 1 / half ** 2)
    turns = drawn("rotate90")["geometry"][:, :, :2]
    counts = torch.bincount((turns[:, 0, 0] + 2 * turns[:, 1, 0] + 2).long())
    assert len(counts) == 5 and counts[2] == 0 and (counts[[0, 1, 3, 4]] - 5000).abs().max() < 300
    hue = drawn("hue")["color"].double()
    angle = torch.atan2(hue[:, 1, 0] - hue[:, 0, 1], (hue[:, 0, 0] * 3 - 1) / 3 ** 0.5)
    assert angle.std() == pytest.approx(math.pi / 3 ** 0.5, rel=0.02)


def test_a_transformation_draws_the_same_under_any_policy():
    alone, within = drawn("contrast", 9), drawn("brightness,contrast,imgfilter", 9)
    assert torch.equal(alone["color"][:, 0, 0], within["color"][:, 0, 0])


# -------------------------------------------------------------------------------------------------------- fast against reference


def outside(x, inverse):
    """Where the reference reads samples from more than 3 pixels beyond the image: those pixels of the output [B,H,W]."""
    h, w = x.shape[2:]
    rows, cols = torch.arange(2.0 * h + 10) - (h + 4), torch.arange(2.0 * w + 10) - (w + 4)
    at = torch.stack([cols.expand(len(rows), -1), rows[:, None].expand(-1, len(cols)), torch.full((len(rows), len(cols)), 2.0)])
    at = torch.einsum("bij,jhw->bihw", inverse.double(), at.double())
    far = (at[:, 0].abs() > w - 1 + 6.49) | (at[:, 1].abs() > h - 1 + 6.49)
    return torch.nn.functional.max_pool2d(far.float()[:, None], 12, 2)[:, 0] > 0


@pytest.mark.parametrize("shape", [(24, 3, 32, 32), (24, 1, 24, 40), (12, 3, 70, 45)])
def test_fast_equals_reference_but_for_what_lies_outside(shape):
    x, T, ref = images(*shape, dtype=torch.float64), ADA("bgc", 0.6), ADA("bgc", 0.6, impl="ref")
    params = T.draw_params(x, Rng(2))
    y, z = T.transform(x, params), ref.transform(x, params)
    far = outside(x, params["geometry"])
    assert 0.05 < far.double().mean() < 0.7
    difference = (y - z).abs().amax(1)
    assert difference[~far].max() < 1e-10
    # White noise is the worst case: all of it lies where sym6 and its mirror image differ. A photograph's differences are far below.
    assert difference[far].max() > 1e-3 and (y - z).square().mean() < 0.02 * z.square().mean()


def test_fast_and_reference_differ_little_on_smooth_images():
    x, T, ref = waves().repeat(12, 1, 1, 1), ADA("bg"), ADA("bg", impl="ref")
    params = T.draw_params(x, Rng(2))
    difference = (T.transform(x, params) - ref.transform(x, params)).abs()
    assert difference.max() < 0.15 and difference.square().mean().sqrt() < 0.01


@pytest.mark.parametrize("shape", [(16, 3, 32, 32), (16, 1, 9, 30)])
def test_every_way_gives_the_same(shape):
    """Identity, products from both sides and sampling: whichever a CPU takes."""
    x = images(*shape, dtype=torch.float64)
    inverse = torch.where(torch.arange(16)[:, None, None] < 13, *(ADA(t).draw_params(x, Rng(4))["geometry"] for t in ("rotate90,xint,aniso", "bg")))
    inverse[0] = torch.eye(2, 3)
    off = inverse[:, [0, 1], [1, 0]].eq(0).all(1), inverse[:, [0, 1], [0, 1]].eq(0).all(1)
    assert off[0].sum() > 2 and off[1].sum() > 2 and (~off[0] & ~off[1]).sum() > 2
    torch.testing.assert_close(geo.geometry(x, inverse), geo._sampled(x, inverse.double()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 3, 40, 56), (3, 1, 24, 24), (3, 3, 16, 8), (2, 1, 1, 5)])
def test_the_fast_filter_is_the_reference(shape):
    x = images(*shape, dtype=torch.float64)
    params = ADA("filter", 0.5).draw_params(x, Rng(0))
    torch.testing.assert_close(ADA("filter").transform(x, params), ADA("filter", impl="ref").transform(x, params), rtol=0, atol=1e-12)


def test_reflection_goes_on_as_often_as_needed():
    x = torch.arange(4.0).view(1, 1, 1, 4)
    assert reflect(x, 7, 5, 0, 0).flatten().tolist() == [min(i % 6, 6 - i % 6) for i in range(-7, 9)]
    assert torch.equal(reflect(x, 3, 2, 0, 0), torch.nn.functional.pad(x, (3, 2, 0, 0), mode="reflect"))
    assert reflect(x[..., :1], 2, 2, 1, 1).shape == (1, 1, 3, 5)


class NoNumbers(Rng):
    """Draws tensors that have shapes and no numbers."""

    def rand(self, n, *shape):
        return torch.empty(n, *shape, device="meta")

    randn = rand


def test_nothing_waits_for_numbers_on_a_device(monkeypatch):
    """Without any numbers draws and chain still run, to second order: shapes come from shapes alone, nothing is read."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())                            # knows no such device
    x = torch.empty(4, 3, 32, 40, device="meta", requires_grad=True)
    y = ADA(EVERYTHING).draw(x, NoNumbers(0)).image
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x)
    assert y.shape == h.shape == x.shape


# ---------------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("impl", IMPLS)
def test_gradients(impl):
    x, T = images(4, 3, 7, 6, dtype=torch.float64).requires_grad_(), ADA(EVERYTHING, 0.6, impl=impl)
    params = T.draw_params(x, Rng(1))
    assert gradcheck(lambda t: T.transform(t, params), x, fast_mode=True)
    assert gradgradcheck(lambda t: T.transform(t, params).sin(), x, fast_mode=True)


@pytest.mark.parametrize("way", ["_sampled", "_straight", "_turned"])
def test_gradients_of_each_way(way):
    x = images(1, 1, 4, 3, dtype=torch.float64).requires_grad_()
    inverse = torch.tensor([[[0.8, -0.5, 0.3], [0.4, 1.1, -1.2]]], dtype=torch.float64)
    assert gradcheck(lambda t: getattr(geo, way)(t, inverse), x)
    assert gradgradcheck(lambda t: getattr(geo, way)(t, inverse).sin(), x)


def test_a_gradient_penalty_agrees_with_the_reference():
    """R1 through T inside the image: the value, its gradient, and the gradient of that one's norm."""
    results = []
    for impl in IMPLS:
        x, T = images(4, 3, 24, 20, dtype=torch.float64).requires_grad_(), ADA("scale,color,filter", 1.0, scale_std=0.1, impl=impl)
        params = T.percentile_params(x, 0.8)                          # larger than the image: nothing is read from outside
        y = T.transform(x, params)
        (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        (h,) = torch.autograd.grad(g.square().sum(), x)
        results.append((y, g, h))
    for fast, ref in zip(*results):
        torch.testing.assert_close(fast, ref, rtol=1e-9, atol=1e-9)


def test_the_sampler_and_its_adjoint():
    x = images(2, 3, 9, 12, dtype=torch.float64)
    grid = images(2, 7, 8, 2, dtype=torch.float64, seed=1) * 1.3      # some outside: the border counts
    y = images(2, 3, 7, 8, dtype=torch.float64, seed=2)
    forward, back = geo._Sample.apply(x, grid), geo._Spread.apply(y, grid, (9, 12))
    torch.testing.assert_close((forward * y).sum(), (x * back).sum())
    at = geo._pixels(grid, x.shape)
    torch.testing.assert_close(forward, geo.bilinear_ref(x, at))
    torch.testing.assert_close(back, geo.spread_ref(y, at, (9, 12)))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("n", [1, 5, 37])
def test_bands_and_their_adjoints(dim, n):
    """Resampling by 2 against its definition, and both directions as transposed matrices."""
    taps = tuple(float(t) for t in range(1, 13))
    eye = torch.eye(n, dtype=torch.float64)[None, None]
    eye = eye if dim == 2 else eye.mT
    up = upsampled(eye, taps, 3, 2 * n + 4, dim)[0, 0]
    up = up if dim == 2 else up.T
    for j in range(2 * n + 4):
        assert up[j].tolist() == [taps[j + 3 - 2 * i] if 0 <= j + 3 - 2 * i < 12 else 0 for i in range(n)]
    wide = torch.eye(2 * n + 10, dtype=torch.float64)[None, None]
    down = downsampled(wide if dim == 2 else wide.mT, taps, n, dim)[0, 0]
    full = upsampled(eye, taps, 0, 2 * n + 10, dim)[0, 0]
    assert torch.equal(down, full.T)
    x = images(2, 2, n, n, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda t: upsampled(t, taps, 3, 2 * n + 4, dim), x, fast_mode=True)
    assert gradgradcheck(lambda t: downsampled(t, taps, max(n // 2 - 5, 1), dim).sin(), x, fast_mode=True)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`", "ignore:.*should not be instantiated:DeprecationWarning")
def test_one_graph_for_the_compiler():
    x, T = images(2, height=16, width=16).requires_grad_(), ADA("bgc")
    params = T.draw_params(x, Rng(1))
    y = T.transform(x, params)
    z = torch.compile(T.transform, fullgraph=True, backend="aot_eager")(x, params)
    torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-4)


# -------------------------------------------------------------------------------------------------------------- as a module


def test_plain_module_and_configuration():
    T, x = ADA("bgc", p=0.2), images()
    assert isinstance(T, Augment) and isinstance(T, Strength) and T(x).shape == x.shape
    torch.manual_seed(1)
    a = T(x)
    torch.manual_seed(1)
    assert torch.equal(a, T(x)) and not torch.equal(a, T(x))
    built = catalog.build("augment", Use("ada", policy="bgc", p=0.0, imgfilter_bands=[1, 0, 0, 1]))
    assert built.p == 0 and built.imgfilter_bands == (1, 0, 0, 1)
    assert "p=0.2" in repr(T)


def test_strength_is_a_buffer_that_moves_in_place():
    T, x = ADA("bgc", p=0.0), images()
    before = T.draw(x, Rng(0)).image
    T.p.add_(0.7)
    assert not torch.equal(T.draw(x, Rng(0)).image, before)
    other = ADA("bgc")
    other.load_state_dict(T.state_dict())
    assert set(T.state_dict()) == {"p"} and other.p == T.p and other.p.dtype == torch.float32 and other.p.ndim == 0


@pytest.mark.parametrize("policy", [*PRESETS, "blit", "geom", "color", "filter", "noise", "cutout", *SINGLE])
def test_policies(policy):
    T, x = ADA(policy), images(4)
    assert {"xflip": {"geometry"}, "hue": {"color"}}.get(policy, set()) <= set(T.draw(x, Rng(0)).params)
    out = T.draw(x, Rng(0))
    assert not torch.equal(out.image, x) and out.image.shape == x.shape and all(len(v) == 4 for v in out.params.values())
    assert T.enabled == set(WORDS[policy])


def test_words_add_up_in_any_order():
    assert ADA("color,bg").enabled == ADA("bgc").enabled and ADA("xflip, brightness").enabled == {"xflip", "brightness"}
    x = images()
    assert ADA("")(x) is x


@pytest.mark.parametrize("make,line", [
    (lambda: ADA("bgk"), "unknown word 'bgk'.*did you mean 'bg"), (lambda: ADA("xflop"), "did you mean 'xflip'"),
    (lambda: ADA(p=-0.1), "p=-0.1"), (lambda: ADA(scale_std=math.nan), "scale_std=nan"),
    (lambda: ADA(imgfilter_bands=(1, 1)), "four numbers"), (lambda: ADA()(torch.zeros(2, 4, 8, 8)), "not 4; take 'bg'"),
    (lambda: ADA()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), "floating-point"), (lambda: ADA()(torch.zeros(3, 8, 8)), "floating-point"),
])
def test_what_is_wrong_is_named(make, line):
    with pytest.raises(UsageError, match=line):
        make()


def test_other_channel_counts_without_colour():
    x = images(2, 5)
    assert ADA("bg")(x).shape == x.shape


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype,tolerance", [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_half_precision_in_and_out(impl, dtype, tolerance):
    x = images(4)
    T, params = ADA(EVERYTHING, 0.7, impl=impl), ADA(EVERYTHING, 0.7).draw_params(x, Rng(2))
    y = T.transform(x.to(dtype), params)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), T.transform(x.to(dtype).float(), params), rtol=tolerance, atol=tolerance)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(T.transform(x, params), T.transform(x, params)) and T.transform(x, params).dtype == torch.float32


def test_micro_batches_see_their_rows_of_the_whole_batch():
    T, x, small = ADA(EVERYTHING, 0.7), images(8), images(8, height=16, width=16)
    whole = T.draw(x, Rng(5, batch=8, slots=range(0, 8)), {"small": small})
    for slots in (range(0, 2), range(2, 7), range(7, 8)):
        rows = slice(slots.start, slots.stop)
        part = T.draw(x[rows], Rng(5, batch=8, slots=slots), {"small": small[rows]})
        torch.testing.assert_close(part.image, whole.image[rows], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(part.extra["small"], whole.extra["small"][rows], rtol=1e-5, atol=1e-5)
        assert all(torch.equal(part.params[k], whole.params[k][rows]) for k in whole.params)


def test_an_image_does_not_depend_on_the_others():
    T, x = ADA(EVERYTHING, 0.7), images(6)
    params = T.draw_params(x, Rng(4))
    y = T.transform(x, params)
    x[0], x[5] = float("nan"), float("inf")
    assert torch.equal(y[1:5], T.transform(x, params)[1:5])


def test_further_scales_have_draws_of_their_own():
    big, small = images(64), images(64, height=16, width=16)
    T = ADA("xflip,brightness")
    out = T.draw(big, Rng(6), {"small": small})
    assert set(out.params) == {"geometry", "color", "small.geometry", "small.color"}
    assert torch.equal(out.params["geometry"], T.draw(big, Rng(6)).params["geometry"])
    assert 0.3 < (out.params["geometry"][:, 0, 0] == out.params["small.geometry"][:, 0, 0]).double().mean() < 0.7
    own = {k: out.params[f"small.{k}"] for k in ("geometry", "color")}
    assert torch.equal(out.extra["small"], T.transform(small, own))


def test_what_is_kept_under_inference_mode_serves_training_later():
    x = images(2, height=19, width=23)
    with torch.inference_mode():
        ADA("bgcf")(x)
    x.requires_grad_()
    ADA("bgcf")(x).sum().backward()
    assert torch.isfinite(x.grad).all()


# ------------------------------------------------------------------------------------------------------------------- leaks


def mixing(p, n=40000):
    """M[j, i]: how often the module turns an image in orientation i into orientation j, from its own draws of rotate90."""
    turn = drawn("rotate90", n, p)["geometry"][:, :, :2]
    by = (torch.atan2(turn[:, 1, 0], turn[:, 0, 0]) / (math.pi / 2)).round().long() % 4
    share = torch.bincount(by, minlength=4).double() / n
    return torch.stack([share.roll(i) for i in range(4)], 1)


def orientations(share, n, seed):
    """n copies of a picture, turned by 0 to 3 quarters in the given shares; and the four templates."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    picture = torch.exp(-((x - 4) ** 2 + (y - 8) ** 2) / 12) - 0.5
    templates = torch.stack([picture.rot90(i) for i in range(4)])[:, None]                        # counter-clockwise, as rotate90 turns
    which = torch.multinomial(torch.tensor(share), n, replacement=True, generator=torch.Generator().manual_seed(seed))
    return templates[which], templates


def seen(x, templates):
    """The shares of the four orientations in x."""
    nearest = (x[:, None] - templates[None]).square().flatten(2).sum(2).argmin(1)
    return torch.bincount(nearest, minlength=4).double() / len(x)


@pytest.mark.parametrize("p", [0.3, 0.79])
def test_below_p_08_the_original_orientations_are_recovered(p):
    M = mixing(p)
    assert torch.linalg.svdvals(M).min() == pytest.approx(1 - p, abs=0.02)                        # invertible (appendix C.4.2)
    share = [0.6, 0.25, 0.1, 0.05]
    x, templates = orientations(share, 8000, seed=0)
    augmented = seen(ADA("rotate90", p).draw(x, Rng(9)).image, templates)
    recovered = torch.linalg.solve(M, augmented)
    assert (recovered - torch.tensor(share, dtype=torch.float64)).abs().max() < 0.05
    if p > 0.5:
        assert (augmented - torch.tensor(share, dtype=torch.float64)).abs().max() > 0.2           # what D sees is quite another


def test_at_p_1_rotations_leak():
    M = mixing(1.0)
    assert torch.linalg.svdvals(M)[1:].max() < 0.02                                               # of rank 1: all originals look alike
    one, templates = orientations([1.0, 0.0, 0.0, 0.0], 8000, seed=1)
    other, _ = orientations([0.1, 0.2, 0.3, 0.4], 8000, seed=2)
    T = ADA("rotate90", 1.0)
    first, second = (seen(T.draw(x, Rng(i)).image, templates) for i, x in enumerate((one, other)))
    assert (first - 0.25).abs().max() < 0.02 and (second - 0.25).abs().max() < 0.02
    apart = [seen(ADA("rotate90", 0.7).draw(x, Rng(i)).image, templates) for i, x in enumerate((one, other))]
    assert (apart[0] - apart[1]).abs().max() > 0.2                                                # at 0.7 D can tell them


@pytest.mark.parametrize("policy,side", [("xflip", 0), ("lumaflip", 1)])
def test_flips_leak_at_p_1_alone(policy, side):
    """A flip with probability p/2 mixes an image with its mirror by [[1 - p/2, p/2], [p/2, 1 - p/2]], of determinant 1 - p."""
    for p in (0.5, 0.8, 1.0):
        params = drawn(policy, 40000, p)
        flipped = (params["geometry"][:, 0, 0] if side == 0 else params["color"].sum((1, 2))) < 0
        rate = float(flipped.double().mean())
        assert (1 - rate) ** 2 - rate ** 2 == pytest.approx(1 - p, abs=0.015)


def test_a_strength_that_may_leak_is_said():
    assert ADA("bgc", p=0.9).notes == ["augment.p=0.9: from 0.8 on augmented looks may leak into the pictures"]
    assert not ADA("bgc", p=0.8).notes and not ADA("", p=1.0).notes
