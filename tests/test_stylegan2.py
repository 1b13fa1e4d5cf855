"""StyleGAN2's networks: the released code's numbers (test vectors of its specification), names and sizes; precision, mixing, second order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from handful.arch.stylegan2 import Discriminator, Generator
from handful.errors import HandfulError, UsageError
from handful.interop import official_names
from handful.nn.equalized import EqualConv2d, EqualLinear
from handful.nn.minibatch import minibatch_stddev
from handful.nn.modulate import ModulatedConv, ToRGB, demodulation, guarded
from handful.ops.conv import conv2d, conv2d_up
from handful.rng import Rng

TINY = {"channel_base": 64, "channel_max": 8}
SMALL_G = TINY | {"resolution": 16, "z_dim": 8, "w_dim": 8, "mapping_layers": 2}
SMALL_D = TINY | {"resolution": 16}


def small(cls=Generator, **over):
    torch.manual_seed(0)
    net = cls(**(SMALL_G if cls is Generator else SMALL_D) | over)
    with torch.no_grad():                                       # zero at first: then they could be ignored unnoticed
        for name, p in net.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                p.add_(0.1 * torch.randn_like(p))
    return net


# ------------------------------------------------------------------------------------------------------ the release's numbers

# arch of G and D, classes, parameters of G and D, w[0,:3], mean and std with constant noise, img[0,:,0,0], img[3,1,17,5], mean and std without noise,
# logits, squared norms of D's gradient.
VECTORS = {
    "A": ("skip", "resnet", 0, 225_491, 288_993, (-0.021025, -0.350215, -0.245133), (-1.223063, 1.450802), (-0.382828, -0.687763, -0.085416),
          -0.927857, (-1.188532, 1.392393), (0.041532, 0.061118, 0.071271, 0.050967), (0.001794, 0.001865, 0.001969, 0.001864)),
    "B": ("orig", "orig", 0, 221_642, 278_753, (-0.021025, -0.350215, -0.245133), (0.044172, 0.603472), (0.030644, -0.172922, 0.387118),
          0.225274, (0.048524, 0.627065), (-0.524828, -0.544456, -0.558639, -0.541448), (0.002985, 0.002735, 0.003068, 0.003144)),
    "C": ("resnet", "skip", 0, 231_882, 279_521, (-0.021025, -0.350215, -0.245133), (-0.007705, 0.869987), (0.142986, 0.068452, 0.016388),
          -1.439287, (0.002016, 0.832757), (0.104127, 0.046709, 0.050210, 0.125208), (0.009900, 0.010640, 0.008391, 0.012145)),
    "D": ("skip", "resnet", 3, 225_811, 326_624, (-0.429539, 0.189425, 1.326223), (-0.005174, 1.111756), (-0.475244, 0.110674, -0.083086),
          -1.266414, (0.008567, 1.082123), (0.633608, 0.379274, 0.557885, 0.581161), (0.004918, 0.001343, 0.002357, 0.005771)),
}


def filled(net, kind):
    """The specification's filling rule: by the place of the official name in alphabetical order, from NumPy's legacy generator."""
    names = {n.replace("stem.", "b32.fromrgb.") if kind == "D" else n: p for n, p in net.named_parameters()}
    with torch.no_grad():
        for j, name in enumerate(sorted(names)):
            n = np.random.RandomState(j).standard_normal(names[name].shape)
            if name.endswith("affine.bias"):
                n = 1 + 0.1 * n
            elif name.endswith((".bias", "noise_strength")):
                n = 0.1 * n
            elif name.startswith("mapping.fc"):
                n = 100 * n
            names[name].copy_(torch.as_tensor(n))
        buffers = {n: b for n, b in net.named_buffers() if n.endswith("noise_const")}
        for j, name in enumerate(sorted(buffers)):
            buffers[name].copy_(torch.from_numpy(np.random.RandomState(1000 + j).standard_normal(buffers[name].shape)))
    return net.eval()


def vector_g(architecture="skip", classes=0):
    return filled(Generator(32, 3, classes, 16, 16, 1024, 64, architecture, mapping_layers=2), "G")


def vector_z():
    return torch.from_numpy(np.random.RandomState(0).randn(4, 16)).float()


def near(found, expected):
    assert torch.allclose(found.detach(), torch.tensor(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", VECTORS)
def test_generator_has_the_released_numbers(case):
    arch, _, classes, count, _, w3, moments, corner, pixel, quiet, _, _ = VECTORS[case]
    G = vector_g(arch, classes)
    assert sum(p.numel() for p in G.parameters()) == count and G.num_ws == 8
    c = torch.tensor([0, 1, 2, 0]) if classes else None
    w = G.map(vector_z(), c)
    near(w[0, :3], w3)
    ws = w[:, None].expand(-1, 8, -1)
    image, still = G.synthesise(ws, "const"), G.synthesise(ws, "none")
    near(torch.stack([image.mean(), image.std(correction=0)]), moments)
    near(torch.stack([still.mean(), still.std(correction=0)]), quiet)
    near(image[0, :, 0, 0], corner)
    near(image[3, 1, 17, 5], pixel)
    maps = [m.noise_const.expand(4, 1, -1, -1) for m in G.synthesis.modules() if isinstance(m, ModulatedConv)]
    assert torch.allclose(G.synthesise(ws, maps), image, atol=1e-5)


@pytest.mark.parametrize("case", VECTORS)
def test_discriminator_has_the_released_numbers(case):
    _, arch, classes, _, count, *_, logits, norms = VECTORS[case]
    D = filled(Discriminator(32, 3, classes, 1024, 64, architecture=arch, mapping_layers=8), "D")
    assert sum(p.numel() for p in D.parameters()) == count
    x = torch.from_numpy(np.random.RandomState(1).uniform(-1, 1, (4, 3, 32, 32))).float().requires_grad_()
    found = D(x, torch.tensor([0, 1, 2, 0]) if classes else None).logits
    near(found, logits)
    grad, = torch.autograd.grad(found.sum(), x, create_graph=True)
    near(grad.square().sum((1, 2, 3)), norms)
    assert torch.allclose(grad.square().sum((1, 2, 3)), torch.tensor(norms), rtol=1e-3)             # they are small: 1e-4 alone says little


def test_truncation_has_the_released_numbers():
    G = vector_g()
    G.mapping.w_avg.fill_(0.25)
    ws = G.map(vector_z())[:, None].expand(-1, 8, -1)
    near(G.truncate(ws, 0.5, 3)[0, [0, 2, 3], 0], (0.114488, 0.114488, -0.021025))
    near(G.truncate(ws, 0.5)[0, :, 0], (0.114488,) * 8)
    z = vector_z()
    assert torch.allclose(G.sample(z, rng=Rng(3)), G(z, rng=Rng(3)).image, atol=1e-5)
    average = G.sample(z, rng=Rng(3), truncation=0.0)
    assert torch.allclose(average, G.synthesise(G.mapping.w_avg.expand(4, 8, 16), G.noise(4, Rng(3))), atol=1e-5)
    assert not torch.allclose(average[0], average[1], atol=1e-3)                # noise is of each image


def test_path_lengths_have_the_released_numbers():
    G = vector_g()
    ws = G.map(vector_z())[:, None].expand(-1, 8, -1)
    y = torch.from_numpy(np.random.RandomState(2).randn(4, 3, 32, 32)).float() / 32
    grad, = torch.autograd.grad((G.synthesise(ws, "const") * y).sum(), ws, create_graph=True)
    near(grad.square().sum(2).mean(1).sqrt(), (1.397968, 1.334425, 1.209812, 1.207447))


# resolution, fmaps: num_ws, G's parameters and buffers, D's parameters and buffers (8 mapping layers, resnet D).
TOTALS = [(32, 0.5, 8, 21_523_475, 3_392, 21_507_073, 224), (32, 1, 8, 21_523_475, 3_392, 21_507_073, 224),
          (64, 0.5, 10, 23_819_544, 11_632, 23_407_361, 288), (64, 1, 10, 27_032_600, 11_632, 26_488_833, 288),
          (128, 0.5, 12, 24_525_213, 44_448, 23_882_369, 352), (128, 1, 12, 29_328_669, 44_448, 28_389_121, 352),
          (256, 0.5, 14, 24_767_458, 175_568, 24_001_089, 416), (256, 1, 14, 30_034_338, 175_568, 28_864_129, 416),
          (512, 0.5, 16, 24_860_935, 699_904, 24_030_753, 480), (512, 1, 16, 30_276_583, 699_904, 28_982_849, 480),
          (1024, 0.5, 18, 24_900_764, 2_797_104, 24_038_161, 544), (1024, 1, 18, 30_370_060, 2_797_104, 29_012_513, 544)]


@pytest.mark.parametrize("resolution, fmaps, num_ws, g_params, g_buffers, d_params, d_buffers", TOTALS)
def test_sizes_are_the_released_ones(resolution, fmaps, num_ws, g_params, g_buffers, d_params, d_buffers):
    base = int(32768 * fmaps)
    with torch.device("meta"):
        G, D = Generator(resolution, channel_base=base), Discriminator(resolution, channel_base=base)
    assert G.num_ws == num_ws and sum(p.numel() for p in G.parameters()) == g_params and sum(p.numel() for p in D.parameters()) == d_params
    for net, kind, params, buffers in ((G, "G", g_params, g_buffers), (D, "D", d_params, d_buffers)):
        assert sum(t.numel() for t in official_names.to_official(net.state_dict(), kind).values()) == params + buffers


def test_depth_two_mapping_saves_what_it_should():
    with torch.device("meta"):
        full, shallow = Generator(32), Generator(32, mapping_layers=2)
    assert sum(p.numel() for p in full.parameters()) - sum(p.numel() for p in shallow.parameters()) == 1_575_936


def test_capacity_multiplies_the_channels():
    with torch.device("meta"):
        widths = {k: {n: i.channels for n, i in Discriminator(256, channel_base=16384, capacity=k).feature_info.items()} for k in (0.25, 0.5, 1, 2)}
    assert widths[1] == {"map_128": 128, "map_64": 256, "map_32": 512, "map_16": 512, "map_8": 512, "map_4": 512, "pre_logits": 512}
    assert all(c == k * widths[1][n] for k in widths for n, c in widths[k].items())


# ------------------------------------------------------------------------------------------------------- the official names

CONV = "weight noise_strength bias resample_filter noise_const affine.weight affine.bias".split()
RGB = "weight bias affine.weight affine.bias".split()


def listed_g(sides, channel, w, fc, classes=0):
    """Appendix A.1 and A.4: names and shapes of G (architecture "skip") with `channel[side]`, mapping layers of the given inputs."""
    out = {}
    for s in sides:
        c, b = channel[s], f"synthesis.b{s}."
        out |= {b + "const": (c, 4, 4)} if s == 4 else {}
        out[b + "resample_filter"] = (4, 4)
        for name, cin in ([("conv0", channel[s // 2])] if s > 4 else []) + [("conv1", c)]:
            out |= dict(zip([f"{b}{name}.{n}" for n in CONV], [(c, cin, 3, 3), (), (c,), (4, 4), (s, s), (cin, w), (cin,)]))
        out |= dict(zip([f"{b}torgb.{n}" for n in RGB], [(3, c, 1, 1), (3,), (c, w), (c,)]))
    out["mapping.w_avg"] = (w,)
    out |= {"mapping.embed.weight": (w, classes), "mapping.embed.bias": (w,)} if classes else {}
    for i, cin in enumerate(fc):
        out |= {f"mapping.fc{i}.weight": (w, cin), f"mapping.fc{i}.bias": (w,)}
    return out


def listed_d(sides, channel, skip, classes=0, layers=0):
    """Appendix A.2, A.3 and A.5."""
    out = {}
    for s in sides:
        b, c = f"b{s}.", channel[s]
        out[b + "resample_filter"] = (4, 4)
        convs = ([("fromrgb", (c, 3, 1, 1))] if s == sides[0] else []) + [("conv0", (c, c, 3, 3)), ("conv1", (channel[s // 2], c, 3, 3))]
        for name, shape in convs + ([("skip", (channel[s // 2], c, 1, 1))] if skip else []):
            out[b + name + ".weight"] = shape
            out |= {} if name == "skip" else {b + name + ".bias": shape[:1]}
            out[b + name + ".resample_filter"] = (4, 4)
    if classes:
        out |= {"mapping.embed.weight": (512, classes), "mapping.embed.bias": (512,)}
        for i in range(layers):
            out |= {f"mapping.fc{i}.weight": (512, 512), f"mapping.fc{i}.bias": (512,)}
    n = 512 if classes else 1
    return out | {"b4.conv.weight": (512, 513, 3, 3), "b4.conv.bias": (512,), "b4.conv.resample_filter": (4, 4), "b4.fc.weight": (512, 8192),
                  "b4.fc.bias": (512,), "b4.out.weight": (n, 512), "b4.out.bias": (n,)}


ALL_512 = dict.fromkeys((4, 8, 16, 32), 512)
PAPER256 = ALL_512 | {64: 256, 128: 128, 256: 64}
APPENDIX = {
    "A.1": ("G", dict(resolution=32, num_classes=10, mapping_layers=2), listed_g((4, 8, 16, 32), ALL_512, 512, (1024, 512), 10), 77),
    "A.2": ("D", dict(resolution=32, num_classes=10, architecture="orig", mapping_layers=8), listed_d((32, 16, 8), ALL_512, False, 10, 8), 49),
    "A.3": ("D", dict(resolution=32), listed_d((32, 16, 8), ALL_512, True), 37),
    "A.4": ("G", dict(channel_base=16384), listed_g((4, 8, 16, 32, 64, 128, 256), PAPER256, 512, (512,) * 8), 144),
    "A.5": ("D", dict(channel_base=16384), listed_d((256, 128, 64, 32, 16, 8), PAPER256, True), 64),
}


@pytest.mark.parametrize("table", APPENDIX)
def test_names_and_shapes_are_those_of_the_appendix(table):
    kind, settings, listed, rows = APPENDIX[table]
    with torch.device("meta"):
        net = (Generator if kind == "G" else Discriminator)(**settings)
        official = {n: torch.empty(s) for n, s in listed.items()}
    assert len(listed) == rows
    ours = official_names.to_ours(official, kind)
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in net.state_dict().items()}
    back = official_names.to_official(ours, kind)
    assert list(back) == list(listed) and {n: tuple(t.shape) for n, t in back.items()} == listed


@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet"])
@pytest.mark.parametrize("cls, kind", [(Generator, "G"), (Discriminator, "D")])
@pytest.mark.parametrize("resolution", [8, 32])
def test_official_state_dicts_tell_their_settings(cls, kind, architecture, resolution):
    net = small(cls, resolution=resolution, num_classes=3, channels=1, architecture=architecture, mapping_layers=2)
    state = official_names.to_official(net.state_dict(), kind)
    settings = official_names.settings(state, kind)
    assert settings["architecture"] == architecture
    again = cls(**settings)
    again.load_state_dict(official_names.to_ours(state, kind))
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values()))
    assert torch.equal(state[f"{'synthesis.' if kind == 'G' else ''}b8.conv1.resample_filter"], torch.tensor(
        [[1, 3, 3, 1], [3, 9, 9, 3], [3, 9, 9, 3], [1, 3, 3, 1]]) / 64)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("architecture", ["resnet", "skip"])
def test_a_discriminator_without_minibatch_stddev_has_official_names(classes, architecture):
    net = small(Discriminator, num_classes=classes, minibatch_group=1, architecture=architecture)
    state = official_names.to_official(net.state_dict(), "D")
    assert state["b4.conv.weight"].shape == (8, 8, 3, 3)
    settings = official_names.settings(state, "D")
    assert settings["minibatch_group"] == 1 and {n: tuple(t.shape) for n, t in state.items()} == official_names.official_shapes("D", **settings)
    again = Discriminator(**settings)
    again.load_state_dict(official_names.to_ours(state, "D"))
    x, c = torch.randn(3, 3, 16, 16), torch.arange(3) if classes else None
    assert torch.equal(again(x, c).logits, net(x, c).logits)


# The release's embed_features, layer_features and cmap_dim, and what the mapping's tensors are with them.
WIDTHS = [("G", dict(embed_features=5), dict(embed=(5, 3), fc0=(8, 13), fc1=(8, 8), fc2=(8, 8))),
          ("G", dict(layer_features=6), dict(embed=(8, 3), fc0=(6, 16), fc1=(6, 6), fc2=(8, 6))),
          ("G", dict(embed_features=5, layer_features=6), dict(embed=(5, 3), fc0=(6, 13), fc1=(6, 6), fc2=(8, 6))),
          ("D", dict(embed_features=5, layer_features=6), dict(embed=(5, 3), fc0=(6, 5), fc1=(6, 6), fc2=(8, 6))),
          ("D", dict(cmap_dim=7), dict(embed=(7, 3), fc0=(7, 7), fc1=(7, 7), fc2=(7, 7))),
          ("D", dict(cmap_dim=7, layer_features=8), dict(embed=(7, 3), fc0=(8, 7), fc1=(8, 8), fc2=(7, 8)))]


@pytest.mark.parametrize("kind, widths, listed", WIDTHS, ids=str)
def test_other_widths_of_the_mapping_keep_their_names(kind, widths, listed):
    cls = Generator if kind == "G" else Discriminator
    state = official_names.to_official(small(cls, num_classes=3, mapping_layers=3).state_dict(), kind)
    for name, shape in listed.items():
        state |= {f"mapping.{name}.weight": torch.randn(shape), f"mapping.{name}.bias": torch.randn(shape[0])}
    if "cmap_dim" in widths:
        state |= {"b4.out.weight": torch.randn(7, 8), "b4.out.bias": torch.randn(7)}
    settings = official_names.settings(state, kind)
    assert {k: v for k, v in settings.items() if k in ("embed_features", "layer_features", "cmap_dim")} == widths
    back = official_names.to_official(official_names.to_ours(state, kind), kind)
    assert list(back) == list(state) and all(torch.equal(back[n], state[n]) for n in state)
    with pytest.raises(HandfulError, match="'mapping.fc2.weight' is"):
        official_names.to_ours(state | {"mapping.fc2.weight": torch.zeros(3, 3)}, kind)


def test_widths_of_a_mapping_without_classes():
    state = official_names.to_official(small(mapping_layers=2).state_dict(), "G")
    state |= {"mapping.fc0.weight": torch.zeros(6, 4), "mapping.fc0.bias": torch.zeros(6), "mapping.fc1.weight": torch.zeros(8, 6)}
    settings = official_names.settings(state, "G")
    assert settings["layer_features"] == 6 and settings["z_dim"] == 4 and "embed_features" not in settings
    assert official_names.to_ours(state, "G").keys() == official_names.to_ours(official_names.to_official(small().state_dict(), "G"), "G").keys()


def test_a_state_dict_that_is_none_is_refused_in_a_line():
    G, D = small().state_dict(), small(Discriminator).state_dict()
    official = official_names.to_official(D, "D")
    for broken, kind, why in [({**official, "b16.conv2.weight": torch.zeros(1)}, "D", "'b16.conv2.weight' has no place"),
                              ({k: v for k, v in official.items() if k != "b8.conv0.bias"}, "D", "'b8.conv0.bias' is missing"),
                              ({k: v for k, v in official.items() if k != "b16.fromrgb.weight"}, "D", "no 'b16.fromrgb.weight'"),
                              (official | {"b4.fc.weight": torch.zeros(8, 8)}, "D", r"'b4.fc.weight' is \[8, 8\] where the rest asks for \[8, 128\]"),
                              (official, "G", "no state dict of StyleGAN2's G"), (G, "D", "no state dict of StyleGAN2's D"), ({}, "G", "no state")]:
        with pytest.raises(HandfulError, match=why) as error:
            official_names.to_ours(broken, kind)
        assert "\n" not in str(error.value)
    with pytest.raises(HandfulError, match="'b8.conv0.bias' is missing"):
        official_names.to_official({k: v for k, v in D.items() if k != "b8.conv0.bias"}, "D")


# ------------------------------------------------------------------------------------------------------------- the layers


def test_modulated_convolution_against_one_weight_per_sample():
    """The definition: modulate, demodulate and convolve with a weight of each sample's own; noise, bias, activation, gain."""
    torch.manual_seed(1)
    for up in (False, True):
        layer = ModulatedConv(5, 6, 4, 16 if up else 8, up=up, gain=0.7).double()
        with torch.no_grad():
            layer.noise_strength.fill_(0.3)
            layer.bias.normal_()
        x, w, side = torch.randn(3, 5, 8, 8).double(), torch.randn(3, 4).double(), 16 if up else 8
        scale, noise = torch.rand(3, 5).double() - 0.2, torch.randn(3, 1, side, side).double()
        y, after = layer(x, scale, w, noise)
        for n in range(3):
            style = w[n] @ layer.affine.weight.t() / 2 + layer.affine.bias
            weight = layer.weight * style[None, :, None, None]
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
            one = (conv2d_up if up else conv2d)((x[n] * scale[n][:, None, None])[None], weight)[0]
            one = F.leaky_relu(one + 0.3 * noise[n] + layer.bias[:, None, None], 0.2) * math.sqrt(2) * 0.7
            assert torch.allclose(y[n] * after[n][:, None, None], one)
            limited, none = layer(x, scale, w, noise, 0.5)
            assert none is None and torch.allclose(limited[n], one.clamp(-0.35, 0.35))


