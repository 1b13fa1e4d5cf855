"""Every test runs in an empty folder of its own, on one thread, away from the user's caches."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _on_one_thread():
    torch.set_num_threads(1)                             # before the fixtures that a whole module shares


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    torch.set_num_threads(1)
