"""The recipes of BigGAN, SNGAN and StyleGAN2 with DiffAugment against the specification's constants, their targets against its tables."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from handful import catalog, config
from handful.reproduce import _tables
from handful.reproduce._job import configured
from handful.reproduce.published import diggan
from handful.training.ema import decay

SPECS = Path(__file__).parents[1].parent / "shared" / "specs"
PUBLISHED = ("biggan_cifar", "biggan_tiny", "biggan_cub", "biggan_imagenet", "sngan_cifar", "stylegan2_diffaug_cifar", "stylegan2_diffaug_fewshot")
COLUMNS = {                                                 # in the order of PUBLISHED
    "data.resolution": (32, 64, 128, 128, 32, 32, 256),
    "data.flip": (True,) * 7,
    "data.labels": ("auto",) * 4 + (None,) * 3,
    "augment.policy": ("translation,cutout", "color,translation,cutout", "color,translation,cutout", "translation", None,
                       "color,translation,cutout", "color,translation,cutout"),
    "loss.use": ("hinge",) * 5 + ("non_saturating",) * 2,
    "train.batch": (50, 1024, 32, 2048, 64, 32, 16),
    "train.micro_batch": (None, 512, None, None, None, None, None),
    "train.g_batch": (None, None, None, None, 128, None, None),
    "train.d_steps": (4, 1, 2, 2, 5, 1, 1),
    "train.order": ("dg",) * 5 + ("gd",) * 2,
    "train.joint": (True, False, False, True) + (False,) * 3,
    "train.fake_labels": ("classes",) * 4 + ("data",) * 3,
    "train.kimg": (50_000, 102_400, 12_800, 1_024_000, 32_000, 25_000, 300),
    "optim_g.lr": (2e-4, 1e-4, 5e-5, 1e-4, 2e-4, 2e-3, 2e-3),
    "optim_d.lr": (2e-4, 4e-4, 2e-4, 4e-4, 2e-4, 2e-3, 2e-3),
    "optim_d.betas": ([0, 0.999],) * 4 + ([0, 0.9],) + ([0, 0.99],) * 2,
    "optim_d.eps": (1e-8, 1e-6, 1e-6, 1e-8, 1e-8, 1e-8, 1e-8),
    "optim_g.decay_from_kimg": (None,) * 4 + (0,) + (None,) * 2,
    "ema.decay": (0.9999,) * 4 + (0,) + (None,) * 2,
    "ema.halflife_kimg": (None,) * 5 + (1000, 10),
    "ema.start_kimg": (200, 20_480, 256, 163_840, 0, 1000, 10),
    "ema.buffers": ("standing",) * 5 + ("copy",) * 2,
    "evaluate.statistics": ("batch",) * 3 + ("standing",) * 4,
    "evaluate.every_kimg": (800, 2048, 128, 8192, 640, 500, 100),
    "evaluate.samples": (10_000, 10_000, None, 50_000, 10_000, 10_000, 5000),
    "g.channel_base": (None,) * 5 + (4096, 32768),
    "d.channel_base": (None,) * 5 + (4096, 32768),
    "d.minibatch_group": (None,) * 5 + (4, 4),
    "g.style_mixing": (None,) * 5 + (0.9, 0.9),
    "g.mapping_layers": (None,) * 5 + (8, 8),
    "terms.r1.gamma": (None,) * 5 + (0.1, 10),
    "terms.r1.every": (None,) * 5 + (1, 1),
    "terms.r1.own_step": (None,) * 5 + (False, False),
    "terms.r1.at": (None,) * 5 + ("x_in", "x"),
    "d.skip_equal": (True, True, True, False, None, None, None),
    "d.skip": (None, None, None, "plain", None, None, None),                      # None: the table's
    "d.class_init": (None, None, None, "glorot", None, None, None),
    "d.image_range": ("-1..1", "-1..1", "-1..1", "0..1", None, None, None),
    "g.gain": ("one_plus", "one_plus", "one_plus", "bare", None, None, None),
    "g.up": ("nearest", "nearest", "nearest", "zeros", None, None, None),
    "g.bn_eps": (None, None, None, 1e-5, None, None, None),
    "g.sn_eps": (None, None, None, 1e-6, None, None, None),
    "g.sn_iterates": ("training", "training", "training", "always", None, None, None),
    "d.sn_iterates": ("training", "training", "training", "always", None, None, None),
    "g.sync_batch_norm": (False, False, False, True, False, None, None),
    "augment.translation_fill": (0.0, 0.0, 0.0, -1.0, None, 0.0, 0.0),
    "data.fit": ("crop",) * 3 + ("zoomed",) + ("crop",) * 3,
    "data.filter": ("lanczos",) * 3 + ("bilinear_tf1",) + ("lanczos",) * 3,
    "data.subset": ("drawn",) * 3 + ("first",) + ("drawn",) * 3,
    "ema.standing_batches": (8,) * 3 + (3200,) + (8,) * 3,
    "ema.standing_batch": (16,) * 3 + (64,) + (16,) * 3,
    "ema.standing_rule": ("own",) * 3 + ("accumulated",) + ("own",) * 3,
    "evaluate.rounded": (True,) * 3 + (False,) + (True,) * 3,
    "d.norm": ("spectral",) * 5 + ("none",) * 2,
}


def at(parsed: config.Config, path: str):
    node = config.to_tree(parsed)
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


GOLDEN = Path(__file__).parent / "golden" / "recipes.json"
ASKED = {"plain": {}, "asked": {"resolution": 128, "batch": 8, "gpus": 8, "count": 5000, "device": "cuda", "num_classes": 10}}


def test_every_setting_of_every_recipe_is_as_it_was():
    """Whoever changes a recipe on purpose removes tests/golden/recipes.json, runs this test, and commits what it writes with the change."""
    found = {name: {how: catalog.load("recipes", name)(**known) for how, known in ASKED.items()} for name in catalog.names("recipes")}
    if not GOLDEN.exists():
        GOLDEN.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()) + "\n}\n")
        pytest.fail(f"{GOLDEN.name} did not exist and was written from this run; look at it and commit it")
    kept = json.loads(GOLDEN.read_text())
    assert found.keys() == kept.keys()
    for name, trees in found.items():
        for how, tree in trees.items():
            assert json.loads(json.dumps(tree)) == kept[name][how], f"{name}, {how}"


@pytest.mark.parametrize("path", COLUMNS)
def test_recipes_are_the_published_settings(path):
    assert tuple(at(config.resolved(configured(name, ())), path) for name in PUBLISHED) == COLUMNS[path]


@pytest.mark.parametrize("name", PUBLISHED)
def test_both_players_have_one_adam(name):
    parsed = configured(name, ())
    assert parsed.optim_g == parsed.optim_d.model_copy(update={"lr": parsed.optim_g.lr})


COUNTS = {"biggan_cifar": (10, 4_304_387, 4_207_361), "biggan_tiny": (200, 17_335_204, 30_796_722), "biggan_cub": (200, 70_331_588, 86_753_570),
          "biggan_imagenet": (1000, 70_433_988, 87_982_370), "sngan_cifar": (0, 4_276_739, 1_053_825)}


@pytest.mark.parametrize("name", COUNTS)
def test_recipes_build_the_networks_of_the_tables(name):
    parsed, (classes, *counts) = configured(name, ()), COUNTS[name]
    known = {"resolution": parsed.data.resolution, "channels": 3, "num_classes": classes}
    with torch.device("meta"):
        nets = [catalog.build("arch", use, which, **known) for use, which in ((parsed.g, "Generator"), (parsed.d, "Discriminator"))]
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == counts


def test_stylegan2_has_the_feature_maps_of_the_tables():
    """128 at 32 pixels, 256 at 16, 512 below on CIFAR; 128 at 256, 256 at 128, 512 below in the few-shot runs."""
    for name, first in (("stylegan2_diffaug_cifar", 32), ("stylegan2_diffaug_fewshot", 256)):
        base, most = at(configured(name, ()), "g.channel_base"), at(configured(name, ()), "g.channel_max")
        assert [min(base // (first >> i), most) for i in range(4)] == [128, 256, 512, 512]


def test_the_average_of_biggan_starts_at_iteration_1000():
    ema = configured("biggan_cifar", ()).ema
    assert decay(ema, 200, 999 * 200) == 0 and decay(ema, 200, 1000 * 200) == 0.9999
    ema = configured("stylegan2_diffaug_cifar", ()).ema
    assert decay(ema, 32, 999_999) == 0 and decay(ema, 32, 10**6) == pytest.approx(0.5 ** (32 / 10**6))


def test_the_learning_rate_of_sngan_falls_to_nothing():
    from handful.training.optim import schedule

    parsed = configured("sngan_cifar", ())
    adam = torch.optim.Adam([{"params": [torch.zeros(1)], "base_lr": parsed.optim_d.lr, "like": "d"}])
    for images, factor in ((0, 1), (8_000_000, 0.75), (32_000_000, 0)):
        schedule(adam, {"d": parsed.optim_d}, images, parsed)
        assert adam.param_groups[0]["lr"] == pytest.approx(2e-4 * factor)


def test_the_narrow_biggan_is_narrow_and_short():
    parsed = configured("biggan_32_narrow", ())
    assert at(parsed, "g.width") == at(parsed, "d.width") == 16 and parsed.train.kimg <= 400 and parsed.ema.start_kimg == 0


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2, 0.1])
def test_the_rule_for_digganss_weight_is_the_terms_own(share):
    from handful.terms.diggan import weight_for

    for augmented in (False, True):
        assert diggan.weight(share, augmented) == pytest.approx(weight_for(share, augmented))
    assert [diggan.weight(s, False) for s in (1, 0.2, 0.1)] == [1000, 5000, 10_000]
    assert [diggan.weight(s, True) for s in (1, 0.2, 0.1)] == [10, 250, 1000]


# ------------------------------------------------------------------------------------------------------------------- the rows


def settings_of(row: _tables.Row) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in row.settings)


@pytest.mark.parametrize("table", [t for t in _tables.tables() if t.startswith(("diffaugment", "diggan/")) and t != _tables.TWO_POINT])
def test_settings_make_the_row_that_they_name(table):
    for row in _tables.table(table):
        if row.waits:
            continue
        parsed = configured(row.recipe, row.settings)
        plain = ("DiffAug" not in row.name and not row.name.startswith("reals")) and not row.recipe.startswith("stylegan2_auto")
        assert (parsed.augment.name == "none") == plain, row
        assert ("diggan" in parsed.terms) == ("DigGAN" in row.name or table == "diggan/6"), row
        assert ("lecam" in parsed.terms) == ("R_LC" in row.name), row
        assert ("consistency" in parsed.terms) == row.name.startswith("CR-"), row
        share = next((s for s in ("100%", "50%", "25%", "20%", "10%") if row.data.endswith(s)), "100%")
        if row.source:
            assert row.source.partition(":")[2] == ("" if share == "100%" else share)
            assert row.source.startswith("cifar100") == ("CIFAR-100" in row.data)
            assert row.targets[0].against == row.source.partition(":")[0] + ":test"
        elif share != "100%":
            whole = {"ImageNet": 1_281_167, "Tiny": 100_000, "CUB": 5994}[row.data.split()[0]]
            assert parsed.data.max_images == pytest.approx(whole * float(share[:-1]) / 100, abs=1)


def test_augmentation_stands_where_table_1_says():
    for row in _tables.table("diffaugment/1"):
        parsed = configured(row.recipe, row.settings)
        assert parsed.train.augment_at == ["real", "fake_d", "fake_g"][:{"reals only": 1, "reals+fakes, D only": 2}.get(row.name, 3)]
        assert parsed.augment.name == "none" or parsed.augment.kwargs["policy"].replace(",", "+") == row.data.removeprefix("CIFAR-10, ")


LENGTHS = {("diffaugment/5", "100%"): 250, ("diffaugment/5", "20%"): 250, ("diffaugment/5", "10%"): 125,       # thousands of G's iterations
           ("diffaugment/6", "100%"): 500, ("diffaugment/6", "20%"): 250, ("diffaugment/6", "10%"): 125,
           ("diggan/1", "20%"): 250, ("diggan/2", "100%"): 250}


@pytest.mark.parametrize("table, share", LENGTHS)
def test_lengths_are_the_papers_iterations(table, share):
    for row in _tables.table(table):
        if row.recipe == "biggan_cifar" and row.data.endswith(share):
            twice = "DiffAug + DigGAN" in row.name and share == "20%"
            assert configured(row.recipe, row.settings).train.kimg * 1000 / 200 == LENGTHS[table, share] * 1000 * (2 if twice else 1), row


def test_tiny_imagenet_and_cub_are_as_released():
    """DiffAugment alone runs twice as long on Tiny-ImageNet; the penalty is the release's to the letter, and the row says how to have the paper's."""
    for row in _tables.table("diggan/3"):
        parsed = configured(row.recipe, row.settings)
        iterations = parsed.train.kimg * 1000 / parsed.train.batch / parsed.train.d_steps
        assert iterations == 1000 * (200 if row.name == "BigGAN + DiffAug" or row.data.startswith("CUB") else 100), row
        if "DigGAN" in row.name:
            how = parsed.terms["diggan"].kwargs
            assert (how["studiogan_literal"], how["every"], how["substeps"]) == (True, 4, "all")
            assert "studiogan_literal=false" in row.targets[0].protocol
        else:
            assert "literal" not in row.targets[0].protocol


def test_the_weaker_reading_of_the_interval_stands_beside_its_figures():
    for row in _tables.table("diggan/4"):
        assert ("16 times weaker" in row.targets[0].cost) == ("DigGAN" in row.name)


def test_crs_partner_is_the_papers():
    against = {row.data + row.name: configured(row.recipe, row.settings) for row in _tables.table("diffaugment/5") if row.name.startswith("CR-")}
    for key, parsed in against.items():
        plain = "Diff" in key and "100%" not in key
        assert parsed.terms["consistency"].kwargs["against"] == ("plain" if plain else "shifted")
        policy = parsed.augment.kwargs.get("policy")
        assert policy == (None if "Diff" not in key else "translation,cutout" if plain else "cutout")


def test_imagenets_learning_rates_and_steps():
    spreads = {(r.name, r.data): [t.spread for t in r.targets] for r in _tables.table("diffaugment/2")}
    assert list(spreads.values()) == [[0.4, 0.02], [0.2, 0.04], [0.4, 0.07], [0.2, 0.02], [0.5, 0.06], [0.5, 0.07]]
    found = {(r.name, r.data): configured(r.recipe, r.settings) for r in _tables.table("diffaugment/2")}
    assert {k[1]: (p.optim_d.lr, p.train.kimg / 4.096) for k, p in found.items() if "Diff" in k[0]} == {
        "ImageNet 100%": (4e-4, 250_000), "ImageNet 50%": (2e-4, 150_000), "ImageNet 25%": (2e-4, 60_000)}
    assert all(p.optim_d.lr == 5e-4 for k, p in found.items() if "Diff" not in k[0])


def test_few_shot_rows_are_the_papers_and_the_release_is_the_recipe():
    for row in _tables.table("diffaugment/4") + _tables.table("diffaugment/released"):
        if not row.waits:
            parsed, animal = configured(row.recipe, row.settings), "Animal" in row.data
            released = row.table.endswith("released")
            assert (parsed.train.batch, parsed.train.kimg) == ((16, 500 if animal else 300) if released else (32, 640 if animal else 320))
            assert parsed.terms["r1"].kwargs["gamma"] == (1 if animal and not released else 10)


def test_what_waits_is_said():
    waiting = [r for r in _tables.rows() if r.waits and r.table.startswith(("diffaugment", "diggan"))]
    assert Counter(r.table for r in waiting) == {"diffaugment/4": 30, "diffaugment/A.1": 2, "diffaugment/10": 1}
    assert not any(r.recipe for r in _tables.rows() if r.waits)


# ---------------------------------------------------------------------------------------------------- the specifications' tables

FEW = {"Obama": "100-shot-obama", "Grumpy cat": "100-shot-grumpy-cat", "Panda": "100-shot-panda", "Cat": "AnimalFace-cat 160",
       "Dog": "AnimalFace-dog 389"}


def sections(name: str) -> dict[str, list[list[str]]]:
    """The tables of a specification, by the line before them: rows of cells."""
    path = SPECS / name
    if not path.exists():
        pytest.skip(f"the specification {name} is not beside this checkout")
    found, title = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            cells = [c.strip() for c in line.strip("|").split("|")]
            if not set("".join(cells)) <= set("-: "):
                found.setdefault(title, []).append(cells)
        elif line.strip():
            title = line.strip()
    return {k: v for k, v in found.items() if re.match(r"Tables? \d", k)}


def numbers(cell: str) -> list[float]:
    return [float(part.split("±")[0]) for part in cell.split("/")] if cell not in ("–", "") else []


def published(name: str, paper: str) -> dict[str, Counter]:
    """Of each table: row + column -> the numbers, rows that begin with + after the row before them."""
    out: dict[str, Counter] = {}
    for title, (head, *lines) in sections(name).items():
        for number in re.findall(r"\d+", title.split("—")[0]):
            cells, base = Counter(), ""
            for label, *values in lines:
                label = f"{base} {label}" if label.startswith("+ DiffAugment") else label
                base = label if not label.startswith(("+", f"{base} +")) else base
                for column, value in zip(head[1:], values):
                    for figure in numbers(value) if value not in ("✓", "yes", "no") else []:
                        cells[label, column, figure] += 1
            out[f"{paper}/{number}"] = out.get(f"{paper}/{number}", Counter()) + cells
    return out


def mine(table: str) -> Counter:
    """Targets of a table as (row, column, number), as the specifications name them."""
    out = Counter()
    for row in _tables.table(table):
        for t in row.targets:
            column = t.data.replace("%", " %")
            for start in ("ImageNet ", "CIFAR-10 ", "CIFAR-100 "):
                column = column.removeprefix(start) if table not in ("diggan/6",) else column
            name = t.row
            if table == "diffaugment/1":
                column = {"color+translation+cutout": "color+trans+cutout", "translation+cutout": "trans+cutout"}.get(
                    t.data.removeprefix("CIFAR-10, "), "translation")
            elif table in ("diffaugment/4", "diggan/4"):
                column = {v: k for k, v in FEW.items()}[t.data]
            elif table == "diggan/3" and t.row != "BigGAN":
                name = t.row.removeprefix("BigGAN ")
            elif table == "diggan/5":
                first = "StyleGAN2+C10 100 %" if t.data.startswith("StyleGAN2") else "BigGAN+C100 100 %"
                column = first if t.data.endswith("100%") else "10 %"
            elif table == "diggan/6":
                column = column.replace("CIFAR-", "C")
            out[name, column, t.value] += 1
    return out


@pytest.mark.parametrize("name, paper", [("diffaugment-biggan.md", "diffaugment"), ("diggan-and-regularisers.md", "diggan")])
def test_every_published_figure_is_a_target(name, paper):
    """Each table of the specification, cell by cell; DiffAugment's table 3 repeats the FIDs of 5 and 6 there."""
    for table, cells in published(name, paper).items():
        if table == "diffaugment/3":
            assert {t.figure for r in _tables.table(table) for t in r.targets} == {"FID"}
            fids = Counter()
            for other in ("diffaugment/5", "diffaugment/6"):
                fids += Counter((t.row, t.data, t.value) for r in _tables.table(other) for t in r.targets if t.figure == "FID")
            assert Counter((t.row, t.data, t.value) for r in _tables.table(table) for t in r.targets) == fids
        else:
            assert mine(table) == cells, table