def test_to_rgb_is_a_modulated_1x1_convolution():
    torch.manual_seed(1)
    layer = ToRGB(5, 3, 4)
    x, w, scale = torch.randn(2, 5, 6, 6), torch.randn(2, 4), torch.rand(2, 5)
    plain = torch.stack([F.conv2d(x[n:n + 1], layer.weight * (layer.affine(w)[n] * scale[n] / math.sqrt(5))[:, None, None])[0] for n in range(2)])
    assert torch.allclose(layer(x, scale, w), plain + layer.bias[:, None, None], atol=1e-5)
    assert layer(x, scale, w, 0.1).abs().max() <= 0.1


def test_modulated_convolution_up_to_second_order():
    torch.manual_seed(2)
    layer = ModulatedConv(2, 3, 2, 4, up=True).double()
    with torch.no_grad():
        layer.noise_strength.fill_(0.3)
    inputs = [torch.randn(s).double().requires_grad_() for s in ((2, 2, 2, 2), (2, 2), (2, 2), (3, 2, 3, 3))]
    noise = torch.randn(2, 1, 4, 4).double()

    def run(x, scale, w, weight):
        y, after = torch.func.functional_call(layer, {"weight": weight}, (x, scale, w, noise))
        return y * after[:, :, None, None]

    assert gradcheck(run, inputs) and gradgradcheck(run, inputs)


