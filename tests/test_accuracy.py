"""D's accuracy on training images, on others and on fakes: what it says, where it is said, and that looking changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from handful.seam import Judged
from handful.training import accuracy
from handful.training.accuracy import Accuracy
from handful.training.report import write_report
from making import NARROW, noise_set, pair, run_steps, tiny_trainer, weights
from runs import TINY, command


def look(trainer) -> dict[str, float]:
    return Accuracy(trainer, None, print).look()


def test_shares_of_positive_logits():
    trainer = run_steps(tiny_trainer("data.holdout=0.25", "augment=flip"), 3)
    D = trainer.nets.D
    torch.nn.init.zeros_(D.head.weight)
    for bias, share in ((1.0, 1.0), (-1.0, 0.0)):
        torch.nn.init.constant_(D.head.bias, bias)
        assert look(trainer) == {"d/accuracy_train": share, "d/accuracy_unseen": share, "d/accuracy_fake": share}
    D.forward = lambda image, *_, **__: Judged(image.mean((1, 2, 3)) - 0.02)
    expected = {"train": trainer.dataset, "unseen": trainer.heldout}
    found = look(trainer)
    for name, dataset in expected.items():
        images = dataset.batch(torch.arange(len(dataset)), None, "cpu")[0]
        assert found[f"d/accuracy_{name}"] == pytest.approx(float((images.mean((1, 2, 3)) > 0.02).float().mean()))
    assert D.training


@pytest.mark.parametrize("arch", sorted(NARROW))
def test_looking_changes_nothing(arch):
    settings = {**pair(arch), "data": {"resolution": 32, "holdout": 0.25}}
    classes = 2 if arch == "biggan" else 0
    one, two = (tiny_trainer("terms.heldout_logits={}", dataset=noise_set(16, classes, 32), **settings) for _ in range(2))
    run_steps(one, 2)
    run_steps(two, 1)
    found = look(two)
    assert all(0 <= v <= 1 for v in found.values()) and len(found) == 3
    assert look(two) == found                                                        # the same images, the same draws
    run_steps(two, 1)
    assert torch.equal(weights(one), weights(two))


def test_in_log_and_report(photos, capsys):
    assert command("train", photos, "--out", "run", "--kimg", "0.04", *TINY, "--set", "data.holdout=0.25") == 0
    lines = [line for line in map(json.loads, Path("run/log.jsonl").read_text().splitlines()) if "d/accuracy_train" in line]
    assert [line["images"] for line in lines] == [40] and {"d/accuracy_unseen", "d/accuracy_fake"} <= lines[0].keys()
    assert command("train", "--resume", "run", "--kimg", "0.08", "--device", "cpu") == 0
    page = write_report(Path("run"), ["tiny"]).read_text()
    assert "Accuracy of D: share judged real" in page
    assert command("train", photos, "--out", "plain", "--kimg", "0.04", *TINY) == 0
    assert "accuracy" not in Path("plain/log.jsonl").read_text()                     # nothing that D hasn't seen


def test_test_images_of_a_set(photos, monkeypatch, tmp_path):
    trainer = tiny_trainer()
    found = Accuracy(trainer, str(photos), print)
    assert len(found.unseen) == 12 and len(found.look()) == 3
    said: list[str] = []
    assert Accuracy(trainer, str(tmp_path / "nothing"), said.append).look() == {} and "no accuracy of D on test images" in said[0]
    monkeypatch.setattr(accuracy, "MOST", 5)
    assert len(Accuracy(trainer, str(photos), print).unseen) == 5
