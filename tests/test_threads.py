"""The number of threads is part of a run: found out by timing steps, stored, changed at a checkpoint alone, and taken again on resume."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import handful
from handful.training import log, threads
from handful.training.estimate import estimate, of_noise
from handful.training.threads import Watch, best, candidates, fixed, measure, measure_in_place
from handful.training.trainer import Trainer
from making import run_steps, tiny_config, tiny_trainer, weights
from runs import TINY, command, same, tensors


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "usable", lambda: 4)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)


def pretend(sec: dict[int, float], calls: list[int]):
    """A step that takes as long as the number of threads says."""
    def step() -> float:
        calls.append(torch.get_num_threads())
        return sec[torch.get_num_threads()]
    return step


# ------------------------------------------------------------------------------------------------------------- finding out


def test_candidates_are_halves_of_what_a_process_has(four_cores):
    assert candidates() == [4, 2, 1] and candidates(world=2) == [2, 1] and candidates(world=4) == [1]
    torch.set_num_threads(3)
    assert candidates() == [3, 1]


def test_each_is_warmed_up_and_tried_in_turn(four_cores):
    calls: list[int] = []
    found = measure(pretend({4: 1.0, 2: 0.9, 1: 1.2}, calls), seconds=0.001)
    assert found == {4: 1.0, 2: 0.9, 1: 1.2} and best(found) == 2
    assert calls[:6] == [4, 4, 2, 2, 1, 1] and calls[6:12] == [4, 2, 1] * 2


def test_a_hopeless_number_is_left_alone(four_cores):
    calls: list[int] = []
    assert best(measure(pretend({4: 1.0, 2: 1.6, 1: 3.0}, calls), seconds=0.001)) == 4 and 1 not in calls and calls.count(2) == 2
    calls.clear()                                                                    # a busy machine: fewer are many times faster
    assert best(measure(pretend({4: 9.0, 2: 3.0, 1: 1.0}, calls), seconds=0.001)) == 1 and calls.count(4) == 2


def test_more_threads_must_be_clearly_faster():
    assert best({1: 1.0, 2: 0.99}) == 1 and best({1: 1.0, 2: 0.8}) == 2 and best({1: 1.0, 2: 0.8, 4: 0.79}) == 2 and best({4: 1.0}) == 4


def test_what_the_user_fixed_is_not_tried(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert fixed(None) == torch.get_num_threads() and fixed(3) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert fixed(None) is None and fixed(2) == 2


def test_a_watch_asks_after_three_slow_minutes():
    watch = Watch()
    for _ in range(300):
        watch.look(10, 1.0)                                                          # 10 images/s
    assert watch.start == 10 and not watch.due
    for _ in range(170):
        watch.look(5, 1.0)
    assert not watch.due                                                             # 150 s of whole windows
    for _ in range(40):
        watch.look(5, 1.0)
    assert watch.due
    watch.look(300, 30.0)                                                            # one good window ends it
    for _ in range(30):
        watch.look(10, 1.0)
    assert not watch.due
    watch.again(changed=True)                                                        # later it looks whether the machine is free again
    assert not watch.due
    for _ in range(180):
        watch.look(10, 1.0)
    assert watch.due
    slow = Watch(start=100.0)                                                        # of the run's start, not of this session's
    for _ in range(180):
        slow.look(10, 1.0)
    assert slow.due


def test_steps_that_are_timed_in_place_leave_no_trace():
    settings = ("terms.r1.gamma=1", "terms.lecam.weight=0.1")
    one, two = (run_steps(tiny_trainer(*settings), 5) for _ in range(2))
    found = measure_in_place(two)
    assert found and (two.images_seen, two.iteration) == (40, 5) and torch.equal(weights(one), weights(two))
    assert two.take_log() == one.take_log()
    assert torch.equal(weights(run_steps(one, 6)), weights(run_steps(two, 6))) and same(one.state_dict(), two.state_dict())


# ------------------------------------------------------------------------------------------------------------- in a run


def test_a_run_stores_its_number_and_takes_it_again(photos, four_cores, monkeypatch, capsys):
    monkeypatch.setattr(threads, "measure", lambda *_: {4: 1.0, 2: 0.5, 1: 1.0})
    seen = []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self: (seen.append(torch.get_num_threads()) if self.threads else None, step(self)))
    assert command("train", photos, "--out", "run", "--kimg", "0.04", *TINY) == 0
    assert json.loads(Path("run/config.json").read_text())["train"]["threads"] == 2
    assert set(seen) == {2} and "on 2 CPU threads" in capsys.readouterr().out
    assert torch.get_num_threads() == 4                                              # as before the call
    seen.clear()
    assert command("train", "--resume", "run", "--kimg", "0.06", "--device", "cpu") == 0
    assert set(seen) == {2} and "bit for bit" not in capsys.readouterr().out
    seen.clear()
    assert command("train", "--resume", "run", "--kimg", "0.08", "--device", "cpu", "--threads", "1") == 0
    assert set(seen) == {1} and "no longer bit for bit what it would have been: 2 threads until now, 1 from here on" in capsys.readouterr().out
    assert command("train", "--resume", "run", "--kimg", "0.1", "--device", "cpu") == 0
    assert set(seen) == {1}
    monkeypatch.setattr(threads, "measure", lambda *_, **__: pytest.fail("nothing is to be found out"))
    monkeypatch.setattr(Watch, "due", True)                                          # what the user fixed doesn't change, however slow the run is
    assert command("train", photos, "--out", "fixed", "--kimg", "0.1", *TINY, "--threads", "3") == 0
    assert json.loads(Path("fixed/config.json").read_text())["train"]["threads"] == 3


def test_a_run_from_before_takes_torchs_own_number(done, four_cores, monkeypatch, capsys):
    tree = json.loads((done / "config.json").read_text())
    del tree["train"]["threads"]
    (done / "config.json").write_text(json.dumps(tree))
    for path in (done / "checkpoints").glob("*.pt"):
        state = torch.load(path, weights_only=True)
        del state["progress"]["threads"], state["progress"]["world"]
        torch.save(state, path)
    seen, step = [], Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self: (seen.append(torch.get_num_threads()), step(self)))
    capsys.readouterr()
    assert command("train", "--resume", "run", "--kimg", "0.044", "--device", "cpu") == 0
    assert set(seen) == {4} and "bit for bit" not in capsys.readouterr().out
    assert json.loads((done / "config.json").read_text())["train"]["threads"] is None


def test_a_change_is_made_at_a_checkpoint_written_down_and_made_again(photos, four_cores, monkeypatch, capsys):
    """The straight run changes at 32 images; one that was stopped before, one stopped after, and one whose newest checkpoint is damaged do too."""
    monkeypatch.setattr(threads, "measure", lambda *_: {4: 1.0, 2: 1.0, 1: 1.0})
    monkeypatch.setattr(threads, "best", lambda found: min(found, key=lambda n: (found[n], -n)))
    monkeypatch.setattr(threads, "measure_in_place", lambda trainer: {4: 1.0, 2: 0.5})
    due = {"at": 32}
    monkeypatch.setattr(Watch, "due", property(lambda self: due["now"] >= due["at"]))
    step, seen = Trainer.step, {}

    def watched(self):
        if self.threads is not None:
            seen[self.images_seen] = torch.get_num_threads()
        step(self)
        due["now"] = self.images_seen

    monkeypatch.setattr(Trainer, "step", watched)
    often = ("--set", "every.checkpoint_kimg=0.016", "--set", "every.keep_checkpoints=9")
    expected = {n: 4 if n < 32 else 2 for n in range(0, 80, 4)}
    assert command("train", photos, "--out", "straight", "--kimg", "0.08", *TINY, *often) == 0
    assert seen == expected
    assert [line["threads"] for line in log.read(Path("straight/log.jsonl")) if "threads" in line] == [2]
    assert log.changes_of_threads(Path("straight"), 16) == {32: 2} and log.changes_of_threads(Path("straight"), 32) == {}
    assert [tensors(Path("straight"), n)["progress"]["threads"] for n in (16, 32, 48, 80)] == [4, 2, 2, 2]
    assert "2 threads in place of 4 from here on" in capsys.readouterr().err

    due["at"] = 10**9                                                                # from here on it is the log and the checkpoints that say so
    for name in ("000000080.pt", "000000064.pt", "000000048.pt", "000000032.pt"):    # back to before the change
        path = Path("straight/checkpoints") / name
        path.write_bytes(path.read_bytes()[:-100])
    seen.clear()
    assert command("train", "--resume", "straight", "--device", "cpu") == 0
    assert seen == {n: t for n, t in expected.items() if n >= 16}
    seen.clear()
    assert command("train", "--resume", "straight", "--kimg", "0.09", "--device", "cpu") == 0
    assert set(seen.values()) == {2}
    seen.clear()                                                                     # the user's own number, though it is the one of config.json
    assert command("train", "--resume", "straight", "--kimg", "0.1", "--device", "cpu", "--threads", "4") == 0
    assert set(seen.values()) == {4}


def test_the_estimate_leaves_the_first_step_out_and_gives_a_range_when_busy(monkeypatch):
    config = tiny_config("train.kimg=100")
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)              # a step takes what the test says, however busy the machine is
    for module in ("estimate", "threads"):
        monkeypatch.setattr(f"handful.training.{module}.time", clock)

    def steps(*seconds: float) -> None:
        pace = iter(seconds)

        def step(self) -> None:
            clock.now += next(pace, 0.02)

        monkeypatch.setattr(Trainer, "step", step)

    steps(2.0)
    found = estimate(of_noise(config, torch.device("cpu")))
    assert found.images_per_sec == pytest.approx(400) and " to " not in found.line and found.threads == 1
    steps(0.02, *[0.02, 0.06, 0.02] * 9)
    line = estimate(of_noise(config, torch.device("cpu"))).line
    assert " to " in line and "other programs use this machine" in line
    low, high = (float(v) for v in line.split("about ")[1].split(" images")[0].split(" to "))
    assert (low, high) == pytest.approx((133, 400), rel=0.01)


def test_reproduce_fixes_the_number(monkeypatch, tmp_path):
    from handful.reproduce import _run

    given = {}
    monkeypatch.setattr(_run, "train", lambda *_, **how: given.update(how) or handful.Run(Path("x"), False))
    job = type("Job", (), {"folder": tmp_path / "row", "seed": 0, "settings": (), "device": "cpu", "modules": set(),
                           "row": type("Row", (), {"recipe": "cifar"}), "config": tiny_config()})
    assert _run._trained(job, "data", print) is False and given["threads"] == torch.get_num_threads()
