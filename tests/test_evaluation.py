"""Scores during a run: the best checkpoint stays and is what people sample from, the budget holds, and D's overfitting is said aloud."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import handful
from handful.errors import HandfulError
from handful.training import evaluation
from handful.training.evaluation import Alarm
from making import picture_folder
from test_run import TINY_SETTINGS, refused

SETTINGS = {**TINY_SETTINGS, "evaluate.metrics": ["kid"], "every.checkpoint_kimg": 0.008, "every.keep_checkpoints": 1, "evaluate.budget": 1,
            "ema.choose": False}                              # these tests count evaluations; the choice at the end makes more (test_ema_choice.py)


@pytest.fixture
def photos():
    return picture_folder(Path("photos"))


@pytest.fixture
def scored(monkeypatch):
    """Scores come from this list in turn; what was asked for is written down. No weights are needed."""
    values, calls = [], []

    def score(model, dataset, metrics, samples, **more):
        assert more["heldout"] is None
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
    assert len([n for n in notes if "in 3 evaluations in a row" in n]) == 1
    assert "kid" in (run.folder / "report.html").read_text()


def test_a_resumed_run_knows_its_best(photos, scored):
    values, _ = scored
    values += [3.0, 1.0, 2.0]
    train(photos, kimg=0.024)
    values += [1.5, 0.5]
    run = handful.train(resume="run", trust=["tiny", "test_evaluation"], kimg=0.04, device="cpu", quiet=True)
    assert run.model().images_seen == 40 and json.loads((run.folder / "checkpoints" / "index.json").read_text())["value"] == 0.5


def test_a_higher_score_can_be_better(photos, scored):
    values, _ = scored
    values += [0.1, 0.3, 0.15]
    run = train(photos, kimg=0.024, **{"evaluate.metrics": ["precision"]})
    assert run.model().images_seen == 16


def test_scores_keep_to_their_share_of_the_time(photos, scored, monkeypatch):
    values, calls = scored
    values += [1.0] * 5
    monkeypatch.setattr(evaluation.Evaluation, "_expected", lambda self: 1e6)
    run = train(photos)
    assert not calls and any("no scores in so short a run: handful evaluate run" in line.get("note", "") for line in run.log())
    assert run.model().images_seen == 40                                     # without a best, the last


def test_a_score_that_fails_costs_no_run(photos, scored, monkeypatch):
    def fails(*args, **more):
        raise HandfulError("too few images")

    monkeypatch.setattr(evaluation, "evaluate", fails)
    run = train(photos)
    said = [line["note"] for line in run.log() if "no scores from" in line.get("note", "")]
    assert run.finished and said == ["no scores from 8 images on: too few images"]


def test_a_metric_that_fails_leaves_the_others(photos, scored, monkeypatch):
    """It is said once; the next one chooses the best from there on, against its own value of the checkpoint that is the best so far."""
    tried, failing = [], {}
    kid, fid = {8: 3.0, 16: 1.0}, {8: 20.0, 16: 30.0, 24: 25.0, 32: 40.0}

    def score(model, dataset, metrics, samples, **more):
        tried.append(metrics := list(metrics))
        if model.images_seen >= failing.get("from", 24) and "kid" in metrics:
            raise ValueError("the numbers are odd\nand more")
        return {m: {"value": {"kid": kid, "fid": fid}[m][model.images_seen], "protocol": "as told"} for m in metrics}

    monkeypatch.setattr(evaluation, "evaluate", score)
    run = train(photos, kimg=0.032, **{"evaluate.metrics": ["kid", "fid"]})
    assert tried == [["kid", "fid"], ["kid", "fid"], ["kid", "fid"], ["kid"], ["fid"], ["fid"]]
    said = [line["note"] for line in run.log() if line.get("note", "").startswith("no ")]
    assert said[0] == "no kid from 24 images on: the numbers are odd; fid chooses the best checkpoint now" and "no kid" not in "".join(said[1:])
    assert json.loads((run.folder / "checkpoints" / "index.json").read_text()) == {
        "last": "000000032.pt", "best": "000000024.pt", "metric": "fid", "value": 25.0}
    assert len(run.metrics()) == 6 and run.model().images_seen == 24
    failing["from"] = 0                                                      # and with the last of them, the last checkpoint
    run = handful.train(photos, "fastgan64_narrow", "other", 0.016, res=16, batch=4, device="cpu", quiet=True,
                        settings=SETTINGS | {"evaluate.metrics": ["kid"]})
    assert run.finished and run.model().images_seen == 16


def test_what_an_evaluation_will_cost_leaves_known_reals_out(photos, monkeypatch):
    from handful.metrics import _session
    from making import noise_set, tiny_trainer
    from test_evaluate import Projection

    monkeypatch.setenv("HANDFUL_CACHE", str(Path("cache").resolve()))
    monkeypatch.setattr(evaluation, "available", lambda name: True)
    monkeypatch.setattr(_session, "pretrained", lambda name, device, **kw: Projection())
    monkeypatch.setattr(evaluation, "_sec", lambda run: run() is None or 16.0)               # a second a picture made, and one looked at
    trainer = tiny_trainer("evaluate.metrics=kid,fid", "evaluate.samples=50", dataset=noise_set(24))
    log = type("Log", (), {"say": lambda *a: None, "stage": lambda *a: None, "score": lambda *a: None})()
    scores = evaluation.Evaluation(trainer, Path("run"), log)
    assert scores._expected() == 50 + (50 + 24)
    scores.score(handful.infer.model.Model(trainer.nets.G_ema, trainer.config))
    assert scores._expected() == 50 + 50 and 0 < scores._reals_sec < trainer.scored_sec
    assert scores.last == pytest.approx(trainer.scored_sec - scores._reals_sec)              # the next one, too, finds them


def test_missing_weights_are_said_before_the_run_or_once(photos, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "available", lambda name: False)
    tiny = ["train", str(photos), "--res", "16", "--device", "cpu", "--recipe", "fastgan64_narrow", "--set", "g=tiny:TinyG", "--set", "d=tiny:TinyD"]
    line = refused(capsys, *tiny, "--set", 'evaluate.metrics=["kid"]', code=1)
    assert "evaluate.metrics=kid: the network 'inception' isn't here; handful weights get inception" in line and not Path("runs").exists()
    run = train(photos, kimg=0.008, **{"evaluate.metrics": None})
    assert [line["note"] for line in run.log() if "weights get" in line.get("note", "")] == [
        "no scores during the run: the network of kid isn't here; once: handful weights get inception"]
    assert "unknown metric 'kit'; did you mean 'kid'?" in refused(capsys, *tiny, "--set", 'evaluate.metrics=["kit"]')


def watched_trainer(controller: str = "ada_controller", heldout: str = "heldout_logits"):
    """A trainer whose D is watched by both terms that know a sign of overfitting, under these names."""
    from making import noise_set, tiny_trainer

    return tiny_trainer("data.holdout=0.25", f"terms.{controller}.use=ada_controller", f"terms.{controller}.kimg=1e9",
                        f"terms.{controller}.start=null", f"terms.{heldout}.use=heldout_logits", f"terms.{heldout}.every=1",
                        dataset=noise_set(24), augment={"use": "ada", "p": 0.1})


@pytest.mark.parametrize("names", [("ada_controller", "heldout_logits"), ("mine", "unseen")])
@pytest.mark.parametrize("logged, says", [
    ({"d/logits_real": 2.0, "d/heldout_logits/logits": -1.5, "d/logits_fake": -2.0}, "judges held-out images"),
    ({"d/logits_real": 2.0, "d/heldout_logits/logits": 1.0, "d/logits_fake": -2.0}, ""),
    ({"d/logits_real": 2.0, "d/logits_fake": -2.0}, None),
    ({"d/ada_controller/sign": 0.97, "d/ada_controller/p": 0.4}, "r_t is above 0.95"),
    ({"d/ada_controller/sign": 0.97, "d/ada_controller/p": 0.0}, None)])
def test_what_counts_as_overfitting(names, logged, says):
    logged = {renamed(k, names): v for k, v in logged.items()}
    found = watched_trainer(*names).overfitting(logged)
    assert found is says or says in found and bool(found) == bool(says)


def renamed(text: str, names: tuple[str, str]) -> str:
    return text.replace("ada_controller", names[0]).replace("heldout_logits", names[1])


def test_every_run_logs_how_far_d_overfits(tmp_path):
    """r_t is the mean sign of D's logits on reals, as the controller of ADA counts it; r_v the ratio of means, where held-out images were seen."""
    from handful.training import log as log_module
    from handful.training.report import main_charts
    from making import noise_set, run_steps, tiny_trainer, weights

    plain_trainer = tiny_trainer("data.holdout=0.25", dataset=noise_set(24), augment={"use": "ada", "p": 0.1})
    trainers = [run_steps(t, 5) for t in (plain_trainer, watched_trainer())]
    plain, watched = (t.take_log() for t in trainers)
    for name in ("G", "D", "G_ema"):
        a, b = (getattr(t.nets, name).state_dict() for t in trainers)
        assert all(torch.equal(v, b[k]) for k, v in a.items())               # whoever watches moves nothing
    assert plain["d/r_t"] == watched["d/r_t"] == pytest.approx(watched["d/ada_controller/sign"]) and -1 <= plain["d/r_t"] <= 1
    assert weights(trainers[0]).isfinite().all() and not any("heldout" in k for k in plain)
    said = [plain, {"d/logits_real": 2.0, "d/heldout_logits/logits": 0.5, "d/logits_fake": -1.0, "d/r_t": 0.7},
            {"d/logits_real": -2.0, "d/heldout_logits/logits": 0.5, "d/logits_fake": -1.0}]
    with log_module.Log(tmp_path, total_images=100, quiet=True) as log:
        for images, values in zip((40, 80, 90), said):
            log.write(images, values | trainers[1].derived(values))
    lines = log_module.read(tmp_path / "log.jsonl")
    assert [line.get("d/r_v") for line in lines] == [None, 0.5, None]       # (2 - 0.5) / (2 + 1)
    curves = {c["title"]: [s["label"] for s in c["series"]] for c in main_charts(lines)}
    assert curves["Overfitting of D: 0 none, 1 complete"] == ["r_t, mean sign on reals", "r_v, by held-out reals"]
    assert not trainers[0].derived(said[1]) and trainers[1].derived(watched).get("d/r_v", 0.0) == pytest.approx(
        (watched["d/logits_real"] - watched["d/heldout_logits/logits"]) / (watched["d/logits_real"] - watched["d/logits_fake"])
        if watched["d/logits_real"] > watched["d/logits_fake"] else 0.0)


