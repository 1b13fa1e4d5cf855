"""Folders, zips, tables and caches that are broken, or made to do harm: bad entries are listed, the rest goes on, nothing hangs."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handful import data
from handful.data import check, cifar, exists, load, prepare, scan, stem
from handful.data import containers as containers_module
from handful.data.sources import open_source
from handful.data.stores import read_cached
from handful.errors import HandfulError, UsageError
from test_data_distributed import cub, tiny  # noqa: F401

PIPES = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
pytestmark = pytest.mark.timeout(60)                                      # of a pipe that is opened nothing ever comes


def picture(seed=0, size=(16, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "sub/c.png")):
        picture(i).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


NAMES = ["a.png", "b.png", "sub/c.png"]


def link(target, place):
    try:
        os.symlink(target, place)
    except OSError:
        pytest.skip("this system makes no links")


def line(action, kind=HandfulError):
    with pytest.raises(kind) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1500
    return text


def bad(folder):
    """The faults by name; that every entry agrees on them, and goes on without them."""
    faults = {problem.name: problem for problem in check(folder).problems}
    assert all(p.fault and p.remedy and "\n" not in str(p) for p in faults.values())
    assert [p.name for p in scan(folder).problems] == list(faults)
    assert f"{len(faults)} of {len(faults) + 3} images in" in line(lambda: load(folder, resolution=16))
    assert load(folder, resolution=16, skip_bad=True).names == NAMES
    return {name: problem.fault for name, problem in faults.items()}


# ------------------------------------------------------------------------------------------------------------------- folders


def test_links_in_a_circle(photos):
    link("loop.png", photos / "loop.png")
    link("two", photos / "sub" / "one")
    link("one", photos / "sub" / "two")
    circle = "a link that leads back to itself"
    assert bad(photos) == {"loop.png": circle, "sub/one": circle, "sub/two": circle}


def test_circles_of_no_interest(photos):
    link(".loop", photos / ".loop")
    assert load(photos, resolution=16).names == NAMES


@PIPES
def test_pipes_and_devices_named_like_pictures_or_zips(photos):
    for name in ("pipe.png", "sub/pipe.JPG", "pipe.zip", "readme", "notes.txt"):
        os.mkfifo(photos / name)
    link("/dev/zero", photos / "device.png")
    link("/dev/zero", photos / "device")
    link(photos / "pipe.png", photos / "linked.png")
    assert bad(photos) == dict.fromkeys(("device.png", "linked.png", "pipe.png", "pipe.zip", "sub/pipe.JPG"), "not a regular file")
    assert "readme" not in str(scan(photos).notes)


@pytest.mark.skipif(os.name == "nt", reason="Windows makes no such folders")
def test_folders_whose_path_is_too_long(photos, monkeypatch):
    """Deeper than Python calls itself and than a path may be long."""
    here = os.open(photos, os.O_RDONLY)
    try:
        for _ in range(1300):
            os.mkdir("deep", dir_fd=here)
            inner = os.open("deep", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
    finally:
        os.close(here)
    try:
        (name, fault), = bad(photos).items()
        assert fault == "its path is too long" and name.startswith("deep/deep/")
        assert len(str(check(photos).problems[0])) < 400
    finally:
        _remove(photos / "deep")


def _remove(top: Path) -> None:
    """What `shutil.rmtree` can't: it calls itself for every folder."""
    moved = top.with_name("top")
    top.rename(moved)
    while (moved / "deep").exists():
        (moved / "deep").rename(moved.with_name("next"))
        moved.rmdir()
        moved.with_name("next").rename(moved)
    moved.rmdir()


