"""Near duplicates: a perceptual hash of every image, compared all with all in blocks.

The hash is the signs of the lowest cosine frequencies of a small grey copy, 0 where a frequency is too weak to have a reliable sign (flat and
smooth pictures have many). Measured on four sets of 100 to 372 photographs: unrelated ones disagree in 19 % of the signs and more, the same
one recompressed, halved or brightened in 0 to 3 %, cropped by 2 % a side in 1 to 11 %.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE, KEPT = 32, 16  # pixels of the small grey copy; side of the block of lowest cosine frequencies that is hashed
WEAK = 64.0  # below this a coefficient (unnormalised DCT-II of values 0..255) counts as 0
DISAGREEMENT = 0.08  # of the signs that both have
FEW_SIGNS = 24
LEVELS, LEVELS_OF_FLAT = 20.0, 8.0  # root mean square difference of the small copies; the smaller bound where there are few signs

_frequency, _place = np.mgrid[0:KEPT, 0:SIDE]
COSINES = np.cos(np.pi * _frequency * (2 * _place + 1) / (2 * SIDE)).astype(np.float32)  # DCT-II, [KEPT, SIDE]


def thumbprint(image: Image.Image) -> np.ndarray:
    """uint8 [32, 32]: a small grey copy, averaged by a box filter."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def signs(prints: np.ndarray) -> np.ndarray:
    """float32 [N, 255] of -1, 0 and +1: the signs of the lowest cosine frequencies of thumbprints [N, 32, 32], all but the mean."""
    spectrum = (COSINES @ prints.astype(np.float32) @ COSINES.T).reshape(len(prints), -1)[:, 1:]  # [N, KEPT * KEPT - 1]
    return np.where(np.abs(spectrum) < WEAK, 0, np.sign(spectrum)).astype(np.float32)


def near_pairs(prints: np.ndarray, block: int = 1024) -> list[tuple[int, int]]:
    """Pairs (i < j) of thumbprints [N, 32, 32] that show the same picture, up to recompression, resizing or slight edits."""
    hashes = signs(prints)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(hashes), block):
        one = hashes[start : start + block]
        for other in range(start, len(hashes), block):
            two = hashes[other : other + block]
            both = np.abs(one) @ np.abs(two).T  # [block, block]: signs that both have
            disagreeing = (both - one @ two.T) / 2
            i, j = np.nonzero(disagreeing <= DISAGREEMENT * both)
            ordered = start + i < other + j
            i, j = i[ordered], j[ordered]
            bound = np.where(both[i, j] < FEW_SIGNS, LEVELS_OF_FLAT, LEVELS)
            close = _difference(prints, start + i, other + j) <= bound
            pairs += zip((start + i)[close].tolist(), (other + j)[close].tolist())
    return pairs


def _difference(prints: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Root mean square difference of the pairs' thumbprints, in levels of 256: signs alone don't know contrast."""
    return np.concatenate([
        np.sqrt(((prints[i[at : at + 4096]].astype(np.float32) - prints[j[at : at + 4096]]) ** 2).mean((1, 2)))
        for at in range(0, max(len(i), 1), 4096)
    ])


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
