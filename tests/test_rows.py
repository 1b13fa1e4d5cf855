"""Every figure of the papers is a row: how many there are in each table, whether they stand in the papers, what runs them, what they wait for."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from handful import catalog, config
from handful.reproduce import _show, _tables, published
from handful.reproduce._job import configured
from handful.reproduce.published import diffaugment, fastgan
from making import NARROW, noise_set, run_steps, weights
from test_recipes import at

SHARED = Path(__file__).parents[1].parent / "shared"
FIGURES = {                                                 # counted in the papers: table or figure -> numbers
    "fastgan": {"1": 5 * 6, "2": 6 * 5, "3": 4 * 7 - 2, "4": 3 * 10, "5": 4 * 4, "6": 5 * 2},
    "stylegan2-ada": {"7c": 12 * 3, "8a": 9 * 3, "11a": 10 * 4, "11b": 6 * 2 + 3 * 4, "12": 6, "13": 6, "14": 6, "15": 6, "16": 6, "17": 10,
                      "18": 4 + 4 * 8, "FID-10k": 6, "cost": 16},
    "diffaugment": {"1": 4 * 6, "2": 2 * 6, "3": 6 * 6, "4": 8 * 5, "5": 6 * 6, "6": 6 * 6, "8a": 2, "8b": 3, "10": 1, "A.1": 6, "released": 10,
                    "ffhq": 18},
    "diggan": {"1": 6 * 6, "2": 6 * 6, "3": 6 * 5, "4": 2 * 4, "5": 4 + 4 + 2 + 4 + 4 + 2, "6": 3 * 4},
    "insgen": {"1": 8 * 3 + 2, "2": 4 * 3, "3": 5 * 3}}
WAITING = {"fastgan": {"1": 12, "2": 5, "3": 11, "5": 16, "6": 8}, "stylegan2-ada": {"11a": 20, "11b": 12, "12": 6, "17": 2, "18": 4, "FID-10k": 2},
           "diffaugment": {"4": 30, "10": 1, "A.1": 2}}
COSTS = {"fastgan": {"1": 18}, "stylegan2-ada": {"cost": 16}}
CURVES = {"stylegan2-ada": {"9a": 2 * 3, "9b": 2 * 3, "9c": 2 * 2 * 5, "9d": 5 * 5, "19a": 9, "19b": 9}}           # settings without a number
RELEASES = ("diffaugment/released", "diffaugment/ffhq", "stylegan2-ada/cost")             # of the codes, not of the papers


def rows_of(paper: str) -> list[_tables.Row]:
    return [r for r in _tables.rows() if r.table.split("/")[0] == paper]


# ------------------------------------------------------------------------------------------------------------------ the figures


@pytest.mark.parametrize("paper", FIGURES)
def test_every_table_has_as_many_figures_as_the_paper(paper):
    found = {what: Counter() for what in ("figures", "waiting", "costs", "drawn")}
    for table in {r.table for r in rows_of(paper)}:
        c = _show.counts([r for r in rows_of(paper) if r.table == table], [])
        for what, counter in found.items():
            counter[table.split("/")[1]] += getattr(c, what)
    assert {k: v for k, v in found["figures"].items() if v} == FIGURES[paper]
    for what, wanted in (("waiting", WAITING), ("costs", COSTS), ("drawn", CURVES)):
        assert {k: v for k, v in found[what].items() if v} == wanted.get(paper, {}), what


def test_fastgans_figures_are_142():
    assert sum(FIGURES["fastgan"].values()) == 142


def test_no_figure_stands_in_a_table_twice():
    cells = Counter((t.table, t.row, t.data, t.figure) for r in _tables.rows() for t in r.targets)
    assert not [cell for cell, n in cells.items() if n > 1]


@pytest.mark.parametrize("paper", FIGURES)
def test_every_figure_is_printed_in_the_paper(paper):
    """By value: the numbers of the paper's text, or of the specification where the code's authors published them beside it."""
    path = SHARED / "papers" / f"{paper}.txt"
    if not path.exists():
        pytest.skip("the papers are not beside this checkout")
    printed = numbers(path.read_text(encoding="utf-8"))
    spec = numbers("".join(p.read_text(encoding="utf-8") for p in (SHARED / "specs").glob("*.md")))
    for row in rows_of(paper):
        for t in row.targets:
            if t.table != "stylegan2-ada/cost" and t.value is not None:                   # hours and minutes there
                assert {t.value, t.spread or 0.0} <= (spec if t.table in RELEASES else printed | {0.0}), t


def numbers(text: str) -> set[float]:
    return {float(found) for found in re.findall(r"\d+(?:\.\d+)?", text)}


def spec_section(name: str, title: str) -> list[list[str]]:
    """The rows of the table that follows a line with `title`."""
    path = SHARED / "specs" / name
    if not path.exists():
        pytest.skip(f"the specification {name} is not beside this checkout")
    lines = path.read_text(encoding="utf-8").split(title, 1)[1].splitlines()[1:]
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
    head, _, *rest = [[c.strip() for c in line.strip().strip("|").split("|")] for line in lines[start:end]]
    return [head, *rest]


FAST_NAMES = {"Baseline+Skip": "Baseline + Skip", "Baseline+decode": "Baseline + decode", "Baseline @20k": "Baseline @ 20k iter",
              "Baseline @40k": "Baseline @ 40k iter", "Ours @40k": "Ours @ 40k iter", "Ours @80k": "Ours @ 80k iter",
              "a. contrastive": "a. contrastive loss", "b. aspect ratio": "b. predict aspect ratio", "d. a+b": "d. a+b", "e. a+b+c": "e. a+b+c"}
FAST_DATA = {"2": fastgan.FEW, "3": tuple(fastgan.FEW_LARGE), "4": tuple(fastgan.MORE), "5": fastgan.TRACKED, "6": ("Art 10k", "Nature 10k")}


@pytest.mark.parametrize("number", FAST_DATA)
def test_fastgans_tables_cell_by_cell(number):
    _, *lines = spec_section("fastgan.md", f"Table {number} — ")
    published = {(FAST_NAMES.get(row, row), data): float(v) for row, *values in lines for data, v in zip(FAST_DATA[number], values) if v != "N/A"}
    assert {(t.row, t.data): t.value for r in _tables.table(f"fastgan/{number}") for t in r.targets} == published


def test_fastgans_table_of_costs_cell_by_cell():
    head, *lines = spec_section("fastgan.md", "Table 1 — ")
    names = ["StyleGAN2@0.25", "StyleGAN2@0.5", "StyleGAN2", "Baseline", "Ours"]
    assert head[1:] == ["StyleGAN2@0.25", "@0.5", "StyleGAN2", "Baseline", "Ours"]
    kinds = {"hours": fastgan.COSTS[0], "VRAM": fastgan.COSTS[1], "params": fastgan.COSTS[2]}
    published = {(name, {"256": "256x256", "1024": "1024x1024"}[title.split("²")[0]], kinds[re.split(r"[ /]", title.split(": ")[1])[0]]): float(v)
                 for title, *values in lines for name, v in zip(names, values)}
    assert {(t.row, t.data, t.figure): t.value for r in _tables.table("fastgan/1") for t in r.targets} == published


def test_adas_transfer_columns_cell_by_cell():
    _, *lines = spec_section("stylegan2-ada.md", "### 16.3 ")
    published, data = {}, ""
    for name, images, method, *values in lines:
        data = f"{name} ({images.split(',')[0]})" if name else data
        row = "config F" if method == "baseline" else method
        for column, figure, value in zip(("", "", " + transfer", " + transfer + Freeze-D"), ("FID", *["KID x1000"] * 3), values):
            published[row + column, data, figure] = float(value)
    assert {(t.row, t.data, t.figure): t.value for r in _tables.table("stylegan2-ada/11a") for t in r.targets} == published and len(published) == 40


def test_adas_figure_11b_cell_by_cell():
    _, *lines = spec_section("stylegan2-ada.md", "### 16.4 ")
    columns = [(data, figure) for data in ("CIFAR-10", "CIFAR-10 conditional") for figure in ("FID", "IS")]
    names = {"+ ADA": "ADA", "+ tuning": "ADA + tuning"}
    published = {(names.get(row, row), data, figure): tuple(map(float, v.split(" ± "))) for row, *values in lines
                 for (data, figure), v in zip(columns, values) if v != "–"}
    found = {(t.row, t.data, t.figure): (t.value,) if t.spread is None else (t.value, t.spread)
             for r in _tables.table("stylegan2-ada/11b") for t in r.targets}
    assert found == published and len(published) == 24


def test_adas_best_snapshots_and_biggan():
    _, *lines = spec_section("stylegan2-ada.md", "### 16.5 ")
    found = {(r.table, r.name): tuple(t.value for t in r.targets) for n in range(12, 17) for r in _tables.table(f"stylegan2-ada/{n}")}
    sets = [f"stylegan2-ada/{n}" for n in range(12, 17) for _ in range(2)]
    published = {(table, row + (" + transfer" if table.endswith("12") else "")): tuple(map(float, values))
                 for table, (_, row, *values) in zip(sets, lines)}
    assert found == published and len(published) == 10
    head, *lines = spec_section("stylegan2-ada.md", "### 16.6 ")
    fids, = (values for row, *values in lines if row == "BigGAN")
    assert {r.data: r.targets[0].value for r in _tables.table("stylegan2-ada/18") if r.name == "BigGAN"} == {
        f"FFHQ 256x256, {size}": float(v) for size, v in zip(head[1:], fids)}


# --------------------------------------------------------------------------------------------------------------------- counting


def test_counts_add_up_and_are_shown(capsys):
    text = "\n".join(_show.papers())
    for paper in _tables.PAPERS:
        tables = [t for t in _tables.tables() if t.split("/")[0] == paper]
        parts = [_show.counts([r for r in _tables.rows() if r.table == t], []) for t in tables]
        whole = _show.counts(rows_of(paper), [])
        for what in ("runnable", "waiting", "costs", "drawn", "figures"):
            assert getattr(whole, what) == sum(getattr(c, what) for c in parts)
        assert whole.figures == whole.runnable + whole.waiting + whole.costs
        assert whole.figures + whole.drawn == sum(len(r.targets) for r in rows_of(paper))
        assert f"{whole.figures} figures: {whole.runnable} runnable, {whole.waiting} waiting" in text
    assert "142 figures: 72 runnable, 52 waiting, 18 costs; 0 measured" in text
    assert "225 figures: 163 runnable, 46 waiting, 16 costs; 0 measured; 75 settings of curves without a number, all waiting" in text
    assert re.search(r"diffaugment/10 +1 figure +1 waiting ", text) and re.search(r"stylegan2-ada/9a +6 settings +6 without a number ", text)


def result(row: _tables.Row, share: float = 1.0, other=(), **found: float) -> dict:
    return {"setting": _tables.setting(row), "found": {k: {"value": v} for k, v in found.items()}, "share": share, "other": list(other), "seed": 0,
            "records": []}


def test_what_was_measured_is_counted(tmp_path):
    row = _tables.pick(_tables.table("fastgan/2"), "Ours", "100-shot-panda")
    other = _tables.pick(_tables.table("fastgan/2"), "Baseline", "100-shot-panda")
    facts = [result(row, fid5k_train=11.0), result(row, 0.1, fid5k_train=40.0), result(other, 0.1, ["train.batch=4"], fid5k_train=60.0)]
    c = _show.counts(_tables.table("fastgan/2"), facts)
    assert (c.measured, c.whole) == (1, 1)                                              # not the run with settings of its own
    c = _show.counts(_tables.table("fastgan/2"), [*facts[1:], result(other, 0.1, fid5k_train=60.0)])
    assert (c.measured, c.whole) == (2, 0)
    assert _show.counts(_tables.table("fastgan/2"), [result(row, fid10k_test=1.0)]).measured == 0
    for i, one in enumerate(facts):
        path = tmp_path / str(i) / _tables.RESULT
        path.parent.mkdir()
        path.write_text(json.dumps(one))
    text = "\n".join(_show.papers(tmp_path))
    assert "18 costs; 1 measured, 1 of them at the whole schedule" in text and "25 runnable, 5 waiting, 1 measured" in text


# ------------------------------------------------------------------------------------------------------------------ what waits


def test_what_waits_has_a_reason_and_would_be_a_run():
    for row in _tables.rows():
        for t in row.targets:
            assert t.value is not None or row.waits
        if row.waits:
            assert not row.recipe and not row.waits.startswith("data"), row
            for name in re.findall(r"\bpaper\d+|\bstylegan2\b(?=.* weights)|\bfastgan\d+", row.waits):
                assert configured(name, row.settings).train.kimg > 0                     # the settings are ones that the recipe has


def test_waiting_rows_and_curves_are_shown(capsys):
    row = _tables.pick(_tables.table("stylegan2-ada/9c"), "ADA + transfer", "FFHQ 2k")
    line, = (x for x in _show.table([row], Path("runs")) if x.startswith("  ADA + transfer"))
    assert "FID (drawn, no number)" in line and "waits for a way for rows of paper256 to start from other weights" in line
    assert line.endswith("--set data.max_images=2000")
    assert json.loads(_show.as_json([row], Path("runs")))[0]["published"] is None


def test_curves_are_in_no_recipes_own_figures():
    """So that `handful list recipes NAME` and a run's report have a number for each."""
    for name in catalog.names("recipes"):
        assert all(t.value is not None and not t.waits for t in published.targets(name))