def test_how_many_figures_are_aimed_at():
    counts = Counter(t.table for r in _tables.rows() for t in r.targets if r.table.startswith(("diffaugment", "diggan")))
    assert counts == {"diffaugment/1": 24, "diffaugment/2": 12, "diffaugment/3": 36, "diffaugment/4": 40, "diffaugment/5": 36, "diffaugment/6": 36,
                      "diffaugment/8a": 2, "diffaugment/8b": 3, "diffaugment/10": 1, "diffaugment/A.1": 6, "diffaugment/released": 10,
                      "diffaugment/ffhq": 18, "diggan/1": 36, "diggan/2": 36, "diggan/3": 30, "diggan/4": 8, "diggan/5": 20, "diggan/6": 12}


def test_every_target_says_how_it_is_measured():
    from handful.metrics._protocols import resolve

    for row in _tables.rows():
        for t in row.targets:
            if t.figure.startswith(("FID", "KID", "IS", "recall")):
                assert resolve(t.metric.partition("/")[0])
                assert t.times == (1000 if "x1000" in t.figure else 1)
            else:
                assert not t.metric and (t.table in ("fastgan/1", "stylegan2-ada/cost") or t.table == "fastgan/5" and t.waits), t
        assert len({(t.source, t.against, t.waits) for t in row.targets}) == 1, row


