"""Scores during a run: the best checkpoint stays and is what people sample from, the budget holds, and D's overfitting is said aloud."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import handful
from handful.errors import HandfulError
from handful.train import evaluation
from handful.train.evaluation import Alarm, overfitting
from making import picture_folder
from test_run import TINY_SETTINGS, refused

SETTINGS = {**TINY_SETTINGS, "evaluate.metrics": ["kid"], "every.checkpoint_kimg": 0.008, "every.keep_checkpoints": 1, "evaluate.budget": 1}


@pytest.fixture
def photos():
    return picture_folder(Path("photos"))


@pytest.fixture
def scored(monkeypatch):
    """Scores come from this list in turn; what was asked for is written down. No weights are needed."""
    values, calls = [], []

    def score(model, dataset, metrics, samples, **more):
        calls.append({"images": model.images_seen, "metrics": metrics, "samples": samples, "count": len(dataset)})
        more["progress"]("sampling", 1, 2, 1.0)
        return {name: {"value": values.pop(0), "stderr": 0.1, "protocol": "as told"} for name in metrics}

    monkeypatch.setattr(evaluation, "evaluate", score)
    monkeypatch.setattr(evaluation, "available", lambda name: True)
    monkeypatch.setattr(evaluation.Evaluation, "_expected", lambda self: 1e-9)
    return values, calls


def train(photos, kimg=0.04, **settings):
    return handful.train(photos, "fastgan64_narrow", "run", kimg, res=16, batch=4, device="cpu", settings=SETTINGS | settings, quiet=True)


def test_the_best_checkpoint_stays_and_is_the_model(photos, scored):
    values, calls = scored
    values += [3.0, 1.0, 2.0, 4.0, 1.5]
    run = train(photos)
    assert [c["images"] for c in calls] == [8, 16, 24, 32, 40] and all(c["samples"] == 1000 and c["count"] == 12 for c in calls)
    index = json.loads((run.folder / "checkpoints" / "index.json").read_text())
    assert index == {"last": "000000040.pt", "best": "000000016.pt", "metric": "kid", "value": 1.0}
    assert sorted(p.name for p in (run.folder / "checkpoints").glob("*.pt")) == ["000000016.pt", "000000040.pt"]
    assert run.model().images_seen == 16
    assert [(m["images"], m["metric"], m["value"]) for m in run.metrics()] == list(zip([8, 16, 24, 32, 40], ["kid"] * 5, [3.0, 1.0, 2.0, 4.0, 1.5]))
    notes = [line["note"] for line in run.log() if "note" in line]
    assert len([n for n in notes if "has not got better for 3 evaluations" in n]) == 1
    assert "kid" in (run.folder / "report.html").read_text()


def test_a_resumed_run_knows_its_best(photos, scored):
    values, _ = scored
    values += [3.0, 1.0, 2.0]
    train(photos, kimg=0.024)
    values += [1.5, 0.5]
    run = handful.train(resume="run", kimg=0.04, device="cpu", quiet=True)
    assert run.model().images_seen == 40 and json.loads((run.folder / "checkpoints" / "index.json").read_text())["value"] == 0.5


def test_a_higher_score_can_be_better(photos, scored):
    values, _ = scored
    values += [0.1, 0.3, 0.2]
    run = train(photos, kimg=0.024, **{"evaluate.metrics": ["precision"]})
    assert run.model().images_seen == 16


def test_scores_keep_to_their_share_of_the_time(photos, scored, monkeypatch):
    values, calls = scored
    values += [1.0] * 5
    monkeypatch.setattr(evaluation.Evaluation, "_expected", lambda self: 1e6)
    run = train(photos)
    assert not calls and any("scores are thinned out" in line.get("note", "") for line in run.log())
    assert run.model().images_seen == 40                                     # without a best, the last


def test_a_score_that_fails_costs_no_run(photos, scored, monkeypatch):
    def fails(*args, **more):
        raise HandfulError("too few images")

    monkeypatch.setattr(evaluation, "evaluate", fails)
    run = train(photos)
    said = [line["note"] for line in run.log() if "no scores at" in line.get("note", "")]
    assert run.finished and said == ["no scores at 8 images: too few images"]


def test_missing_weights_are_said_before_the_run_or_once(photos, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "available", lambda name: False)
    tiny = ["train", str(photos), "--res", "16", "--device", "cpu", "--recipe", "fastgan64_narrow", "--set", "g=tiny:TinyG", "--set", "d=tiny:TinyD"]
    line = refused(capsys, *tiny, "--set", 'evaluate.metrics=["kid"]', code=1)
    assert "evaluate.metrics=kid: the network 'inception' isn't here; handful weights get inception" in line and not Path("runs").exists()
    run = train(photos, kimg=0.008, **{"evaluate.metrics": None})
    assert [line["note"] for line in run.log() if "weights get" in line.get("note", "")] == [
        "no scores during the run: the network of kid isn't here; once: handful weights get inception"]
    assert "unknown metric 'kit'; did you mean 'kid'?" in refused(capsys, *tiny, "--set", 'evaluate.metrics=["kit"]')


@pytest.mark.parametrize("logged, says", [
    ({"d/logits_real": 2.0, "d/heldout_logits/logits": -1.5, "d/logits_fake": -2.0}, "judges held-out images"),
    ({"d/logits_real": 2.0, "d/heldout_logits/logits": 1.0, "d/logits_fake": -2.0}, ""),
    ({"d/logits_real": 2.0, "d/logits_fake": -2.0}, ""),
    ({"d/ada_controller/sign": 0.97, "d/ada_controller/p": 0.4}, "r_t is above 0.95"),
    ({"d/ada_controller/sign": 0.97, "d/ada_controller/p": 0.0}, "")])
def test_what_counts_as_overfitting(logged, says):
    found = overfitting(logged)
    assert says in found and bool(found) == bool(says)


def test_the_alarm_is_given_once_when_it_lasts():
    alarm, bad = Alarm(), {"d/logits_real": 2.0, "d/heldout_logits/logits": -1.5, "d/logits_fake": -2.0}
    said = [alarm.look(bad) for _ in range(4)] + [alarm.look({})] + [alarm.look(bad) for _ in range(9)]
    assert [i for i, line in enumerate(said) if line] == [9] and "ada_controller" in said[9]
