"""BigGAN against the specification: counts, a plain twin built from torch's own modules, classes, statistics, gradients of both orders."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from handful.arch.biggan import Discriminator, Generator
from handful.errors import UsageError
from handful.nn import norm as norm_module
from handful.nn.attention import SelfAttention
from handful.nn.conditional_norm import ConditionalBatchNorm2d
from handful.nn.conv import Conv2d, Conv3x3, Embedding, Linear, ZeroConv2d, glorot
from handful.nn.norm import BatchNorm2d
from handful.nn.residual import DBlock, GBlock
from handful.nn.spectral import Spectral
from handful.ops.poolconv import averaged, poolconv
from handful.ops.zeroconv import zeroconv
from handful.rng import Rng, derive
from handful.seam import FeatureInfo
from handful.training.ema import standing
from handful.training.loop import sampler
from making import noise_set, run_steps, tiny_trainer

RNG = Rng(0)
TORCHS_HOOK = pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def on_meta(cls, *args, **kwargs):
    with torch.device("meta"):
        return cls(*args, **kwargs)


def f64(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def narrow(resolution: int = 32, num_classes: int = 3, **kwargs) -> tuple[Generator, Discriminator]:
    """Double precision; attention has a gain, so that it counts."""
    torch.manual_seed(0)
    G, D = (cls(resolution, num_classes=num_classes, width=2, **kwargs).double() for cls in (Generator, Discriminator))
    for m in (*G.modules(), *D.modules()):
        if isinstance(m, SelfAttention):
            m.gain.data.fill_(0.7)
    return G, D


# ------------------------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize("size,classes,width,g,d", [
    (32, 10, None, 4_304_387, 4_207_361), (32, 100, None, 4_580_867, 4_230_401),
    (32, 10, 32, 1_218_307, 1_055_105), (32, 10, 16, 375_683, 265_409), (32, 10, 8, 129_475, 67_169),
    (64, 200, None, 17_335_204, 30_796_722), (128, 200, None, 70_331_588, 86_753_570), (128, 1000, None, 70_433_988, 87_982_370)])
def test_parameters_of_the_releases(size, classes, width, g, d):
    assert count(on_meta(Generator, size, num_classes=classes, width=width)) == g
    assert count(on_meta(Discriminator, size, num_classes=classes, width=width)) == d


def test_parameters_per_layer_on_cifar():
    G, D = on_meta(Generator, num_classes=10), on_meta(Discriminator, num_classes=10)
    assert [count(m) for m in (G.first, *G.up.values(), G.last_norm, G.to_image)] == [528_384, 1_256_192, 1_256_192, 1_256_192, 512, 6_915]
    assert [count(m) for m in (D.stem, *D.blocks.values())] == [7_168 + 590_080 + 1_024, 2 * 590_080 + 65_792, 2 * 590_080, 2 * 590_080]
    assert (count(D.to_logit), count(D.embed)) == (257, 2_560)


def test_tables_of_the_releases():
    G, D = on_meta(Generator, 64, num_classes=200), on_meta(Discriminator, 64, num_classes=200)
    assert (G.z_dim, G.chunks, list(G.attention), list(D.attention)) == (100, [20] * 5, ["32"], ["map_32"])
    G, D = on_meta(Generator, 128, num_classes=200), on_meta(Discriminator, 128, num_classes=200)
    assert (G.z_dim, G.chunks, list(G.attention), list(D.attention)) == (120, [20] * 6, ["64"], ["map_64"])
    assert [f.channels for f in D.feature_info.values()] == [96, 192, 384, 768, 1536, 1536, 1536]
    assert {m.eps for m in G.modules() if isinstance(m, BatchNorm2d)} == {1e-4}
    assert {m.eps for m in D.modules() if isinstance(m, Spectral)} == {1e-6}
    G = on_meta(Generator, num_classes=10)
    assert G.chunks == [128] and G.embed is None and not G.attention
    assert {m.eps for m in G.modules() if isinstance(m, BatchNorm2d)} == {1e-5}
    assert {m.eps for m in G.modules() if isinstance(m, Spectral) and m.u is not None} == {1e-8}
    assert G.up["8"].norm1.gain.u is None and on_meta(Generator, 64, num_classes=2).up["8"].norm1.gain.u is not None
    G = on_meta(Generator, 256, num_classes=5)
    assert G.chunks == [20] * 7 and list(G.up) == ["8", "16", "32", "64", "128", "256"]


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("classes,channels", [(3, 3), (0, 1)])
def test_shapes_and_features(size, classes, channels):
    torch.manual_seed(0)
    G, D = (cls(size, channels, classes, width=2) for cls in (Generator, Discriminator))
    c = torch.tensor([0, 2]) if classes else None
    out = G(torch.randn(2, G.z_dim), c, rng=RNG)
    assert out.image.shape == (2, channels, size, size) and out.image.abs().max() <= 1 and out.latent is out.z
    judged = D(out.image, c, want=frozenset(D.feature_info))
    assert judged.logits.shape == (2,)
    for name, f in judged.features.items():
        assert D.feature_info[name] == FeatureInfo(f.shape[1], f.shape[2] if f.ndim == 4 else 0)
    assert G.wants_classes and G.has_batch_stats and not D.has_batch_stats
    if not classes:
        assert isinstance(G.up["8"].norm1.norm.weight, nn.Parameter) and G.embed is None and D.embed is None


def test_last_block_without_shortcut():
    """compare_gan's form: what the block adds to its input is the block."""
    torch.manual_seed(0)
    D, other = (Discriminator(128, num_classes=2, width=2, skip_equal=s, skip="plain", norm="none") for s in (True, False))
    other.load_state_dict(D.state_dict())
    x, want = torch.randn(2, 3, 128, 128), frozenset({"map_4", "map_4_2"})
    a, b = D(x, torch.tensor([0, 1]), want=want).features, other(x, torch.tensor([0, 1]), want=want).features
    assert torch.equal(a["map_4"], b["map_4"]) and torch.allclose(a["map_4_2"], b["map_4_2"] + b["map_4"], atol=1e-5)


