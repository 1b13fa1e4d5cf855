"""Every test runs in an empty folder of its own, on one thread, away from the network."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")            # so that no run looks for a number of threads of its own

import pytest
import torch

from making import picture_folder


@pytest.fixture(scope="session", autouse=True)
def _on_one_thread():
    torch.set_num_threads(1)                             # before the fixtures that a whole module shares


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    monkeypatch.setenv("HANDFUL_OFFLINE", "1")           # tests that fetch from a server of their own take it back
    torch.set_num_threads(1)


@pytest.fixture
def photos(tmp_path) -> Path:
    return picture_folder(tmp_path / "photos")


@pytest.fixture
def done(photos) -> Path:
    from runs import TINY, command

    assert command("train", photos, "--out", "run", "--kimg", "0.04", *TINY) == 0
    return Path("run")
