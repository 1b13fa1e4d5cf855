"""The rows of the methods that ADA is compared with: the published figures, the switches of each method, and two steps of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from handful import config
from handful.reproduce import _tables
from handful.reproduce._job import configured
from handful.reproduce.published import stylegan2_ada
from making import NARROW, noise_set, run_steps, weights

SPEC = Path(__file__).parents[1].parent / "shared" / "specs" / "stylegan2-ada.md"


def row_of(name: str, size: str = "2k", table: str = "stylegan2-ada/8a") -> _tables.Row:
    return _tables.pick(_tables.table(table), name, f"FFHQ {size}")


def at(parsed: config.Config, path: str):
    node = config.to_tree(config.resolved(parsed))
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


# -------------------------------------------------------------------------------------------------------------------- figures


def spec_table(title: str) -> list[list[str]]:
    if not SPEC.exists():
        pytest.skip("the specification stylegan2-ada.md is not beside this checkout")
    part = SPEC.read_text(encoding="utf-8").split(f"### {title} ")[1].split("\n### ")[0]
    head, _, *lines = [[c.strip() for c in line.strip().strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    return [head, *lines]


def test_figure_8a_is_complete():
    head, *lines = spec_table("16.2")
    published = {(row, f"FFHQ {size}"): tuple(map(float, cell.split(" ± "))) for row, *cells in lines for size, cell in zip(head[1:], cells)}
    assert len(published) == 27
    assert {(r.name, r.data): (t.value, t.spread) for r in _tables.table("stylegan2-ada/8a") for t in r.targets} == published


def test_figures_7c_and_18_have_bcr_on_top():
    _, *lines = spec_table("16.1")
    published = {f"{data} {size.split()[0]}": tuple(map(float, cells)) for data, size, *cells in lines}
    found: dict[str, dict[str, float]] = {}
    for row in _tables.table("stylegan2-ada/7c"):
        found.setdefault(row.data, {})[row.name] = row.targets[0].value
    assert {k: (v["baseline"], v["ADA"], v["ADA + bCR"]) for k, v in found.items()} == published and len(published) == 12
    head, *lines = spec_table("16.6")
    cells, = ([c.rstrip(")").split(" (") for c in line[1:]] for line in lines if line[0] == "ADA + bCR")
    published = {f"FFHQ 256x256, {size}": tuple(map(float, cell)) for size, cell in zip(head[1:], cells)}
    found = {r.data: tuple(t.value for t in r.targets) for r in _tables.table("stylegan2-ada/18") if r.name == "ADA + bCR"}
    assert found == published and len(published) == 4


# ------------------------------------------------------------------------------------------------------------------ the switches

BY_R_T = {"terms.ada_controller.of": "d", "terms.ada_controller.statistic": "r_t", "terms.ada_controller.interval": 4,
          "terms.ada_controller.kimg": 500}
CHANGES = {                                                 # against the baseline
    "PA-GAN": {"terms.pa_gan.bits": 16, "terms.pa_gan.p": 0, "terms.pa_gan.fade": "released", "terms.ada_controller.target": 0.95, **BY_R_T},
    "adaptive dropout": {"terms.adaptive_dropout.p": 0, "terms.ada_controller.target": None, **BY_R_T},       # 0.6, r_t's own
    "WGAN-GP": {"loss.use": "wasserstein", "optim_d.lr": 0.001, "optim_g.lr": 0.001, "train.precision": "fp32", "terms.r1": None,
                "terms.path_length": None, "terms.gradient_penalty.weight": 10, "terms.gradient_penalty.target": 1,
                "terms.gradient_penalty.drift": 0.001, "terms.gradient_penalty.every": 1},
    "zCR": {"train.precision": "fp32", "terms.zcr.weight_d": 0.2, "terms.zcr.weight_g": 0.02, "terms.zcr.std": 0.1, "terms.r1.every": 16},
    "auxiliary rotation": {"terms.rotation.weight_g": 10, "terms.rotation.weight_d": 5, "terms.r1.every": 16},
    "spectral norm": {"d.norm": "spectral", "terms.r1.gamma": 1, "terms.path_length.weight": 2},
    "shallow mapping": {"g.mapping_layers": 2},
}


def roots(paths) -> set[str]:
    """Sections and methods that paths lie in: terms.zcr.std -> terms.zcr."""
    return {".".join(p.split(".")[:2]) for p in paths}


@pytest.mark.parametrize("name", CHANGES)
def test_a_method_changes_what_the_paper_says_and_nothing_else(name):
    for size in stylegan2_ada.SIZES:
        row = row_of(name, size)
        base, parsed = configured("paper256", row_of("baseline", size).settings), configured(row.recipe, row.settings)
        assert {path: at(parsed, path) for path in CHANGES[name]} == CHANGES[name]
        changed = {k for k in config.differences(base, parsed) if k != "recipe"}
        assert roots(changed) <= roots(CHANGES[name])
        assert parsed.augment.name == "none"


def test_lazy_regularisation_corrects_adam_but_for_wgan_gp():
    """zCR and rotations are in the main step; R1 and path length keep theirs. WGAN-GP has neither, so its 0.001 is 0.001."""
    for name, rates in {"WGAN-GP": (0.001, 0.001), "zCR": (0.002, 0.0025 * 16 / 17), "auxiliary rotation": (0.002, 0.0025 * 16 / 17)}.items():
        trainer = narrow_trainer(row_of(name))
        assert tuple(trainer.optim[side].param_groups[0]["lr"] for side in "gd") == pytest.approx(rates)


def test_bcr_comes_on_top_of_ada():
    for table in ("stylegan2-ada/7c", "stylegan2-ada/18"):
        for row in _tables.table(table):
            if row.name == "ADA + bCR":
                ada = _tables.pick(_tables.table(table), "ADA", row.data)
                changed = config.differences(configured("paper256", ada.settings), configured(row.recipe, row.settings))
                assert roots(changed) == {"terms.bcr"}
                parsed = configured(row.recipe, row.settings)
                assert {k: at(parsed, f"terms.bcr.{k}") for k in ("weight_real", "weight_fake", "policy", "shift", "rotate_degrees")} == {
                    "weight_real": 10, "weight_fake": 10, "policy": "xint", "shift": 8 / 256, "rotate_degrees": 0}


@pytest.mark.parametrize("name", ["PA-GAN", "adaptive dropout"])
def test_the_controller_moves_what_the_method_put_into_d(name):
    trainer = narrow_trainer(row_of(name), "terms.ada_controller.interval=1", "terms.ada_controller.target=-1")     # r is above it: p rises
    inside, = (m for m in trainer.nets.D.modules() if isinstance(getattr(m, "p", None), torch.Tensor))
    assert inside.p == 0 and not trainer.notes
    run_steps(trainer, 2)
    assert inside.p == pytest.approx(2 * 4 / 500_000)


# --------------------------------------------------------------------------------------------------------------------- training


def narrow_trainer(row: _tables.Row, *more: str):
    """A row's setting at 32 pixels, narrow."""
    from handful.training.trainer import Trainer

    lines = ["data.resolution=32", "train.batch=4", "train.micro_batch=null", "d.minibatch_group=4"]
    lines += [f"{net}.{k}={v}" for net in "gd" for k, v in NARROW["stylegan2"][net].items() if (net, k) != ("g", "mapping_layers")]
    return Trainer(config.resolved(configured(row.recipe, (*row.settings, *lines, *more))), noise_set(12, resolution=32), torch.device("cpu"))


