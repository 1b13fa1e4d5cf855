"""Reconstruction: the decoders' shapes and sources, the quadrants, the scale of the loss, what trains and what is saved."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handful import features
from handful.arch.fastgan import Discriminator
from handful.errors import HandfulError, UsageError
from handful.rng import Rng
from handful.seam import Augmented, Context, FeatureInfo, Pass, View
from handful.terms.reconstruction import Reconstruction, choose, crop, reduce
from making import run_steps, tiny_trainer, weights
from tiny import TinyD


class Nets:
    def __init__(self, D: nn.Module) -> None:
        self.D = D

    def autocast(self):
        return nullcontext()


class Perceptual(nn.Module):
    """A stand-in with LPIPS' interface: per-image mean squared difference of one random layer; targets [B,N,C] per layer."""

    loads = 0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).requires_grad_(False)
        self.calls = []

    @classmethod
    def load(cls, device=None):
        Perceptual.loads += 1
        return cls()

    def _features(self, x):
        return self.conv(x).flatten(2).transpose(1, 2)

    @torch.no_grad()
    def targets(self, b):
        self.calls.append(("targets", len(b)))
        return (self._features(b),)

    def forward_targets(self, a, targets):
        self.calls.append(("forward", len(a)))
        assert not targets[0].requires_grad
        return (self._features(a) - targets[0]).square().flatten(1).mean(1)


def built(D: nn.Module | None = None, **kwargs) -> tuple[Reconstruction, nn.Module]:
    torch.manual_seed(0)
    D = D or Discriminator(64, ndf=4)
    term = Reconstruction(**{"loss": "pixel"} | kwargs)
    term.setup(Nets(D))
    return term, D


def context(term: Reconstruction, D: nn.Module, x: torch.Tensor, batch: int | None = None, seed: int = 0) -> Context:
    need = term.needs("d").real
    seen = Pass(x, x, D(x, want=need.features), need, aug=Augmented(x))
    return Context("d", 0, 0, 0, batch or len(x), range(len(x)), Rng(seed), Nets(D), {"real": seen})


def pictures(n: int = 4, size: int = 64) -> torch.Tensor:
    return Rng(3).rand(n, 3, size, size) * 2 - 1


# ----------------------------------------------------------------------------------------------------------- where it attaches


def test_sources_of_fastgan():
    with torch.device("meta"):
        D = Discriminator(256)
    assert choose(D.feature_info) == {"whole": "big_8", "part": "big_16", "small": "small_8"}


@pytest.mark.parametrize("info,expected", [
    ({"b32": (32, 32), "b16": (64, 16), "b8": (64, 8), "b4": (64, 4), "pre_logits": (64, 0)}, {"whole": "b8", "part": "b16"}),
    ({"a": (8, 4), "pre_logits": (8, 0)}, {"whole": "a"}),
    ({"pre_logits": (8, 4)}, {"whole": "pre_logits"}),
    ({"pre_logits": (8, 0)}, {}),
])
def test_sources_of_any_discriminator(info, expected):
    assert choose({k: FeatureInfo(*v) for k, v in info.items()}) == expected


def test_any_discriminator_is_served_or_refused():
    term, D = built(TinyD(resolution=16), size=16)
    assert set(term.sources) == {"whole", "part"} and term(context(term, D, pictures(size=16))).loss.isfinite()
    D.feature_info = {"pre_logits": FeatureInfo(8)}
    with pytest.raises(HandfulError, match="no feature map"):
        Reconstruction(loss="pixel").setup(Nets(D))
    for wrong in ({"size": 100}, {"size": 8}, {"decoders": ()}):
        with pytest.raises(UsageError):
            Reconstruction(**wrong)


