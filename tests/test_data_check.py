"""check and prepare, and their commands."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from handful.cli.data import command
from handful.data import check, load, prepare
from handful.data.similar import groups, near_pairs, signs, thumbprint
from handful.errors import HandfulError, UsageError


def scene(seed, size=(96, 80)):
    """A smooth random picture, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for i in range(6):
        path = folder / ("cats" if i % 2 else "dogs") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(i).save(path)
    return folder


def test_duplicates_exact_and_near(photos):
    shutil.copy(photos / "cats/1.png", photos / "again.png")
    scene(1).save(photos / "again.bmp")  # the same pixels in another format
    scene(0).save(photos / "worse.jpg", quality=60)
    scene(2).resize((48, 40)).save(photos / "half.png")
    report = check(photos)
    assert report.ok and report.duplicates == [["again.bmp", "again.png", "cats/1.png"]]
    assert sorted(map(sorted, report.near)) == [["dogs/0.png", "worse.jpg"], ["dogs/2.png", "half.png"]]
    assert check(photos, near=False).near == []


def test_different_pictures_are_not_near(tmp_path):
    for i in range(60):
        scene(i).save(tmp_path / f"{i}.png")
    for value in (0, 100, 255):  # flat ones, whose hash is noise
        Image.new("RGB", (40, 40), (value,) * 3).save(tmp_path / f"flat{value}.png")
    pale = Image.blend(scene(0), Image.new("RGB", (96, 80), "white"), 0.8)  # the same signs, another contrast
    pale.save(tmp_path / "pale.png")
    assert check(tmp_path).near == []


def test_blocks_give_the_same_pairs_as_one_block():
    prints = np.stack([thumbprint(scene(i % 20)) for i in range(50)])
    expected = [(i, j) for i in range(50) for j in range(i + 1, 50) if i % 20 == j % 20]
    assert sorted(near_pairs(prints, block=7)) == sorted(near_pairs(prints)) == expected


def test_signs_are_those_of_the_cosine_transform():
    fft = pytest.importorskip("scipy.fft")
    print_ = thumbprint(scene(3))
    spectrum = fft.dctn(print_.astype(float))[:16, :16].ravel()[1:]
    weak = np.abs(spectrum) / 4 < 64  # scipy's transform is twice ours per axis
    assert (signs(print_[None])[0] == np.where(weak, 0, np.sign(spectrum))).all() and 0 < weak.sum() < 255


def test_groups_join_pairs():
    assert groups([(0, 1), (3, 4), (1, 2), (5, 4)]) == [[0, 1, 2], [3, 4, 5]] and groups([]) == []


def test_report_counts(photos):
    Image.new("RGBA", (300, 100), (1, 2, 3, 4)).save(photos / "cats" / "wide.png")
    report = check(photos, resolution=90, labels="folders")
    assert report.sizes == {(96, 80): 6, (300, 100): 1} and report.modes == {"RGB": 6, "RGBA": 1}
    assert report.classes == {"cats": 4, "dogs": 3}
    text = "\n".join(report.lines())
    assert "7 usable images, 0 that can't be used" in text and "6 images smaller than 90x90" in text
    assert "classes: cats 4, dogs 3" in text and "width 96 to 300, height 80 to 100" in text


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg"])
def test_contact_sheet(photos, tmp_path, name):
    check(photos, sheet=tmp_path / "new" / name)
    with Image.open(tmp_path / "new" / name) as sheet:
        assert sheet.size == (2 * 96, 3 * 96)
        first = np.asarray(sheet.convert("RGB").crop((0, 8, 96, 88))).astype(int)
    assert np.abs(first - np.asarray(scene(1))).mean() < 6  # cats/1.png comes first
    assert [p.name for p in (tmp_path / "new").iterdir()] == [name]


def test_contact_sheet_of_a_strange_kind(photos, tmp_path):
    with pytest.raises(UsageError, match="must end with .png or .jpg"):
        check(photos, sheet=tmp_path / "sheet.webp")


# prepare


@pytest.mark.parametrize("name", ["out", "out.zip", "deep/er/out.zip"])
def test_prepare_then_load_is_load(photos, tmp_path, name):
    direct = load(photos, resolution=(24, 32), filter="box", labels="folders")
    done = prepare(photos, tmp_path / name, resolution=(24, 32), filter="box", labels="folders")
    assert done.count == 6 and done.class_names == ["cats", "dogs"]
    data = load(tmp_path / name, resolution=(24, 32), labels="json")
    assert (data.images == direct.images).all() and (data.labels == direct.labels).all() and data.class_names == direct.class_names
    assert data.names == [f"00000/img{i:08d}.png" for i in range(6)]
    assert load(tmp_path / name, resolution=(24, 32), labels="auto").num_classes == 2
    assert not list(tmp_path.rglob("*.tmp"))


