"""Each paper's own rule of selection: which snapshot a figure is of, how often it was scored, by how many sets of samples, in which precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import handful
from handful.metrics import evaluate
from handful.reproduce import _job, _rules, _run, _show, _tables
from handful.reproduce._job import Job
from handful.training import checkpoint
from making import noise_set, tiny_trainer
from test_evaluate import Projection, tiny_model


def row(table: str, recipe: str | None = None):
    return next(r for r in _tables.rows() if r.table == table and not r.waits and any(t.metric for t in r.targets) and recipe in (None, r.recipe))


@pytest.mark.parametrize("table, recipe, every, sets, each, best", [
    ("fastgan/2", None, 80, 1, False, True), ("stylegan2-ada/7c", None, 200, 1, True, False), ("insgen/1", None, 200, 1, True, False),
    ("diffaugment/1", None, 4000 * 0.2, 5, False, False), ("diffaugment/2", "biggan_imagenet", 2000 * 4.096, 3, False, False),
    ("diggan/1", "biggan_cifar", 4000 * 0.2, 5, False, False), ("diggan/3", "biggan_tiny", 2000 * 1.024, 5, False, False),
    ("diggan/3", "biggan_cub", 2000 * 0.064, 5, False, False)])
def test_the_papers_rules(table, recipe, every, sets, each, best):
    job = Job(row(table, recipe), data="x", device="cpu")
    rule = job.rule
    assert rule.kimg(job.published) == pytest.approx(every) and (rule.sets, rule.each, rule.best_seed) == (sets, each, best)
    config = job.config
    assert config.evaluate.every_kimg == pytest.approx(every) and config.evaluate.budget is None and config.train.precision == "fp32"
    tenth = Job(row(table, recipe), data="x", device="cpu", scale=0.1)
    assert tenth.config.evaluate.every_kimg == pytest.approx(every / 10)              # as many scores of a shorter run


def test_fastgan_is_scored_with_batch_statistics_of_16():
    config = Job(row("fastgan/2"), device="cpu", data="x").config
    assert (config.evaluate.statistics, config.evaluate.together) == ("batch", 16)


def test_precision_is_the_releases_or_said():
    assert _rules.precision("biggan_cifar", "cpu") == _rules.precision("biggan_cifar", "cuda") == ("fp32", "")
    assert _rules.precision("paper256", "cuda") == ("fp16", "")
    assert _rules.precision("paper256", "cpu")[0] == "fp32" and "the release computes in fp16" in _rules.precision("paper256", "cpu")[1]
    assert any("fp16" in line for line in _job.differences(Job(row("stylegan2-ada/7c", "paper256"), data="x", device="cpu")))


def scored(folder: Path, lines: dict[str, dict[int, float]], best: int | None) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    text = [json.dumps({"images": n, "metric": m, "value": v, "better": "higher" if m.startswith("is") else "lower", "protocol": m})
            for m, values in lines.items() for n, v in values.items()]
    (folder / "metrics.jsonl").write_text("\n".join(text) + "\n")
    if best is not None:
        checkpoint.mark_best(folder, folder / "checkpoints" / f"{best:09d}.pt", "fid10k_test", 1.0)


class Made:
    """A job with a folder and a rule."""

    device, modules, seed, key = "cpu", set(), 0, staticmethod(str)

    def __init__(self, folder: Path, rule: _rules.Rule) -> None:
        self.folder, self.rule = folder, rule


LINES = {"fid10k_test": {100: 30.0, 200: 20.0, 300: 25.0}, "is10k": {100: 5.0, 200: 6.0, 300: 7.0}}


def test_each_figure_from_its_own_best(tmp_path, monkeypatch):
    scored(tmp_path / "run", LINES, 200)
    monkeypatch.setattr(_run, "evaluate", lambda *_, **__: pytest.fail("everything was scored during the run"))
    found = _run._figures(Made(tmp_path / "run", _rules.ADA), list(LINES), "x", None, print)
    assert (found["fid10k_test"]["value"], found["is10k"]["value"]) == (20.0, 7.0)
    assert "best is10k, after 300 images" in found["is10k"]["snapshot"]


def test_one_snapshot_serves_all_figures(tmp_path, monkeypatch):
    scored(tmp_path / "run", LINES, 200)
    monkeypatch.setattr(_run, "evaluate", lambda *_, **__: pytest.fail("everything was scored during the run"))
    found = _run._figures(Made(tmp_path / "run", _rules.FASTGAN), list(LINES), "x", None, print)
    assert (found["fid10k_test"]["value"], found["is10k"]["value"]) == (20.0, 6.0)


def test_a_figure_over_sets_of_samples_is_their_mean(tmp_path, monkeypatch):
    scored(tmp_path / "run", LINES, 200)
    firsts = []

    def measured(folder, against, metrics, first, **_):
        firsts.append(first)
        return {m: {"value": 10.0 + len(firsts), "protocol": m} for m in metrics}

    monkeypatch.setattr(_run, "evaluate", measured)
    found = _run._figures(Made(tmp_path / "run", _rules.CIFAR), list(LINES), "x", None, print)
    assert found["is10k"]["value"] == 13.0 and found["is10k"]["sets"] == [11, 12, 13, 14, 15] and found["is10k"]["std"] == pytest.approx(1.5811,
                                                                                                                                         abs=1e-3)
    assert len(set(firsts)) == 5 and min(firsts) >= 10**6                             # none of them chose the snapshot
    assert "the best fid10k_test, after 200 images" in found["is10k"]["snapshot"]


def test_further_sets_are_other_samples_of_the_same_model():
    model = tiny_model()
    reals = noise_set(30)
    net = Projection()
    one, same, other = (evaluate(model, reals, ["kid"], 20, extractor=net, first=n)["kid"]["value"] for n in (0, 0, 500))
    assert one == same and one != other


def test_the_best_of_seeds_counts_where_the_paper_says_so():
    job = type("J", (), {"row": row("fastgan/2"), "rule": _rules.FASTGAN})
    t = job.row.targets[0]
    results = [{"records": [{"table": t.table, "figure": f"{t.row}, {t.data}: {t.figure}", "value": v}]} for v in (30.0, 20.0, 25.0)]
    assert "over 3 seeds: best, as the paper counts, 20; mean 25 +- 5" in _show.over_seeds(job, results)[0]


def test_a_dry_run_says_the_rule_and_what_scoring_costs(capsys, monkeypatch):
    from handful.cli import group, run

    monkeypatch.setattr(_run, "of_noise", lambda *_: None)
    monkeypatch.setattr(_run, "estimate", lambda *_: type("E", (), {"line": "an hour"}))
    assert run(group, ["reproduce", "fastgan/2", "--row", "Ours", "--data-set", "100-shot-panda", "--dry-run", "--device", "cpu", "--scale",
                       "0.001"]) == 0
    said = capsys.readouterr().out
    assert "rule: the snapshot of the best FID on the reals of the figure, as in the paper; scored every 10k iterations" in said
    assert "scoring: " in said


# ------------------------------------------------------------------------------------------------- in a run: which reals, no budget


def test_full_protocols_take_the_whole_set_in_a_run(tmp_path, monkeypatch):
    """Whatever subset is trained on; fid5k_train keeps the training images."""
    from handful.training import evaluation
    from making import picture_folder

    photos = picture_folder(tmp_path / "photos", 20, 16)
    trainer = tiny_trainer(f"data.path={photos}", "data.max_images=8", 'evaluate.metrics=["fid5k_full"]',
                           dataset=handful.data.load(photos, resolution=16, max_images=8))
    monkeypatch.setattr(evaluation, "available", lambda name: True)
    counts = {}
    monkeypatch.setattr(evaluation, "evaluate", lambda model, reals, names, *_, **__: counts.update({n: len(reals) for n in names}) or
                        {n: {"value": 1.0} for n in names})
    log = type("Log", (), {"say": print, "stage": lambda *_: None})
    scores = evaluation.Evaluation(trainer, tmp_path, log)
    scores.metrics |= {name: evaluation.resolve(name) for name in ("fid5k_train", "kid")}
    model = type("Model", (), {"config": trainer.config, "generator": trainer.nets.G})
    scores._evaluated(model, ["fid5k_full", "fid5k_train", "kid"])
    assert counts == {"fid5k_full": 20, "fid5k_train": 8, "kid": 8}
    trainer.config.evaluate.against = str(picture_folder(tmp_path / "others", 11, 16))
    scores._whole = None
    scores._evaluated(model, ["fid5k_full", "fid5k_train", "kid"])
    assert counts == {"fid5k_full": 11, "fid5k_train": 8, "kid": 11}


def test_without_a_budget_every_score_is_affordable(tmp_path, monkeypatch):
    from handful.training import evaluation

    monkeypatch.setattr(evaluation, "available", lambda name: True)
    log = type("Log", (), {"say": print, "stage": lambda *_: None})
    trainer = tiny_trainer('evaluate.metrics=["kid"]', "evaluate.budget=null")
    trainer.scored_sec = 1e9
    assert evaluation.Evaluation(trainer, tmp_path, log).affordable(1.0, False)
    assert torch.get_num_threads() == 1
