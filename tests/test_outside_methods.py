"""Methods written outside of the package, one file each (examples/methods): each trains, goes on bit for bit, and does what it says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import handful
from handful.rng import Rng
from handful.seam import LossContext
from making import noise_set, picture_folder, run_steps, tiny_trainer, weights

FOLDER = Path(__file__).parents[1] / "examples" / "methods"
METHODS = {"label_smoothing": {"loss": {"use": "label_smoothing:LabelSmoothing", "kimg": 1.0}},
           "top_k": {"loss": {"use": "top_k:TopK"}},
           "mixing": {"terms.mixing": {"use": "mixing:Mixing"}},
           "on_features": {"d": {"use": "on_features:OnFeatures", "random": 1, "width": 8}, "loss": {"use": "hinge", "heads": "each"}}}


@pytest.fixture(autouse=True)
def outside(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def test_every_example_is_tested():
    assert set(METHODS) == {p.stem for p in FOLDER.glob("*.py")}


@pytest.mark.parametrize("name", METHODS)
def test_it_trains_and_goes_on_bit_for_bit(name, tmp_path):
    settings = {"g": "tiny:TinyG", "d": "tiny:TinyD", "terms": {}, "loss": "non_saturating", "evaluate.metrics": [], "train.threads": 1,
                **METHODS[name]}
    keywords = {"recipe": "fastgan64_narrow", "res": 32, "batch": 4, "device": "cpu", "quiet": True, "settings": settings}
    photos = picture_folder(tmp_path / "photos")
    whole = handful.train(photos, out=tmp_path / "whole", kimg=0.032, **keywords)
    half = handful.train(photos, out=tmp_path / "half", kimg=0.016, **keywords)
    handful.train(resume=half.folder, kimg=0.032, quiet=True, trust=["tiny", name])
    a, b = (torch.load(folder / "checkpoints" / "000000032.pt", weights_only=True) for folder in (whole.folder, half.folder))
    assert all(torch.equal(v, b[part][k]) for part in ("G", "D", "G_ema", "terms") for k, v in a[part].items())
    assert all(math.isfinite(line["d/loss"]) for line in whole.log() if "d/loss" in line)


def test_label_smoothing():
    from label_smoothing import LabelSmoothing

    real, fake = torch.randn(8), torch.randn(8)
    loss = LabelSmoothing(0.1, kimg=1.0)
    plain = F.softplus(-real).mean() + F.softplus(fake).mean()
    assert torch.allclose(loss.d(real, fake, LossContext(Rng(0), images_seen=1000)), plain)
    assert torch.allclose(loss.d(real, fake, LossContext(Rng(0))), plain + 0.1 * real.mean())       # softplus(r) - softplus(-r) = r
    assert torch.allclose(loss.d(real, fake, LossContext(Rng(0), images_seen=500)), plain + 0.05 * real.mean())


def test_top_k():
    from top_k import TopK

    fake = torch.tensor([3.0, -1.0, 2.0, 0.0], requires_grad=True)
    grad, = torch.autograd.grad(TopK().g(fake, None, LossContext(Rng(0), images_seen=10**6)), fake)
    assert (grad != 0).tolist() == [True, False, True, False]
    grad, = torch.autograd.grad(TopK().g(fake, None, LossContext(Rng(0))), fake)
    assert (grad != 0).all()
    notes = tiny_trainer("train.micro_batch=4", loss={"use": "top_k:TopK"}).notes
    assert any("adv: computed per micro-batch" in note for note in notes)


def test_mixing():
    """Of a linear D the term is 0; of another it isn't, and it moves D."""
    settings = {"terms": {"mixing": {"use": "mixing:Mixing", "weight": 5.0}}}
    moved, plain = run_steps(tiny_trainer(**settings), 3), run_steps(tiny_trainer(), 3)
    assert moved.take_log()["d/mixing/gap"] > 0 and not torch.equal(weights(moved)[: len(weights(plain))], weights(plain))
    same = tiny_trainer("data.flip=false", **settings, dataset=noise_set(1))                        # an image mixed with itself is itself
    assert run_steps(same, 1).take_log()["d/mixing/gap"] < 1e-10


def test_on_features():
    trainer = tiny_trainer("data.resolution=32", dataset=noise_set(resolution=32), g={"use": "tiny:TinyG"}, d=METHODS["on_features"]["d"],
                           loss=METHODS["on_features"]["loss"])
    trained = sum(p.numel() for p in trainer.nets.D.parameters())
    held = sum(p.numel() for p in trainer.nets.D.network.net.parameters())
    assert trained < held / 100 and run_steps(trainer, 2).state_dict()["frozen"].keys() == {"D.network"}
