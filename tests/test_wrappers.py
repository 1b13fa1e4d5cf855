"""PA-GAN's bits and adaptive dropout: what they change in a discriminator and what they leave, on every architecture, in copies and processes."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handful import catalog
from handful.catalog import Use
from handful.errors import HandfulError, UsageError
from handful.nn.between import insert, linear_maps
from handful.nn.conv import Conv3x3
from handful.nn.equalized import EqualConv2d, EqualLinear
from handful.rng import Rng, joined
from handful.seam import Discriminator, FeatureInfo, Judged
from handful.terms import PAGAN, AdaptiveDropout
from making import NARROW, noise_set, of_two_processes, run_steps, tiny_trainer, weights
from tiny import TinyD

ARCHS = catalog.names("arch")
WRAPPERS = {"pa_gan": PAGAN, "adaptive_dropout": AdaptiveDropout}


def discriminator(name: str, **known) -> Discriminator:
    torch.manual_seed(0)
    known = {"resolution": 64, "channels": 3, "num_classes": 0} | known
    return catalog.build("arch", Use(name, **NARROW.get(name, {"d": {}})["d"]), "Discriminator", **known)


def unbatched(name: str, **known) -> Discriminator:
    """Without batch statistics, so that images can be compared one by one."""
    d = discriminator(name, minibatch_group=1, **known)
    for m in d.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.eval()
    return d


def judge(d: Discriminator, x: torch.Tensor, seed: int = 1, **more) -> torch.Tensor:
    return d(x, None, d.extra_of(x), rng=Rng(seed), **more).logits


def pictures(n: int = 4, side: int = 64) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(7)) * 2 - 1


# --------------------------------------------------------------------------------------------------- the place before a bias


@pytest.mark.parametrize("layer, x", [
    (nn.Linear(3, 4), torch.randn(2, 3)), (nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5)), (nn.Conv2d(3, 4, 3, bias=False), torch.randn(2, 3, 5, 5)),
    (EqualLinear(3, 4, bias=0.5, lrelu=True), torch.randn(2, 3)), (EqualConv2d(3, 4, 3, gain=0.7), torch.randn(2, 3, 5, 5)),
    (EqualConv2d(3, 4, 1, lrelu=False), torch.randn(2, 3, 5, 5)), (Conv3x3(3, 4, bias="uniform", norm="none"), torch.randn(2, 3, 8, 8))],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "")
def test_a_change_comes_between_product_and_bias(layer, x):
    layer, x = layer.double(), x.double()
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    gain, lrelu = getattr(layer, "bias_gain", 1.0), getattr(layer, "lrelu", getattr(layer, "bias_gain", None) and layer.bias is not None)

    def by_hand(change):
        bare = copy.deepcopy(layer)
        bare.lrelu = False
        if layer.bias is not None:
            bare.bias = None if isinstance(layer, EqualConv2d) else nn.Parameter(torch.zeros_like(layer.bias))
        y = change(bare(x))
        if layer.bias is not None:
            y = y + (layer.bias * gain).view(-1, *[1] * (y.ndim - 2))
        return F.leaky_relu(y, 0.2) if lrelu else y

    plain = layer(x).clone()
    changed = copy.deepcopy(layer)
    insert(changed, lambda product, g: product * 3 + 2 * g)
    assert torch.allclose(changed(x), by_hand(lambda y: y * 3 + 2 * gain)) and not torch.allclose(changed(x), plain)
    insert(changed, lambda product, g: product - 2 * g)                       # after the first
    assert torch.allclose(changed(x), by_hand(lambda y: y * 3))
    same = copy.deepcopy(layer)
    insert(same, lambda product, g: product)
    insert(same, lambda product, g: product * 1)
    assert torch.equal(same(x), plain)


# -------------------------------------------------------------------------------------------------------------- both wrappers


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", WRAPPERS)
def test_without_strength_d_is_as_it_was_bit_for_bit(name, arch):
    d, x = discriminator(arch), pictures()
    for p in d.parameters():                                                 # biases start at zero
        p.data += 0.01 * torch.randn_like(p)
    wrapped = WRAPPERS[name]().wrap(copy.deepcopy(d))
    extra = d.extra_of(x)
    features = frozenset(d.feature_info)
    how = {"rng": Rng(1).fork("inner")} if d.draws else {}                   # what the wrapper gives it
    a, b = d(x, None, extra, features, **how), wrapped(x, None, extra, features, rng=Rng(1))
    assert torch.equal(a.logits, b.logits) and all(torch.equal(f, b.features[k]) for k, f in a.features.items())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(copy.deepcopy(d)(x, None, extra, **how).logits, copy.deepcopy(wrapped)(x, None, extra, rng=Rng(1)).logits)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", WRAPPERS)
def test_with_strength_each_image_gets_its_own_numbers(name, arch):
    wrapped, x = WRAPPERS[name](p=0.5).wrap(unbatched(arch)), pictures(1).expand(6, -1, -1, -1).contiguous()
    wrapped.inner.requires_grad_(True)
    before = wrapped.inner(x, None, wrapped.extra_of(x)).logits
    logits = judge(copy.deepcopy(wrapped), x)
    flat = logits.reshape(6, -1)
    scatter = (flat - flat.mean(0)).abs().amax(0)
    assert (scatter > 1e-3 * (before.abs().mean() + 1e-4)).all()             # every logit, those of a further scale too
    assert torch.equal(logits, judge(copy.deepcopy(wrapped), x)) and not torch.equal(logits, judge(copy.deepcopy(wrapped), x, 2))
    wrapped.eval()
    still = judge(wrapped, x).reshape(6, -1)
    assert torch.allclose(still, still[:1].expand(6, -1), atol=1e-6)         # in evaluation mode nothing is random


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_others_read_of_d_is_there(name):
    for arch in ("fastgan", "stylegan2"):
        d = discriminator(arch, num_classes=3)
        wrapped = WRAPPERS[name](p=0.5).wrap(d)
        for what in ("num_classes", "feature_info", "has_batch_stats", "resolution", "channels", "stem"):
            assert getattr(wrapped, what) == getattr(d, what)
        x = pictures()
        assert wrapped.extra_of(x).keys() == d.extra_of(x).keys() and wrapped.draws
        assert {k.removeprefix("inner.") for k in wrapped.state_dict() if k.startswith("inner.")} == set(d.state_dict())
        own = {k for k in wrapped.state_dict() if not k.startswith("inner.")}
        assert own == ({"p", "maps.0"} | ({"maps.1"} if arch == "fastgan" else set()) if name == "pa_gan" else {"p"})
        assert wrapped(x, torch.arange(4) % 3, wrapped.extra_of(x)).logits.shape == d(x, torch.arange(4) % 3, d.extra_of(x)).logits.shape


@pytest.mark.parametrize("arch", ["stylegan2", "sngan", "fastgan"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_deep_copy_is_independent(name, arch):
    """InsGen's slow copy of D: whatever it does leaves the original alone, and the other way round."""
    wrapped, x = WRAPPERS[name](p=0.5).wrap(unbatched(arch)), pictures()
    other = copy.deepcopy(wrapped)
    originals = {id(p) for p in wrapped.places}
    assert not originals & {id(p) for p in other.places}
    reached = [h.change for m in other.inner.modules() for h in m._forward_hooks.values()]
    reached += [m.before_bias for m in other.inner.modules() if getattr(m, "before_bias", None) is not None]
    assert {id(r) for r in reached} == {id(p) for p in other.places}
    same = judge(copy.deepcopy(wrapped), x)
    with torch.no_grad():
        other.p.fill_(0.0)
        other.inner.stem.apply(lambda m: nn.init.zeros_(m.weight) if getattr(m, "weight", None) is not None else None)
        judge(other, x)
    assert torch.equal(judge(wrapped, x), same) and not torch.equal(judge(other, x), same)
    assert all(p.value is None for p in (*wrapped.places, *other.places))


