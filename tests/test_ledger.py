"""benchmarks/ledger.py: records in files, and the page and the plots that are made of them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import _page  # noqa: E402
import _plots  # noqa: E402
import _sections  # noqa: E402
import ledger  # noqa: E402


def record(figure, value, folder, **more):
    return ledger.record(figure, value, **({"unit": "", "command": "python benchmarks/terms.py", "device": "CPU"} | more), folder=folder)


def rows(page):
    """The cells of the tables, a list per row."""
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in page.splitlines() if line.startswith("|")]


# ------------------------------------------------------------------------------------------------------------------ records


def test_a_new_record_replaces_an_older_one_of_the_same_figure_device_and_seed(tmp_path):
    path = record("a: FID", 40.0, tmp_path, seed=0)
    assert record("a: FID", 36.5, tmp_path, seed=0) == path == tmp_path / "terms.jsonl"
    for more in ({"seed": 1}, {"seed": 0, "device": "GPU"}, {"seed": 0, "group": "other"}, {"seed": None}):
        record("a: FID", 1.0, tmp_path, **more)
    ledger._put(ledger.read(tmp_path)[0] | {"share": 0.05}, tmp_path)
    ledger._put(ledger.read(tmp_path)[0] | {"share": 1 - 0.95}, tmp_path)                    # the same but for rounding
    records = [r for r in ledger.read(tmp_path) if "share" not in r]
    assert len(ledger.read(tmp_path)) == 6 and len(records) == 5 and 6 == len(path.read_text().splitlines())
    assert [r["value"] for r in records if r["seed"] == 0 and r["device"] == "CPU" and "group" not in r] == [36.5]
    assert re.fullmatch(r"[0-9a-f]{10}\+?|unknown\+?", records[0]["commit"])


def test_the_order_of_the_lines_does_not_depend_on_the_order_of_writing(tmp_path):
    names = ["b: x", "a: y", "a: x"]
    for folder, order in (("one", names), ("other", names[::-1])):
        for name in order:
            record(name, 1.0, tmp_path / folder)
    assert (tmp_path / "one/terms.jsonl").read_bytes() == (tmp_path / "other/terms.jsonl").read_bytes()


@pytest.mark.parametrize("command, name", [("python benchmarks/augment.py --ref", "augment"), ("handful reproduce fastgan/2 --seed 1", "reproduce"),
                                           ("handful train x --out benchmarks", "train"), ("make it", "other")])
def test_the_file_is_named_by_the_command(command, name, tmp_path):
    assert record("a", 1.0, tmp_path, command=command) == tmp_path / f"{name}.jsonl"


def test_records_that_are_written_at_the_same_time_are_all_kept(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: record(f"figure {i}", float(i), tmp_path), range(32)))
    assert {r["value"] for r in ledger.read(tmp_path)} == set(range(32))
    assert {path.name for path in tmp_path.iterdir()} <= {"terms.jsonl", ".lock"}


def test_any_text_stays_on_its_line(tmp_path):
    for _ in range(2):
        record("a\nb\u2028c", 1.0, tmp_path, note="µ\x85\r\n")
    assert [(r["figure"], r["note"]) for r in ledger.read(tmp_path)] == [("a\nb\u2028c", "µ\x85\r\n")]


def test_a_line_that_is_no_record_is_named(tmp_path):
    path = record("a", 1.0, tmp_path)
    whole = path.read_text()
    for line, said in (('{"figure": "FID"}', "missing or unknown: value, unit"), ("{", "is not a record"), ("[1]", "is not a record")):
        path.write_text(whole + line + "\n")
        with pytest.raises(ValueError, match=rf"terms\.jsonl, line 2:? {said}"):
            ledger.read(tmp_path)
    with pytest.raises(ValueError):
        record("b", 1.0, tmp_path)
    assert path.read_text() == whole + "[1]\n"                # what can't be read is not written over


def test_the_commit_has_a_plus_for_changed_code_but_not_for_new_records(tmp_path, monkeypatch):
    def git(*args):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org", *args], check=True, capture_output=True)

    for name in ("benchmarks/records/a.jsonl", "docs/results.md", "src/code.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    git("init")
    git("add", ".")
    git("commit", "-m", "all", "--no-gpg-sign")
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    for name in ("benchmarks/records/a.jsonl", "docs/results.md"):
        (tmp_path / name).write_text("new")
    assert re.fullmatch("[0-9a-f]{10}", ledger._commit())
    (tmp_path / "src/code.py").write_text("new")
    assert re.fullmatch(r"[0-9a-f]{10}\+", ledger._commit())


def test_the_repository_holds_no_records_in_another_form():
    assert {path.suffix for path in ledger.RECORDS.iterdir() if path.name != ".lock"} == {".jsonl"}
    identities = Counter(map(ledger._identity, ledger.read()))
    assert max(identities.values()) == 1


# -------------------------------------------------------------------------------------------------------------------- page


def test_the_page_and_the_plots_are_made_from_the_records():
    records = ledger.read()
    page = ledger.PAGE.read_text(encoding="utf-8")
    assert page == ledger.render(records), "run: python benchmarks/ledger.py"
    assert page == ledger.render(records[::-1])
    assert ledger.images(records) == [], "run: python benchmarks/ledger.py --plots"
    for name in re.findall(r"\]\(([^)#]+)\)", page):
        assert (ledger.PAGE.parent / name).exists(), name


def test_the_page_can_be_read():
    page = ledger.render(ledger.read())
    lines = page.splitlines()
    assert len(page.encode()) < 60_000 and max(map(len, lines)) <= 200
    heads = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert re.findall(r"^- \[(.*)\]\(#(.*)\)$", page, re.MULTILINE) == [(head, _page.anchor(head)) for head in heads]
    assert lines.count("```") % 2 == 0 and page.count("<details>") == page.count("</details>")


@pytest.mark.parametrize("section", _sections.SECTIONS, ids=lambda s: s.title)
def test_the_layout_of_a_section_takes_all_its_records(section):
    found = [r for r in ledger.read() if r.get("group") == section.group]
    tables = _page.arrange(section.layouts, found)
    assert not [r["figure"] for t in tables if t.layout is _sections.REST for r in t.cells.values()]
    assert Counter(map(str, found)) == Counter(str(r) for t in tables for r in t.cells.values())


def test_the_value_of_each_record_stands_in_its_section():
    parts = dict(part.split("\n", 1) for part in ledger.render(ledger.read()).split("\n## ")[1:])
    for section, found in _page.sections(ledger.read()):
        cells = Counter(cell.split(" ")[0] for row in rows(parts[section.title]) for cell in row[1:])
        missing = Counter(f"{r['value']:.4g}" for r in found) - cells
        assert not missing, section.title


def test_a_layout_that_mixes_up_figures_loses_none(tmp_path):
    for name in ("x: FID", "y: FID", "alone"):
        record(name, 1.0, tmp_path)
    records = ledger.read(tmp_path)
    tables = _page.arrange((_sections.Layout(r".: (?P<column>.*)", row="all"),), records)
    assert sorted(r["figure"] for t in tables for r in t.cells.values()) == ["alone", "x: FID", "y: FID"]
    assert [r["figure"] for t in tables if t.layout is _sections.REST for r in t.cells.values()] == ["alone", "y: FID"]
    with pytest.raises(ValueError, match="recorded twice: alone"):
        _page.render(records + [records[0]])


def test_a_group_without_a_section_and_figures_that_no_pattern_finds_have_their_tables(tmp_path):
    record("speed | of all", 2.123456, tmp_path, unit="images/s", group="New")
    record("odd", 3.0, tmp_path, group="Sampling")
    record("cifar@32 fp32 batch 1: images/s", 4.0, tmp_path, unit="images/s", group="Sampling")
    page = ledger.render(ledger.read(tmp_path))
    assert re.search(r"## New\n(.*\n)+\| figure \| measured \(images/s\) \|\n.*\n\| speed \\\| of all \| 2\.123 \|", page)
    assert re.search(r"## Generating images\n(.*\n)+### Other figures\n(.*\n)+\| odd \| 3 \|", page)


def test_seeds_machines_and_shares_of_a_schedule_have_columns_or_tables_of_their_own(tmp_path):
    for device in ("CPU", "GPU"):
        for seed in (0, 1):
            record("ours, cats: FID", 10.0 + seed, tmp_path, table="fastgan/2", published=35.11, device=device, seed=seed,
                   command="handful reproduce fastgan/2")
    records = ledger.read(tmp_path)
    records += [r | {"share": 0.05, "value": 99.0} for r in records[:1]]
    page = ledger.render(records)
    assert "## fastgan/2" in page and "CPU (3 figures); GPU (2 figures)" in page
    assert ["ours, cats", "99", "35.11", "10", "35.11", "11", "35.11"] in rows(page)
    assert ["", "FID, 5% of the schedule, seed 0", "published", "FID, seed 0", "published", "FID, seed 1", "published"] in rows(page)
    assert ["ours, cats", "10", "35.11", "11", "35.11"] in rows(page)
    assert page.count("handful reproduce fastgan/2") == 1 and page.index("### CPU") < page.index("Measured on CPU") < page.index("### GPU")


def test_what_a_column_or_the_whole_table_has_in_common_is_said_once(tmp_path):
    def records(*notes):
        return [{"figure": f"x: {i}", "value": 1.0, "unit": "s", "command": "c", "commit": f"c{i}", "device": "CPU", "seed": 0, "date": "2026-01-01",
                 "note": note} for i, note in enumerate(notes)]

    page = _page.render(records("batch 4, convolution 94 GFLOP/s, seeds 0, 1", "batch 4, convolution 96 GFLOP/s, seeds 0, 1; one thread"))
    assert "Measured on CPU; 2026-01-01; commits c0, c1; seed 0; batch 4, convolution 94 to 96 GFLOP/s, seeds 0, 1." in page
    table, = _page.arrange((_sections.BY_COLON,), records("same, n 0", "same, n 1"))
    assert _page._per_column(table) == {"commit": {"0": "c0", "1": "c1"}, "note": {"0": "n 0", "1": "n 1"}}
    assert _page._measured(table, False) == "Measured on CPU; 2026-01-01; seed 0; same."


def test_the_sentences_are_computed_from_the_records():
    for section, found in _page.sections(ledger.read()):
        unknown = _page.Table(_sections.REST, "", "CPU", {("a", "b"): found[0] | {"figure": "?"}})
        assert not re.search(r"\d\.\d", section.text), "a figure in the text of a section"
        if section.shows:
            tables = _page.arrange(section.layouts, found)
            said = _page._shows(section, tables)
            assert said and said != _page._shows(section, [_scaled(t) for t in tables])
            assert _page._shows(section, []) == _page._shows(section, [unknown]) == ""


def _scaled(table):
    """Other values, unlike by cell, so that ratios differ too."""
    return replace(table, cells={key: r | {"value": r["value"] * (2 + i)} for i, (key, r) in enumerate(table.cells.items())})


def test_a_folded_command_is_the_same_for_a_shell():
    command = "python x.py " + " ".join(f"--set 'a.b=[{i}]'" for i in range(30))
    lines = _page._folded(command)
    assert len(lines) > 2 and max(map(len, lines)) <= 142
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)        # as a shell joins lines


def test_wrapped_text_starts_no_list_and_breaks_no_code():
    for n in range(120, 160):
        lines = _page._wrapped("a" * n + " - b + c 1. d `e f g` # h").splitlines()
        assert not [line for line in lines if re.match(r"([-+*#>]|\d+[.)]) ", line) or line.count("`") % 2]


# ------------------------------------------------------------------------------------------------------------------- plots


def test_a_plot_is_outdated_once_a_value_changes(tmp_path):
    for pixels in (32, 128):
        record(f"ADA at {pixels}: forward, CPU-ms per image", pixels / 7, tmp_path, unit="ms", group="Augmentation alone")
    records = ledger.read(tmp_path)
    path = tmp_path / "results-augmentations.svg"
    assert ledger.images(records, folder=tmp_path) == [path]
    (_, (tables,)), = [(s, _page.plots(s, _page.arrange(s.layouts, found)).values()) for s, found in _page.sections(records)]
    path.write_text(_plots.digest(tables))
    assert ledger.images(records, folder=tmp_path) == []
    records[0]["value"] += 1
    assert ledger.images(records, folder=tmp_path) == [path]


def test_plots_are_drawn_the_same_each_time_and_old_ones_removed(tmp_path):
    pytest.importorskip("matplotlib")
    for pixels in (32, 128):
        record(f"ADA at {pixels}: forward, CPU-ms per image", pixels / 7, tmp_path, unit="ms", group="Augmentation alone")
        record(f"tiny: r{pixels}, extra per D step, in plain D steps", 0.5, tmp_path, group="Cost of regularisers")
    (tmp_path / "results-gone.svg").write_text("")
    records = ledger.read(tmp_path)
    drawn = ledger.images(records, draw=True, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == ["results-augmentations.svg", "results-regularisers.svg"]
    before = [path.read_bytes() for path in drawn]
    assert len(drawn) == 2 and all(b"<svg" in data for data in before) and ledger.images(records, folder=tmp_path) == []
    for path in drawn:
        path.unlink()
    assert [path.read_bytes() for path in ledger.images(records, draw=True, folder=tmp_path)] == before
