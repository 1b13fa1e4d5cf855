"""Near duplicates: a perceptual hash of every image, compared all with all in blocks."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE, KEPT = 32, 16  # pixels of the small grey copy; side of the block of lowest cosine frequencies that is hashed
BITS = KEPT * KEPT - 1  # all but the mean
NEAR_BITS = 24  # of 255
NEAR_LEVELS = 8.0  # root mean square difference of the small copies, in levels of 256

_frequency, _place = np.mgrid[0:KEPT, 0:SIDE]
COSINES = np.cos(np.pi * _frequency * (2 * _place + 1) / (2 * SIDE)).astype(np.float32)  # DCT-II, [KEPT, SIDE]


def thumbprint(image: Image.Image) -> np.ndarray:
    """uint8 [32, 32]: a small grey copy, averaged by a box filter."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def signs(prints: np.ndarray) -> np.ndarray:
    """float32 [N, 255] of +1 and -1: the signs of the lowest cosine frequencies of thumbprints [N, 32, 32]."""
    spectrum = COSINES @ prints.astype(np.float32) @ COSINES.T  # [N, KEPT, KEPT]
    return np.where(spectrum.reshape(len(prints), -1)[:, 1:] > 0, 1, -1).astype(np.float32)


def near_pairs(prints: np.ndarray, block: int = 1024) -> list[tuple[int, int]]:
    """Pairs (i < j) of thumbprints [N, 32, 32] that show the same picture, up to recompression, resizing or slight edits."""
    bits = signs(prints)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(bits), block):
        part = bits[start : start + block]
        for other in range(start, len(bits), block):
            differing = (BITS - part @ bits[other : other + block].T) / 2  # [block, block]
            for i, j in np.argwhere(differing <= NEAR_BITS):
                if start + i < other + j and _close(prints[start + i], prints[other + j]):
                    pairs.append((int(start + i), int(other + j)))
    return pairs


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    """The small copies agree in themselves too: hashes of flat images are noise."""
    difference = a.astype(np.float32) - b
    return float(np.sqrt((difference**2).mean())) <= NEAR_LEVELS


def groups(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Pairs joined into groups of numbers, each sorted."""
    leader: dict[int, int] = {}

    def find(i: int) -> int:
        while leader.setdefault(i, i) != i:
            i = leader[i]
        return i

    for i, j in pairs:
        first, second = sorted((find(i), find(j)))
        leader[second] = first
    joined: dict[int, list[int]] = {}
    for i in sorted(leader):
        joined.setdefault(find(i), []).append(i)
    return list(joined.values())
