"""InsGen: the specification's numbers, where its gradients go, and that it costs and writes no more than it says."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handful.errors import HandfulError, UsageError
from handful.rng import Rng
from handful.seam import Augment, Augmented, Facts, FeatureInfo
from handful.terms._contrast import Head, choose_tap, follow, info_nce, queue_length, slow_copy
from handful.terms._views import vector
from handful.terms.insgen import InsGen
from making import noise_set, of_two_processes, run_steps, tiny_trainer, weights
from tiny import TinyD

STYLEGAN2 = {"g": {"use": "stylegan2", "z_dim": 16, "w_dim": 16, "channel_base": 256, "channel_max": 16, "mapping_layers": 2},
             "d": {"use": "stylegan2", "channel_base": 256, "channel_max": 16}, "train": {"batch": 8, "order": "gd"}}
FASTGAN = {"g": {"use": "fastgan", "ngf": 4, "z_dim": 8}, "d": {"use": "fastgan", "ndf": 4}, "loss": {"use": "soft_hinge"},
           "train": {"batch": 4, "share_fakes": True}, "data": {"resolution": 64}}
QUEUES = ["terms.insgen.queue_real=20", "terms.insgen.queue_fake=20"]


def trainer(*settings: str, **over):
    return tiny_trainer("terms.insgen.use=insgen", *settings, **{"dataset": noise_set(), **over})


def phase_of(t, side: str, *names: str):
    """The main phase of a side, of these terms alone."""
    main = next(p for p in t.plan if p.side == side and p.main)
    return dataclasses.replace(main, names=names) if names else main


def run_phase(t, side: str, *names: str) -> None:
    t._run(phase_of(t, side, *names), 0, 0)


def state_of(*modules) -> list[torch.Tensor]:
    return [v.clone() for m in modules for v in m.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def touched(module) -> set[str]:
    """Parameters that the last step gave a gradient other than 0."""
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


# ------------------------------------------------------------------------------------------------------- the head, the queue


def test_the_specifications_vector():
    head = Head(8, 6, hidden=8)
    for j, (_, p) in enumerate(sorted(head.named_parameters())):
        p.data = torch.from_numpy(0.5 * np.random.RandomState(j).standard_normal(tuple(p.shape))).float()
    head.queue.copy_(F.normalize(torch.from_numpy(np.random.RandomState(50).standard_normal((128, 6))).float(), dim=0))
    f_q, f_k = (torch.from_numpy(np.random.RandomState(s).standard_normal((2, 8, 4, 4))).float() for s in (60, 61))
    head.follow(0.999)
    loss, _ = info_nce(head.embed(f_q), head.embed_slowly(f_k), head.queue, 0.2)
    assert loss.mean().item() == pytest.approx(1.914082, abs=2e-6)


def test_info_nce_is_cross_entropy_with_the_key_first():
    q, k = (F.normalize(torch.randn(3, 4, dtype=torch.float64), dim=1) for _ in range(2))
    queue = F.normalize(torch.randn(4, 7, dtype=torch.float64), dim=0)
    found, cosine = info_nce(q, k, queue, 0.3)
    logits = torch.stack([torch.cat([(q[i] @ k[i])[None], q[i] @ queue]) / 0.3 for i in range(3)])
    assert torch.allclose(found, F.cross_entropy(logits, torch.zeros(3, dtype=torch.int64), reduction="none"))
    assert torch.allclose(cosine, F.cosine_similarity(q, k))
    weighted, _ = info_nce(q, k, queue, 0.3, torch.tensor([0.0] * 6 + [-torch.inf]))
    assert torch.allclose(weighted, info_nce(q, k, queue[:, :6], 0.3)[0])


def test_head_has_the_releases_names_and_shapes():
    assert {k: tuple(v.shape) for k, v in Head(512, 200).state_dict().items()} == {
        "queue": (128, 200), "queue_ptr": (1,), "mlp.0.weight": (512, 512), "mlp.0.bias": (512,), "mlp.2.weight": (128, 512), "mlp.2.bias": (128,),
        "momentum_mlp.0.weight": (512, 512), "momentum_mlp.0.bias": (512,), "momentum_mlp.2.weight": (128, 512), "momentum_mlp.2.bias": (128,)}
    head = Head(512, 200)
    assert head.queue_ptr.dtype == torch.int64 and head.queue_ptr.item() == 0 and torch.allclose(head.queue.norm(dim=0), torch.ones(200))
    assert same(list(head.mlp.parameters()), list(head.momentum_mlp.parameters()))
    assert all(p.requires_grad == name.startswith("mlp") for name, p in head.named_parameters())
    assert 0.9 / 512 ** 0.5 < head.mlp[0].weight.abs().max() <= 1 / 512 ** 0.5


def test_ring_moves_as_the_release_does():
    head = Head(4, 5, width=1)
    head.queue.fill_(-1)
    seen = []
    for start, n in ((0, 3), (3, 3), (6, 3), (10, 7)):
        head.insert(torch.arange(start, start + n, dtype=torch.float32)[:, None])
        seen.append((head.queue_ptr.item(), head.queue[0].tolist()))
    assert seen == [(3, [0, 1, 2, -1, -1]), (1, [5, 1, 2, 3, 4]), (4, [5, 6, 7, 8, 4]), (4, [10, 11, 12, 13, 14])]
    head.insert(torch.tensor([[1.0]]))                                            # ends exactly at the end: 5, and the next wraps
    assert head.queue_ptr.item() == 5 and head.queue[0].tolist() == [10, 11, 12, 13, 1]
    head.insert(torch.tensor([[2.0], [3.0]]))
    assert head.queue_ptr.item() == 2 and head.queue[0].tolist() == [2, 3, 12, 13, 1]


def test_head_pools_maps_and_stays_in_fp32_under_autocast():
    head = Head(6, 5)
    x = torch.randn(2, 6, 4, 4)
    assert torch.allclose(head.embed(x), head.embed(x.mean((2, 3)))) and torch.allclose(head.embed(x).norm(dim=1), torch.ones(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert head.embed(x).dtype == torch.float32 and torch.equal(head.embed(x), head.embed(x.clone()))
    assert head.embed(x.bfloat16()).dtype == torch.float32
    assert not head.embed_slowly(x.requires_grad_()).requires_grad and head.embed(x).requires_grad


def test_slow_copy_follows_parameters_slowly_and_buffers_at_once():
    D = TinyD()
    D.register_buffer("u", torch.zeros(3))
    slow = slow_copy(D)
    assert not slow.training and not any(p.requires_grad for p in slow.parameters())
    before = [p.clone() for p in slow.parameters()]
    D.stem.requires_grad_(False)
    with torch.no_grad():
        for p in D.parameters():
            p.add_(1)
        D.u.fill_(7)
    follow(slow, D, 0.9)
    for (name, p), old in zip(slow.named_parameters(), before):
        assert torch.allclose(p, old if name.startswith("stem") else old + 0.1, atol=1e-6)
    assert slow.u.tolist() == [7, 7, 7]


@pytest.mark.parametrize("count, flip, length", [(2000, True, 200), (10000, True, 1000), (70000, True, 7000), (5153, False, 257), (5153, True, 514),
                                                 (4739, True, 472), (4738, False, 236), (7, True, 1)])
def test_queues_hold_five_percent(count, flip, length):
    assert queue_length("insgen", None, Facts(count, flip)) == length


def test_tap_is_the_last_map_of_the_large_scale():
    info = {"map_16": FeatureInfo(4, 16), "map_8": FeatureInfo(4, 8), "late_8": FeatureInfo(4, 8),
            "pre_logits": FeatureInfo(4, 4), "small_4": FeatureInfo(4, 4)}
    assert choose_tap("insgen", None, info) == "late_8" and choose_tap("insgen", "pre_logits", info) == "pre_logits"
    assert choose_tap("insgen", None, {"pre_logits": FeatureInfo(4)}) == "pre_logits"
    assert trainer(**STYLEGAN2).terms["insgen"].tap == "map_4"


# ------------------------------------------------------------------------------------------------- behaviour (section 10)


def test_g_step_moves_nothing_but_the_fake_heads_slow_twin():
    t = run_steps(trainer(*QUEUES, augment={"use": "flip"}, **STYLEGAN2), 1)
    term, D = t.terms["insgen"], t.nets.D
    kept, slow = state_of(D, term.real_head, term.slow_d, term.fake_head.mlp), state_of(term.fake_head.momentum_mlp)
    queue, pointer = term.fake_head.queue.clone(), term.fake_head.queue_ptr.clone()
    run_phase(t, "g")
    assert same(kept, state_of(D, term.real_head, term.slow_d, term.fake_head.mlp))
    assert torch.equal(queue, term.fake_head.queue) and torch.equal(pointer, term.fake_head.queue_ptr)
    for new, old, goal in zip(term.fake_head.momentum_mlp.parameters(), slow, term.fake_head.mlp.parameters()):
        assert not torch.equal(new, old) and torch.allclose(new, 0.999 * old + 0.001 * goal, atol=1e-7)


@pytest.mark.parametrize("mode", ["released", "shared"])
def test_where_gradients_go(mode):
    """The table of the specification's section 4, with the contrastive losses alone."""
    blocks = {"stem.weight", "stem.bias", "b16.conv0.weight", "b16.conv1.weight", "b16.skip.weight", "b8.conv0.weight", "b8.skip.weight"}
    for kinds, head in ((["weight_fake=0", "weight_g=0"], "real_head"), (["weight_real=0"], "fake_head")):
        t = trainer(*QUEUES, *(f"terms.insgen.{k}" for k in kinds), f"terms.insgen.mode={mode}", augment={"use": "flip"}, **STYLEGAN2)
        term = t.terms["insgen"]
        run_phase(t, "d", "insgen")
        assert not touched(t.nets.G) and blocks <= touched(t.nets.D) and not any(name.startswith("b4.") for name in touched(t.nets.D))
        assert touched(term) == {f"{head}.mlp.{layer}.{p}" for layer in (0, 2) for p in ("weight", "bias")}
    t.optim["d"].zero_grad()
    run_phase(t, "g", "insgen")                                               # the last one: fakes alone
    assert "synthesis.b16.conv1.weight" in touched(t.nets.G) and not touched(t.nets.D) and not touched(term)


