"""JPEGs whose header states another size than their data have; and that no honest one is taken for such a liar."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handful.data import check, load, scan
from handful.data.decode import Preparation, picture
from handful.data.problems import Unusable
from handful.errors import HandfulError

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
AS_IT_IS = Preparation.of(None)
Image.init()


def drawing(seed: int, width: int, height: int, kind: str = "smooth") -> Image.Image:
    random = np.random.default_rng(seed)
    if kind in ("grey", "flat"):
        return Image.new("RGB", (width, height), (128,) * 3 if kind == "grey" else tuple(random.integers(0, 256, 3).tolist()))
    coarse = Image.fromarray(random.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.BICUBIC if kind == "smooth" else Image.NEAREST)


def encoded(image: Image.Image, format: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def stating(data: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its header."""
    at = re.search(rb"\xff[\xc0-\xc2]\x00.\x08", data, re.DOTALL).end()
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def fault(data: bytes) -> str:
    with pytest.raises(Unusable) as caught:
        picture(io.BytesIO(data), AS_IT_IS)
    assert caught.value.remedy
    return caught.value.fault


def accepted(data: bytes) -> None:
    image, _ = picture(io.BytesIO(data), AS_IT_IS)
    assert image.tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def honest(n: int):
    """(width, height, bytes): sizes around the blocks' of 8 and 16, all modes, samplings and kinds of coding."""
    random = np.random.default_rng(n)
    for i in range(n):
        width, height = (int(v) for v in random.integers(8, 139, 2))
        mode = ("RGB", "RGB", "L", "CMYK")[random.integers(4)]
        options = {"quality": int(random.integers(1, 101)), "optimize": bool(random.integers(2)), "progressive": bool(i % 2)}
        if mode == "RGB":
            options["subsampling"] = int(random.integers(3))
        if random.integers(3) == 0:
            options["restart_marker_blocks"] = int(random.integers(1, 9))
        image = drawing(i, width, height, ("smooth", "coarse", "flat", "grey")[random.integers(4)]).convert(mode)
        yield width, height, encoded(image, **options)


def test_honest_files_are_decoded_as_ever():
    for _, _, data in honest(500):
        accepted(data)


def test_real_files_are_decoded_as_ever_and_lies_about_them_found():
    names = ("bccd-wbc-372", "panda-faces-100", "panda-100shot-100", "cat-faces-270")
    if not all((SHARED / f"{name}.zip").is_file() for name in names):
        pytest.skip("the shared image sets are not beside the checkout")
    for name in names:
        with zipfile.ZipFile(SHARED / f"{name}.zip") as file:
            for i, member in enumerate(n for n in file.namelist() if n.endswith(".jpg")):
                data = file.read(member)
                accepted(data)
                if i % 10 == 0:
                    assert "says 256x288, but its data ends" in fault(stating(data, 256, 288))
                    assert "says 288x256, but its data ends" in fault(stating(data, 288, 256))
                    assert "says 256x224, but its data goes on" in fault(stating(data, 256, 224))
                    assert "says 224x256, but its data goes on" in fault(stating(data, 224, 256))


@pytest.mark.parametrize("options", [
    {}, {"subsampling": 0}, {"optimize": True, "quality": 30}, {"restart_marker_blocks": 3}, {"progressive": True},
    {"progressive": True, "restart_marker_rows": 1},
])  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_header_that_says_more_than_there_is(mode, options):
    for seed in range(10):
        data = encoded(drawing(seed, 90 + seed, 75).convert(mode), **options)
        for width, height in ((90 + seed, 150), (90 + seed, 92), (107 + seed, 75)):
            assert f"its header says {width}x{height}, but its data ends before that" in fault(stating(data, width, height))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_blocks": 3}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_header_that_says_less_than_there_is(mode, options):
    for seed in range(10):
        data = encoded(drawing(seed, 90 + seed, 75, "coarse").convert(mode), **options)
        for width, height in ((90 + seed, 40), (90 + seed, 55), (70, 75)):
            assert f"its header says {width}x{height}, but its data goes on after that" in fault(stating(data, width, height))


def test_data_lost_at_the_end_of_a_scan():
    data = encoded(drawing(0, 128, 128, "coarse"))
    assert "ends before that" in fault(data[:-200] + data[-2:])
    data = encoded(drawing(0, 128, 128, "coarse"), restart_marker_rows=1)
    assert "ends before that" in fault(data[: data.rindex(b"\xff\xd6") + 2] + data[-2:])


def test_what_stands_behind_the_picture_does_not_matter():
    for options in ({}, {"progressive": True}):
        data = encoded(drawing(1, 64, 48), **options)
        for tail in (b"\0" * 5000, b"\xff\xd9" * 40, data, encoded(drawing(2, 200, 200)), bytes(range(256)) * 300):
            accepted(data + tail)
    data = encoded(drawing(1, 64, 48))
    for filling in (b"\0" * 500, b"\xff" * 300, b"\xff\0" * 200, b"careless" * 4):
        accepted(data[:-2] + filling + data[-2:])


def test_files_of_phones():
    """A thumbnail in the EXIF data with markers of its own; a second picture behind the first; a film of some megabytes."""
    thumbnail = encoded(drawing(3, 32, 24))
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail
    for image in (drawing(4, 130, 99), drawing(4, 130, 99, "grey")):
        accepted(encoded(image, exif=exif))
        accepted(encoded(image, exif=exif) + b"\0\0\0\x18ftypmp42" + b"film" * 10**6)
        accepted(encoded(image, exif=exif, progressive=True, icc_profile=b"p" * 200_000))
        accepted(encoded(image, "MPO", save_all=True, append_images=[drawing(5, 130, 99)]))
    lie = stating(encoded(drawing(4, 130, 99), exif=b"Exif\0\0" + b"x" * 60_000), 130, 160)
    assert "ends before that" in fault(lie)
    two = encoded(drawing(4, 130, 99), "MPO", save_all=True, append_images=[drawing(5, 130, 99)])
    assert "ends before that" in fault(stating(two, 130, 160))


def test_pictures_that_end_in_grey_are_honest():
    image = drawing(0, 96, 96)
    image.paste((128, 128, 128), (0, 40, 96, 96))
    for options in ({}, {"progressive": True}, {"progressive": True, "quality": 20, "subsampling": 0}):
        for mode in ("RGB", "L", "CMYK"):
            accepted(encoded(image.convert(mode), **options))


def test_a_large_file_is_read_in_pieces():
    random = np.random.default_rng(0)
    data = encoded(Image.fromarray(random.integers(0, 256, (600, 800, 3), dtype=np.uint8)), quality=95)
    assert len(data) > 500_000
    accepted(data)
    accepted(data + data)
    assert "ends" in fault(stating(data, 800, 616)) and "goes on" in fault(stating(data, 800, 584))


def test_every_entry_reports_them(tmp_path):
    for i in range(2):
        drawing(i, 64, 64).save(tmp_path / f"{i}.png")
    (tmp_path / "lie.jpg").write_bytes(stating(encoded(drawing(2, 64, 64)), 64, 100))
    with pytest.raises(HandfulError, match=r"1 of 3 images in .*: lie.jpg \(its header says 64x100, but its data ends before that\)"):
        load(tmp_path, resolution=16)
    assert load(tmp_path, resolution=16, skip_bad=True).names == ["0.png", "1.png"]
    assert [problem.name for problem in check(tmp_path).problems] == ["lie.jpg"]
    assert scan(tmp_path).count == 3                                      # which decodes nothing