def test_every_figure_belongs_to_a_recipe_or_waits():
    names = catalog.names("recipes")
    for t in published.targets():
        assert t.recipe in names if not t.waits else not t.recipe, t


# ------------------------------------------------------------------------------------------------------------------ FastGAN's rows


def test_fastgans_rows_have_the_parts_that_they_name():
    for number in "1234":
        for row in _tables.table(f"fastgan/{number}"):
            if row.recipe.startswith("fastgan"):
                parsed = configured(row.recipe, row.settings)
                skip, decode = "Skip" in row.name or row.name == "Ours", "decode" in row.name or row.name == "Ours"
                assert at(config.resolved(parsed), "g.sle") == at(config.resolved(parsed), "d.sle") == skip, row
                assert ("reconstruction" in parsed.terms) == decode, row
                assert parsed.data.resolution == (256 if row.recipe == "fastgan256" else 1024)


HOURS = {("2", "Baseline"): (5, 0.7), ("2", "Ours"): (5, 1), ("3", "Baseline"): (8, 1.3), ("4", "Baseline"): (24, 1.3), ("4", "Ours"): (24, 1.7),
         ("6", "c. auto-encoding"): (24, 1.7)}


@pytest.mark.parametrize("number, name", HOURS)
def test_lengths_in_hours_are_table_1s_iterations(number, name):
    hours, pace = HOURS[number, name]
    for row in _tables.table(f"fastgan/{number}"):
        if row.name == name:
            parsed = configured(row.recipe, row.settings)
            iterations = parsed.train.kimg * 1000 / 8                                    # in images of batch 8, with which the pace was measured
            assert iterations % 10_000 == 0 and iterations <= hours / pace * 10_000 < iterations + 10_000, row
            assert parsed.train.batch == (32 if (name, row.data) == ("Ours", "FFHQ 70k") else 8)


