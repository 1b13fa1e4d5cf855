"""Every mode and format people have, against pixel values known in closed form."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image, features

from handful.data.decode import Preparation, header, picture, pixels
from handful.data.problems import Unusable
from handful.errors import UsageError
from handful.features.resize import tf1_bilinear


def encode(image, format="PNG", **kwargs):
    file = io.BytesIO()
    image.save(file, format, **kwargs)
    file.seek(0)
    return file


def decoded(file, **kwargs):
    image, facts = picture(file, Preparation.of(kwargs.pop("resolution", None), **kwargs))
    return pixels(image), facts


def corners(mode="RGB", size=(12, 8)):
    """Four quarters of different values: every turn and flip of it is different."""
    array = np.zeros((size[1], size[0]), np.uint8)
    h, w = size[1] // 2, size[0] // 2
    array[:h, :w], array[:h, w:], array[h:, :w], array[h:, w:] = 10, 80, 160, 250
    grey = Image.fromarray(array)
    return (grey if mode == "L" else grey.convert(mode)), array


def test_rgb_and_grey_come_through_unchanged():
    rgb = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    got, facts = decoded(encode(Image.fromarray(rgb)))
    assert (got == rgb.transpose(2, 0, 1)).all() and facts.size == (11, 9) and facts.mode == "RGB"
    image, array = corners("L")
    got, _ = decoded(encode(image))
    assert got.shape == (3, 8, 12) and (got == array).all()
    got, _ = decoded(encode(image), channels=1)
    assert got.shape == (1, 8, 12) and (got[0] == array).all()


def test_rgb_to_grey_is_itu_601():
    image = Image.new("RGB", (8, 8), (200, 100, 50))
    got, _ = decoded(encode(image), channels=1)
    assert (got == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()


@pytest.mark.parametrize("alpha", [0, 51, 128, 255])
def test_alpha_is_laid_over_white(alpha):
    expected = [value * alpha / 255 + 255 * (1 - alpha / 255) for value in (200, 100, 0)]
    got, facts = decoded(encode(Image.new("RGBA", (8, 8), (200, 100, 0, alpha))))
    assert np.abs(got[:, 0, 0] - np.array(expected)).max() <= 1
    assert facts.transparent == (alpha < 255)
    grey, _ = decoded(encode(Image.new("LA", (8, 8), (100, alpha))), channels=1)
    assert abs(int(grey[0, 0, 0]) - (100 * alpha + 255 * (255 - alpha)) / 255) <= 1


def test_alpha_is_laid_over_white_as_pillow_composes_for_every_value():
    value, alpha = np.mgrid[0:256, 0:256].astype(np.uint8)
    image = Image.fromarray(np.stack([value, 255 - value, value, alpha], -1))
    whole = Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image).convert("RGB")
    assert (decoded(encode(image))[0] == pixels(whole)).all()


def test_palette_with_and_without_transparency():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 30, 60, 90])
    image.paste(0, (0, 0, 4, 8))
    got, facts = decoded(encode(image))
    assert got[:, 0, 7].tolist() == [30, 60, 90] and got[:, 0, 0].tolist() == [0, 0, 0] and not facts.transparent
    got, facts = decoded(encode(image, transparency=0))
    assert got[:, 0, 7].tolist() == [30, 60, 90] and got[:, 0, 0].tolist() == [255, 255, 255] and facts.transparent
    got, facts = decoded(encode(image, "GIF", transparency=0))
    assert got[:, 0, 7].tolist() == [30, 60, 90] and got[:, 0, 0].tolist() == [255, 255, 255]


def test_transparent_colour_of_an_rgb_png():
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    image.paste((9, 9, 9), (0, 0, 4, 8))
    got, facts = decoded(encode(image, transparency=(1, 2, 3)))
    assert got[:, 0, 7].tolist() == [255, 255, 255] and got[:, 0, 0].tolist() == [9, 9, 9] and facts.transparent


def test_cmyk_ycbcr_and_one_bit():
    c, m, y, k = 51, 102, 153, 25
    got, facts = decoded(encode(Image.new("CMYK", (8, 8), (c, m, y, k)), "TIFF"))
    expected = [(255 - ink) * (255 - k) / 255 for ink in (c, m, y)]
    assert facts.mode == "CMYK" and np.abs(got[:, 0, 0] - np.array(expected)).max() <= 1
    got, facts = decoded(encode(Image.new("CMYK", (8, 8), (c, m, y, k)), "JPEG", quality=100))
    assert facts.mode == "CMYK" and np.abs(got[:, 4, 4] - np.array(expected)).max() <= 3
    got, facts = decoded(encode(Image.new("YCbCr", (8, 8), (120, 128, 128)), "TIFF"))
    assert np.abs(got.astype(int) - 120).max() <= 1
    image = Image.new("1", (8, 8), 1)
    image.paste(0, (0, 0, 4, 8))
    got, facts = decoded(encode(image))
    assert facts.mode == "1" and (got[:, :, :4] == 0).all() and (got[:, :, 4:] == 255).all()


def sixteen(values):
    return Image.fromarray(np.resize(np.array(values, np.uint16), (8, 8)))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_by_the_full_range_and_by_a_window(format):
    values = [0, 128, 129, 257, 257 * 7, 30000, 65535, 65407]
    got, facts = decoded(encode(sixteen(values), format), channels=1)
    assert got[0, 0].tolist() == [round(Fraction(v * 255, 65535)) for v in values] and facts.peak == 65535
    got, _ = decoded(encode(sixteen([0, 1000, 1500, 2000, 4095, 9, 1001, 1999]), format), channels=1, window=(1000, 2000))
    assert got[0, 0].tolist() == [0, 0, 128, 255, 255, 0, 0, 255]


def test_sixteen_bits_of_many_rows():
    values = np.random.default_rng(0).integers(0, 65536, (200, 11), dtype=np.uint16)
    got, _ = decoded(encode(Image.fromarray(values)), channels=1)
    assert (got[0] == np.rint(values / 257.0)).all()


def test_big_endian_sixteen_bits():
    values = np.arange(0, 64 * 1000, 1000, dtype=np.uint16).reshape(8, 8)
    image = Image.frombytes("I;16B", (8, 8), values.astype(">u2").tobytes())
    got, _ = decoded(encode(image, "TIFF"), channels=1)
    assert np.abs(got[0] - values / 257).max() <= 0.5


def test_thirty_two_bit_integers():
    big = Image.fromarray(np.resize(np.array([0, 257, 65535, 514], np.int32), (8, 8)))
    got, facts = decoded(encode(big, "TIFF"), channels=1)
    assert facts.mode == "I" and got[0, 0, :4].tolist() == [0, 1, 255, 2]
    small = Image.fromarray(np.resize(np.array([0, 100, 255, 7], np.int32), (8, 8)))
    got, _ = decoded(encode(small, "TIFF"), channels=1)
    assert got[0, 0, :4].tolist() == [0, 100, 255, 7]
    for values in ([0, 70000], [-1, 5]):
        image = Image.fromarray(np.resize(np.array(values, np.int32), (8, 8)))
        with pytest.raises(Unusable, match="without a stated range") as caught:
            decoded(encode(image, "TIFF"))
        assert "data.window" in caught.value.remedy


def test_float_needs_a_window():
    image = Image.fromarray(np.resize(np.array([0.0, 0.25, 0.5, 1.0], np.float32), (8, 8)))
    with pytest.raises(Unusable, match="from 0 to 1 without a stated range"):
        decoded(encode(image, "TIFF"))
    got, facts = decoded(encode(image, "TIFF"), channels=1, window=(0, 1))
    assert facts.mode == "F" and got[0, 0, :4].tolist() == [0, 64, 128, 255]
    got, _ = decoded(encode(image, "TIFF"), channels=3, window=(0, 1))
    assert got.shape == (3, 8, 8)


UPRIGHT = {  # what a viewer does with the stored array for each EXIF orientation, from the EXIF standard
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.T, 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, 1),
}  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_all_eight_exif_orientations(format, orientation):
    image, array = corners("RGB", (32, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format, {})
    file = encode(image, format, exif=exif, **options)
    got, facts = decoded(file)
    expected = UPRIGHT[orientation](array)
    assert got.shape[1:] == expected.shape and np.abs(got[0].astype(int) - expected).max() <= 2
    assert facts.size == expected.shape[::-1]
    file.seek(0)
    assert header(file).size == facts.size


def test_malformed_exif_is_no_obstacle():
    image, array = corners()
    got, _ = decoded(encode(image, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"))
    assert (got[0] == array).all()


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animated_files_take_their_first_frame(format):
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    file = encode(frames[0], format, save_all=True, append_images=frames[1:], **({"lossless": True} if format == "WEBP" else {}))
    got, facts = decoded(file)
    assert facts.animated and got[:, 0, 0].tolist() == [255, 0, 0]
    file.seek(0)
    assert header(file).animated
    assert not decoded(encode(frames[0], format))[1].animated


@pytest.mark.parametrize("format", ["BMP", "PPM", "TGA", "TIFF", "WEBP", "JPEG2000", "QOI", "AVIF"])
def test_other_formats(format):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    if format == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("this Pillow was built without JPEG 2000")
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    got, _ = decoded(encode(image, format))
    assert np.abs(got[:, 3, 3].astype(int) - (200, 100, 50)).max() <= 3


def test_postscript_is_not_opened():
    with pytest.raises(OSError, match="cannot identify"):
        decoded(encode(Image.new("RGB", (16, 16)), "EPS"))


def test_too_small_is_refused():
    for size in ((7, 100), (100, 7)):
        with pytest.raises(Unusable, match="too small"):
            decoded(encode(Image.new("RGB", size)))
    decoded(encode(Image.new("RGB", (8, 8))))


def stripes(width, height):
    """Column x has red x, row y has green y."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


