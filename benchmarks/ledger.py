"""The ledger: one JSON record per measured figure in benchmarks/records, and docs/results.md made from them and from nothing else.

A benchmark calls `record(...)` for each figure that it prints; `handful reproduce` leaves its records in a run's result.json. So no figure can
stand on the page without its command, commit, device and seed.

    python benchmarks/ledger.py                                       writes the page
    python benchmarks/ledger.py --add runs/reproduce/RUN/result.json  takes these results first; --device names the machine as the page should
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORDS, PAGE = ROOT / "benchmarks" / "records", ROOT / "docs" / "results.md"
NEEDED = ("figure", "value", "unit", "command", "commit", "device", "seed", "date")
MAY_HAVE = ("group", "table", "published", "share", "note")
HEAD = """# Results

Each figure was measured by the command beside it; the records lie in `benchmarks/records`. This page is generated from them
(`python benchmarks/ledger.py`): don't edit it. A commit with a + had uncommitted changes. Rounded to four digits.
"""


def record(figure: str, value: float, unit: str, command: str, *, device: str, seed: int | None = None, group: str = "",
           table: str = "", published: float | None = None, note: str = "", folder: Path = RECORDS) -> Path:
    """Writes one record, in place of an older one of the same figure on the same device with the same seed; returns its path.

    figure: what was measured ("fastgan256: CPU-s per image"); unit: "" for a ratio. command: what makes it again, run from the
    repository's root. table: a paper's, such as "fastgan/2", where `published` stands. group: the heading on the page (none: `table`).
    """
    facts = {"figure": figure, "value": value, "unit": unit, "command": command, "commit": _commit(), "device": device,
             "seed": seed, "date": datetime.date.today().isoformat()}
    more = {"group": group, "table": table, "published": published, "note": note}
    return _write(facts | {k: v for k, v in more.items() if v not in ("", None)}, folder)


def add(result: Path, *, device: str | None = None, folder: Path = RECORDS) -> list[Path]:
    """Takes the records of a result.json of `handful reproduce`. device: what the page shall call the machine (none: as the file does).

    Raises ValueError, naming the file, where it holds no records.
    """
    try:
        found = json.loads(result.read_text(encoding="utf-8"))["records"]
        faults = [fault for r in found for fault in _wrong(r)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{result} is not a result of handful reproduce ({type(error).__name__}: {error})") from None
    if faults:
        raise ValueError(f"{result}: missing or unknown: {', '.join(faults)}")
    return [_write(r | ({"device": device} if device else {}), folder) for r in found]


def _write(facts: Mapping[str, Any], folder: Path) -> Path:
    share = facts.get("share", 1)
    place = [facts.get("group") or facts.get("table", ""), facts["figure"], "" if share == 1 else f"{100 * share:.3g} percent", facts["device"],
             "" if facts["seed"] is None else f"seed {facts['seed']}"]
    path = folder / ("-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in place if part) + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    return path


def _wrong(facts: Mapping[str, Any]) -> list[str]:
    return [k for k in NEEDED if k not in facts] + [k for k in facts if k not in NEEDED + MAY_HAVE]


def read(folder: Path = RECORDS) -> list[dict[str, Any]]:
    """All records, by file name. Raises ValueError, naming the file and the keys, where one is not a record."""
    records = []
    for path in sorted(folder.glob("*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        if wrong := _wrong(facts):
            raise ValueError(f"{path.name}: missing or unknown: {', '.join(wrong)}")
        records.append(facts)
    return records


def render(records: Sequence[Mapping[str, Any]]) -> str:
    """The page: a table per group, in an order that depends on the records alone."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for r in records:
        groups.setdefault(r.get("group") or r.get("table") or "General", []).append(r)
    lines = [HEAD if records else HEAD + "\nNothing is recorded yet.\n"]
    for group in sorted(groups):
        rows = sorted(groups[group], key=lambda r: (r["figure"], -r.get("share", 1), r["device"], str(r["seed"])))
        more = [name for name, key in (("published", "published"), ("schedule", "share")) if any(key in r for r in rows)]
        heads = ["figure", "measured", *more, "device", "seed", "command", "commit", "date", "note"]
        lines += [f"## {group}", "", _line(heads), "|" + " --- |" * len(heads), *(_line(_cells(r, more)) for r in rows), ""]
    return "\n".join(lines)


def _cells(r: Mapping[str, Any], more: Sequence[str]) -> list[Any]:
    """more: "published", and "schedule": the share of the published one that was run."""
    said = {"published": f"{r['published']:g}" if "published" in r else "", "schedule": f"{100 * r['share']:.3g}%" if "share" in r else ""}
    return [r["figure"], f"{r['value']:.4g} {r['unit']}".strip(), *(said[name] for name in more), r["device"], "" if r["seed"] is None else r["seed"],
            f"`{r['command']}`", r["commit"], r["date"], r.get("note", "")]


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


def _commit() -> str:
    """The commit that is measured, with a "+" where tracked files differ from it."""
    return (_git("rev-parse", "--short=10", "HEAD") or "unknown") + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*args: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", nargs="+", type=Path, default=[], metavar="RESULT")
    parser.add_argument("--device")
    args = parser.parse_args()
    for result in args.add:
        for path in add(result, device=args.device):
            print(path.name)
    PAGE.write_text(render(read()), encoding="utf-8", newline="\n")
    print(PAGE.relative_to(ROOT))