def test_subsets_of_larger_sets_are_drawn():
    for number in "346":
        for row in _tables.table(f"fastgan/{number}"):
            images = re.search(r"(\d+)(k?)$", row.data)
            wanted = int(images[1]) * (1000 if images[2] else 1)
            if not row.waits:
                drawn = configured(row.recipe, row.settings).data.max_images
                assert drawn == wanted or drawn is None and wanted in (70_000, 800, 120, 100, 60), row


def parameters(resolution: int, g: dict, d: dict, decoders: tuple[str, ...]) -> int:
    with torch.device("meta"):
        G, D = (catalog.build("arch", catalog.Use("fastgan", **k), w, resolution=resolution, channels=3, num_classes=0)
                for w, k in (("Generator", g), ("Discriminator", d)))
        nets = [G, D]
        if decoders:
            term = catalog.build("terms", catalog.Use("reconstruction", loss="pixel", decoders=decoders))
            term.setup(SimpleNamespace(G=G, D=D))
            nets.append(term)
    return sum(p.numel() for net in nets for p in net.parameters())


OF_TEXT = ({"channel_table": "paper", "excitation": "paper"}, {"channel_table": "paper", "sle": False}, ("whole", "part"))
COUNTED = {"its own model": (({}, {}, ("whole", "part", "small")), (40.654, 40.705)), "the text": (OF_TEXT, (36.658, 36.666)),
           "its baseline": (({"sle": False}, {"sle": False}, ()), (33.708, 33.726))}


