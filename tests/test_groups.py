"""Groups: read from file names or a table, and never divided by a split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handful import data
from handful.data import Dataset
from handful.data.loading import load_for
from handful.errors import HandfulError, UsageError
from handful.training.trainer import Trainer
from making import noise_set, tiny_config


def patients(folder: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (i * 9 % 256, i % 256, 100)).save(folder / name)
    return folder


NAMES = [f"p{p}_{i}.png" for p in (1, 2, 10) for i in range(p + 1)]       # p1: 2, p2: 3, p10: 11 images


@pytest.fixture
def folder(tmp_path) -> Path:
    return patients(tmp_path / "scans", NAMES)


def of(folder: Path, groups: str | None, **more) -> Dataset:
    return data.load(folder, resolution=16, groups=groups, **more)


# --------------------------------------------------------------------------------------------------------------- reading


def test_the_first_bracket_of_the_expression_is_the_group(folder):
    found = of(folder, r"^(\w+?)_")
    assert {name: int(g) for name, g in zip(found.names, found.groups)} == {n: ["p1", "p2", "p10"].index(n.split("_")[0]) for n in NAMES}
    assert any(note.startswith("groups: 3 among 16 images") for note in found.notes)


def test_without_a_bracket_the_whole_match_is_and_folders_count_where_the_expression_has_a_slash(tmp_path):
    folder = patients(tmp_path / "x", ["ann/1.png", "ann/2.png", "bob/1.png", "bob/7.png"])
    assert of(folder, r"\d").groups.tolist() == [0, 1, 0, 2]
    assert of(folder, r"^([^/]+)/").groups.tolist() == [0, 0, 1, 1]


def test_a_table_says_the_same(folder, tmp_path):
    table = tmp_path / "who.csv"
    table.write_text("file;group\n" + "".join(f"./{n};{n.split('_')[0]}\n" for n in NAMES))
    by_table, by_name = of(folder, str(table)), of(folder, r"^(\w+?)_")
    assert torch.equal(by_table.groups, by_name.groups) and by_table.fingerprint == by_name.fingerprint != of(folder, None).fingerprint


def test_a_subset_and_the_mapped_file_keep_their_groups(folder, tmp_path):
    part = of(folder, r"^(\w+?)_", max_images=7)
    assert len(part) == 7 and [["p1", "p2", "p10"][g] for g in part.groups] == [n.split("_")[0] for n in part.names]
    for _ in range(2):                                                    # written, then found again
        mapped = of(folder, r"^(\w+?)_", memory="map", cache_dir=tmp_path / "cache")
        assert mapped.mapped and mapped.groups.tolist() == of(folder, r"^(\w+?)_").groups.tolist()
    other = of(folder, r"_(\d+)", memory="map", cache_dir=tmp_path / "cache")
    assert other.groups.tolist() == of(folder, r"_(\d+)").groups.tolist()


@pytest.mark.parametrize("groups, error, why", [
    ("p10_(.)", HandfulError, r"no group for 5 images \(p1_0.png, p1_1.png, p2_0.png, ...\)"),
    (r"^(p\d_)?", HandfulError, "no group for 11 images"),
    ("(", UsageError, r"data.groups=\(: not a regular expression .*, nor a CSV file"),
    ("nobody.csv", UsageError, "data.groups=nobody.csv: there is no such file")])
def test_what_has_no_group_is_said_in_a_line(folder, groups, error, why):
    with pytest.raises(error, match=why) as found:
        of(folder, groups)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("text, why", [
    ("p1_0.png,a\n", r"15 images without a group \(p10_0.png"),
    ("".join(f"{n},a\n" for n in NAMES) + "px.png,b\n", r"1 name not in '.*scans' \(px.png\)"),
    ("p1_0.png,\n", "line 1: needs a file and a group"),
    ("p1_0.png,a\np1_0.png,b\n", "line 2: 'p1_0.png' is in 'b' here and in 'a' before; leave one")])
def test_a_table_that_does_not_fit_is_refused(folder, tmp_path, text, why):
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(HandfulError, match=why):
        of(folder, str(tmp_path / "g.csv"))


# -------------------------------------------------------------------------------------------------------------- splitting


def grouped(groups: list[int]) -> Dataset:
    n = len(groups)
    return Dataset(torch.arange(n, dtype=torch.uint8)[:, None, None, None], names=[str(i) for i in range(n)], groups=torch.tensor(groups))


@given(st.lists(st.integers(1, 12), min_size=2, max_size=12), st.floats(0.01, 0.9), st.integers(0, 2**40), st.randoms())
def test_no_group_is_on_both_sides_and_the_share_is_near(sizes, holdout, seed, random):
    groups = [g for g, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(groups)
    whole, n = grouped(groups), max(1, round(holdout * len(groups)))
    too_few = len(groups) - n < 2
    if too_few or len(groups) - max(sizes) < n / 2:
        with pytest.raises(HandfulError):
            whole.split(holdout, seed)
        return
    train, held = whole.split(holdout, seed)
    a, b = set(train.names), set(held.names)
    assert not a & b and a | b == set(whole.names) and len(train) >= 2 and len(held) >= 1
    assert not set(train.groups.tolist()) & set(held.groups.tolist())
    assert all(groups[int(name)] == g for part in (train, held) for name, g in zip(part.names, part.groups.tolist()))
    assert train.rows.tolist() == sorted(train.rows.tolist()) and held.rows.tolist() == sorted(held.rows.tolist())
    assert len(held) - n < max(sizes)                                     # beyond the share by less than one group
    smallest_left = min(sizes[g] for g in set(train.groups.tolist()))
    assert abs(len(held) - n) < smallest_left or len(set(held.groups.tolist())) == 1 or len(train) - smallest_left < 2
    again = whole.split(holdout, seed)
    assert again[0].names == train.names and again[1].names == held.names


def test_the_seed_draws_the_groups_and_equal_ones_meet_the_share_exactly():
    whole = grouped([i // 5 for i in range(200)])
    drawn = {tuple(whole.split(0.1, seed)[1].names) for seed in range(8)}
    assert len(drawn) == 8 and all(len(names) == 20 for names in drawn)


def test_a_split_of_a_split_keeps_groups_whole():
    train, _ = grouped([i // 4 for i in range(80)]).split(0.2, 0)
    inner, held = train.split(0.25, 1)
    assert len(inner) == 48 and len(held) == 16 and not set(inner.groups.tolist()) & set(held.groups.tolist())
    assert all(int(name) // 4 == g for name, g in zip(inner.names, inner.groups.tolist()))


@pytest.mark.parametrize("groups, why", [([7] * 20, "all 20 images are one group"), ([0] * 199 + [1], "one group has 199 of 200 images")])
def test_groups_that_cannot_be_divided_are_refused(groups, why):
    with pytest.raises(HandfulError, match=why):
        grouped(groups).split(0.1, 0)


def test_the_trainer_trains_on_whole_groups_and_says_how_many():
    whole = noise_set(24)
    whole.groups = torch.arange(24) % 6
    trainer = Trainer(tiny_config("data.holdout=0.3", "data.groups=x"), whole, torch.device("cpu"))
    assert not set(trainer.dataset.groups.tolist()) & set(trainer.heldout.groups.tolist())
    assert trainer.notes == ["held out: 8 of 24 images (2 of 6 groups, whole; 7 were wanted)"]
    with pytest.raises(HandfulError, match="this Dataset has no groups"):
        Trainer(tiny_config("data.holdout=0.3", "data.groups=x"), noise_set(24), torch.device("cpu"))


def test_groups_without_held_out_images_do_nothing_and_it_is_said(folder):
    settings = [f"data.path={folder}", r"data.groups=^(\w+?)_"]
    assert load_for(tiny_config(*settings).data, 0).notes[-1] == "data.groups does nothing without data.holdout: no image is held out"
    held = load_for(tiny_config(*settings, "data.holdout=0.2").data, 0)
    assert len(held.groups.unique()) == 3 and "nothing" not in held.notes[-1]
