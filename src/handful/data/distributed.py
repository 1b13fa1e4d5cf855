"""Sets of labelled images as they are distributed: Tiny-ImageNet, CUB-200-2011, ImageNet; splits and classes from their own files.

A folder or zip (or one that holds nothing else) is recognised by these files, and DATA then is its training split; `PATH:val`, `PATH:test` name
the others:

* Tiny-ImageNet: wnids.txt; train/WNID/images, val/images with val/val_annotations.txt, test/images (without labels); names in words.txt.
* CUB-200-2011: images.txt, image_class_labels.txt, train_test_split.txt, classes.txt; images/CLASS. Bounding boxes are not used, nor is
  DigGAN's random crop along the long edge in training: as everywhere here, images are cropped to their centre.
* ImageNet (ILSVRC 2012): train/WNID (also below Data/CLS-LOC); val/WNID, or val flat with LOC_val_solution.csv or a file of one synset a
  line in the order of the images' names; names in LOC_synset_mapping.txt, synset_words.txt or words.txt.

Classes are numbered in the order of the set (ImageNet and Tiny-ImageNet: sorted WNIDs), and named in words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from handful.data.containers import Source, common_folder
from handful.data.problems import count, show
from handful.errors import HandfulError, UsageError

SPLITS = ("train", "val", "test")
_WNID = re.compile(r"n\d{8}")
_SYNSETS = ("imagenet_2012_validation_synset_labels.txt", "synset_labels.txt", "val_synset_labels.txt")
_WORDS = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")


@dataclass
class Layout:
    """A recognised set. splits: names of its images; keys: each one's class, where known; classes: keys in order -> names in words."""

    said: str
    test: str
    splits: dict[str, list[str]]
    keys: dict[str, str]
    classes: dict[str, str] = field(default_factory=dict)


def recognise(source: Source, split: str | None = None) -> Source:
    """The source as one split (default: train) of the set that it is; as it is where it is none.

    Raises UsageError for a split of a set that isn't recognised or hasn't it, HandfulError where files of the set contradict each other.
    """
    layout = None
    if source.names:
        layout = next((found for base in _bases(source) for look in (_tiny, _cub, _imagenet) if (found := look(source, base))), None)
    if layout is None:
        if split:
            raise UsageError(f"'{source.path}:{split}': '{source.path}' is not a set whose splits handful knows; name the folder of the images")
        return source
    names = layout.splits.get(split or "train")
    if not names:
        has = ", ".join(part for part, found in layout.splits.items() if found)
        raise UsageError(f"'{source.path}:{split or 'train'}': this {layout.said} has no such images; it has: {has or 'none'}")
    source.names = names
    if all(name in layout.keys for name in names):
        number = {key: i for i, key in enumerate(layout.classes)}
        source.classes = {name: number[layout.keys[name]] for name in names}, list(layout.classes.values())
    elif any(name in layout.keys for name in names):
        without = [name for name in names if name not in layout.keys]
        raise HandfulError(f"'{source.path}': the set's own files name no class for {count(len(without), 'image')} ({_some(without)});"
                           f" unpack it again")
    source.test = layout.test if (split or "train") == "train" and layout.splits.get(layout.test) else None
    others = [part for part, found in layout.splits.items() if found and part != (split or "train")]
    also = f"; {' and '.join(f'{source.path}:{part}' for part in others)} is the rest" if others else ""
    source.said.append(f"{layout.said} as distributed: {split or 'train'}, {count(len(names), 'image')}{also}")
    return source


def _bases(source: Source) -> list[str]:
    """Folders inside the source in which the set's files may lie: those around all images."""
    parts = common_folder(source.names).split("/")[:-1]
    return ["".join(f"{part}/" for part in parts[:n]) for n in range(len(parts) + 1)]


def _tiny(source: Source, base: str) -> Layout | None:
    text = _text(source, base + "wnids.txt")
    splits = _below(source, base)
    if text is None or not splits["train"]:
        return None
    wnids = sorted(text.split())
    keys = {name: name[len(base):].split("/")[1] for name in splits["train"]}
    annotations = _table(source, base + "val/val_annotations.txt", "\t")
    for name in splits["val"]:
        folder, file = name[len(base):].split("/")[1], name.rsplit("/", 1)[-1]
        if file in annotations or folder in wnids:
            keys[name] = annotations.get(file, folder)
    _refuse_strangers(source, keys, wnids, "wnids.txt")
    return Layout("Tiny-ImageNet", "val", splits, keys, _in_words(source, [base], wnids))