def test_under_another_name_a_term_is_shown_and_heard_the_same(photos):
    """Log, progress line, alarm, report and what may change on resume know no term by its name."""
    from handful.training.report import chart_titles, main_charts

    found = []
    for controller, heldout in (("ada_controller", "heldout_logits"), ("mine", "unseen")):
        back = {controller: "ada_controller", heldout: "heldout_logits"}
        settings = SETTINGS | {"evaluate.metrics": [], "augment": "ada", "data.holdout": 0.25, "terms.heldout_logits": None, "train.threads": 1,
                               f"terms.{controller}": {"use": "ada_controller", "kimg": 0.1, "interval": 1},
                               f"terms.{heldout}": {"use": "heldout_logits", "every": 1}}
        run = handful.train(photos, "fastgan64_narrow", controller, 0.04, res=16, batch=4, device="cpu", settings=settings, quiet=True)
        log = [{"/".join(back.get(part, part) for part in k.split("/")): v for k, v in line.items()
                if k not in ("sec", "images_per_sec", "memory_gb", "note", "machine")} for line in run.log()]
        titles = chart_titles(json.loads((run.folder / "config.json").read_text()))
        charts = {c["title"]: [s["label"] for s in c["series"]] for c in main_charts(run.log(), titles)}
        trainer = watched_trainer(controller, heldout)
        values = {"d/logits_real": 2.0, "d/logits_fake": -2.0, f"d/{heldout}/logits": -1.5, f"d/{controller}/p": 0.25}
        alarm = Alarm(trainer.terms)
        heard = [alarm.look(trainer.overfitting(values)).replace(f"terms.{controller}.", "terms.NAME.") for _ in range(5)]
        longer = handful.train(resume=run.folder, kimg=0.048, quiet=True, settings={f"terms.{controller}.kimg": 0.2}, trust=["tiny"])
        found.append((log, trainer.status(values), trainer.derived(values), heard, charts, longer.finished))
    assert found[0] == found[1]
    assert found[0][1:3] == (["p 0.25"], {"d/r_v": 0.875}) and "terms.NAME.kimg" in found[0][3][-1] and not any(found[0][3][:-1])
    assert "Adaptive strength" in found[0][4] and "held-out reals" in found[0][4]["D's logits"]