@pytest.mark.parametrize("name", WRAPPERS)
def test_batches_laid_end_to_end_draw_as_apart(name):
    wrapped, x = WRAPPERS[name](p=0.6).wrap(TinyD()).double(), pictures(8, 16).double()
    a, b = (Rng(s, batch=4, slots=range(4)) for s in (1, 2))
    apart = torch.cat([wrapped(x[:4], rng=a.again()).logits, wrapped(x[4:], rng=b.again()).logits])
    assert torch.allclose(wrapped(x, rng=joined(a, b)).logits, apart)
    sliced = wrapped(x[1:3], rng=Rng(1, batch=4, slots=range(1, 3))).logits
    assert torch.allclose(sliced, apart[1:3])


@pytest.mark.parametrize("name", WRAPPERS)
def test_second_order_passes_and_everything_trains(name):
    wrapped, x = WRAPPERS[name](p=0.6).wrap(TinyD()).double(), pictures(4, 16).double().requires_grad_()
    grad, = torch.autograd.grad(wrapped(x, rng=Rng(1)).logits.sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in wrapped.named_parameters() if n != "inner.head.bias")
    assert torch.autograd.gradcheck(lambda x: wrapped(x, rng=Rng(1)).logits, x.detach()[:1, :, :4, :4].requires_grad_())