# -------------------------------------------------------------------------- a twin from torch's modules, in the plain order


class PlainNorm(nn.Module):
    def __init__(self, ours: ConditionalBatchNorm2d) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(ours.norm.num_features, eps=ours.norm.eps, affine=ours.gain is None)
        kind = {Linear: lambda m: nn.Linear(m.weight.shape[1], m.weight.shape[0], bias=False), Embedding: lambda m: nn.Embedding(*m.weight.shape)}
        self.one = 0 if ours.bare else 1
        self.gain, self.shift = (None if m is None else kind[type(m)](m) for m in (ours.gain, ours.shift))

    def forward(self, x, condition):
        y = self.norm(x)
        if self.gain is None:
            return y
        return y * (self.one + self.gain(condition))[:, :, None, None] + self.shift(condition)[:, :, None, None]


def plain_conv(ours: Conv2d | Conv3x3 | ZeroConv2d | None) -> nn.Conv2d | None:
    if ours is None:
        return None
    o, i, k, _ = ours.weight.shape
    return nn.Conv2d(i, o, k, padding=k // 2, bias=ours.bias is not None)


class PlainG(nn.Module):
    def __init__(self, block: GBlock) -> None:
        super().__init__()
        self.norm1, self.norm2 = PlainNorm(block.norm1), PlainNorm(block.norm2)
        self.conv1, self.conv2, self.shortcut = map(plain_conv, (block.conv1, block.conv2, block.shortcut))
        self.mask = None if block.repeats else torch.tensor([[1.0, 0.0], [0.0, 0.0]])

    def forward(self, x, condition):
        repeated = nn.Upsample(scale_factor=2, mode="nearest")
        up = repeated if self.mask is None else lambda x: repeated(x) * self.mask.to(x).repeat(x.shape[2:])
        h = self.conv1(up(F.relu(self.norm1(x, condition))))
        return self.conv2(F.relu(self.norm2(h, condition))) + self.shortcut(up(x))


class PlainD(nn.Module):
    def __init__(self, block: DBlock) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shortcut = map(plain_conv, (block.conv1, block.conv2, block.shortcut))
        self.first, self.down, self.rectified = not block.preactivate, block.down, block.rectified

    def forward(self, x):
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        x = F.relu(x) if self.rectified and not self.first else x
        pool = functools.partial(F.avg_pool2d, kernel_size=2) if self.down else (lambda y: y)
        if self.first:
            return pool(h) + self.shortcut(pool(x))
        return pool(h) + pool(self.shortcut(x) if self.shortcut is not None else x)


class PlainAttention(nn.Module):
    def __init__(self, ours: SelfAttention) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = map(plain_conv, (ours.query, ours.key, ours.value, ours.out))
        self.gain = nn.Parameter(ours.gain.detach().clone())

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.query(x), F.max_pool2d(self.key(x), 2), F.max_pool2d(self.value(x), 2)
        scores = torch.einsum("bcn,bcm->bnm", q.flatten(2), k.flatten(2))
        return x + self.gain * self.out(torch.einsum("bnm,bcm->bcn", F.softmax(scores, -1), v.flatten(2)).reshape(b, -1, h, w))


def twin(ours: nn.Module) -> nn.Module:
    """A copy with every layer of ours replaced by torch's: same names, same weights, torch's spectral norm with the same vectors."""
    plain = copy.deepcopy(ours)
    made = {GBlock: PlainG, DBlock: PlainD, SelfAttention: PlainAttention, Conv2d: plain_conv, Conv3x3: plain_conv,
            Linear: lambda m: nn.Linear(m.weight.shape[1], m.weight.shape[0], bias=m.bias is not None),
            Embedding: lambda m: nn.Embedding(*m.weight.shape)}

    def replace(module):
        for name, child in module.named_children():
            if type(child) in made:
                setattr(module, name, made[type(child)](child))
            else:
                replace(child)

    replace(plain)
    dtype = next(ours.parameters()).dtype
    plain.to(dtype).load_state_dict(ours.state_dict(), strict=False)
    for name, m in ours.named_modules():
        if isinstance(m, Spectral) and m.u is not None:
            layer = nn.utils.spectral_norm(plain.get_submodule(name), eps=m.eps)
            layer.weight_u, layer.weight_v = m.u.clone(), m.v.clone()
    return plain


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a - b).abs().max() <= 1e-5 * (1e-3 + b.abs().max())


