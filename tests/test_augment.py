"""DiffAugment against its definition, pixel by pixel; its draws; its gradients; flips; the names under which the rooms offer their classes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import handful.augment
from handful import catalog
from handful.augment import DiffAugment, Flip, NoAugment
from handful.errors import UsageError
from handful.rng import Rng
from handful.seam import Augment

ALL = "color,translation,cutout"
IMPLS = ("fast", "ref")
ORDERS = ["color", "translation", "cutout", ALL, "cutout,color,translation", "translation,cutout"]


def images(n=3, channels=3, height=8, width=8, seed=0, dtype=torch.float64):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def by_definition(x, params, policy, cutout_ratio=0.5):
    """The paper's operators written out in loops over images and pixels."""
    out = x.clone()
    for n in range(len(x)):
        image = out[n]
        height, width = image.shape[1:]
        for group in policy.split(","):
            if group == "color":
                image = image + params["brightness"][n].double()
                grey = image.mean(0)
                image = (image - grey) * params["saturation"][n].double() + grey
                mean = image.mean()
                image = (image - mean) * params["contrast"][n].double() + mean
            elif group == "translation":
                down, right = params["translation"][n].tolist()
                moved = torch.zeros_like(image)
                for i, j in itertools.product(range(height), range(width)):
                    if 0 <= i - down < height and 0 <= j - right < width:
                        moved[:, i, j] = image[:, i - down, j - right]
                image = moved
            else:
                (u, v), q = params["cutout"][n].tolist(), [int(side * cutout_ratio + 0.5) for side in (height, width)]
                image = image.clone()
                for i, j in itertools.product(range(u - q[0] // 2, u - q[0] // 2 + q[0]), range(v - q[1] // 2, v - q[1] // 2 + q[1])):
                    image[:, min(max(i, 0), height - 1), min(max(j, 0), width - 1)] = 0
        out[n] = image
    return out


# ---------------------------------------------------------------------------------------------------------- the operators


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("policy", ORDERS)
@pytest.mark.parametrize("channels,height,width", [(3, 16, 16), (1, 9, 14), (4, 5, 8)])
def test_equals_the_definition(impl, policy, channels, height, width):
    T, x = DiffAugment(policy, impl=impl), images(6, channels, height, width)
    params = T.draw_params(x, Rng(7))
    torch.testing.assert_close(T.transform(x, params), by_definition(x, params, policy), rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("u,rows", [(0, range(0, 4)), (1, range(0, 5)), (8, range(4, 12)), (15, range(11, 16)), (16, range(12, 16))])
def test_cutout_at_the_corners_of_an_even_square(impl, u, rows):
    y = DiffAugment("cutout", impl=impl).transform(torch.ones(1, 1, 16, 16), {"cutout": torch.tensor([[u, 16 - u]])})[0, 0]
    cut = (y == 0).any(1).nonzero().flatten().tolist()
    assert cut == list(rows)
    assert (y == 0).any(0).nonzero().flatten().tolist() == [15 - r for r in reversed(rows)]         # the opposite corner of the columns
    assert int((y == 0).sum()) == len(rows) ** 2


@pytest.mark.parametrize("impl", IMPLS)
def test_cutout_of_an_odd_square(impl):
    T, ones = DiffAugment("cutout", impl=impl), torch.ones(5, 1, 5, 5)                               # q = floor(2.5 + 0.5) = 3, u in 0..4
    y = T.transform(ones, {"cutout": torch.stack([torch.arange(5), torch.full((5,), 2)], 1)})
    assert [(image[0, :, 2] == 0).nonzero().flatten().tolist() for image in y] == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4]]


@pytest.mark.parametrize("impl", IMPLS)
def test_translation_moves_down_and_right_and_fills_with_zero(impl):
    x = torch.arange(1.0, 257.0).view(1, 1, 16, 16)
    y = DiffAugment("translation", impl=impl).transform(x, {"translation": torch.tensor([[2, -1]])})
    assert torch.equal(y[0, 0, 2:, :15], x[0, 0, :14, 1:])
    assert not y[0, 0, :2].any() and not y[0, 0, :, 15:].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_translation_fills_with_what_it_is_told(dtype):
    """Black, as the release's ImageNet code has it; only what a shift leaves empty, and no gradient comes from there."""
    x = images(4, dtype=dtype).requires_grad_()
    shift = {"translation": torch.tensor([[1, 0], [0, -1], [0, 0], [-1, 1]])}
    forms = (dict(impl="fast", translation_fill=-1), dict(impl="ref", translation_fill=-1), {})
    fast, ref, grey = (DiffAugment("translation", **form).transform(x, shift) for form in forms)
    assert torch.equal(fast, ref) and fast.dtype == dtype
    empty = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
    empty[0, :, 0] = empty[1, :, :, 7] = empty[3, :, 7] = empty[3, :, :, 0] = True
    assert torch.equal(fast, torch.where(empty, -1, grey))
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), x) for y in (fast, grey))):
        assert torch.equal(a, b)
    with pytest.raises(UsageError, match="translation_fill=2"):
        DiffAugment(translation_fill=2)


