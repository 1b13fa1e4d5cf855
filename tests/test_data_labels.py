"""Bad input about labels, from the user's side: one clear line each, before the run starts; and labels that a recipe takes by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from handful import data
from handful.cli import group, run
from handful.data import Dataset
from handful.errors import HandfulError
from making import picture_folder
from tiny import TinyG

TINY = ["--res", "16", "--batch", "4", "--device", "cpu", "--kimg", "0.008", "--recipe", "fastgan64_narrow", "--set", "d=tiny:TinyD",
        "--set", "terms={}", "--set", "loss=hinge", "--set", "every.preview_images=4", "--set", "evaluate.metrics=[]"]


class LabelledG(TinyG):
    """An architecture made for labelled images."""

    wants_classes = True


def command(*args: object) -> int:
    return run(group, [str(a) for a in args])


def train(path: Path, *more: object, g: str = "test_data_labels:LabelledG") -> int:
    return command("train", path, "--out", "run", *TINY, "--set", f"g={g}", *more)


def refused(capsys, code: int = 1) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert not Path("run").exists() and line.startswith("handful: ")
    return line


def of_class(folder: Path, name: str, count: int) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (20, 20), (i * 11, 40, len(name) * 9)).save(folder / name / f"{i}.png")


@pytest.fixture
def pets(tmp_path) -> Path:
    return picture_folder(tmp_path / "pets", count=12, classes=2)


# ------------------------------------------------------------------------------------- architectures made for labelled images


def test_no_labels(tmp_path, capsys):
    flat = picture_folder(tmp_path / "flat")
    assert train(flat) == 2
    line = refused(capsys)
    assert f"test_data_labels:LabelledG is made for labelled images, and '{flat}' has no labels" in line
    assert "--labels folders" in line and "--labels FILE.csv" in line and "another --recipe" in line
    assert train(flat, "--dry-run") == 2 and refused(capsys) == line


def test_labels_are_taken_from_data_that_has_them(pets, capsys):
    assert train(pets) == 0
    out = capsys.readouterr().out
    assert f"test_data_labels:LabelledG is made for labelled images: takes the 2 classes of {pets}" in out
    config = json.loads((Path("run") / "config.json").read_text())
    assert config["data"]["labels"] == "auto" and config["data"]["class_names"] == ["class0", "class1"]
    assert command("train", "--resume", "run", "--kimg", "0.016", "--device", "cpu", "--trust", "tiny", "--trust", "test_data_labels") == 0


def test_held_out_images_must_leave_enough_of_each_class(tmp_path, capsys):
    pets = picture_folder(tmp_path / "many", count=20, classes=2)
    assert train(pets, "--set", "data.holdout=0.9") == 1
    assert "has one image" in refused(capsys)


def test_other_architectures_take_none_unasked(pets, capsys):
    assert train(pets, g="tiny:TinyG") == 0 and "classes" not in capsys.readouterr().out
    assert json.loads((Path("run") / "config.json").read_text())["data"]["labels"] is None


def test_the_estimate_is_of_the_labelled_network(pets, capsys):
    assert train(pets, "--dry-run") == 0
    assert "takes the 2 classes" in (out := capsys.readouterr().out) and "images/s" in out and not Path("run").exists()


def test_one_class_only(tmp_path, capsys):
    of_class(tmp_path / "pets", "cat", 6)
    assert train(tmp_path / "pets", "--labels", "folders") == 1
    assert "needs two classes or more, and the images of" in (line := refused(capsys)) and "are all of one ('cat')" in line and "--labels" in line


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_class_with_one_image(pets, capsys, dry):
    of_class(pets, "hamster", 1)
    assert train(pets, *dry) == 1
    assert "'hamster' has one image: add images, or take the class out" in refused(capsys)


def test_a_class_that_a_subset_leaves_with_few(pets, capsys):
    of_class(pets, "hamster", 2)
    assert train(pets, "--set", "data.max_images=6") == 1
    assert "'hamster' has" in refused(capsys)


def test_a_gap_in_dataset_json(pets, capsys):
    names = sorted(p.relative_to(pets).as_posix() for p in pets.rglob("*.png"))
    (pets / "dataset.json").write_text(json.dumps({"labels": [[name, 2 * (i % 2)] for i, name in enumerate(names)]}))
    assert train(pets, "--labels", "json") == 1
    assert "class '1' has none: add images, or take the class out" in refused(capsys)


# ------------------------------------------------------------------------------------------------------ other architectures


def test_others_are_told_and_go_on(tmp_path, capsys):
    of_class(tmp_path / "pets", "cat", 6)
    assert train(tmp_path / "pets", "--labels", "folders", g="tiny:TinyG") == 0
    assert "labels: one class only ('cat'), which is like none" in capsys.readouterr().out


def test_others_are_told_of_a_class_with_one_image(pets, capsys):
    of_class(pets, "hamster", 1)
    assert train(pets, "--labels", "folders", g="tiny:TinyG") == 0
    out = capsys.readouterr().out
    assert out.count("labels: class 'hamster' has one image, which is too few to learn from") == 1


# --------------------------------------------------------------------------------------------------------- tables and numbers


def test_a_table_that_names_what_is_not_there_and_leaves_some_out(pets, tmp_path, capsys):
    names = sorted(p.relative_to(pets).as_posix() for p in pets.rglob("*.png"))
    table = tmp_path / "labels.csv"
    table.write_text("".join(f"{name},{i % 2}\n" for i, name in enumerate([*names[2:], "ghost.png"])))
    assert train(pets, "--labels", table) == 1
    line = refused(capsys)
    assert f"labels in '{table}': 2 images without a label ({names[0]}, {names[1]}) and 1 name not in '{pets}' (ghost.png)" in line
    assert "one line for every image" in line
    assert train(pets, "--labels", tmp_path / "nowhere.csv") == 2 and "is neither a CSV file that exists nor one of" in refused(capsys)


def test_numbers_below_zero(pets, capsys):
    (pets / "dataset.json").write_text(json.dumps({"labels": [["class0/000.png", -1]]}))
    assert train(pets, "--labels", "json") == 1
    assert "the label of 'class0/000.png' must be a class number, not -1; mend it" in refused(capsys)


def test_shares_that_make_no_sense(capsys):
    for typed in ("cifar10:0%", "cifar10:abc"):
        assert train(typed) == 2
        assert f"'{typed}': after 'cifar10:' comes a share of the training images, above 0% and up to 100%" in refused(capsys)


def test_a_dataset_checks_its_own_labels():
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for labels, wrong in (([0, 1, 2, 3], "3, but the 3 classes are numbered 0 to 2"), ([0, -1, 1, 2], "-1, but the 3 classes")):
        with pytest.raises(HandfulError, match=f"one image has class {wrong}"):
            Dataset(images, torch.tensor(labels), ["a", "b", "c"])
    with pytest.raises(HandfulError, match=r"labels of shape \[3\] for 4 images"):
        Dataset(images, torch.tensor([0, 1, 0]), ["a", "b"])
    unnamed = Dataset(images, torch.tensor([0, 2, 0, 2]))
    assert unnamed.class_names == ["0", "1", "2"] and unnamed.classes == {"0": 2, "1": 0, "2": 2} and Dataset(images).classes == {}
    part, _ = Dataset(images, torch.tensor([0, 1, 0, 1]), ["a", "b"]).split(0.5, 0)
    assert part.class_names == ["a", "b"]


def test_a_scan_counts_its_classes(pets):
    (pets / "class0" / "broken.png").write_bytes(b"x")
    assert data.scan(pets, labels="auto").classes == {"class0": 6, "class1": 6} and data.scan(pets).classes == {}


@pytest.mark.parametrize("said, line", [
    ({"labels": [["a.png", 0], ["b.png", 3_000_000]]}, "'b.png' is of class 3000000, far beyond the 2 images"),
    ({"labels": [["a.png", 0], ["b.png", 2]], "class_names": ["cat", "dog"]}, "'b.png' is of class 2, but there are 2 class_names"),
    ({"labels": [["a.png", 0], ["b.png", 1]], "class_names": 5}, "class_names must be a list of names, not 5"),
])
def test_class_numbers_and_names_that_do_not_fit(tmp_path, said, line):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "dataset.json").write_text(json.dumps(said))
    with pytest.raises(HandfulError, match=line):
        data.load(tmp_path, resolution=8, labels="json")


def test_a_table_with_an_open_quotation_mark(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text('a.png,cat\nb.png,"' + "x" * 200_000)
    with pytest.raises(HandfulError, match="labels.csv' can't be read as a table"):
        data.load(tmp_path, resolution=8, labels=tmp_path / "labels.csv")