def same_gradients(ours: nn.Module, plain: nn.Module) -> None:
    theirs = {k.removesuffix("_orig"): p.grad for k, p in plain.named_parameters()}
    assert theirs.keys() == dict(ours.named_parameters()).keys()
    for name, p in ours.named_parameters():
        assert (p.grad is None) == (theirs[name] is None) and (p.grad is None or alike(p.grad, theirs[name])), name
        p.grad = None


def equals_its_twin(G: Generator, modes: tuple[bool, ...]) -> None:
    """Image, gradient by z and gradients of the weights are those of the plain twin, in training mode (True) or evaluation, one after the other."""
    plain, c = twin(G), torch.arange(8) % 3 if G.num_classes else None
    for training in modes:
        G.train(training), plain.train(training)
        a, b = f64(8, G.z_dim), f64(8, G.z_dim)
        x, y = G(a, c, rng=RNG).image, plain(b, c, rng=RNG).image
        assert alike(x, y)
        x.sin().sum().backward(), y.sin().sum().backward()
        assert alike(a.grad, b.grad)
        same_gradients(G, plain)
        plain.zero_grad()


@TORCHS_HOOK
@pytest.mark.parametrize("size,kwargs", [(32, {}), (32, {"num_classes": 0}), (64, {}), (64, {"shared_dim": 0, "hierarchical": False, "z_dim": 9})])
def test_generator_equals_its_plain_twin(size, kwargs):
    G, _ = narrow(size, **{k: v for k, v in kwargs.items() if k == "num_classes"})
    if len(kwargs) > 1:
        torch.manual_seed(0)
        G = Generator(size, num_classes=3, width=2, **kwargs).double()
    equals_its_twin(G, (True, True, False))


@TORCHS_HOOK
@pytest.mark.parametrize("size, skip", [(32, None), (64, None), (64, "plain")])
def test_discriminator_equals_its_plain_twin_to_second_order(size, skip):
    """Logits, gradients by the images and by the weights, and those of a penalty on the former."""
    _, D = narrow(size)
    if skip:
        torch.manual_seed(0)
        D = Discriminator(size, num_classes=3, width=2, skip=skip).double()
    plain, c = twin(D), torch.arange(4) % 3
    for training in (True, True, False):
        D.train(training), plain.train(training)
        images, grads = [f64(4, 3, size, size) for _ in range(2)], []
        for net, x in zip((D, plain), images):
            logits = net(x, c).logits
            grad, = torch.autograd.grad(logits.sum(), x, create_graph=True)
            (grad.square().sum((1, 2, 3)).sqrt().mean() + F.softplus(logits).sum()).backward()
            grads += [logits, grad]
        assert alike(grads[0], grads[2]) and alike(grads[1], grads[3]) and alike(images[0].grad, images[1].grad)
        same_gradients(D, plain)
        plain.zero_grad()


@TORCHS_HOOK
def test_full_width_in_single_precision():
    """At 256 channels Winograd's form and the folded kernels run; as a whole, because rounding turns single ReLUs over."""
    torch.manual_seed(0)
    G, D, c, z = Generator(num_classes=10), Discriminator(num_classes=10), torch.arange(4), torch.randn(4, 128)
    nets, found = ((G, D), (twin(G), twin(D))), []
    for g, d in nets:
        image = g(z, c, rng=RNG).image
        logits = d(image, c).logits
        logits.sum().backward()
        found.append([image, logits, *(torch.cat([p.grad.flatten() for _, p in sorted(n.named_parameters())]) for n in (g, d))])
    for ours, theirs in zip(*found):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


# ------------------------------------------------------------------------------------------------------- the releases' numbers


def drawn(j: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(j).standard_normal(shape))


STUDIOGAN = {(64, "rectified"): ((-4.775823, -2.705459), (0.192897, 0.175088)), (64, "plain"): ((-18.933898, -27.869088), (0.542181, 1.041109)),
             (128, "rectified"): ((1.326072, 4.612492), (0.079291, 0.076647)), (128, "plain"): ((13.487099, 13.186061), (0.311179, 0.234379))}