LOGGED = {"WGAN-GP": {"d/loss_gradient_penalty"}, "zCR": {"d/loss_zcr", "g/loss_zcr"}, "auxiliary rotation": {"d/loss_rotation", "g/loss_rotation"},
          "ADA + bCR": {"d/loss_bcr"}, "PA-GAN": {"d/pa_gan/bits", "d/ada_controller/p"},
          "adaptive dropout": {"d/adaptive_dropout/p", "d/ada_controller/r"}}


@pytest.mark.parametrize("row", [row_of(name) for name in stylegan2_ada.FIG_8A if name not in ("baseline", "ADA")]
                         + [row_of("ADA + bCR", "1k", "stylegan2-ada/7c")], ids=lambda r: r.name.replace(" ", "_"))
def test_two_steps_of_every_method(row):
    trainer = narrow_trainer(row)
    before = [p.clone() for net in (trainer.nets.G, trainer.nets.D) for p in net.parameters()]
    logged = run_steps(trainer, 2).take_log()
    assert logged["d/bad_grads"] == logged["g/bad_grads"] == 0 and torch.isfinite(weights(trainer)).all()
    after = [p for net in (trainer.nets.G, trainer.nets.D) for p in net.parameters()]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after)) > len(before) / 2
    assert LOGGED.get(row.name, set()) <= logged.keys()


# --------------------------------------------------------------------------------------------------------------------- ContraD


@pytest.mark.parametrize("name, batch, lr, betas, order", [("contrad_cifar", 64, 0.002, (0, 0.99), "gd"),
                                                           ("contrad_sngan_cifar", 512, 2e-4, (0.5, 0.999), "dg")])
def test_contrads_recipes_are_its_releases_settings(name, batch, lr, betas, order):
    parsed = configured(name, ())
    assert (parsed.train.batch, parsed.train.order, parsed.train.d_steps, parsed.train.kimg) == (batch, order, 1, 200 * batch)
    assert parsed.optim_d == parsed.optim_g and (parsed.optim_d.lr, parsed.optim_d.betas) == (lr, betas)
    assert parsed.optim_d.warmup_kimg == 3 * batch and configured(name, ("train.batch=16",)).optim_g.warmup_kimg == 48
    assert (at(parsed, "augment.use"), at(parsed, "augment.form"), parsed.loss.name) == ("simclr", "cifar", "non_saturating")
    assert at(parsed, "terms.contrad") == {"use": "contrad", "weight_fake": 1, "temperature": 0.1, "hidden": 512, "width": 128}
    r1 = {"use": "r1", "gamma": 0.1, "every": 1, "own_step": False, "at": "x_in"} if name == "contrad_cifar" else None
    assert at(parsed, "terms.r1") == r1 and (parsed.ema.halflife_kimg == 1000) == (r1 is not None)
