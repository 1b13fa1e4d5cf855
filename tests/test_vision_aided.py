"""Heads on frozen features: the losses and shapes by hand, who gets gradients, several networks, other methods beside them, what is refused."""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from handful.errors import HandfulError, UsageError
from handful.features import LPIPS, available
from handful.rng import Rng
from handful.seam import Context, Judged, Pass, View
from handful.terms.vision_aided import VisionAided
from making import NARROW, noise_set, of_two_processes, run_steps, tiny_trainer, weights
from runs import TINY, command, refused

CHEAP = ["terms.vision_aided.random=1", "terms.vision_aided.size=32"]
BOTH = ['terms.eff={"use": "vision_aided", "random": 1, "size": 32}',
        'terms.vgg={"use": "vision_aided", "network": "vgg16", "random": 2, "size": 64, "h": 8, "policy": "translation"}']


def run_phase(t, side: str, *names: str) -> None:
    """The main step of a side with these terms alone."""
    t._run(dataclasses.replace(next(p for p in t.plan if p.side == side and p.main), names=names), 0, 0)


def state_of(module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def moved(module, before: dict[str, torch.Tensor]) -> set[str]:
    return {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}


# ------------------------------------------------------------------------------------------------------- losses and shapes


def entropy(logit: float, target: float) -> float:
    s = 1 / (1 + math.exp(-logit))
    return -target * math.log(s) - (1 - target) * math.log(1 - s)


REAL = {"a": [[1.0, -2.0], [0.5, 3.0]], "b": [[0.3], [-1.0]]}                    # two images; a head of two logits, and one of one
FAKE = {"a": [[-1.5, 0.0], [2.0, -0.5]], "b": [[-0.7], [1.2]]}


@pytest.mark.parametrize("smoothing, target", [(None, 0.8), (0.0, 1.0), (0.1, 0.9)])
def test_sigmoid_loss_is_the_mean_over_a_head_and_the_sum_over_heads(smoothing, target):
    term = VisionAided(random=1, size=32, smoothing=smoothing)

    def level(values, t):
        flat = [v for row in values for v in row]
        return sum(entropy(v, t) for v in flat) / len(flat)

    real, fake = ({k: torch.tensor(v) for k, v in logits.items()} for logits in (REAL, FAKE))
    d = sum(level(REAL[k], target) + level(FAKE[k], 0.0) for k in "ab")
    assert term.loss_d(real, fake).item() == pytest.approx(d, rel=1e-6)
    assert term.loss_g(fake).item() == pytest.approx(sum(level(FAKE[k], target) for k in "ab"), rel=1e-6)


def test_hinge_loss():
    term = VisionAided(random=1, size=32, loss="hinge")
    real, fake = ({k: torch.tensor(v) for k, v in logits.items()} for logits in (REAL, FAKE))
    assert term.loss_d(real, fake).item() == pytest.approx((0 + 3 + 0.5 + 0) / 4 + (0 + 1 + 3 + 0.5) / 4 + (0.7 + 2) / 2 + (0.3 + 2.2) / 2)
    assert term.loss_g(fake).item() == pytest.approx(0 - 0.25)


# (network, size, {level: (shape of its map, logits)}). A stride halves; the filter before the 1x1 convolution takes a pixel: 14 -> (14 - 1)/2 -> 7.
SHAPES = [("efficientnet", 224, {"stage3": ((40, 28, 28), 49), "stage5": ((112, 14, 14), 9), "stage7": ((320, 7, 7), 1)}),
          ("efficientnet", 96, {"stage3": ((40, 12, 12), 9), "stage5": ((112, 6, 6), 9), "stage7": ((320, 3, 3), 1)}),
          ("efficientnet", 32, {"stage3": ((40, 4, 4), 4), "stage5": ((112, 2, 2), 1), "stage7": ((320, 1, 1), 1)}),
          ("vgg16", 224, {"relu5_3": ((512, 14, 14), 1)}), ("vgg16", 64, {"relu5_3": ((512, 4, 4), 1)})]


@pytest.mark.parametrize("network, size, levels", SHAPES, ids=lambda v: str(v) if not isinstance(v, dict) else "")
def test_shapes_of_maps_and_logits(network, size, levels):
    term = VisionAided(network, size, random=1)
    assert {k: head(torch.randn(2, *levels[k][0])).shape for k, head in term.heads.items()} == {k: (2, n) for k, (_, n) in levels.items()}
    if size < 100:
        maps = term.features.net.maps(torch.randn(2, 1, size, size), tuple(term.heads))
        assert {k: tuple(v.shape[1:]) for k, v in maps.items()} == {k: shape for k, (shape, _) in levels.items()}


def test_vgg16_ends_with_the_maximum_of_2x2_pixels():
    head, x = VisionAided("vgg16", 64, h=8, random=1).heads["relu5_3"], torch.randn(2, 512, 4, 4)
    largest = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    assert torch.equal(head(x), head(largest.repeat_interleave(2, 2).repeat_interleave(2, 3))) and not torch.equal(head(x), head(x.flip(1)))


def test_parameters_of_the_heads():
    def count(term):
        return {k: sum(p.numel() for p in head.parameters()) for k, head in term.heads.items()}

    out = 128 + 1
    assert count(VisionAided(random=1)) == {"stage3": 40 * 9 * 128 + 128 + out, "stage5": 112 * 9 * 128 + 128 + out, "stage7": 320 * 128 + 128 + out}
    assert count(VisionAided("vgg16", random=1)) == {"relu5_3": 512 * 9 * 256 + 256 + (256 * 3 * 3) * 256 + 256 + 256 + 1}
    assert count(VisionAided(random=1, h=8))["stage7"] == 320 * 8 + 8 + 8 + 1
    assert {k for k in VisionAided(random=1).state_dict()} == {k for k, _ in VisionAided(random=1).named_parameters()}       # nothing of the network


def test_vgg16_is_that_of_lpips():
    term = VisionAided("vgg16", 64, random=5)
    torch.manual_seed(5)
    lpips = LPIPS()
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(term.features.net.maps(x, ["relu5_3"])["relu5_3"], lpips._features(x)[-1], rtol=1e-3, atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(term.features.net.parameters(), lpips.convs.parameters()))
    assert VisionAided("vgg16", 64, random=5).features.digest == term.features.digest != VisionAided("vgg16", 64, random=6).features.digest


@pytest.mark.skipif(not (available("efficientnet") and available("lpips")), reason="the pretrained weights are absent: handful weights get")
def test_pretrained_networks_are_taken_by_default():
    for term, name in ((VisionAided(), "efficientnet"), (VisionAided("vgg16"), "lpips")):
        assert term.pretrained == (name,) and VisionAided(random=1).pretrained == ()
        found = term.features.net.maps(torch.zeros(1, 3, 64, 64), tuple(term.heads))
        assert all(v.abs().sum() > 0 for v in found.values()) and not any(p.is_meta for p in term.features.net.parameters())


# -------------------------------------------------------------------------------------------------------------------- images


def seen(term: VisionAided, x: torch.Tensor, seed: int = 0, kind: str = "fake") -> torch.Tensor:
    given = Pass(x, x + 9, Judged(x.new_zeros(len(x))), View(logits=True))
    return term._shown(Context("d", 0, 0, 0, len(x), range(len(x)), Rng(seed), None, {"real": given, "fake": given}), kind)


def test_the_network_sees_the_images_before_the_augmentation_of_d():
    x = torch.rand(3, 3, 32, 32)
    plain = VisionAided(random=1, size=32, policy="")
    assert torch.equal(seen(plain, x), x)                                        # not x_in, which is x + 9 here
    assert torch.equal(seen(VisionAided(random=1, size=64, policy=""), x), F.interpolate(x, scale_factor=2))        # area: each pixel twice
    assert torch.equal(seen(plain, F.interpolate(x, scale_factor=2)), x) and seen(plain, torch.rand(2, 1, 20, 40)).shape == (2, 1, 32, 32)
    own = VisionAided(random=1, size=32)
    assert torch.equal(seen(own, x), seen(own, x)) and not torch.equal(seen(own, x), seen(own, x, seed=1)) and not torch.equal(seen(own, x), x)
    assert not torch.equal(seen(own, x, kind="real"), seen(own, x, kind="fake"))


def test_every_image_and_every_network_has_an_augmentation_of_its_own(monkeypatch):
    t = tiny_trainer(*BOTH, "terms.vgg.policy=color,translation,cutout", "terms.vgg.size=64", "terms.eff.size=64")
    given = {}
    for name in ("eff", "vgg"):
        monkeypatch.setattr(t.terms[name], "logits", lambda x, nets, name=name, own=t.terms[name].logits: given.setdefault(name, []).append(x) or
                            own(x, nets))
    t.step()
    for name in ("eff", "vgg"):
        assert [tuple(x.shape) for x in given[name]] == [(16, 3, 64, 64), (8, 3, 64, 64)] and [x.requires_grad for x in given[name]] == [False, True]
    assert not torch.equal(given["eff"][0], given["vgg"][0])


# ----------------------------------------------------------------------------------------------------------------- gradients


def test_ds_step_trains_the_heads_and_gs_step_g_alone():
    t = tiny_trainer(*CHEAP)
    term = t.terms["vision_aided"]
    inside = term.features.net
    before = [state_of(m) for m in (t.nets.G, t.nets.D, term, inside)]
    run_phase(t, "d", "vision_aided")
    assert [moved(m, b) for m, b in zip((t.nets.G, t.nets.D, term, inside), before)] == [set(), set(), set(before[2]), set()]
    assert not any(p.grad is not None for m in (t.nets.G, inside) for p in m.parameters())
    before = [state_of(m) for m in (t.nets.G, t.nets.D, term, inside)]
    t.optim["d"].zero_grad()
    run_phase(t, "g", "vision_aided")
    assert moved(t.nets.G, before[0]) >= {k for k, _ in t.nets.G.named_parameters()}
    assert not any(moved(m, b) for m, b in zip((t.nets.D, term, inside), before[1:]))
    assert not any(p.grad is not None for m in (t.nets.D, term, inside) for p in m.parameters())
    optimised = {id(p) for o in t.optim.values() for g in o.param_groups for p in g["params"]}
    assert not optimised & {id(p) for p in inside.parameters()} and optimised >= {id(p) for p in term.parameters()}


def test_its_gradient_raises_the_logits_of_the_heads():
    """A step of G against D's loss of fakes alone: the image's gradient points to what the heads take for real."""
    t = tiny_trainer(*CHEAP)
    term, x = t.terms["vision_aided"], torch.rand(4, 3, 32, 32).requires_grad_()
    loss = term.loss_g(term.logits(x, t.nets))
    grad, = torch.autograd.grad(loss, x)
    with torch.no_grad():
        assert grad.abs().sum() > 0 and term.loss_g(term.logits(x - 1e-3 * grad / grad.norm(), t.nets)) < loss


def test_heads_learn_to_tell_reals_from_fakes():
    t = tiny_trainer(*CHEAP, "terms.vision_aided.policy=", "optim_g.lr=1e-9")
    run_steps(t, 2)
    first = t.take_log()
    run_steps(t, 25)
    t.take_log()
    run_steps(t, 3)
    last = t.take_log()
    assert last["d/loss_vision_aided"] < 0.8 * first["d/loss_vision_aided"]
    assert all(last[f"d/vision_aided/margin_{level}"] > 0 for level in ("stage3", "stage5", "stage7"))


def test_margins_and_losses_are_those_of_the_logits(monkeypatch):
    t = tiny_trainer(*CHEAP, "terms.vision_aided.weight=0.5", dataset=noise_set(8))
    term = t.terms["vision_aided"]
    kept = []
    monkeypatch.setattr(term, "logits", lambda x, nets, own=term.logits: kept.append(own(x, nets)) or kept[-1])
    run_phase(t, "d", "vision_aided")
    run_phase(t, "g", "vision_aided")
    log, d, g = t.take_log(), {k: v.detach() for k, v in kept[0].items()}, {k: v.detach() for k, v in kept[1].items()}
    real, fake = ({k: v[part] for k, v in d.items()} for part in (slice(0, 8), slice(8, 16)))
    assert log["d/loss_vision_aided"] == pytest.approx(0.5 * term.loss_d(real, fake).item(), rel=1e-5)
    assert log["g/loss_vision_aided"] == pytest.approx(0.5 * term.loss_g(g).item(), rel=1e-5)
    for level in d:
        assert log[f"d/vision_aided/margin_{level}"] == pytest.approx((real[level].mean() - fake[level].mean()).item(), rel=1e-4, abs=1e-5)


def test_before_its_start_and_of_no_weight_it_changes_nothing():
    plain = run_steps(tiny_trainer(), 2)
    for setting in ("weight=0", "start_kimg=0.016"):
        idle = run_steps(tiny_trainer(*CHEAP, f"terms.vision_aided.{setting}"), 2)
        assert all(torch.equal(v, idle.nets.G.state_dict()[k]) for k, v in plain.nets.G.state_dict().items())
        assert not any("vision" in k for k in idle.take_log())
        run_steps(idle, 1)                                                       # 16 images have been seen
        assert any("vision" in k for k in idle.take_log()) == setting.startswith("start")


# ----------------------------------------------------------------------------------------------------------- beside other parts


def test_two_networks_in_one_run():
    t = tiny_trainer(*BOTH)
    groups = {g["name"]: g for g in t.optim["d"].param_groups}
    assert {"net", "eff.heads", "vgg.heads"} == set(groups) and [g["name"] for g in t.optim["g"].param_groups] == ["net"]
    assert groups["eff.heads"]["lr"] == 2e-3 and groups["eff.heads"]["betas"] == (0.0, 0.99)              # TinyD has no equalised layers
    before = state_of(t.terms)
    run_steps(t, 2)
    assert moved(t.terms, before) == set(before)
    log, state = t.take_log(), t.state_dict()
    assert {"d/eff/margin_stage3", "d/eff/margin_stage5", "d/eff/margin_stage7", "d/vgg/margin_relu5_3", "g/loss_eff", "g/loss_vgg"} <= set(log)
    assert set(state["frozen"]) == {"terms.eff.features", "terms.vgg.features"} and len(set(state["frozen"].values())) == 2
    assert not any("features" in k for k in state["terms"])


def test_another_network_is_refused_when_a_run_goes_on():
    state = copy.deepcopy(run_steps(tiny_trainer(*CHEAP), 1).state_dict())
    tiny_trainer(*CHEAP).load_state_dict(state)
    with pytest.raises(HandfulError, match="other frozen weights than are here: terms.vision_aided.features is"):
        tiny_trainer("terms.vision_aided.random=2", "terms.vision_aided.size=32").load_state_dict(state)


def host(arch: str) -> dict:
    return {"g": {"use": arch, **NARROW[arch]["g"]}, "d": {"use": arch, **NARROW[arch]["d"]}, "dataset": noise_set(24, resolution=32)}


def test_with_ada_r1_insgen_diggan_and_lecam_on_stylegan2():
    others = ["augment=ada", "terms.ada_controller.interval=1", 'terms.r1={"use": "r1", "gamma": 1, "every": 2, "own_step": true}',
              'terms.insgen={"use": "insgen", "queue_real": 8, "queue_fake": 8}', "terms.diggan.weight=1", "terms.lecam.start=0"]
    t = tiny_trainer(*CHEAP, *others, "data.resolution=32", "train.batch=4", "train.order=gd", "optim_d.lr=0.001", "optim_d.betas=[0,0.9]",
                     **host("stylegan2"))
    groups = {g["name"]: g for g in t.optim["d"].param_groups}
    assert groups["vision_aided.heads"]["lr"] == groups["net"]["lr"] == pytest.approx(1e-3 * 2 / 3)      # D's settings, with the lazy correction
    before = state_of(t.terms["vision_aided"])
    run_steps(t, 2)
    log = t.take_log()
    assert torch.isfinite(weights(t)).all() and log["d/bad_grads"] == log["g/bad_grads"] == 0
    assert all(math.isfinite(v) for v in log.values()) and moved(t.terms["vision_aided"], before) == set(before)
    assert log["d/loss_vision_aided"] > 0 and log["g/loss_vision_aided"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_fastgan_with_shared_fakes(precision):
    t = tiny_trainer(*CHEAP, "data.resolution=32", "train.batch=4", "train.share_fakes=true", "augment=diffaug", precision=precision,
                     **host("fastgan"))
    before = state_of(t.terms["vision_aided"])
    run_steps(t, 2)
    log = t.take_log()
    assert torch.isfinite(weights(t)).all() and log["d/bad_grads"] == log["g/bad_grads"] == 0
    assert moved(t.terms["vision_aided"], before) == set(before)


# ------------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("settings, line", [
    (["network=clip"], "network='clip': input should be 'efficientnet' or 'vgg16'"), (["weight=-1"], "weight=-1: give a number of 0 or more"),
    (["smoothing=0.6"], "smoothing=0.6: give a number from 0 to 0.5"), (["smoothing=-0.1"], "smoothing=-0.1"),
    (["loss=hinge", "smoothing=0.2"], "smoothing=0.2 with loss=hinge, which has no target: leave smoothing out"), (["h=0"], "h=0"),
    (["size=100"], r"size=100: efficientnet takes images of 32, 64 ... pixels a side, multiples of 32"), (["size=0"], "size=0"),
    (["network=vgg16", "size=32"], r"size=32: vgg16 takes images of 64, 96 ..."), (["policy=colour"], "unknown group 'colour'; did you mean 'color'"),
    (["loss=wgan"], "loss='wgan'"), (["start_kimg=-1"], "start_kimg=-1"), (["lr=0"], "lr=0")])
