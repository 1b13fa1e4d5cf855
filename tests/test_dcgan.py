"""DCGAN: the usual parameter counts, equality with plain torch layers, spectral norm in place of batch norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handful.arch.dcgan import Discriminator, Generator
from handful.errors import UsageError
from handful.nn.spectral import Spectral
from handful.rng import Rng


def test_parameter_counts_at_64_are_the_usual_ones():
    with torch.device("meta"):
        assert [sum(p.numel() for p in n.parameters()) for n in (Generator(64), Discriminator(64))] == [3_576_704, 2_765_568]


@pytest.mark.parametrize("resolution, stages", [(32, 2), (64, 3), (128, 4)])
def test_generator_equals_plain_layers(resolution, stages):
    torch.manual_seed(0)
    G = Generator(resolution, width=4, z_dim=7)
    widths = [4 * resolution // (2 * s) for s in (4, 8, 16, 32, 64) if s < resolution]
    layers = [nn.ConvTranspose2d(7, widths[0], 4, bias=False)]
    for a, b in zip(widths, widths[1:]):
        layers += [nn.BatchNorm2d(a), nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False)]
    plain = nn.Sequential(*layers, nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1, bias=False), nn.Tanh())
    convs = [m for m in plain if isinstance(m, nn.ConvTranspose2d)]
    for mine, its in zip((G.first, *G.up, G.to_image), convs, strict=True):
        its.weight.data.copy_(mine.weight)
        assert mine.weight.std().item() == pytest.approx(0.02, rel=0.4)
    for mine, its in zip(G.norms, (m for m in plain if isinstance(m, nn.BatchNorm2d)), strict=True):
        its.load_state_dict(mine.state_dict())
    z = torch.randn(3, 7)
    assert len(G.up) == stages
    assert torch.allclose(G(z, rng=Rng(0)).image, plain(z[:, :, None, None]), atol=1e-5)
    assert torch.allclose(G.eval()(z, rng=Rng(0)).image, plain.eval()(z[:, :, None, None]), atol=1e-5)


def test_discriminator_equals_plain_layers_without_batch_norm_in_the_first():
    torch.manual_seed(0)
    D = Discriminator(64, width=4)
    plain = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.LeakyReLU(0.2), *(
        m for w in (4, 8, 16) for m in (nn.Conv2d(w, 2 * w, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * w), nn.LeakyReLU(0.2))),
        nn.Conv2d(32, 1, 4, bias=False))
    for mine, its in zip((D.stem, *D.down), (m for m in plain if isinstance(m, nn.Conv2d))):
        its.weight.data.copy_(mine.weight)
    plain[-1].weight.data.copy_(D.to_logit.weight)
    for mine, its in zip(D.norms, (m for m in plain if isinstance(m, nn.BatchNorm2d)), strict=True):
        its.load_state_dict(mine.state_dict())
    x = torch.randn(5, 3, 64, 64)
    judged = D(x, want=frozenset({"pre_logits", "map_32"}))
    assert torch.allclose(judged.logits, plain(x).flatten(), atol=1e-5) and D.has_batch_stats
    assert torch.allclose(judged.features["map_32"], F.leaky_relu(F.conv2d(x, D.stem.weight, None, 2, 1), 0.2), atol=1e-6)
    assert judged.features["pre_logits"].shape == (5, 32, 4, 4)


def test_spectral_norm_takes_the_place_of_batch_norm():
    D = Discriminator(32, width=8, norm="spectral", num_classes=3)
    assert not D.has_batch_stats and not any(isinstance(m, nn.BatchNorm2d) for m in D.modules())
    x = torch.randn(6, 3, 32, 32)
    c = torch.arange(6) % 3
    with torch.no_grad():
        for _ in range(300):
            D(x, c)
    layers = [m for m in D.eval().modules() if isinstance(m, Spectral)]
    assert len(layers) == 5
    for m in layers:
        assert torch.linalg.matrix_norm((m.weight / m.sigma()).detach().flatten(1), 2).item() == pytest.approx(1, abs=2e-3)
    assert torch.allclose(D(x, c).logits[:2], D(x[:2], c[:2]).logits, atol=1e-5)           # no image depends on the others


def test_classes_enter_both_networks():
    G, D = Generator(32, width=4, num_classes=3).eval(), Discriminator(32, width=4, num_classes=3).eval()
    z, x = torch.randn(2, 100), torch.randn(2, 3, 32, 32)
    a, b = torch.tensor([0, 1]), torch.tensor([2, 1])
    first, second = G(z, a, rng=Rng(0)), G(z, b, rng=Rng(0))
    assert not torch.equal(first.image[0], second.image[0]) and torch.equal(first.image[1], second.image[1])
    assert torch.equal(first.latent, z + G.embed(a)) and torch.equal(first.z, z)
    one, two = D(x, a).logits, D(x, b).logits
    assert one[0] != two[0] and one[1] == two[1]
    with pytest.raises(UsageError, match="num_classes=3: it needs the classes"):
        G(z, rng=Rng(0))


def test_other_sizes_are_refused():
    for net in (Generator, Discriminator):
        with pytest.raises(UsageError, match="resolution=48: DCGAN makes square pictures of 32, 64 or 128"):
            net(48)
