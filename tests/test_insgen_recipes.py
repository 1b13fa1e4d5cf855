"""InsGen's recipes against the specification's numbers, and the straight line of p that its release recommends."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from handful import config
from handful.errors import UsageError
from handful.reproduce import _tables
from handful.reproduce._job import configured
from handful.seam import Facts
from handful.terms import AdaController
from handful.terms._contrast import queue_length
from making import NARROW, noise_set, run_steps, tiny_trainer, weights
from test_ada_controller import controlled

# ------------------------------------------------------------------------------------------------------- the straight line of p

LINE = {"statistic": "linear", "length_kimg": 10.0}


def test_p_rises_to_the_target_over_the_length_whatever_d_does():
    """Spec 5: every 4 iterations p = 0.6 (images seen / 1000) / total kimg."""
    for sign in (-1.0, 1.0):
        found = controlled([sign] * 200, batch=64, **LINE)
        want = [0.6 * min(4 * (i // 4) * 64 / 10_000, 1) for i in range(1, 201)]
        assert found == pytest.approx(want, rel=1e-6)
    assert found[159] == pytest.approx(0.6) and found[199] == pytest.approx(0.6)          # 10.24 kimg; it stays there
    assert controlled([0.0] * 8, batch=64, lazy=range(8), **LINE)[-1] == pytest.approx(0.6 * 512 / 10_000)       # lazy phases show no new images


def test_the_line_has_a_target_an_interval_and_a_bound():
    assert controlled([1.0] * 2, batch=1000, interval=2, target=0.4, **LINE)[-1] == pytest.approx(0.4 * 0.2)
    assert controlled([1.0] * 40, batch=1000, max_p=0.5, **LINE)[-1] == pytest.approx(0.5)


def test_the_line_survives_a_resume_and_r_is_logged():
    settings = ["augment=test_seam:Mirror", "terms.ada_controller.statistic=linear", "terms.ada_controller.length_kimg=0.08",
                "terms.ada_controller.interval=2", "terms.r1.own_step=true", "terms.r1.every=2"]
    straight, first, second = (tiny_trainer(*settings) for _ in range(3))
    run_steps(straight, 7)
    second.load_state_dict(copy.deepcopy(run_steps(first, 3).state_dict()))
    assert torch.equal(weights(run_steps(second, 4)), weights(straight))
    assert second.nets.augment.p == straight.nets.augment.p == pytest.approx(0.6 * 6 * 8 / 80)
    logged = straight.take_log()
    assert -1 <= logged["d/ada_controller/r"] <= 1 and {"d/ada_controller/p", "d/ada_controller/sign"} <= logged.keys()


def test_r_is_measured_as_without_the_line():
    line, plain = AdaController(**LINE), AdaController()
    assert line.observes
    for term in (line, plain):
        controlled_by(term, [0.5, 0.7, -0.2, 0.4])
    assert line.r == plain.r == pytest.approx(0.35)


def controlled_by(term: AdaController, signs: list[float]) -> None:
    from test_ada_controller import Strong

    nets = Strong()
    for sign in signs:
        term.commit("d", {"sign": torch.tensor(sign)}, {}, nets, 8)


@pytest.mark.parametrize("settings, why", [
    ({"statistic": "linear"}, "statistic=linear: say how long p rises with length_kimg"),
    ({"length_kimg": 5}, "length_kimg=5 goes with statistic=linear alone, and this is r_t"),
    ({"length_kimg": 5, "statistic": "r_v"}, "and this is r_v"),
    ({"statistic": "linear", "length_kimg": 0}, "length_kimg=0: give a number of"),
    ({"statistic": "linear", "length_kimg": 5, "target": -1}, "target=-1"),
    ({"statistic": "linear", "length_kimg": 5, "start": 0.2}, "start=0.2: a linear p begins at 0"),
])
def test_lines_that_make_no_sense(settings, why):
    with pytest.raises(UsageError, match=why):
        AdaController(**settings)


# ------------------------------------------------------------------------------------------------------------------ the recipes

SPEC = Path(__file__).parents[1].parent / "shared" / "specs" / "insgen.md"


def at(parsed: config.Config, path: str):
    node = config.to_tree(config.resolved(parsed))
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


@pytest.mark.parametrize("name, base, more", [("insgen256", "paper256", {"terms.r1.gamma": 0.5}), ("insgen512", "paper512", {})])
def test_recipes_are_adas_with_the_term_mirroring_r1_and_a_length(name, base, more):
    changed = config.differences(*(config.resolved(configured(n, ())) for n in (base, name)))
    rest = {k: new for k, (_, new) in changed.items() if k != "recipe" and not k.startswith("terms.insgen.")}
    assert rest == {"data.flip": True, "train.kimg": 10_000, **more}
    assert at(configured(name, ()), "terms.insgen") == {                                  # spec 1, 2, 3 and 7: as released
        "use": "insgen", "weight_real": 1, "weight_fake": 1, "weight_g": 0.1, "mode": "released", "temperature": 0.2, "tap": None,
        "perturb_std": 0.15, "perturb": "fresh", "enqueue": "query", "queue_real": None, "queue_fake": None, "momentum": 0.999, "hidden": None,
        "width": 128}


def test_the_narrow_recipe_is_the_narrow_stylegan2_and_the_term():
    changed = config.differences(*(configured(n, ()) for n in ("stylegan2_32_narrow", "insgen_32_narrow")))
    assert changed.keys() == {"recipe", "terms.insgen.use"}


PUBLISHED = {"2k": (0.5, 10_000, 200), "10k": (0.3, 25_000, 1000), "140k": (0.8, 25_000, 7000)}      # gamma, kimg, length of the queues


@pytest.mark.parametrize("size", PUBLISHED)
def test_columns_of_ffhq_are_the_published_settings(size):
    gamma, kimg, queue = PUBLISHED[size]
    found = [r for t in ("insgen/1", "insgen/3") for r in _tables.table(t) if r.recipe == "insgen256" and r.data == f"FFHQ {size}"]
    assert len(found) == 5
    for row in found:
        parsed = configured(row.recipe, row.settings)
        assert (at(parsed, "terms.r1.gamma"), parsed.train.kimg, parsed.train.batch) == (gamma, kimg, 64)
        assert parsed.data.flip and parsed.data.filter == "box" and parsed.data.resolution == 256
        assert at(parsed, "terms.ada_controller.statistic") == ("linear" if size == "2k" else "r_t")
        assert at(parsed, "terms.ada_controller.length_kimg") == (kimg if size == "2k" else None)
        images = parsed.data.max_images or 70_000
        assert images == {"2k": 2000, "10k": 10_000, "140k": 70_000}[size]
        assert queue_length("insgen", None, Facts(images, parsed.data.flip, 64, 8)) == queue


def test_rows_of_the_ablation_leave_out_what_they_say():
    for row in _tables.table("insgen/3"):
        parsed = configured(row.recipe, row.settings)
        if row.name == "ADA":
            assert "insgen" not in parsed.terms and row.recipe == "paper256" and parsed.data.flip
            continue
        weights = tuple(at(parsed, f"terms.insgen.weight_{k}") for k in ("real", "fake", "g"))
        assert weights == (1, "C_D^f" in row.name, 0.1 * ("C_G^f" in row.name))
        assert at(parsed, "terms.insgen.perturb_std") == (0 if "without" in row.name else 0.15)


def test_without_perturbation_the_key_is_of_the_very_picture():
    row = _tables.pick(_tables.table("insgen/3"), "C_D^r + C_D^f without perturbation", "FFHQ 2k")
    lines = [line for line in row.settings if line.startswith("terms.insgen.")]
    trainer = tiny_trainer("augment=test_seam:Mirror", *lines)
    made = []
    generate = trainer.nets.generate
    trainer.nets.generate = lambda *a, **k: made.append(1) or generate(*a, **k)
    run_steps(trainer, 1)
    assert not made
    with_it = tiny_trainer("augment=test_seam:Mirror", "terms.insgen.weight_g=0")
    generate_too = with_it.nets.generate
    with_it.nets.generate = lambda *a, **k: made.append(1) or generate_too(*a, **k)
    run_steps(with_it, 1)
    assert made == [1]


def test_contrads_row_is_its_release_at_512_pixels():
    """Spec of ContraD: lr 0.0025, R1 0.5 lazy every 16 by the augmented image, half-life 20 kimg, SimCLR's strong form, warm-up of 3000 steps."""
    for row in _tables.table("insgen/2"):
        if row.name == "ContraD":
            parsed = configured(row.recipe, row.settings)
            assert (at(parsed, "augment.use"), at(parsed, "augment.form"), at(parsed, "augment.cutout")) == ("simclr", "hq", False)
            assert {k: at(parsed, f"terms.contrad.{k}") for k in ("weight_fake", "temperature", "hidden", "width")} == {
                "weight_fake": 1, "temperature": 0.1, "hidden": 512, "width": 128}
            assert at(parsed, "terms.r1") == {"use": "r1", "gamma": 0.5, "every": 16, "own_step": True, "at": "x_in"}
            assert parsed.terms.keys() == {"r1", "contrad"} and parsed.ema.halflife_kimg == 20 and parsed.train.order == "gd"
            assert parsed.optim_d == parsed.optim_g and (parsed.optim_d.lr, parsed.optim_d.warmup_kimg) == (0.0025, 192)


