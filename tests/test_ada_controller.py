"""The controller of adaptive augmentation, held-out images, and path length: against numbers worked out by hand and loops written out."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from handful.data import Dataset
from handful.errors import HandfulError
from handful.rng import Rng
from handful.terms import AdaController, PathLength
from handful.terms.path_length import path_lengths
from making import noise_set, run_steps, tiny_trainer, weights
from tiny import TinyG, context

MIRROR = "augment=test_seam:Mirror"


class Strong(torch.nn.Module):
    """Something with a strength, and the nets that hold it."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("p", torch.tensor(p))

    @property
    def augment(self):
        return self


def controlled(signs, p=0.0, batch=64, lazy=(), **settings) -> list[float]:
    """p after each iteration, for given means of sign(D(real)); lazy: iterations with another phase, whose mean sign is -1."""
    nets, term, out = Strong(p), AdaController(**settings), []
    for i, sign in enumerate(signs):
        term.commit("d", {"sign": torch.tensor(float(sign))}, {}, nets, batch)
        if i in lazy:
            term.commit("d", {"sign": torch.tensor(-1.0)}, {}, nets, 0)
        out.append(nets.p.item())
    return out


def test_p_moves_every_fourth_iteration_by_the_published_amount():
    found = controlled([1.0] * 9, kimg=500)
    step = 64 * 4 / 500_000                                            # spec 8: B * 4 / (1000 * ada_kimg)
    assert found == pytest.approx([0, 0, 0, step, step, step, step, 2 * step, 2 * step])


def test_p_falls_but_not_below_nothing_and_rests_on_the_target():
    assert controlled([0.5] * 8, p=0.0) == [0.0] * 8
    assert controlled([0.5] * 4, p=0.5)[-1] == pytest.approx(0.5 - 256 / 500_000)
    assert controlled([0.5] * 4, p=0.5, target=0.5)[-1] == 0.5        # sign(0) = 0


def test_p_has_no_upper_bound_unless_asked():
    assert controlled([1.0] * 8, p=1.0, kimg=1)[-1] == pytest.approx(1 + 2 * 0.256)
    assert controlled([1.0] * 8, p=0.7, kimg=1, max_p=0.8)[-1] == pytest.approx(0.8)


def test_the_lazy_phases_logits_count_in_their_own_window():
    """Mean of four signs of 0.7 and one of -1 is 0.36, below the target; without the lazy phase 0.7 is above it."""
    assert controlled([0.7] * 4, p=0.5)[-1] > 0.5 > controlled([0.7] * 4, p=0.5, lazy=(0,))[-1]
    # Right after the window has closed, the lazy phase belongs to the next.
    assert controlled([0.7] * 4, p=0.5, lazy=(3,))[-1] > 0.5


def test_r_v_is_the_published_ratio():
    term, nets = AdaController(statistic="r_v"), Strong(0.5)
    assert term.target == 0.5 and not term.observes
    means = {"logits_real": torch.tensor(2.0), "logits_heldout": torch.tensor(0.5), "logits_fake": torch.tensor(-1.0)}
    for _ in range(3):
        term.commit("d", means, {}, nets, 64)
    assert term.heuristic().item() == pytest.approx(0.5)             # (2 - 0.5) / (2 + 1)
    term.commit("d", means | {"logits_heldout": torch.tensor(-1.0)}, {}, nets, 64)
    assert nets.p.item() == pytest.approx(0.5 + 256 / 500_000)
    worse = AdaController(statistic="r_v")
    for _ in range(4):                                                 # fakes above reals: the divisor is held at 1e-8
        worse.commit("d", {"logits_real": torch.tensor(-1.0), "logits_heldout": torch.tensor(-2.0), "logits_fake": torch.tensor(1.0)}, {}, nets, 64)
    assert nets.p.item() == pytest.approx(0.5 + 512 / 500_000)


def test_a_relativistic_loss_leaves_r_t_without_meaning_which_is_said():
    said = {loss: [n for n in tiny_trainer(MIRROR, f"loss={loss}", "terms.ada_controller={}").notes if "says nothing of overfitting" in n]
            for loss in ("relativistic", "hinge")}
    assert said["relativistic"] and not said["hinge"]


def test_a_word_is_said_when_p_stays_high():
    term = AdaController()
    said = [term.advice({"p": 0.9}) for _ in range(9)] + [term.advice({"p": 0.7})] + [term.advice({"p": 0.9}) for _ in range(12)]
    assert [i for i, line in enumerate(said) if line] == [19] and "above 0.8 (0.90)" in said[19] and "max_p" in said[19]
    inside = tiny_trainer("terms.pa_gan={}", 'terms.ada_controller={"use": "ada_controller", "of": "d"}').terms["ada_controller"]
    assert not any(inside.advice({"p": 0.9}) for _ in range(20))       # PA-GAN's bits don't show in the pictures