@pytest.mark.parametrize("size, skip", STUDIOGAN)
def test_discriminator_of_studiogan(size, skip):
    """The amendments' vector A.2: the released module in float64 without spectral norm, and the textbook's."""
    D = Discriminator(size, num_classes=3, width=8, skip=skip, norm="none").double()
    places = [layer for name, block in zip(D.names, (D.stem, *D.blocks.values()))
              for part in (block, *([D.attention[name]] if name in D.attention else []))
              for layer in ((part.conv1, part.conv2, part.shortcut) if part is block else (part.query, part.key, part.value, part.out)) if layer]
    with torch.no_grad():
        for j, layer in enumerate([*places, D.to_logit, D.embed]):
            layer.weight.copy_(drawn(j, *layer.weight.shape) / layer.weight[0].numel() ** 0.5)
            if layer.bias is not None:
                layer.bias.copy_(0.1 * drawn(1000 + j, len(layer.bias)))
        for attention in D.attention.values():
            attention.gain.fill_(0.7)
    n, k, i, col = (torch.arange(m, dtype=torch.float64).view([-1 if a == b else 1 for b in range(4)]) for a, m in enumerate((2, 3, size, size)))
    x = torch.sin(0.05 * i * (k + 1) + 0.03 * col + n).requires_grad_()
    logits = D(x, torch.tensor([0, 2])).logits
    grad, = torch.autograd.grad(logits.sum(), x)
    assert j + 1 == {64: 21, 128: 23}[size]
    for found, wanted in zip((logits, grad.flatten(1).norm(dim=1)), STUDIOGAN[size, skip]):
        assert found.tolist() == pytest.approx(wanted, abs=6e-7)


def test_released_discriminators_are_the_default_where_they_were_run():
    forms = {size: {b.rectified for b in on_meta(Discriminator, size, num_classes=2).blocks.values()} for size in (32, 64, 128, 256)}
    assert forms == {32: {False}, 64: {True}, 128: {True}, 256: {False}}


COMPARE_GAN = {("zeros", "bare"): ((4.289509, 0.868513, -0.659357, 0.023191), -0.714925, -1.773281, 21.559416, 223.498057),
               ("nearest", "bare"): ((3.662373, 4.035036, 1.393403, -0.140434), -0.259041, -0.578313, 26.643079, 378.998413),
               ("nearest", "one_plus"): ((3.516608, 3.857890, 1.212218, 0.041364), 0.321157, 1.906618, 28.065628, 263.629159)}


@pytest.mark.parametrize("up, gain", COMPARE_GAN)
def test_generator_block_of_compare_gan(up, gain):
    """The amendments' vector B.4, in all three forms."""
    norm_of = lambda width: ConditionalBatchNorm2d(width, vector=5, norm="none", gain=gain)
    block = GBlock(4, 2, norm_of, up=up, norm="none", bias="zeros").double()
    filled = {block.norm1.gain: (2, 1), block.norm1.shift: (3, 1), block.conv1: (4, 6), block.norm2.gain: (6, 1), block.norm2.shift: (7, 1),
              block.conv2: (8, 6), block.shortcut: (10, 2)}
    with torch.no_grad():
        for layer, (j, by) in filled.items():
            layer.weight.copy_(drawn(j, *layer.weight.shape) / by)
            if layer.bias is not None:
                layer.bias.copy_(0.1 * drawn(j + 1, 2))
    y = block(drawn(0, 3, 4, 2, 2), drawn(1, 3, 5))
    row, *rest = COMPARE_GAN[up, gain]
    assert y.shape == (3, 2, 4, 4) and y[0, 0, 0].tolist() == pytest.approx(row, abs=6e-7)
    assert [v.item() for v in (y[2, 1, 3, 2], y[1, 0, 1, 1], y.sum(), y.square().sum())] == pytest.approx(rest, abs=6e-6)


IMAGENET = {"g": dict(up="zeros", gain="bare", bn_eps=1e-5, sn_iterates="always"),
            "d": dict(skip="plain", skip_equal=False, sn_iterates="always", class_init="glorot", image_range="0..1")}


def test_networks_of_compare_gan():
    """Its documented sizes, the layers that have no bias, and the start of D's matrix of classes."""
    G, D = on_meta(Generator, 128, num_classes=1000, **IMAGENET["g"]), on_meta(Discriminator, 128, num_classes=1000, **IMAGENET["d"])
    assert (count(G), count(D)) == (70_433_988, 87_982_370)
    assert {m.eps for m in G.modules() if isinstance(m, BatchNorm2d)} == {1e-5}
    assert {m.always for m in (*G.modules(), *D.modules()) if isinstance(m, Spectral)} == {True, False}                  # False: G's embedding
    assert [n for n, m in G.named_modules() if isinstance(m, Spectral) and not m.always] == ["embed"] and G.embed.u is None
    torch.manual_seed(0)
    matrix = Discriminator(128, num_classes=1000, width=4, **IMAGENET["d"]).embed.weight
    std = (2 / (1000 + 64)) ** 0.5
    assert matrix.std().item() == pytest.approx(std, rel=0.01) and 1.9 < matrix.abs().max().item() * 0.8796 / std <= 2.0001


