"""SNGAN: published parameter counts, equality with plainly written networks, spectral norms of one, second order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from handful.arch.sngan import Discriminator, Generator
from handful.errors import UsageError
from handful.nn.spectral import Spectral
from handful.rng import Rng


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def settle(net: torch.nn.Module, iterations: int = 300) -> torch.nn.Module:
    """Power iterations until sigma is right, then evaluation mode."""
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, Spectral) and m.u is not None:
                for _ in range(iterations):
                    m.sigma(iterate=True)
    return net.eval()


def normalised(m: Spectral) -> torch.Tensor:
    return m.weight / torch.linalg.matrix_norm(m.weight.flatten(1), 2)


@pytest.mark.parametrize("net, parameters", [
    (lambda: Generator(), 4_276_739), (lambda: Discriminator(), 1_053_825),
    (lambda: Generator(form="cnn"), 3_812_355), (lambda: Generator(form="cnn", first_norm=True), 3_828_739),
    (lambda: Discriminator(form="cnn"), 2_935_872), (lambda: Discriminator(form="cnn", doubled=True), 5_860_865)])
def test_parameter_counts_are_the_published_ones(net, parameters):
    with torch.device("meta"):
        assert count(net()) == parameters


def test_the_widths_at_64_and_128():
    with torch.device("meta"):
        G, D, deep = Generator(64), Discriminator(64), Discriminator(128)
    assert [b.conv1.weight.shape[:2] for b in G.up] == [(512, 1024), (256, 512), (128, 256), (64, 128)]
    assert {n: (i.channels, i.resolution) for n, i in D.feature_info.items()} == {
        "map_32": (64, 32), "map_16": (128, 16), "map_8": (256, 8), "map_4": (512, 4), "map_4_2": (1024, 4), "pre_logits": (1024, 0)}
    assert [i.channels for i in deep.feature_info.values()] == [64, 128, 256, 512, 1024, 1024, 1024] and deep.blocks[-1].shortcut is None


@pytest.mark.parametrize("classes", [0, 3])
def test_resnet_generator_equals_a_plain_one(classes):
    torch.manual_seed(0)
    G = Generator(width=8, z_dim=6, num_classes=classes).double()
    c = torch.tensor([0, 2, 1]) if classes else None
    if classes:
        for norm in (n for b in G.up for n in (b.norm1, b.norm2)):
            norm.gain.weight.data.normal_(), norm.shift.weight.data.normal_()

    def norm(x, layer):
        x = F.batch_norm(x, None, None, training=True)
        if classes:
            return x * (1 + layer.gain.weight[c])[:, :, None, None] + layer.shift.weight[c][:, :, None, None]
        return x * layer.norm.weight[:, None, None] + layer.norm.bias[:, None, None]

    def conv(x, layer):
        return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)

    z = torch.randn(3, 6, dtype=torch.float64)
    x = (z @ G.first.weight.t() + G.first.bias).view(3, 8, 4, 4)
    for b in G.up:
        h = conv(F.interpolate(F.relu(norm(x, b.norm1)), scale_factor=2), b.conv1)
        x = conv(F.relu(norm(h, b.norm2)), b.conv2) + conv(F.interpolate(x, scale_factor=2), b.shortcut)
    x = F.batch_norm(x, None, None, G.last_norm.weight, G.last_norm.bias, training=True)
    assert torch.allclose(G(z, c, rng=Rng(0)).image, conv(F.relu(x), G.to_image).tanh(), atol=1e-10)


@pytest.mark.parametrize("classes", [0, 3])
def test_resnet_discriminator_equals_a_plain_one_with_exact_spectral_norms(classes):
    torch.manual_seed(0)
    D = settle(Discriminator(width=8, num_classes=classes).double())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    c = torch.tensor([2, 0]) if classes else None

    def conv(x, layer):
        return F.conv2d(x, normalised(layer), layer.bias, padding=layer.weight.shape[-1] // 2)

    h = F.avg_pool2d(conv(F.relu(conv(x, D.stem.conv1)), D.stem.conv2), 2) + conv(F.avg_pool2d(x, 2), D.stem.shortcut)
    first, *rest = D.blocks
    h = F.avg_pool2d(conv(F.relu(conv(F.relu(h), first.conv1)), first.conv2), 2) + F.avg_pool2d(conv(h, first.shortcut), 2)
    for b in rest:
        h = h + conv(F.relu(conv(F.relu(h), b.conv1)), b.conv2)
    h = F.relu(h).sum((2, 3))
    logits = (h @ normalised(D.to_logit).t() + D.to_logit.bias)[:, 0]
    if classes:
        logits = logits + (normalised(D.embed)[c] * h).sum(1)
    judged = D(x, c, want=frozenset({"pre_logits"}))
    assert torch.allclose(judged.logits, logits, atol=1e-6) and torch.allclose(judged.features["pre_logits"], h, atol=1e-6)


@pytest.mark.parametrize("doubled", [False, True])
def test_cnn_discriminator_equals_a_plain_one(doubled):
    torch.manual_seed(0)
    D = settle(Discriminator(40, width=16, form="cnn", doubled=doubled).double())
    h = x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    for b in (D.stem, *D.blocks):
        h = F.leaky_relu(F.conv2d(h, normalised(b.conv1), b.conv1.bias, padding=1), 0.1)
        h = F.leaky_relu(F.conv2d(h, normalised(b.conv2), b.conv2.bias, stride=2, padding=1), 0.1)
    h = F.leaky_relu(F.conv2d(h, normalised(D.last), D.last.bias, padding=1), 0.1)
    assert h.shape == (2, 64, 5, 5)
    logits = h.flatten(1) @ normalised(D.to_logit)[0] + (D.to_logit.bias if doubled else 0)
    assert torch.allclose(D(x).logits, logits, atol=1e-6)


@pytest.mark.parametrize("first_norm", [False, True])
def test_cnn_generator_equals_a_plain_one(first_norm):
    torch.manual_seed(0)
    G = Generator(24, width=16, z_dim=5, form="cnn", first_norm=first_norm).double()
    z = torch.randn(4, 5, dtype=torch.float64)
    x = z @ G.first.weight.t() + G.first.bias
    if first_norm:
        x = F.relu((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt())
    x = x.view(4, 32, 3, 3)
    for b in G.up:
        x = F.relu(F.batch_norm(F.conv_transpose2d(x, b.conv.weight, b.conv.bias, 2, 1), None, None, training=True))
    x = F.conv2d(x, G.to_image.weight, G.to_image.bias, padding=1).tanh()
    assert x.shape == (4, 3, 24, 24) and torch.allclose(G(z, rng=Rng(0)).image, x, atol=1e-10)


@pytest.mark.parametrize("form", ["resnet", "cnn"])
def test_every_layer_of_d_has_a_spectral_norm_of_one_and_g_has_none(form):
    D = settle(Discriminator(width=16, form=form, num_classes=4), 500)
    layers = [m for m in D.modules() if isinstance(m, Spectral)]
    assert all(m.u is not None for m in layers) and len(layers) == (12 if form == "resnet" else 9)
    for m in layers:
        assert torch.linalg.matrix_norm((m.weight / m.sigma()).detach().flatten(1), 2).item() == pytest.approx(1, abs=2e-3)
    assert all(m.u is None for net in (Generator(width=8, form=form), Discriminator(width=8, form=form, norm="none"))
               for m in net.modules() if isinstance(m, Spectral))


@pytest.mark.parametrize("form", ["resnet", "cnn"])
def test_penalties_on_the_input_gradient_differentiate(form):
    torch.manual_seed(0)
    D = Discriminator(32, channels=1, width=2, form=form).double().eval()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64, requires_grad=True)
    weight = D.stem.conv1.weight
    direction = torch.randn_like(weight)

    def penalty() -> torch.Tensor:
        grad, = torch.autograd.grad(D(x).logits.sum(), x, create_graph=True)
        return grad.square().sum()

    slope = (torch.autograd.grad(penalty(), weight)[0] * direction).sum()
    ends = []
    for step in (1e-8, -1e-8):                           # small: the gradient of a net with kinks jumps now and then
        weight.data += step * direction
        ends.append(penalty().item())
        weight.data -= step * direction
    assert slope.item() == pytest.approx((ends[0] - ends[1]) / 2e-8, rel=1e-5)


def test_the_projection_tells_classes_apart_and_must_have_them():
    D, G = Discriminator(width=8, num_classes=3).eval(), Generator(width=8, num_classes=3)
    x = torch.randn(2, 3, 32, 32)
    a, b = D(x, torch.tensor([0, 1])).logits, D(x, torch.tensor([1, 1])).logits
    assert a[0] != b[0] and a[1] == b[1]
    for lacking in (lambda: D(x), lambda: G(torch.randn(2, 128), rng=Rng(0))):
        with pytest.raises(UsageError, match="num_classes=3: it needs the classes"):
            lacking()


def test_sizes_that_it_can_not_make_are_named():
    for net in (Generator, Discriminator):
        with pytest.raises(UsageError, match="resolution=48: SNGAN's ResNet makes square pictures of 32, 64 or 128"):
            net(48)
        with pytest.raises(UsageError, match="resolution=20: .* multiple of 8"):
            net(20, form="cnn")