def test_it_sees_r1s_own_phase_and_p_survives_a_resume():
    settings = [MIRROR, "terms.ada_controller.kimg=0.1", "terms.ada_controller.interval=2", "terms.r1.own_step=true", "terms.r1.every=2"]
    straight, first, second = (tiny_trainer(*settings) for _ in range(3))
    seen = []
    forward = straight.terms["ada_controller"].forward
    straight.terms["ada_controller"].forward = lambda ctx: seen.append(set(ctx.passes)) or forward(ctx)
    run_steps(straight, 6)
    assert len(seen) == 6 + 3 and all(s == {"real"} for s in seen)
    second.load_state_dict(copy.deepcopy(run_steps(first, 3).state_dict()))
    assert torch.equal(weights(run_steps(second, 3)), weights(straight)) and torch.equal(second.nets.augment.p, straight.nets.augment.p)
    assert "d/ada_controller/p" in straight.take_log()


def test_it_moves_a_strength_inside_the_discriminator():
    bits = json.dumps({"use": "test_seam:Bits", "strength": 0.5})
    trainer = tiny_trainer(f"terms.bits={bits}", "terms.ada_controller.kimg=0.1", "terms.ada_controller.target=-1", "terms.ada_controller.interval=1")
    before = trainer.nets.D.p.clone()
    run_steps(trainer, 1)
    assert trainer.nets.D.p != before
    with pytest.raises(HandfulError, match="nothing here has a strength p to move; take an augmentation that has one"):
        tiny_trainer("terms.ada_controller.kimg=1")


# -------------------------------------------------------------------------------------------------------------- held-out images


def test_a_split_is_disjoint_complete_and_follows_the_seed():
    whole = noise_set(20, classes=4)
    whole.names, whole.fingerprint = [f"{i}.png" for i in range(20)], "abc"
    train, out = whole.split(0.25, seed=7)
    assert len(train) == 15 and len(out) == 5 and sorted(train.names + out.names, key=lambda n: int(n[:-4])) == whole.names
    for part in (train, out):
        x, c = part.batch(torch.arange(len(part)), None, "cpu")
        rows = torch.tensor([int(n[:-4]) for n in part.names])
        assert torch.equal(x, whole.batch(rows, None, "cpu")[0]) and torch.equal(c, whole.labels[rows]) and torch.equal(part.labels, c)
        assert part.images.data_ptr() == whole.images.data_ptr()       # views: nothing is copied
    assert whole.split(0.25, seed=7)[1].names == out.names != whole.split(0.25, seed=8)[1].names
    assert len({whole.fingerprint, train.fingerprint, out.fingerprint}) == 3    # statistics are kept by it
    assert whole.split(0, seed=7) == (whole, None)
    with pytest.raises(HandfulError, match="leaves 1 of 20 images"):
        whole.split(0.95, seed=7)


def test_d_never_trains_on_held_out_images_and_looks_at_all_of_them():
    dataset = noise_set(20)
    trainer = tiny_trainer("data.holdout=0.5", "terms.heldout_logits.every=1", "train.batch=4", dataset=dataset)
    held = {i.item() for i in trainer.heldout.rows}
    assert len(held) == 10 and not held & {i.item() for i in trainer.dataset.rows}
    used: dict[str, set[int]] = {"train": set(), "held": set()}
    for name, part in (("train", trainer.dataset), ("held", trainer.heldout)):
        def watching(index, flip, device, part=part, name=name, batch=part.batch):
            used[name] |= set(part.rows[index].tolist())
            return batch(index, flip, device)
        part.batch = watching
    run_steps(trainer, 5)
    assert used["held"] == held and used["train"] == set(range(20)) - held
    assert "d/heldout_logits/logits" in trainer.take_log()


def test_looking_changes_nothing():
    plain = run_steps(tiny_trainer("data.holdout=0.5"), 3)
    looking = run_steps(tiny_trainer("data.holdout=0.5", "terms.heldout_logits.every=1"), 3)
    assert torch.equal(weights(plain), weights(looking)[: len(weights(plain))])


def test_terms_that_want_held_out_images_say_how_to_get_them():
    with pytest.raises(HandfulError, match=r"terms.heldout_logits: wants images that D doesn't train on; keep some out \(--set data.holdout=0.1\)"):
        tiny_trainer("terms.heldout_logits.every=1")
    trainer = tiny_trainer(MIRROR, "data.holdout=0.5", "terms.ada_controller.statistic=r_v", "terms.r1.own_step=true", "train.micro_batch=4")
    run_steps(trainer, 4)
    log = trainer.take_log()
    assert {"d/ada_controller/logits_heldout", "d/ada_controller/logits_fake", "d/ada_controller/p"} <= log.keys()


def test_held_out_images_stay_out_when_they_lie_elsewhere_in_memory():
    whole = Dataset(torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(12, 3, 4, 4).contiguous())
    train, out = whole.split(0.25, seed=0)
    again = out._of(torch.tensor([1]))
    assert again.batch(torch.tensor([0]), None, "cpu")[0][0, 0, 0, 0] == pytest.approx(out.rows[1].item() / 127.5 - 1)


# ------------------------------------------------------------------------------------------------------------------ path length