def test_saturation_0_is_grey_and_contrast_keeps_the_mean():
    x, one = images(2), torch.ones(2)
    T = DiffAugment("color")
    grey = T.transform(x, {"brightness": 0 * one, "saturation": 0 * one, "contrast": one})
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x))
    flat = T.transform(x, {"brightness": 0.25 * one, "saturation": one, "contrast": 0 * one})
    torch.testing.assert_close(flat, (x.mean((1, 2, 3), keepdim=True) + 0.25).expand_as(x))


def test_a_cutout_or_shift_of_ratio_0_is_the_identity():
    x = images(4)
    assert torch.equal(DiffAugment("translation,cutout", 0.0, 0.0).draw(x, Rng(1)).image, x)


@pytest.mark.parametrize("policy", ["", " , "])
def test_empty_policy_is_the_identity(policy):
    x = images()
    out = DiffAugment(policy).draw(x, Rng(0), {"small": x})
    assert out.image is x and out.extra["small"] is x and out.params == {}


@pytest.mark.parametrize("policy,line", [("color,translate", "did you mean 'translation'"), ("colour", "did you mean 'color'"),
                                         ("cutout,cutout", "twice")])
def test_a_wrong_policy_is_named(policy, line):
    with pytest.raises(UsageError, match=line):
        DiffAugment(policy)


@pytest.mark.parametrize("key", ["translation_ratio", "cutout_ratio"])
def test_a_ratio_out_of_range_is_named(key):
    with pytest.raises(UsageError, match=f"{key}=1.5"):
        DiffAugment(**{key: 1.5})


@pytest.mark.parametrize("dtype,tolerance", [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_half_precision_in_and_out(dtype, tolerance):
    T, x = DiffAugment(), images(4, dtype=torch.float32)
    params = T.draw_params(x, Rng(2))
    y = T.transform(x.to(dtype), params)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), T.transform(x, params), rtol=tolerance, atol=tolerance)


# --------------------------------------------------------------------------------------------------------------- the draws


@pytest.mark.parametrize("side,shift", [(32, 4), (128, 16), (256, 32)])
def test_ranges_and_means(side, shift):
    n = 20000
    params = DiffAugment().draw_params(torch.empty(n, 3, side, side, device="meta"), Rng(0))
    for name, low, high in (("brightness", -0.5, 0.5), ("saturation", 0, 2), ("contrast", 0.5, 1.5)):
        value = params[name]
        assert value.shape == (n,) and low <= value.min() < low + 0.01 and high - 0.01 < value.max() < high
        assert abs(value.mean() - (low + high) / 2) < 0.02 and abs(value.std() - (high - low) / 12 ** 0.5) < 0.01
    for name, low, high in (("translation", -shift, shift), ("cutout", 0, side)):
        for axis in params[name].T:
            counts = torch.bincount(axis - low)
            assert (axis.min(), axis.max()) == (low, high) and len(counts) == high - low + 1
            expected = n / len(counts)
            assert ((counts - expected) ** 2 / expected).sum() < len(counts) + 5 * (2 * len(counts)) ** 0.5        # chi-squared


def test_odd_cutout_has_no_extra_offset():
    offsets = DiffAugment("cutout").draw_params(torch.empty(4000, 1, 5, 16, device="meta"), Rng(0))["cutout"]
    assert (offsets.amin(0).tolist(), offsets.amax(0).tolist()) == ([0, 0], [4, 16])


