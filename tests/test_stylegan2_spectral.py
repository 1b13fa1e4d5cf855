"""Spectral norm as an option of StyleGAN2's discriminator: which layers have it, and that it is the plain network with weights W / sigma(W)."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import functional_call

from handful.arch.stylegan2 import Discriminator
from making import noise_set, run_steps, tiny_trainer, weights

TINY = {"resolution": 16, "channel_base": 64, "channel_max": 8}
NORMALISED = {"b16.conv0", "b16.conv1", "b8.conv0", "b8.conv1", "b4.conv"}


def pair(architecture: str = "resnet") -> tuple[Discriminator, Discriminator]:
    """A discriminator without and one with spectral norm, of the same weights."""
    torch.manual_seed(0)
    plain = Discriminator(**TINY, architecture=architecture).double()
    spectral = Discriminator(**TINY, architecture=architecture, norm="spectral").double()
    assert not spectral.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    return plain, spectral


def divided(plain: Discriminator, spectral: Discriminator) -> dict[str, torch.Tensor]:
    """The parameters with which `plain` computes what `spectral` does, differentiable by the parameters of `spectral`."""
    params = dict(spectral.named_parameters())
    for name in NORMALISED:
        w, m = params[f"{name}.weight"], spectral.get_submodule(name)
        params[f"{name}.weight"] = w / (m.u @ w.flatten(1) @ m.v) * math.sqrt(w[0].numel())      # the plain network divides by the root of fan_in
    return params


@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
def test_it_is_the_plain_network_with_divided_weights_up_to_second_order(architecture):
    plain, spectral = pair(architecture)
    assert {n.removesuffix(".u") for n in spectral.state_dict() if n.endswith(".u")} == NORMALISED
    assert set(plain.state_dict()) == {n for n in spectral.state_dict() if not n.endswith((".u", ".v"))}
    spectral.eval()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    found = []
    for logits in (spectral(x).logits, functional_call(plain, divided(plain, spectral), x).logits):
        grad, = torch.autograd.grad(logits.sum(), x, create_graph=True)
        by_weights = torch.autograd.grad(grad.square().sum(), [spectral.b16.conv0.weight, spectral.b4.conv.weight, spectral.stem.weight])
        found.append((logits, grad, *by_weights))
    for a, b in zip(*found):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_many_steps_of_power_iteration_find_a_spectral_norm_of_one():
    _, spectral = pair()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(300):
            spectral(x)
    for name in NORMALISED:
        m = spectral.eval().get_submodule(name)
        assert torch.linalg.matrix_norm((m.weight / m.sigma()).detach().flatten(1), 2).item() == pytest.approx(1, abs=1e-3)
    before = m.u.clone()
    spectral(x)
    assert torch.equal(before, m.u)                                             # evaluation moves nothing


def test_without_it_nothing_is_different():
    torch.manual_seed(3)
    a = Discriminator(**TINY)
    after = torch.rand(())
    torch.manual_seed(3)
    b = Discriminator(**TINY, norm="none")
    assert after == torch.rand(()) and all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(a(x).logits, b(x).logits)


def test_it_trains_with_r1_and_resumes_bit_for_bit():
    def trainer():
        return tiny_trainer("terms.r1.gamma=1", "terms.r1.every=2", "d.norm=spectral", dataset=noise_set(8),
                            g={"use": "stylegan2", "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64, "channel_max": 8},
                            d={"use": "stylegan2", "channel_base": 64, "channel_max": 8})
    straight, first, second = trainer(), trainer(), trainer()
    run_steps(straight, 4)
    second.load_state_dict(run_steps(first, 2).state_dict())
    assert torch.equal(weights(run_steps(second, 2)), weights(straight)) and torch.isfinite(weights(straight)).all()
