"""The ledger: one JSON record per measured figure in benchmarks/records, and docs/results.md made from them and from nothing else.

A benchmark calls `record(...)` for each figure that it prints; `python benchmarks/ledger.py` writes the page. So no figure can stand on the
page without its command, commit, device and seed.
"""

from __future__ import annotations

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
MAY_HAVE = ("group", "table", "published", "note")
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
    place = [group or table, figure, device, "" if seed is None else f"seed {seed}"]
    facts = {"figure": figure, "value": value, "unit": unit, "command": command, "commit": _commit(), "device": device,
             "seed": seed, "date": datetime.date.today().isoformat()}
    more = {"group": group, "table": table, "published": published, "note": note}
    facts |= {k: v for k, v in more.items() if v not in ("", None)}
    path = folder / ("-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in place if part) + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    return path


def read(folder: Path = RECORDS) -> list[dict[str, Any]]:
    """All records, by file name. Raises ValueError, naming the file and the keys, where one is not a record."""
    records = []
    for path in sorted(folder.glob("*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        if wrong := [k for k in NEEDED if k not in facts] + [k for k in facts if k not in NEEDED + MAY_HAVE]:
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
        rows = sorted(groups[group], key=lambda r: (r["figure"], r["device"], str(r["seed"])))
        compared = any("published" in r for r in rows)
        heads = ["figure", "measured", *(["published"] if compared else []), "device", "seed", "command", "commit", "date", "note"]
        lines += [f"## {group}", "", _line(heads), "|" + " --- |" * len(heads), *(_line(_cells(r, compared)) for r in rows), ""]
    return "\n".join(lines)


def _cells(r: Mapping[str, Any], compared: bool) -> list[Any]:
    published = [f"{r['published']:g}" if "published" in r else ""] if compared else []
    return [r["figure"], f"{r['value']:.4g} {r['unit']}".strip(), *published, r["device"], "" if r["seed"] is None else r["seed"],
            f"`{r['command']}`", r["commit"], r["date"], r.get("note", "")]


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


def _commit() -> str:
    """The commit that is measured, with a "+" where tracked files differ from it."""
    return (_git("rev-parse", "--short=10", "HEAD") or "unknown") + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*args: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    PAGE.write_text(render(read()), encoding="utf-8", newline="\n")
    print(PAGE.relative_to(ROOT))
