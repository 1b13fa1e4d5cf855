"""FastGAN's networks against the specification: counts, shapes, switches, gradients of both orders."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handful import catalog
from handful.arch.fastgan import Discriminator, Generator
from handful.catalog import Use
from handful.errors import UsageError
from handful.nn.spectral import Spectral
from handful.rng import Rng
from handful.seam import FeatureInfo, Pass, View
from handful.terms.reconstruction import _Decoder

SIZES = (32, 64, 128, 256, 512, 1024)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def on_meta(cls, *args, **kwargs):
    with torch.device("meta"):
        return cls(*args, **kwargs)


def narrow(resolution: int = 64, **kwargs) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    return Generator(resolution, ngf=4, z_dim=16, **kwargs), Discriminator(resolution, ndf=4, **kwargs)


def latents(n: int = 4, dim: int = 16) -> torch.Tensor:
    return Rng(5).randn(n, dim)


# ------------------------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize("size,g,d", [(256, 29_127_846, 11_526_160), (512, 29_174_392, 11_526_496), (1024, 29_176_512, 11_528_192)])
def test_parameters_of_the_release(size, g, d):
    D = on_meta(Discriminator, size)
    sources = ("big_8", "big_16", "small_8")
    decoders = [on_meta(_Decoder, D.feature_info[source].channels, 3, 128, 32, norm="spectral", sync=False) for source in sources]
    assert [count(m) for m in decoders] == [1_439_712, 849_888, 849_888]
    assert count(on_meta(Generator, size)) == g
    assert count(D) + sum(map(count, decoders)) == d


def test_parameters_per_module():
    G = on_meta(Generator, 1024)
    assert count(G.first) + count(G.first_bn) == 8_392_704
    assert {k: count(m) for k, m in G.up.items()} == {"8": 14_159_874, "16": 2_360_320, "32": 885_762, "64": 295_424, "128": 221_698,
                                                      "256": 36_992, "512": 13_954, "1024": 2_336}
    assert {k: count(m) for k, m in G.excite.items()} == {"64": 2_113_536, "128": 528_384, "256": 132_096, "512": 33_024}
    assert (count(G.to_small), count(G.to_image)) == (192, 216)
    assert [count(on_meta(Generator, s).to_image) for s in (256, 512)] == [864, 432]


@pytest.mark.parametrize("size", SIZES)
def test_channels_by_resolution(size):
    """The same tables at every size, cut off."""
    whole, cut = on_meta(Generator, 1024), on_meta(Generator, size)
    assert {k: count(m) for k, m in cut.up.items()} == {k: count(whole.up[k]) for k in cut.up}
    assert set(cut.excite) == {k for k in whole.excite if int(k) <= size}
    D = on_meta(Discriminator, size)
    channels = {256: 16, 128: 32, 64: 64, 32: 128, 16: 256, 8: 512}
    expected = {f"big_{r}": FeatureInfo(c, r) for r, c in channels.items() if r <= size}
    expected |= {f"small_{r}": FeatureInfo(c, r) for r, c in {64: 32, 32: 64, 16: 128, 8: 256}.items() if r <= min(128, size // 2) // 2}
    assert D.feature_info == expected | {"pre_logits": FeatureInfo(1024, 8)}
    assert len(D.excite) == {32: 0, 64: 1, 128: 2}.get(size, 3)


# ------------------------------------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512])
def test_shapes_and_features(size):
    G, D = narrow(size)
    small = min(128, size // 2)
    out = G(latents(2), rng=Rng(1))
    assert out.image.shape == (2, 3, size, size) and out.extra["small"].shape == (2, 3, small, small)
    assert out.latent is out.z and out.image.abs().max() <= 1
    judged = D(out.image, extra=out.extra, want=frozenset(D.feature_info))
    assert judged.logits.shape == (2, 50)
    assert {k: FeatureInfo(v.shape[1], v.shape[2]) for k, v in judged.features.items()} == D.feature_info
    assert all(v.shape[2] == v.shape[3] for v in judged.features.values())


def test_thousand_pixels_once():
    G, D = narrow(1024)
    out = G(latents(2), rng=Rng(1))
    assert out.image.shape == (2, 3, 1024, 1024) and out.extra["small"].shape == (2, 3, 128, 128)
    assert D(out.image.detach()).logits.shape == (2, 50)


def test_features_are_what_is_asked():
    _, D = narrow()
    x = latents(4, 3 * 64 * 64).view(4, 3, 64, 64)
    assert not D(x).features
    assert set(D(x, want=frozenset({"big_16", "pre_logits"})).features) == {"big_16", "pre_logits"}


def test_first_half_of_the_logits_is_the_large_scale():
    _, D = narrow()
    D.eval()
    x = torch.rand(2, 3, 64, 64)
    small = D.extra_of(x)
    assert torch.equal(small["small"], F.interpolate(x, size=32, mode="nearest"))
    plain, other = D(x).logits, D(x, extra={"small": -small["small"]}).logits
    assert torch.equal(plain, D(x, extra=small).logits)
    assert torch.equal(plain[:, :25], other[:, :25]) and not torch.allclose(plain[:, 25:], other[:, 25:])
    other = D(-x, extra=small).logits
    assert torch.equal(plain[:, 25:], other[:, 25:]) and not torch.allclose(plain[:, :25], other[:, :25])


def test_first_logits_are_those_of_the_plain_layers():
    """The large path rebuilt from F.conv2d on a network without spectral norm: what the table of the specification says."""
    torch.manual_seed(0)
    D = Discriminator(64, ndf=4, norm="none")
    x = torch.rand(4, 3, 64, 64)
    bn = lambda h, m: F.leaky_relu(F.batch_norm(h, None, None, m.weight, m.bias, True), 0.2)

    def down(h, m):
        main = bn(F.conv2d(bn(F.conv2d(h, m.main[0].weight, None, 2, 1), m.main[1]), m.main[3].weight, None, 1, 1), m.main[4])
        return (main + bn(F.conv2d(F.avg_pool2d(h, 2), m.direct[1].weight), m.direct[2])) / 2

    c = F.leaky_relu(F.conv2d(x, D.stem[0].weight, None, 1, 1), 0.2)
    f = down(down(down(c, D.down["32"]), D.down["16"]), D.down["8"])
    s = D.excite["8"]
    f = f * torch.sigmoid(F.conv2d(F.silu(F.conv2d(F.adaptive_avg_pool2d(c, 4), s.squeeze.weight)), s.excite.weight))
    logits = F.conv2d(bn(F.conv2d(f, D.head[0].weight), D.head[1]), D.to_logits.weight)
    assert torch.allclose(D(x).logits[:, :25], logits.flatten(1), atol=1e-4)


def test_generator_is_that_of_the_plain_layers():
    torch.manual_seed(0)
    G = Generator(64, ngf=4, z_dim=16, norm="none")
    for p in G.parameters():
        nn.init.normal_(p, 0, 0.5)                                       # the noise must show
    z, rng = latents(), Rng(3)
    noise = {r: [rng.randn(4, 1, r, r) for _ in range(2)] for r in (8, 32)}
    bn = lambda h, m: F.glu(F.batch_norm(h, None, None, m.weight, m.bias, True), 1)
    up = lambda h, w: F.conv2d(F.interpolate(h, scale_factor=2), w, padding=1)

    def comp(h, m, n):
        h = bn(up(h, m.first.conv.weight) + m.noise[0] * n[0], m.first.bn)
        return bn(F.conv2d(h, m.conv.weight, padding=1) + m.noise[1] * n[1], m.bn)

    f4 = bn(F.conv_transpose2d(z[:, :, None, None], G.first.weight), G.first_bn)
    f32 = comp(bn(up(comp(f4, G.up["8"], noise[8]), G.up["16"].conv.weight), G.up["16"].bn), G.up["32"], noise[32])
    s = G.excite["64"]
    f64 = bn(up(f32, G.up["64"].conv.weight), G.up["64"].bn) * torch.sigmoid(F.conv2d(F.silu(F.conv2d(f4, s.squeeze.weight)), s.excite.weight))
    out = G(z, rng=Rng(3))
    assert torch.allclose(out.image, torch.tanh(F.conv2d(f64, G.to_image.weight, padding=1)), atol=1e-3)
    assert torch.allclose(out.extra["small"], torch.tanh(F.conv2d(f32, G.to_small.weight)), atol=1e-3)


# ---------------------------------------------------------------------------------------------------------------- keywords


def test_paper_and_release_differ_as_said():
    released, paper = on_meta(Generator, 1024), on_meta(Generator, 1024, excitation="paper", channel_table="paper", sle_activation="leaky_relu")
    assert set(released.excite) - set(paper.excite) == {"64"}
    assert paper.to_image.weight.shape == (3, 3, 3, 3) and paper.up["512"].bn.num_features == 6
    assert paper.excite["128"].activation == "leaky_relu" and released.excite["128"].activation == "swish"
    D = on_meta(Discriminator, 1024, channel_table="paper")
    assert D.stem[0].weight.shape[:2] == (3, 3) and D.stem[2].weight.shape[:2] == (16, 3)
    assert not on_meta(Generator, 256, sle=False).excite and not on_meta(Discriminator, 256, sle=False).excite
    assert set(on_meta(Generator, 256, excitation=[(4, 256)]).excite) == {"256"}


def test_output_activation():
    G, _ = narrow()
    G.to_image.weight.data *= 30
    twin = Generator(64, ngf=4, z_dim=16, output_activation="none")
    twin.load_state_dict(G.state_dict())
    a, b = G(latents(), rng=Rng(1)), twin(latents(), rng=Rng(1))
    assert torch.allclose(a.image, b.image.tanh(), atol=1e-6) and torch.allclose(a.extra["small"], b.extra["small"].tanh(), atol=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "none"])
def test_without_the_side_image_the_image_is_the_same(activation):
    torch.manual_seed(0)
    G = Generator(64, ngf=4, z_dim=16, output_activation=activation)
    alone = Generator(64, ngf=4, z_dim=16, output_activation=activation, side_image=False)
    missing, unexpected = alone.load_state_dict(G.state_dict(), strict=False)
    assert not missing and unexpected and all(k.startswith("to_small.") for k in unexpected)
    a, b = G(latents(), rng=Rng(1)), alone(latents(), rng=Rng(1))
    assert torch.equal(a.image, b.image) and set(a.extra) == {"small"} and not b.extra


def test_channels_and_catalogue():
    G = catalog.build("arch", Use("fastgan", ngf=4, z_dim=8, excitation=[[4, 32]]), "Generator", resolution=32, channels=1, num_classes=0)
    D = catalog.build("arch", Use("fastgan", ndf=4), "Discriminator", resolution=32, channels=1, num_classes=0)
    out = G(latents(2, 8), rng=Rng(0))
    assert out.image.shape == (2, 1, 32, 32) and D(out.image).logits.shape == (2, 50) and set(G.excite) == {"32"}
    for wrong, line in (((96,), "powers? of two|choose one"), (((64, 32),), "square")):
        with pytest.raises(UsageError, match=line):
            Generator(*wrong)
    with pytest.raises(UsageError, match="64->8"):
        Generator(64, excitation=[(64, 8)])


def test_classes():
    G, D = narrow(num_classes=3)
    z, c = latents(1).expand(4, -1), torch.tensor([0, 1, 2, 0])
    out = G.eval()(z, c, rng=Rng(0))
    assert torch.equal(out.latent, z + G.embed(c)) and not torch.allclose(out.image[0], out.image[1])
    D.eval()
    x = torch.rand(1, 3, 64, 64).expand(4, -1, -1, -1)
    logits = D(x, c).logits
    assert torch.allclose(logits[0], logits[3]) and not torch.allclose(logits[0], logits[1])
    for net, args in ((G, z), (D, x)):
        with pytest.raises(UsageError, match="needs the classes"):
            net(args, rng=Rng(0)) if net is G else net(args)


# ---------------------------------------------------------------------------------------------------- initialisation, state


def test_initialisation_of_the_release():
    torch.manual_seed(0)
    G, D = Generator(64, ngf=16), Discriminator(64, ndf=16)
    seen = Counter()
    for net in (G, D):
        for name, p in net.named_parameters():
            if p.numel() < 500 and ".noise." not in name:
                continue
            if ".noise." in name:
                assert p.item() == 0
            elif p.ndim == 4:
                assert p.std().item() == pytest.approx(0.02, rel=0.1) and abs(p.mean().item()) < 0.003, name
            seen[p.ndim] += 1
        weights = torch.cat([m.weight.flatten() for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
        assert weights.std().item() == pytest.approx(0.02, rel=0.1) and weights.mean().item() == pytest.approx(1, abs=0.003)
    assert seen[4] > 20


def test_state_round_trip_and_same_seed_same_image():
    G, D = narrow()
    G(latents(), rng=Rng(0))
    torch.manual_seed(7)
    twin = Generator(64, ngf=4, z_dim=16)
    twin.load_state_dict(G.state_dict())
    G.eval(), twin.eval()
    for p in (*G.up["8"].noise, *twin.up["8"].noise):
        nn.init.constant_(p, 0.5)
    image = G(latents(), rng=Rng(4)).image
    assert torch.equal(image, twin(latents(), rng=Rng(4)).image)
    assert not torch.equal(image, G(latents(), rng=Rng(5)).image)           # noise in evaluation too
    assert not any("_orig" in k for k in (*G.state_dict(), *D.state_dict()))
    again, other = narrow()
    assert all(torch.equal(a, b) for a, b in zip(narrow()[0].state_dict().values(), again.state_dict().values()))


def test_batch_statistics_are_used_and_kept():
    G, D = narrow()
    assert G.has_batch_stats and D.has_batch_stats
    z = latents(6)
    assert not torch.allclose(G(z, rng=Rng(0)).image[:2], G(z[:2], rng=Rng(0)).image, atol=1e-4)
    for _ in range(200):
        G(z, rng=Rng(0))
    trained = G(z, rng=Rng(0)).image
    assert torch.allclose(G.eval()(z, rng=Rng(0)).image, trained, atol=0.1)       # the running variance is the unbiased one, of 6 images
    x = torch.rand(2, 3, 64, 64)
    D.eval()
    assert torch.allclose(D(x).logits[:1], D(x[:1]).logits, atol=1e-6)


# --------------------------------------------------------------------------------------------------------------- gradients


def test_every_parameter_learns():
    G, D = narrow(num_classes=2)
    c = torch.tensor([0, 1, 0, 1])
    out = G(latents(), c, rng=Rng(0))
    D(out.image, c, out.extra).logits.sin().mean().backward()
    for net in (G, D):
        for name, p in net.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_runs_on_the_meta_device():
    """What estimates of cost and memory rest on."""
    G, D = on_meta(Generator, 64, ngf=4), on_meta(Discriminator, 64, ndf=4)
    out = G.synthesise(torch.empty(2, 256, device="meta"), {r: [torch.empty(2, 1, int(r), int(r), device="meta")] * 2 for r in ("8", "32")})
    assert D(out[0], extra={"small": out[1]}).logits.shape == (2, 50)


def test_autocast_is_finite_and_close():
    G, D = narrow()
    z = latents(8)
    out = G(z, rng=Rng(0))
    full = D(out.image, extra=out.extra).logits
    G, D = narrow()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = G(z, rng=Rng(0))
        half = D(out.image, extra=out.extra).logits
    half.float().mean().backward()
    assert half.dtype == torch.bfloat16 and torch.isfinite(half).all()
    assert (half.float() - full).abs().mean() < 0.05 * full.abs().mean()
    assert all(p.grad.isfinite().all() for p in G.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_gradient_penalty_matches_finite_differences(training):
    """The vectors of spectral norm are constants of its gradient, so they stand still here; batch norm is part of the function."""
    torch.manual_seed(0)
    D = Discriminator(32, ndf=2).double()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64).requires_grad_()
    for _ in range(20):
        D(x)
    D.train(training)
    for m in list(D.modules()):
        for name, child in m.named_children():
            if isinstance(child, nn.LeakyReLU):
                setattr(m, name, nn.SiLU())                      # kinks would be jumps of the penalty
        if isinstance(m, Spectral):
            m.eval()

    def penalty() -> torch.Tensor:
        grad, = torch.autograd.grad(D(x).logits.mean(1).sum(), x, create_graph=True)
        return grad.square().sum()

    parameters = list(D.named_parameters())
    for (name, p), grad in zip(parameters, torch.autograd.grad(penalty(), [p for _, p in parameters], allow_unused=True)):
        start, direction, values = p.detach().clone(), torch.randn_like(p) * p.detach().abs().mean(), []
        for step in (1e-6, -1e-6):
            p.data.copy_(start + step * direction)
            values.append(penalty().item())
        p.data.copy_(start)
        expected = (values[0] - values[1]) / 2e-6
        assert (0 if grad is None else (grad * direction).sum().item()) == pytest.approx(expected, rel=1e-4, abs=1e-5 * penalty().item()), name


def test_a_penalty_reaches_both_scales():
    _, D = narrow()
    x = torch.rand(4, 3, 64, 64).requires_grad_()
    sources = {k: v.detach().requires_grad_() for k, v in D.extra_of(x).items()}
    judged = D(x, extra=sources)
    seen = Pass(x, x, judged, View(logits=True, pixel_grad=True), extra=sources, sources=sources)
    grads = torch.autograd.grad(judged.logits.mean(1).sum(), (x, sources["small"]), retain_graph=True)
    assert torch.allclose(seen.grad_norm_sq(), sum(g.square().flatten(1).sum(1) for g in grads))
    assert all(g.abs().sum() > 0 for g in grads)