@pytest.mark.parametrize("size,side", [(32, 32), (64, 64), (256, 128)])
def test_targets_have_at_most_the_images_side(size, side):
    term, D = built(Discriminator(size, ndf=4))
    assert term.size == side
    features_ = {k: torch.randn(2, v.channels, v.resolution, v.resolution) for k, v in D.feature_info.items()}
    for name, decoder in term.decoders.items():
        x = features_[term.sources[name]]
        out = decoder(crop(x, 0) if name == "part" else x)
        assert out.shape == (2, 3, side, side) and out.abs().max() <= 1
        assert len(decoder.up) == {32: 2, 64: 3, 128: 4}[side]


def test_width_follows_the_discriminator():
    assert built(Discriminator(64, ndf=8))[0].decoders["whole"].to_image.weight.shape[1] == 2 * 4       # 64 channels / 16, twice that at 64 pixels
    assert built(width=10)[0].decoders["whole"].to_image.weight.shape[1] == 20
    assert set(built(decoders=("part",))[0].decoders) == {"part"}


# ------------------------------------------------------------------------------------------------------------------- the loss


def test_quadrants():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert [crop(x, q)[0, 0, 0, 0].item() for q in range(4)] == [0, 2, 8, 10]
    assert crop(x, 3).tolist() == [[[[10, 11], [14, 15]]]]
    assert torch.equal(reduce(x, 2), x[:, :, ::2, ::2])