def test_d_step_leaves_g_and_the_epilogues_gradient_alone():
    with_it, without = trainer(*QUEUES, "optim_d.lr=1e-12", augment={"use": "flip"}, **STYLEGAN2), tiny_trainer(
        "optim_d.lr=1e-12", augment={"use": "flip"}, **STYLEGAN2)
    for t in (with_it, without):
        run_phase(t, "d")
    assert not touched(with_it.nets.G)
    grads, plain = ({n: p.grad for n, p in t.nets.D.named_parameters()} for t in (with_it, without))
    assert all(torch.equal(grads[n], plain[n]) for n in grads if n.startswith("b4."))
    assert not any(torch.allclose(grads[n], plain[n]) for n in grads if n.endswith("weight") and not n.startswith("b4."))


def test_d_step_fills_both_queues_with_the_whole_batch():
    t = trainer(*QUEUES)
    term = t.terms["insgen"]
    before = term.real_head.queue.clone()
    for n in (8, 16, 4):                                                        # 20 columns
        run_phase(t, "d")
        assert term.real_head.queue_ptr.item() == term.fake_head.queue_ptr.item() == n
        assert torch.allclose(term.fake_head.queue.norm(dim=0), torch.ones(20))
    assert not (term.real_head.queue == before).all(0).any()