def test_what_the_system_does_not_hand_out(photos, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    (problem,) = scan(photos).problems
    assert str(problem) == "sub: can't be read (Input/output error); copy it again, or delete it"
    assert load(photos, resolution=16, skip_bad=True).names == ["a.png", "b.png"]
    monkeypatch.setattr(os, "scandir", lambda path: scandir("sub"))
    assert line(lambda: scan(photos)) == f"the folder '{photos}': can't be read (Input/output error); copy it again, or delete it"


@PIPES
@pytest.mark.parametrize("name", ["data", "data.zip", "data.png"])
def test_data_that_is_a_pipe(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for action in (scan, check, lambda path: load(path, resolution=16), lambda path: prepare(path, tmp_path / "out", resolution=16)):
        assert "is a pipe or a device, neither a folder nor a zip" in line(lambda action=action: action(tmp_path / name))
    assert exists(tmp_path / name) and data.test_of(tmp_path / name) is None


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no such device")
def test_data_that_is_a_device():
    assert "is a pipe or a device" in line(lambda: scan("/dev/zero"))


@pytest.mark.parametrize("path", ["x" * 5000, "y/" * 3000 + "z.zip", "long" * 100 + ":val"])
def test_data_whose_path_is_too_long(path):
    assert "is too long" in line(lambda: scan(path)) or os.name == "nt"
    assert not exists(path) and data.test_of(path) is None and stem(path)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/pictures", "nul\0l", "loop"])
def test_data_that_leads_nowhere(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    link("loop", "loop")
    assert "there is no folder or file" in line(lambda: scan(path))
    assert not exists(path) and data.test_of(path) is None


# ---------------------------------------------------------------------------------------------------------------------- zips


def packed(file, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(file, "w", compression) as z:
        for name, content in members:
            with pytest.warns(UserWarning, match="Duplicate") if name in z.namelist() else nullcontext():
                z.writestr(zipfile.ZipInfo(name), content, compression)
    return file


@pytest.fixture
def contents(photos):
    return [(name, (photos / name).read_bytes()) for name in NAMES]


def test_two_members_of_one_name(tmp_path, contents):
    twice = contents + [("d.png", contents[0][1]), ("d.png", contents[1][1]), ("e/f.png", b"x"), ("e\\f.png", b"y"), ("e/f.png", b"z"),
                        ("notes.txt", b"1"), ("notes.txt", b"2"), ("e/", b""), ("e/", b"")]
    assert bad(packed(tmp_path / "z.zip", twice)) == dict.fromkeys(("d.png", "e/f.png"), "two members of this name in the zip")


def test_two_tables_of_one_name(tmp_path, contents):
    labels = [json.dumps({"labels": [[name, i] for name in NAMES]}) for i in (0, 1)]
    file = packed(tmp_path / "z.zip", contents + [("dataset.json", labels[0]), ("dataset.json", labels[1])])
    assert line(lambda: load(file, resolution=16, labels="auto")) == (
        f"'dataset.json' in '{file}': two members of this name in the zip; keep one of them, and zip it again")
    assert load(file, resolution=16).names == NAMES                       # which doesn't look at it


def test_members_too_large_to_be_read(tmp_path, contents, monkeypatch):
    monkeypatch.setattr(containers_module, "MAX_MEMBER_BYTES", 10_000)
    monkeypatch.setattr(containers_module, "MAX_TABLE_BYTES", 1_000)
    file = packed(tmp_path / "z.zip", contents + [("large.png", b"x" * 10_001), ("large", b"\x89PNG\r\n\x1a\n" + b"x" * 10_001),
                                                  ("dataset.json", b" " * 1_001)])
    assert set(bad(file)) == {"large.png", "large"}
    assert scan(file).problems[1].remedy == "unpack the zip into a folder"
    assert "'dataset.json' in" in line(lambda: scan(file, labels="json")) and "larger than" in line(lambda: scan(file, labels="json"))


def test_other_files_are_not_unpacked_whole(tmp_path, contents, monkeypatch):
    file = packed(tmp_path / "z.zip", contents + [("film", b"\0" * 10**7)])
    read = []
    real = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: read.append(n) or real(self, n))
    with open_source(file) as source:
        assert source.names == NAMES
    assert read == [16]


def test_a_member_that_unpacks_to_more_than_it_says(tmp_path, contents):
    """The directory says 1 kB, the member's data are 200 MB of zeros."""
    file = packed(tmp_path / "z.zip", contents + [("bomb.png", b"\0" * 1000)])
    deflated = zlib.compressobj(9, zlib.DEFLATED, -15)
    real = deflated.compress(b"\0" * 200 * 10**6) + deflated.flush()
    with zipfile.ZipFile(file) as z:
        info = z.getinfo("bomb.png")
        start, size = z.start_dir, info.compress_size
    raw = file.read_bytes()
    local = raw[info.header_offset:start]
    grown = local[:18] + struct.pack("<I", len(real)) + local[22:len(local) - size] + real
    directory = bytearray(raw[start:])
    at = directory.index(b"bomb.png") - 46
    directory[at + 20:at + 24] = struct.pack("<I", len(real))
    end = directory.rindex(b"PK\5\6")
    directory[end + 16:end + 20] = struct.pack("<I", info.header_offset + len(grown))
    file.write_bytes(raw[:info.header_offset] + grown + directory)
    with open_source(file) as source:
        tracemalloc.start()
        try:
            assert len(source.open("bomb.png").read()) == 1000
            assert tracemalloc.get_traced_memory()[1] < 2 * 10**6
        finally:
            tracemalloc.stop()
    assert set(bad(file)) == {"bomb.png"}


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_without_bounds_are_not_unpacked(tmp_path, contents, compression):
    file = packed(tmp_path / "z.zip", contents)
    with zipfile.ZipFile(file, "a", compression) as z:
        z.writestr("d.png", b"\0" * 1000)
    assert bad(file) == {"d.png": "packed in a way that can't be read"}


def test_damaged_tables_in_a_zip(tmp_path, contents):
    text = json.dumps({"labels": [[name, 0] for name in NAMES]}).encode()
    file = packed(tmp_path / "z.zip", contents + [("dataset.json", text)])
    raw = bytearray(file.read_bytes())
    raw[raw.index(b"dataset.json") + 20] ^= 0xFF
    file.write_bytes(raw)
    assert f"'dataset.json' in '{file}': damaged in the zip" in line(lambda: load(file, resolution=16, labels="json"))


@pytest.mark.parametrize("seed", range(4))
def test_zips_with_flipped_bytes(tmp_path, contents, seed):
    """Whatever is wrong with a zip: a clear line, or bad files, and nothing else."""
    text = json.dumps({"labels": [[name, 0] for name in NAMES]}).encode()
    raw = packed(tmp_path / "z.zip", contents + [("dataset.json", text), ("more", b"x" * 50)]).read_bytes()
    random = np.random.default_rng(seed)
    for _ in range(60):
        broken = bytearray(raw)
        for place in random.integers(0 if seed % 2 else len(raw) - 500, len(raw), random.integers(1, 5)):
            broken[place] = random.integers(256)
        (tmp_path / "z.zip").write_bytes(broken[: len(broken) - (random.integers(300) if seed == 3 else 0)])
        try:
            check(tmp_path / "z.zip", labels="auto", near=False)
        except HandfulError as error:
            assert "\n" not in str(error)


# -------------------------------------------------------------------------------------------------------------------- tables


@PIPES
@pytest.mark.parametrize("settings", [{"labels": "pipe.csv"}, {"groups": "pipe.csv"}])
def test_tables_that_are_pipes(photos, tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.csv")
    assert "pipe.csv is not a regular file" in line(lambda: load(photos, resolution=16, **settings))


@PIPES
def test_descriptions_that_are_pipes(photos):
    os.mkfifo(photos / "dataset.json")
    assert "dataset.json is not a regular file" in line(lambda: load(photos, resolution=16, labels="auto"))


@pytest.mark.parametrize("settings", [{"labels": "table.csv"}, {"groups": "table.csv"}, {"labels": "json"}])
def test_tables_larger_than_any_table(photos, tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    for module in ("containers", "labels"):
        monkeypatch.setattr(f"handful.data.{module}.MAX_TABLE_BYTES", 1000)
    for file in (Path("table.csv"), photos / "dataset.json"):
        file.write_bytes(b"x" * 1001)
    assert "is larger than" in line(lambda: load(photos, resolution=16, **settings))


@pytest.mark.parametrize(("labels", "number"), [("table.csv", "tabby"), ("json", 1)])
def test_two_labels_for_one_file(photos, tmp_path, monkeypatch, labels, number):
    monkeypatch.chdir(tmp_path)
    other = 0 if number == 1 else "black"

    def said(pairs):
        Path("table.csv").write_text("".join(f"{name},{label}\n" for name, label in pairs))
        (photos / "dataset.json").write_text(json.dumps({"labels": pairs}))

    pairs = [[name, other] for name in NAMES]
    said(pairs + [["sub/c.png", other]])
    assert load(photos, resolution=16, labels=labels).labels.tolist() == [0, 0, 0]
    said(pairs + [["sub\\c.png", number]])
    text = line(lambda: load(photos, resolution=16, labels=labels))
    assert "'sub" in text and f"{number}" in text and f"{other}" in text and "before; leave one" in text


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", [
    DEEP, '{"labels": ' + DEEP + "}", '{"labels": [[' + "[" * 900 + "]" * 900 + ", 0]]}", '{"labels": [["a.png", ' + "[" * 900 + "]" * 900 + "]]}",
    '{"labels": [["a.png", 1' + "0" * 5000 + "]]}", '{"labels": [["a.png", 1e999], ["b.png", 0], ["sub/c.png", 0]]}',
    '{"labels": [["a.png", NaN]]}', '{"labels": {"a.png": 0}}', '{"labels": [[["a.png"], 0]]}', "\ufeff{}", "\0", '"labels"',
    '{"labels": [["a.png", 0], ["b.png", 0], ["sub/c.png", 18446744073709551615]]}',
    '{"labels": [["a.png", 0], ["b.png", 0], ["sub/c.png", 0]], "class_names": "one\\ntwo"}',
    '{"labels": [["a.png", 0], ["b.png", 0], ["sub/c.png", 0]], "class_names": [["one"]]}',
    '{"labels": [["a.png", 0], ["b.png", 0], ["sub/c.png", 0]], "class_names": {"one": ' + "[" * 900 + "]" * 900 + "}}",
])  # fmt: skip
def test_descriptions_of_another_shape(photos, text):
    (photos / "dataset.json").write_text(text, encoding="utf-8")
    assert "dataset.json in" in line(lambda: load(photos, resolution=16, labels="json"))


def test_labels_that_are_not_text(photos, tmp_path):
    for content in (b"a.png,\xff\xfe", b"\0\0\0", b'a.png,"x\n' * 10_000, b"a.png," + b"x" * 200_000):
        (tmp_path / "table.csv").write_bytes(content)
        assert "table.csv" in line(lambda: load(photos, resolution=16, labels=tmp_path / "table.csv"))
    (tmp_path / "table.csv").write_bytes(b"file,label\ra.png,x\rb.png,y\rsub/c.png,x\r")     # as old Macs wrote it
    assert load(photos, resolution=16, labels=tmp_path / "table.csv").labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("how", ["x" * 5000, "~nobody(.)", "(" * 500 + ")" * 500, "a{99999999999}", "nul\0l"])
def test_groups_that_are_no_sensible_expression(photos, how):
    assert "data.groups=" in line(lambda: load(photos, resolution=16, groups=how))


def test_labels_by_an_endless_name(photos):
    assert "is neither a CSV file that exists" in line(lambda: load(photos, resolution=16, labels="x" * 5000), UsageError)


def test_two_classes_for_one_image_of_a_set(tiny, cub):  # noqa: F811
    with open(tiny / "val" / "val_annotations.txt", "a") as file:
        file.write("val_0.JPEG\tn01443537\n")
    assert "val_annotations.txt says 'n01443537' of 'val_0.JPEG', and 'n02124075' before; unpack it again" in line(lambda: scan(f"{tiny}:val"))
    with open(cub / "image_class_labels.txt", "a") as file:
        file.write("1 77\n")
    assert "image_class_labels.txt says '77' of '1', and '1' before; unpack it again" in line(lambda: scan(cub))


# -------------------------------------------------------------------------------------------------------------- sets by name


@pytest.mark.parametrize("share", ["9" * 400, "1" * 5000, "0." + "0" * 400, "1e400", "-5"])
def test_absurd_shares(share):
    assert "a share of the training images" in line(lambda: scan(f"cifar10:{share}%"), UsageError)


def tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("members", [
    [("package/train_lables.json", DEEP.encode())], [("package/train_lables.json", b'{"a": 1}')], [("package/train_lables.json", b"[[1]]")],
    [("package/data_batch_1.png", b"x")], [("cifar/data_batch_1", b"cos\nsystem\n")], [("cifar/data_batch_1.bin", b"x" * 3073)],
    [("cifar/readme", b"x")]])
def test_archives_of_something_else(tmp_path, members):
    file = tar(tmp_path / "cifar.tgz", members)
    text = line(lambda: data.get("cifar10", file))
    assert f"'{file}' " in text or "cannot be read" in text or "data_batch_1" in text


def test_archives_that_unpack_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "MOST", 1000)
    file = tar(tmp_path / "cifar.tgz", [("cifar/data_batch_1", b"\0" * 1001)])
    assert "a file of 0 MB in it" in line(lambda: data.get("cifar10", file))


@PIPES
def test_archives_that_are_pipes(tmp_path):
    os.mkfifo(tmp_path / "cifar.tgz")
    assert "not a regular file" in line(lambda: data.get("cifar10", tmp_path / "cifar.tgz"))
    assert "no such file" in line(lambda: data.get("cifar10", "x" * 5000))


def test_pictures_of_another_size_are_not_decoded():
    file = io.BytesIO()
    Image.new("RGB", (33, 32)).save(file, "PNG")
    with pytest.raises(ValueError, match="a picture of 33x32 in it"):
        cifar._decoded(file.getvalue(), 32, 32)


# -------------------------------------------------------------------------------------------------------------------- caches


GOOD = {"names": ["a", "b"], "labels": [0, 1], "groups": None, "fingerprint": "f", "notes": []}


def kept(folder, rows, said):
    np.save(folder / "x.npy", rows)
    (folder / "x.json").write_text(said if isinstance(said, str) else json.dumps(said))
    return read_cached(folder / "x.npy", (3, 8, 8))


def test_a_whole_cache_is_read(tmp_path):
    rows, said = kept(tmp_path, np.ones((2, 3, 8, 8), np.uint8), GOOD)
    assert rows.shape == (2, 3, 8, 8) and said == GOOD


@pytest.mark.parametrize("said", [
    DEEP, "[]", "null", "{}", '{"names": 3}', "1" + "0" * 5000, *[GOOD | change for change in (
        {"names": ["a"]}, {"names": "ab"[:1]}, {"names": [1, 2]}, {"names": None}, {"labels": [0]}, {"labels": 5}, {"labels": [0, "1"]},
        {"labels": [0, -1]}, {"labels": [0, 10**30]}, {"labels": [0, 0.5]}, {"labels": {"a": 0, "b": 1}}, {"groups": [1]}, {"notes": [3]},
        {"notes": None}, {"fingerprint": 5})],
    *[{key: value for key, value in GOOD.items() if key != left} for left in GOOD],
])  # fmt: skip
def test_descriptions_that_count_as_absent(tmp_path, said):
    assert kept(tmp_path, np.ones((2, 3, 8, 8), np.uint8), said) is None


@pytest.mark.parametrize("rows", [
    np.ones((2, 3, 8, 8), np.float32), np.ones((2, 3, 8), np.uint8), np.ones((2, 3, 8, 9), np.uint8), np.ones((3, 3, 8, 8), np.uint8),
    np.ones((), np.uint8), np.array([None, None])])
def test_pixels_that_count_as_absent(tmp_path, rows):
    assert kept(tmp_path, rows, GOOD) is None


def test_broken_pixels_count_as_absent(tmp_path):
    kept(tmp_path, np.ones((2, 3, 8, 8), np.uint8), GOOD)
    whole = (tmp_path / "x.npy").read_bytes()
    for content in (b"", whole[:50], whole[:200], b"PK\3\4" + whole, whole.replace(b"(2, 3", b"(9, 3"), whole.replace(b"|u1", b"|O1"),
                    whole.replace(b"{'de", b"{{{{"), whole[:8] + b"\xff\xff" + whole[10:]):
        (tmp_path / "x.npy").write_bytes(content)
        assert read_cached(tmp_path / "x.npy", (3, 8, 8)) is None


def test_a_broken_cache_is_made_again(photos, tmp_path):
    first = load(photos, resolution=16, memory="map", cache_dir=tmp_path / "cache")
    (description,) = (tmp_path / "cache").glob("*.json")
    for text in (DEEP, "{}", json.dumps(json.loads(description.read_text()) | {"names": ["x"]})):
        description.write_text(text)
        again = load(photos, resolution=16, memory="map", cache_dir=tmp_path / "cache")
        assert again.names == first.names and (again.images == first.images).all()
        assert json.loads(description.read_text())["names"] == first.names
