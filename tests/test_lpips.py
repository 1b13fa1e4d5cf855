"""LPIPS: its wiring on made-up weights, and the pretrained networks where they are cached (the tests never download)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from handful.errors import HandfulError, UsageError
from handful.features import LPIPS, _winograd, available

PANDAS = Path(__file__).parents[1].parent / "shared" / "data" / "panda-faces-100.zip"


@pytest.fixture(scope="module")
def made_up():
    torch.manual_seed(0)
    net = LPIPS()
    for head in net.heads:
        head.data.uniform_(0, 1)
    return net


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def definition(net: LPIPS, a: torch.Tensor, b: torch.Tensor, pools: tuple[int, ...], taps: tuple[int, ...]) -> torch.Tensor:
    """The definition, layer by layer, as plainly as it can be written (VGG16)."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total, head = torch.zeros(len(a)), iter(net.heads)
    x, y = ((p - shift[:, None, None]) / scale[:, None, None] for p in (a, b))
    for i, conv in enumerate(net.convs):
        if i in pools:
            x, y = F.max_pool2d(x, 2, 2), F.max_pool2d(y, 2, 2)
        x, y = (F.relu(F.conv2d(p, conv.weight, conv.bias, padding=1)) for p in (x, y))
        if i in taps:
            u, v = (p / ((p**2).sum(1, keepdim=True).sqrt() + 1e-10) for p in (x, y))
            total = total + ((u - v) ** 2 * next(head)[:, None, None]).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize("impl", ["fast", "ref"])
@pytest.mark.parametrize("size", [(32, 32), (16, 16), (37, 50)])
def test_it_is_the_definition(made_up, impl, size):
    net = LPIPS(impl=impl)
    net.load_state_dict(made_up.state_dict())
    a, b = pictures(2, 3, *size), pictures(2, 3, *size, seed=1)
    expected = definition(net, a, b, pools=(2, 4, 7, 10), taps=(1, 3, 6, 9, 12))
    torch.testing.assert_close(net(a, b), expected, rtol=1e-4, atol=1e-6)


def test_shapes_of_the_networks():
    sizes = {net: [tuple(head.shape) for head in LPIPS(net).heads] for net in ("vgg16", "alexnet")}
    assert sizes == {"vgg16": [(64,), (128,), (256,), (512,), (512,)], "alexnet": [(64,), (192,), (384,), (256,), (256,)]}
    assert sum(p.numel() for n, p in LPIPS().named_parameters() if n.startswith("convs")) == 14_714_688  # VGG16 without its classifier


def test_frozen_and_in_eval_mode_inside_a_training_module(made_up):
    whole = torch.nn.Sequential(made_up)
    whole.train().requires_grad_()
    assert not made_up.training and not any(m.training for m in made_up.modules())
    made_up.requires_grad_()
    assert not any(p.requires_grad for p in made_up.parameters())


def test_targets_shared_equal_direct(made_up):
    a, b = pictures(3, 3, 32, 32), pictures(3, 3, 32, 32, seed=1)
    targets = made_up.targets(b.requires_grad_())
    assert not any(t.requires_grad for t in targets)
    torch.testing.assert_close(made_up.forward_targets(a, targets), made_up(a, b))
    two = made_up.forward_targets(torch.cat([a, b.detach()]), tuple(torch.cat([t, t]) for t in targets))  # one pass for several groups
    torch.testing.assert_close(two[:3], made_up(a, b))
    assert two[3:].max() < 1e-10


def test_grey_is_repeated(made_up):
    a, b = pictures(2, 1, 32, 32), pictures(2, 1, 32, 32, seed=1)
    torch.testing.assert_close(made_up(a, b), made_up(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)))