def test_path_length_of_a_linear_generator_is_its_singular_value():
    """image = w s, so d(image . y)/dw = s y and l = s |y| / sqrt(H W)."""
    n, s = 5, 3.0
    w = torch.randn(n, 48, dtype=torch.float64, requires_grad=True)
    y = torch.randn(n, 3, 4, 4, dtype=torch.float64)
    found = path_lengths(s * w.view(n, 3, 4, 4), w, y)
    assert torch.allclose(found, s * y.flatten(1).norm(dim=1).float() / 4)
    # With several layers: the root of the mean over layers of the squared norms.
    ws = torch.randn(n, 2, 48, dtype=torch.float64, requires_grad=True)
    found = path_lengths((ws[:, 0] + 2 * ws[:, 1]).view(n, 3, 4, 4), ws, y)
    assert torch.allclose(found, (2.5 ** 0.5 * y.flatten(1).norm(dim=1) / 4).float())


class OneNet:
    """Just enough of `Nets` for a term that only generates."""

    def __init__(self, G):
        self.G = G

    def latents(self, n, rng):
        return rng.randn(n, self.G.z_dim), None

    def generate(self, z, c=None, *, rng):
        return self.G(z, c, rng=rng)


def test_the_penalty_uses_the_average_that_holds_the_current_batch_with_its_graph():
    torch.manual_seed(0)
    G = TinyG().double()
    nets, term = OneNet(G), PathLength(weight=3.0, decay=0.25).double()
    nets.latents = lambda n, rng: (rng.randn(n, G.z_dim).double(), None)
    term.average.fill_(0.5)
    loss = term(context("g", slots=range(8), batch=8, nets=nets, rng=Rng(4, batch=8, slots=range(8)))).loss
    rng = Rng(4, batch=8, slots=range(8)).fork("latents", batch=4, slots=range(4))            # by hand: half the batch
    z = rng.randn(4, G.z_dim).double().requires_grad_()
    image = G(z, rng=rng.fork("noise")).image
    y = rng.fork("y").randn(*image.shape)
    grad, = torch.autograd.grad((image * y).sum() / 16, z, create_graph=True)
    length = grad.square().sum(1).sqrt()
    a = 0.5 + 0.25 * (length.mean() - 0.5)
    want = 3 * (length - a).square().mean()
    assert torch.allclose(loss.double(), want, rtol=1e-5)
    for mine, hand in zip(torch.autograd.grad(loss, G.convs.parameters()), torch.autograd.grad(want, G.convs.parameters())):
        assert torch.allclose(mine, hand, rtol=1e-4, atol=1e-9)
    assert term.average == 0.5                                          # forward writes nothing
    term.commit("g", {"length": torch.tensor(1.5, dtype=torch.float64)}, {}, nets, 0)
    assert term.average == 0.75


@pytest.mark.parametrize("micro", [1, 2, 3, 8])
def test_path_length_takes_half_of_the_batch_however_it_is_cut(micro):
    nets, term, made = OneNet(TinyG()), PathLength(), []
    for start in range(0, 8, micro):
        slots = range(start, min(start + micro, 8))
        result = term(context("g", slots=slots, batch=8, nets=nets, rng=Rng(4, batch=8, slots=slots)))
        assert torch.isfinite(result.loss)
        made.append(result.stats["length"])
    got = torch.cat(made)
    assert len(got) == (8 if micro == 1 else 4)
    if micro == 2:
        whole = term(context("g", slots=range(8), batch=8, nets=nets, rng=Rng(4, batch=8, slots=range(8))))
        assert torch.allclose(got, whole.stats["length"], rtol=1e-5)


def test_no_class_is_lost_to_the_held_out_images():
    whole = noise_set(36, classes=3)
    whole.labels = torch.tensor([0] * 20 + [1] * 15 + [2])
    for seed in range(20):
        train, out = whole.split(0.5, seed)
        assert set(train.labels.tolist()) == {0, 1, 2} and len(train) + len(out) == 36


@pytest.mark.parametrize("settings, why", [({"interval": 0}, "interval=0: give a number of 1 or more"), ({"kimg": 0}, "kimg=0"),
                                           ({"max_p": -1}, "max_p=-1")])
def test_controllers_that_make_no_sense(settings, why):
    from handful.errors import UsageError

    with pytest.raises(UsageError, match=why):
        AdaController(**settings)


def test_path_length_in_half_precision_is_finite():
    """fp16's loss scale is not for steps of second order, which overflowed."""
    g = {"use": "stylegan2", "z_dim": 16, "w_dim": 16, "channel_base": 512, "channel_max": 32, "mapping_layers": 2}
    trainer = tiny_trainer("data.resolution=32", "terms.path_length.every=1", "train.batch=4", dataset=noise_set(8, resolution=32), g=g,
                           d={"use": "stylegan2", "channel_base": 256, "channel_max": 16}, train={"order": "gd"}, precision="fp16")
    log = run_steps(trainer, 2).take_log()
    assert log["g/bad_grads"] == log["d/bad_grads"] == 0