def test_the_same_views_through_the_same_networks_agree():
    t = trainer(*QUEUES, **STYLEGAN2)                                         # nothing augmented
    run_phase(t, "d")
    log = t.take_log()
    assert log["d/insgen/cos_real"] == pytest.approx(1, abs=1e-5) and log["d/insgen/cos_fake"] < 0.9999
    assert any("nothing is augmented" in note for note in t.notes) and not trainer(augment={"use": "flip"}).notes
    assert any("nothing is augmented" in note for note in trainer("augment.p=0.5", augment={"use": "apa"}).notes)      # fakes for reals, unaugmented


def test_losses_are_weighted_means_with_their_own_weights():
    t = trainer(*QUEUES, "terms.insgen.weight_real=3", "terms.insgen.weight_fake=0.5", "terms.insgen.weight_g=0.2")
    run_phase(t, "d")
    run_phase(t, "g")
    log = t.take_log()
    assert log["d/loss_insgen"] == pytest.approx(3 * log["d/insgen/cl_real"] + 0.5 * log["d/insgen/cl_fake"], rel=1e-5)
    assert log["g/loss_insgen"] == pytest.approx(0.2 * log["g/insgen/cl_g"], rel=1e-5)


def test_it_learns_to_tell_reals_apart():
    """Well below chance, log(1 + K), once the first keys have left the queue."""
    t = trainer("terms.insgen.queue_real=12", "optim_d.lr=1e-2", "terms.insgen.momentum=0.9", "terms.insgen.weight_fake=0",
                "terms.insgen.weight_g=0", augment={"use": "flip"})
    run_steps(t, 25).take_log()
    assert run_steps(t, 20).take_log()["d/insgen/cl_real"] < math.log(13) - 0.4


