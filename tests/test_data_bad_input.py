"""Bad input: the line that is shown, and that nothing is lost or changed."""

from __future__ import annotations

import os
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from handful.data import check, load, prepare, scan
from handful.data.sources import open_source
from handful.errors import HandfulError, UsageError


def noise(seed, size=(32, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        noise(i).save(folder / f"{i}.png")
    return folder


def line(action):
    """The one line of the error that `action` raises."""
    with pytest.raises(HandfulError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and not isinstance(caught.value, UsageError)
    return text


def everywhere(path):
    """Every entry tells the same."""
    lines = {line(lambda: scan(path)), line(lambda: load(path, resolution=16))}
    assert len(lines) == 1
    return lines.pop()


def test_nothing_there(photos):
    assert f"there is no folder or file '{photos}s'; did you mean '{photos}'?" in everywhere(f"{photos}s")
    assert "check the spelling" in everywhere(photos.parent / "entirely-else")
    assert "there is no folder or file" in everywhere("nul\0l")


def test_no_images(tmp_path):
    assert "no images in" in everywhere(tmp_path) and "found nothing" in everywhere(tmp_path)
    for i in range(12):
        (tmp_path / f"{i}.txt").write_text("x")
    (tmp_path / "a.mp4").write_text("x")
    assert "12 .txt" in everywhere(tmp_path) and "1 .mp4" in everywhere(tmp_path)
    (tmp_path / "b.zip").write_text("x")
    assert "give one of the zips itself" in everywhere(tmp_path)


def test_one_image(photos):
    for i in (1, 2):
        (photos / f"{i}.png").unlink()
    text = line(lambda: load(photos, resolution=16))
    assert "only 1 usable image in" in text and "at least 2" in text
    assert len(load(photos, resolution=16, min_images=1)) == 1
    assert "is one image; DATA is a folder or a zip" in everywhere(photos / "0.png")


def test_neither_folder_nor_zip(tmp_path):
    (tmp_path / "faces.tar").write_bytes(b"x" * 2000)
    assert "is neither a folder nor a zip" in everywhere(tmp_path / "faces.tar")
    (tmp_path / "faces.zip").write_bytes(b"PK\x03\x04" + b"x" * 2000)
    assert "is not a zip, or was cut short" in everywhere(tmp_path / "faces.zip")


def test_a_zip_by_content(photos, tmp_path):
    with zipfile.ZipFile(tmp_path / "faces.data", "w") as z:
        for path in photos.iterdir():
            z.write(path, path.name)
    assert scan(tmp_path / "faces.data").count == 3


def test_a_folder_without_permission(photos, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith(("photos", "locked")):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert f"no permission to read the folder '{photos}'" in everywhere(photos) and "chmod" in everywhere(photos)
    (photos / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", lambda path: scandir(path) if str(path).endswith("locked") else real(path))
    text = line(lambda: load(photos, resolution=16))
    assert "locked (no permission to list this folder)" in text
    assert len(load(photos, resolution=16, skip_bad=True)) == 3


def test_a_file_without_permission(photos, monkeypatch):
    real = open_source(photos).__class__.open

    def refuse(self, name):
        if name == "1.png":
            raise PermissionError(13, "Permission denied")
        return real(self, name)

    monkeypatch.setattr("handful.data.sources.Folder.open", refuse)
    assert "1 of 3 images" in line(lambda: load(photos, resolution=16))
    assert "1.png (no permission to read it)" in line(lambda: load(photos, resolution=16))


def spoil(folder):
    """One file of each fault, and the word that must name it."""
    png, jpg = (folder / "0.png").read_bytes(), folder / "whole.jpg"
    noise(7, (64, 64)).save(jpg, quality=95)
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "cut.jpg").write_bytes(jpg.read_bytes()[:2000])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"hello, this is not an image")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"x" * 100)
    noise(1, (5, 50)).save(folder / "small.png")
    broken = bytearray(png)
    broken[60] ^= 0xFF
    (folder / "broken.png").write_bytes(broken)
    huge = b"IHDR" + struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    (folder / "huge.png").write_bytes(png[:8] + struct.pack(">I", 13) + huge + struct.pack(">I", __import__("zlib").crc32(huge)) + png[33:])
    Image.fromarray(np.zeros((16, 16), np.float32)).save(folder / "float.tif")
    return {
        "cut.png": "cut short", "cut.jpg": "cut short", "empty.jpg": "empty (0 bytes)", "text.jpg": "not an image", "phone.heic": "HEIC",
        "small.png": "too small (5x50)", "broken.png": "damaged", "huge.png": "larger than 300 million pixels", "float.tif": "without a stated range",
    }  # fmt: skip


def test_all_bad_files_are_named_in_one_pass(photos):
    faults = spoil(photos)
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in photos.iterdir()}
    report = check(photos)
    assert not report.ok and len(report.names) == 4
    assert sorted(problem.name for problem in report.problems) == sorted(faults)
    for problem in report.problems:
        assert faults[problem.name] in problem.fault or problem.name == "broken.png", problem
        assert problem.remedy and "\n" not in str(problem) and str(problem) in "\n".join(report.lines())
    text = line(lambda: load(photos, resolution=16))
    assert text.startswith(f"{len(faults)} of 13 images in") and text.count(" (") >= 3 and ", ...;" in text
    assert f"`handful data check {photos}` lists them all" in text and "--skip-bad" in text
    data = load(photos, resolution=16, skip_bad=True)
    assert data.names == ["0.png", "1.png", "2.png", "whole.jpg"]
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in photos.iterdir()} == before


