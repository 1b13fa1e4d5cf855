"""`handful reproduce`: the tables, a made-up row from start to end on noise, what is refused, and its results in the ledger."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from handful.cli import group, run
from handful.metrics._metric import Metric
from handful.reproduce import _job, _run, _show, _tables, _two_point, published
from handful.reproduce._target import Target
from handful.training.trainer import Trainer
from making import TINY, picture_folder


def tiny_recipe(resolution=None, batch=None, **_):
    return TINY | {"data": {"resolution": 16, "labels": "auto"}, "train": {"batch": 8, "kimg": 0.8}, "evaluate": {"metrics": []},
                   "ema": {"decay": 0.9, "start_kimg": 0.08}, "every": {"log_kimg": 0.08, "checkpoint_kimg": 0.08}}


@dataclass
class Brightness(Metric):
    """Mean level of 8 samples; `doubled`: twice that."""

    alone = True

    def run(self, job):
        value = float(job.model.sample(range(8)).mean())
        return {"value": value, "doubled": 2 * value, "protocol": f"8 samples against {job.reals.count} reals", "better": "higher"}


def made_up(**more):
    base = Target("diffaugment/99", "ours", "noise 10%", "level", 128.0, "8 samples, no reals", "a second", ("terms.lecam.start=500",), None,
                  "test_reproduce:Brightness", recipe="test_reproduce:tiny_recipe", **more)
    return [base, dataclasses.replace(base, figure="KID x1000", value=2.56e5, metric="test_reproduce:Brightness/doubled", times=1000.0),
            dataclasses.replace(base, table="diffaugment/98", row="the same"),
            dataclasses.replace(base, row="of the second", data="noise 20%", settings=()),
            dataclasses.replace(base, row="of the second", settings=())]


@pytest.fixture
def noise(tmp_path, monkeypatch):
    """Two made-up tables whose rows train a tiny network on a folder of noise."""
    folder = picture_folder(tmp_path / "noise", 12, classes=2)
    monkeypatch.setattr(published, "targets", lambda: made_up(source=str(folder)))
    _tables.rows.cache_clear()
    yield folder
    _tables.rows.cache_clear()


def reproduce(*args: str) -> int:
    return run(group, ["reproduce", *args])


def said(capsys, *args: str, code: int = 2) -> str:
    capsys.readouterr()
    assert reproduce(*args) == code
    line = capsys.readouterr().err.strip()
    assert "\n" not in line and "unexpected" not in line
    return line


# -------------------------------------------------------------------------------------------------------------------- listing


def test_papers_and_tables_are_listed(capsys):
    assert reproduce() == 0
    text = capsys.readouterr().out
    for table in _tables.tables():
        assert table in text and table in _tables.TITLES
    assert "diffaugment/5         36 figures" in text and "diggan/two-point  no figures" in text
    line, = (x for x in text.splitlines() if x.startswith("  diffaugment/4 "))
    assert "40 figures  10 runnable, 30 waiting  " in line


def test_a_table_shows_what_was_published_and_nothing_that_nobody_measured(capsys):
    assert reproduce("diffaugment/5") == 0
    line, = (x for x in capsys.readouterr().out.splitlines() if x.startswith("  BigGAN + DiffAugment") and "CIFAR-10 10%" in x)
    assert line.split() == ["BigGAN", "+", "DiffAugment", "CIFAR-10", "10%", "IS", "8.09", "FID", "22.40", "-", "[a]", "[b]", "biggan_cifar", "--set",
                            "augment=diffaug", "--set", "augment.policy=translation,cutout", "--set", "train.kimg=25000"]
    for table in _tables.tables():
        if table != _tables.TWO_POINT:
            assert all(_tables.measured(t, r, ()) == "-" for r in _tables.table(table) for t in r.targets)
    assert reproduce("diggan", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 142 and {f["measured"] for f in found} == {"-"} and all(f["protocol"] and f["cost"] and f["recipe"] for f in found)


def test_the_experiment_on_two_points_is_run_by_its_name(monkeypatch, capsys):
    two_point, asked = _two_point.experiment(), []
    monkeypatch.setattr(two_point, "run", lambda out, seeds, say, quick: asked.append((out, seeds, quick)) or {})
    monkeypatch.setattr(two_point, "summary", lambda result: "what was found")
    assert reproduce("diggan/two-point", "--out", "here") == 0 and reproduce("diggan/two-point", "--seeds", "5", "--scale", "0.5") == 0
    assert asked == [(Path("here/diggan-two-point"), 100, False), (Path("runs/reproduce/diggan-two-point"), 5, True)]
    assert capsys.readouterr().out.count("what was found") == 2
    assert "diggan/two-point has no rows" in said(capsys, "diggan/two-point", "--row", "1")


def test_an_installed_package_says_where_the_experiment_is(tmp_path, monkeypatch, capsys):
    """And runs nothing that lies where a checkout would have it."""
    planted = tmp_path / "examples" / "two_point"
    planted.mkdir(parents=True)
    for name in ("__init__", "experiment"):
        (planted / f"{name}.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    monkeypatch.setattr(_two_point, "NAME", "test_two_point_planted")
    for place in ("site-packages/handful", "src/other", "lib/handful"):
        monkeypatch.setattr(_two_point, "PACKAGE", tmp_path / place)
        assert "part of the source checkout" in said(capsys, "diggan/two-point", code=1) and not (tmp_path / "ran").exists()
    monkeypatch.setattr(_two_point, "PACKAGE", tmp_path / "src" / "handful")
    planted.rename(planted.with_name("another"))
    assert "examples/two_point" in said(capsys, "diggan/two-point", code=1)


def test_waiting_rows_say_so(capsys):
    assert reproduce("diffaugment/4") == 0
    assert capsys.readouterr().out.count("waits for transfer learning") == 30
    line = said(capsys, "diffaugment/4", "--row", "FreezeD", "--data-set", "100-shot-panda")
    assert "'FreezeD' waits for transfer learning" in line


# ------------------------------------------------------------------------------------------------------------------- wrong use


def test_what_is_unknown_is_named_with_the_nearest(capsys):
    assert "unknown table 'diffaugment/7'; did you mean 'diffaugment/" in said(capsys, "diffaugment/7")
    assert "unknown table 'digan'; did you mean 'diggan'" in said(capsys, "digan")
    assert "has no row 'BigGAM'; did you mean 'BigGAN'?" in said(capsys, "diggan/1", "--row", "BigGAM")
    assert "has 3 columns; name one with --data-set: CIFAR-10 100%;" in said(capsys, "diggan/1", "--row", "BigGAN")
    assert "no column 'CIFAR-10 5%'" in said(capsys, "diggan/1", "--row", "BigGAN", "--data-set", "CIFAR-10 5%")
    assert "'diggan' has several tables" in said(capsys, "diggan", "--row", "BigGAN")
    assert "name its table too" in said(capsys, "--row", "BigGAN")


def test_data_that_must_be_given_is_named(capsys):
    line = said(capsys, "fastgan/2", "--row", "Ours", "--data-set", "100-shot-panda")
    assert "trained on 100-shot-panda (the 100 pictures of 256 pixels that came with DiffAugment)" in line and "--data DATA" in line
    line = said(capsys, "diffaugment/2", "--row", "BigGAN", "--data-set", "ImageNet 100%", "--data", ".")
    assert "scored against the validation images of ImageNet" in line and "--against DATA" in line
    assert "isn't a score of pictures" in said(capsys, "fastgan/1", "--row", "Ours", "--data-set", "256x256", "--data", ".")
    for row in _tables.rows():
        assert row.source or row.waits or row.what or row.table in ("stylegan2-ada/cost", "fastgan/1"), row


def test_numbers_out_of_range_are_refused(capsys):
    row = ("diggan/1", "--row", "BigGAN", "--data-set", "CIFAR-10 10%")
    assert "--scale 2: give a share" in said(capsys, *row, "--scale", "2")
    assert "--samples 50" in said(capsys, *row, "--samples", "50")


# ------------------------------------------------------------------------------------------------------------------- shortening


def test_what_a_shorter_schedule_scales_and_what_it_leaves():
    full = _job.configured("biggan_cifar", ("terms.lecam.weight=0.3", "optim_g.warmup_kimg=100"))
    short = _job.configured("biggan_cifar", ("terms.lecam.weight=0.3", "optim_g.warmup_kimg=100", *_job.shortened(full, 0.01)))
    assert short.train.kimg == 500 and short.ema.start_kimg == 2 and short.ema.decay == pytest.approx(0.9999 ** 100)
    shortest = _job.configured("biggan_cifar", ("terms.lecam.weight=0.3", *_job.shortened(full, 0.0004)))
    assert shortest.terms["lecam"].kwargs["start"] == 0                    # not the published 1000, which lie beyond its end
    assert short.terms["lecam"].kwargs["start"] == 10 and short.evaluate.every_kimg == 8 and short.optim_g.warmup_kimg == 1
    assert (short.train.batch, short.train.d_steps, short.optim_g.lr, short.optim_d) == (50, 4, 2e-4, full.optim_d)
    assert short.every.checkpoint_kimg == 8 and short.every.log_kimg == 5                # not each 40 images
    assert _job.shortened(full, 1) == ()


def test_a_shorter_run_measures_standing_statistics_on_fewer_batches():
    full = _job.configured("biggan_imagenet", ())
    batches = {scale: _job.configured("biggan_imagenet", _job.shortened(full, scale)).ema.standing_batches for scale in (1, 0.1, 0.01, 1e-4)}
    assert batches == {1: 3200, 0.1: 320, 0.01: 32, 1e-4: 8}
    assert not any("standing" in line for line in _job.shortened(_job.configured("biggan_cifar", ()), 0.1))


def test_the_average_of_a_shorter_run_reaches_as_far_back_in_its_share():
    ada = _job.configured("cifar", _job.shortened(_job.configured("cifar", ()), 0.1))
    assert (ada.ema.halflife_kimg, ada.ema.rampup, ada.terms["ada_controller"].kwargs["kimg"]) == (50, 0.05, 50)
    line = ("terms.ada_controller.statistic=linear", "terms.ada_controller.length_kimg=10000")
    ada = _job.configured("insgen256", (*line, *_job.shortened(_job.configured("insgen256", line), 0.01)))
    assert ada.train.kimg == ada.terms["ada_controller"].kwargs["length_kimg"] == 100           # p still reaches its target at the end
    sngan = _job.configured("sngan_cifar", _job.shortened(_job.configured("sngan_cifar", ()), 0.1))
    assert sngan.optim_d.decay_from_kimg == 0 and sngan.train.kimg == 3200 and sngan.ema.decay == 0


def test_another_number_of_samples_is_another_protocol():
    assert _job.metric_of("fid10k_test", 2000) == "fid2k_test" and _job.metric_of("is10k", 1000) == "is1k"
    assert _job.metric_of("pr50k3_full/recall", 5000) == "pr5k3_full" and _job.metric_of("fid", 2000) == "fid"
    assert _job.metric_of("fid10k_test", None) == "fid10k_test"


# ------------------------------------------------------------------------------------------------------------- from start to end

ROW = ("diffaugment/99", "--row", "ours", "--device", "cpu")


def test_a_row_is_trained_scored_and_put_beside_the_published_figure(noise, capsys):
    assert reproduce(*ROW, "--scale", "0.1") == 0
    text = capsys.readouterr().out
    assert "differs from the published run: train.kimg 0.8 -> 0.08" in text and "terms.lecam.start 500 -> 50" in text
    path, = Path("runs/reproduce").rglob("result.json")
    facts = json.loads(path.read_text())
    first, second = facts["records"]
    assert f"level {first['value']:.4g}, published 128" in text and str(path) in text
    assert first["share"] == pytest.approx(0.1) and first["published"] == 128 and first["seed"] == 0 and first["table"] == "diffaugment/99"
    assert "10% of the published schedule" in first["note"] and "as in the paper" in first["note"] and "8 samples against" in first["note"]
    assert second["value"] == pytest.approx(2000 * first["value"])                       # of the same pictures, in the table's unit
    assert 0 < first["value"] < 255
    assert run(group, first["command"].split("handful ")[1].replace("'", "").split(" --row")[0].split()) == 0     # names a table that is there
    assert capsys.readouterr().out.count("10% of the schedule") == 2                     # both figures of the row; not the other rows


def test_measured_figures_stand_in_every_table_with_that_setting(noise, capsys, monkeypatch):
    assert reproduce(*ROW) == 0
    done = capsys.readouterr().out
    assert "differs" not in done
    assert reproduce("diffaugment/98") == 0
    line, = (x for x in capsys.readouterr().out.splitlines() if x.startswith("  the same"))
    value = json.loads(next(Path("runs/reproduce").rglob("result.json")).read_text())["records"][0]["value"]
    assert f"level {value:.4g}" in line and "%" not in line.split("level")[2]
    monkeypatch.setattr(_run, "train", None)
    monkeypatch.setattr(_run, "evaluate", None)
    assert reproduce("diffaugment/98", "--row", "the same", "--device", "cpu") == 0         # nothing is trained or scored again
    assert f"level {value:.4g}, published 128" in capsys.readouterr().out
    tables = {r["table"] for r in json.loads(next(Path("runs/reproduce").rglob("result.json")).read_text())["records"]}
    assert tables == {"diffaugment/98", "diffaugment/99"}
    assert len(list(Path("runs/reproduce").iterdir())) == 1


def test_a_stopped_run_is_gone_on_with_by_the_same_command(noise, capsys, monkeypatch):
    """Stopped after 5 of 10 iterations, then finished: the weights and the figure of a run without a stop."""
    step = Trainer.step

    def stops(trainer):
        step(trainer)
        if trainer.iteration == 5:
            signal.raise_signal(signal.SIGINT)

    line = (*ROW, "--scale", "0.1")
    monkeypatch.setattr(Trainer, "step", stops)
    assert reproduce(*line, "--out", "stopped") == 130
    assert "the same command goes on" in capsys.readouterr().out and not list(Path("stopped").rglob("result.json"))
    seen = []
    monkeypatch.setattr(Trainer, "step", lambda trainer: (seen.append(trainer.iteration), step(trainer)))
    assert reproduce(*line, "--out", "stopped") == 0
    assert seen == [5, 6, 7, 8, 9]
    assert reproduce(*line, "--out", "whole") == 0
    values = [[r["value"] for r in json.loads(next(Path(out).rglob("result.json")).read_text())["records"]] for out in ("stopped", "whole")]
    assert values[0] == values[1]


def test_several_seeds_have_a_mean_and_a_deviation(noise, capsys):
    assert reproduce(*ROW, "--scale", "0.05", "--seeds", "2") == 0
    text = capsys.readouterr().out
    found = [json.loads(p.read_text()) for p in sorted(Path("runs/reproduce").rglob("result.json"))]
    values = [f["records"][0]["value"] for f in found]
    assert len(values) == 2 and {f["seed"] for f in found} == {0, 1} and values[0] != values[1]
    assert f"level over 2 seeds: {sum(values) / 2:.4g} +- " in text
    row = _tables.pick(_tables.table("diffaugment/99"), "ours")
    assert "mean of 2 seeds" in _tables.measured(row.targets[0], row, found)


def test_more_settings_are_said_and_marked(noise, capsys):
    assert reproduce(*ROW, "--scale", "0.05", "--set", "loss=hinge") == 0
    text = capsys.readouterr().out
    assert 'loss.use "non_saturating" -> "hinge"' in text and "with loss=hinge" in text
    row = _tables.pick(_tables.table("diffaugment/99"), "ours")
    assert "* (5% of the schedule)" in _tables.measured(row.targets[0], row, _tables.results(Path("runs")))


def test_another_reference_or_other_images_are_said_and_not_taken_for_the_rows(noise, tmp_path, capsys):
    other = picture_folder(tmp_path / "other", 5, classes=2)
    assert reproduce(*ROW, "--scale", "0.05", "--against", str(other)) == 0
    assert f"scored against {other}" in capsys.readouterr().out
    row = _tables.pick(_tables.table("diffaugment/99"), "ours")
    assert _tables.measured(row.targets[0], row, _tables.results(Path("runs"))) == "-"
    assert reproduce(*ROW, "--scale", "0.05") == 0                                       # the same run, scored against the row's own
    assert "5 reals" not in capsys.readouterr().out and len(list(Path("runs/reproduce").iterdir())) == 1
    assert reproduce(*ROW, "--scale", "0.05", "--data", str(other)) == 0
    assert f"trained on {other}" in capsys.readouterr().out
    assert "*" in _tables.measured(row.targets[0], row, _tables.results(Path("runs")))


def test_a_dry_run_trains_nothing(noise, capsys):
    assert reproduce(*ROW, "--dry-run") == 0
    text = capsys.readouterr().out
    assert "here: 0.8 kimg at about" in text and "published cost: a second" in text and not Path("runs").exists()
    assert "has 2 columns" in said(capsys, "diffaugment/99", "--row", "of the second")


def test_a_score_without_its_network_is_said_before_training(monkeypatch, noise, capsys):
    monkeypatch.setattr(_run, "available", lambda name: False)
    only = [dataclasses.replace(t, metric="fid10k_test") for t in made_up(source=str(noise))[:1]]
    monkeypatch.setattr(published, "targets", lambda: only)
    _tables.rows.cache_clear()
    capsys.readouterr()
    assert reproduce(*ROW) == 1
    assert "can be computed without inception; handful weights get inception" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_results_go_into_the_ledger(noise, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import ledger

    assert reproduce(*ROW, "--scale", "0.05") == 0 and reproduce(*ROW) == 0
    for path in Path("runs/reproduce").rglob("result.json"):
        assert ledger.add(path, device="a machine", folder=tmp_path / "records") == [tmp_path / "records/reproduce.jsonl"] * 2
    records = ledger.read(tmp_path / "records")
    assert len(records) == 4 and {r["device"] for r in records} == {"a machine"}
    assert Counter(round(r["share"], 6) for r in records) == {1: 2, 0.05: 2}
    page = ledger.render(records)
    head, _, row, *_ = ([cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|"))
    assert "## diffaugment/99" in page
    assert head[1:] == [name for column in ("KID x1000", "KID x1000, 5% of the schedule", "level", "level, 5% of the schedule")
                        for name in (column, "published")]
    found = {(r["figure"].partition(": ")[2], round(r["share"], 6)): r["value"] for r in records}
    assert row == ["ours, noise 10%", f"{found['KID x1000', 1]:.0f}", "256000", f"{found['KID x1000', 0.05]:.0f}", "256000",
                   f"{found['level', 1]:.4g}", "128", f"{found['level', 0.05]:.4g}", "128"]
    (tmp_path / "result.json").write_text('{"records": [{"figure": 1}]}')
    with pytest.raises(ValueError, match=r"result.json: missing or unknown: value"):
        ledger.add(tmp_path / "result.json", folder=tmp_path / "records")


def test_damaged_results_are_passed_over(noise):
    Path("runs").mkdir()
    (Path("runs") / "result.json").write_text("{")
    assert _tables.results(Path("runs")) == [] and len(_show.table(_tables.table("diffaugment/99"), Path("runs"))) > 5