# ------------------------------------------------------------------------------------------- cost, weights of 0, the options


def runs(t, side: str) -> int:
    before = t.nets.runs
    run_phase(t, side)
    return t.nets.runs - before


@pytest.mark.parametrize("settings, d, g", [
    ([], 4, 3), (["mode=shared"], 3, 2), (["weight_g=0"], 4, 1), (["weight_real=0"], 4, 3), (["weight_fake=0", "weight_g=0"], 4, 1),
    (["weight_real=0", "weight_fake=0", "weight_g=0"], 2, 1), (["mode=shared", "weight_g=0"], 3, 1)])
def test_passes_of_d(settings, d, g):
    """Without it 2 and 1. Queries and keys of both kinds are one run each where D's images can't notice each other."""
    t = trainer(*(f"terms.insgen.{s}" for s in settings))
    assert (runs(t, "d"), runs(t, "g")) == (d, g)
    if not settings:
        t = trainer(**STYLEGAN2)                                              # the minibatch standard deviation: one by one
        assert (runs(t, "d"), runs(t, "g")) == (6, 3)


def test_no_gradient_by_pixels_beside_terms_that_want_some():
    """Terms that differentiate by pixels make the step's images leaves; the views are taken of them without a graph."""
    t = trainer("terms.r2.use=r2", "terms.r2.at=x")
    seen, judge = [], t.nets.judge
    t.nets.judge = lambda x, *a, **k: (seen.append(x.requires_grad), judge(x, *a, **k))[1]
    run_phase(t, "d")
    assert seen == [False, False]


def test_weight_0_leaves_out_heads_and_work():
    parts = {name.split(".")[0] for name in trainer("terms.insgen.weight_fake=0", "terms.insgen.weight_g=0").terms["insgen"].state_dict()}
    assert parts == {"real_head", "slow_d"}
    nothing = [f"terms.insgen.weight_{k}=0" for k in ("real", "fake", "g")]
    idle, without = run_steps(trainer(*nothing), 2), run_steps(tiny_trainer(), 2)
    assert torch.equal(weights(idle), weights(without)) and not idle.terms["insgen"].state_dict()


def test_enqueue_stores_queries_or_keys():
    """What the fakes' queue gets; reals always store keys."""
    got = {}
    for enqueue in ("query", "key"):
        t = trainer(*QUEUES, f"terms.insgen.enqueue={enqueue}", "terms.insgen.weight_g=0", "terms.insgen.mode=shared", "terms.insgen.perturb_std=5",
                    augment={"use": "flip"})
        results = []
        t.terms["insgen"].register_forward_hook(lambda m, i, o, results=results: results.append((i[0], o)))
        run_phase(t, "d")
        ctx, out = results[0]
        assert torch.equal(t.terms["insgen"].fake_head.queue[:, :8].T, out.gather["fake"])
        assert torch.equal(t.terms["insgen"].real_head.queue[:, :8].T, out.gather["real"])
        got[enqueue] = out.gather["fake"], ctx.fake.features["conv2"], out.gather["real"]
    fresh = trainer(*QUEUES, "terms.insgen.weight_g=0").terms["insgen"].fake_head                               # as both were at the start
    (queries, features, a), (keys, _, b) = got["query"], got["key"]
    assert torch.equal(a, b)                                                                                    # reals: keys in both
    assert torch.allclose(queries, fresh.embed_slowly(features), atol=1e-6) and not torch.allclose(keys, queries, atol=1e-3)


