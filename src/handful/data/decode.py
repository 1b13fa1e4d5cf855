"""From a file's bytes to uint8 pixels: every mode and format people have, EXIF orientation, crop, pad or stretch, a stated filter.

The order is fixed: first the mode (transparency over white, 16 bits to 8, channels), then the orientation, then crop and resize. So
16-bit and float greyscale is scaled in float64 and rounded to 8 bits *before* the resize. Pillow reads 16-bit RGB by its high byte.
Colour profiles (ICC) are not applied. JPEGs are always decoded in full (no draft mode, which changes pixels).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from PIL import Image

from handful.data import jpeg
from handful.data.memory import DECODING
from handful.data.problems import Unusable
from handful.errors import UsageError, nearest

FITS = ("crop", "pad", "stretch", "zoomed")
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "bilinear_tf1": None,  # not Pillow's: _tf1_bilinear
}
ZOOM = 0.5**0.5  # the smallest square of fit=zoomed, as a part of the short side: half of its area
PAD_VALUE = 128  # 0 in [-1, 1]
MIN_SIDE = 8
ROWS = 64  # of a picture, that are worked on at once
WHITE = (255, 255, 255)

# Formats that Pillow decodes by itself; EPS and the like, which would start other programs, are left out.
FORMATS = "JPEG MPO PNG GIF BMP DIB TIFF WEBP AVIF JPEG2000 PPM TGA QOI PCX SGI".split()
ANIMATED_FORMATS = {"GIF", "PNG", "WEBP", "AVIF", "TIFF"}  # not MPO: its second frame is a stereo twin or a depth map

# What takes more memory to decode than two copies of 4 bytes a pixel and one of 1. A JPEG: its file twice, or the coefficients of a progressive one.
WIDE_FORMATS = {"JPEG2000": 25, "WEBP": 17, "JPEG": 13, "MPO": 13, "AVIF": 13}
WIDE_MODES = {"I": 13, "F": 13, "LA": 13, "PA": 13}

ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes a training image. `resolution`: (height, width), or None to keep each picture's own."""

    resolution: tuple[int, int] | None
    channels: int = 3
    fit: str = "crop"
    filter: str = "lanczos"
    window: tuple[float, float] | None = None

    @classmethod
    def of(cls, resolution, channels=3, fit="crop", filter="lanczos", window=None) -> Preparation:
        """Checks the settings; `resolution` may be one number. Raises UsageError naming the setting."""
        if resolution is not None:
            sides = (resolution, resolution) if isinstance(resolution, int) else tuple(int(side) for side in resolution)
            if len(sides) != 2 or min(sides) < MIN_SIDE:
                raise UsageError(f"resolution {resolution} must be a number of pixels, or (height, width), of {MIN_SIDE} and more")
            resolution = sides
        if channels not in (1, 3):
            raise UsageError(f"channels must be 1 (greyscale) or 3 (RGB), not {channels}")
        if fit not in FITS:
            raise UsageError(f"unknown fit '{fit}'{nearest(fit, FITS)}")
        if filter not in FILTERS:
            raise UsageError(f"unknown resize filter '{filter}'{nearest(filter, FILTERS)}")
        if window is not None:
            window = tuple(float(value) for value in window)
            if len(window) != 2 or not window[0] < window[1]:
                raise UsageError(f"window {list(window)} must be two values, the lower (black) first")
        return cls(resolution, channels, fit, filter, window)


@dataclass(frozen=True)
class Facts:
    """What a file turned out to be. `size`: (width, height), turned as EXIF says; `peak`: the largest value of a 16-bit picture."""

    size: tuple[int, int]
    mode: str
    animated: bool
    transparent: bool = False
    enlarged: bool = False
    peak: float | None = None


def header(file: BinaryIO) -> Facts:
    """Size, mode and animation from the header alone. Raises Pillow's errors or `Unusable`."""
    with _open(file) as image:
        width, height = image.size
        # A PNG without EXIF in its header would be decoded whole in search of one; a TIFF's size is turned by Pillow already.
        exif_at_hand = image.format != "PNG" or "exif" in image.info or "Raw profile type exif" in image.info
        if image.format != "TIFF" and exif_at_hand and _orientation(image) >= 5:
            width, height = height, width
        return Facts((width, height), image.mode, _animated(image))


def picture(file: BinaryIO, preparation: Preparation, draw: int | None = None) -> tuple[Image.Image, Facts]:
    """Decodes and prepares one file: an L or RGB image of the wanted size. draw: a random number, 0 or more, from which fit=zoomed has its size;
    without one it is crop. Raises Pillow's errors or `Unusable`."""
    with _open(file) as image:
        facts = Facts(image.size, image.mode, _animated(image))
        DECODING.require(_memory(image, preparation))
        if image.format in ("JPEG", "MPO"):
            jpeg.load(image, file)
        else:
            image.load()
        turn = TURNS.get(_orientation(image))  # only now: a PNG may carry it last, and a TIFF has been turned while loading
        image, transparent, peak = _flatten(image, preparation)  # one name for all, so that the memory of each step can go
    if turn is not None:
        image = image.transpose(turn)
    size = image.size
    image, enlarged = _fit(image, preparation, draw)
    return image, replace(facts, size=size, transparent=transparent, enlarged=enlarged, peak=peak)


