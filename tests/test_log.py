"""log.jsonl, the progress lines, and rewinding on resume."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

from handful.errors import HandfulError
from handful.training import log as log_module
from handful.training.log import Log, duration, progress_line, read, rewind


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(log_module.time, "monotonic", clock)
    return clock


def test_what_is_written_is_read(tmp_path):
    with Log(tmp_path / "run", total_images=100, quiet=True, machine="an abacus") as log:
        log.write(8, {"d/loss": np.float32(0.5), "step": 1})
        log.say("größer als gedacht", 9)
        log.progress(16)
        log.say("nun hier")
    assert read(tmp_path / "run" / "log.jsonl") == [
        {"images": 0, "machine": "an abacus"}, {"images": 8, "d/loss": 0.5, "step": 1.0}, {"images": 9, "note": "größer als gedacht"},
        {"images": 16, "note": "nun hier"}]


def test_nan_and_infinity_are_null_and_the_line_is_there_at_once(tmp_path):
    log = Log(tmp_path, total_images=100, quiet=True)
    log.write(8, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    text = (tmp_path / "log.jsonl").read_text()              # before close
    assert json.loads(text, parse_constant=pytest.fail) == {"images": 8, "a": None, "b": None, "c": None, "d": 1.0}
    log.close()
    log.close()


def test_rewind_drops_what_lies_beyond(tmp_path):
    with Log(tmp_path, total_images=100, quiet=True) as log:
        for images in (8, 16, 24):
            log.write(images, {"d/loss": images})
        log.say("a note at 24")
    (tmp_path / "metrics.jsonl").write_text('{"images": 16, "metric": "kid", "value": 1}\n{"images": 24, "metric": "kid", "value": 2}\n')
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"images": 32, "d/l')                   # killed while writing
    rewind(tmp_path, 16)
    assert [line["images"] for line in read(tmp_path / "log.jsonl")] == [8, 16]
    assert [line["value"] for line in read(tmp_path / "metrics.jsonl")] == [1]
    assert (tmp_path / "log.jsonl").read_text().endswith("}\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "metrics.jsonl"]


def test_rewind_leaves_a_whole_file_untouched_and_tolerates_absence(tmp_path):
    rewind(tmp_path, 16)
    with Log(tmp_path, total_images=100, quiet=True) as log:
        log.write(8, {"a": 0.1})
        log.say("ä")
    before = (tmp_path / "log.jsonl").stat()
    rewind(tmp_path, 8)
    after = (tmp_path / "log.jsonl").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_resuming_after_a_half_written_line_starts_a_new_one(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"images": 8, "a": 1}\n{"images": 16, "a"')
    with Log(tmp_path, total_images=100, start_images=8, quiet=True) as log:
        log.write(24, {"a": 3})
    assert [line["images"] for line in read(tmp_path / "log.jsonl")] == [8, 24]


def test_read_tolerates_anything(tmp_path):
    assert read(tmp_path / "none.jsonl") == []
    (tmp_path / "x.jsonl").write_bytes(b'{"images": 1}\n\n[3]\nnot json\n\xff\xfe\n{"images": 2}\n')
    assert read(tmp_path / "x.jsonl") == [{"images": 1}, {"images": 2}]


def test_the_progress_line():
    values = {"d/logits_real": 0.412, "d/logits_fake": -0.381, "memory_gb": 1.93}
    assert progress_line(3200, 100_000, 75.04, values) == "kimg 3.2/100 | 75 img/s | 21 min left | D real 0.41 fake -0.38 | 1.9 GB"
    assert progress_line(3200, 100_000, 0.0, values, ["p 0.12"]) == "kimg 3.2/100 | D real 0.41 fake -0.38 | p 0.12 | 1.9 GB"
    assert progress_line(100_000, 100_000, 1234.5, {}) == "kimg 100/100 | 1234 img/s"
    assert progress_line(32, 50, 0.0, {}) == "image 32 of 50"                       # kimg would round it away
    assert progress_line(64, 50, 0.0, {}) == "image 64 of 64"                       # the last batch is whole
    assert progress_line(0, 1500, 0.0, {"d/bad_grads": 2, "g/bad_grads": 1}) == "kimg 0/1.5 | 3 bad gradients"


def test_a_progress_line_with_nan_values_does_not_fail():
    assert "real nan" in progress_line(1, 2, 1.0, {"d/logits_real": math.nan, "d/logits_fake": 0.0, "memory_gb": math.nan, "d/bad_grads": 0.0})


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12000, "3 h 20 min"), (7200, "2 h"), (187200, "2 d 4 h"),
                                               (math.inf, "?")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_plain_lines_in_a_pipe_are_few(tmp_path, clock, capsys):
    with Log(tmp_path, total_images=10_000) as log:
        for step in range(1, 1001):                         # 1000 s at 10 img/s: 5 % every 50 s
            clock.now += 1
            log.progress(10 * step)
    lines = capsys.readouterr().err.splitlines()
    assert 18 <= len(lines) <= 21
    assert lines[-1] == "kimg 10/10 | 10 img/s"
    assert "10 img/s" in lines[3] and "min left" in lines[3]


def test_a_long_run_says_something_every_minute(tmp_path, clock, capsys):
    with Log(tmp_path, total_images=10**7) as log:
        for step in range(600):
            clock.now += 1
            log.progress(step)
    assert 9 <= len(capsys.readouterr().err.splitlines()) <= 12


def test_speed_counts_from_where_the_run_was_taken_up(tmp_path, clock, capsys):
    with Log(tmp_path, total_images=2000, start_images=1000) as log:
        clock.now += 20
        log.progress(1200)
    assert capsys.readouterr().err.splitlines() == ["kimg 1.2/2 | 10 img/s | 80 s left"]


def test_a_terminal_shows_one_bar_and_notes_above_it(tmp_path, monkeypatch, clock, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Log(tmp_path, total_images=1000) as log:
        clock.now += 5
        log.write(500, {"d/logits_real": 0.4, "d/logits_fake": -0.4})
        log.say("[bold]kept as typed")
    err = capsys.readouterr().err
    assert "[bold]kept as typed" in err and "kimg 0.5/1 | 100 img/s | 5 s left | D real 0.40 fake -0.40" in err


def test_quiet_says_nothing(tmp_path, clock, capsys):
    with Log(tmp_path, total_images=1000, quiet=True) as log:
        clock.now += 100
        log.write(500, {"a": 1})
        log.say("hush")
    assert capsys.readouterr() == ("", "")


def test_tensorboard_missing_names_the_pip_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(HandfulError, match=r"pip install 'handful\[tensorboard\]'"):
        Log(tmp_path, total_images=1, tensorboard=True)


def test_tensorboard_gets_every_scalar(tmp_path, monkeypatch):
    seen = []

    class Writer:
        def __init__(self, folder, purge_step):
            seen.append((folder, purge_step))

        def add_scalar(self, *scalar):
            seen.append(scalar)

        def close(self):
            seen.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type(sys)("tensorboard"))
    sys.modules["torch.utils.tensorboard"].SummaryWriter = Writer
    with Log(tmp_path, total_images=100, start_images=8, quiet=True, tensorboard=True) as log:
        log.write(16, {"d/loss": 0.5})
    assert seen == [(str(tmp_path), 8), ("d/loss", 0.5, 16), "closed"]
