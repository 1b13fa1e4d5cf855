"""Sheets of images, and images as files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import HandfulError, UsageError
from ..files import atomic

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_JPEG_SIDE = 65500                   # libjpeg's limit


def grid(images: NDArray[np.uint8], columns: int | None = None, pad: int = 2, labels: Sequence[str] | None = None,
         background: int = 255) -> NDArray[np.uint8]:
    """uint8 [N,H,W,C] as one sheet uint8 [H',W',C], row by row, with `pad` pixels of `background` between.

    columns: None for a near-square sheet, without empty places where N allows it. labels: a caption under each image,
    cut to its width.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8 or not images.size:
        raise ValueError(f"a grid takes uint8 [N,H,W,C] with N > 0, not {images.dtype} {list(images.shape)}")
    if labels is not None:
        images = _captioned(images, labels, background)
    n, h, w, c = images.shape
    columns = min(n, columns) if columns else near_square(n)
    rows = -(-n // columns)
    empty = np.full((rows * columns - n, h, w, c), background, np.uint8)
    cells = np.pad(np.concatenate([images, empty]), ((0, 0), (0, pad), (0, pad), (0, 0)), constant_values=background)
    # [rows*columns, h+pad, w+pad, c] -> [rows, h+pad, columns, w+pad, c] -> [rows*(h+pad), columns*(w+pad), c], less the outer pad
    sheet = cells.reshape(rows, columns, h + pad, w + pad, c).swapaxes(1, 2).reshape(rows * (h + pad), columns * (w + pad), c)
    return np.ascontiguousarray(sheet[: rows * (h + pad) - pad, : columns * (w + pad) - pad])


def with_titles(sheet: NDArray[np.uint8], titles: Sequence[str], background: int = 255) -> NDArray[np.uint8]:
    """A sheet uint8 [H,W,C] of equally high rows with a title left of each: uint8 [H,W',C]. The text is as high as rows of 32 pixels bear."""
    height, _, c = sheet.shape
    each = (height + 2) / len(titles)
    font = ImageFont.load_default(int(min(24, max(9, each / 3))))
    strip = Image.new("L", (math.ceil(max(map(font.getlength, titles))) + 8, height), background)
    draw = ImageDraw.Draw(strip)
    for row, text in enumerate(titles):
        draw.text((4, (row + 0.5) * each), text, fill=255 - background, font=font, anchor="lm")
    return np.concatenate([np.repeat(np.asarray(strip)[..., None], c, axis=-1), sheet], axis=1)


def near_square(n: int) -> int:
    """Columns for n images: a divisor of n close above its root (8: 4, 12: 4), else the root rounded up (7: 3)."""
    root = math.ceil(math.sqrt(n))
    return next((c for c in range(root, int(1.5 * math.sqrt(n)) + 1) if n % c == 0), root)


def save_image(path: Path | str, array: NDArray[np.uint8], quality: int = 92) -> Path:
    """Writes uint8 [H,W] or [H,W,C] (1 grey, 3 colour, 4 with alpha) as JPEG or PNG, by the suffix, whole or not at all.

    quality: JPEG's. Returns the path. Raises UsageError for another suffix, HandfulError where JPEG can't hold the size.
    """
    path = Path(path)
    format = _FORMATS.get(path.suffix.lower())
    if format is None:
        raise UsageError(f"{path}: can't write '{path.suffix or 'no suffix'}'; name the file .jpg or .png")
    array = np.asarray(array)
    image = Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)
    options = {}
    if format == "JPEG":
        if max(image.size) > _JPEG_SIDE:
            raise HandfulError(f"{path}: {image.width}x{image.height} is too large for JPEG; name it .png, or make fewer images")
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        options = {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    atomic(path, lambda temporary: image.save(temporary, format, **options))
    return path


def _captioned(images: NDArray[np.uint8], labels: Sequence[str], background: int) -> NDArray[np.uint8]:
    """[N,H,W,C] with a strip of text under each image: [N,H+strip,W,C]."""
    n, h, w, c = images.shape
    if len(labels) != n:
        raise ValueError(f"{len(labels)} labels for {n} images")
    size = int(min(24, max(9, w / 10)))
    font = ImageFont.load_default(size)
    strips = []
    for text in labels:
        strip = Image.new("L", (w, size + size // 2), background)
        while text and font.getlength(text) > w:
            text = text[:-1]
        ImageDraw.Draw(strip).text(((w - font.getlength(text)) / 2, size // 6), text, fill=255 - background, font=font)
        strips.append(np.repeat(np.asarray(strip)[..., None], c, axis=-1))
    return np.concatenate([images, np.stack(strips)], axis=1)
