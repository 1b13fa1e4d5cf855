"""report.html of a synthetic run, and preview grids."""

from __future__ import annotations

import html.parser
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handful import config as config_module
from handful.errors import HandfulError, UsageError
from handful.infer.grid import grid, near_square, save_image
from handful.training import _chart, report
from handful.training.log import Log
from handful.training.report import write_report

EVIL = "photos/<script>alert('x')</script>\"&amp;"


def make_run(folder: Path, lines: int = 300, previews: int = 30) -> Path:
    rng = np.random.default_rng(0)
    tree = config_module.to_tree(config_module.Config())
    tree.update(recipe="fastgan256", handful="0.1.0", notes=["batch 16 because <b>so</b>"])
    tree["data"].update(path=EVIL, count=270, fingerprint="3f9c" * 16, class_names=["tabby", "<i>ginger</i>"])
    tree["train"].update(kimg=10.0, batch=16)
    tree["terms"] = {"lecam": {"use": "lecam", "weight": 0.7, "decay": 0.9}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tree))
    for i in range(previews):
        save_image(folder / "previews" / f"{i * 100:09d}.jpg", rng.integers(0, 255, (40, 60, 3), np.uint8))
    with Log(folder, total_images=10_000, quiet=True, machine="an abacus & <two> fingers") as log:
        for i in range(1, lines + 1):
            log.write(16 * i, {"step": i, "sec": 0.5 * i, "images_per_sec": 32.0, "memory_gb": 1.5, "d/logits_real": rng.normal(),
                               "d/logits_fake": rng.normal(), "d/loss": 1.0, "g/loss": math.nan, "d/grad_norm": 10.0 ** rng.normal(0, 2),
                               "g/grad_norm": 1.0, "d/loss_lecam": 0.1, "d/lecam/gap": 0.2, "unheard_of": i})
        log.say("a note with <b>tags</b>")
    return folder


