"""The sheet of `handful neighbours`: a row per sample, the most suspicious first, with its nearest training images by each kind of distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 112                               # pixels a side at most; smaller pictures are enlarged by a whole number
GAP, MARGIN = 4, 16
INK, SOFT, RED, BACK = "#1d2025", "#62676f", "#d0201c", "#ffffff"


def sheet(samples: np.ndarray, captions: Sequence[str], shown: Mapping[str, tuple[np.ndarray, np.ndarray, Sequence[Sequence[str]]]],
          legend: str) -> np.ndarray:
    """uint8 [H,W,3].

    samples: uint8 [n,H,W,C]; captions: what stands under each. shown: by the title of a kind its pictures uint8 [n,k,H,W,C], which of them are to
    be framed in red bool [n,k], and their captions. legend: a line or more above all, broken at spaces.
    """
    cell_w, cell_h, font = *_size(*samples.shape[1:3]), ImageFont.load_default(11)
    line = 14
    widths = [cell_w] + [p.shape[1] * (cell_w + GAP) - GAP for p, *_ in shown.values()]
    width = 2 * MARGIN + sum(widths) + MARGIN * len(shown)
    lines = _broken(legend, font, width - 2 * MARGIN)
    top, row = MARGIN + line * (len(lines) + 2), cell_h + line + 2 * GAP
    canvas = Image.new("RGB", (width, top + row * len(samples) + MARGIN - GAP), BACK)
    draw = ImageDraw.Draw(canvas)
    for i, text in enumerate(lines):
        draw.text((MARGIN, MARGIN + line * i - 4), text, INK, font)
    lefts = np.cumsum([MARGIN, *(w + MARGIN for w in widths[:-1])]).tolist()
    for left, w, title in zip(lefts, widths, ("sample", *shown)):
        draw.text((left, top - line - 4), _cut(title, font, w + MARGIN - GAP), INK, font)

    def place(picture: np.ndarray, left: int, y: int, caption: str, red: bool) -> None:
        canvas.paste(_fitted(picture, cell_w, cell_h), (left, y))
        if red:
            draw.rectangle((left - 2, y - 2, left + cell_w + 1, y + cell_h + 1), outline=RED, width=2)
        else:
            draw.rectangle((left - 1, y - 1, left + cell_w, y + cell_h), outline="#c9c9c4")
        draw.text((left, y + cell_h + 1), _cut(caption, font, cell_w), RED if red else SOFT, font)

    for i, sample in enumerate(samples):
        y = top + row * i
        place(sample, MARGIN, y, captions[i], False)
        for left, (pictures, framed, texts) in zip(lefts[1:], shown.values()):
            for j, picture in enumerate(pictures[i]):
                place(picture, left + j * (cell_w + GAP), y, texts[i][j], bool(framed[i, j]))
    return np.asarray(canvas)


def _size(height: int, width: int) -> tuple[int, int]:
    """(width, height) of a cell."""
    scale = CELL / max(height, width)
    scale = max(1, int(scale)) if scale >= 1 else scale
    return max(1, round(width * scale)), max(1, round(height * scale))


def _fitted(picture: np.ndarray, width: int, height: int) -> Image.Image:
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).convert("RGB")
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.NEAREST if width >= image.width else Image.Resampling.LANCZOS)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _broken(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
