"""docs/composition.md, from what tests/composing.py finds out; the records lie beside it.

    OMP_NUM_THREADS=1 python tests/composing_page.py              runs every combination and writes the page (ten minutes)
    OMP_NUM_THREADS=1 python tests/composing_page.py insgen apa   runs those that have one of these names, and whatever isn't on the page yet
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from composing import AT_ONCE, PAIRS_ON, SIDE, STEPS, cells, outcome, pairs

DOCS = Path(__file__).parents[1] / "docs"
RECORDS, PAGE = DOCS / "composition.json", DOCS / "composition.md"
COMMAND = "OMP_NUM_THREADS=1 python tests/composing_page.py"


def read() -> dict[str, str]:
    """Outcomes by cell, as recorded."""
    return json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else {}


def write(found: Mapping[str, str]) -> None:
    for path, text in ((RECORDS, json.dumps(found, indent=0, ensure_ascii=False) + "\n"), (PAGE, render(found))):
        half = path.with_name(path.name + ".part")
        half.write_text(text, encoding="utf-8", newline="\n")
        os.replace(half, path)


HEAD = f"""# What goes with what

Every architecture with every term and every augmentation, on images with labels and without, and every two terms: each trained for {STEPS}
iterations at {SIDE} pixels in a narrow form, on noise. This page is generated (`{COMMAND}`): don't edit it.
The tests run a sample of it anew.

A combination *works* where it builds; every gradient, weight, buffer and logged value stays finite; every parameter of G, of D and of the term
itself moves; and G ends elsewhere than in the same run without the term (of no term: without the augmentation). Terms that *watch* have no loss: they
leave training as it is, bit for bit, and log values. A combination is *refused* where handful says why, in one line, before the first step. There is
nothing in between: what neither works nor is refused fails a test. That a combination works says nothing of the pictures that it makes.
"""


def render(found: Mapping[str, str]) -> str:
    """The page, from the records alone."""
    split = {tuple(key.split(" + ")): status for key, status in found.items()}
    one = {key: status for key, status in split.items() if len(key) <= 4}
    two = {key[3:]: status for key, status in split.items() if len(key) == 5}
    terms = sorted({key[3] for key in one if len(key) == 4})
    archs, augments = (sorted({key[i] for key in one}) for i in (0, 1))
    notes: dict[str, int] = {}
    lines = [HEAD, "Settings are the defaults, but for", "", "- `p`: 0.5 in whatever has such a strength",
             *(f"- `{t}`: {', '.join(f'{k}={json.dumps(v)}' for k, v in AT_ONCE[t].items())}" for t in sorted(AT_ONCE) if t in terms), "",
             "## Architecture x term x augmentation", "",
             f"The augmentations with which a term works on an architecture; all are {', '.join(augments)}.", "",
             _row(["", *archs]), "|" + " --- |" * (1 + len(archs))]
    for term in ("", *terms):
        watches = term and {s for k, s in one.items() if k[3:] == (term,) and not s.startswith("refused")} == {"watches"}
        rows = [_served(one, arch, term, augments) for arch in archs]
        lines.append(_row([f"`{term}`{' (watches)' if watches else ''}" if term else "no term", *(_cell(row, augments, notes) for row in rows)]))
    lines += ["", *(f"{number}. {_told(reason)}" for reason, number in notes.items()), ""]
    arch, augment, labels = PAIRS_ON
    lines += ["## Two terms", "", f"All {len(two)} pairs on {arch} with {augment}, images {'with' if labels else 'without'} labels. "
              f"{sum(s == 'acts' for s in two.values())} work: each term does beside the other what it does alone, by the measures above. The rest:",
              "", _row(["terms", "why not"]), "| --- | --- |"]
    lines += [_row([" + ".join(f"`{t}`" for t in pair), _told(s)]) for pair, s in two.items() if s != "acts"]
    return "\n".join(lines) + "\n"


def _served(one: Mapping[tuple[str, ...], str], arch: str, term: str, augments: list[str]) -> dict[tuple[str, str], str]:
    """Outcomes by augmentation and labels; without what the architecture refuses by itself, which stands in the first row."""
    both = itertools.product(augments, ("no labels", "labels"))
    return {(a, w): one[arch, a, w, *filter(None, [term])] for a, w in both if not term or not one[arch, a, w].startswith("refused")}


def _cell(row: Mapping[tuple[str, str], str], augments: list[str], notes: dict[str, int]) -> str:
    works = {key: status in ("acts", "watches") for key, status in row.items()}
    by_labels = {w: _some([a for a in augments if works.get((a, w))], augments) for w in ("no labels", "labels") if any(k[1] == w for k in row)}
    marks = sorted({notes.setdefault(status, len(notes) + 1) for key, status in row.items() if not works[key]})
    alike = len(set(by_labels.values())) == 1
    text = next(iter(by_labels.values())) if alike else "; ".join(f"{w}: {some}" for w, some in by_labels.items())
    return " ".join([text, *(f"[{m}]" for m in marks)])


def _some(got: list[str], everything: list[str]) -> str:
    if len(got) in (0, len(everything)):
        return "all" if got else "refused"
    return ", ".join(got) if 2 * len(got) <= len(everything) else f"all but {', '.join(a for a in everything if a not in got)}"


def _told(status: str) -> str:
    kind, _, reason = status.partition(": ")
    return reason if kind == "refused" else f"DEFECT: {reason}"


def _row(values: Iterable[str]) -> str:
    return "| " + " | ".join(v.replace("|", "\\|").replace("\n", " ") for v in values) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods whose combinations are run again; none: all")
    wanted = set(parser.parse_args().names)
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    before, found, begun, again = read() if wanted else {}, {}, time.monotonic(), 0
    for cell in itertools.chain(cells(), pairs()):
        key = str(cell)
        if key in before and not wanted & {cell.arch, cell.augment, *cell.terms}:
            found[key] = before[key]
            continue
        found[key] = outcome(cell)
        again += 1
        if found[key].startswith("fails"):
            print(f"{key}: {found[key]}", flush=True)
        elif again % 100 == 0:
            print(f"{again} run in {time.monotonic() - begun:.0f} s", flush=True)
    write(found)
    failing = sum(v.startswith("fails") for v in found.values())
    print(f"{len(found)} combinations, {again} run in {time.monotonic() - begun:.0f} s, {failing} fail: {PAGE.name}")
    return bool(failing)


if __name__ == "__main__":
    sys.exit(main())
