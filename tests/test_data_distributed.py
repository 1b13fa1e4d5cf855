"""Tiny-ImageNet, CUB-200-2011 and ImageNet as they are distributed, on stand-ins of a few pictures: splits, classes, names, contradictions."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from handful import data
from handful.cli import group, run
from handful.data.distributed import recognise
from handful.data.sources import _parted, open_source
from handful.errors import HandfulError, UsageError


def command(*args: object) -> int:
    return run(group, [str(a) for a in args])


def write(root: Path, pictures: list[str], texts: dict[str, str]) -> Path:
    for i, name in enumerate(pictures):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (i * 7 % 256, i % 256, 90)).save(root / name, "JPEG")
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


WNIDS = ["n02124075", "n01443537", "n02012849"]
WORDS = {"n02124075": "Egyptian cat", "n01443537": "goldfish, Carassius auratus", "n02012849": "crane", "n03126707": "crane"}


@pytest.fixture
def tiny(tmp_path) -> Path:
    train = [f"train/{w}/images/{w}_{i}.JPEG" for w in WNIDS for i in range(4)]
    val, test = [f"val/images/val_{i}.JPEG" for i in range(6)], [f"test/images/test_{i}.JPEG" for i in range(2)]
    texts = {"wnids.txt": "\n".join(WNIDS), "words.txt": "".join(f"{k}\t{v}\n" for k, v in WORDS.items()),
             "val/val_annotations.txt": "".join(f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t32\t44\t62\n" for i in range(6)),
             **{f"train/{w}/{w}_boxes.txt": "x" for w in WNIDS}}
    return write(tmp_path / "tiny-imagenet-200", train + val + test, texts)


@pytest.fixture
def cub(tmp_path) -> Path:
    names = [f"{c:03d}.{w}/{w}_{i:04d}.jpg" for c, w in ((1, "Black_footed_Albatross"), (2, "Laysan_Albatross"), (10, "Red_winged_Blackbird"))
             for i in range(5)]
    texts = {"images.txt": "".join(f"{i + 1} {n}\n" for i, n in enumerate(names)),
             "image_class_labels.txt": "".join(f"{i + 1} {(1, 2, 10)[i // 5]}\n" for i in range(15)),
             "train_test_split.txt": "".join(f"{i + 1} {int(i % 5 < 3)}\n" for i in range(15)),
             "classes.txt": "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n10 010.Red_winged_Blackbird\n",
             "bounding_boxes.txt": "1 60.0 27.0 325.0 304.0\n"}
    return write(tmp_path / "CUB_200_2011", [f"images/{n}" for n in names], texts)


def imagenet(root: Path, val: list[str], texts: dict[str, str], below: str = "") -> Path:
    train = [f"{below}train/{w}/{w}_{i}.JPEG" for w in (*WNIDS, "n03126707") for i in range(3)]
    return write(root, train + [f"{below}val/{name}" for name in val], texts)


def zipped(folder: Path) -> Path:
    path = folder.parent / f"{folder.name}.zip"
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(folder.rglob("*")):
            file.write(each, f"{folder.name}/{each.relative_to(folder)}")
    return path


def classes(path: object) -> dict[str, str]:
    """Name of each picture -> its class in words."""
    loaded = data.load(path, resolution=16, labels="auto", min_images=1)
    return {name: loaded.class_names[c] for name, c in zip(loaded.names, loaded.labels.tolist())}


@pytest.mark.parametrize("kind", ["folder", "parent", "zip"])
def test_tiny_imagenet(tiny, kind):
    path = {"folder": tiny, "parent": tiny.parent, "zip": zipped(tiny) if kind == "zip" else None}[kind]
    scanned = data.scan(path, labels="auto")
    assert scanned.count == 12 and scanned.class_names == ["goldfish", "crane", "Egyptian cat"]          # sorted WNIDs, in words
    assert any(f"Tiny-ImageNet as distributed: train, 12 images; {path}:val and {path}:test is the rest" in note for note in scanned.notes)
    assert all(("cat" in word) == ("n02124075" in name) for name, word in classes(path).items())
    val = classes(f"{path}:val")
    assert [val[n] for n in sorted(val)] == ["Egyptian cat", "goldfish", "crane"] * 2
    test = data.load(f"{path}:test", resolution=16, labels="auto")
    assert len(test) == 2 and test.labels is None
    assert data.test_of(path) == data.test_of(f"{path}:train") == f"{path}:val" and data.test_of(f"{path}:val") is None


def test_tiny_imagenet_with_val_sorted_into_folders(tiny):
    for i in range(6):
        (tiny / "val" / WNIDS[i % 3]).mkdir(exist_ok=True)
        (tiny / "val" / "images" / f"val_{i}.JPEG").rename(tiny / "val" / WNIDS[i % 3] / f"val_{i}.JPEG")
    (tiny / "val" / "val_annotations.txt").unlink()
    assert sorted(classes(f"{tiny}:val").values()) == ["Egyptian cat"] * 2 + ["crane"] * 2 + ["goldfish"] * 2


def test_cub(cub):
    scanned = data.scan(cub, labels="auto")
    assert scanned.classes == {"Black footed Albatross": 3, "Laysan Albatross": 3, "Red winged Blackbird": 3}
    for path in (cub, zipped(cub)):
        train, test = data.load(path, resolution=16), data.load(f"{path}:test", resolution=16, labels="folders")
        assert (len(train), len(test)) == (9, 6) and not {n.split("/")[-1] for n in train.names} & {n.split("/")[-1] for n in test.names}
        assert train.labels is None and set(test.classes.values()) == {2} and data.test_of(path) == f"{path}:test"
    with pytest.raises(UsageError, match="CUB_200_2011:val': this CUB-200-2011 has no such images; it has: train, test"):
        data.scan(f"{cub}:val")


FLAT = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 5)]
SOLUTION = "ImageId,PredictionString\n" + "".join(f"{FLAT[i][:-5]},{WNIDS[i % 3]} 85 1 499 272 {WNIDS[i % 3]} 1 2 3 4\n" for i in range(4))


@pytest.mark.parametrize("val, texts, below", [
    ([f"{WNIDS[i % 3]}/{FLAT[i]}" for i in range(4)], {}, ""),
    (FLAT, {"LOC_val_solution.csv": SOLUTION, "LOC_synset_mapping.txt": "".join(f"{k} {v}\n" for k, v in WORDS.items())}, "ILSVRC/Data/CLS-LOC/"),
    (FLAT, {"imagenet_2012_validation_synset_labels.txt": "\n".join(WNIDS[i % 3] for i in range(4)), "words.txt": "n02124075\tEgyptian cat"}, ""),
    (FLAT, {"val/synset_labels.txt": "\n".join(WNIDS[i % 3] for i in range(4))}, ""),
])
def test_imagenet(tmp_path, val, texts, below):
    root = imagenet(tmp_path / "imagenet", val, texts, below)
    scanned, found = data.scan(root, labels="auto"), classes(f"{root}:val")
    assert scanned.count == 12 and scanned.num_classes == 4 and len(found) == 4
    if "LOC_synset_mapping.txt" in texts:                 # "crane" is a bird and a machine
        assert scanned.class_names == ["goldfish", "crane (n02012849)", "Egyptian cat", "crane (n03126707)"]
    cat = "Egyptian cat" if texts.keys() & {"words.txt", "LOC_synset_mapping.txt"} else "n02124075"
    assert [n.split("_")[-1] for n, word in sorted(found.items()) if word == cat] == ["00000001.JPEG", "00000004.JPEG"]
    assert data.test_of(root) == f"{root}:val"


def test_the_training_part_of_imagenet_alone_is_labelled_too(tmp_path):
    root = imagenet(tmp_path / "imagenet", [], {})
    assert data.scan(root, labels="auto").num_classes == 4 and data.test_of(root) is None
    with pytest.raises(UsageError, match="imagenet:val': this ImageNet has no such images; it has: train"):
        data.scan(f"{root}:val")


def test_other_folders_are_as_they_were(tmp_path):
    root = write(tmp_path / "mine", [f"{part}/{kind}/{i}.jpg" for part in ("train", "val") for kind in ("cat", "dog") for i in range(2)], {})
    assert data.scan(root, labels="auto").count == 8 and data.scan(root / "train", labels="auto").class_names == ["cat", "dog"]
    with pytest.raises(UsageError, match="mine' is not a set whose splits handful knows; name the folder of the images"):
        data.scan(f"{root}:val")
    with pytest.raises(HandfulError, match="there is no folder or file"):
        data.scan(f"{root}-nowhere:val")
    with open_source(root) as source:
        assert recognise(source) is source and source.classes is None


def test_a_drive_is_no_folder_with_a_split(monkeypatch):
    assert _parted("C:\\data\\CUB:test") == (Path("C:\\data\\CUB"), "test")
    assert _parted("C:\\train") == (Path("C:\\train"), None)
    monkeypatch.setattr("handful.data.sources._WINDOWS", True)
    assert _parted("C:train") == (Path("C:train"), None) and _parted("C:\\CUB:val") == (Path("C:\\CUB"), "val")


# ------------------------------------------------------------------------------------------------------------- contradictions


def refused(capsys, path: object) -> str:
    assert command("data", "check", path, "--no-near") in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_images_that_the_lists_name_and_are_not_there(cub, capsys):
    next((cub / "images").rglob("*_0003.jpg")).unlink()
    assert "images.txt names 1 image that aren't there (images/0" in refused(capsys, cub)


def test_lists_that_leave_images_out(cub, tiny, capsys):
    text = (cub / "train_test_split.txt").read_text().splitlines()
    (cub / "train_test_split.txt").write_text("\n".join(text[:-2]))
    assert "leaves out images of images.txt; unpack it again" in refused(capsys, cub)
    (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02124075\t0\t0\t1\t1\n")
    assert "the set's own files name no class for 5 images (val/images/val_1.JPEG, " in refused(capsys, f"{tiny}:val")


def test_classes_that_the_lists_do_not_have(tiny, capsys):
    write(tiny, ["train/n99999999/images/x.JPEG"], {})
    assert "1 image of classes that wnids.txt does not have (train/n99999999/images/x.JPEG)" in refused(capsys, tiny)


def test_annotations_of_classes_that_the_list_does_not_have(tiny, capsys):
    path = tiny / "val/val_annotations.txt"
    path.write_text(path.read_text().replace("n0", "n9"))
    assert "of classes that wnids.txt does not have" in refused(capsys, f"{tiny}:val")


def test_a_solution_with_an_empty_cell(tmp_path, capsys):
    root = imagenet(tmp_path / "imagenet", FLAT, {"LOC_val_solution.csv": SOLUTION.replace(f"{WNIDS[1]} 85 1 499 272 {WNIDS[1]} 1 2 3 4", "", 1)})
    assert "name no class for 1 image" in refused(capsys, f"{root}:val")


def test_a_list_of_another_length(tmp_path, capsys):
    root = imagenet(tmp_path / "imagenet", FLAT, {"synset_labels.txt": "n02124075\n" * 50})
    assert "synset_labels.txt has 50 lines for 4 images in val; get the right one" in refused(capsys, f"{root}:val")