def test_parameters_of_an_image_are_independent():
    params = DiffAugment().draw_params(torch.empty(20000, 3, 32, 32, device="meta"), Rng(3))
    columns = torch.stack([*(params[k] for k in ("brightness", "saturation", "contrast")), *params["translation"].T, *params["cutout"].T])
    assert (torch.corrcoef(columns.double()) - torch.eye(7)).abs().max() < 0.03


@pytest.mark.parametrize("side", [32, 128])
def test_mean_area_of_the_cutout(side):
    q = side // 2
    share = sum(min(u + q // 2, side) - max(u - q // 2, 0) for u in range(side + 1)) / (side + 1) / side
    assert share ** 2 == pytest.approx(0.19, abs=0.005)
    y = DiffAugment("cutout").draw(torch.ones(3000, 1, side, side), Rng(1)).image
    assert (y == 0).float().mean() == pytest.approx(share ** 2, abs=0.005)


def test_draws_follow_the_documented_order():
    x, rng = images(5), Rng(11)
    params = DiffAugment("cutout,color,translation").draw_params(x, Rng(11))
    assert list(params) == ["cutout", "brightness", "saturation", "contrast", "translation"]
    assert torch.equal(params["cutout"], torch.stack([rng.randint(9, 5), rng.randint(9, 5)], 1))
    assert torch.equal(params["brightness"], rng.rand(5) - 0.5)
    assert torch.equal(params["saturation"], rng.rand(5) * 2)
    assert torch.equal(params["contrast"], rng.rand(5) + 0.5)
    assert torch.equal(params["translation"], torch.stack([rng.randint(3, 5) - 1, rng.randint(3, 5) - 1], 1))


def test_a_random_order_is_drawn_for_each_call_and_is_that_of_its_operators():
    x, T, seen = images(4), DiffAugment("color,translation", order="random"), {}
    for seed in range(200):
        out, order = T.draw(x, Rng(seed), {"small": x}), T.draw_order(Rng(seed))
        by_hand = x.clone()
        for name in order:
            params = {"brightness": torch.zeros(4), "saturation": torch.ones(4), "contrast": torch.ones(4)} | {name: out.params[name]}
            by_hand = by_definition(by_hand, params, "translation" if name == "translation" else "color")
        torch.testing.assert_close(out.image, by_hand, rtol=0, atol=1e-12)
        seen[order] = seen.get(order, 0) + 1
        assert all(torch.equal(v, out.params[k]) for k, v in DiffAugment("color,translation").draw(x, Rng(seed)).params.items())
    assert len(seen) == 24 and max(seen.values()) < 25, seen                 # 200 / 24 = 8 each
    assert DiffAugment().draw_order(Rng(1)) == ("color", "translation", "cutout")
    half = T.draw(x.bfloat16(), Rng(1)).image
    assert half.dtype == torch.bfloat16 and (half.double() - T.draw(x, Rng(1)).image).abs().max() < 0.05


@pytest.mark.parametrize("T", [DiffAugment(), DiffAugment(order="random"), Flip()])
def test_micro_batches_see_their_rows_of_the_whole_batch(T):
    x, small = images(8), images(8, height=4, width=4)
    whole = T.draw(x, Rng(5, batch=8, slots=range(0, 8)), {"small": small})
    for slots in (range(0, 2), range(2, 7), range(7, 8)):
        rows = slice(slots.start, slots.stop)
        part = T.draw(x[rows], Rng(5, batch=8, slots=slots), {"small": small[rows]})
        torch.testing.assert_close(part.image, whole.image[rows], rtol=0, atol=1e-14)
        torch.testing.assert_close(part.extra["small"], whole.extra["small"][rows], rtol=0, atol=1e-14)
        assert all(torch.equal(part.params[k], whole.params[k][rows]) for k in whole.params)


@pytest.mark.parametrize("impl", IMPLS)
def test_an_image_does_not_depend_on_the_others(impl):
    T, x = DiffAugment(impl=impl), images(4)
    params = T.draw_params(x, Rng(4))
    y = T.transform(x, params)
    x[0], x[3] = float("nan"), float("inf")
    z = T.transform(x, params)
    assert torch.equal(y[1:3], z[1:3])


def test_further_scales_have_draws_of_their_own():
    big, small = images(64, height=32, width=32), images(64, height=16, width=16)
    out = DiffAugment("translation").draw(big, Rng(6), {"small": small})
    assert set(out.params) == {"translation", "small.translation"}
    assert torch.equal(out.params["translation"], DiffAugment("translation").draw(big, Rng(6)).params["translation"])
    assert torch.equal(out.params["small.translation"], DiffAugment("translation").draw_params(small, Rng(6).fork("small"))["translation"])
    assert out.params["translation"].abs().max() == 4 and out.params["small.translation"].abs().max() == 2
    assert (out.params["translation"].sign() != out.params["small.translation"].sign()).float().mean() > 0.4
    expected = by_definition(small, {"translation": out.params["small.translation"]}, "translation")
    assert torch.equal(out.extra["small"], expected)


def test_plain_module_draws_from_torchs_own_generator():
    T, x = DiffAugment(), images()
    assert isinstance(T, Augment)
    torch.manual_seed(1)
    a = T(x)
    b = T(x)
    torch.manual_seed(1)
    assert torch.equal(a, T(x)) and not torch.equal(a, b)


# ----------------------------------------------------------------------------------------------------------- the gradients


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("policy", ["color", ALL])
def test_gradients(impl, policy):
    T, x = DiffAugment(policy, impl=impl), images(2, 3, 5, 4).requires_grad_()
    params = T.draw_params(x, Rng(9))
    assert gradcheck(lambda t: T.transform(t, params), x)
    assert gradgradcheck(lambda t: T.transform(t, params).sin(), x)


@pytest.mark.parametrize("policy", ORDERS)
def test_fast_and_reference_agree_to_second_order(policy):
    """A gradient penalty through T on a curved function: the value, its gradient, and the gradient of that one's norm."""
    results = []
    for impl in IMPLS:
        T, x = DiffAugment(policy, impl=impl), images(4, 3, 12, 10).requires_grad_()
        y = T.transform(x, T.draw_params(x, Rng(8)))
        (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        (h,) = torch.autograd.grad(g.square().sum(), x)
        results.append((y, g, h))
    for fast, ref in zip(*results):
        torch.testing.assert_close(fast, ref, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")      # the compiler's own, for any autograd.Function
def test_one_graph_for_the_compiler():
    T, x = DiffAugment(), images(2, dtype=torch.float32).requires_grad_()
    params = T.draw_params(x, Rng(1))
    y, z = T.transform(x, params), torch.compile(T.transform, fullgraph=True, backend="aot_eager")(x, params)
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(*(torch.autograd.grad(t.sin().sum(), x)[0] for t in (y, z)))


# ------------------------------------------------------------------------------------------------------------ the others


def test_flip():
    x, T = images(2000, 1, 2, 4), Flip()
    out = T.draw(x, Rng(0), {"small": x})
    flipped = out.params["flip"]
    assert 0.46 < flipped.double().mean() < 0.54
    assert torch.equal(out.image[flipped], x[flipped].flip(3)) and torch.equal(out.image[~flipped], x[~flipped])
    assert 0.4 < (out.params["small.flip"] != flipped).double().mean() < 0.6
    assert torch.equal(Flip(0.0)(x), x) and torch.equal(Flip(1.0)(x), x.flip(3))
    with pytest.raises(UsageError, match="probability=2"):
        Flip(2)


def test_none_is_the_identity():
    x = images()
    out = NoAugment().draw(x, Rng(0), {"small": x})
    assert out.image is x and out.extra["small"] is x and NoAugment()(x) is x


@pytest.mark.parametrize("kind", ["augment", "losses", "terms"])
def test_classes_are_offered_by_name(kind):
    room = __import__(f"handful.{kind}", fromlist=["x"])
    for name in catalog.names(kind):
        cls = catalog.load(kind, name)
        assert getattr(room, cls.__name__) is cls and cls.__name__ in dir(room)
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = room.Nonsense


def test_a_misspelt_class_names_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'DiffAugment'"):
        _ = handful.augment.DiffAug


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8)])
def test_what_is_no_batch_of_images_is_refused(images):
    with pytest.raises(UsageError, match=r"DiffAugment takes images \[B,C,H,W\]"):
        DiffAugment()(images)
