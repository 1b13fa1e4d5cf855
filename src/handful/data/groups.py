"""Groups of images that belong together (a patient, a scene, a film): none of them is on both sides of a split."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from handful.data.containers import Source
from handful.data.labels import is_table, natural, two_columns
from handful.data.problems import count, show
from handful.errors import HandfulError, UsageError

TABLES = (".csv", ".tsv", ".txt")


def read_groups(source: Source, how: str | os.PathLike) -> tuple[dict[str, int], str]:
    """Group number of every image of the source, by name, in the natural order of the groups; and a line that says how many there are.

    how: a regular expression, searched for in each file name (with a "/" in it: in the whole name below DATA), whose first (...) or, without
    one, whose whole match is the group; or a CSV file of the columns file and group, which is read like one of labels.
    Raises HandfulError where images have no group, UsageError for an expression that can't be read.
    """
    how = os.fspath(how)
    table = Path(os.path.expanduser(how))
    texts = _from_table(source, table) if table.suffix.lower() in TABLES or is_table(table) else _from_names(source.names, how)
    number = {text: i for i, text in enumerate(sorted(set(texts.values()), key=natural))}
    return {name: number[texts[name]] for name in source.names}, f"groups: {len(number)} among {count(len(texts), 'image')}, by {show(how)}"


def whole_groups(groups: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Which images to hold out, bool [N], so that about n of them are and no group (int64 [N]) is divided.

    Groups are drawn in random order and kept where they still fit; the smallest of the others is added where that comes nearer to n (or
    nothing would be held out). So the held-out images are at most half the smallest other group from n, unless that group is all there is.
    Raises HandfulError where there is one group, or one with nearly all images.
    """
    ids, group, sizes = groups.unique(return_inverse=True, return_counts=True)
    total, largest, held, spare = len(groups), int(sizes.max()), 0, []
    remedy = "give an expression or a CSV file that tells more apart, or leave data.groups out"
    if len(ids) < 2:
        raise HandfulError(f"data.groups: all {total} images are one group, so none can be held out; {remedy}")
    if total - largest < n / 2:
        raise HandfulError(f"data.groups: one group has {largest} of {total} images, the others are too few to hold out {n}; {remedy}")
    chosen = torch.zeros(len(ids), dtype=torch.bool)
    for g in torch.randperm(len(ids), generator=generator).tolist():
        size = int(sizes[g])
        if held + size <= n:
            chosen[g] = True
            held += size
        else:
            spare.append((size, g))
    size, g = min(spare, key=lambda pair: pair[0])            # there is one: n is less than the total
    if total - held - size >= 2 and (not held or held + size - n < n - held):
        chosen[g] = True
    return chosen[group]


def _from_names(names: Iterable[str], expression: str) -> dict[str, str]:
    try:
        pattern = re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"data.groups={show(expression)}: not a regular expression ({error}), nor a CSV file; write e.g. ^([^_]+)_") from None
    texts, without = {}, []
    for name in names:
        found = pattern.search(name if "/" in expression else name.rsplit("/", 1)[-1])
        text = found and found.group(1 if pattern.groups else 0)
        if text:
            texts[name] = text
        else:
            without.append(name)
    if without:
        raise HandfulError(f"data.groups={show(expression)}: no group for {count(len(without), 'image')} ({_some(without)}); the expression must be "
                           f"found in every file name, and its first (...) is the group")
    return texts


def _from_table(source: Source, file: Path) -> dict[str, str]:
    if not is_table(file):
        raise UsageError(f"data.groups={file}: there is no such file; give a CSV file (file,group) or a regular expression")
    texts = two_columns(source, file, "a group, as in: scans/1.png,patient7", within="in ")
    faults = []
    if without := [name for name in source.names if name not in texts]:
        faults.append(f"{count(len(without), 'image')} without a group ({_some(without)})")
    if strangers := sorted(texts.keys() - set(source.names) - {problem.name for problem in source.problems}):
        faults.append(f"{count(len(strangers), 'name')} not in '{source.path}' ({_some(strangers)})")
    if faults:
        raise HandfulError(f"groups in '{file}': {' and '.join(faults)}; names are relative to DATA, one line for every image")
    return {name: texts[name] for name in source.names}


def _some(names: list[str]) -> str:
    return ", ".join(show(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
