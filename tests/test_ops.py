"""Layers and fast operators against their plain twins."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from handful.nn.conv import Conv2d, Embedding, ToMap, ToVector, UpConv2d
from handful.nn.excite import SkipExcite, pool_to
from handful.nn.norm import BatchNorm2d
from handful.nn.spectral import Spectral
from handful.ops.memory import keep_freed_memory
from handful.ops.upconv import FOLD_FROM, folded, upconv


def f64(*shape: int, seed: int = 0, grad: bool = True) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


# ------------------------------------------------------------------------------------------------------- upsampled convolution


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 3), (2, 7)])
def test_folded_upconv_equals_the_plain_one(size):
    x, w = f64(2, 3, *size), f64(5, 3, 3, 3, seed=1)
    fast, ref = upconv(x, w, impl="fast"), upconv(x, w, impl="ref")
    assert ref.shape == (2, 5, 2 * size[0], 2 * size[1])
    assert torch.allclose(fast, ref, atol=1e-12)
    g = torch.randn_like(ref)
    for a, b in zip(torch.autograd.grad(fast, (x, w), g), torch.autograd.grad(ref, (x, w), g)):
        assert torch.allclose(a, b, atol=1e-12)


def test_folded_upconv_to_second_order():
    x, w = f64(2, 2, 3, 2), f64(2, 2, 3, 3, seed=1)
    fast = lambda x, w: upconv(x, w, impl="fast")
    assert gradcheck(fast, (x, w)) and gradgradcheck(fast, (x, w))

    def penalty(impl):
        g, = torch.autograd.grad(upconv(x, w, impl=impl).sin().sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), (x, w))

    for a, b in zip(penalty("fast"), penalty("ref")):
        assert torch.allclose(a, b, atol=1e-12)


def test_folded_kernel_is_the_kernel_summed_over_the_box():
    w = torch.zeros(1, 1, 3, 3)
    w[0, 0, 1, 1] = 1                                            # the identity: upsampling itself, a 2x2 box
    assert folded(w)[0, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_small_maps_stay_plain(monkeypatch):
    used = []
    real = F.conv_transpose2d
    monkeypatch.setattr(F, "conv_transpose2d", lambda *a, **k: used.append(1) or real(*a, **k))
    w = torch.randn(2, 2, 3, 3)
    upconv(torch.randn(FOLD_FROM // 16 - 1, 2, 4, 4), w)
    assert not used
    upconv(torch.randn(FOLD_FROM // 16, 2, 4, 4), w)
    assert used


# ---------------------------------------------------------------------------------------------------------- spectral norm


def torch_twin(ours: Spectral, plain: nn.Module, dim: int | None = None) -> nn.Module:
    """torch's hook on a plain layer, with the same weights and vectors."""
    plain.weight.data.copy_(ours.weight.data.reshape(plain.weight.shape))
    plain = nn.utils.spectral_norm(plain, dim=dim)
    plain.weight_u.copy_(ours.u)
    plain.weight_v.copy_(ours.v)
    return plain


def layers():
    torch.manual_seed(0)
    yield "conv", Conv2d(3, 4, 3, 1, 1), nn.Conv2d(3, 4, 3, 1, 1, bias=False), torch.randn(2, 3, 6, 6), lambda x: x
    yield "conv, the input is smaller", Conv2d(16, 32, 4, 2, 1), nn.Conv2d(16, 32, 4, 2, 1, bias=False), torch.randn(2, 16, 2, 2), lambda x: x
    yield "to map", ToMap(6, 5, 4), nn.ConvTranspose2d(6, 5, 4, bias=False), torch.randn(2, 6), lambda x: x[:, :, None, None]
    yield "to vector", ToVector(3, 7, 4), nn.Conv2d(3, 7, 4, bias=False), torch.randn(2, 3, 4, 4), lambda x: x
    up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2, 3, 3, 1, 1, bias=False))
    yield "upconv", UpConv2d(2, 3), up, torch.randn(2, 2, 4, 4), lambda x: x


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("name,ours,plain,x,shaped", list(layers()), ids=lambda v: v if isinstance(v, str) else "")
def test_spectral_norm_is_torchs(name, ours, plain, x, shaped):
    """Outputs, gradients and vectors over several training forwards, several forwards before one backward, then evaluation."""
    inner = plain[1] if isinstance(plain, nn.Sequential) else plain
    torch_twin(ours, inner, dim=1 if isinstance(inner, nn.ConvTranspose2d) else None)
    x = x.requires_grad_()
    for _ in range(3):
        a = [ours(x), ours(x * 0.5)]                                    # as D on reals, then on fakes
        b = [plain(shaped(x)), plain(shaped(x * 0.5))]
        assert all(torch.allclose(p, q.reshape(p.shape), rtol=1e-4, atol=1e-5) for p, q in zip(a, b))
        ga = torch.autograd.grad(sum(p.sin().sum() for p in a), (x, ours.weight))
        gb = torch.autograd.grad(sum(q.sin().sum() for q in b), (x, inner.weight_orig))
        for p, q in zip(ga, gb):
            assert torch.allclose(p, q.reshape(p.shape), rtol=1e-4, atol=1e-4)
        assert torch.allclose(ours.u, inner.weight_u, atol=1e-5) and torch.allclose(ours.v, inner.weight_v, atol=1e-5)
    ours.eval(), plain.eval()
    u = ours.u.clone()
    assert torch.allclose(ours(x), plain(shaped(x)).reshape(ours(x).shape), rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.u, u)


