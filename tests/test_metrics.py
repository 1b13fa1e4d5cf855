"""The mathematics of the metrics: closed forms, scipy, plain double loops, and estimates against repeated draws."""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch

from handful.errors import HandfulError, UsageError
from handful.metrics import FID, KID, Coverage, Density, InceptionScore, Precision, Recall
from handful.metrics import _manifold as manifold
from handful.metrics._frechet import Gaussian, frechet
from handful.metrics._metric import Resources
from handful.metrics._stats import Moments, Splits, Stats, in_first_half
from handful.metrics.kid import kernel, pairs


def normal(n: int, d: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale + shift


def features(n: int, d: int = 2048, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Like Inception's: not negative, of unequal scale, correlated."""
    g = torch.Generator().manual_seed(1000 + d)
    mix = torch.randn(d // 8, d, generator=g) / 8
    return (normal(n, d // 8, seed, scale) @ mix + 0.3 * normal(n, d, seed + 1, scale)).relu() * torch.rand(d, generator=g)


def moments(*sets: torch.Tensor) -> Moments:
    new = Moments(sets[0].shape[1])
    for part in sets:
        new.add(part)
    return new.settle()


# ---------------------------------------------------------------------------------------------------------------- Frechet distance


def scipys(x: torch.Tensor, y: torch.Tensor) -> float:
    """The textbook formula in numpy, with scipy's (complex) matrix square root."""
    x, y = x.double().numpy(), y.double().numpy()
    a, b = (np.cov(s, rowvar=False, bias=True) for s in (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)          # it says of singular products that it may be wrong
        root = scipy.linalg.sqrtm(a @ b)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(root).real)


def test_frechet_of_known_gaussians():
    d = 640                                                  # A and B commute: sum of (sqrt a_i - sqrt b_i)^2
    turn = torch.linalg.qr(normal(d, d, 1).double()).Q
    a, b = (torch.rand(d, generator=torch.Generator().manual_seed(s), dtype=torch.float64) * 4 for s in (2, 3))
    a[100:] = 0                                              # rank 100
    gaussians = []
    for values, mean in ((a, 0.5), (b, 0.25)):
        m = Moments(d)
        m.count, m.sum = 10, torch.full((d,), 10 * mean, dtype=torch.float64)
        m.outer = 10 * ((turn * values) @ turn.T + mean**2)
        gaussians.append(Gaussian(m))
    expected = d * 0.0625 + float((a.sqrt() - b.sqrt()).square().sum())
    assert frechet(*gaussians) == pytest.approx(expected, rel=1e-9)
    assert frechet(*gaussians[::-1]) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("case", ["plenty", "few", "few and plenty", "duplicates", "constant"])
def test_frechet_equals_scipy(case):
    d = 192
    x, y = features(600, d), features(700, d, 5, 1.2)
    if case == "few":
        x, y = x[:50], y[:70]
    elif case == "few and plenty":
        x = x[:40]
    elif case == "duplicates":
        x, y = x[:60].repeat(5, 1), y
    elif case == "constant":
        x[:, ::2], y[:, ::3], x[:, 0] = 0, 0.25, 7.5
    expected = scipys(x, y)
    for a, b in ((x, y), (moments(x[:33], x[33:]), moments(y)), (moments(x), y), (y, x)):
        assert frechet(Gaussian(a), Gaussian(b)) == pytest.approx(expected, rel=2e-5), case
    same = frechet(Gaussian(moments(x)), Gaussian(x))
    assert 0 <= same < 1e-5 * float(Gaussian(x).trace)


@pytest.mark.parametrize("case", ["few", "duplicates", "constant"])
def test_frechet_equals_scipy_at_2048_dimensions(case):
    """tr (A B)^1/2 through scipy's sqrtm of X B X^T / n, which has the eigenvalues of A B that aren't 0, and only as many rows as
    images."""
    x, y = features(120), features(2300, seed=5, scale=1.2)
    if case == "duplicates":
        x = torch.cat([x[:60], x[:60]])
    if case == "constant":
        x[:, ::2] = 1.0
    a, y = (x - x.mean(0)).double().numpy(), y
    b = np.cov(y.double().numpy(), rowvar=False, bias=True)
    root = np.trace(scipy.linalg.sqrtm(a @ b @ a.T / len(a) + 0j)).real
    mean = (x.double().mean(0) - y.double().mean(0)).square().sum()
    expected = float(mean) + (a**2).sum() / len(a) + np.trace(b) - 2 * root
    assert frechet(Gaussian(x), Gaussian(y)) == pytest.approx(expected, rel=1e-6)


def test_identical_pictures_have_no_covariance():
    x, y = features(1, 32).repeat(20, 1), features(50, 32)
    assert frechet(Gaussian(x), Gaussian(x)) == 0
    assert frechet(Gaussian(moments(x.repeat(3, 1))), Gaussian(y)) == pytest.approx(
        float((x[0] - y.mean(0)).square().sum() + y.var(0, correction=0).sum()), rel=1e-5)


def test_moments_stream():
    x = features(1500, 24)
    m = moments(*x.split(37))
    assert m.count == 1500 and torch.allclose(m.mean, x.double().mean(0), rtol=1e-12)
    for ddof in (0, 1):
        assert torch.allclose(m.covariance(ddof), torch.from_numpy(np.cov(x.double().numpy(), rowvar=False, ddof=ddof)), rtol=1e-9, atol=1e-12)
    both = moments(x[:100]) + moments(x[100:])
    assert torch.allclose(both.covariance(), m.covariance(), rtol=1e-9, atol=1e-12) and both.count == 1500


def test_fid_tells_its_bias_and_its_divisor():
    x, y = features(300, 64), features(400, 64, 9)
    found = FID()(x, y)
    half = in_first_half(300)
    assert found["bias"] == pytest.approx(frechet(Gaussian(x[half]), Gaussian(x[~half]))) and found["bias_counts"] == [150, 150]
    assert found["bias"] > found["value"] > 0 and "mostly bias" in found["note"] and "400 samples against 300 reals" in found["protocol"]
    streamed = FID().compute(Stats(halves=(moments(x[half]), moments(x[~half]))), Stats(features=y), Resources())
    assert streamed["value"] == pytest.approx(found["value"], rel=1e-6) and streamed["bias"] == pytest.approx(found["bias"], rel=1e-6)
    assert FID(ddof=1, bias=False)(x, x * 2)["value"] == pytest.approx(FID(bias=False)(x, x * 2)["value"] + float(x.var(0).sum()) / 300, rel=1e-4)


# ------------------------------------------------------------------------------------------------------------------------------ KID


def plain_mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    """The definition, pair by pair, fp64."""
    x, y = x.double(), y.double()
    k = lambda a, b: (float(a @ b) / len(a) + 1) ** 3
    within = [sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1)) for s in (x, y)]
    return sum(within) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def test_kid_is_its_definition():
    x, y = features(23, 16), features(31, 16, 3, 1.3)
    assert KID()(x, y)["value"] == pytest.approx(plain_mmd(x, y), abs=1e-6)
    in_one = KID(way="subsets", subsets=1, subset=23)(x, y[:23])["value"]
    assert in_one == pytest.approx(plain_mmd(x, y[:23]), abs=1e-6)


def test_kid_in_blocks_is_kid():
    x, y = features(300, 128), features(200, 128, 3, 1.1)
    whole, small = (pairs(x, y, Resources(memory_mb=mb)) for mb in (256, 0))
    assert whole == pytest.approx(small, rel=1e-5)
    wide = pairs(x.double(), y.double(), Resources())
    assert whole[0] == pytest.approx(wide[0], abs=1e-7) and whole[1] == pytest.approx(wide[1], rel=1e-3)


def test_kid_of_all_pairs_is_what_subsets_tend_to():
    x, y = features(150, 32), features(180, 32, 3, 1.2)
    exact = KID(way="pairs")(x, y)["value"]
    drawn = KID(way="subsets", subset=50, subsets=2000)(x, y)
    assert drawn["value"] == pytest.approx(exact, abs=3e-3 * abs(exact) + 4 * spread_of_subsets(x, y) / 2000**0.5)


def spread_of_subsets(x: torch.Tensor, y: torch.Tensor) -> float:
    values = [KID(way="subsets", subset=50, subsets=1)(x[i::3], y[i::3])["value"] for i in range(3)]
    return float(np.std(values)) + 1e-3


@pytest.mark.parametrize("scale", [1.0, 1.25], ids=["alike", "apart"])
def test_the_standard_error_of_kid_is_true(scale):
    """300 fresh draws of both sets: their deviation is what one draw says of itself."""
    drawn = [pairs(normal(60, 12, 2 * i), normal(90, 12, 2 * i + 1, scale), Resources()) for i in range(300)]
    values, errors = zip(*drawn)
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.15)
    expected = 0.0 if scale == 1 else np.mean([pairs(normal(400, 12, s), normal(400, 12, s + 50, scale), Resources())[0] for s in range(8)])
    assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / 300**0.5 + 0.02 * expected)       # unbiased
    by_subsets = KID(way="subsets", subset=30)(normal(60, 12, 1), normal(90, 12, 2, scale))["stderr"]
    assert np.std(values) * 0.7 < by_subsets < np.std(values) * 3                                               # an upper bound


def test_kid_chooses_for_the_size():
    assert KID().all_pairs(10_000, 10_000) and not KID().all_pairs(10_001, 10_000) and not KID(way="subsets").all_pairs(5, 5)
    assert "all pairs" in KID().words(100, 5000) and "100 subsets of 1000" in KID().words(50_000, 50_000)
    assert "standard error first" in KID()(features(20, 8), features(60, 8))["note"]
    assert float(kernel(torch.ones(1, 4), torch.ones(1, 4))) == 8
    with pytest.raises(HandfulError, match="at least 2 reals, there is 1"):
        KID()(features(1, 8), features(5, 8))
    with pytest.raises(UsageError, match="way='some'"):
        KID(way="some")


# ------------------------------------------------------------------------------------------- precision, recall, density, coverage


def by_hand(x: torch.Tensor, y: torch.Tensor, k: int) -> dict[str, float]:
    """Straight from the definitions, with sorted lists of distances."""
    x, y = x.double(), y.double()
    d = lambda a, b: (a[:, None] - b[None]).square().sum(-1)
    real, fake, cross = d(x, x).sort(1).values[:, k], d(y, y).sort(1).values[:, k], d(y, x)
    held = cross <= real[None]
    return {"precision": held.any(1).double().mean().item(), "recall": (cross <= fake[:, None]).any(0).double().mean().item(),
            "density": held.sum().item() / (k * len(y)), "coverage": held.any(0).double().mean().item()}


@pytest.mark.parametrize("case", ["plain", "duplicates", "far from zero", "copies", "near duplicates", "few"])
def test_neighbourhoods_are_their_definition(case):
    x, y = normal(120, 24, 1), normal(90, 24, 2, 0.8)
    if case == "duplicates":
        x, y = torch.cat([x[:30]] * 4 + [x]), torch.cat([x[:10], y, y])
    if case == "far from zero":
        x, y = x + 1000, y + 1000
    if case == "copies":
        y = torch.cat([x[:50], y[:40]])
    if case == "near duplicates":                                # within what a product in fp32 tells apart
        x = torch.cat([x, x[:1] + 1e-4 * normal(60, 24, 4)])
        y = torch.cat([y, x[:1] + 1e-4 * normal(60, 24, 5), x[130:150]])
    if case == "few":
        x, y = x[:6], y[:6]
    expected = {k: by_hand(x, y, k) for k in (3, 5)}
    for mb in (256, 0):                                          # 0: a row at a time
        assert manifold.count(x, y, [3, 5], Resources(memory_mb=mb)) == {k: pytest.approx(v, abs=1e-12) for k, v in expected.items()}, case
    for metric, k, name in ((Precision(), 3, "precision"), (Recall(), 3, "recall"), (Density(), 5, "density"), (Coverage(), 5, "coverage")):
        assert metric(x, y)["value"] == pytest.approx(expected[k][name], abs=1e-12)
    both = Precision(with_recall=True)(x, y)
    assert (both["value"], both["recall"]) == pytest.approx((expected[3]["precision"], expected[3]["recall"]))


def test_neighbourhoods_of_known_sets():
    x = normal(400, 16, 1)
    assert Precision()(x, x)["value"] == Recall()(x, x)["value"] == Coverage()(x, x)["value"] == 1
    assert Precision()(x, x + 100)["value"] == Recall()(x, x + 100)["value"] == Density()(x, x + 100)["value"] == 0
    one_mode = x[:1] + 1e-3 * normal(400, 16, 2)                 # faithful, and without variety
    assert Precision()(x, one_mode)["value"] == 1 and Recall()(x, one_mode)["value"] < 0.01 and Coverage()(x, one_mode)["value"] < 0.2
    y = normal(400, 16, 3)
    assert Density()(x, y)["value"] == pytest.approx(1, abs=0.15) and Coverage()(x, y)["value"] == pytest.approx(1 - 2**-5, abs=0.03)
    assert (Precision()(x[:4], y[:9])["value"], Recall()(x[:9], y[:4])["value"]) == pytest.approx(
        (by_hand(x[:4], y[:9], 3)["precision"], by_hand(x[:9], y[:4], 3)["recall"]))
    with pytest.raises(HandfulError, match="at least 4 reals, there are 3"):
        Precision()(x[:3], y)
    with pytest.raises(HandfulError, match="Recall needs at least 4 samples, there are 3"):
        Recall()(x, y[:3])


def test_equal_features_cost_no_more_than_others():
    """2000 times the same picture, as a collapsed generator makes it; before, every pair of them was computed again in fp64."""
    few = features(800, 2048, 7)
    x, y = (torch.cat([few[i:i + 1].expand(2000, -1), few[100 + 200 * i:600 + 200 * i]]) for i in (0, 1))
    y[2001] = y[0]
    start = time.process_time()
    found = manifold.count(x, y, [3, 5], Resources())
    assert time.process_time() - start < 4 and len(x) == len(y) == 2500
    (x, nx), (y, ny) = (s.unique(dim=0, return_counts=True) for s in (x, y))                    # the definition, with each row n times
    assert len(x) == 501 and nx.max() == 2000
    real, fake, cross = (torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist") for a, b in ((x, x), (y, y), (y, x)))
    for k in (3, 5):
        of_real, of_fake = (torch.stack([row.repeat_interleave(n).sort().values[k] for row in d]) for d, n in ((real, nx), (fake, ny)))
        held, caught = cross <= of_real[None], cross <= of_fake[:, None]
        assert found[k] == pytest.approx({
            "precision": int(ny[held.any(1)].sum()) / 2500, "recall": int(nx[caught.any(0)].sum()) / 2500,
            "coverage": int(nx[held.any(0)].sum()) / 2500, "density": float(ny.double() @ held.double() @ nx.double()) / (k * 2500)}, abs=1e-12)


def test_neighbourhoods_work_once_for_all():
    resources, x, y = Resources(), Stats(features=normal(60, 8, 1)), Stats(features=normal(60, 8, 2))
    metrics = [Precision(), Recall(), Density(), Coverage()]
    for m in metrics:
        m.announce(resources, "here")
    looks = []
    resources.progress = lambda done, total: looks.append((done, total))
    values = [m.compute(x, y, resources, "here")["value"] for m in metrics]
    assert looks == [(1, 3), (2, 3), (3, 3)] and values == [m(x.features, y.features)["value"] for m in metrics]


def test_plain_neighbourhoods_take_as_many_fakes_as_reals():
    assert Precision().counts(100, None, None, "precision") == (100, 100) and Recall().counts(270, 100, None, "recall") == (100, 100)
    assert Precision().counts(9000, None, 5000, "precision") == (5000, 5000)
    assert Precision(samples=50_000, max_reals=200_000).counts(300_000, None, 5000, "pr50k3_full") == (200_000, 50_000)
    assert FID().counts(100, None, None, "fid") == (100, 5000) and FID().counts(100, 80, None, "fid") == (100, 80)
    with pytest.raises(HandfulError, match="fid50k_full takes 50000 samples, but there are 80"):
        FID(samples=50_000).counts(100, 80, None, "fid50k_full")


# ------------------------------------------------------------------------------------------------------------------ Inception Score


def test_inception_score_of_known_answers():
    sure = torch.full((200, 10), -60.0)
    sure[torch.arange(200), torch.arange(200) % 10] = 60
    assert InceptionScore()(sure)["value"] == pytest.approx(10) and InceptionScore()(torch.zeros(200, 10))["value"] == pytest.approx(1)


def test_inception_score_is_its_definition():
    logits = normal(107, 12, 4, 2.0)
    p = logits.double().softmax(1).numpy()
    scores = []
    for i in range(10):
        part = p[i * 107 // 10:(i + 1) * 107 // 10]
        scores.append(np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()))
    found = InceptionScore()(logits)
    assert found["value"] == pytest.approx(np.mean(scores)) and found["std"] == pytest.approx(np.std(scores)) and "too low" in found["note"]
    streamed = Splits(107, 12)
    for index in torch.randperm(107, generator=torch.Generator().manual_seed(0)).split(13):       # in any order, in any batches
        streamed.add(index, logits[index])
    assert streamed.scores().numpy() == pytest.approx(np.array(scores))
