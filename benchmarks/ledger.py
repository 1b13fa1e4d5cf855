"""The ledger: a record per measured figure in benchmarks/records, and docs/results.md made from them and from nothing else.

A benchmark calls `record(...)` for each figure that it prints; `handful reproduce` leaves its records in a run's result.json. So no figure can
stand on the page without its command, commit, device and seed. benchmarks/records/NAME.jsonl holds a JSON record per line; NAME follows from the
command: `python benchmarks/NAME.py` or `handful NAME` (reproduce, train), else "other". How the page is laid out: benchmarks/_sections.py.

    python benchmarks/ledger.py                                       writes the page
    python benchmarks/ledger.py --plots                               and the plots whose values have changed (needs matplotlib)
    python benchmarks/ledger.py --add runs/reproduce/RUN/result.json  takes these results first; --device names the machine as the page should
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from _page import arrange, plots, render, sections
from _plots import draw as draw_plot
from _plots import is_current
from handful.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RECORDS, PAGE, IMAGES = ROOT / "benchmarks" / "records", ROOT / "docs" / "results.md", ROOT / "docs" / "images"
NEEDED = ("figure", "value", "unit", "command", "commit", "device", "seed", "date")
MAY_HAVE = ("group", "table", "published", "share", "note")


def record(figure: str, value: float, unit: str, command: str, *, device: str, seed: int | None = None, group: str = "",
           table: str = "", published: float | None = None, note: str = "", folder: Path = RECORDS) -> Path:
    """Writes one record, in place of an older one of the same figure on the same device with the same seed; returns the path of its file.

    figure: what was measured ("fastgan256: CPU-s per image"); unit: "" for a ratio. command: what makes it again, run from the
    repository's root. table: a paper's, such as "fastgan/2", where `published` stands. group: the heading on the page (none: `table`).
    """
    facts = {"figure": figure, "value": value, "unit": unit, "command": command, "commit": _commit(), "device": device,
             "seed": seed, "date": datetime.date.today().isoformat()}
    more = {"group": group, "table": table, "published": published, "note": note}
    return _put(facts | {k: v for k, v in more.items() if v not in ("", None)}, folder)


def add(result: Path, *, device: str | None = None, folder: Path = RECORDS) -> list[Path]:
    """Takes the records of a result.json of `handful reproduce`; returns the file of each. device: what the page calls the machine (none: as the
    file does).

    Raises ValueError, naming the file, where it holds no records.
    """
    try:
        found = json.loads(result.read_text(encoding="utf-8"))["records"]
        faults = [fault for r in found for fault in _wrong(r)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{result} is not a result of handful reproduce ({type(error).__name__}: {error})") from None
    if faults:
        raise ValueError(f"{result}: missing or unknown: {', '.join(faults)}")
    return [_put(r | ({"device": device} if device else {}), folder) for r in found]


def _put(facts: Mapping[str, Any], folder: Path) -> Path:
    found = re.search(r"\bbenchmarks/(\w+)\.py|\bhandful (\w+)", facts["command"])
    path = folder / f"{(found[1] or found[2]) if found else 'other'}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):                         # two benchmarks that end at the same moment both keep their figures
        kept = [r for r in _lines(path) if _identity(r) != _identity(facts)] if path.exists() else []
        ordered = sorted([*kept, facts], key=_identity)
        write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ordered))
    return path


def _identity(r: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two records have in common when one replaces the other; records are sorted by it."""
    share = -float(f"{r.get('share', 1):.3g}")               # it may come from a division
    return r.get("group") or r.get("table", ""), r["figure"], share, r["device"], -1 if r["seed"] is None else r["seed"]


def _wrong(facts: Mapping[str, Any]) -> list[str]:
    return [k for k in NEEDED if k not in facts] + [k for k in facts if k not in NEEDED + MAY_HAVE]


def _lines(path: Path) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):      # splitlines also breaks at U+2028
        try:
            facts = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path.name}, line {number} is not a record ({error})") from None
        if not isinstance(facts, dict):
            raise ValueError(f"{path.name}, line {number} is not a record ({type(facts).__name__})")
        if wrong := _wrong(facts):
            raise ValueError(f"{path.name}, line {number}: missing or unknown: {', '.join(wrong)}")
        records.append(facts)
    return records


def read(folder: Path = RECORDS) -> list[dict[str, Any]]:
    """All records, by file and line. Raises ValueError, naming the file, the line and the keys, where one is not a record."""
    return [r for path in sorted(folder.glob("*.jsonl")) for r in _lines(path)]


def _commit() -> str:
    """The commit that is measured, with a "+" where tracked files differ from it; those that this file writes don't count."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/records", ":(exclude)docs")
    return (_git("rev-parse", "--short=10", "HEAD") or "unknown") + ("+" if changed else "")


def _git(*args: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False).stdout.strip()


def images(records: Sequence[Mapping[str, Any]], draw: bool = False, folder: Path = IMAGES) -> list[Path]:
    """The plots that are missing or show other values than the records; draws them where asked, and removes those that the page no longer has."""
    wanted = {folder / name: (section.plot, tables) for section, found in sections(records)
              for name, tables in plots(section, arrange(section.layouts, found)).items()}
    outdated = [path for path, (_, tables) in wanted.items() if not is_current(path, tables)]
    for path in outdated if draw else ():
        draw_plot(path, *wanted[path])
    for path in set(folder.glob("results-*.svg")) - wanted.keys() if draw else ():
        path.unlink()
    return outdated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", nargs="+", type=Path, default=[], metavar="RESULT", help="result.json of runs of handful reproduce")
    parser.add_argument("--device", help="what the page calls the machine that these results come from")
    parser.add_argument("--plots", action="store_true", help="draw the plots whose values have changed; needs matplotlib")
    args = parser.parse_args()
    if args.plots and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plots needs matplotlib: pip install matplotlib")
    for result in args.add:
        paths = add(result, device=args.device)
        for path in sorted(set(paths)):
            print(f"{path.relative_to(ROOT)}: {paths.count(path)} records from {result}")
    records = read()
    write_text(PAGE, render(records))
    print(PAGE.relative_to(ROOT))
    for path in images(records, args.plots):
        print(path.relative_to(ROOT) if args.plots else f"{path.relative_to(ROOT)} shows older values: draw it again with --plots")


if __name__ == "__main__":
    main()