def test_images_from_0_to_1_inside_the_discriminator():
    """Black is what surrounds the maps: an image is the same as one with a black frame, but for the frame."""
    torch.manual_seed(0)
    D, signed = (Discriminator(64, width=2, norm="none", image_range=r) for r in ("0..1", "-1..1"))
    signed.load_state_dict(D.state_dict())
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.allclose(D(x).logits, signed(x * 0.5 + 0.5).logits)
    inner, framed = x[:, :, 8:-8, 8:-8], F.pad(x[:, :, 8:-8, 8:-8], [8] * 4, value=-1.0)
    at = lambda net, image: net.stem.conv1(image * 0.5 + 0.5 if net.halved else image)
    assert torch.allclose(at(D, framed)[:, :, 8:-8, 8:-8], at(D, inner), atol=1e-6)
    assert not torch.allclose(at(signed, framed)[:, :, 8:-8, 8:-8], at(signed, inner), atol=1e-3)


@TORCHS_HOOK
@pytest.mark.parametrize("gain", ["bare", "one_plus"])
def test_generator_with_zeros_equals_its_plain_twin(gain):
    torch.manual_seed(0)
    G = Generator(64, num_classes=3, width=2, up="zeros", gain=gain, bn_eps=1e-5).double()
    equals_its_twin(G, (True, False))


# ----------------------------------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("kernel", [3, 1])
@pytest.mark.parametrize("size", [(2, 2), (5, 3)])
def test_convolution_of_zeros_in_between_equals_the_plain_one(kernel, size):
    """To second order, with the bias that is all there is between the pixels of a 1x1."""
    x, w, b = f64(2, 3, *size), f64(4, 3, kernel, kernel, seed=1), f64(4, seed=2)
    stuffed = torch.zeros(2, 3, 2 * size[0], 2 * size[1], dtype=torch.float64)
    stuffed[:, :, ::2, ::2] = x.detach()
    fast, ref = zeroconv(x, w, b), zeroconv(x, w, b, impl="ref")
    assert torch.allclose(ref, F.conv2d(stuffed, w, b, padding=kernel // 2), atol=1e-12) and torch.allclose(fast, ref, atol=1e-12)
    assert kernel == 3 or torch.equal(fast[:, :, 1::2, 1::2], b[:, None, None].expand(2, 4, *size))
    orders = []
    for y in (fast, ref):
        first = torch.autograd.grad(y.sin().sum(), (x, w, b), create_graph=True)
        orders.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), (x, w, b))])
    assert all(torch.allclose(p, q, atol=1e-11) for p, q in zip(*orders))
    assert gradcheck(zeroconv, (x, w, b)) and gradgradcheck(zeroconv, (x, w, b))


@pytest.mark.parametrize("shape, dim", [((6, 2, 1, 1), 0), ((2, 6, 3, 3), 0), ((7, 3), 0), ((2, 9, 2, 2), 1)])
def test_spectral_norm_that_always_iterates(shape, dim):
    """Once per forward in evaluation too, from the shorter of the two vectors, which is the release's persistent one; sigma by the new pair."""
    torch.manual_seed(0)
    layer = Spectral(torch.randn(shape), dim=dim, eps=1e-6, iterates="always").double().eval()
    matrix = layer.weight.detach().transpose(0, dim).flatten(1)
    unit = lambda x: x / max(x.square().sum(), 1e-12) ** 0.5
    short = min(layer.u, layer.v, key=len).clone()
    for _ in range(3):
        w = matrix if len(short) == len(matrix) else matrix.t()                 # [short, long]
        long = unit(w.t() @ short)
        short = unit(w @ long)
        assert layer.sigma().item() == pytest.approx((short @ w @ long).item(), abs=1e-12)
        assert torch.allclose(min(layer.u, layer.v, key=len), short, atol=1e-12) and torch.allclose(max(layer.u, layer.v, key=len), long, atol=1e-12)
    before = layer.u.clone()
    layer.sigma(iterate=False)
    assert torch.equal(layer.u, before)
    grad, = torch.autograd.grad(layer.sigma(), layer.weight)
    assert torch.allclose(grad.transpose(0, dim).flatten(1), torch.outer(layer.u, layer.v), atol=1e-12)


def test_glorot_is_the_truncated_normal():
    weight = glorot(torch.empty(1000, 1536))
    assert weight.std().item() == pytest.approx(0.02808, rel=2e-3) and weight.abs().max() <= 2 * 0.02809 / 0.87962

