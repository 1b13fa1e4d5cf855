"""docs/results.md: tables made of the records, by the layouts in _sections.py."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from _sections import BY_COLON, REST, SECTIONS, Layout, Section

Record = Mapping[str, Any]
HEAD = """# Results

Figures that were measured with this code, and how to measure them again. This page is generated from the records in `benchmarks/records`
by `python benchmarks/ledger.py`: don't edit it. Every record stands in a table here, rounded to four digits; the files hold the full precision,
and notes that belong to single figures alone. Numbers in the text are computed from the records too.

CPU-s and CPU-ms are CPU time of the process over all its threads. Where a benchmark also states the speed of a plain 3x3 convolution, it was measured
in the same process, to compare machines and their load. A commit with a + had uncommitted changes when it was measured. An empty cell was not
measured.
"""
LISTED = 3                                      # more commands than this stand in a collapsed list
PARTS = r"[;,] (?![^(]*\))(?!\d+(?:[;,]|$))"      # between the parts of a note; not within brackets, nor in "seeds 0, 1, 2"
NUMBER = r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])"


@dataclass
class Table:
    layout: Layout
    title: str
    device: str
    cells: dict[tuple[str, str], Record] = field(default_factory=dict)

    @property
    def rows(self) -> list[str]:
        return ordered({row for row, _ in self.cells}, self.layout.rows)

    @property
    def columns(self) -> list[str]:
        return ordered({column for _, column in self.cells}, self.layout.columns)

    def by_column(self, column: str) -> list[Record]:
        return [r for (_, c), r in self.cells.items() if c == column]


def render(records: Sequence[Record]) -> str:
    """The page, which depends on the records alone and not on their order."""
    found = sections(records)
    if not found:
        return HEAD + "\nNothing is recorded yet.\n"
    devices = Counter(r["device"] for r in records)
    lines = [HEAD, "Machines: " + "; ".join(f"{name} ({n} figures)" for name, n in sorted(devices.items())) + ".", ""]
    lines += [f"- [{section.title}](#{anchor(section.title)})" for section, _ in found]
    for section, rs in found:
        lines += ["", f"## {section.title}", "", *_section(section, rs)]
    return "\n".join(lines) + "\n"


def sections(records: Sequence[Record]) -> list[tuple[Section, list[Record]]]:
    """The records by section: those of SECTIONS in their order, then published tables, then what has no section yet."""
    groups: dict[str, list[Record]] = {}
    for r in records:
        groups.setdefault(r.get("group") or r.get("table") or "General", []).append(r)
    known = [s for s in SECTIONS if s.group in groups]
    other = sorted(groups.keys() - {s.group for s in known}, key=lambda name: (all("group" in r for r in groups[name]), natural(name)))
    return [(s, groups[s.group]) for s in known + [_other(name, groups[name]) for name in other]]


def _other(name: str, records: Sequence[Record]) -> Section:
    if any("group" in r for r in records) or name == "General":
        return Section(name, name, "")
    return Section(name, name, f"The table {name} of `handful reproduce`: what was measured beside what the paper states.", (BY_COLON,))


def arrange(layouts: Sequence[Layout], records: Iterable[Record]) -> list[Table]:
    """Tables that together hold each record once: by layout, title and machine; what no layout takes, or has no free cell, by itself at the end."""
    tables: dict[tuple[str, int, str], Table] = {}
    places: list[tuple[tuple[str, int, str], str, str, Record]] = []
    left: list[Record] = []
    for r in sorted(records, key=lambda r: (r["figure"], str(r["seed"]), r.get("share", 1))):
        for number, layout in enumerate(layouts):
            if match := re.fullmatch(layout.pattern, r["figure"]):
                title, row, column = (text.format(**match.groupdict()) for text in (layout.title, layout.row, layout.column))
                column += "" if r.get("share", 1) == 1 else f", {100 * r['share']:.3g}% of the schedule"
                key = (r["device"], number, title)
                tables.setdefault(key, Table(layout, title, r["device"]))
                places.append((key, row, column, r))
                break
        else:
            left.append(r)
    seeds: dict[tuple[Any, ...], set[Any]] = {}
    for key, row, column, r in places:
        seeds.setdefault((key, row, column), set()).add(r["seed"])
    several = {key for (key, *_), found in seeds.items() if len(found) > 1}
    for key, row, column, r in places:
        cell = (row, f"{column}, seed {r['seed']}" if key in several else column)
        if cell in tables[key].cells:
            left.append(r)
        else:
            tables[key].cells[cell] = r
    if left and layouts == (REST,):
        raise ValueError(f"recorded twice: {', '.join(r['figure'] for r in left)}")
    titles = {number: ordered({t for _, n, t in tables if n == number}, layout.titles) for number, layout in enumerate(layouts)}
    found = [tables[key] for key in sorted(tables, key=lambda key: (key[0], key[1], titles[key[1]].index(key[2])))]
    return found + (arrange((REST,), left) if left else [])


def _section(section: Section, records: Sequence[Record]) -> list[str]:
    tables = arrange(section.layouts, records)
    commands = [_distinct(map(_command, t.cells.values())) for t in tables]
    every = _distinct(c for found in commands for c in found)
    each = len(every) > 1 and all(len(found) == 1 for found in commands)          # a command per table
    many = len(every) > LISTED and not each
    several = len({t.device for t in tables}) > 1
    lines = [_wrapped(text) + "\n" for text in (section.text, _shows(section, tables)) if text]
    if not each and (section.command or not many):
        lines += _code([section.command] if many else every)
    lines += [f"![{section.title}](images/{name})\n" for name in plots(section, tables)]
    for table, found in zip(tables, commands):
        title = table.title if len(tables) > 1 or table.layout is not REST else ""
        title = ", ".join(filter(None, [title, table.device])) if several else title
        lines += [f"### {title}\n"] if title else []
        lines += _code(found) if each else []
        lines += [*_table(table), "", _wrapped(_measured(table, many)), ""]
    if many:
        lines += _details(records)
    return "\n".join(lines).rstrip("\n").split("\n")


def _shows(section: Section, tables: Sequence[Table]) -> str:
    devices, said = _distinct(t.device for t in tables), []
    for device in devices if section.shows else ():
        values: dict[str, list[float]] = {}
        for r in (r for t in tables if t.device == device for r in t.cells.values() if r.get("share", 1) == 1):
            values.setdefault(r["figure"], []).append(r["value"])
        try:
            text = section.shows({name: fmean(found) for name, found in values.items()})
        except LookupError:                     # a figure that the sentence is about wasn't measured on this machine
            continue
        said.append(text if len(devices) == 1 else f"{device}: {text}")
    return "\n\n".join(said)


def plots(section: Section, tables: Sequence[Table]) -> dict[str, list[Table]]:
    """File names and what each of them draws: a figure per machine, with a panel per table."""
    found: dict[str, list[Table]] = {}
    if section.plot:
        drawn = [t for t in tables if t.layout is section.layouts[section.plot.layout]]
        for t in drawn:
            more = f"-{anchor(t.device)}" if len({t.device for t in drawn}) > 1 else ""
            found.setdefault(f"results-{anchor(section.title)}{more}.svg", []).append(t)
    return found


# ---------------------------------------------------------------------------------------------------------------- one table


def _table(table: Table) -> list[str]:
    layout, columns = table.layout, table.columns
    published = {c for c in columns if any("published" in r for r in table.by_column(c))}
    units = {c: _same(r["unit"] for r in table.by_column(c)) for c in columns}
    heads = [layout.head]
    for c in columns:
        heads += [c if not units[c] or units[c] in c or units[c] in table.title else f"{c} ({units[c]})"] + ["published"] * (c in published)
    lines = [_line([*heads, *layout.facts]), "|---|" + "---:|" * (len(heads) - 1 + len(layout.facts))]
    for row in table.rows:
        cells = [row]
        for c in columns:
            r = table.cells.get((row, c))
            cells.append("" if r is None else _value(r, layout) + (f" {r['unit']}" if units[c] is None and r["unit"] else ""))
            cells += [f"{r['published']:g}" if r and "published" in r else ""] * (c in published)
        notes = [r.get("note", "") for (at, _), r in table.cells.items() if at == row]
        lines.append(_line(cells + [", ".join(_distinct(m[1] for note in notes if (m := re.search(fact, note)))) for fact in layout.facts.values()]))
    for name, values in _per_column(table).items():
        cells = [name]
        for c in columns:
            cells += [values[c]] + [""] * (c in published)
        lines.append(_line(cells + [""] * len(layout.facts)))
    return lines


def _value(r: Record, layout: Layout) -> str:
    aside = re.search(layout.aside[1], r.get("note", "")) if layout.aside[0] else None
    return (f"{r['value']:.4g}" if abs(r["value"]) < 10000 else f"{r['value']:.0f}") + (f" ({float(aside[1]):g})" if aside else "")


def _per_column(table: Table) -> dict[str, dict[str, str]]:
    """Rows below the figures: what is the same in a column, but not in the table."""
    found = {}
    for name, get in _provenance(table).items():
        columns = {c: _same(get(r) for r in table.by_column(c)) for c in table.columns}
        if len(set(columns.values())) > 1 and None not in columns.values():
            found[name] = columns
    return found


def _provenance(table: Table) -> dict[str, Any]:
    return {"date": lambda r: r["date"], "commit": lambda r: r["commit"], "seed": lambda r: "" if r["seed"] is None else str(r["seed"]),
            "note": _specific(table)}


def _measured(table: Table, many: bool) -> str:
    """The line under a table: machine, date, commit, seed, and what the notes have in common. many: the commits stand beside the commands."""
    records, below, get = list(table.cells.values()), _per_column(table), _provenance(table)
    said = [table.device]
    for name in ("date", "commit", "seed"):
        values = [v for v in sorted({get[name](r) for r in records}) if v]
        if many and name == "commit" and len(values) > 1:
            said.append("the commits stand with the commands below")
        elif values and name not in below:
            said.append(("" if name == "date" else name + ("s " if len(values) > 1 else " ")) + ", ".join(values))
    notes = [_note(r, table.layout) for r in records]
    said.append(", ".join(_shared(notes)) if "note" in below else _common(notes))
    asides = table.layout.aside[0] if any(re.search(table.layout.aside[1], r.get("note", "")) for r in records) else ""
    return "Measured on " + "; ".join(filter(None, said)) + "." + (f" In brackets: {asides}." if asides else "")


def _note(r: Record, layout: Layout) -> list[str]:
    """The parts of the note, less what the table shows of it."""
    note = r.get("note", "")
    for pattern in filter(None, [layout.aside[1], *layout.facts.values()]):
        note = re.sub(pattern, "", note)
    return [part for part in re.split(PARTS, note) if part]


def _specific(table: Table) -> Callable[[Record], str]:
    """What a note says beyond what all notes of its table say."""
    shared = _shared([_note(r, table.layout) for r in table.cells.values()])
    return lambda r: ", ".join(part for part in _note(r, table.layout) if part not in shared)


def _shared(notes: Sequence[list[str]]) -> list[str]:
    return [part for part in notes[0] if all(part in note for note in notes)]


def _common(notes: Sequence[list[str]]) -> str:
    """The parts that all notes have, those that differ in nothing but their numbers with the range of these; others are left to the records."""
    shapes: dict[str, list[list[str]]] = {}
    for part in (part for note in notes for part in note):
        shapes.setdefault(re.sub(NUMBER, "#", part), []).append(re.findall(NUMBER, part))
    said = []
    for shape, numbers in shapes.items():
        if len(numbers) == len(notes):
            for column in zip(*numbers):
                low, high = min(column, key=float), max(column, key=float)
                shape = shape.replace("#", low if low == high else f"{low} to {high}", 1)
            said.append(shape)
    return ", ".join(said)


def _details(records: Sequence[Record]) -> list[str]:
    several = len({r["device"] for r in records}) > 1
    found: dict[tuple[str, ...], set[str]] = {}
    for r in records:
        found.setdefault((r["commit"], r["date"], *([r["device"]] if several else [])), set()).add(_command(r))
    lines = [f"<details><summary>All {len(set.union(*found.values()))} commands, with their commits</summary>", "", "```"]
    for number, commit in enumerate(sorted(found)):
        lines += [*([""] if number else []), f"# commit {', '.join(commit)}"]
        lines += [line for command in sorted(found[commit], key=natural) for line in _folded(command)]
    return [*lines, "```", "", "</details>", ""]


# ------------------------------------------------------------------------------------------------------------------ helpers


def _command(r: Record) -> str:
    return r["command"].replace(f" --record {r['device']}", "")                   # would only write the record once more


def _code(commands: Sequence[str]) -> list[str]:
    return ["```", *(line for command in commands for line in _folded(command)), "```", ""]


def _folded(command: str, width: int = 140) -> list[str]:
    """A command over several lines, where it is long, as a shell reads it."""
    lines = [""]
    for part in re.split(r" (?=--)", command):
        if lines[-1] and len(lines[-1]) + len(part) + 3 > width:
            lines[-1] += " \\"
            lines.append("  " + part)
        else:
            lines[-1] += (" " if lines[-1] else "") + part
    return lines


def _wrapped(text: str) -> str:
    """Paragraphs in lines of bounded length, none of which starts with what Markdown takes for a list or a heading, or breaks within code."""
    bound = re.sub(r" (?=(?:[-+*#>]|\d+[.)]) )", "\0", re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\0"), text))
    return "\n\n".join(textwrap.fill(p, 140, break_long_words=False, break_on_hyphens=False) for p in bound.split("\n\n")).replace("\0", " ")


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


def _same(values: Iterable[str]) -> str | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _distinct(values: Iterable[str]) -> list[str]:
    return sorted(set(values), key=natural)


def ordered(names: Iterable[str], first: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda n: (first.index(n) if n in first else len(first), natural(n)))


def natural(text: str) -> list[Any]:
    """Sorts "8 images" before "16 images"."""
    return [float(part) if i % 2 else part.lower() for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", text))] + [text]


def anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