def _memory(image: Image.Image, preparation: Preparation) -> int:
    """Bytes that `picture` and `pixels` take at most. All were measured at 25 million pixels, turned and not, in colour and grey."""
    as_array = preparation.resolution is None or preparation.filter == "bilinear_tf1"
    per_pixel = max(9, WIDE_FORMATS.get(image.format, 0), WIDE_MODES.get(image.mode, 0)) + (2 if as_array else 0)
    height, width = preparation.resolution or (0, 0)
    return per_pixel * image.width * image.height + 14 * height * width


def pixels(image: Image.Image) -> np.ndarray:
    """uint8 [C, H, W], contiguous, of an L or RGB image."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))  # [H,W,C] -> [C,H,W]


def _open(file: BinaryIO) -> Image.Image:
    image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    if min(image.size) < MIN_SIDE:
        raise Unusable(f"too small ({image.width}x{image.height})", f"use pictures of at least {MIN_SIDE} pixels a side")
    return image


def _orientation(image: Image.Image) -> int:
    with suppress(Exception):  # EXIF is often malformed; such a picture is taken as it lies
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def _animated(image: Image.Image) -> bool:
    return image.format in ANIMATED_FORMATS and bool(getattr(image, "is_animated", False))


def _flatten(image: Image.Image, preparation: Preparation) -> tuple[Image.Image, bool, float | None]:
    """To L or RGB: 16-bit scaled, transparency over white. Also: was a pixel transparent; a 16-bit picture's largest value."""
    transparent, peak = False, None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image, peak = _eight_bit(image, preparation.window)
    elif image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        transparent = image.getextrema()[3][0] < 255
        ground = Image.new("RGB", image.size, WHITE)
        ground.paste(image, mask=image)
        image = ground
    mode = "L" if preparation.channels == 1 else "RGB"
    return (image if image.mode == mode else image.convert(mode)), transparent, peak  # RGB -> L is ITU-R 601


def _eight_bit(image: Image.Image, window: tuple[float, float] | None) -> tuple[Image.Image, float | None]:
    values = np.asarray(image)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if window is None:
        if image.mode == "F" or low < 0 or high > 65535:
            fault = f"values from {low:g} to {high:g} without a stated range"
            raise Unusable(fault, "say what is black and white: data.window=[LOW,HIGH]")
        window = (0, 65535) if image.mode != "I" or high > 255 else (0, 255)
    bytes_ = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), ROWS):  # some rows at a time: in float64 the whole would take many times its memory
        rows = slice(top, top + ROWS)
        scaled = np.nan_to_num((values[rows].astype(np.float64) - window[0]) / (window[1] - window[0]) * 255)
        bytes_[rows] = np.clip(np.rint(scaled), 0, 255)
    return Image.fromarray(bytes_), high


def _fit(image: Image.Image, preparation: Preparation, draw: int | None) -> tuple[Image.Image, bool]:
    """Crop (centre, to the target's aspect ratio), pad (mid-grey) or stretch to the resolution. Also: was it enlarged.

    zoomed: that crop made smaller, its short side s drawn among the whole numbers from round(s / sqrt(2)) to s (compare_gan's ImageNet).
    """
    if preparation.resolution is None:
        return image, False
    (high, wide), (w, h) = preparation.resolution, image.size
    inner = (wide, high)
    if preparation.fit in ("crop", "zoomed"):
        crop_w, crop_h = min(w, max(1, round(h * wide / high))), min(h, max(1, round(w * high / wide)))
        if preparation.fit == "zoomed" and draw is not None:
            short = min(crop_w, crop_h)
            least = round(ZOOM * short)
            side = least + draw % (short - least + 1)
            crop_w, crop_h = (round(length * side / short) for length in (crop_w, crop_h))
        if (crop_w, crop_h) != (w, h):
            left, top = (w - crop_w) // 2, (h - crop_h) // 2
            image = image.crop((left, top, left + crop_w, top + crop_h))
    elif preparation.fit == "pad":
        if w * high >= h * wide:
            inner = (wide, max(1, round(h * wide / w)))
        else:
            inner = (max(1, round(w * high / h)), high)
    enlarged = image.width < inner[0] or image.height < inner[1]
    if image.size != inner:
        image = _tf1_bilinear(image, inner) if preparation.filter == "bilinear_tf1" else image.resize(inner, FILTERS[preparation.filter])
    if inner != (wide, high):
        ground = Image.new(image.mode, (wide, high), PAD_VALUE if image.mode == "L" else (PAD_VALUE,) * 3)
        ground.paste(image, ((wide - inner[0]) // 2, (high - inner[1]) // 2))
        image = ground
    return image, enlarged


def _tf1_bilinear(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """To (width, height) as TensorFlow 1's resize_bilinear: pixel i comes from i * old / new, between its two neighbours, whatever the reduction
    (no antialiasing), without a shift by half a pixel; beyond the last pixel the border is held. Rounded to 8 bits."""
    values = np.asarray(image)
    for axis, new in ((0, size[1]), (1, size[0])):
        old = values.shape[axis]
        at = np.arange(new) * (old / new)
        low = np.minimum(at.astype(int), old - 1)
        part = (at - low).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1 - axis))
        below, above = (values.take(i, axis).astype(np.float32) for i in (low, np.minimum(low + 1, old - 1)))
        values = below + (above - below) * part
    return Image.fromarray(np.rint(values).astype(np.uint8))