def test_the_alarm_is_given_once_when_it_lasts():
    alarm = Alarm({})
    said = [alarm.look("D overfits") for _ in range(4)] + [alarm.look("")] + [alarm.look(line) for _ in range(9) for line in ("D overfits", None)]
    assert [i for i, line in enumerate(said) if line] == [13] and "ada_controller" in said[13]      # stretches that tell nothing don't count


def test_room_for_the_last_score_is_kept(photos, scored, monkeypatch):
    """Before the end an evaluation is made only where one at the end will fit too: the finished model is scored wherever any is."""
    values, calls = scored
    values += [1.0] * 5
    seconds = iter([100.0, 199.0, 201.0, 202.0, 203.0])
    affordable = evaluation.Evaluation.affordable
    monkeypatch.setattr(evaluation.Evaluation, "_expected", lambda self: 10.0)
    monkeypatch.setattr(evaluation.Evaluation, "affordable", lambda self, sec, last: affordable(self, next(seconds), last))
    train(photos, **{"evaluate.budget": 0.1})
    assert [c["images"] for c in calls] == [24, 32, 40]              # a score takes no time here: what is expected of it falls after the first


def test_as_good_within_the_error_and_later_is_better(photos, scored):
    values, _ = scored
    values += [1.0, 1.05, 1.2]
    assert train(photos, kimg=0.024).model().images_seen == 16