@pytest.mark.parametrize("size", [(2, 2), (8, 8), (6, 10)])
def test_pooled_convolution_equals_the_plain_pair(size):
    x, w = f64(2, 3, *size), f64(5, 3, 3, 3, seed=1)
    fast, ref = poolconv(x, w, impl="fast"), poolconv(x, w, impl="ref")
    assert ref.shape == (2, 5, size[0] // 2, size[1] // 2) and torch.allclose(fast, ref, atol=1e-12)
    for a, b in zip(torch.autograd.grad(fast.sin().sum(), (x, w)), torch.autograd.grad(ref.sin().sum(), (x, w))):
        assert torch.allclose(a, b, atol=1e-12)


def test_pooled_convolution_to_second_order():
    x, w = f64(2, 2, 4, 2), f64(2, 2, 3, 3, seed=1)
    fast = lambda x, w: poolconv(x, w, impl="fast")
    assert gradcheck(fast, (x, w)) and gradgradcheck(fast, (x, w))


def test_kernel_of_the_pooled_convolution():
    w = torch.zeros(1, 1, 3, 3)
    w[0, 0, 1, 1] = 4                                            # the identity: pooling itself
    assert averaged(w)[0, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_attention_to_second_order():
    torch.manual_seed(0)
    layer = SelfAttention(8, init=0.5).double().eval()
    layer.gain.data.fill_(0.5)
    assert gradcheck(layer, f64(2, 8, 2, 2)) and gradgradcheck(layer, f64(1, 8, 2, 2))
    layer.gain.data.zero_()
    x = f64(2, 8, 4, 4)
    assert torch.equal(layer(x), x)


def test_conditional_norm_over_two_processes(monkeypatch):
    """Two processes with the same half batch have the statistics of one."""
    class TwoAlike:
        is_available = is_initialized = staticmethod(lambda: True)
        get_world_size = staticmethod(lambda: 2)
        all_reduce = staticmethod(lambda x: x.mul_(2))

    torch.manual_seed(0)
    norm = ConditionalBatchNorm2d(4, classes=3, sync=True).double()
    alone, x, c = copy.deepcopy(norm), f64(6, 4, 5, 5), torch.arange(6) % 3
    expected = alone(torch.cat([x, x]), torch.cat([c, c]))[:6]
    monkeypatch.setattr(norm_module, "dist", TwoAlike)
    assert torch.allclose(norm(x, c), expected)
    assert torch.allclose(norm.norm.running_var, alone.norm.running_var)


# ------------------------------------------------------------------------------------------------- classes and statistics


@pytest.mark.parametrize("size", [32, 64])
def test_a_class_changes_its_picture_alone(size):
    G, D = narrow(size)
    G.eval()
    z = torch.randn(1, G.z_dim, dtype=torch.float64)
    x = G(z.expand(3, -1), torch.tensor([0, 1, 1]), rng=RNG).image
    assert torch.allclose(x[1], x[2]) and (x[0] - x[1]).abs().mean() > 1e-3 * x[0].abs().mean()
    D.eval()
    y = torch.randn(4, 3, size, size, dtype=torch.float64)
    a, b = D(y, torch.tensor([0, 1, 2, 0])).logits, D(y, torch.tensor([2, 1, 2, 0])).logits
    assert torch.allclose(a[1:], b[1:]) and not torch.isclose(a[0], b[0])
    for p in D.embed.parameters():
        p.data[0] = 0
    h = D(y, torch.tensor([0, 1, 2, 0]), want=frozenset({"pre_logits"})).features["pre_logits"]
    expected = D.to_logit(h)[:, 0] + (D.embed.weight[[0, 1, 2, 0]] / D.embed.sigma() * h).sum(1)
    assert torch.allclose(D(y, torch.tensor([0, 1, 2, 0])).logits, expected)


def test_every_chunk_of_z_counts():
    G, _ = narrow(64)
    G.eval()
    z, c = torch.randn(1, 100, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    x = G(z, c, rng=RNG).image
    for start in range(0, 100, 20):
        moved = z.clone()
        moved[:, start:start + 20] *= -1
        assert not torch.allclose(G(moved, c, rng=RNG).image, x)
    assert torch.equal(G.sample(z, c, rng=RNG, truncation=0.5), G(z * 0.5, c, rng=RNG).image)
    assert Generator(64, num_classes=2, width=2, z_dim=17).chunks == [4, 4, 3, 3, 3]


@pytest.mark.parametrize("size", [32, 64])
def test_standing_statistics(size):
    """Measured ones serve nearly as those of a large batch, whatever the batch; nothing else of the network moves."""
    G, _ = narrow(size)
    G.eval()
    kept = {k: v.clone() for k, v in G.state_dict().items() if "running" not in k and "tracked" not in k}
    z, c = torch.randn(64, G.z_dim, dtype=torch.float64), torch.arange(64) % 3
    standing(G.float(), batches=16)
    G.double()
    assert all(torch.allclose(v, G.state_dict()[k]) for k, v in kept.items())
    x = G(z, c, rng=RNG).image
    assert torch.allclose(G(z[5:7], c[5:7], rng=RNG).image, x[5:7])
    for m in G.modules():
        if isinstance(m, BatchNorm2d):
            m.train()
    of_batch = G(z, c, rng=RNG).image
    assert (x - of_batch).abs().mean() < 0.2 * of_batch.std()


def test_statistics_accumulated_as_the_release_does():
    """Each norm divides by the means of the batches' means and population variances so far, the present batch among them; then by the last."""
    torch.manual_seed(0)
    G = Generator(32, num_classes=3, width=2, norm="none").eval()
    other, seen = copy.deepcopy(G), []
    for m in other.modules():
        if isinstance(m, BatchNorm2d):
            m.sums = torch.zeros(2, m.num_features)
            m.times = 0

            def divided(x, m=m):
                m.sums += torch.stack([x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)])
                m.times += 1
                mean, var = m.sums / m.times
                seen.append(x)
                return F.batch_norm(x, mean, var, m.weight, m.bias, eps=m.eps)
            m.forward = divided
    standing(G, 5, 6, "accumulated")
    rng = Rng(derive("standing statistics"))
    with torch.no_grad():
        for _ in range(5):
            c = rng.randint(3, 6)
            other(rng.randn(6, G.z_dim), c, rng=rng)
    assert len(seen) == 35 and not G.training and not any(m._forward_pre_hooks for m in G.modules())
    for mine, plain in zip(G.modules(), other.modules()):
        if isinstance(mine, BatchNorm2d):
            assert not mine.training and mine.momentum == 0.1 and mine.num_batches_tracked == 5
            assert torch.allclose(mine.running_mean, plain.sums[0] / 5, atol=1e-6) and torch.allclose(mine.running_var, plain.sums[1] / 5, rtol=1e-5)
    standing(G, 5, 6)
    assert not torch.allclose(G.last_norm.running_mean, other.last_norm.sums[0] / 5, rtol=1e-2)


@pytest.mark.parametrize("size", [32, 64])
def test_state_round_trip(size):
    G, D = narrow(size)
    x = G(torch.randn(4, G.z_dim, dtype=torch.float64), torch.arange(4) % 3, rng=RNG).image.detach()
    D(x, torch.arange(4) % 3)
    for net in (G, D):
        other = type(net)(size, num_classes=3, width=2).double()
        other.load_state_dict(net.state_dict())
        net.eval(), other.eval()
        out = [n(torch.ones(2, G.z_dim).double(), torch.tensor([0, 2]), rng=RNG).image if net is G else n(x, torch.arange(4) % 3).logits
               for n in (net, other)]
        assert torch.equal(*out)


# ------------------------------------------------------------------------------------------------------------ start, limits


def test_cifar_starts_as_released():
    torch.manual_seed(0)
    G, D = Generator(num_classes=10), Discriminator(num_classes=10)
    for m in (*G.modules(), *D.modules()):
        if isinstance(m, Spectral) and m.weight.numel() > 2000:
            assert m.weight.std().item() == pytest.approx(0.02, rel=0.05) and abs(m.weight.mean().item()) < 2e-3
        if isinstance(m, Spectral) and m.bias is not None and m.bias.numel() > 100:
            bound = (m.weight.shape[0] / m.weight.numel()) ** 0.5
            assert m.bias.abs().max() <= bound and m.bias.std().item() == pytest.approx(bound / 3 ** 0.5, rel=0.15)
    assert torch.equal(G.last_norm.weight, torch.ones(256)) and torch.equal(G.last_norm.bias, torch.zeros(256))


def test_orthogonal_start():
    torch.manual_seed(0)
    G, D = Generator(64, num_classes=200, width=4), Discriminator(32, num_classes=3, width=8, init="orthogonal")
    for m in (*G.modules(), *D.modules()):
        if isinstance(m, Spectral):
            w = m.weight.flatten(1)
            gram = w @ w.t() if w.shape[0] <= w.shape[1] else w.t() @ w
            assert torch.allclose(gram, torch.eye(len(gram)), atol=1e-4)
            assert m.bias is None or not m.bias.any()


def test_half_precision_and_attention_where_asked():
    torch.manual_seed(0)
    G, D = Generator(64, num_classes=3, width=4, attention=[8, 64]), Discriminator(32, num_classes=3, width=4, attention=[8])
    assert list(G.attention) == ["8", "64"] and list(D.attention) == ["map_8"] and not Generator(64, width=2, attention=[]).attention
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = G(torch.randn(4, 100), torch.arange(4) % 3, rng=RNG).image
        logits = D(F.avg_pool2d(x, 2), torch.arange(4) % 3).logits
    logits.float().sum().backward()
    assert torch.isfinite(logits).all() and all(torch.isfinite(p.grad).all() for p in (*G.parameters(), *D.parameters()))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_one_graph_for_the_compiler():
    torch.manual_seed(0)
    D, x, c = Discriminator(num_classes=3, width=1, attention=[16]), torch.randn(4, 3, 32, 32), torch.arange(4) % 3
    other = copy.deepcopy(D)
    a = D(x, c).logits
    b = torch.compile(other, backend="aot_eager", fullgraph=True)(x, c).logits
    assert torch.allclose(a, b, atol=1e-4)
    a.sum().backward(), b.sum().backward()
    assert all(torch.allclose(p.grad, q.grad, atol=1e-3) for p, q in zip(D.parameters(), other.parameters()))


@pytest.mark.parametrize("build,said", [
    (lambda: Generator(48), "32, 64, 128 or 256"), (lambda: Discriminator((32, 64)), "32, 64, 128 or 256"),
    (lambda: Generator(32, attention=[64]), "maps of 8, 16, 32"), (lambda: Discriminator(32, attention=[4]), "maps of 8, 16"),
    (lambda: Generator(64, num_classes=3, shared_dim=0), "set shared_dim"), (lambda: Generator(64, num_classes=3, z_dim=4), "5 chunks"),
    (lambda: Generator(32, num_classes=3, width=2)(torch.randn(2, 128), rng=RNG), "needs the classes"),
    (lambda: Discriminator(32, num_classes=3, width=2)(torch.randn(2, 3, 32, 32)), "needs the classes")])
def test_what_cannot_be_is_said(build, said):
    with pytest.raises(UsageError, match=said):
        build()


@pytest.mark.parametrize("buffers", ["standing", "copy", "ema"])
def test_the_average_is_sampled_with_the_sigma_of_its_own_weights(buffers):
    """Averaged vectors are no unit vectors, and the live ones belong to other weights: either way layers would be scaled by too much."""
    narrow = {"g": {"use": "biggan", "width": 8, "z_dim": 16}, "d": {"use": "biggan", "width": 8}}
    trainer = tiny_trainer("data.resolution=32", "train.batch=8", "ema.decay=0.99", f'ema.buffers="{buffers}"', "optim_g.lr=1e-3",
                           dataset=noise_set(16, resolution=32), **narrow)
    run_steps(trainer, 20)
    G = sampler(trainer).generator
    for module in G.modules():
        if isinstance(module, Spectral) and module.u is not None:
            assert module.u.norm().item() == pytest.approx(1, abs=1e-4)
            true = torch.linalg.matrix_norm(module.weight.transpose(0, module.dim).flatten(1), 2)
            assert 0.93 < module.sigma(iterate=False) / true < 1.0001
    kept = [b.clone() for b in G.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(kept, sampler(trainer).generator.buffers()))          # however often it is asked for


def test_samples_have_the_statistics_that_the_settings_ask_for():
    narrow = {"g": {"use": "biggan", "width": 4, "z_dim": 16}, "d": {"use": "biggan", "width": 4}}
    trainer = tiny_trainer("data.resolution=32", "ema.standing_batches=3", "ema.standing_batch=5", "ema.standing_rule=accumulated",
                           dataset=noise_set(16, resolution=32), **narrow)
    G = sampler(run_steps(trainer, 1)).generator
    expected = copy.deepcopy(G)
    standing(expected, 3, 5, "accumulated")
    assert {int(m.num_batches_tracked) for m in G.modules() if isinstance(m, BatchNorm2d)} == {3}
    assert all(torch.equal(a, b) for a, b in zip(G.buffers(), expected.buffers()))


def test_the_form_of_imagenet_trains_and_iterates_once_per_step_of_d():
    """Fakes and reals in one pass: spectral norm of D moves once in a D step and once in G's, as in the release, whose pass there is joint too."""
    trainer = tiny_trainer("data.resolution=128", "train.batch=4", "train.d_steps=2", "train.joint=true", "ema.standing_rule=accumulated",
                           dataset=noise_set(8, 3, 128), g={"use": "biggan", "width": 2, "sync_batch_norm": True, **IMAGENET["g"]},
                           d={"use": "biggan", "width": 2, **IMAGENET["d"]},
                           augment={"use": "diffaug", "policy": "translation", "translation_fill": -1})
    layer, seen = trainer.nets.D.to_logit, []
    layer.register_forward_hook(lambda m, inputs, out: seen.append(len(inputs[0])))
    before = layer.u.clone(), trainer.nets.D.blocks["map_32"].conv1.u.clone()
    run_steps(trainer, 1)
    assert seen == [8, 8, 4] and not torch.equal(before[1], trainer.nets.D.blocks["map_32"].conv1.u)
    assert trainer.take_log()["d/bad_grads"] == 0
    G = sampler(trainer).generator
    z, c = torch.randn(2, G.z_dim), torch.tensor([0, 2])
    with torch.no_grad():
        a, b = (G(z, c, rng=RNG).image for _ in range(2))
    assert torch.allclose(a, b, atol=1e-4) and torch.isfinite(a).all()


def test_widths_of_nothing_are_refused():
    for make in (Generator, Discriminator):
        with pytest.raises(UsageError, match="width=0"):
            make(32, width=0)