def test_rows_that_other_papers_have_are_one_run_with_theirs():
    """So that what is measured for one stands in both tables."""
    there = {json.dumps(_tables.setting(r)): r for r in _tables.table("stylegan2-ada")}
    quoted = [r for r in _tables.table("insgen") if "the paper on ADA" in r.targets[0].cost]
    assert {r.name for r in quoted} == {"StyleGAN2", "PA-GAN", "zCR", "auxiliary rotation", "shallow mapping", "adaptive dropout", "ADA"}
    for row in quoted:
        assert json.dumps(_tables.setting(row)) in there, row
        published = there[json.dumps(_tables.setting(row))].targets[0].value
        assert row.targets[0].value == pytest.approx(published, abs=0.05)                 # 19.4 stands for 19.37


# -------------------------------------------------------------------------------------------------------------------- the tables

NAMES = {"– shallow mapping": "shallow mapping", "– adaptive dropout": "adaptive dropout", "– DiffAugment": "DiffAugment", "– ADA": "ADA"}
COLUMN = {"2K": "FFHQ 2k", "10K": "FFHQ 10k", "140K": "FFHQ 140k", "70K": "FFHQ 140k",
          **{c: f"AFHQ {c}" for c in ("Cat (5153)", "Dog (4739)", "Wild (4738)")}}
