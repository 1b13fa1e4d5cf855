"""The end of a run: another average becomes the model where it scores better by more than the standard error, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import handful
from handful.cli import group, run
from handful.errors import HandfulError
from handful.tensors import read_header
from handful.training import ema_choice, evaluation
from making import in_two_processes, picture_folder
from runs import TINY_SETTINGS, same, tensors

SETTINGS = {**TINY_SETTINGS, "evaluate.metrics": ["kid"], "every.checkpoint_kimg": 0.008, "evaluate.every_kimg": 0.04, "evaluate.budget": None,
            "evaluate.samples": 200, "train.threads": 1}
SEC_PER_SAMPLE = 1e-5


@pytest.fixture
def photos():
    return picture_folder(Path("photos"))


class Scores:
    """Stands in for the metric: the recipe's own average scores `own`, a candidate by its weights, so that the same average has the same score.

    calls: what was asked for. act: called with the number of each score of the choice, before it.
    """

    def __init__(self) -> None:
        self.own, self.stderr, self.gain, self.calls, self.act = 1.0, 0.1, 0.5, [], lambda number: None

    def __call__(self, model, dataset, metrics, samples, *, first, progress, **more):
        choosing = first >= ema_choice.FIRST_SEED
        self.calls.append({"images": model.images_seen, "samples": samples, "first": first})
        if choosing:
            self.act(sum(c["first"] >= ema_choice.FIRST_SEED for c in self.calls))
        progress("sampling", 1, 2, 1.0)
        value = self.own
        if choosing and not self._recipes(model):
            value = self.own - self.gain + 1e-3 * float(next(model.generator.parameters()).abs().mean())
        return {name: {"value": value, "stderr": self.stderr, "protocol": "as told"} for name in metrics}

    @staticmethod
    def _recipes(model) -> bool:
        if not (Path("run") / "checkpoints" / f"{model.images_seen:09d}.pt").exists():
            return False
        state = tensors(Path("run"), model.images_seen)["G_ema"]
        return all(torch.equal(p, state[name]) for name, p in model.generator.named_parameters())


@pytest.fixture
def scores(monkeypatch):
    found = Scores()
    monkeypatch.setattr(evaluation, "evaluate", found)
    monkeypatch.setattr(evaluation, "available", lambda name: True)
    monkeypatch.setattr(evaluation.Evaluation, "_expected", lambda self: SEC_PER_SAMPLE * self.samples)
    monkeypatch.setattr(evaluation.Evaluation, "expected", lambda self: SEC_PER_SAMPLE * self.samples)
    monkeypatch.setattr(ema_choice, "SHARE", 1e3)                                    # the time of a tiny run is none
    return found


def train(photos, kimg=0.08, **settings):
    return handful.train(photos, "fastgan64_narrow", "run", kimg, res=16, batch=4, device="cpu", settings=SETTINGS | settings, quiet=True)


def resume(**more):
    return handful.train(resume="run", trust=["tiny", "test_ema_choice"], device="cpu", quiet=True, **more)


def notes(run_) -> list[str]:
    return [line["note"] for line in run_.log() if "average" in line.get("note", "")]


def choice() -> dict:
    return json.loads(Path("run/ema/choice.json").read_text())


def test_another_average_becomes_the_model(photos, scores):
    trained = train(photos)
    found = choice()
    assert found["images"] == 80 and found["chosen"] and found["metric"] == "kid" and found["recipe"] == {"images": 80, "value": 1.0, "stderr": 0.1}
    assert found["candidate"]["value"] < 0.6 and found["seeds"][1] - found["seeds"][0] + 1 == 200
    about, _ = read_header(Path("run/model.safetensors"))
    assert json.loads(about["ema"]) == {"sigma_rel": found["width"], "halflife_kimg": found["halflife_kimg"], "snapshot": found["snapshot"]}
    assert trained.model().images_seen == found["snapshot"]
    assert run(group, ["ema", "run", "--length", f"{found['width']:g}", "--at", str(found["snapshot"]), "--out", "same.safetensors",
                       "--trust", "tiny", "--device", "cpu"]) == 0
    assert same(load_file("same.safetensors"), load_file("run/model.safetensors"))
    said, = notes(trained)
    assert f"the model is the average of a width of {found['width']:.3g}" in said
    assert "and 1 +- 0.1 of the recipe's own average (by 200 samples" in said
    assert json.loads(Path("run/neighbours.json").read_text())["images_seen"] == found["snapshot"]
    before = Path("run/model.safetensors").read_bytes()
    calls = len(scores.calls)
    resume()                                                                         # a run that is done has its choice
    assert len(scores.calls) == calls and Path("run/model.safetensors").read_bytes() == before


def test_few_samples_first_and_more_for_the_best_by_seeds_of_their_own(photos, scores):
    train(photos)
    first, second = choice()["rounds"]
    assert len(first) > 8 and {c["snapshot"] for c in first} == {72, 80} and len({c["width"] for c in first}) >= 4
    assert [c["width"] for c in second] == [c["width"] for c in sorted(first, key=lambda c: c["value"])[:len(first) // 4]]
    assert choice()["width"] == min(second, key=lambda c: c["value"])["width"]
    chosen = [c for c in scores.calls if c["first"] >= 500_000]
    parts = sorted({(c["first"], c["first"] + c["samples"]) for c in chosen})
    assert len(parts) == 3 and parts[0][0] == 500_000 and parts[-1][1] < 1_000_000 and all(a[1] == b[0] for a, b in zip(parts, parts[1:]))
    assert len(chosen) == len(first) + len(second) + 2 and all(50 <= c["samples"] <= 200 for c in chosen)
    assert {c["first"] for c in scores.calls if c not in chosen} == {0}


def test_the_samples_are_those_that_there_is_time_for(photos, scores, monkeypatch):
    monkeypatch.setattr(ema_choice, "SHARE", 0.1)
    monkeypatch.setattr(evaluation.Evaluation, "expected", lambda self: float(self.samples))         # a second a sample
    said, = notes(train(photos))
    assert said.startswith("no average of another length is tried: it takes longer than 10% of the run's ")
    assert said.endswith("; handful ema run --length 0.08 makes any other")
    assert not Path("run/ema/choice.json").exists() and "ema" not in read_header(Path("run/model.safetensors"))[0]
    monkeypatch.setattr(ema_choice, "SHARE", 1e3)
    monkeypatch.setattr(evaluation.Evaluation, "expected", lambda self: SEC_PER_SAMPLE * self.samples)
    resume()                                                                         # whoever has more time then
    assert choice()["chosen"]


def test_the_plan_keeps_to_its_time():
    """At a cost of 0.1 s a sample and 1 s a candidate, whatever is planned in a round costs no more than the time it was given."""
    made = ema_choice._Choice.__new__(ema_choice._Choice)
    made.trainer, made.sec, made.slower = SimpleNamespace(world=1), 6000, 1.0
    made.evaluation = SimpleNamespace(samples=1000)
    for sec, models, slower in ((200, 12, 1.0), (200, 3, 2.0), (2000, 2, 0.5)):
        made.slower = slower
        n = made._samples(sec, models, 1.0, 0.1)
        assert made._cost(n, models, 1.0, 0.1) <= sec and (n == 1000 or made._cost(n + 1, models, 1.0, 0.1) > sec)
    made.slower = 1.0
    with pytest.raises(HandfulError, match="it takes longer than 10% of the run's 1 h 40 min"):
        made._samples(60, 12, 1.0, 0.1)


@pytest.mark.parametrize("gain, stderr, chosen", [(0.5, 0.6, False), (0.5, 0.4, True), (-0.5, 0.1, False), (float("nan"), 0.1, False)])
def test_within_the_error_the_recipes_own_stays(photos, scores, gain, stderr, chosen):
    scores.gain, scores.stderr = gain, stderr
    trained = train(photos)
    assert choice()["chosen"] is chosen and ("ema" in read_header(Path("run/model.safetensors"))[0]) is chosen
    if not chosen:
        assert same(load_file("run/model.safetensors"), dict(tensors(Path("run"), 80)["G_ema"])) and trained.model().images_seen == 80
        assert notes(trained)[0].startswith("the recipe's own average stays the model: kid 1 +- ")


def test_the_training_is_that_of_a_run_without(photos, scores):
    train(photos)
    Path("run").rename("with")
    train(photos, **{"ema.choose": False})
    with_, without = tensors(Path("with"), 80), tensors(Path("run"), 80)
    state = lambda found: {k: v for k, v in found.items() if k not in ("power_ema", "progress")}
    assert same(state(with_), state(without))
    assert not Path("run/ema").exists() and not any(c["first"] for c in scores.calls[-2:])


def test_without_scores_nothing_is_chosen(photos, scores):
    trained = train(photos, **{"evaluate.metrics": []})
    said, = notes(trained)
    assert said == "no average of another length is tried: there are no scores to choose by; handful ema run --length 0.08 makes any other"
    assert not scores.calls and 80 in {int(p.stem) for p in Path("run/ema").glob("0*.safetensors")}


def test_a_protocol_that_fixes_its_samples_is_not_tried_by_fewer(photos, scores):
    said, = notes(train(photos, **{"evaluate.metrics": ["kid5k_full"]}))
    assert "kid5k_full takes 5000 samples and can't be tried by fewer" in said


def test_a_failure_costs_no_run(photos, scores):
    def fails(number: int) -> None:
        if number == 3:
            raise ValueError("the numbers are odd")

    scores.act = fails
    trained = train(photos)
    assert trained.finished and notes(trained)[0].startswith("no average of another length is tried: the numbers are odd; handful ema")
    assert same(load_file("run/model.safetensors"), dict(tensors(Path("run"), 80)["G_ema"]))


@pytest.mark.parametrize("at", [1, 7])
def test_stopped_in_the_middle_a_resume_makes_up_for_it(photos, scores, at):
    scores.act = lambda number: os.kill(os.getpid(), signal.SIGINT) if number == at else None
    assert not train(photos).finished and not Path("run/ema/choice.json").exists() and not ema_choice.is_chosen(Path("run"))
    scores.act = lambda number: None
    state = tensors(Path("run"), 80)
    assert resume().finished and choice()["chosen"] and ema_choice.is_chosen(Path("run")) and same(tensors(Path("run"), 80), state)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fork")
@pytest.mark.parametrize("before", ["model.safetensors", "choice.json"])
def test_killed_before_it_is_written_a_resume_makes_up_for_it(photos, scores, monkeypatch, before):
    train(photos)
    wanted, model = load_file("run/model.safetensors"), Path("run/model.safetensors")
    for path in (model, Path("run/ema/choice.json"), Path("run/neighbours.json")):
        path.unlink()
    replace = os.replace
    child = os.fork()
    if child == 0:
        os.replace = lambda a, b: os._exit(9) if Path(b).name == before else replace(a, b)
        resume()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert model.exists() == (before == "choice.json")
    resume()
    assert choice()["chosen"] and same(load_file("run/model.safetensors"), wanted) and Path("run/neighbours.json").exists()
    assert not list(Path("run").rglob("*.tmp"))


def test_a_run_that_goes_on_chooses_again(photos, scores):
    train(photos, kimg=0.076, **{"evaluate.every_kimg": 0.01})
    assert choice()["images"] == 76 and ema_choice.is_chosen(Path("run")) and Path("run/ema/000000076.safetensors").exists()
    scores.gain = -0.5
    trained = resume(kimg=0.092)
    assert choice()["images"] == 92 and not choice()["chosen"] and not ema_choice.is_chosen(Path("run"))
    assert not Path("run/ema/000000076.safetensors").exists()
    best = trained.model().images_seen                                               # the last evaluation: all score the same
    assert same(load_file("run/model.safetensors"), dict(tensors(Path("run"), best)["G_ema"]))


def test_the_recipes_own_average_is_that_of_the_best_checkpoint(photos, scores):
    """It is compared, and it is the model where it wins; candidates end near it too."""
    values = iter([0.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    call = Scores.__call__

    def scored(self, *args, first, **more):
        if first < ema_choice.FIRST_SEED:
            self.own = next(values)
        return call(self, *args, first=first, **more)

    scores.__class__ = type("Scores", (Scores,), {"__call__": scored})
    scores.gain = -1.0
    train(photos, **{"evaluate.every_kimg": 0.024})
    found = choice()
    assert found["recipe"]["images"] == 24 and not found["chosen"] and {c["snapshot"] for c in found["rounds"][0]} == {24, 72, 80}
    assert same(load_file("run/model.safetensors"), dict(tensors(Path("run"), 24)["G_ema"]))


SCRIPT = '''
import sys
from pathlib import Path
import torch.distributed as dist
import handful
from handful.training import ema_choice, evaluation, run as run_module

def score(model, dataset, metrics, samples, *, first, progress, **more):
    import torch
    flat = torch.cat([p.flatten() for p in model.generator.parameters()]).double().sum()
    both = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(both, flat)
    assert torch.equal(*both), "the processes score other weights"
    return {name: {"value": float(flat.abs()) if first < 500000 else -float(flat.abs()), "stderr": 0.0, "protocol": ""} for name in metrics}

evaluation.evaluate, evaluation.available = score, lambda name: True
evaluation.Evaluation._expected = evaluation.Evaluation.expected = lambda self: 1e-3
ema_choice.SHARE = 1e3
out = Path(sys.argv[1])
run = handful.train(out / "photos", "fastgan64_narrow", out / "run", 0.08, res=16, batch=4, device="cpu", quiet=True, settings={
    "g": "tiny:TinyG", "d": "tiny:TinyD", "terms": {}, "loss": "hinge", "every.preview_images": 4, "every.checkpoint_kimg": 0.008,
    "evaluate.metrics": ["kid"], "evaluate.every_kimg": 0.04, "evaluate.budget": None, "train.threads": 1})
assert run.finished
dist.barrier()
'''


def test_two_processes_choose_together(tmp_path):
    picture_folder(tmp_path / "photos")
    (tmp_path / "script.py").write_text(SCRIPT)
    in_two_processes(str(tmp_path / "script.py"), tmp_path, PYTHONPATH=str(Path(__file__).parent))
    found = json.loads((tmp_path / "run/ema/choice.json").read_text())
    assert found["images"] == 80 and len(found["rounds"]) == 2
    assert found["chosen"] == ("ema" in read_header(tmp_path / "run/model.safetensors")[0])
    assert found["seeds"][0] > 500_000