def test_autocast_rounds_the_convolutions_alone(made_up):
    a, b = pictures(1, 3, 16, 16).requires_grad_(), pictures(1, 3, 16, 16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = made_up(a, b)
        assert made_up(b, b) < 1e-12
    found.sum().backward()
    assert found.dtype == torch.float32 and a.grad.isfinite().all()
    torch.testing.assert_close(found, made_up(a, b), rtol=0.05, atol=0)


@pytest.mark.parametrize("impl", ["fast", "ref"])
def test_gradient(impl):
    torch.manual_seed(1)
    net = LPIPS(impl=impl).double()
    a, b = pictures(1, 3, 16, 17).double(), pictures(1, 3, 16, 17, seed=1).double()
    targets = net.targets(b)
    assert torch.autograd.gradcheck(lambda x: net.forward_targets(x, targets), a.requires_grad_(), fast_mode=True, eps=1e-7)


def test_gradient_is_finite_where_all_features_are_zero():
    net = LPIPS()
    for conv in net.convs:
        conv.bias.data.fill_(-100)
    a = pictures(1, 3, 16, 16).requires_grad_()
    net(a, pictures(1, 3, 16, 16, seed=1)).sum().backward()
    assert a.grad.isfinite().all()


@pytest.mark.parametrize(("h", "w"), [(8, 8), (9, 14), (5, 4), (16, 13)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_winograd_equals_the_plain_convolution(h, w, layout):
    torch.manual_seed(0)
    x = torch.randn(3, 5, h, w, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight, bias = torch.randn(7, 5, 3, 3, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    fast, plain = _winograd.conv3x3(x, _winograd.transform(weight), bias), F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(plain)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, grad)[0] for y in (fast, plain)), rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradgradcheck(lambda x: _winograd.conv3x3(x, _winograd.transform(weight), bias).square(), x, fast_mode=True)


def test_weights_loaded_later_reach_the_fast_path(made_up):
    net, a, b = LPIPS(), pictures(1, 3, 32, 32), pictures(1, 3, 32, 32, seed=1)
    net(a, b)
    net.load_state_dict(made_up.state_dict())
    torch.testing.assert_close(net(a, b), made_up(a, b))


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [((1, 3, 15, 32), (1, 3, 15, 32), "at least 16x16"), ((1, 4, 32, 32), (1, 4, 32, 32), "B,3,H,W"), ((1, 3, 32, 32), (1, 3, 16, 16), "one shape")],
)
def test_wrong_pictures(made_up, a, b, said):
    with pytest.raises(UsageError, match=said):
        made_up(torch.zeros(a), torch.zeros(b))


def test_unknown_network():
    with pytest.raises(UsageError, match="did you mean 'vgg16'"):
        LPIPS("vgg")


def test_absent_weights_name_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    with pytest.raises(HandfulError, match="handful weights get lpips"):
        LPIPS.load()


needs = {
    net: pytest.mark.skipif(not available(name), reason=f"the pretrained weights are absent: handful weights get {name}")
    for net, name in (("vgg16", "lpips"), ("alexnet", "lpips_alexnet"))
}


@pytest.mark.parametrize("impl", ["fast", "ref"])
@pytest.mark.parametrize(
    ("net", "noise", "near", "odd"),
    [
        pytest.param("vgg16", [0.32883993, 0.34115553], [0.00705512, 0.00595390], 0.28628382, marks=needs["vgg16"]),
        pytest.param("alexnet", [0.15244429, 0.09910846], [0.00151081, 0.00168551], 0.07624155, marks=needs["alexnet"]),
    ],
)
def test_values_of_an_independent_implementation(net, impl, noise, near, odd):
    """The constants came from lpips_jax 0.1.0 on jax 0.10.2 (CPU, matmul precision "highest"), given these very arrays."""
    r = np.random.RandomState(0)
    a, b = ((r.rand(2, 64, 64, 3) * 2 - 1).astype(np.float32) for _ in range(2))
    c, d = ((r.rand(1, 50, 37, 3) * 2 - 1).astype(np.float32) for _ in range(2))
    lpips = LPIPS.load(net, impl=impl)
    pairs = (a, b, noise), (a, np.clip(a + 0.1 * b, -1, 1), near), (c, d, [odd])
    for first, second, expected in pairs:
        found = lpips(*(torch.from_numpy(p).permute(0, 3, 1, 2) for p in (first, second)))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@needs["vgg16"]
def test_heads_are_not_negative():
    assert all((head >= 0).all() for head in LPIPS.load().heads)


@needs["vgg16"]
@pytest.mark.skipif(not PANDAS.is_file(), reason=f"{PANDAS.name} is not beside the checkout")
def test_real_pictures_in_the_order_a_person_expects():
    with zipfile.ZipFile(PANDAS) as archive:
        members = [m for m in archive.namelist() if m.lower().endswith((".jpg", ".jpeg", ".png"))][:3]
        images = [Image.open(io.BytesIO(archive.read(m))).convert("RGB").resize((64, 64)) for m in members]
    x = torch.stack([torch.from_numpy(np.array(i)) for i in images]).permute(0, 3, 1, 2) / 127.5 - 1
    lpips, noise = LPIPS.load(), torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    targets = lpips.targets(x)
    distance = lambda y: lpips.forward_targets(y, targets)
    assert distance(x).max() < 1e-10
    torch.testing.assert_close(lpips(x, x.flip(0)), lpips(x.flip(0), x), rtol=1e-5, atol=0)
    noised = [distance((x + s * noise).clamp(-1, 1)) for s in (0.02, 0.05, 0.1, 0.3)]
    blurred = [distance(F.avg_pool2d(x, k, 1, k // 2, count_include_pad=False)) for k in (3, 5, 9)]
    for worse_and_worse in (noised, blurred):
        assert all((a < b).all() for a, b in zip(worse_and_worse, worse_and_worse[1:]))
    assert (distance(x.roll(1, 0)) > blurred[0]).all()  # another panda is further off than a soft one


def test_a_network_made_under_inference_mode_runs():
    with torch.inference_mode():
        a, b = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
        assert torch.isfinite(LPIPS("vgg16")(a, b)).all()