TICKS = {"": "ADA", "✓": "C_D^r", "✓✓": "C_D^r + C_D^f without perturbation", "✓✓✓": "C_D^r + C_D^f", "✓✓✓✓": "C_D^r + C_D^f + C_G^f"}


def spec_tables() -> dict[str, dict[tuple[str, str], float]]:
    """Of sections 9.1 to 9.3: (row, data) -> FID."""
    if not SPEC.exists():
        pytest.skip("the specification insgen.md is not beside this checkout")
    out: dict[str, dict[tuple[str, str], float]] = {}
    for part in SPEC.read_text(encoding="utf-8").split("### 9.")[1:4]:
        head, _, *lines = [[c.strip() for c in line.strip().strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
        first = next(i for i, c in enumerate(head) if c in COLUMN)
        cells = {}
        for line in lines:
            row = TICKS["".join(line[:first])] if first > 1 else NAMES.get(line[0], line[0])
            cells |= {(row, COLUMN[c]): float(v.split("*")[0].split(" ")[0]) for c, v in zip(head[first:], line[first:]) if v != "–"}
        out[f"insgen/{part[0]}"] = cells
    return out


@pytest.mark.parametrize("table, figures", [("insgen/1", 26), ("insgen/2", 12), ("insgen/3", 15)])
def test_every_published_figure_is_a_target(table, figures):
    published = spec_tables()[table]
    assert len(published) == figures
    assert {(r.name, r.data): t.value for r in _tables.table(table) for t in r.targets} == published


@pytest.mark.parametrize("row", [r for r in _tables.table("insgen/3") if r.data == "FFHQ 2k"]
                         + [r for r in _tables.table("insgen/2") if r.data.startswith("AFHQ Dog")],
                         ids=lambda r: f"{r.table}-{r.name}".replace(" ", "_"))
def test_every_kind_of_row_trains(row):
    """Two iterations of a narrow form: finite, its losses logged, p on its line."""
    from handful.training.trainer import Trainer

    lines = ["data.resolution=32", "train.batch=8", "train.micro_batch=4", "d.minibatch_group=4"]
    lines += ["terms.ada_controller.interval=1"] if "ada_controller" in configured(row.recipe, row.settings).terms else []
    lines += [f"{net}.{k}={v}" for net in "gd" for k, v in NARROW["stylegan2"][net].items()]
    parsed = config.resolved(configured(row.recipe, (*row.settings, *lines)))
    trainer = run_steps(Trainer(parsed, noise_set(40, resolution=32), torch.device("cpu")), 2)
    logged = trainer.take_log()
    assert logged["d/bad_grads"] == logged["g/bad_grads"] == 0 and torch.isfinite(weights(trainer)).all()
    for name, key in (("C_D^r", "d/insgen/cl_real"), ("C_D^f", "d/insgen/cl_fake"), ("C_G^f", "g/insgen/cl_g")):
        assert (key in logged) == (name in row.name or row.name == "InsGen")
    if at(parsed, "terms.ada_controller.statistic") == "linear":
        assert trainer.nets.augment.p == pytest.approx(0.6 * 16 / 10_000_000, rel=1e-5)