def test_fp16_guard_changes_nothing_but_the_range():
    torch.manual_seed(3)
    weight, style = torch.randn(6, 5, 3, 3).double() * 100, torch.randn(4, 5).double() * 50
    w, s = guarded(weight, style)
    assert w.flatten(1).abs().amax(1).allclose(torch.tensor(1 / math.sqrt(45)).double()) and s.abs().amax(1).allclose(torch.ones(4).double())
    x = torch.randn(4, 5, 8, 8).double()
    plain, kept = (conv2d(x * b[:, :, None, None], a) * demodulation(a, b)[:, :, None, None] for a, b in ((weight, style), (w, s)))
    assert torch.allclose(plain, kept, rtol=1e-5)


def test_fp16_layer_follows_the_fp32_one():
    """Weights and styles that overflow fp16 when multiplied (200 * 200 * 45 terms > 65504)."""
    torch.manual_seed(4)
    layer = ModulatedConv(5, 6, 4, 8)
    with torch.no_grad():
        layer.weight.mul_(200)
        layer.affine.bias.mul_(200)
    x, w, noise = torch.randn(2, 5, 8, 8), torch.randn(2, 4), torch.randn(2, 1, 8, 8)
    full, _ = layer(x, None, w, noise, 256.0)
    half, _ = layer(x.half(), None, w, noise, 256.0)
    assert half.dtype == torch.float16 and torch.allclose(full, half.float(), atol=0.02)