def test_without_scores_the_model_is_the_last_again(photos, scored):
    values, _ = scored
    values += [1.0, 3.0, 2.0]
    assert train(photos, kimg=0.024).model().images_seen == 8
    run = handful.train(resume="run", trust=["tiny", "test_evaluation"], kimg=0.04, device="cpu", quiet=True, settings=["evaluate.metrics=[]"])
    assert run.model().images_seen == 40 and any("follows the last checkpoint" in line.get("note", "") for line in run.log())


def test_unseen_images_are_the_held_out_ones(photos, scored, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluation, "evaluate", lambda model, data, *args, heldout, **more: seen.append((len(data), len(heldout))) or {
        "kid1k_test": {"value": 1.0, "protocol": ""}})
    train(photos, kimg=0.008, **{"evaluate.metrics": ["kid1k_test"], "data.holdout": 0.25})
    assert seen == [(9, 3)]
    with pytest.raises(HandfulError, match="kid1k_test is about images that D doesn't train on"):
        handful.train(photos, "fastgan64_narrow", "other", 0.008, res=16, batch=4, device="cpu", quiet=True,
                      settings=SETTINGS | {"evaluate.metrics": ["kid1k_test"]})


def test_the_test_set_that_belongs_to_the_data_is_unseen(photos, scored, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluation, "test_of", lambda path: "photos:test")
    monkeypatch.setattr(evaluation, "evaluate", lambda model, data, *args, heldout, **more: seen.append(heldout) or {
        "kid1k_test": {"value": 1.0, "protocol": ""}})
    loads, tests = [], object()
    monkeypatch.setattr(evaluation, "load_data", lambda path, **how: loads.append((path, how["resolution"])) or tests)
    train(photos, kimg=0.016, **{"evaluate.metrics": ["kid1k_test"], "every.checkpoint_kimg": 0.008, "evaluate.budget": 1.0})
    assert set(seen) == {tests} and loads == [("photos:test", 16)]                # read once, however often it is scored


def test_ctrl_c_does_not_wait_for_a_score(photos, scored, monkeypatch):
    import os
    import signal

    def slow(*args, progress, **more):
        os.kill(os.getpid(), signal.SIGINT)
        for i in range(1000):
            progress("sampling", i, 1000, None)
        raise AssertionError("it went on")

    monkeypatch.setattr(evaluation, "evaluate", slow)
    run = train(photos)
    assert not run.finished and run.model().images_seen == 8


