"""R3GAN: published sizes, the identity at first, equality with plainly written networks, and both penalties out of one backward pass."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from handful import catalog, config
from handful.arch.r3gan import Discriminator, Generator
from handful.errors import HandfulError, UsageError
from handful.rng import Rng
from handful.training.trainer import Trainer
from making import noise_set, run_steps, tiny_trainer, weights

SMALL = dict(width=8, full_side=8, group_size=4, blocks=2)
FILTER = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64)


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def waken(net: torch.nn.Module) -> torch.nn.Module:
    """Weights as after some training: nothing is zero."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


# ------------------------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize("net, parameters", [
    (lambda: Generator(256), 23_057_952), (lambda: Discriminator(256), 23_009_568),          # in print: 23.058 and 23.010 million
    (lambda: Generator(32, num_classes=10), 20_781_952), (lambda: Discriminator(32), 20_683_776)])
def test_parameter_counts(net, parameters):
    with torch.device("meta"):
        assert count(net()) == parameters


def test_widths_groups_and_features_at_256():
    with torch.device("meta"):
        D = Discriminator(256)
        D1 = Discriminator(32, width=1536)
    assert [(i.channels, i.resolution) for i in D.feature_info.values()] == [
        (96, 256), (192, 128), (384, 64), (768, 32), (768, 16), (768, 8), (768, 4), (768, 0)]
    assert [b[0].grouped.groups for b in D.blocks.values()] == [12, 24, 48, 96, 96, 96, 96]
    assert D1.blocks["b4"][1].grouped.groups == 192 and len(D.blocks["b4"]) == 2
    with pytest.raises(UsageError, match="square pictures of 8, 16, 32"):
        Generator(48)
    with pytest.raises(UsageError, match="group_size=16: 40 channels inside"):
        Generator(32, width=20)
    with pytest.raises(UsageError, match="needs the classes c"):
        Generator(8, num_classes=3, **SMALL)(torch.randn(1, 64), rng=Rng(1))


def plain_block(b, x):
    h = F.leaky_relu(F.conv2d(x, b.widen.weight) + b.widen.bias[:, None, None], 0.2)
    groups = [F.conv2d(part, w, padding=1) for part, w in zip(h.chunk(b.grouped.groups, 1), b.grouped.weight.chunk(b.grouped.groups))]
    h = F.leaky_relu(torch.cat(groups, 1) + b.grouped.bias[:, None, None], 0.2)
    return x + F.conv2d(h, b.narrow.weight)


@pytest.mark.parametrize("classes", [0, 3])
def test_generator_equals_a_plain_one(classes):
    torch.manual_seed(0)
    G = waken(Generator(32, num_classes=classes, z_dim=6, class_dim=5, **SMALL)).double()
    z, c = torch.randn(3, 6, dtype=torch.float64), torch.tensor([0, 2, 1]) if classes else None
    x = F.linear(torch.cat([z, G.embed.weight[c]], 1) if classes else z, G.scales.weight)[:, :, None, None] * G.basis
    up = torch.outer(FILTER, FILTER) / 16                                         # gain 4
    for side in (4, 8, 16, 32):
        if side > 4:
            n = x.shape[1]
            stuffed = torch.zeros(3, n, side, side, dtype=torch.float64)
            stuffed[:, :, ::2, ::2] = x
            x = F.conv2d(F.pad(stuffed, (2, 1, 2, 1)), up.expand(n, 1, 4, 4), groups=n)
            x = F.conv2d(x, G.up[f"b{side}"].conv.weight) if side > 8 else x
        for b in G.blocks[f"b{side}"]:
            x = plain_block(b, x)
    assert torch.allclose(G(z, c, rng=Rng(1)).image, F.conv2d(x, G.to_image.weight), atol=1e-12)
    assert torch.equal(G.sample(z, c, rng=Rng(1), truncation=0.0), G(z * 0, c, rng=Rng(1)).image)