def test_bad_input_is_said_in_a_line(settings, line):
    with pytest.raises(UsageError, match=f"terms.vision_aided.*{line}|{line}") as error:
        tiny_trainer("terms.vision_aided.random=1", *(f"terms.vision_aided.{s}" for s in settings))
    assert "\n" not in str(error.value)


def test_grey_images_are_shown_as_colour_images_and_that_is_said():
    grey = tiny_trainer(*CHEAP, dataset=noise_set(channels=1), **{"data": {"channels": 1}})
    run_steps(grey, 1)
    assert torch.isfinite(weights(grey)).all() and [n for n in grey.notes if "vision_aided: the images are grey" in n]
    assert not tiny_trainer(*CHEAP).notes


def test_absent_weights_are_an_error_with_the_remedy(photos, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    for network, name in (("efficientnet", "efficientnet"), ("vgg16", "lpips")):
        terms = ("--set", 'terms={"eff": {"use": "vision_aided", "network": "' + network + '"}}')
        said = refused(capsys, "train", photos, "--out", "run", "--kimg", "0.008", *TINY, *terms, code=1)
        assert said.endswith(f"handful weights get {name}") and f"terms.eff computes with the weights '{name}'" in said and not Path("run").exists()
        with pytest.raises(HandfulError, match=f"not on this machine; get them with: handful weights get {name}"):
            tiny_trainer(f"terms.vision_aided.network={network}")
    untrained = ("--set", 'terms={"eff": {"use": "vision_aided", "random": 1, "size": 32}}')
    assert command("train", photos, "--out", "run", "--kimg", "0.008", *TINY, *untrained) == 0
    assert "Heads on frozen features" in Path("run/report.html").read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------- micro-batches, processes


def cut(*settings: str, **how):
    """Three steps. Another way to divide the batch changes rounding alone; with a large eps Adam doesn't magnify it where a gradient is nearly 0."""
    return run_steps(tiny_trainer(*CHEAP, *settings, "terms.vision_aided.h=8", "optim_g.eps=1e-3", "optim_d.eps=1e-3",
                                  g={"use": "tiny:TinyG", "noise": 0.1}, **how), 3)


def work(out: Path) -> None:
    """What each rank runs under torchrun."""
    from handful.training import distributed

    torch.set_num_threads(1)
    rank, world = distributed.start(torch.device("cpu"))
    t = cut(rank=rank, world=world)
    torch.save({"weights": weights(t)}, out / f"rank{rank}.pt")
    distributed.leave()


def test_two_processes_and_micro_batches_are_one_batch(tmp_path):
    one = weights(cut())
    assert (one - weights(cut("train.micro_batch=2"))).abs().max() < 1e-4
    a, b = (r["weights"] for r in of_two_processes(__file__, tmp_path))
    assert torch.equal(a, b) and (one - a).abs().max() < 1e-4


if __name__ == "__main__":
    work(Path(sys.argv[1]))