# --------------------------------------------------------------------------------------------------------------- evaluate.stop


@pytest.mark.parametrize("values, patience, after, reason", [
    ([3, 2, 1, 2, 2, 2], 3, 0, "{metric} has not improved in 3 evaluations (best 1 after 3 images)"),
    ([3, 2, 1, 2, 2], 3, 0, ""), ([3, 2, 1, 2, 2, 1.05, 2, 2], 3, 0, ""),                              # within 0.1 of the best is as good
    ([1, 1.05, 1.09, 1.15, 1.15, 1.15], 3, 0, "{metric} has not improved in 3 evaluations (best 1 after 1 images)"),
    ([1, 2, 2, 2, 2, 2], 3, 3, "{metric} has not improved in 3 evaluations (best 1 after 1 images)"), ([1, 2, 2, 2, 2, 2], 3, 4, ""),
    ([2, -1, 2, 2], 2, 0, "{metric} has not improved in 2 evaluations (best -1 after 2 images)"), ([], 1, 0, ""), ([1], 1, 0, "")])
def test_when_the_scores_end_a_run(values, patience, after, reason):
    found = [(i + 1, v, 0.1, False) for i, v in enumerate(values)]
    assert evaluation.stop_reason(found, True, patience, after) == reason
    other = [(images, -v, error, copied) for images, v, error, copied in found]
    assert bool(evaluation.stop_reason(other, False, patience, after)) == bool(reason)


@pytest.mark.parametrize("copied, after, ends", [("nncc", 0, True), ("ccnc", 0, False), ("nnnc", 0, False), ("nccn", 0, False), ("cccc", 3, False),
                                                 ("cccc", 2, True)])
def test_when_copies_end_a_run(copied, after, ends):
    found = [(i + 1, 1.0 - i, 0.0, c == "c") for i, c in enumerate(copied)]                            # they score well
    assert ("look like copies of training images" in evaluation.stop_reason(found, True, 5, after)) == ends


STOP = {"evaluate.stop": "auto", "evaluate.patience": 2, "evaluate.budget": None, "train.threads": 1}


def ends(run) -> list[str]:
    return [line["note"] for line in run.log() if line.get("note", "").startswith("ended after")]


def without_copies(run) -> list[tuple]:
    return [(m["images"], m["metric"], m["value"]) for m in run.metrics() if m["metric"] != "copies"]


def test_a_run_ends_when_its_scores_no_longer_improve_and_can_go_on(photos, scored, capsys):
    values, calls = scored
    values += [3.0, 1.0, 2.0, 2.0]
    run = train(photos, kimg=0.08, **STOP)
    assert run.finished and [c["images"] for c in calls] == [8, 16, 24, 32] and run.model().images_seen == 16
    assert ends(run) == ["ended after 32 of 80 images: kid has not improved in 2 evaluations (best 1 after 16 images); to go on: "
                         "handful train --resume run --kimg 0.08"]
    again = lambda **more: handful.train(resume="run", trust=["tiny", "test_evaluation"], device="cpu", quiet=True, **more)
    assert again().finished and len(calls) == 4 and len(ends(again())) == 3          # it is done, and says so
    handful.train(photos, "fastgan64_narrow", "run", 0.08, res=16, batch=4, device="cpu", quiet=True, settings=SETTINGS | STOP, resume="auto",
                  trust=["tiny", "test_evaluation"])
    assert len(calls) == 4                                                           # a cluster's line is always the same
    values += [2.0, 0.5, 2.0, 2.0]
    run = again(kimg=0.08)                                                           # counts anew, against the best of all
    assert [c["images"] for c in calls] == [8, 16, 24, 32, 40, 48, 56, 64] and run.model().images_seen == 48
    values += [2.0, 2.0]
    assert again(settings={"evaluate.stop": None}).finished and [c["images"] for c in calls][-2:] == [72, 80]