def _cub(source: Source, base: str) -> Layout | None:
    files = [f"{base}{file}.txt" for file in ("images", "image_class_labels", "train_test_split", "classes")]
    if any(_text(source, file) is None for file in files):
        return None
    path, label, train, classes = (_table(source, file, " ") for file in files)
    if repeated := [name for name, often in Counter(path.values()).items() if often > 1]:
        raise HandfulError(f"'{source.path}': images.txt names {count(len(repeated), 'image')} more than once ({_some(repeated)}); unpack it again")
    if not all(i in label and i in train for i in path):
        raise HandfulError(f"'{source.path}': image_class_labels.txt or train_test_split.txt leaves out images of images.txt; unpack it again")
    there = set(source.names)
    gone = [name for i in path if (name := f"{base}images/{path[i]}") not in there]
    if gone:
        raise HandfulError(f"'{source.path}': images.txt names {count(len(gone), 'image')} that aren't there ({_some(gone)}); unpack it again")
    splits = {part: sorted(f"{base}images/{path[i]}" for i in path if train[i] == flag) for part, flag in (("train", "1"), ("test", "0"))}
    keys = {f"{base}images/{path[i]}": label[i] for i in path}
    _refuse_strangers(source, keys, classes, "classes.txt")
    words = {key: re.sub(r"^\d+\.", "", name).replace("_", " ") for key, name in classes.items()}
    return Layout("CUB-200-2011", "test", splits, keys, words)


def _imagenet(source: Source, base: str) -> Layout | None:
    splits = _below(source, base)
    if not splits["train"] or sum(map(len, splits.values())) < len(source.names):
        return None
    keys = {name: name[len(base):].split("/")[1] for name in splits["train"]}
    wnids = sorted(set(keys.values()))
    if not all(map(_WNID.fullmatch, wnids)):
        return None
    bases = [place for place in _bases(source) if base.startswith(place)][::-1]
    keys |= _validation(source, base, bases, splits["val"])
    _refuse_strangers(source, keys, wnids, "train")
    return Layout("ImageNet", "val", splits, keys, _in_words(source, bases, wnids))


def _validation(source: Source, base: str, bases: list[str], names: list[str]) -> dict[str, str]:
    """WNIDs of validation images: by folder, by the solution file of the Kaggle release, or line by line."""
    folders = {name: name[len(base):].split("/")[1] for name in names}
    if all(map(_WNID.fullmatch, folders.values())):
        return folders
    for place in bases:
        solution = _table(source, place + "LOC_val_solution.csv", ",")
        if solution:
            stems = {name: name.rsplit("/", 1)[-1].split(".")[0] for name in names}
            return {name: said[0] for name, stem in stems.items() if (said := solution.get(stem, "").split())}
        for file in _SYNSETS:
            lines = (_text(source, place + file) or _text(source, f"{place}val/{file}") or "").split()
            if lines:
                if len(lines) != len(names):
                    raise HandfulError(f"'{source.path}': {file} has {len(lines)} lines for {count(len(names), 'image')} in val; get the right one")
                return dict(zip(sorted(names), lines))
    return {}


# ------------------------------------------------------------------------------------------------------------------- helpers


def _below(source: Source, base: str) -> dict[str, list[str]]:
    return {part: [name for name in source.names if name.startswith(f"{base}{part}/")] for part in SPLITS}


def _text(source: Source, name: str) -> str | None:
    raw = source.read_extra(name)
    return None if raw is None else raw.decode("utf-8", errors="replace")


def _table(source: Source, name: str, separator: str) -> dict[str, str]:
    """First cell -> second cell of each line of a file; {} where there is none. Raises HandfulError where it says two things of one."""
    said: dict[str, str] = {}
    for line in (_text(source, name) or "").splitlines():
        cells = line.strip().split(separator)
        if len(cells) > 1 and said.setdefault(cells[0], cells[1]) != cells[1]:
            raise HandfulError(f"'{source.path}': {show(name)} says '{show(cells[1])}' of '{show(cells[0])}', and '{show(said[cells[0]])}' before;"
                               f" unpack it again")
    return said


def _in_words(source: Source, bases: list[str], wnids: list[str]) -> dict[str, str]:
    """WNID -> the first of its words; with the WNID where two classes have the same ("crane" is a bird and a machine)."""
    for text in (_text(source, base + file) for base in bases for file in _WORDS):
        if text:
            said = dict(line.strip().replace("\t", " ").split(" ", 1) for line in text.splitlines() if " " in line.strip().replace("\t", " "))
            words = {wnid: said.get(wnid, wnid).split(",")[0].strip() for wnid in wnids}
            often = Counter(words.values())
            return {wnid: word if often[word] == 1 else f"{word} ({wnid})" for wnid, word in words.items()}
    return {wnid: wnid for wnid in wnids}


def _refuse_strangers(source: Source, keys: dict[str, str], known: Iterable[str], where: str) -> None:
    known = set(known)
    if strange := [name for name, key in keys.items() if key not in known]:
        raise HandfulError(f"'{source.path}': {count(len(strange), 'image')} of classes that {where} does not have"
                           f" ({_some(strange)}); unpack it again")


def _some(names: list[str]) -> str:
    return ", ".join(show(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")


