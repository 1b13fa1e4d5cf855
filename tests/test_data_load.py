"""Loading: fingerprints, labels, subsets, batches, the mapped file, the sampler."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from handful.data import Dataset, Sampler, load, scan
from handful.data import loading as loading_module
from handful.data.loading import load_for
from handful.errors import HandfulError, UsageError
from handful.rng import derive
from making import tiny_config

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def noise(seed, size=(16, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def make(folder, names):
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(i).save(path)
    return folder


def zipped(folder, file, prefix="", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file, "w", compression) as z:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                z.write(path, prefix + path.relative_to(folder).as_posix())
    return file


def film(path, side):
    Image.new("RGB", (side, side), "red").save(path, save_all=True, append_images=[Image.new("RGB", (side, side), "blue")])


def snapshot(folder):
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size, p.read_bytes() if p.is_file() else None) for p in sorted(folder.rglob("*"))}


@pytest.fixture
def photos(tmp_path):
    return make(tmp_path / "photos", ["b.png", "a.png", "deep/er/c.png", "deep/d.PNG"])


def test_names_pixels_and_order(photos):
    data = load(photos, resolution=16)
    assert data.names == ["a.png", "b.png", "deep/d.PNG", "deep/er/c.png"]
    assert data.images.dtype == torch.uint8 and data.images.shape == (4, 3, 16, 16) and len(data) == 4
    for i, seed in enumerate([1, 0, 3, 2]):
        assert (data.images[i].numpy() == np.asarray(noise(seed)).transpose(2, 0, 1)).all()
    assert data.resolution == (16, 16) and data.channels == 3 and data.num_classes == 0 and data.labels is None and data.notes == []


def test_junk_and_other_files_are_left_alone(photos):
    for name in (".hidden.png", "Thumbs.db", ".DS_Store", "labels.csv", "notes.txt", "README.md", "fid.npz"):
        (photos / name).write_bytes(b"x")
    make(photos / "__MACOSX", ["._a.png"])
    make(photos / ".cache", ["x.png"])
    (photos / "film.mp4").write_bytes(b"x" * 100)
    shutil.copy(photos / "a.png", photos / "no_suffix")
    data = load(photos, resolution=16)
    assert data.names == ["a.png", "b.png", "deep/d.PNG", "deep/er/c.png", "no_suffix"]
    assert data.notes[0] == "left alone: 1 other file (1 .mp4)"


def test_content_decides_over_the_suffix(photos):
    (photos / "a.png").rename(photos / "a.jpg")
    assert load(photos, resolution=16).names[0] == "a.jpg"


def test_folder_zip_and_moved_folder_share_a_fingerprint(photos, tmp_path):
    first = load(photos, resolution=16)
    stored = zipped(photos, tmp_path / "stored.zip")
    deflated = zipped(photos, tmp_path / "deflated.zip", compression=zipfile.ZIP_DEFLATED)
    wrapped = zipped(photos, tmp_path / "wrapped.zip", prefix="photos/")
    moved = tmp_path / "else where" / "photos 2"
    shutil.copytree(photos, moved)
    for other in (stored, deflated, wrapped, moved, str(photos) + "/"):
        data = load(other, resolution=16)
        assert data.fingerprint == first.fingerprint and (data.images == first.images).all()
    assert len(first.fingerprint) == 64


def test_anything_else_changes_the_fingerprint(photos):
    prints = {load(photos, resolution=16, **kwargs).fingerprint for kwargs in ({}, {"channels": 1}, {"fit": "pad"}, {"filter": "box"},
              {"max_images": 3}, {"labels": "auto"})}  # fmt: skip
    assert len(prints) == 5  # "auto" finds no labels here
    prints.add(load(photos, resolution=8).fingerprint)
    image = Image.open(photos / "a.png")
    red, green, blue = image.getpixel((15, 15))
    image.putpixel((15, 15), (red ^ 1, green, blue))
    image.save(photos / "a.png")
    prints.add(load(photos, resolution=16).fingerprint)
    (photos / "a.png").rename(photos / "aa.png")
    prints.add(load(photos, resolution=16).fingerprint)
    assert len(prints) == 8


def test_the_fingerprint_stays_what_it_is(tmp_path):
    """Old runs resume only while this holds: lossless files at their own size, so that no decoder or filter has a say."""
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 2 * i, 3 * i)).save(tmp_path / f"{i}.png")
    assert load(tmp_path, resolution=8).fingerprint == "d443f5a3969a2c0e9bf4aaeb6db6ff80c55786738f428f4c13950479e63f5cda"


def test_nothing_in_the_source_changes(photos, tmp_path):
    before = snapshot(photos)
    scan(photos)
    load(photos, resolution=8, memory="map", cache_dir=tmp_path / "cache")
    assert snapshot(photos) == before


def test_links_are_followed_once(photos, tmp_path):
    outside = make(tmp_path / "outside", ["z.png"])
    try:
        os.symlink(outside, photos / "linked")
        os.symlink(photos, photos / "deep" / "loop")
    except OSError:
        pytest.skip("this system makes no links")
    assert load(photos, resolution=8).names == ["a.png", "b.png", "deep/d.PNG", "deep/er/c.png", "linked/z.png"]


def test_the_subset_is_the_official_one(tmp_path):
    folder = make(tmp_path / "many", [f"{i:02d}.png" for i in range(20)])
    for seed in (0, 3):
        index = np.arange(20)
        np.random.RandomState(seed).shuffle(index)
        expected = [f"{i:02d}.png" for i in sorted(index[:7])]
        assert load(folder, resolution=8, max_images=7, seed=seed).names == expected
    assert len(load(folder, resolution=8, max_images=50)) == 20
    with pytest.raises(UsageError, match="max_images"):
        load(folder, resolution=8, max_images=0)


def test_the_first_images_are_those_of_the_names_order(tmp_path):
    folder = make(tmp_path / "many", [f"{i:02d}.png" for i in range(20)])
    assert load(folder, resolution=8, max_images=7, first=True, seed=3).names == [f"{i:02d}.png" for i in range(7)]
    settings = tiny_config(f"data.path={folder}", "data.resolution=8", "data.max_images=5", "data.subset=first").data
    assert load_for(settings, 3).names == [f"{i:02d}.png" for i in range(5)]


def test_zoomed_images_are_drawn_once_by_the_seed_and_their_names(tmp_path):
    """The same in a zip and of a subset, whatever the order; other sizes by another seed. Other fits keep their fingerprints."""
    folder = tmp_path / "p"
    folder.mkdir()
    for i in range(8):
        noise(i, (200, 160)).save(folder / f"{i}.png")
    how = dict(resolution=32, fit="zoomed")
    whole, again, other = (load(folder, **how, seed=s) for s in (0, 0, 1))
    assert torch.equal(whole.images, again.images) and whole.fingerprint == again.fingerprint != other.fingerprint
    assert not torch.equal(whole.images, other.images)
    some = load(zipped(folder, tmp_path / "p.zip", "wrapped/"), **how, seed=0, max_images=3, first=True)
    assert torch.equal(some.images, whole.images[:3])
    assert not torch.equal(whole.images, load(folder, resolution=32).images)
    mapped = [load(folder, **how, seed=s, memory="map", cache_dir=tmp_path / "cache") for s in (0, 1, 0)]
    assert torch.equal(mapped[0].images, mapped[2].images) and torch.equal(mapped[1].images, other.images)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    sides = {round(160 * 0.5**0.5) + derive(0, "zoomed", f"{i}.png") % 48 for i in range(200)}
    assert min(sides) == 113 and max(sides) == 160 and len(sides) > 40


# Labels


def test_labels_from_folders_in_natural_order(tmp_path):
    folder = make(tmp_path / "d", ["class10/a.png", "class2/b.png", "class2/sub/c.png", "class1/x.png"])
    data = load(folder, resolution=8, labels="folders")
    assert data.class_names == ["class1", "class2", "class10"] and data.num_classes == 3
    assert dict(zip(data.names, data.labels.tolist())) == {"class10/a.png": 2, "class2/b.png": 1, "class2/sub/c.png": 1, "class1/x.png": 0}
    assert data.labels.dtype == torch.int64 and "labels: 3 classes from folders" in data.notes
    subset = load(folder, resolution=8, labels="auto", max_images=2)
    assert subset.num_classes == 3 and subset.labels.tolist() == [data.labels[data.names.index(name)] for name in subset.names]


def test_a_folder_around_the_classes_is_looked_through(tmp_path):
    folder = make(tmp_path / "d", ["train/cat/1.png", "train/dog/2.png"])
    assert load(folder, resolution=8, labels="folders").class_names == ["cat", "dog"]


def test_one_folder_is_one_class_and_said(tmp_path):
    data = load(make(tmp_path / "d", ["cat/1.png", "cat/2.png"]), resolution=8, labels="folders")
    assert data.class_names == ["cat"] and data.labels.tolist() == [0, 0] and "labels: one class only ('cat')" in data.notes


def test_images_beside_the_class_folders_are_an_error(tmp_path):
    folder = make(tmp_path / "d", ["cat/1.png", "dog/2.png", "stray.png"])
    with pytest.raises(HandfulError, match=r"1 image beside the class folders in .* \(stray.png\)"):
        load(folder, resolution=8, labels="folders")
    assert load(folder, resolution=8, labels="auto").labels is None
    with pytest.raises(HandfulError, match="has no folders"):
        load(make(tmp_path / "flat", ["1.png", "2.png"]), resolution=8, labels="folders")


@pytest.mark.parametrize("text", [
    "file,label\na.png,tabby\nsub/b.png,black\nsub/c.png,tabby\n",
    "a.png,tabby\r\n./sub\\b.png,black\r\n\r\nsub/c.png,tabby",
    "\ufefffilename;label\na.png;tabby\nsub/b.png;black\nsub/c.png;tabby\n",
    'a.png\ttabby\n"sub/b.png"\tblack\nsub/c.png\t tabby \n',
])  # fmt: skip
def test_labels_from_a_csv_file(tmp_path, text):
    folder = make(tmp_path / "d", ["a.png", "sub/b.png", "sub/c.png"])
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    data = load(folder, resolution=8, labels=tmp_path / "labels.csv")
    assert data.class_names == ["black", "tabby"] and data.labels.tolist() == [1, 0, 1]


def test_numbers_as_labels_keep_their_order(tmp_path):
    folder = make(tmp_path / "d", ["a.png", "b.png", "c.png"])
    (tmp_path / "labels.csv").write_text("a.png,10\nb.png,2\nc.png,0\n")
    data = load(folder, resolution=8, labels=str(tmp_path / "labels.csv"))
    assert data.class_names == ["0", "2", "10"] and data.labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize(("text", "line"), [
    ("a.png,x\n", r"2 images without a label \(b.png, c.png\)"),
    ("a.png,x\nb.png,x\nc.png,y\nd.png,y\n", r"1 name not in .* \(d.png\)"),
    ("a.png,x\nb.png\nc.png,y\n", "line 2: needs a file and a label"),
    ("a.png,x\na.png,y\n", "line 2: 'a.png' is 'y' here and 'x' before"),
])  # fmt: skip
def test_csv_files_that_do_not_fit(tmp_path, text, line):
    folder = make(tmp_path / "d", ["a.png", "b.png", "c.png"])
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(HandfulError, match=line) as caught:
        load(folder, resolution=8, labels=tmp_path / "labels.csv")
    assert "\n" not in str(caught.value)


def test_a_csv_file_that_is_not_there(tmp_path):
    folder = make(tmp_path / "d", ["a.png", "b.png"])
    with pytest.raises(UsageError, match="'folder' is neither a CSV file that exists nor one of .*; did you mean 'folders'"):
        load(folder, resolution=8, labels="folder")


def test_dataset_json(tmp_path):
    folder = make(tmp_path / "d", ["00000/img0.png", "00000/img1.png", "00001/img2.png"])
    pairs = [["00000/img0.png", 4], ["00000/img1.png", 0], ["00001/img2.png", 1]]
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}))
    for how in ("json", "auto"):
        data = load(folder, resolution=8, labels=how)
        assert data.labels.tolist() == [4, 0, 1] and data.num_classes == 5 and data.class_names == list("01234")
    wrapped = zipped(folder, tmp_path / "d.zip", prefix="around/")
    assert load(wrapped, resolution=8, labels="json").labels.tolist() == [4, 0, 1]
    (folder / "dataset.json").write_text(json.dumps({"labels": None}))
    assert load(folder, resolution=8, labels="auto").labels is None
    (folder / "dataset.json").unlink()
    assert load(folder, resolution=8, labels="auto").labels is None  # 00000/ and 00001/ are shelves, not classes


@pytest.mark.parametrize(("text", "line"), [
    ("{", "must hold"), ("[]", "must hold"), ('{"labels": 3}', "must hold"), ('{"labels": null}', "holds no labels"),
    ('{"labels": [["a.png", 0]]}', r"1 image without a label \(b.png\)"), ('{"labels": [["a.png", -1], ["b.png", 0]]}', "must be a class number"),
    ('{"labels": [["a.png", [0.5, 1]], ["b.png", 0]]}', "must be a class number"), ('{"labels": ["a.png"]}', "is not a name and a number"),
])  # fmt: skip
def test_dataset_json_that_is_wrong(tmp_path, text, line):
    folder = make(tmp_path / "d", ["a.png", "b.png"])
    (folder / "dataset.json").write_text(text)
    with pytest.raises(HandfulError, match=line):
        load(folder, resolution=8, labels="json")


def test_labels_json_without_one(photos):
    with pytest.raises(HandfulError, match="no dataset.json"):
        load(photos, resolution=8, labels="json")


# Scan


def test_scan_reads_headers_only(tmp_path, monkeypatch):
    folder = make(tmp_path / "d", ["cat/1.png", "dog/2.png"])
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(0, (30, 20)).save(folder / "cat" / "turned.jpg", exif=exif)
    noise(0).convert("L").save(folder / "dog" / "grey.png")
    film(folder / "dog" / "film.gif", 20)
    (folder / "dog" / "bad.png").write_bytes(b"not")

    def refuse(*args):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    found = scan(folder, labels="folders")
    assert found.path == str(folder) and found.count == 5 and found.num_classes == 2 and found.class_names == ["cat", "dog"]
    assert sorted(found.sizes) == [(16, 16), (16, 16), (16, 16), (20, 20), (20, 30)] and found.median_size == (16, 16)
    assert found.modes["RGB"] == 3 and found.modes["L"] == 1 and found.animated == 1
    assert [problem.name for problem in found.problems] == ["dog/bad.png"]
    assert scan(folder).num_classes == 0
    with pytest.raises(HandfulError, match="has no labels"):
        scan(folder, labels_required=True)


# Notes


def test_notes_say_what_was_done(tmp_path):
    folder = make(tmp_path / "d", ["a.png", "b.png"])
    shutil.copy(folder / "a.png", folder / "copy.png")
    Image.new("RGBA", (40, 40), (1, 2, 3, 4)).save(folder / "alpha.png")
    Image.fromarray(np.full((40, 40), 4095, np.uint16)).save(folder / "deep.png")
    film(folder / "film.gif", 40)
    notes = "\n".join(load(folder, resolution=32).notes)
    assert "1 animated or many-page file: the first frame" in notes and "1 image with transparency" in notes
    assert "3 images smaller than 32x32" in notes
    assert "1 16-bit image: scaled by the full range 0..65535 (the largest value is 4095; data.window" in notes
    assert "repeated pixel for pixel: 1 image;" in notes
    assert "scaled from 0..4095" in "\n".join(load(folder, resolution=32, window=(0, 4095)).notes)


# Memory


def test_the_mapped_file_equals_memory(photos, tmp_path):
    cache = tmp_path / "cache"
    ram = load(photos, resolution=16, memory="ram")
    mapped = load(photos, resolution=16, memory="map", cache_dir=cache)
    assert (ram.images == mapped.images).all() and mapped.fingerprint == ram.fingerprint and mapped.names == ram.names
    assert mapped.place("cpu", 10**9) == "mapped" and ram.place("cpu", 10**9) == "ram"
    assert sorted(p.suffix for p in cache.iterdir()) == [".json", ".npy"]
    assert (np.load(next(cache.glob("*.npy"))) == ram.images.numpy()).all()


def test_the_mapped_file_is_found_again_by_content(photos, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = load(photos, resolution=16, memory="map", cache_dir=cache, labels=None)
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    with monkeypatch.context() as patched:
        patched.setattr(loading_module, "_decode", None)
        again = load(moved, resolution=16, memory="map", cache_dir=cache)
    assert (again.images == first.images).all() and again.fingerprint == first.fingerprint and again.notes == first.notes
    noise(99).save(moved / "a.png")
    assert load(moved, resolution=16, memory="map", cache_dir=cache).fingerprint != first.fingerprint
    next(iter(sorted(cache.glob("*.json")))).unlink()  # as if cut off before the end: decoded again
    for folder in (photos, moved):
        assert len(load(folder, resolution=16, memory="map", cache_dir=cache)) == 4


def test_writing_to_the_mapped_tensor_does_not_reach_the_file(photos, tmp_path):
    data = load(photos, resolution=16, memory="map", cache_dir=tmp_path)
    before = data.images.clone()
    data.images.zero_()
    assert (load(photos, resolution=16, memory="map", cache_dir=tmp_path).images == before).all()


def test_bad_files_leave_no_gap_in_the_mapped_file(tmp_path):
    folder = make(tmp_path / "d", [f"{i:02d}.png" for i in range(12)])
    (folder / "03.png").write_bytes(b"")
    (folder / "07.png").write_bytes(b"nonsense")
    ram = load(folder, resolution=16, skip_bad=True)
    mapped = load(folder, resolution=16, skip_bad=True, memory="map", cache_dir=tmp_path / "cache")
    assert len(mapped) == 10 and (mapped.images == ram.images).all() and mapped.fingerprint == ram.fingerprint
    assert (mapped.images[3].numpy() == np.asarray(noise(4)).transpose(2, 0, 1)).all()
    assert any(note.startswith("skipped 2 unusable files: 03.png (empty (0 bytes))") for note in mapped.notes)


def test_auto_maps_what_does_not_fit(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "env"))
    assert load(photos, resolution=16).place("cpu", 0) == "ram" and not (tmp_path / "env").exists()
    monkeypatch.setattr(loading_module, "free_memory", lambda: 2 * 4 * 3 * 16 * 16)
    assert load(photos, resolution=16).place("cpu", 0) == "mapped" and list((tmp_path / "env" / "datasets").glob("*.npy"))


def test_a_full_disk_is_one_line_and_leaves_nothing(photos, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HandfulError, match="No space left on device.*HANDFUL_CACHE"):
        load(photos, resolution=16, memory="map", cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# Batches


@pytest.fixture
def tiny():
    images = torch.randint(0, 256, (10, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Dataset(images, torch.arange(10) % 3, ["a", "b", "c"])


def test_batch_values_labels_and_flips(tiny):
    index = torch.tensor([7, 0, 7, 3])
    x, labels = tiny.batch(index, None, "cpu")
    assert x.dtype == torch.float32 and (x == tiny.images[index].float() / 127.5 - 1).all() and labels.tolist() == [1, 0, 1, 0]
    assert -1 <= x.min() and x.max() <= 1
    flip = torch.tensor([True, False, False, True])
    flipped, _ = tiny.batch(index, flip, "cpu")
    for i, mirrored in enumerate(flip):
        assert (flipped[i] == (x[i].flip(2) if mirrored else x[i])).all()
    ends = Dataset(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1))
    assert ends.batch(torch.tensor([0, 1]), None, "cpu")[0].flatten().tolist() == [-1.0, 1.0]
    assert ends.batch(torch.tensor([0]), None, "cpu")[1] is None


def test_a_batch_is_a_copy(tiny):
    before = tiny.images.clone()
    tiny.batch(torch.arange(10), torch.ones(10, dtype=torch.bool), "cpu")[0].zero_()
    assert (tiny.images == before).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("budget", [0, 10**9])
def test_batches_on_the_device(tiny, budget):
    index, flip = torch.tensor([7, 0, 3]), torch.tensor([True, False, True])
    expected, labels = tiny.batch(index, flip, "cpu")
    assert tiny.place("cuda", budget) == ("device" if budget else "ram")
    got, got_labels = tiny.batch(index, flip, "cuda")
    assert got.is_cuda and (got.cpu() == expected).all() and (got_labels.cpu() == labels).all()


# The sampler


@given(count=st.integers(1, 40), seed=st.integers(0, 2**40), start=st.integers(0, 500), cuts=st.lists(st.integers(0, 90), max_size=5))
def test_slices_equal_one_long_slice(count, seed, start, cuts):
    whole = Sampler(count, seed).indices(start, sum(cuts))
    sampler, parts, at = Sampler(count, seed), [], start
    for n in cuts:
        parts.append(sampler.indices(at, n))
        at += n
    assert whole.shape == (sum(cuts),) and whole.dtype == torch.int64
    assert torch.cat([torch.empty(0, dtype=torch.int64), *parts]).tolist() == whole.tolist()


@given(count=st.integers(1, 40), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(count, seed, epoch):
    assert sorted(Sampler(count, seed).indices(epoch * count, count).tolist()) == list(range(count))


def test_epochs_and_seeds_differ():
    sampler = Sampler(100, 0)
    first, second = sampler.indices(0, 100), sampler.indices(100, 100)
    assert (first != second).any() and (first != Sampler(100, 1).indices(0, 100)).any()
    assert (sampler.indices(0, 100) == first).all()  # going back
    sampler.indices(0, 100).zero_()
    assert (sampler.indices(0, 100) == first).all()  # what is handed out is a copy


# Real sets


@pytest.mark.parametrize(("name", "count"), [("bccd-wbc-372", 372), ("emoji3d-faces-116", 116)])
def test_real_sets(name, count):
    if not (SHARED / f"{name}.zip").is_file():
        pytest.skip("the shared image sets are not beside the checkout")
    found = scan(SHARED / f"{name}.zip")
    assert found.count == count and found.median_size == (256, 256) and not found.problems
    calls = []
    data = load(SHARED / f"{name}.zip", resolution=64, progress=lambda done, total: calls.append((done, total)))
    assert data.images.shape == (count, 3, 64, 64) and data.images.float().std() > 20
    assert calls == [(i, count) for i in range(1, count + 1)]