def test_perturbation_same_keeps_noise_and_style_mixing():
    made = {}

    def keep(t):
        generate = t.nets.generate
        made["calls"] = []

        def noted(z, c=None, *, rng):
            out = generate(z, c, rng=rng)
            made["calls"].append((z, out.image))
            return out
        t.nets.generate = noted
        seen = []
        t.terms["insgen"].register_forward_hook(lambda m, i, o: seen.append(i[0]))
        run_phase(t, "d")
        return seen[0].fake.generated

    g = keep(trainer("terms.insgen.perturb=same", "terms.insgen.perturb_std=1e-6", **STYLEGAN2))
    assert torch.allclose(made["calls"][0][1], g.image, atol=1e-3)
    g = keep(trainer("terms.insgen.perturb_std=1e-6", **STYLEGAN2))
    assert not torch.allclose(made["calls"][0][1], g.image, atol=1e-2)                                          # style mixing, noise of their own
    g = keep(trainer("terms.insgen.perturb_std=0.15", "train.batch=512", dataset=noise_set(600)))
    z, _ = made["calls"][0]
    assert (z - g.z).std().item() == pytest.approx(0.15, rel=0.05) and len(made["calls"]) == 1
    keep(trainer("terms.insgen.perturb=same", "terms.insgen.perturb_std=0"))                                    # table 3: without perturbation
    assert not made["calls"]


def test_the_papers_options_train():
    t = trainer("terms.insgen.tap=pre_logits", "terms.insgen.temperature=2", "terms.insgen.enqueue=key", "terms.insgen.perturb=same",
                "terms.insgen.hidden=12", "terms.insgen.width=6", augment={"use": "flip"}, **STYLEGAN2)
    run_steps(t, 2)
    assert t.terms["insgen"].real_head.mlp[0].weight.shape == (12, 16) and t.terms["insgen"].real_head.queue.shape[0] == 6
    assert torch.isfinite(weights(t)).all()