@pytest.mark.parametrize("what", COUNTED)
def test_parameters_in_the_list_of_differences_are_the_networks(what):
    form, millions = COUNTED[what]
    assert tuple(round(parameters(size, *form) / 1e6, 3) for size in (256, 1024)) == millions
    assert all(f"{m:.3f}" in fastgan.__doc__ for m in millions)
    assert all(f"{m[2]}" in fastgan.__doc__ for row in ("Ours", "Baseline", "StyleGAN2") for m in fastgan.TABLE_1[row])


def test_config_f_has_the_parameters_in_the_list_of_differences():
    with torch.device("meta"):
        for size, millions in ((256, "58.898"), (1024, "59.383")):
            nets = [catalog.build("arch", catalog.Use("stylegan2"), w, resolution=size, channels=3, num_classes=0)
                    for w in ("Generator", "Discriminator")]
            assert f"{sum(p.numel() for net in nets for p in net.parameters()) / 1e6:.3f}" == millions and millions in fastgan.__doc__


@pytest.mark.parametrize("row", [r for r in _tables.table("fastgan/2") if r.recipe == "fastgan256" and r.data == "100-shot-obama"],
                         ids=lambda r: r.name.replace(" ", ""))
def test_two_steps_of_every_part_of_fastgan(row):
    from handful.training.trainer import Trainer

    lines = ["data.resolution=64", "train.batch=4", *(f"{net}.{k}={v}" for net, more in NARROW["fastgan"].items() for k, v in more.items())]
    parts = ["terms.reconstruction.loss=pixel"] if "reconstruction" in configured(row.recipe, row.settings).terms else []
    parsed = config.resolved(configured(row.recipe, (*row.settings, *lines, *parts)))
    trainer = Trainer(parsed, noise_set(12, resolution=64), torch.device("cpu"))
    before = [p.clone() for net in (trainer.nets.G, trainer.nets.D) for p in net.parameters()]
    logged = run_steps(trainer, 2).take_log()
    assert logged["d/bad_grads"] == logged["g/bad_grads"] == 0 and torch.isfinite(weights(trainer)).all()
    after = [p for net in (trainer.nets.G, trainer.nets.D) for p in net.parameters()]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after)) > len(before) / 2
    assert ("d/loss_reconstruction" in logged) == bool(parts)