@pytest.mark.parametrize("classes", [0, 3])
def test_discriminator_equals_a_plain_one(classes):
    torch.manual_seed(0)
    D = waken(Discriminator(32, num_classes=classes, class_dim=5, **SMALL)).double()
    image, c = torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 2, 1]) if classes else None
    x, down = F.conv2d(image, D.stem.weight), torch.outer(FILTER, FILTER) / 64
    for side in (32, 16, 8, 4):
        for b in D.blocks[f"b{side}"]:
            x = plain_block(b, x)
        if side > 4:
            n = x.shape[1]
            x = F.conv2d(F.pad(x, (1, 1, 1, 1)), down.expand(n, 1, 4, 4), groups=n, stride=2)
            x = F.conv2d(x, D.down[f"b{side}"].conv.weight) if side > 8 else x
    n = x.shape[1]
    h = F.conv2d(x, D.gather.weight[:, None], groups=n).flatten(1)                # depthwise, without padding
    out = F.linear(h, D.to_logit.weight)
    want = (out * D.embed.weight[c]).sum(1) / math.sqrt(5) if classes else out[:, 0]
    judged = D(image, c, want=frozenset({"pre_logits"}))
    assert torch.allclose(judged.logits, want, atol=1e-12) and torch.allclose(judged.features["pre_logits"], h, atol=1e-12)


def test_the_resampling_is_bilinear_interpolation():
    """Away from the border, where torch repeats it and the filter meets zeros."""
    from handful.ops.upfirdn import upsample2d

    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    theirs = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(upsample2d(x)[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1], atol=1e-12)


def test_fresh_blocks_are_the_identity_and_the_rest_keeps_the_variance():
    torch.manual_seed(0)
    G, D = Generator(32, width=64), Discriminator(32, width=64)
    for net in (G, D):
        for blocks in net.blocks.values():
            for block in blocks:
                x = torch.randn(2, 64, 8, 8)
                assert torch.equal(block(x), x) and block.narrow.weight.any() == 0
                # He's for leaky ReLU, times 8 blocks^(-1/4)
                he = math.sqrt(2 / 1.04) * 8 ** -0.25
                assert block.widen.weight.std().item() == pytest.approx(he / math.sqrt(64), rel=0.05)
                assert block.grouped.weight.std().item() == pytest.approx(he / math.sqrt(16 * 9), rel=0.05)
    assert 0.3 < G(torch.randn(32, 64), rng=Rng(1)).image.std().item() < 1.2
    assert 0.3 < D(torch.randn(64, 3, 1, 1).expand(-1, -1, 32, 32)).logits.std().item() < 3


def test_second_order_in_fp64():
    torch.manual_seed(0)
    D = waken(Discriminator(8, width=2, group_size=2, blocks=1, channels=1, num_classes=2, class_dim=3)).double()
    x, c = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True), torch.tensor([1])

    def slope(x, *_):
        grad, = torch.autograd.grad(D(x, c).logits.sum(), x, create_graph=True)
        return grad.square().sum()

    wanted = [p for n, p in D.named_parameters() if p.ndim > 1]
    assert torch.autograd.gradcheck(slope, (x, *wanted), atol=1e-6)
    G = waken(Generator(8, width=2, group_size=2, blocks=1, channels=1, z_dim=3)).double()
    z = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda z: G(z, rng=Rng(1)).image, (z,), atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- the training


def trainer_of(recipe: str, *settings: str, batch: int = 4) -> Trainer:
    tree = {"recipe": recipe, **catalog.load("recipes", recipe)(resolution=None, count=100, device="cpu", num_classes=0, batch=None)}
    narrow = [f"{side}.{k}={v}" for side in "gd" for k, v in SMALL.items()]
    lines = ["data.resolution=32", f"train.batch={batch}", "train.micro_batch=null", *narrow, *settings]
    parsed = config.resolved(config.parse(config.assign(tree, lines)))
    return Trainer(parsed, noise_set(12, resolution=32), torch.device("cpu"))


def gradients_by_pixels(step) -> int:
    grad, calls = torch.autograd.grad, []
    torch.autograd.grad = lambda *a, **k: (calls.append(k.get("create_graph")), grad(*a, **k))[1]
    try:
        step()
    finally:
        torch.autograd.grad = grad
    return sum(map(bool, calls))