def test_spectral_norm_finds_the_largest_singular_value():
    torch.manual_seed(0)
    layer = Conv2d(4, 6, 3)
    for _ in range(200):
        sigma = layer.sigma()
    assert sigma.item() == pytest.approx(torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item(), rel=1e-4)


@pytest.mark.parametrize("shape", [(2, 2, 2, 2), (1, 2, 8, 8)])           # the input smaller than the weights, and larger
def test_spectral_norm_to_second_order(shape):
    torch.manual_seed(0)
    layer = Conv2d(2, 3, 3, 1, 1, init=1.0).double()
    layer.eval()                                                          # the iteration is not part of the function
    f = lambda x, w: torch.func.functional_call(layer, {"weight": w}, x)
    x, w = f64(*shape), f64(3, 2, 3, 3, seed=1)
    assert gradcheck(f, (x, w)) and gradgradcheck(f, (x, w))


def test_spectral_state_is_named_plainly_and_autocast_leaves_sigma_alone():
    layer = Conv2d(4, 4, 3, padding=1)
    assert set(layer.state_dict()) == {"weight", "u", "v"}
    assert set(Conv2d(4, 4, 3, norm="none").state_dict()) == {"weight"}
    twin = copy.deepcopy(layer)
    layer(torch.randn(1, 4, 8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = twin(torch.randn(1, 4, 8, 8))
    assert out.dtype == torch.bfloat16 and twin.u.dtype == torch.float32 and torch.equal(layer.u, twin.u)
    with pytest.raises(ValueError, match="norm must be"):
        Conv2d(4, 4, 3, norm="weight")


def test_embedding_rows():
    layer = Embedding(5, 3, norm="none")
    assert torch.equal(layer(torch.tensor([4, 0])), layer.weight[[4, 0]])
    assert Embedding(5, 3)(torch.tensor([1, 1])).shape == (2, 3)


# ---------------------------------------------------------------------------------------------------- batch norm, excitation


def test_batch_norm_without_processes_is_torchs():
    torch.manual_seed(0)
    ours, theirs = BatchNorm2d(3, sync=True), nn.BatchNorm2d(3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours.running_var, theirs.running_var)
    untracked = BatchNorm2d(3, track=False).eval()
    assert not list(untracked.buffers())
    assert untracked(x).detach().std().item() == pytest.approx(1, abs=0.1)


TWO = """
import sys, torch, torch.distributed as dist
from handful.nn.norm import BatchNorm2d
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
x = torch.randn(4, 3, 5, 5) * 2 + 7
ours, whole = BatchNorm2d(3, sync=True), torch.nn.BatchNorm2d(3)
whole.load_state_dict(ours.state_dict())
mine = x[2 * rank:2 * rank + 2].clone().requires_grad_()
x.requires_grad_()
def loss(y): return y.sin().mean()
def penalty(y, x): return torch.autograd.grad(loss(y), x, create_graph=True)[0].square().sum()
y, z = ours(mine), whole(x)
assert torch.allclose(y, z[2 * rank:2 * rank + 2])
for k in ("running_mean", "running_var"): assert torch.allclose(getattr(ours, k), getattr(whole, k)), k
# The mean over ranks of the gradients is the gradient of the mean loss, first and second order.
for f, scale in ((loss, 1), (lambda y: penalty(y, mine), 4)):
    g = torch.autograd.grad(f(y), list(ours.parameters()), retain_graph=True)
    h = torch.autograd.grad((loss(z) if scale == 1 else penalty(z, x)), list(whole.parameters()), retain_graph=True)
    for a, b in zip(g, h):
        dist.all_reduce(a)
        assert torch.allclose(a / 2 if scale == 1 else a, b * scale), (scale, a, b)
print("same")
from handful.training import distributed
distributed.leave()
"""


def test_synchronised_batch_norm_of_two_processes_is_one(tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    runs = [subprocess.Popen([sys.executable, "-c", TWO, str(rank), str(tmp_path)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True) for rank in range(2)]
    for out in [run.communicate(timeout=120)[0] for run in runs]:
        assert "same" in out, out


def test_skip_excitation_is_its_formula():
    torch.manual_seed(0)
    for activation, act in (("swish", F.silu), ("leaky_relu", lambda x: F.leaky_relu(x, 0.2))):
        sle = SkipExcite(3, 5, activation=activation, norm="none")
        for m in (sle.squeeze, sle.excite):
            nn.init.normal_(m.weight)
        low, high = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 16, 16)
        gate = torch.sigmoid(F.conv2d(act(F.conv2d(F.adaptive_avg_pool2d(low, 4), sle.squeeze.weight)), sle.excite.weight))
        assert torch.allclose(sle(low, high), high * gate, atol=1e-6)


@pytest.mark.parametrize("side", [4, 8, 10, 2])
def test_pool_to_is_adaptive_pooling(side):
    x = torch.randn(2, 3, side, side)
    assert torch.allclose(pool_to(x, 4), F.adaptive_avg_pool2d(x, 4), atol=1e-6)


def test_keeping_freed_memory_is_harmless():
    assert keep_freed_memory() == keep_freed_memory()
    assert torch.ones(2 ** 24).sum() == 2 ** 24