class Shift(Augment):
    """Adds the number of draws so far, so that every view is known."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = 0

    def draw(self, x, rng, extra=None):
        self.draws += 1
        return Augmented(x + 10 * self.draws, {k: v + 10 * self.draws for k, v in (extra or {}).items()})


def test_views_classes_and_extra_scales_reach_d():
    """Each view is an augmentation of its own of the very images of the step, with their classes and, for fakes, their further scales."""
    t = tiny_trainer("terms.insgen.use=insgen", dataset=noise_set(12, resolution=64, classes=3), **FASTGAN)
    t.nets.augment, seen, passes = Shift(), [], []
    for who, net in (("d", t.nets.D), ("slow", t.terms["insgen"].slow_d)):
        net.register_forward_hook(lambda m, i, o, who=who: seen.append((who, *i[:3])))
    t.terms["insgen"].register_forward_hook(lambda m, i, o: passes.append(i[0]))
    judge = t.nets.judge
    t.nets.judge = lambda x, *a, **k: (seen.append(("view", x, *a, k["extra"])), judge(x, *a, **k))[1]
    run_phase(t, "d")
    real, fake = passes[0].real, passes[0].fake
    views = [s for s in seen if s[0] == "view"]
    assert torch.equal(views[0][1], real.x) and torch.equal(views[1][1], fake.x) and torch.equal(views[2][1], real.x)
    assert all(torch.equal(v[2], p.c) for v, p in zip(views, (real, fake, real, fake)))
    assert views[0][3] is None and torch.equal(views[1][3]["small"], fake.generated.extra["small"]) and not views[1][3]["small"].requires_grad
    assert not torch.equal(views[3][1], fake.x)
    whole = [s for s in seen if s[0] != "view"][-4:]
    assert [s[0] for s in whole] == ["d", "d", "slow", "slow"]
    assert torch.allclose(whole[1][3]["small"] - fake.generated.extra["small"], whole[1][1].mean() - fake.x.mean(), atol=1e-3)
    offsets = [round((w[1] - v[1]).mean().item()) for w, v in zip(whole, views)]
    assert len(set(offsets)) == 4


def test_fastgan_and_classes_train_in_both_modes():
    for mode in ("released", "shared"):
        t = tiny_trainer("terms.insgen.use=insgen", f"terms.insgen.mode={mode}", dataset=noise_set(12, resolution=64, classes=3),
                         augment={"use": "diffaug"}, **FASTGAN)
        run_steps(t, 2)
        assert torch.isfinite(weights(t)).all() and t.terms["insgen"].tap == "big_8" and not t.terms["insgen"].slow_d.training


# ----------------------------------------------------------------------------------------------- the trainer's side of things


def test_heads_have_the_settings_of_their_networks():
    t = tiny_trainer("terms.insgen.use=insgen", "optim_g.lr=1e-3", "optim_d.lr=4e-3", "optim_g.betas=[0,0.9]", "optim_d.betas=[0,0.99]",
                     "terms.r1.own_step=true", "terms.r1.every=16", "terms.path_length.every=4", **STYLEGAN2)
    groups = {g["name"]: g for g in t.optim["d"].param_groups}
    real, fake = groups["insgen.real_head"], groups["insgen.fake_head"]
    assert real["lr"] == pytest.approx(4e-3 * 16 / 17) and real["betas"][1] == pytest.approx(0.99 ** (16 / 17))
    assert fake["lr"] == pytest.approx(1e-3 * 0.8) and fake["betas"][1] == pytest.approx(0.9 ** 0.8)
    held = {id(p) for g in groups.values() for p in g["params"]}
    assert all((id(p) in held) == (".mlp." in f".{n}") for n, p in t.terms["insgen"].named_parameters())
    before = t.terms["insgen"].fake_head.mlp[2].weight.clone()
    run_phase(t, "d")
    moved = (t.terms["insgen"].fake_head.mlp[2].weight - before).abs().max().item()
    assert moved == pytest.approx(1e-3 * 0.8, rel=1e-3)                         # Adam's first step


def test_slow_parts_move_after_each_step():
    t = trainer("terms.insgen.momentum=0.75")
    term, D = t.terms["insgen"], t.nets.D
    old, old_head = [p.clone() for p in D.parameters()], [p.clone() for p in term.real_head.mlp.parameters()]
    run_phase(t, "d")
    for slow, a, b in ((term.slow_d, old, D), (term.real_head.momentum_mlp, old_head, term.real_head.mlp)):
        assert all(torch.allclose(s, 0.75 * x + 0.25 * y, atol=1e-6) for s, x, y in zip(slow.parameters(), a, b.parameters()))


@pytest.mark.parametrize("mode", ["released", "shared"])
def test_accumulation_is_exact(mode):
    settings = [*QUEUES, f"terms.insgen.mode={mode}", "optim_d.eps=1e-3", "optim_g.eps=1e-3"]
    whole, parts = (run_steps(trainer(*settings, *more, augment={"use": "diffaug"}), 3) for more in ([], ["train.micro_batch=2"]))
    assert torch.allclose(weights(whole), weights(parts), rtol=1e-4, atol=1e-6)
    assert whole.terms["insgen"].fake_head.queue_ptr == parts.terms["insgen"].fake_head.queue_ptr


@pytest.mark.parametrize("mode", ["released", "shared"])
def test_resume_is_exact_with_full_queues(mode):
    settings = [*QUEUES, f"terms.insgen.mode={mode}"]
    straight, first, second = (trainer(*settings, augment={"use": "flip"}) for _ in range(3))
    second.load_state_dict(run_steps(first, 3).state_dict())
    assert torch.equal(weights(run_steps(straight, 6)), weights(run_steps(second, 3)))


PROCESSES = {"insgen": QUEUES, "fake_contrast": ["terms.fake_contrast.use=fake_contrast", "terms.fake_contrast.queue=20"]}


def in_processes(name: str, **where: int):
    return run_steps(tiny_trainer(*PROCESSES[name], f"terms.{name}.use={name}", "optim_g.eps=1e-3", "optim_d.eps=1e-3",
                                  augment={"use": "diffaug"}, **where), 4)


def work(out: Path) -> None:
    """What each rank runs."""
    from handful.training import distributed

    torch.set_num_threads(1)
    rank, world = distributed.start(torch.device("cpu"))
    trained = {name: in_processes(name, rank=rank, world=world) for name in PROCESSES}
    torch.save({name: {"all": weights(t), "term": t.terms[name].state_dict()} for name, t in trained.items()}, out / f"rank{rank}.pt")
    distributed.leave()


def test_two_processes_hold_one_queue(tmp_path):
    ranks = of_two_processes(__file__, tmp_path)
    for name in PROCESSES:
        a, b = (rank[name] for rank in ranks)
        assert torch.equal(a["all"], b["all"]) and all(torch.equal(v, b["term"][k]) for k, v in a["term"].items())
        assert (weights(in_processes(name)) - a["all"]).abs().max() < 1e-5
        assert {v.item() for k, v in a["term"].items() if k.endswith("queue_ptr")} == {12}


@pytest.mark.parametrize("name, steps", [("insgen", 0), ("insgen", 3), ("fake_contrast", 3)])
def test_a_d_with_batch_norm_sees_queries_and_keys_in_one_mode(name, steps):
    """Of the same images D and its fresh copy make the same vector, whatever D's running statistics are; different images differ. Nothing is
    written into either network."""
    t = tiny_trainer(f"terms.{name}.use={name}", dataset=noise_set(12, resolution=64), augment={"use": "none"}, **FASTGAN)
    term, D = t.terms[name], t.nets.D
    run_steps(t, steps)
    fresh = slow_copy(D)
    assert D.training and not fresh.training and not term.slow_d.training and not term.train().slow_d.training
    assert {m.training for m in fresh.modules() if isinstance(m, nn.BatchNorm2d)} == {True}
    x, _ = t.dataset.batch(torch.arange(8), None, torch.device("cpu"))
    before = state_of(D, fresh)
    see = lambda net, images: vector(t.nets.judge(images, None, rng=Rng(1), want=frozenset({term.tap}), net=net).judged.features[term.tap])
    with torch.no_grad():
        query, key, running = see(D, x), see(fresh, x), see(fresh.eval(), x)
    head = next(m for m in term.modules() if isinstance(m, Head))
    assert torch.allclose(query, key, rtol=1e-5, atol=1e-6) and torch.allclose(F.cosine_similarity(query, key), torch.ones(8), atol=1e-6)
    assert torch.allclose((head.embed(query) * head.embed(key)).sum(1), torch.ones(8), atol=1e-5)
    assert F.cosine_similarity(query, running).max() < 0.999
    assert F.cosine_similarity(query, key.roll(1, 0)).max() < 0.999
    assert same(before, state_of(D, fresh))


def test_bad_settings_say_what_to_do():
    with pytest.raises(UsageError, match=r"tap=map_4.*it has conv1, conv2, pre_logits"):
        trainer("terms.insgen.tap=map_4")
    with pytest.raises(HandfulError, match=r"queue_real=25: there are only 24 training images; give at most 24"):
        trainer("terms.insgen.queue_real=25", "data.flip=false")
    assert trainer("terms.insgen.queue_real=48", "data.flip=true", "terms.insgen.queue_fake=100").terms["insgen"].fake_head.queue.shape == (128, 100)
    with pytest.raises(UsageError, match="weight_g=0 too"):
        InsGen(weight_fake=0)
    for bad in ({"temperature": 0}, {"weight_real": -1}, {"momentum": 1.5}, {"queue_fake": 0}, {"width": 0}, {"perturb_std": -0.1}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            InsGen(**bad)
    with pytest.raises(UsageError, match="mode"):
        trainer("terms.insgen.mode=fast")
    with pytest.raises(HandfulError, match="method that contrasts fakes"):
        trainer("terms.fake_contrast.use=fake_contrast")
    trainer("terms.fake_contrast.use=fake_contrast", "terms.insgen.weight_fake=0", "terms.insgen.weight_g=0")


def test_forward_needs_no_trainer():
    """A micro-batch by hand, for a term in somebody's own loop: the rng is all that is random."""
    t = trainer(*QUEUES)
    found = []
    t.terms["insgen"].register_forward_hook(lambda m, i, o: found.append((i[0], o)))
    run_phase(t, "d")
    ctx, out = found[0]
    assert {k: v.shape for k, v in out.stats.items()} == {k: (8,) for k in ("cl_real", "cos_real", "cl_fake", "cos_fake")}
    assert isinstance(ctx.rng, Rng) and out.loss.ndim == 0


if __name__ == "__main__":
    work(Path(sys.argv[1]))