# ------------------------------------------------------------------------------------------------------------ figures that are quoted


def same_run(a: _tables.Row, b: _tables.Row) -> bool:
    """Whether what is measured for one stands in the other's table too."""
    return _tables.setting(a) == _tables.setting(b) and {t.metric for t in a.targets} <= {t.metric for t in b.targets}


def test_quoted_figures_are_the_runs_of_the_papers_that_they_come_from():
    for row in _tables.table("fastgan/2"):
        if row.name == "StyleGAN2":
            theirs = _tables.pick(_tables.table("diffaugment/released"), "StyleGAN2 + DiffAugment", row.data)
            assert same_run(row, theirs) and row.targets[0].value == theirs.targets[0].value
        elif row.name == "StyleGAN2 finetune":
            theirs = _tables.pick(_tables.table("diffaugment/4"), "FreezeD + DiffAugment", row.data)
            assert row.targets[0].value == theirs.targets[0].value and row.waits == theirs.waits
    quoted = [_tables.pick(_tables.table(t), name, "FFHQ 10k") for t, name in (("insgen/1", "DiffAugment"), ("fastgan/4", "StyleGAN2"))]
    theirs = _tables.pick(_tables.table("diffaugment/ffhq"), "StyleGAN2 + DiffAugment", "FFHQ 10k")
    assert all(same_run(row, theirs) and row.targets[0].value == theirs.targets[0].value == 7.86 for row in quoted)
    for name, data, share in (("StyleGAN2 + DiffAugment", "CIFAR-10", 9.89), ("CR-BigGAN + DiffAugment", "CIFAR-10 conditional", 8.49)):
        row = _tables.pick(_tables.table("stylegan2-ada/FID-10k"), name, data)
        theirs = _tables.pick(_tables.table("diffaugment/5"), name, "CIFAR-10 100%")
        assert same_run(row, theirs) and row.targets[0].value == share == next(t.value for t in theirs.targets if t.figure == "FID")