# ----------------------------------------------------------------------------------------------------------- the rows can be trained

NARROW = {"biggan": ("width=4",), "sngan": ("width=8",), "stylegan2": ("channel_base=128", "channel_max=16")}
KINDS = {}                                                  # rows that differ in more than numbers: recipe, augmentation, terms
for _row in _tables.rows():
    if _row.table.startswith(("diffaugment", "diggan/")) and not _row.waits:
        _kind = sorted(line for line in _row.settings if not re.search(r"weight|gamma|kimg|batch|max_images|lr", line))
        _kind += sorted({line.split(".")[1] for line in _row.settings if line.startswith("terms.")})
        KINDS.setdefault((_row.recipe, *_kind), _row)


@pytest.mark.parametrize("row", KINDS.values(), ids=lambda r: f"{r.table}-{r.name}-{r.data}".replace(" ", "_"))
def test_every_kind_of_row_trains(row):
    """Two iterations of a narrow form with the row's terms, augmentation and schedule: finite, and G and D move."""
    from handful.training.trainer import Trainer
    from making import noise_set, run_steps, weights

    whole = configured(row.recipe, row.settings)
    classes = 3 if whole.data.labels else 0
    side = min(whole.data.resolution, 64)
    lines = [f"{net}.{line}" for net, use in (("g", whole.g), ("d", whole.d)) for line in NARROW[use.name]]
    lines += ["train.batch=4", "train.micro_batch=null", f"data.resolution={side}"] + (["train.g_batch=8"] if whole.train.g_batch else [])
    if whole.g.name == "stylegan2":
        lines += ["g.z_dim=16", "g.w_dim=16", "g.mapping_layers=2"]
    parsed = config.resolved(configured(row.recipe, (*row.settings, *lines)))
    trainer = Trainer(parsed, noise_set(12, classes, side), torch.device("cpu"))
    before = [p.clone() for net in (trainer.nets.G, trainer.nets.D) for p in net.parameters()]
    logged = run_steps(trainer, 2).take_log()
    assert logged["d/bad_grads"] == logged["g/bad_grads"] == 0 and torch.isfinite(weights(trainer)).all()
    after = [p for net in (trainer.nets.G, trainer.nets.D) for p in net.parameters()]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after)) > len(before) / 2
    for name in parsed.terms:
        if name not in ("path_length", "ada_controller", "lecam"):
            assert f"d/loss_{name}" in logged, name