def use(name: str, **settings) -> str:
    return f"terms.{name}={json.dumps({'use': name, **settings})}"


BOTH = [use("pa_gan", p=0.3), use("adaptive_dropout", p=0.2)]
EXACT = {"optim_g": {"eps": 1e-3}, "optim_d": {"eps": 1e-3}}                  # Adam must not blow rounding up where a gradient is nearly 0


def control(target: float) -> str:
    return use("ada_controller", of="d", target=target, start=None, kimg=0.1, interval=1)


@pytest.mark.parametrize("joint", ["false", "true"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_runs_with_terms_that_judge_more_and_accumulate(name, joint):
    settings = [use(name, p=0.5), f"train.joint={joint}", use("r1", gamma=1.0), use("consistency"), use("bcr", shift=0.125)]
    whole, parts = (run_steps(tiny_trainer(*settings, *more, **EXACT), 2) for more in ([], ["train.micro_batch=2"]))
    assert torch.allclose(weights(whole), weights(parts), rtol=0, atol=3e-5)
    log = whole.take_log()
    assert log[f"d/{name}/p"] == 0.5 and log["d/bad_grads"] == 0


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("target, grows", [(-2.0, True), (2.0, False)])
def test_the_controller_moves_p(name, target, grows):
    trainer = tiny_trainer(use(name, p=0.5), control(target))
    assert not any("strength p=0" in n for n in trainer.notes)
    run_steps(trainer, 3)
    assert trainer.nets.D.p.item() == pytest.approx(0.5 + (0.24 if grows else -0.24), abs=1e-5)
    assert trainer.state_dict()["D"]["p"] == trainer.nets.D.p
    assert any("strength p=0" in n for n in tiny_trainer(use(name)).notes)   # nothing moves it: said aloud


@pytest.mark.parametrize("name", WRAPPERS)
def test_goes_on_bit_for_bit_with_the_controller(name):
    settings = [use(name, p=0.5), control(0.3), use("insgen", queue_real=8, queue_fake=8)]
    straight, first, second = (tiny_trainer(*settings) for _ in range(3))
    run_steps(straight, 4)
    second.load_state_dict(copy.deepcopy(run_steps(first, 2).state_dict()))
    assert torch.equal(weights(run_steps(second, 2)), weights(straight)) and second.nets.D.p == straight.nets.D.p != 0.5


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.filterwarnings("ignore:Graph break")              # torch 2.6 says so of the making of a generator
def test_the_compiler_gives_the_same(monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: real(m, backend="aot_eager"))
    plain, twin = (run_steps(tiny_trainer(*BOTH, use("r1", every=2), compile=c), 2) for c in (False, True))
    assert (weights(plain) - weights(twin)).abs().max() < 1e-5


@pytest.mark.parametrize("name", WRAPPERS)
def test_half_precision_keeps_to_full(name):
    wrapped, x = WRAPPERS[name](p=0.5).wrap(unbatched("stylegan2")), pictures()
    full = judge(wrapped, x)
    with torch.autocast("cpu", torch.bfloat16):
        half = judge(wrapped, x)
    assert torch.allclose(full, half.float(), atol=0.05 * full.abs().max().item())


def test_both_at_once_and_the_controller_refuses_to_choose():
    trainer = run_steps(tiny_trainer(*BOTH), 2)
    log = trainer.take_log()
    assert log["d/pa_gan/p"] == pytest.approx(0.3) and log["d/adaptive_dropout/p"] == pytest.approx(0.2) and log["d/pa_gan/bits"] == 5
    with pytest.raises(HandfulError, match="2 terms inside D have a strength p, and it moves one: keep one of them, or leave the term out"):
        tiny_trainer(*BOTH, use("ada_controller", of="d"))


def work(out: Path) -> None:
    """What each rank runs under torchrun."""
    from handful.training import distributed

    torch.set_num_threads(1)
    rank, world = distributed.start(torch.device("cpu"))
    torch.save(weights(run_steps(tiny_trainer(*BOTH, rank=rank, world=world, **EXACT), 3)), out / f"rank{rank}.pt")
    distributed.leave()


def test_two_processes_are_one(tmp_path):
    a, b = of_two_processes(__file__, tmp_path)
    one = weights(run_steps(tiny_trainer(*BOTH, **EXACT), 3))
    assert torch.equal(a, b) and (one - a).abs().max() < 1e-5


# ---------------------------------------------------------------------------------------------------------------------- PA-GAN


def bits_of(wrapped, n: int, seed: int) -> torch.Tensor:
    return (Rng(seed).rand(n, wrapped.bits) < wrapped.chances()).double()


@pytest.mark.parametrize("p", [0.0, 0.001, 1 / 16, 0.17, 0.25, 0.5, 0.55, 0.97, 1.0, 1.7])
def test_chances_are_the_papers_and_the_releases(p):
    k = math.ceil(16 * min(p, 1.0))
    for fade, kth in (("paper", min(p * 16 - k + 1, 0.5)), ("released", 0.5 * min(max(2 * (16 * p - k) + 1, 0), 1))):
        wrapped = PAGAN(p=p, fade=fade).wrap(TinyD())
        expected = [0.5] * max(k - 1, 0) + ([kth] if k else []) + [0.0] * (16 - k)
        assert wrapped.chances().tolist() == pytest.approx(expected, abs=1e-5)


def test_active_bits_are_distributed_as_said():
    wrapped = PAGAN(p=0.2, bits=16, fade="paper").wrap(TinyD())               # k = 4, the 4th with chance 0.2
    seen = bits_of(wrapped, 40000, 3).mean(0)
    assert torch.allclose(seen[:3], torch.full((3,), 0.5).double(), atol=0.01) and abs(seen[3] - 0.2) < 0.01 and not seen[4:].any()
    b = bits_of(wrapped, 40000, 4)[:, :3] - 0.5
    assert (b.T @ b / 40000 - 0.25 * torch.eye(3)).abs().max() < 0.01         # independent of each other


@pytest.mark.parametrize("patches", [0, 5])
def test_the_sign_is_the_parity_and_the_bits_enter_before_the_first_bias(patches):
    d = TinyD(patches=patches).double()
    wrapped = PAGAN(p=0.4).wrap(copy.deepcopy(d)).double()
    x = pictures(16, 16).double()
    bits = bits_of(wrapped, 16, 5)
    found = wrapped(x, rng=Rng(5), want=frozenset({"conv1"}))
    conv1 = F.silu(d.stem(x) + (bits @ wrapped.maps[0].T / 4)[:, :, None, None])
    assert torch.allclose(found.features["conv1"], conv1)
    pre = F.silu(d.dense(F.silu(d.conv2(conv1)).mean((2, 3))))
    sign = torch.tensor([(-1.0) ** int(b.sum()) for b in bits]).double()
    assert set(sign.tolist()) == {1.0, -1.0}
    expected = d.head(pre) * sign[:, None]
    assert torch.allclose(found.logits, expected if patches else expected[:, 0])


def test_the_bits_meet_an_equalised_layer_with_its_gain():
    d = discriminator("stylegan2").double()
    wrapped = PAGAN(p=1.0).wrap(copy.deepcopy(d)).double()
    x, bits = pictures().double(), bits_of(wrapped, 4, 2)
    seen = []
    wrapped.stem.register_forward_hook(lambda layer, inputs, y: seen.append(y.clone()))
    judge(wrapped, x, 2)
    product = F.conv2d(x, d.stem.weight / math.sqrt(3)) + (bits @ wrapped.maps[0].T / 4)[:, :, None, None] + d.stem.bias[:, None, None]
    assert torch.allclose(seen[0], F.leaky_relu(product, 0.2) * math.sqrt(2))


@pytest.mark.parametrize("arch, first", [("stylegan2", ["stem"]), ("fastgan", ["stem.0", "small_stem.0"]), ("biggan", ["stem.conv1"]),
                                         ("sngan", ["stem.conv1"]), ("dcgan", ["stem"])])
def test_bits_enter_the_first_convolution_of_every_architecture(arch, first):
    wrapped = PAGAN(p=0.5).wrap(discriminator(arch))
    with_place = [n for n, m in wrapped.inner.named_modules() if m._forward_hooks or getattr(m, "before_bias", None) is not None]
    assert with_place == first
    assert [tuple(m.shape) for m in wrapped.maps] == [(wrapped.inner.get_submodule(n).weight.shape[0], 16) for n in first]


class _NoStem(Discriminator):
    num_classes, feature_info = 0, {"pre_logits": FeatureInfo(4)}

    def __init__(self, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 1)
        if stem is not None:
            self.stem = stem

    def forward(self, image, c=None, extra=None, want=frozenset()):
        return Judged(self.layer(image.flatten(1))[:, 0])


class _Flat(_NoStem):
    resolution = 2


class _Scales(TinyD):
    def extra_of(self, image):
        return {"small": image[..., ::2, ::2]}


def test_what_has_no_place_for_bits_is_refused():
    with pytest.raises(HandfulError, match="_NoStem doesn't say which that is: name the module `stem`"):
        PAGAN().wrap(_NoStem())
    with pytest.raises(HandfulError, match="_NoStem.stem has none in it"):
        PAGAN().wrap(_NoStem(nn.Flatten()))
    with pytest.raises(HandfulError, match="further scales of an image, and each must be given the bits"):
        PAGAN().wrap(_Scales())
    for bad in ({"bits": 0}, {"p": -0.1}):
        with pytest.raises(UsageError, match="or more"):
            PAGAN(**bad)


# ------------------------------------------------------------------------------------------------------------ adaptive dropout


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("arch, left", [
    ("stylegan2", {"b4.out", "mapping.embed"}), ("fastgan", {"to_logits", "small_to_logits"}), ("biggan", {"to_logit"}), ("sngan", {"to_logit"}),
    ("dcgan", {"to_logit"}), ("r3gan", {"to_logit"})])
def test_every_layer_but_the_output_is_meant(arch, left, classes):
    d = discriminator(arch, num_classes=classes)
    names = {m: n for n, m in d.named_modules()}
    every = {names[m]: m for m in linear_maps(d)}
    wrapped = AdaptiveDropout(p=0.1).wrap(d)
    dropped = {n for n, m in every.items() if m._forward_hooks or getattr(m, "before_bias", None) is not None}
    assert every.keys() - dropped == left & every.keys()
    assert len(wrapped.widths) == len(dropped) == {"stylegan2": 15, "fastgan": 15, "biggan": 19, "sngan": 15, "dcgan": 4, "r3gan": 33}[arch]
    if arch == "stylegan2":                                                  # stem, 2 convolutions and a shortcut at 64 .. 8, the 4x4 one, dense
        assert dropped == {"stem", "b4.conv", "b4.fc", *(f"b{s}.{k}" for s in (64, 32, 16, 8) for k in ("conv0", "conv1", "skip"))}
        assert sum(wrapped.widths) == sum(every[n].weight.shape[0] for n in dropped)


class _OneLayer(Discriminator):
    """The first layer's map is a feature; then a mean and a linear map."""

    num_classes = 0
    feature_info = {"map": FeatureInfo(6, 4), "pre_logits": FeatureInfo(6)}

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.out = layer, nn.Linear(6, 1)

    def forward(self, image, c=None, extra=None, want=frozenset()):
        x = self.stem(image)
        features = {"map": x, "pre_logits": x.mean((2, 3))}
        return Judged(self.out(features["pre_logits"])[:, 0], {k: v for k, v in features.items() if k in want})


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 6, 1), EqualConv2d(3, 6, 1, lrelu=False), nn.Conv2d(3, 6, 1, bias=False)], ids=["bias", "equal", ""])
def test_the_noise_is_exp_p_n_for_each_image_and_channel(layer):
    p, x = 0.3, pictures(1, 4).expand(20000, -1, -1, -1)
    plain = (layer(x[:1]) - (0 if layer.bias is None else layer.bias[:, None, None])).detach()
    wrapped = AdaptiveDropout(p=p).wrap(_OneLayer(layer))
    assert wrapped.widths == [6]
    changed = wrapped(x, rng=Rng(3), want=frozenset({"map"})).features["map"].detach()
    factor = (changed - (0 if layer.bias is None else layer.bias.detach()[:, None, None])) / plain           # [N,6,4,4]
    assert torch.allclose(factor, factor[:, :, :1, :1].expand_as(factor), rtol=2e-2, atol=1e-3)              # one number for all pixels
    n = factor[:, :, 0, 0].log() / p
    assert n.mean(0).abs().max() < 0.03 and (n.std(0) - 1).abs().max() < 0.03
    assert (torch.corrcoef(n.T) - torch.eye(6)).abs().max() < 0.03
    assert (factor[:, :, 0, 0].mean(0) - math.exp(p * p / 2)).abs().max() < 0.02