@pytest.mark.parametrize("recipe", ["r3gan_cifar", "r3gan_256", "r3gan_32_narrow"])
def test_both_penalties_come_out_of_one_backward_pass(recipe):
    trainer = trainer_of(recipe)
    runs = trainer.nets.runs
    assert gradients_by_pixels(trainer.step) == 1
    assert trainer.nets.runs - runs == 3                          # D's step: both in one; G's: the reals, then the fakes
    log = trainer.take_log()
    assert log["d/r1/grad_norm"] > 0 and log["d/r2/grad_norm"] > 0
    assert log["d/loss_r1"] == pytest.approx(log["d/r1/penalty"]) and trainer.terms["r1"].gamma == trainer.terms["r2"].gamma


def test_the_penalties_are_those_of_separate_passes():
    """The joint step's gradient is that of the loss written out with a pass and a backward for each."""
    trainer = trainer_of("r3gan_32_narrow", "augment=none", "train.order=dg")
    waken(trainer.nets.D)
    main = next(p for p in trainer.plan if p.side == "d")
    D, seen = trainer.nets.D, {}
    trainer.terms["r1"].register_forward_hook(lambda term, args, out: seen.update(real=args[0].real.x.detach()))
    trainer.terms["r2"].register_forward_hook(lambda term, args, out: seen.update(fake=args[0].fake.x.detach()))
    trainer._accumulate(main, main.names, 0, 0)
    found = [p.grad.clone() for p in D.parameters()]
    logits, penalty = {}, 0
    for name, x in seen.items():
        x = x.requires_grad_()
        logits[name] = D(x).logits
        grad, = torch.autograd.grad(logits[name].sum(), x, create_graph=True)
        penalty = penalty + 0.5 * trainer.terms["r1"].gamma * grad.square().sum((1, 2, 3)).mean()
    loss = F.softplus(logits["fake"] - logits["real"]).mean() + penalty
    for mine, theirs in zip(found, torch.autograd.grad(loss, list(D.parameters()))):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_accumulation_is_exact():
    whole, parts = (trainer_of("r3gan_32_narrow", "optim_g.eps=1e-3", "optim_d.eps=1e-3", *more) for more in ([], ["train.micro_batch=2"]))
    assert torch.allclose(weights(run_steps(whole, 3)), weights(run_steps(parts, 3)), atol=1e-5)
    assert not any("differs" in note for note in parts.notes)


def test_the_generator_step_needs_the_reals():
    with pytest.raises(HandfulError, match="g_batch must equal train.batch"):
        trainer_of("r3gan_32_narrow", "train.g_batch=8")


def test_classes_are_learned_on_both_sides():
    trainer = tiny_trainer("data.resolution=16", "loss=relativistic", dataset=noise_set(classes=3), g={"use": "r3gan", **SMALL},
                           d={"use": "r3gan", **SMALL})
    before = [net.embed.weight.clone() for net in (trainer.nets.G, trainer.nets.D)]
    run_steps(trainer, 2)
    assert not any(torch.equal(b, net.embed.weight) for b, net in zip(before, (trainer.nets.G, trainer.nets.D)))


def test_the_augmentation_rises_by_the_clock():
    """The published schedule as far as a configuration has it: p from 0 to its end over the burn-in, whatever D says, and no further."""
    trainer = trainer_of("r3gan_cifar", "terms.ada_controller.length_kimg=0.024", "terms.ada_controller.target=0.6")
    assert [run_steps(trainer, 4).nets.augment.p.item() for _ in range(2)] == pytest.approx([0.4, 0.6])       # 16 images of 24, then 32
    for recipe, p, halflife in (("r3gan_cifar", 0.55, 5000), ("r3gan_256", 0.3, 500)):
        published = trainer_of(recipe)
        term, average = published.terms["ada_controller"], published.config.ema
        assert (term.statistic, term.target, term.length_kimg) == ("linear", p, 20_000)
        assert average.halflife_kimg == halflife == pytest.approx(20_000 * average.rampup)
