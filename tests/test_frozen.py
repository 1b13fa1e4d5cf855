"""Frozen weights: never trained, copied, wrapped, averaged, cloned, reduced or saved; made again on resume, where another digest is refused."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import handful
from handful.errors import HandfulError
from handful.features.efficientnet import EfficientNet
from handful.nn.frozen import Frozen, digests, must_be
from handful.seam import Discriminator, FeatureInfo, Generated, Generator, Judged
from making import of_two_processes, picture_folder, run_steps, tiny_trainer, weights

SEED = 5                                             # of the frozen weights; tests change it to stand for other weights on another machine


def features() -> nn.Module:
    """A small pretrained network, for the tests: convolutions and batch norm with statistics of their own."""
    torch.manual_seed(SEED)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Flatten(1))
    for norm in (net[1], net[4]):
        norm.running_mean.normal_()
    return net


class OnFeatures(Discriminator):
    """A head on frozen features, beside a first layer of its own."""

    def __init__(self, *, resolution: int, channels: int = 3, num_classes: int = 0) -> None:
        super().__init__()
        self.num_classes, self.resolution, self.channels = num_classes, resolution, channels
        self.stem = nn.Conv2d(channels, 4, 4, 4)
        self.features = Frozen(features)
        self.head = nn.Linear(20 * (resolution // 4) ** 2, 1)
        self.feature_info = {"pre_logits": FeatureInfo(20 * (resolution // 4) ** 2)}

    def forward(self, image, c=None, extra=None, want=frozenset()):
        x = torch.cat([self.stem(image).flatten(1), self.features(image)], 1)
        return Judged(self.head(x).flatten(), {k: x for k in want})


class FromFeatures(Generator):
    """A generator with a frozen random projection."""

    def __init__(self, *, resolution: int, channels: int = 3, num_classes: int = 0) -> None:
        super().__init__()
        self.z_dim, self.num_classes, self.side = 8, num_classes, resolution
        self.projection = Frozen(projection)
        self.out = nn.Linear(32, channels * resolution**2)

    def forward(self, z, c=None, *, rng):
        return Generated(self.out(self.projection(z)).view(len(z), -1, self.side, self.side).tanh(), z, z, c)


def projection() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(8, 32)


def trainer(*settings: str, **over):
    return tiny_trainer(*settings, **{"g": {"use": "test_frozen:FromFeatures"}, "d": {"use": "test_frozen:OnFeatures"}, **over})


TERMS = ("terms.r1.gamma=1", "terms.insgen.queue_real=16", "terms.insgen.queue_fake=16", "terms.insgen.tap=pre_logits", "terms.pa_gan.p=0.5",
         "terms.adaptive_dropout.p=0.5")


def test_it_is_in_no_list_and_every_copy_shares_it():
    d = OnFeatures(resolution=16)
    names = {"stem.weight", "stem.bias", "head.weight", "head.bias"}
    assert set(d.state_dict()) == {k for k, _ in d.named_parameters()} == names and not list(d.buffers())
    assert copy.deepcopy(d).features.net is d.features.net and d.train().features.net.training is False
    assert not any(p.requires_grad for p in d.requires_grad_(True).features.net.parameters())
    with torch.device("meta"):
        there = OnFeatures(resolution=16)
    assert not there.features._made and there.head.weight.is_meta                # nothing is made where nothing is computed
    other, before = OnFeatures(resolution=16), torch.random.get_rng_state()
    assert digests(D=other) == {"D.features": d.features.digest} and torch.equal(before, torch.random.get_rng_state())
    meta = copy.deepcopy(d).to_empty(device="meta")
    assert meta(torch.zeros(2, 3, 16, 16, device="meta")).logits.is_meta and not next(d.features.net.parameters()).is_meta
    assert Frozen(projection).digest != d.features.digest
    must_be(digests(D=d), "x", D=d)
    with pytest.raises(HandfulError, match="x was made with other frozen weights than are here: D.features is .* and was absent"):
        must_be({}, "x", D=d)


def test_it_is_differentiable_by_the_image_to_second_order_and_follows_autocast():
    d = OnFeatures(resolution=16)
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    grad, = torch.autograd.grad(d(x).logits.sum(), x, create_graph=True)
    assert grad.abs().sum() > 0 and torch.autograd.grad(grad.square().sum(), d.head.weight)[0].abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert d.features.net[:1](x).dtype == torch.bfloat16


@pytest.mark.parametrize("settings", [(), TERMS], ids=["alone", "with terms that copy and wrap D"])
def test_training_leaves_it_alone_and_checkpoints_leave_it_out(settings):
    t = trainer(*settings)
    inside = next(m for m in t.nets.D.modules() if isinstance(m, Frozen)).net
    before = {k: v.clone() for k, v in inside.state_dict().items()}
    optimised = {id(p) for o in t.optim.values() for g in o.param_groups for p in g["params"]}
    run_steps(t, 3)
    assert all(torch.equal(v, before[k]) for k, v in inside.state_dict().items()) and not any(p.grad is not None for p in inside.parameters())
    assert not optimised & {id(p) for p in inside.parameters()}
    holders = [m for root in (t.nets.D, t.terms) for m in root.modules() if isinstance(m, Frozen)]
    assert {id(m.net) for m in holders} == {id(inside)} and len(holders) == (2 if settings else 1)      # InsGen's slow D is a copy of D
    state = t.state_dict()
    count = sum(v.numel() for part in ("G", "D", "G_ema", "terms") for v in state[part].values())
    held = sum(v.numel() for v in inside.state_dict().values())
    assert state["frozen"].keys() >= {"G.projection"} and len(state["frozen"]) == len(holders) + 1
    assert not any("features" in k or "projection" in k for part in ("G", "D", "G_ema", "terms") for k in state[part]) and count and held
    assert not any("inside" in m._forward_hooks or m._forward_hooks for m in inside.modules())          # no wrapper reached into it


def test_a_run_goes_on_bit_for_bit_and_other_weights_are_refused(tmp_path, monkeypatch):
    settings = {"g": "test_frozen:FromFeatures", "d": "test_frozen:OnFeatures", "terms": {}, "loss": "hinge", "evaluate.metrics": [],
                "every.checkpoint_kimg": 0.016, "train.threads": 1}
    photos = picture_folder(tmp_path / "photos")
    keywords = {"recipe": "fastgan64_narrow", "res": 16, "batch": 4, "device": "cpu", "quiet": True, "settings": settings}
    whole = handful.train(photos, out=tmp_path / "whole", kimg=0.032, **keywords)
    handful.train(photos, out=tmp_path / "run", kimg=0.016, **keywords)
    monkeypatch.setattr(sys.modules[__name__], "SEED", 6)
    with pytest.raises(HandfulError, match=r"000000016.pt was made with other frozen weights than are here: D.features is"):
        handful.train(resume=tmp_path / "run", kimg=0.032, quiet=True, trust=["test_frozen"])
    with pytest.raises(HandfulError, match="--init-from .* was made with other frozen weights than are here: D.features is"):
        handful.train(photos, init_from=tmp_path / "run", out=tmp_path / "new", trust=["test_frozen"], **keywords)
    monkeypatch.setattr(sys.modules[__name__], "SEED", 5)
    handful.train(resume=tmp_path / "run", kimg=0.032, quiet=True, trust=["test_frozen"])
    a, b = (torch.load(next(Path(folder).glob("checkpoints/000000032.pt")), weights_only=True) for folder in (whole.folder, tmp_path / "run"))
    assert a["frozen"] == b["frozen"]
    for part in ("G", "D", "G_ema"):
        assert all(torch.equal(v, b[part][k]) for k, v in a[part].items())
    handful.train(photos, init_from=tmp_path / "run", out=tmp_path / "new", kimg=0.008, trust=["test_frozen"], **keywords)
    assert handful.load(tmp_path / "run", trust=["test_frozen"]).sample([1]).shape == (1, 16, 16, 3)
    monkeypatch.setattr(sys.modules[__name__], "projection", lambda: nn.Linear(8, 32))
    with pytest.raises(HandfulError, match="model.safetensors was made with other frozen weights than are here: G.projection"):
        handful.load(tmp_path / "run", trust=["test_frozen"])


def test_a_pretrained_network_of_the_package_serves(monkeypatch):
    torch.manual_seed(0)
    made = EfficientNet()
    held = Frozen(lambda: made)
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    maps = held.net.maps(x, ["stage2", "stage3"])
    assert {k: tuple(v.shape) for k, v in maps.items()} == {"stage2": (2, 24, 8, 8), "stage3": (2, 40, 4, 4)}
    assert torch.autograd.grad(maps["stage3"].sum(), x)[0].abs().sum() > 0


def work(out: Path) -> None:
    """What each rank runs under torchrun."""
    from handful.training import distributed

    torch.set_num_threads(1)
    rank, world = distributed.start(torch.device("cpu"))
    t = run_steps(trainer(rank=rank, world=world), 2)
    torch.save({"weights": weights(t)}, out / f"rank{rank}.pt")
    distributed.leave()


def test_two_processes_hold_the_same(tmp_path):
    a, b = of_two_processes(__file__, tmp_path)
    assert torch.equal(a["weights"], b["weights"]) and torch.allclose(a["weights"], weights(run_steps(trainer(), 2)), atol=1e-5)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
