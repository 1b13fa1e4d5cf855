"""Pretrained networks of a new run's terms: fetched once, in one short try; otherwise the run stops, or does without. And --offline everywhere."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from handful import HandfulError, fetch
from handful.catalog import Use
from handful.features import weights
from handful.training import pretrained
from handful.training.pretrained import settle
from making import tiny_config
from runs import TINY, command, refused


def config(**settings):
    return tiny_config(terms={"reconstruction": {"use": "reconstruction", **settings}})


def settled(monkeypatch, here: bool, fetched: bool = False, asked: list | None = None, **how):
    """`settle` on a machine where LPIPS' weights are, or can be fetched, or neither."""
    state = {"here": here}

    def get(name: str) -> Path:
        (asked if asked is not None else []).append(name)
        if not fetched:
            raise HandfulError(f"the weights '{name}' could not be downloaded (no route); get them by hand")
        state["here"] = True
        return Path(name)

    monkeypatch.setattr(pretrained, "available", lambda name: state["here"])
    monkeypatch.setattr(weights, "get", get)
    said: list[str] = []
    found = settle(config(), said.append, **{"may_do_without": False, "dry_run": False, "rank": 0, "world": 1, **how})
    return found.terms["reconstruction"].kwargs["loss"], said


def test_weights_that_are_here_are_taken_and_written_down(monkeypatch):
    assert settled(monkeypatch, True) == ("lpips", [])


def test_missing_ones_are_fetched_once(monkeypatch):
    asked: list[str] = []
    monkeypatch.delenv("HANDFUL_OFFLINE")
    loss, said = settled(monkeypatch, False, True, asked)
    assert loss == "lpips" and asked == ["lpips"] and said[0].startswith("fetching the weights 'lpips', once")


def test_a_recipe_that_the_user_named_stops(monkeypatch):
    with pytest.raises(HandfulError, match=r"no route.*handful weights get lpips, or compare pixels: --set terms.reconstruction.loss=pixel"):
        settled(monkeypatch, False)


def test_one_that_handful_chose_goes_on_and_says_so(monkeypatch):
    loss, said = settled(monkeypatch, False, may_do_without=True)
    assert loss == "pixel" and "terms.reconstruction: loss=pixel, for want of the weights 'lpips'" in said[-1]


def test_a_dry_run_fetches_nothing(monkeypatch):
    asked: list[str] = []
    loss, said = settled(monkeypatch, False, True, asked, dry_run=True)
    assert loss == "auto" and not asked and "would first fetch the weights 'lpips'" in said[0]


def test_pixels_on_wish_need_no_weights(monkeypatch):
    monkeypatch.setattr(pretrained, "available", lambda name: pytest.fail("not asked for"))
    assert settle(config(loss="pixel"), print, may_do_without=False, dry_run=False, rank=0, world=1).terms["reconstruction"].kwargs["loss"] == "pixel"


def test_by_the_command(photos, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    auto = ("--set", 'terms={"reconstruction": {"decoders": ["whole"], "size": 16}}')
    said = refused(capsys, "train", photos, "--out", "run", "--kimg", "0.008", *TINY, *auto, code=1)
    assert "handful weights get lpips" in said and "the network is not to be used" in said and not Path("run").exists()
    assert command("train", photos, "--out", "run", "--kimg", "0.008", *TINY, *auto, "--dry-run") == 0
    assert command("train", photos, "--out", "run", "--kimg", "0.008", *TINY, *auto, "--set", "terms.reconstruction.loss=pixel") == 0
    assert command("train", photos, "--out", "either", "--kimg", "0.008", *TINY, *auto, "--set", "terms.reconstruction.loss=auto") == 0
    assert json.loads(Path("either/config.json").read_text())["terms"]["reconstruction"]["loss"] == "pixel"      # as it was decided


def test_a_gain_for_pixels_multiplies_their_loss_alone():
    from handful import catalog

    torch.manual_seed(0)
    rebuilt, targets = {"whole": torch.rand(2, 3, 8, 8)}, {"whole": torch.rand(2, 3, 8, 8), "part": torch.rand(2, 3, 8, 8)}
    one, ten = (catalog.build("terms", Use("reconstruction", loss="pixel", pixel_gain=g))._distances(rebuilt, targets)["whole"] for g in (1.0, 10.0))
    assert torch.allclose(10 * one, ten)


# ------------------------------------------------------------------------------------------------------------------ offline


@pytest.mark.parametrize("line", [
    ("train", "cifar10:10%"), ("train", "cifar10:10%", "--dry-run"), ("data", "check", "cifar10"), ("data", "prepare", "cifar10", "out", "--res",
                                                                                                    "32"),
    ("data", "get", "cifar100"), ("weights", "get", "lpips"), ("evaluate", "photos", "cifar10:test"), ("reproduce", "diggan/1", "--row", "BigGAN",
                                                                                                     "--data-set", "CIFAR-10 10%")])
def test_no_command_fetches_offline(line, photos, monkeypatch, tmp_path, capsys):
    """Nothing is opened; the option leaves the environment as it was."""
    monkeypatch.delenv("HANDFUL_OFFLINE")
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    for name in ("HANDFUL_DATA", "HANDFUL_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "_opener", lambda: pytest.fail("the network was used"))
    monkeypatch.setattr(fetch, "npm_registry", lambda: "http://127.0.0.1:9")
    os.symlink(photos, "photos")
    started = time.monotonic()
    assert command(*line, "--offline") == 1
    err = capsys.readouterr().err
    assert "network is not to be used" in err or line[0] == "reproduce" and "handful weights get" in err, err
    assert "HANDFUL_OFFLINE" not in os.environ and time.monotonic() - started < 60


def test_a_hurried_fetch_is_one_short_try(monkeypatch):
    tried = []

    class Opener:
        def open(self, request, timeout):
            tried.append(timeout)
            raise OSError("no route")

    monkeypatch.delenv("HANDFUL_OFFLINE")
    monkeypatch.setattr(fetch, "_opener", Opener)
    with fetch.hurried(), pytest.raises(fetch.Unreachable, match="no route"):
        fetch.download("http://127.0.0.1:9/x", Path("x"), "00")
    assert tried == [10]