def test_in_python_and_by_the_command(photos, scored):
    values, _ = scored
    values += [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    run = handful.train(photos, "fastgan64_narrow", "run", 0.08, res=16, batch=4, device="cpu", quiet=True, stop="auto",
                        settings=SETTINGS | {"evaluate.budget": None})
    assert run.config().evaluate.stop == "auto" and run.config().evaluate.patience == 5 and without_copies(run)[-1][0] == 48
    from runs import command

    values += [1.0, 2.0]
    assert command("train", photos, "--out", "other", "--recipe", "run/config.json", "--kimg", "0.08", "--device", "cpu", "--stop", "auto",
                   "--set", "evaluate.patience=1") == 0
    assert json.loads(Path("other/config.json").read_text())["evaluate"]["stop"] == "auto"
    assert sorted(p.name for p in Path("other/checkpoints").glob("*.pt")) == ["000000008.pt", "000000016.pt"]


def test_the_rule_goes_on_where_it_was(photos, scored, monkeypatch):
    """Stopped in the middle of an evaluation, killed before one: the run ends where it would have, with the same weights."""
    from runs import same, tensors

    values, calls = scored
    values += [3.0, 1.0, 2.0, 2.0]
    train(photos, kimg=0.08, **STOP)
    Path("run").rename("straight")
    score = evaluation.evaluate

    def stopped(model, *args, **more):
        if model.images_seen == 24:
            raise evaluation.Stopped("stopped")
        return score(model, *args, **more)

    values += [3.0, 1.0]
    monkeypatch.setattr(evaluation, "evaluate", stopped)
    assert not train(photos, kimg=0.08, **STOP).finished
    monkeypatch.setattr(evaluation, "evaluate", score)
    values += [2.0, 2.0]
    run = handful.train(resume="run", trust=["tiny", "test_evaluation"], device="cpu", quiet=True)
    assert run.finished and run.model().images_seen == 16
    torn, straight = tensors(Path("run"), 32), tensors(Path("straight"), 32)
    assert torn["progress"].pop("scored_sec") != straight["progress"].pop("scored_sec") and same(torn, straight)
    assert without_copies(run) == [(8, "kid", 3.0), (16, "kid", 1.0), (24, "kid", 2.0), (32, "kid", 2.0)]


def test_copies_end_a_run_and_are_not_its_best(photos, scored, monkeypatch):
    from handful.metrics import _copies

    values, calls = scored
    values += [3.0, 2.0, 1.0, 0.5]
    monkeypatch.setattr(_copies, "verdict", lambda figures: "copies" if calls[-1]["images"] >= 24 else "none")
    run = train(photos, kimg=0.08, **STOP)
    assert [(m["images"], m["verdict"]) for m in run.metrics() if m["metric"] == "copies"] == [(8, "none"), (16, "none"), (24, "copies"),
                                                                                               (32, "copies")]
    assert run.model().images_seen == 16 and "samples of the last 2 evaluations look like copies of training images" in ends(run)[0]
    assert "copies" in (run.folder / "report.html").read_text()


def test_copies_are_looked_for_where_that_takes_no_longer_than_the_scores(photos, scored, monkeypatch):
    values, _ = scored
    values += [1.0] * 5
    monkeypatch.setattr(evaluation, "COPIES_SEC", 1.0)                               # a pixel: hours
    run = train(photos, **STOP | {"evaluate.budget": 1.0})
    assert not [m for m in run.metrics() if m["metric"] == "copies"]
    assert [n for n in (line.get("note", "") for line in run.log()) if n.startswith("evaluate.stop goes by kid alone: to look for copies")]


def test_the_rule_needs_scores(photos, monkeypatch, capsys):
    tiny = ["train", str(photos), "--res", "16", "--device", "cpu", "--recipe", "fastgan64_narrow", "--set", "g=tiny:TinyG", "--set", "d=tiny:TinyD",
            "--stop", "auto"]
    assert "evaluate.metrics=[] leaves none" in refused(capsys, *tiny, "--set", "evaluate.metrics=[]", code=1)
    monkeypatch.setattr(evaluation, "available", lambda name: False)
    assert "the network of kid isn't here; once: handful weights get inception" in refused(capsys, *tiny, code=1) and not Path("runs").exists()
