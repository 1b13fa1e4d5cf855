"""APA: which reals are replaced by what, who moves the probability, and that everything behind D sees the mixed batch."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from handful.augment import ADA, APA
from handful.errors import HandfulError, UsageError
from handful.rng import Rng
from making import noise_set, of_two_processes, run_steps, tiny_trainer, weights

LAZY_R1 = ('terms.r1={"use": "r1", "gamma": 1.0, "every": 2, "own_step": true}', "optim_g.eps=1e-3", "optim_d.eps=1e-3")
MOVED = (*LAZY_R1, "train.order=gd", "augment.p=0.4", "terms.ada_controller.kimg=0.2", "terms.ada_controller.interval=2",
         "terms.ada_controller.target=-1.5", "terms.ada_controller.start=null")          # r_t is never below -1: p rises
USE = {"augment": {"use": "apa"}}


def test_each_slot_shows_its_fake_with_probability_p():
    x, fakes = torch.zeros(4000, 1, 2, 2), torch.ones(4000, 1, 2, 2, requires_grad=True)
    for p in (0.0, 0.25, 1.0):
        shown = APA(p=p).reals(x, fakes, Rng(1))
        assert not shown.requires_grad
        assert torch.equal(shown, shown[:, :, :1, :1].expand_as(shown))             # whole images
        assert shown[:, 0, 0, 0].mean().item() == pytest.approx(p, abs=3 * (p * (1 - p) / 4000) ** 0.5)
    numbered = torch.arange(1.0, 4001)[:, None, None, None].expand_as(x)
    shown = APA(p=0.5).reals(x, numbered, Rng(1))
    assert torch.equal(shown[shown != 0], numbered[shown != 0])                     # of the same slot
    part = APA(p=0.5).reals(x[100:200], numbered[100:200], Rng(1, batch=4000, slots=range(100, 200)))
    assert torch.equal(part, shown[100:200])


def test_refusals():
    with pytest.raises(UsageError, match="p=1.5"):
        APA(p=1.5)
    with pytest.raises(UsageError, match="unknown word 'bgd'"):
        APA("bgd")
    with pytest.raises(HandfulError, match="as many as there are reals"):
        APA().reals(torch.zeros(1, 3, 8, 8), None, Rng(1))


def test_the_same_p_for_the_pipeline_wherever_the_module_goes():
    apa, x = APA("bgc", p=0.3), torch.rand(16, 3, 16, 16)
    assert torch.equal(apa.draw(x, Rng(2)).image, ADA("bgc", p=0.3).draw(x, Rng(2)).image)
    assert torch.equal(APA(p=0.3).draw(x, Rng(2)).image, x)
    for module in (apa, copy.deepcopy(apa), apa.to("meta")):                        # moving a module gives each buffer a tensor of its own
        assert [name for name, _ in module.named_buffers()] == ["ada.p"] and module.p is module.ada.p
    other = APA("bgc")
    other.load_state_dict(APA("bgc", p=0.7).state_dict())
    assert other.p.item() == pytest.approx(0.7)


def test_p_of_nothing_is_training_without_it():
    plain = run_steps(tiny_trainer(*LAZY_R1), 3)
    assert torch.equal(weights(plain), weights(run_steps(tiny_trainer(*LAZY_R1, **USE), 3)))
    ada = run_steps(tiny_trainer(*LAZY_R1, augment={"use": "ada", "policy": "bgc", "p": 0.0}), 3)
    assert torch.equal(weights(ada), weights(run_steps(tiny_trainer(*LAZY_R1, "augment.policy=bgc", **USE), 3)))


@pytest.mark.parametrize("order, classes", [("gd", 0), ("dg", 0), ("gd", 3)])
def test_reals_that_are_all_fakes_teach_nothing_of_the_reals(order, classes):
    """p = 1: a run on other pictures comes out the same, its R1 in a step of its own too; p = 0.5 does not."""
    def trained(p: float, darken: int):
        data = noise_set(classes=classes)
        data.images = data.images // darken
        return weights(run_steps(tiny_trainer(*LAZY_R1, f"train.order={order}", f"augment.p={p}", dataset=data, **USE), 3))

    assert torch.equal(trained(1.0, 1), trained(1.0, 5)) and not torch.equal(trained(0.5, 1), trained(0.5, 5))


def test_r1_is_taken_on_the_mixed_batch():
    trainer = tiny_trainer(*LAZY_R1, "train.order=gd", "augment.p=0.5", **USE)
    r1, mixed, shown = trainer.terms["r1"], [], trainer.nets.augment.reals
    inner = r1.forward

    def forward(ctx):
        result = inner(ctx)
        x = mixed[-1].clone().requires_grad_()                       # what `reals` gave out in this phase
        grad, = torch.autograd.grad(trainer.nets.D(x).logits.sum(), x)
        assert torch.equal(ctx.real.x.detach(), mixed[-1])
        assert torch.allclose(result.stats["grad_norm"], grad.flatten(1).norm(dim=1), rtol=1e-4)
        return result

    def reals(x, fakes, rng):
        mixed.append(shown(x, fakes, rng))
        assert not fakes.requires_grad and 0 < (mixed[-1] == fakes).flatten(1).all(1).sum() < len(x)
        return mixed[-1]

    r1.forward, trainer.nets.augment.reals = forward, reals
    run_steps(trainer, 1)
    assert len(mixed) == 2


def test_the_controller_moves_it_by_what_d_takes_for_real():
    """Target 0.6, p by 1 in 500 kimg, every 4 steps: APA's numbers are the controller's defaults. p acts in the next step."""
    trainer = tiny_trainer("terms.ada_controller={}", "optim_d.lr=1e-9", **USE)
    with torch.no_grad():
        trainer.nets.D.head.bias.fill_(100.0)                        # D takes all for real
    run_steps(trainer, 8)
    assert trainer.nets.augment.p.item() == pytest.approx(2 * 4 * 8 / 500_000)
    with torch.no_grad():
        trainer.nets.D.head.bias.fill_(-100.0)
        trainer.nets.augment.p.fill_(1.0)
    run_steps(trainer, 4)
    assert trainer.nets.augment.p.item() == pytest.approx(1 - 4 * 8 / 500_000)
    assert any("augment=apa has strength p=0 and nothing moves it" in n for n in tiny_trainer(**USE).notes)


@pytest.mark.parametrize("policy", ["", "bgc"])
def test_resume_and_accumulation(policy):
    lines = (*MOVED, f"augment.policy={policy}")
    straight, first, second = (tiny_trainer(*lines, **USE) for _ in range(3))
    run_steps(straight, 4)
    second.load_state_dict(copy.deepcopy(run_steps(first, 2).state_dict()))
    assert torch.equal(weights(run_steps(second, 2)), weights(straight))
    assert torch.equal(second.nets.augment.p, straight.nets.augment.p) and straight.nets.augment.p.item() == pytest.approx(0.4 + 32 / 200)
    parts = run_steps(tiny_trainer(*lines, "train.micro_batch=4", **USE), 4)
    assert torch.allclose(weights(parts), weights(straight), atol=1e-5)


def test_another_batch_of_gs_step_mixes_alike_however_it_is_cut():
    """G's step then shows other slots than D's has: fakes are made for D, and don't depend on the micro-batches."""
    lines = ("train.g_batch=16", "train.order=gd", "augment.p=0.5")
    whole, parts = (run_steps(tiny_trainer(*lines, *more, **USE), 3) for more in ([], ["train.micro_batch=4"]))
    assert torch.allclose(weights(whole), weights(parts), atol=2e-6)


def work(out: Path) -> None:
    """What each of two processes runs."""
    from handful.training import distributed

    torch.set_num_threads(1)
    rank, world = distributed.start(torch.device("cpu"))
    trainer = run_steps(tiny_trainer(*MOVED, rank=rank, world=world, **USE), 4)
    torch.save({"weights": weights(trainer), "p": trainer.nets.augment.p}, out / f"rank{rank}.pt")
    distributed.leave()


def test_two_processes_mix_as_one(tmp_path):
    a, b = of_two_processes(__file__, tmp_path)
    assert torch.equal(a["weights"], b["weights"]) and torch.equal(a["p"], b["p"])
    one = run_steps(tiny_trainer(*MOVED, **USE), 4)
    assert torch.allclose(weights(one), a["weights"], atol=1e-6) and torch.equal(one.nets.augment.p, a["p"])


if __name__ == "__main__":
    import sys

    work(Path(sys.argv[1]))