def test_ffhq_is_trained_as_the_releases_script_does():
    for row in _tables.table("diffaugment/ffhq"):
        parsed = config.resolved(configured(row.recipe, row.settings))
        assert (parsed.train.batch, parsed.train.kimg, parsed.data.resolution, parsed.data.flip) == (32, 25_000, 256, True)
        assert (at(parsed, "terms.r1.gamma"), at(parsed, "terms.r1.at"), at(parsed, "terms.r1.every"), parsed.ema.halflife_kimg) == (1, "x_in", 1, 10)
        for net in "gd":                                                                  # 64 feature maps at 256 pixels
            assert min(at(parsed, f"{net}.channel_base") // 256, at(parsed, f"{net}.channel_max")) == 64
        assert parsed.augment.kwargs.get("policy") == ("color,translation,cutout" if "Diff" in row.name else None)
        assert parsed.data.max_images == (None if "70k" in row.data else int(row.data.split()[-1][:-1]) * 1000)


def test_the_sweeps_of_diffaugment_change_what_they_name():
    table_5 = {r.name: r for r in _tables.table("diffaugment/5") if r.data == "CIFAR-10 10%"}
    for row in _tables.table("diffaugment/8a"):
        base = table_5[row.name.partition(",")[0]]
        assert config.differences(configured(base.recipe, base.settings), configured(row.recipe, row.settings)).keys() == {"g.width", "d.width"}
        parsed = configured(row.recipe, row.settings)
        with torch.device("meta"):
            nets = [catalog.build("arch", use, w, resolution=32, channels=3, num_classes=10)
                    for use, w in ((parsed.g, "Generator"), (parsed.d, "Discriminator"))]
        assert [sum(p.numel() for p in net.parameters()) for net in nets] == [1_218_307, 1_055_105]         # the specification's, about a quarter
    for row in _tables.table("diffaugment/8b"):
        changed = config.differences(configured("stylegan2_diffaug_cifar", table_5["StyleGAN2"].settings), configured(row.recipe, row.settings))
        gamma = float(row.name.rsplit(" ", 1)[1])
        assert {k: new for k, (_, new) in changed.items()} == ({} if gamma == 0.1 else {"terms.r1.gamma": gamma})
    rows = {r.name: configured(r.recipe, r.settings) for r in _tables.table("diffaugment/A.1") if not r.waits}
    table_2 = {(r.name, r.data): configured(r.recipe, r.settings) for r in _tables.table("diffaugment/2")}
    half, cr = rows["BigGAN, D's learning rate 2e-4"], rows["CR-BigGAN"]
    assert config.differences(table_2["BigGAN", "ImageNet 50%"], half) == {"optim_d.lr": (5e-4, 2e-4)}
    assert {k.rsplit(".", 1)[0] for k in config.differences(table_2["BigGAN", "ImageNet 100%"], cr)} == {"terms.consistency"}
    assert diffaugment.TABLE_2["BigGAN"][1] == ((89.9, 0.2), (9.64, 0.04))                 # what the text compares the lower rate with
