"""What every method of the catalogue must do, tested the moment its file lies in the folder."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from handful import catalog, config
from handful.catalog import Use
from handful.data import Dataset
from handful.reproduce import published
from handful.rng import Rng
from handful.seam import LossContext
from handful.training.trainer import Trainer
from making import NARROW, TERMS_NEED, noise_set, pair, run_steps, tiny_config, tiny_trainer, weights

GOLDEN = Path(__file__).parent / "golden"


def networks(name: str, **known):
    known = {"resolution": 64, "channels": 3, "num_classes": 0} | known
    torch.manual_seed(0)
    return tuple(catalog.build("arch", Use(settings["use"], **{k: v for k, v in settings.items() if k != "use"}), which, **known)
                 for which, settings in zip(("Generator", "Discriminator"), pair(name).values()))


def names(kind: str):
    return pytest.mark.parametrize("name", catalog.names(kind))


# ------------------------------------------------------------------------------------------------------------ architectures


@names("arch")
@pytest.mark.parametrize("classes, channels", [(0, 3), (3, 1)])
def test_arch_shapes_features_and_gradients(name, classes, channels):
    G, D = networks(name, num_classes=classes, channels=channels)
    z, c = torch.randn(4, G.z_dim), torch.arange(4) % 3 if classes else None
    made = G(z, c, rng=Rng(1))
    assert made.image.shape == (4, channels, 64, 64) and torch.isfinite(made.image).all()
    for feature, info in D.feature_info.items():
        judged = D(made.image, c, made.extra, frozenset({feature}))
        assert set(judged.features) == {feature}
        f = judged.features[feature]
        assert f.shape == ((4, info.channels, info.resolution, info.resolution) if info.resolution else (4, info.channels))
    assert "pre_logits" in D.feature_info and isinstance(D.stem, torch.nn.Module)
    assert len(judged.logits) == 4
    extra = D.extra_of(made.image)
    assert {k: v.shape for k, v in extra.items()} == {k: v.shape for k, v in made.extra.items()}
    (judged.logits.sum() + made.image.sum() + sum(v.sum() for v in made.extra.values())).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for n in (G, D) for p in n.parameters())


@names("arch")
def test_arch_same_seed_same_image_and_state_round_trip(name):
    G, _ = networks(name)
    G.eval()
    z = torch.randn(2, G.z_dim)
    first = G(z, rng=Rng(5)).image
    assert torch.equal(first, G(z, rng=Rng(5)).image)
    other, _ = networks(name)
    other.load_state_dict(G.state_dict())
    assert torch.equal(first, other.eval()(z, rng=Rng(5)).image)
    assert all(t.is_contiguous() for t in copy.deepcopy(G).state_dict().values())


@names("arch")
def test_arch_second_order_works(name):
    G, D = networks(name)
    with torch.no_grad():                                       # a branch whose last layer starts at zero hides what is before it
        for p in D.parameters():
            if p.ndim > 1 and not p.any():
                p.normal_(0, 0.1)
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    grad, = torch.autograd.grad(D(x, None, D.extra_of(x)).logits.mean(), x, create_graph=True)
    grad.square().sum().backward()
    weighing = [p for p in D.parameters() if p.ndim > 1]        # the slopes of a network of ReLUs don't depend on its biases
    assert sum(p.grad is not None and p.grad.abs().sum() > 0 for p in weighing) > len(weighing) / 2


@names("arch")
def test_arch_bf16_is_finite(name):
    G, D = networks(name)
    with torch.autocast("cpu", torch.bfloat16):
        made = G(torch.randn(2, G.z_dim), rng=Rng(1))
        assert torch.isfinite(D(made.image, None, made.extra).logits).all()


# ------------------------------------------------------------------------------------------------------------ augmentations


@names("augment")
@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (5, 1, 24, 40)])
def test_augment_keeps_shape_and_passes_gradients(name, shape):
    aug = catalog.build("augment", Use(name))
    x = torch.rand(shape, requires_grad=True)
    drawn = aug.draw(x, Rng(3), {"small": x[..., ::2, ::2]})
    assert drawn.image.shape == x.shape and drawn.extra["small"].shape == (*shape[:2], shape[2] // 2, shape[3] // 2)
    assert torch.equal(drawn.image, aug.draw(x, Rng(3)).image)
    grad, = torch.autograd.grad(drawn.image.square().sum(), x)
    assert torch.isfinite(grad).all() and grad.abs().sum() > 0
    assert all(len(v) == 5 for v in drawn.params.values())
    assert aug(x).shape == x.shape


@names("augment")
def test_augment_says_whether_it_is_the_identity(name):
    x = torch.rand(5, 3, 32, 32)
    aug = catalog.build("augment", Use(name))
    assert torch.equal(aug.draw(x, Rng(3)).image, x) == aug.identity == (name in ("none", "apa"))
    if "policy" in catalog.keywords(type(aug)):
        assert catalog.build("augment", Use(name, policy="")).identity


@names("augment")
def test_augment_treats_images_apart_and_slices_like_the_whole(name):
    aug = catalog.build("augment", Use(name))
    x = torch.rand(8, 3, 16, 16)
    whole = aug.draw(x, Rng(3)).image
    assert torch.allclose(whole[2:5], aug.draw(x[2:5], Rng(3, batch=8, slots=range(2, 5))).image)
    changed = x.clone()
    changed[0] = 0
    assert torch.equal(whole[1:], aug.draw(changed, Rng(3)).image[1:])


# ----------------------------------------------------------------------------------------------------------- losses, terms


@names("terms")
def test_a_term_can_be_put_back_to_where_it_was(name):
    """Steps inside `Trainer.preserved` (the estimate, the choice of threads) leave no trace in what follows."""
    ends = []
    for tried in (False, True):
        trainer = run_steps(tiny_trainer(f"terms.{name}.use={name}", *TERMS_NEED.get(name, []), g={"use": "tiny:TinyG", "noise": 0.1}), 2)
        trainer.take_log()
        if tried:
            with trainer.preserved():
                for term in trainer.terms.values():
                    term.assume_typical(trainer.nets)
                run_steps(trainer, 3)
                trainer.take_log()
        run_steps(trainer, 3)
        ends.append((trainer.state_dict(), trainer.take_log()))
    (plain, log), (again, log_again) = ends
    assert log == log_again or str(log) == str(log_again)                   # NaN where there is nothing finite
    for part in ("G", "D", "G_ema", "augment", "terms"):
        assert all(torch.equal(v, again[part][k]) or v.isnan().all() for k, v in plain[part].items())


@names("losses")
@pytest.mark.parametrize("shape", [(6,), (6, 50)])
def test_loss_is_finite_and_moves_logits_apart(name, shape):
    loss = catalog.build("losses", Use(name))
    for size in (0.1, 1e4):
        real, fake = (size * torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
        real, fake = real.requires_grad_(), fake.requires_grad_()
        d, g = loss.d(real, fake, LossContext(Rng(1))), loss.g(fake, real if loss.paired else None, LossContext(Rng(1)))
        assert d.ndim == g.ndim == 0 and torch.isfinite(d) and torch.isfinite(g)
    real, fake = torch.full(shape, 0.5, requires_grad=True), torch.full(shape, 0.5, requires_grad=True)
    dr, df = torch.autograd.grad(loss.d(real, fake, LossContext(Rng(1))), (real, fake))
    gf, = torch.autograd.grad(loss.g(fake, real if loss.paired else None, LossContext(Rng(1))), fake)
    assert (dr < 0).all() and (df > 0).all() and (gf < 0).all()             # D wants reals up and fakes down, G wants fakes up


@names("losses")
@pytest.mark.parametrize("arch", catalog.names("arch"))
def test_every_loss_trains_every_arch(name, arch):
    trainer = tiny_trainer(f"loss={name}", "data.resolution=64", "train.batch=4", dataset=noise_set(8, resolution=64), augment={"use": "diffaug"},
                           **pair(arch))
    first = [next(n.parameters()) for n in (trainer.nets.G, trainer.nets.D)]
    before = [p.detach().clone() for p in first]
    run_steps(trainer, 2)
    after = [p.detach() for p in first]
    assert torch.isfinite(weights(trainer)).all() and not any(torch.equal(a, b) for a, b in zip(before, after))
    assert trainer.take_log()["d/bad_grads"] == 0


def settings_of(name: str) -> list[str]:
    return [f'terms.{name}={{"use": "{name}"}}', *TERMS_NEED.get(name, [])]


@names("terms")
def test_term_writes_no_state_in_forward(name):
    trainer = tiny_trainer(*settings_of(name))
    term = trainer.terms[name]
    seen = []

    def watching(forward):
        def inner(ctx):
            before = copy.deepcopy(term.state_dict())
            out = forward(ctx)
            assert all(torch.equal(v, term.state_dict()[k]) for k, v in before.items())
            seen.append(1)
            return out
        return inner

    term.forward = watching(term.forward)
    run_steps(trainer, 2)
    assert seen


@names("terms")
def test_term_claims_only_roles_that_its_class_names(name):
    term = tiny_trainer(*settings_of(name)).terms[name]
    assert term.roles <= type(term).roles


@names("terms")
def test_term_resumes_bit_for_bit(name):
    straight, first, second = (tiny_trainer(*settings_of(name)) for _ in range(3))
    run_steps(straight, 4)
    second.load_state_dict(copy.deepcopy(run_steps(first, 2).state_dict()))
    assert torch.equal(weights(run_steps(second, 2)), weights(straight))


@names("terms")
def test_term_under_accumulation_is_exact_or_says_so(name):
    whole, parts = run_steps(tiny_trainer(*settings_of(name)), 2), tiny_trainer(*settings_of(name), "train.micro_batch=4")
    run_steps(parts, 2)
    if parts.terms[name].exact_under_accumulation:
        assert torch.allclose(weights(whole), weights(parts), rtol=1e-4, atol=1e-4)


@names("terms")
def test_term_in_half_precision_is_finite(name):
    trainer = run_steps(tiny_trainer(*settings_of(name), precision="bf16"), 2)
    assert torch.isfinite(weights(trainer)).all() and trainer.take_log()["d/bad_grads"] == 0


# -------------------------------------------------------------------------------------------------------------- recipes


def recipe_config(name: str, *settings: str) -> config.Config:
    tree = {"recipe": name, **catalog.load("recipes", name)(resolution=None, count=100, device="cpu", num_classes=0, batch=None)}
    return config.resolved(config.parse(config.assign(tree, settings)))


@names("recipes")
def test_recipe_is_a_full_configuration_with_targets_as_data(name):
    parsed = recipe_config(name)
    assert config.dumps(config.parse(config.to_tree(parsed))) == config.dumps(parsed)
    for target in published.targets(name):
        assert target.value >= 0 and target.protocol and target.cost and "/" in target.table


@names("recipes")
def test_recipe_trains_along_its_golden_trace(name):
    """Three steps of a scaled-down form; tolerances, because CPUs and torch versions round differently."""
    whole = recipe_config(name)
    settings = ["data.resolution=64", "train.batch=4", "train.micro_batch=null"]
    settings += [f"{side}.{k}={v}" for side, use in (("g", whole.g), ("d", whole.d)) for k, v in NARROW[use.name][side].items() if k != "z_dim"]
    if "reconstruction" in whole.terms:
        settings.append("terms.reconstruction.loss=pixel")               # the weights of LPIPS may not be on this machine
    parsed = recipe_config(name, *settings)
    dataset = noise_set(8, resolution=64)
    smooth = torch.nn.functional.avg_pool2d(dataset.images.float(), 9, 1, 4).to(torch.uint8)
    trainer = run_steps(Trainer(parsed, Dataset(smooth), torch.device("cpu")), 3)
    kept = ("d/loss", "g/loss", "d/logits_real", "d/logits_fake", "d/grad_norm")
    found = {k: round(v, 5) for k, v in sorted(trainer.take_log().items()) if k in kept}
    path = GOLDEN / f"{name}.json"
    if not path.exists():
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1))
        pytest.fail(f"{path.name} did not exist and was written from this run; look at it and commit it")
    assert found == pytest.approx(json.loads(path.read_text()), rel=0.02, abs=0.01)


def test_old_checkpoints_load(tmp_path):
    """One stored checkpoint per format: whoever has one can go on."""
    from handful.infer import load

    for path in sorted((Path(__file__).parent / "checkpoints").glob("format_*.pt")):
        model = load(path, "cpu", trust=["tiny"])
        assert model.sample([0, 1]).shape == (2, 16, 16, 3)
    assert list((Path(__file__).parent / "checkpoints").glob("format_1.pt"))
    assert tiny_config().format == 1