class Page(html.parser.HTMLParser):
    """What a browser would make of the file: addresses, tags, text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses, self.tags, self.text, self.open = [], [], [], []
        self.attributes: list[dict] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data", "poster", "xlink:href")]
        if tag not in ("meta", "link", "img", "input", "br", "line", "circle", "path", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "circle", "path", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("r") / "cats")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(run / "report.html")


def test_it_fetches_nothing(run, page):
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text and "//cdn" not in text
    assert page.addresses and all(a.startswith("data:") for a in page.addresses)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    assert not page.open                                     # every tag is closed, in order


def test_previews_are_inside_evenly_and_the_newest_is_shown(page):
    images = [a for t, a in zip(page.tags, page.attributes) if t == "img"]
    assert len(images) == report.PREVIEWS
    seen = [int(a["alt"].split()[2].replace(",", "")) for a in images]
    assert seen[0] == 0 and seen[-1] == 2900 and seen == sorted(seen)
    assert ["hidden" in a for a in images] == [True] * (len(images) - 1) + [False]
    slider = next(a for a in page.attributes if a.get("type") == "range")
    assert slider["aria-label"] and slider["max"] == slider["value"] == str(len(images) - 1)


def test_what_people_wrote_is_text_and_not_markup(run, page):
    text = "".join(page.text)
    assert EVIL in text and "a note with <b>tags</b>" in text and "an abacus & <two> fingers" in text and "<i>ginger</i>" in text
    assert page.tags.count("script") == 1
    assert "two" not in page.tags and page.tags.count("i") == page.tags.count("li") - 2 + 1   # legends, less the two notes, and the bar


def test_the_first_sentence_and_the_commands(run, page):
    text = " ".join("".join(page.text).split())
    assert "after 4,800 images and 2 min of training on 270 pictures" in text and "48 % of the planned 10,000 images" in text
    assert f"handful train --resume {run} " in text and f"handful train --resume {run} --kimg 20 " in text
    assert f"handful generate {run} --seeds 0-63 --grid" in text


def test_every_measured_key_has_a_curve(page):
    titles = {" ".join(a["aria-label"].split(" over ")[0].split()) for a in page.attributes if a.get("role") == "img"}
    assert titles == {"D's logits", "Losses", "Gradient norms", "Images per second", "Memory, GB", "loss of lecam", "lecam: gap", "unheard_of"}
    charts = [json.loads(a["data-chart"]) for a in page.attributes if "data-chart" in a]
    assert all(len(s["y"]) == len(s["text"]) == len(c["px"]) == len(c["at"]) <= _chart.POINTS for c in charts for s in c["series"])


def test_settings_that_were_chosen_come_first(run):
    chosen = {path: (value, default) for path, value, default in report.changed(json.loads((run / "config.json").read_text()))}
    assert chosen["terms.lecam.weight"] == (0.7, 0.3) and "terms.lecam.decay" not in chosen
    assert chosen["train.batch"] == (16, 8) and "train.order" not in chosen and "data.path" not in chosen
    assert chosen["terms.lecam.use"][0] == "lecam"


def test_a_run_of_no_steps(tmp_path):
    path = write_report(make_run(tmp_path / "new", lines=0, previews=0))
    text = path.read_text(encoding="utf-8")
    assert "Nothing is trained yet" in text and "No preview was made yet" in text and "no measurements yet" in text
    assert not Page(path).open


@pytest.mark.parametrize("present", [[], ["config.json"], ["log.jsonl"]])
def test_an_almost_empty_or_broken_folder(tmp_path, present):
    for name in present:
        (tmp_path / name).write_text("{" if name == "config.json" else '{"images": 8, "d/loss": 1}\n{"images": "x", "d/loss": 2}\n{"ima')
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "000000008.jpg").write_bytes(b"\xff\xd8 not all of it")
    (tmp_path / "previews" / "holiday.jpg").write_bytes(b"")
    assert not Page(write_report(tmp_path)).open


def test_metrics_have_a_table_and_curves(tmp_path):
    folder = make_run(tmp_path / "cats", lines=3, previews=1)
    rows = [{"images": i, "metric": "kid", "value": v, "protocol": {"samples": 5000}} for i, v in ((16, 0.5), (32, 0.25), (48, None))]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = write_report(folder).read_text(encoding="utf-8")
    assert "<b>0.25</b>" in text and "{&#34;samples&#34;: 5000}" in text and "kid over the images seen" in text


def test_large_previews_are_scaled_and_the_file_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PREVIEWS", 6)
    monkeypatch.setattr(report, "PREVIEW_BYTES", 3_000_000)
    noise = np.random.default_rng(0).integers(0, 255, (1125, 1200, 3), np.uint8)
    first = save_image(tmp_path / "previews" / f"{0:09d}.jpg", noise)
    for i in range(1, 8):
        (tmp_path / "previews" / f"{i:09d}.jpg").write_bytes(first.read_bytes())
    shown = report.previews(tmp_path / "previews")
    assert {(p["width"], p["height"]) for p in shown} == {(1024, 960)}
    assert [p["images"] for p in shown] == [0, 4, 7]         # 6 of these would be too much
    assert write_report(tmp_path).stat().st_size < 4.5e6


def test_what_a_roll_back_undid_is_not_drawn():
    lines = [{"images": n, "d/loss": float(n)} for n in (8, 16, 24, 12, 20)]
    assert [line["images"] for line in report._lasting(lines)] == [8, 12, 20]


# ------------------------------------------------------------------------------------------------------------------- curves


def test_binning_keeps_the_mean_and_gaps():
    values = np.arange(1200.0)
    values[600:700] = np.nan
    binned = _chart._binned(values)
    assert len(binned) == _chart.POINTS and binned[0] == 2.0 and np.isnan(binned[125])
    assert np.nanmean(binned) == pytest.approx(np.nanmean(values))


def test_smoothing_has_no_start_bias_and_keeps_gaps():
    y = np.full(80, 3.0)
    y[10] = np.nan
    smooth = _chart._smoothed(y)
    assert np.isnan(smooth[10]) and np.allclose(np.delete(smooth, 10), 3.0)


@pytest.mark.parametrize(("values", "log"), [([1e-3, 1.0, 1e3], True), ([-1.0, 1.0, 1e3], False), ([1.0, 2.0, 3.0], False), ([5.0, 5.0], False)])
def test_log_scale_when_needed(values, log):
    low, high, is_log = _chart._range(np.array(values), np.array(values))
    assert is_log == log and high > max(values) and (low < min(values) or low == 0)


def test_ticks_are_round_and_within():
    assert _chart._nice(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert _chart._nice(-0.07, 0.31) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert _chart._decades(0.005, 2000) == [0.01, 0.1, 1, 10, 100, 1000]


def test_a_single_measurement_is_a_dot():
    chart = _chart.chart("one", [{"images": 8, "a": 2.0}], {"a": "A"})
    assert chart["series"][0]["dot"] and chart["series"][0]["last"] == "2"
    assert _chart.chart("none", [{"images": 8, "a": None}], {"a": "A"}) is None


# -------------------------------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (4, 2), (7, 3), (8, 4), (9, 3), (12, 4), (16, 4), (32, 8), (36, 6), (64, 8)])
def test_grids_are_nearly_square(n, columns):
    assert near_square(n) == columns


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_holds_each_image_in_its_place(channels):
    images = np.random.default_rng(0).integers(0, 255, (5, 6, 4, channels), np.uint8)
    sheet = grid(images, columns=3, pad=2)
    assert sheet.shape == (6 + 2 + 6, 3 * 4 + 2 * 2, channels)
    for i in range(5):
        top, left = (i // 3) * 8, (i % 3) * 6
        assert (sheet[top:top + 6, left:left + 4] == images[i]).all()
    assert (sheet[6:8] == 255).all() and (sheet[8:, 12:] == 255).all()
    assert grid(images[:1]).shape == (6, 4, channels)
    assert grid(images, columns=99).shape[1] == 5 * 4 + 4 * 2


def test_a_grid_with_captions_keeps_the_images():
    images = np.zeros((2, 40, 60, 3), np.uint8)
    sheet = grid(images, columns=2, pad=0, labels=["tabby", "a name far too long for this"])
    assert sheet.shape[0] > 40 and sheet.shape[1:] == (120, 3)
    assert (sheet[:40] == 0).all() and (sheet[40:] < 128).any() and (sheet[40:] > 128).any()


def test_a_grid_refuses_what_is_none():
    for images in (np.zeros((0, 4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.float32)):
        with pytest.raises(ValueError, match="N,H,W,C"):
            grid(images)


def test_images_are_saved_whole_or_not_at_all(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    path = save_image(tmp_path / "new" / "a.png", picture)
    assert (np.asarray(Image.open(path)) == picture).all()
    grey = save_image(tmp_path / "g.JPG", picture[..., :1])
    with Image.open(grey) as image:
        assert (image.mode, image.format) == ("L", "JPEG")
    clear = save_image(tmp_path / "alpha.jpg", np.zeros((8, 8, 4), np.uint8))
    assert (np.asarray(Image.open(clear)) > 250).all()
    with pytest.raises(UsageError, match=r"a\.bmp: can't write '\.bmp'"):
        save_image(tmp_path / "a.bmp", picture)
    with pytest.raises(HandfulError, match="too large for JPEG"):
        save_image(tmp_path / "wide.jpg", np.zeros((1, 70000, 3), np.uint8))
    with pytest.raises(TypeError):
        save_image(path, picture.astype(np.complex64))
    assert (np.asarray(Image.open(path)) == picture).all()   # the old file is still there
    assert {p.name for p in tmp_path.rglob("*")} == {"new", "a.png", "g.JPG", "alpha.jpg"}