def test_pillows_own_limit_is_put_back(photos, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 123456)
    spoil(photos)
    line(lambda: load(photos, resolution=16))
    assert Image.MAX_IMAGE_PIXELS == 123456


def test_all_corrupt(photos):
    for path in photos.iterdir():
        path.write_bytes(b"garbage")
    for action in (lambda: scan(photos), lambda: load(photos, resolution=16), lambda: load(photos, resolution=16, skip_bad=True)):
        text = line(action)
        assert "not one of 3 images in" in text and "0.png (not an image" in text and "handful data check" in text


def test_a_dangling_link(photos):
    try:
        os.symlink(photos / "gone.png", photos / "link.png")
    except OSError:
        pytest.skip("this system makes no links")
    assert "link.png (a link to nothing)" in line(lambda: load(photos, resolution=16))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_is_never_opened(photos):
    os.mkfifo(photos / "pipe.png")
    assert "pipe.png (not a regular file)" in line(lambda: load(photos, resolution=16))
    assert load(photos, resolution=16, skip_bad=True).names == ["0.png", "1.png", "2.png"]


def test_odd_names_stay_on_one_line(photos):
    try:
        (photos / "new\nline.png").write_bytes(b"x")
        (photos / os.fsdecode(b"\xff\xfe.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this system doesn't take such names")
    text = line(lambda: load(photos, resolution=16))
    text.encode()
    assert "new?line.png" in text
    assert "\n".join(check(photos).lines()).encode()
    assert len(load(photos, resolution=16, skip_bad=True)) == 3


# Zips


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as z:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it is, whatever this system's separator
            z.writestr(info, content)
    return path


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:/evil.png", "c:evil.png", "..\\evil.png", "\\evil.png"])
def test_names_that_point_outside_refuse_the_zip(tmp_path, photos, name):
    file = make_zip(tmp_path / "z.zip", [("0.png", (photos / "0.png").read_bytes()), (name, b"x")])
    text = everywhere(file)
    assert f"member '{name}'" in text and "points outside" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "z.zip"]


def test_names_with_two_dots_inside_are_fine(tmp_path, photos):
    content = (photos / "0.png").read_bytes()
    assert scan(make_zip(tmp_path / "z.zip", [("a..b/0..png", content), ("...x.png", content), ("1.png", content)])).count == 2


def test_absurd_ratios_refuse_the_zip(tmp_path, photos):
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as z:
        z.write(photos / "0.png", "0.png")
        with z.open("bomb.png", "w") as member:
            for _ in range(101):
                member.write(b"\0" * 10**6)
    text = everywhere(tmp_path / "z.zip")
    assert "member 'bomb.png', which unpacks to 101 MB from" in text and "refused" in text


def test_absurd_totals_refuse_the_zip(tmp_path, photos, monkeypatch):
    monkeypatch.setattr("handful.data.containers.MAX_ZIP_BYTES", 100)
    assert "refused" in everywhere(make_zip(tmp_path / "z.zip", [("0.png", (photos / "0.png").read_bytes())]))


def test_encrypted_and_damaged_members(tmp_path, photos):
    contents = [(f"{i}.png", (photos / f"{i}.png").read_bytes()) for i in range(3)]
    raw = bytearray(make_zip(tmp_path / "z.zip", contents).read_bytes())
    at = raw.rindex(b"PK\x01\x02", 0, raw.index(b"2.png", raw.index(b"PK\x01\x02")))
    raw[at + 8] |= 1  # the flag "encrypted" of 2.png in the directory
    raw[raw.index(contents[1][1]) + 50] ^= 0xFF  # a byte of 1.png
    (tmp_path / "z.zip").write_bytes(raw)
    text = line(lambda: load(tmp_path / "z.zip", resolution=16))
    assert "2 of 3 images" in text and "2.png (encrypted in the zip)" in text and "1.png (damaged in the zip" in text
    assert load(tmp_path / "z.zip", resolution=16, skip_bad=True, min_images=1).names == ["0.png"]


# OUT


def test_prepare_refuses_what_is_there(photos, tmp_path):
    for name in ("full", "zip.zip"):
        out = tmp_path / name
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        assert "is there already" in line(lambda out=out: prepare(photos, out, resolution=16))
        assert [p.name for p in out.iterdir()] == ["mine.txt"]
    (tmp_path / "file.zip").write_text("mine")
    assert "is there already" in line(lambda: prepare(photos, tmp_path / "file.zip", resolution=16))
    assert (tmp_path / "file.zip").read_text() == "mine"
    assert "lies inside DATA" in line(lambda: prepare(photos, photos / "out", resolution=16))
    assert sorted(p.name for p in photos.iterdir()) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_prepare_keeps_nothing_when_it_fails(photos, tmp_path, name, monkeypatch):
    (photos / "bad.png").write_bytes(b"x")
    assert "1 of 4 images" in line(lambda: prepare(photos, tmp_path / name, resolution=16))
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    text = line(lambda: prepare(photos, tmp_path / name, resolution=16, skip_bad=True))
    assert "No space left on device" in text and "nothing was kept" in text
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_prepare_interrupted_leaves_nothing(photos, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(photos, tmp_path / "out.zip", resolution=16, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]