def test_pixel_loss_by_hand_and_one_quadrant_for_all():
    term, D = built()
    x = pictures()
    seen = set()
    for seed in range(12):
        ctx = context(term, D, x, seed=seed)
        f = ctx.real.features
        quadrant = Rng(seed).integer(4)
        seen.add(quadrant)
        rows, cols = slice(32 * (quadrant // 2), 32 * (quadrant // 2) + 32), slice(32 * (quadrant % 2), 32 * (quadrant % 2) + 32)
        half_rows, half_cols = slice(rows.start // 4, rows.stop // 4), slice(cols.start // 4, cols.stop // 4)
        part = F.interpolate(x[:, :, rows, cols], size=64, mode="nearest")
        expected = {"whole": (term.decoders["whole"](f["big_8"]) - x), "small": term.decoders["small"](f["small_8"]) - x,
                    "part": term.decoders["part"](f["big_16"][:, :, half_rows, half_cols]) - part}
        result = term(ctx)
        expected = {k: v.square().mean((1, 2, 3)) for k, v in expected.items()}
        for k, v in expected.items():
            assert torch.allclose(result.stats[k], v, atol=1e-5) and not result.stats[k].requires_grad
        assert result.loss.item() == pytest.approx(sum(v.sum().item() for v in expected.values()), rel=1e-4)
    assert seen == {0, 1, 2, 3}


def test_sum_over_the_global_batch_or_mean():
    """A micro-batch of 4 of a batch of 32: its mean times 32, so that the mean over micro-batches is the sum."""
    term, D = built(weight=0.5)
    stats = term(context(term, D, pictures(), batch=32)).stats
    mean = sum(v.mean().item() for v in stats.values())
    assert term(context(term, D, pictures(), batch=32)).loss.item() == pytest.approx(0.5 * 32 * mean, rel=1e-4)
    term.reduction = "mean"
    assert term(context(term, D, pictures(), batch=32)).loss.item() == pytest.approx(0.5 * mean, rel=1e-4)


def test_only_reals_on_ds_side():
    term, _ = built()
    need = term.needs("d")
    assert need.real == View(features=frozenset({"big_8", "big_16", "small_8"})) and not need.fake and term.needs("g") is None


def test_gradients_reach_decoders_and_discriminator_but_not_the_images():
    term, D = built()
    x = pictures().requires_grad_()
    term(context(term, D, x)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in term.parameters())
    assert D.stem[0].weight.grad.abs().sum() > 0 and D.to_logits.weight.grad is None
    x.grad = None
    seen = context(term, D, x.detach()).real
    term(Context("d", 0, 0, 0, 4, range(4), Rng(0), Nets(D), {"real": Pass(x, x, seen.judged, seen.view)})).loss.backward()
    assert x.grad is None                                               # the target is a constant


# ----------------------------------------------------------------------------------------------------------------------- LPIPS


@pytest.fixture
def perceptual(monkeypatch):
    monkeypatch.setattr(features, "LPIPS", Perceptual, raising=False)
    monkeypatch.setattr(features, "available", lambda name: name == "lpips")


def test_lpips_in_one_call_with_shared_targets(perceptual):
    term, D = built(loss="auto")
    lpips, x = term._lpips[0], pictures()
    result = term(context(term, D, x))
    assert lpips.calls == [("targets", 8), ("forward", 12)] and not term.notes
    quadrant = Rng(0).integer(4)
    f = context(term, D, x).real.features
    for name, target in (("whole", x), ("small", x), ("part", reduce(crop(x, quadrant), 64))):
        rebuilt = term.decoders[name](crop(f["big_16"], quadrant) if name == "part" else f[term.sources[name]])
        assert torch.allclose(result.stats[name], lpips.forward_targets(rebuilt, lpips.targets(target)), rtol=1e-3, atol=1e-5), name
    result.loss.backward()
    assert all(p.grad is not None for p in term.parameters())
    for chosen in (("whole",), ("part",), ("small", "whole")):
        only, D = built(loss="lpips", decoders=chosen)
        assert set(only(context(only, D, x)).stats) == set(chosen)


def test_lpips_is_neither_state_nor_parameter(perceptual):
    term, _ = built(loss="lpips")
    frozen = {id(p) for p in term._lpips[0].parameters()}
    assert frozen and not frozen & {id(p) for p in term.parameters()}
    assert all(k.startswith("decoders.") for k in term.state_dict())


def test_without_weights_it_says_so_once(monkeypatch):
    monkeypatch.setattr(features, "available", lambda name: False)
    term, _ = built(loss="auto")
    assert not term._lpips and len(term.notes) == 1 and "handful weights get lpips" in term.notes[0]
    assert not built(loss="pixel")[0].notes


# ------------------------------------------------------------------------------------------------------------------- training


def test_state_moves_in_commit_alone():
    term, D = built()
    before = {k: v.clone() for k, v in term.state_dict().items()}
    term.train()
    term(context(term, D, pictures()))
    assert all(torch.equal(v, term.state_dict()[k]) for k, v in before.items())
    term.commit("d", {}, {}, Nets(D), 4)
    assert not torch.equal(before["decoders.whole.to_image.u"], term.decoders["whole"].to_image.u)
    assert not any("running" in k for k in before)


def test_it_learns_to_rebuild():
    """One fixed set of pictures, D and decoders trained together: the distance falls well below that of the mean picture."""
    term, D = built(D=Discriminator(32, ndf=8), reduction="mean")
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    x = torch.stack([torch.stack([xx * a, yy * b, xx * 0 + a * b]) for a in (-1, 1) for b in (-1, 1)])
    optimiser = torch.optim.Adam([*D.parameters(), *term.parameters()], 2e-3, (0.5, 0.999))
    losses = []
    for step in range(60):
        result = term(context(term, D, x, seed=step))
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        term.commit("d", {}, {}, Nets(D), 4)
        losses.append(result.stats["whole"].mean().item())
    assert losses[-1] < 0.3 * x.var().item() and losses[-1] < 0.5 * losses[0]


def test_it_trains_in_the_trainer():
    settings = ["terms.reconstruction.use=reconstruction", "terms.reconstruction.loss=pixel", "terms.reconstruction.size=16"]
    trainer = tiny_trainer(*settings)
    start = torch.cat([p.detach().flatten().clone() for p in trainer.terms["reconstruction"].parameters()])
    run_steps(trainer, 2)
    moved = torch.cat([p.detach().flatten() for p in trainer.terms["reconstruction"].parameters()])
    assert not torch.equal(start, moved) and weights(trainer).isfinite().all()
    log = trainer.take_log()
    assert {"d/reconstruction/whole", "d/reconstruction/part"} <= set(log), sorted(log)