def test_layers_are_found_in_a_discriminator_of_ones_own():
    assert [c for c in AdaptiveDropout().wrap(TinyD(num_classes=3, patches=4)).widths] == [8, 16, 16]        # it names no resolution
    with pytest.raises(HandfulError, match="has no linear layer or convolution but its last one"):
        AdaptiveDropout().wrap(_Flat())
    broken = TinyD()
    broken.head = nn.Linear(3, 1)
    with pytest.raises(HandfulError, match="no image can be followed through TinyD"):
        AdaptiveDropout().wrap(broken)
    with pytest.raises(UsageError, match="or more"):
        AdaptiveDropout(p=-1)


@pytest.mark.parametrize("name", WRAPPERS)
def test_classes_pass_through(name):
    trainer = run_steps(tiny_trainer(use(name, p=0.5), dataset=noise_set(classes=3)), 2)
    assert trainer.take_log()["d/bad_grads"] == 0 and trainer.nets.D.num_classes == 3


if __name__ == "__main__":
    import sys

    work(Path(sys.argv[1]))


@pytest.mark.parametrize("name", ["pa_gan", "adaptive_dropout"])
def test_a_wrapper_goes_around_d_once(name):
    with pytest.raises(HandfulError, match=f"terms.{name} and terms.again both want to be the wrapper that .*: leave one of them out"):
        tiny_trainer(f"terms.{name}={{}}", f'terms.again={{"use": "{name}"}}')


@pytest.mark.parametrize("wrapper", [PAGAN(p=0.5), AdaptiveDropout(p=0.5)])
def test_a_pass_that_fails_halfway_leaves_nothing_behind(wrapper):
    D = wrapper.wrap(TinyD(resolution=16))
    x, judge = torch.randn(4, 3, 16, 16), D.inner.dense.forward
    expected = D.eval()(x[:2], rng=Rng(1)).logits
    D.inner.dense.forward = lambda x: (_ for _ in ()).throw(torch.OutOfMemoryError("no more"))
    with pytest.raises(torch.OutOfMemoryError):
        D.train()(x, rng=Rng(1))
    D.inner.dense.forward = judge
    assert torch.equal(D.eval()(x[:2], rng=Rng(1)).logits, expected)