def test_prepared_zip_is_the_official_format(photos, tmp_path):
    prepare(photos, tmp_path / "out.zip", resolution=32, labels="folders")
    with zipfile.ZipFile(tmp_path / "out.zip") as z:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in z.infolist()) and z.testzip() is None
        said = json.loads(z.read("dataset.json"))
        assert said["labels"] == [[f"00000/img{i:08d}.png", 0 if i < 3 else 1] for i in range(6)]
        assert said["class_names"] == ["cats", "dogs"] and said["source_names"][0] == "cats/1.png"
        with Image.open(z.open("00000/img00000000.png")) as image:
            assert image.size == (32, 32) and image.mode == "RGB"
    prepare(photos, tmp_path / "grey", resolution=32, channels=1)
    assert json.loads((tmp_path / "grey" / "dataset.json").read_text())["labels"] is None
    with Image.open(tmp_path / "grey" / "00000" / "img00000000.png") as image:
        assert image.mode == "L"
    assert prepare(photos, tmp_path / "again.zip", resolution=32, labels="folders").count == 6
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "out.zip").read_bytes()


def test_prepare_into_an_empty_folder_and_a_new_shelf_every_thousand(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(1002):
        Image.new("L", (8, 8), i % 256).save(tmp_path / "in" / f"{i:04d}.png")
    (tmp_path / "out").mkdir()
    assert prepare(tmp_path / "in", tmp_path / "out", resolution=8, channels=1).count == 1002
    data = load(tmp_path / "out", resolution=8, channels=1, labels="auto")
    assert data.names[1001] == "00001/img00001001.png" and data.images[1001].unique().tolist() == [1001 % 256] and data.labels is None


# The commands


def run(*args):
    return CliRunner().invoke(command, [str(arg) for arg in args])


def test_check_command(photos, tmp_path):
    good = run("check", photos, "--res", 64, "--sheet", tmp_path / "sheet.png")
    assert good.exit_code == 0 and "6 usable images" in good.output and "classes: cats 3, dogs 3" in good.output
    assert (tmp_path / "sheet.png").is_file()
    (photos / "bad.png").write_bytes(b"x")
    bad = run("check", photos)
    assert bad.exit_code == 1 and "bad: bad.png: not an image" in bad.output
    printed = run("check", photos, "--json", "-")
    assert printed.exit_code == 1 and json.loads(printed.stdout)["problems"][0]["name"] == "bad.png"
    run("check", photos, "--json", tmp_path / "report.json", "--no-near")
    assert json.loads((tmp_path / "report.json").read_text())["usable"] == 6


def test_prepare_command(photos, tmp_path):
    done = run("prepare", photos, tmp_path / "out.zip", "--res", "48x32", "--fit", "pad", "--labels", "folders")
    assert done.exit_code == 0 and f"wrote 6 images to {tmp_path / 'out.zip'}, classes: 2" in done.output
    assert load(tmp_path / "out.zip", resolution=(32, 48)).images.shape == (6, 3, 32, 48)
    (photos / "cats" / "bad.png").write_bytes(b"x")
    refused = run("prepare", photos, tmp_path / "two.zip", "--res", 32)
    assert isinstance(refused.exception, HandfulError) and "--skip-bad" in str(refused.exception)
    skipped = run("prepare", photos, tmp_path / "two.zip", "--res", 32, "--skip-bad", "--labels", "none")
    assert skipped.exit_code == 0 and "left out: cats/bad.png" in skipped.output and "wrote 6 images to" in skipped.output


@pytest.mark.parametrize("res", ["x", "32x", "1x2x3", "big"])
def test_resolutions_that_make_no_sense(photos, tmp_path, res):
    result = run("prepare", photos, tmp_path / "out", "--res", res)
    assert isinstance(result.exception, UsageError) and f"--res {res} must be" in str(result.exception)
    assert result.exception.exit_code == 2


def test_help_is_quick_and_whole():
    for verb in ("check", "prepare"):
        text = run(verb, "--help").output
        assert all(option in text for option in ("--res", "--fit", "--filter", "--labels", "--channels"))