def test_crop_is_central_and_keeps_pixels_when_no_resize_is_needed():
    got, facts = decoded(encode(stripes(100, 64)), resolution=64)
    assert got[0, 0].tolist() == list(range(18, 82)) and got[1, :, 0].tolist() == list(range(64)) and not facts.enlarged
    got, _ = decoded(encode(stripes(64, 101)), resolution=64)
    assert got[1, :, 0].tolist() == list(range(18, 82))
    got, _ = decoded(encode(stripes(100, 100)), resolution=(50, 100))  # (height, width)
    assert got.shape == (3, 50, 100) and got[1, :, 0].tolist() == list(range(25, 75)) and got[0, 0].tolist() == list(range(100))


def test_box_filter_averages_in_blocks():
    rng = np.random.default_rng(1)
    array = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    got, _ = decoded(encode(Image.fromarray(array)), resolution=8, filter="box")
    expected = array.reshape(8, 4, 8, 4, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(got - expected).max() <= 1


def test_the_filter_is_the_one_asked_for():
    image, _ = corners("RGB", (60, 60))
    for name, filter in (("lanczos", Image.LANCZOS), ("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR), ("nearest", Image.NEAREST)):
        got, _ = decoded(encode(image), resolution=16, filter=name)
        assert (got == np.asarray(image.resize((16, 16), filter)).transpose(2, 0, 1)).all()
    assert Preparation.of(16).filter == "lanczos"


def test_pad_is_mid_grey_and_centred():
    got, _ = decoded(encode(Image.new("RGB", (40, 20), (255, 0, 0))), resolution=40, fit="pad")
    assert (got[:, :10] == 128).all() and (got[:, 30:] == 128).all()
    assert (got[0, 10:30] == 255).all() and (got[1:, 10:30] == 0).all()
    got, _ = decoded(encode(Image.new("L", (20, 40), 7)), resolution=(20, 40), fit="pad", channels=1)
    assert (got[0, :, 15:25] == 7).all() and (got[0, :, :15] == 128).all() and (got[0, :, 25:] == 128).all()


def test_stretch_takes_all_of_it():
    image, array = corners("L", (40, 20))
    got, _ = decoded(encode(image), resolution=20, fit="stretch", filter="nearest", channels=1)
    assert (got[0] == array[:, ::2]).all()


@pytest.mark.parametrize("size", [(100, 64), (64, 101), (64, 64)])
def test_zoomed_is_a_central_square_of_a_drawn_side(size):
    """Every side from round(s / sqrt(2)) to s, as likely each as the other; at floor((length - side) / 2)."""
    sides = list(range(45, 65))
    for draw, side in zip((0, 7, 19, 20 * 10**12 + 3), (*(sides[i] for i in (0, 7, 19)), sides[3])):
        image, _ = picture(encode(stripes(*size)), Preparation.of(side, fit="zoomed"), draw)
        got = pixels(image)
        left, top = ((length - side) // 2 for length in size)
        assert got[0, 0].tolist() == list(range(left, left + side)) and got[1, :, 0].tolist() == list(range(top, top + side))
    whole, cropped = (decoded(encode(stripes(*size)), resolution=32, fit=fit)[0] for fit in ("zoomed", "crop"))
    assert (whole == cropped).all()                                       # nothing drawn
    image, _ = picture(encode(stripes(200, 64)), Preparation.of((32, 64), fit="zoomed", filter="nearest"), 0)
    assert image.size == (64, 32) and pixels(image)[0, 0, 0] >= (200 - 90) // 2


def test_bilinear_of_tensorflow_1():
    """Larger, smaller and the same along either axis: the metrics' own form of it, which is another code, to the rounding."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 48, 3), dtype=np.uint8))
    x = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).double()[None]
    for side in (9, 33, 40, 48, 100):
        got, _ = decoded(encode(image), resolution=side, fit="stretch", filter="bilinear_tf1")
        assert np.abs(got - tf1_bilinear(x, side)[0].numpy()).max() <= 0.5 + 1e-4
    got, _ = decoded(encode(image), resolution=(11, 16), fit="stretch", filter="bilinear_tf1")
    assert (got == x[0, :, ::3, ::3].numpy()).all()                                            # whole steps: pixels are skipped
    grey, _ = decoded(encode(image.convert("L")), resolution=(11, 16), fit="stretch", filter="bilinear_tf1", channels=1)
    assert (grey[0] == np.asarray(image.convert("L"))[::3, ::3]).all()


@pytest.mark.parametrize(("size", "fit", "enlarged"), [
    ((64, 64), "crop", False), ((63, 64), "crop", True), ((300, 40), "crop", True), ((64, 300), "crop", False),
    ((64, 10), "pad", False), ((60, 10), "pad", True), ((300, 40), "stretch", True), ((300, 64), "stretch", False),
])  # fmt: skip
def test_enlarging_is_noticed(size, fit, enlarged):
    got, facts = decoded(encode(Image.new("RGB", size)), resolution=64, fit=fit)
    assert got.shape == (3, 64, 64) and facts.enlarged == enlarged


@pytest.mark.parametrize("size", [(8, 4000), (4000, 8), (9, 1001), (17, 13)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_extreme_aspect_ratios_still_fit(size, fit):
    assert decoded(encode(Image.new("RGB", size)), resolution=(16, 24), fit=fit)[0].shape == (3, 16, 24)


@pytest.mark.parametrize(("kwargs", "line"), [
    ({"fit": "crpo"}, "did you mean 'crop'"), ({"filter": "lanzcos"}, "did you mean 'lanczos'"), ({"channels": 4}, "channels must be 1"),
    ({"window": (5, 5)}, "lower"), ({"window": (1, 2, 3)}, "two values"), ({"resolution": 4}, "8 and more"),
    ({"resolution": (8, 8, 8)}, "resolution"),
])  # fmt: skip
def test_settings_that_make_no_sense(kwargs, line):
    with pytest.raises(UsageError, match=line):
        Preparation.of(**{"resolution": 64, **kwargs})