def test_equalised_layers():
    torch.manual_seed(5)
    fc = EqualLinear(6, 4, lr=0.01, lrelu=True)
    assert abs(fc.weight.std().item() / 100 - 1) < 0.5
    with torch.no_grad():
        fc.bias.normal_()
    x = torch.randn(3, 6)
    assert torch.allclose(fc(x), F.leaky_relu(F.linear(x, fc.weight * 0.01 / math.sqrt(6), fc.bias * 0.01), 0.2) * math.sqrt(2), atol=1e-6)
    embed = EqualLinear(5, 4, bias=0.5)
    c = torch.tensor([4, 0, 4])
    assert torch.allclose(embed.row(c), embed(F.one_hot(c, 5).float()), atol=1e-6)
    for cin, side in ((2, 32), (64, 2)):                            # the constant goes to the weight, or to the smaller input
        conv, x = EqualConv2d(cin, 3, 3, gain=0.5), torch.randn(2, cin, side, side)
        torch.nn.init.normal_(conv.bias)
        plain = F.leaky_relu(F.conv2d(x, conv.weight / math.sqrt(9 * cin), conv.bias, padding=1), 0.2) * math.sqrt(2) * 0.5
        assert torch.allclose(conv(x), plain, atol=1e-5)


@pytest.mark.parametrize("batch, group, channels, g", [(8, 4, 1, 4), (6, 4, 2, 3), (4, 8, 1, 4), (3, 4, 1, 3), (24, 32, 1, 24), (5, 4, 1, 1)])
def test_minibatch_stddev_against_a_loop(batch, group, channels, g):
    x = torch.randn(batch, 4, 3, 3)
    y = minibatch_stddev(x, group, channels)
    assert y.shape == (batch, 4 + channels, 3, 3) and torch.equal(y[:, :4], x)
    for n in range(batch):
        members = x[n % (batch // g)::batch // g]
        assert len(members) == g
        for f in range(channels):
            some = members[:, f * 4 // channels:(f + 1) * 4 // channels]
            expected = ((some - some.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
            assert torch.allclose(y[n, 4 + f], expected)


# ---------------------------------------------------------------------------------------------------------- the generator


def test_mixing_is_one_cutoff_for_the_batch_uniform_with_probability():
    G = small(style_mixing=0.6).train()
    u = torch.arange(0, 1, 1e-3) + 5e-4
    cutoffs = G._first(u).sum((1, 2))                               # how many of ws are the first z's
    counts = torch.bincount(cutoffs, minlength=7)
    assert counts[0] == 0 and counts[6] == 400 and all(abs(n - 600 / 5) <= 1 for n in counts[1:6].tolist())
    z = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    seen = set()
    for seed in range(30):
        rng = Rng(seed)
        made = G(z, rng=rng)
        first, second = G.map(z), G.map(rng.fork("mixing").randn(8, 8))
        u = rng.fork("cutoff", batch=1, slots=range(1)).rand(1)
        k = int(G._first(u).sum())
        seen.add(k)
        expected = torch.where(torch.arange(6)[:, None] < k, first[:, None], second[:, None])
        assert torch.allclose(made.latent, expected, atol=1e-5) and torch.allclose(made.stats["w"], first, atol=1e-5)
        parts = [G(z[i:i + 4], rng=Rng(seed, batch=8, slots=range(i, i + 4))) for i in (0, 4)]
        assert torch.allclose(torch.cat([p.latent for p in parts]), made.latent, atol=1e-5)
        assert torch.allclose(torch.cat([p.image for p in parts]), made.image, atol=1e-4)
    assert len(seen) > 3
    for net in (G.eval(), small(style_mixing=0.0).train()):
        made = net(z, rng=Rng(1))
        assert torch.allclose(made.latent, net.map(z)[:, None].expand(-1, 6, -1), atol=1e-6)


def test_each_vector_of_ws_rules_its_layers():
    """ToRGB shares its vector with the next block's first convolution; only the last one has its own."""
    G = small()
    ws = torch.randn(1, 6, 8)
    users = {i: set() for i in range(6)}
    for name, module in G.synthesis.named_modules():
        if name.endswith("affine"):
            module.register_forward_hook(lambda m, args, out, name=name: [
                users[i].add(name.removesuffix(".affine")) for i in range(6) if torch.equal(args[0], ws[:, i])] and None)
    G.synthesise(ws)
    assert users == {0: {"b4.conv1"}, 1: {"b4.torgb", "b8.conv0"}, 2: {"b8.conv1"}, 3: {"b8.torgb", "b16.conv0"}, 4: {"b16.conv1"}, 5: {"b16.torgb"}}


def test_average_w_moves_in_commit_alone():
    G = small().train()
    made = G(torch.randn(4, 8), rng=Rng(1))
    assert not G.mapping.w_avg.any() and made.stats["w"].shape == (4, 8) and not made.stats["w"].requires_grad
    mean = made.stats["w"].mean(0)
    G.commit({"w": mean})
    assert torch.allclose(G.mapping.w_avg, 0.005 * mean)
    G.commit({"w": mean})
    assert torch.allclose(G.mapping.w_avg, (0.005 + 0.995 * 0.005) * mean)
    assert "mapping.w_avg" in G.state_dict() and "synthesis.b4.conv1.noise_const" in G.state_dict()


def test_same_picture_whatever_the_batch():
    from handful.infer.model import SeedRng

    G = small().eval()
    z = torch.randn(5, 8)
    whole = G.sample(z, rng=SeedRng(range(5), torch.device("cpu")), truncation=0.7)
    for i in range(5):
        assert torch.allclose(whole[i:i + 1], G.sample(z[i:i + 1], rng=SeedRng([i], torch.device("cpu")), truncation=0.7), atol=1e-5)


def test_noise_of_every_kind():
    G = small().eval()
    ws = G.map(torch.randn(2, 8))[:, None].expand(-1, 6, -1)
    assert not torch.equal(G.synthesise(ws, "const"), G.synthesise(ws, "none"))
    assert not torch.equal(G.synthesise(ws, G.noise(2, Rng(1))), G.synthesise(ws, G.noise(2, Rng(2))))
    with pytest.raises(KeyError, match="random"):
        G.synthesise(ws, "random")
    assert [tuple(n.shape) for n in G.noise(2, Rng(1))] == [(2, 1, 4, 4), (2, 1, 8, 8), (2, 1, 8, 8), (2, 1, 16, 16), (2, 1, 16, 16)]


@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet"])
def test_networks_up_to_second_order_in_fp64(architecture):
    """G: path length's gradient of a gradient, with respect to a parameter and to ws. D: R1's, with respect to the image and a weight."""
    G = small(resolution=8, channel_max=2, channel_base=16, w_dim=2, z_dim=2, architecture=architecture, channels=1).double()
    ws = torch.randn(2, 4, 2).double().requires_grad_()
    weight = G.synthesis.b8.conv0.weight.detach().clone().requires_grad_()

    def image(ws, weight):
        return torch.func.functional_call(_Synthesise(G), {"G.synthesis.b8.conv0.weight": weight}, (ws,))

    assert gradcheck(image, (ws, weight), fast_mode=True) and gradgradcheck(image, (ws, weight), fast_mode=True)
    D = small(Discriminator, resolution=8, channel_max=2, channel_base=16, architecture=architecture, channels=1, num_classes=2).double()
    x, c = torch.randn(4, 1, 8, 8).double().requires_grad_(), torch.tensor([0, 1, 1, 0])
    weight = D.b8.conv1.weight.detach().clone().requires_grad_()

    def logits(x, weight):
        return torch.func.functional_call(D, {"b8.conv1.weight": weight}, (x, c)).logits

    assert gradcheck(logits, (x, weight), fast_mode=True) and gradgradcheck(logits, (x, weight), fast_mode=True)


class _Synthesise(torch.nn.Module):
    def __init__(self, G):
        super().__init__()
        self.G = G

    def forward(self, ws):
        return self.G.synthesise(ws, "const")


# ------------------------------------------------------------------------------------------------------ discriminator, precision


def test_batch_statistics_are_declared_and_features_as_said():
    assert small(Discriminator).has_batch_stats and not small(Discriminator, minibatch_group=1).has_batch_stats and not small().has_batch_stats
    D = small(Discriminator, minibatch_group=1)
    x = torch.randn(3, 3, 16, 16)
    judged = D(x, want=frozenset(D.feature_info))
    assert {n: tuple(f.shape[1:]) for n, f in judged.features.items()} == {"map_8": (8, 8, 8), "map_4": (8, 4, 4), "pre_logits": (8,)}
    assert torch.allclose(judged.logits[:1], D(x[:1]).logits, atol=1e-5)
    assert torch.allclose(D.b4.out(judged.features["pre_logits"])[:, 0], judged.logits) and D.b4.conv.weight.shape[1] == 8


def test_classes_project_on_the_embedding():
    D = small(Discriminator, num_classes=3)
    x, c = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 1])
    judged = D(x, c, want=frozenset({"pre_logits"}))
    e = D.mapping.embed.weight[:, c].t() / math.sqrt(3) + D.mapping.embed.bias
    e = e / (e.square().mean(1, keepdim=True) + 1e-8).sqrt()
    assert torch.allclose(judged.logits, (D.b4.out(judged.features["pre_logits"]) * e).sum(1) / math.sqrt(8), atol=1e-5)
    for net, given in ((D, x), (small(num_classes=3), torch.randn(4, 8))):
        with pytest.raises(UsageError, match="num_classes=3"):
            net(given, None, **({} if net is D else {"rng": Rng(1)}))


@pytest.mark.parametrize("resolution, halves, from_side", [(32, 4, 8), (64, 4, 8), (128, 4, 16), (256, 4, 32), (512, 4, 64), (1024, 4, 128),
                                                           (32, 0, 64), (32, 1, 32)])
def test_blocks_of_the_highest_resolutions_run_in_half(resolution, halves, from_side):
    tiny = {"resolution": resolution, "channel_base": 4 * resolution, "channel_max": 4, "half_blocks": halves}
    G, D = Generator(**tiny, z_dim=4, w_dim=4, mapping_layers=1), Discriminator(**tiny)
    assert G.half_from == D.half_from == from_side
    if resolution > 64:
        return
    seen = {}
    for name, module in [*G.named_modules(), *D.named_modules()]:
        if isinstance(module, (ModulatedConv, EqualConv2d, EqualLinear, ToRGB)):
            module.register_forward_hook(lambda m, args, out, name=name: seen.__setitem__(name, (out[0] if isinstance(out, tuple) else out).dtype))
    with torch.autocast("cpu", torch.bfloat16):
        made = G(torch.randn(2, 4), rng=Rng(1))
        judged = D(made.image, want=frozenset(D.feature_info))
    assert made.image.dtype == judged.logits.dtype == made.latent.dtype == judged.features["pre_logits"].dtype == torch.float32
    for name, dtype in seen.items():
        side = resolution if name == "stem" else int(name.split(".b")[-1].split(".")[0].removeprefix("b")) if "b" in name else 0
        half = side >= from_side and "affine" not in name and "torgb" not in name
        assert dtype == (torch.bfloat16 if half else torch.float32), name
    seen.clear()
    D(G(torch.randn(2, 4), rng=Rng(1)).image)
    assert set(seen.values()) == {torch.float32}


def test_clamp_acts_with_half_precision_alone():
    G, D = small(conv_clamp=0.01, architecture="orig").eval(), small(Discriminator, conv_clamp=0.01)
    z, x = torch.randn(2, 8), torch.randn(4, 3, 16, 16)
    free = G(z, rng=Rng(1)).image, D(x, want=frozenset({"map_8"})).features["map_8"]
    with torch.autocast("cpu", torch.bfloat16):
        held = G(z, rng=Rng(1)).image, D(x, want=frozenset({"map_8"})).features["map_8"]
        unheld = small(conv_clamp=None, architecture="orig").eval()(z, rng=Rng(1)).image
    assert free[0].abs().max() > 0.02 and held[0].abs().max() <= 0.0101
    skip = D.b16.skip(D.stem(x).clamp(-0.01, 0.01))                             # not clamped itself; the main path is, at 0.01 / sqrt(2)
    assert free[1].abs().max() > 0.02 and held[1].abs().max() <= skip.abs().max() * 1.05 + 0.01 / math.sqrt(2)
    assert torch.allclose(unheld, free[0], atol=0.1)


def test_second_order_under_autocast_is_finite():
    G, D = small(), small(Discriminator)
    x = torch.randn(4, 3, 16, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        logits, made = D(x).logits, G(torch.randn(4, 8), rng=Rng(1))
        r1, = torch.autograd.grad(logits.sum(), x, create_graph=True)
        path, = torch.autograd.grad((made.image * torch.randn_like(made.image)).sum(), made.latent, create_graph=True)
        (r1.float().square().sum() + path.float().square().sum()).backward()
    grads = [p.grad for n in (G, D) for p in n.parameters() if p.grad is not None]
    assert len(grads) > 40 and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("resolution", [4, 8, 1024])
def test_every_power_of_two_from_4_to_1024(resolution):
    tiny = {"resolution": resolution, "channel_base": 2 * resolution, "channel_max": 2}
    G, D = Generator(**tiny, z_dim=4, w_dim=4, mapping_layers=1), Discriminator(**tiny)
    with torch.no_grad():
        made = G(torch.randn(1, 4), rng=Rng(1))
        assert made.image.shape == (1, 3, resolution, resolution) and made.latent.shape == (1, 2 * int(math.log2(resolution)) - 2, 4)
        assert D(made.image, want=frozenset({"map_4"})).features["map_4"].shape == (1, 2, 4, 4)
    assert not set(D.feature_info) ^ {f"map_{2**k}" for k in range(2, int(math.log2(max(resolution, 8))))} ^ {"pre_logits"}


@pytest.mark.parametrize("resolution", [0, 2, 48, 2048, (64, 128)])
def test_other_sizes_are_refused_in_a_line(resolution):
    for cls in (Generator, Discriminator):
        with pytest.raises(UsageError, match="4, 8, 16 ... or 1024 pixels; choose one"):
            cls(resolution=resolution)


def test_synthesis_is_one_graph_for_a_compiler():
    G = small().eval()
    ws = G.map(torch.randn(2, 8))[:, None].expand(-1, 6, -1).detach()
    noise = G.noise(2, Rng(1))
    explained = torch._dynamo.explain(G.synthesise)(ws, noise)
    assert explained.graph_break_count == 0


@pytest.mark.parametrize("wanted", ["map_16", "map_4", "pre_logits"])
def test_a_pass_for_features_alone_stops_at_them(wanted):
    D = Discriminator(32, channel_base=256, channel_max=16)
    x, want = torch.randn(4, 3, 32, 32), frozenset({wanted})
    ran = []
    D.b4.register_forward_hook(lambda *_: ran.append(1))
    short, whole = D(x, want=want, logits=False), D(x, want=want)
    assert torch.equal(short.features[wanted], whole.features[wanted]) and len(ran) == 1 + (wanted == "pre_logits")
    assert len(short.logits) == (4 if wanted == "pre_logits" else 0)
