"""Nearest training images: the searches against plain loops, the statistics against closed forms, the verdicts on sets made to deserve them."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from handful import config as config_module
from handful.cli import group, run
from handful.data import Dataset, load
from handful.errors import HandfulError, UsageError
from handful.features.lpips import LPIPS
from handful.metrics import _copies as copies
from handful.metrics import _search as search
from handful.metrics import nearest
from handful.metrics._nearest_sheet import sheet
from handful.metrics._search import Found, Images
from handful.training.checkpoint import save_model
from handful.training.report import write_report
from making import picture_folder, tiny_config, tiny_trainer


def quiet(*_: object) -> None: ...


def pictures(n: int, seed: int = 0, side: tuple[int, int] = (16, 16), channels: int = 3, detail: float = 0.25) -> torch.Tensor:
    """uint8 [n,C,H,W]: smooth shapes with some noise, as photographs have most of their variance in low frequencies."""
    g = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(n, channels, 4, 4, generator=g), side, mode="bicubic").clamp(0, 1)
    return ((1 - detail) * coarse + detail * torch.rand(n, channels, *side, generator=g)).mul(255).byte()


def plain(queries: torch.Tensor, base: torch.Tensor, k: int, itself: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """by_pixels as two loops in fp64."""
    d = torch.stack([torch.stack([(q.double() - x.double()).abs().mean() for x in base]) for q in queries])
    m = torch.stack([torch.stack([(q.double() - x.flip(-1).double()).abs().mean() for x in base]) for q in queries])
    best = torch.minimum(d, m)
    if itself is not None:
        best[torch.arange(len(best)), itself] = torch.inf
    found = best.topk(k, largest=False)
    return found.values, found.indices, (m < d).gather(1, found.indices)


# -------------------------------------------------------------------------------------------------------------- searches


@pytest.mark.parametrize("side, channels, detail", [((16, 16), 3, 0.3), ((64, 80), 1, 0.3), ((67, 70), 3, 0.2), ((64, 64), 3, 1.0)])
def test_by_pixels_is_exact(side, channels, detail):
    base, queries = pictures(50, 1, side, channels, detail), pictures(7, 2, side, channels, detail)
    queries[0], queries[1] = base[3], base[9].flip(-1)
    for itself, q in ((None, queries), (torch.tensor([4, 0, 49]), base[[4, 0, 49]])):
        found, (distance, index, mirrored) = search.by_pixels(Images(q), Images(base), 5, itself, quiet), plain(q, base, 5, itself)
        assert torch.allclose(found.distance.double(), distance, rtol=1e-6) and torch.equal(found.index, index)
        assert torch.equal(found.mirrored, mirrored)
    assert found.distance[0, 0] > 0
    exact = search.by_pixels(Images(queries), Images(base), 1, None, quiet)
    assert exact.distance[:2, 0].tolist() == [0, 0] and exact.index[:2, 0].tolist() == [3, 9] and exact.mirrored[:2, 0].tolist() == [False, True]


def test_by_pixels_leaves_most_pairs_alone_and_needs_no_more_memory_than_it_may(monkeypatch):
    base, queries = pictures(200, 1, (64, 64), detail=0.1), pictures(6, 2, (64, 64), detail=0.1)
    taken = []
    monkeypatch.setattr(Images, "take", lambda self, i, take=Images.take: taken.append(take(self, i)) or taken[-1])
    found = search.by_pixels(Images(queries), Images(base), 3, None, quiet)
    assert sum(map(len, taken)) - 206 < 0.5 * 6 * 200                # 206: each picture once, for its small copy
    monkeypatch.setattr(search, "ENTRIES", 1 << 16)
    taken.clear()
    again = search.by_pixels(Images(queries), Images(base), 3, None, quiet)
    assert torch.equal(again.index, found.index) and torch.allclose(again.distance, found.distance)
    assert max(t.numel() for t in taken[4:]) <= max(1 << 16, search.CHUNK * base[0].numel())


def test_by_features_is_exact_and_a_copy_lies_at_zero():
    g = torch.Generator().manual_seed(0)
    base, queries = 100 + torch.randn(60, 512, generator=g), 100 + torch.randn(2, 9, 512, generator=g)
    queries[1, 4] = base[17]
    d = (queries.double()[:, :, None] - base.double()).norm(dim=-1).amin(0)
    found = search.by_features(queries, base, 6)
    assert torch.allclose(found.distance.double(), d.topk(6, largest=False).values, rtol=1e-5)
    assert torch.equal(found.index, d.topk(6, largest=False).indices) and found.distance[4, 0] == 0 and found.mirrored[4, 0]
    itself = torch.tensor([5, 17])
    own = search.by_features(base[itself].expand(2, -1, -1), base, 6, itself)
    assert not (own.index == itself[:, None]).any() and (own.distance > 1).all()
    assert all(len(set(row)) == 6 for row in own.index.tolist())


def test_by_lpips_ranks_the_candidates_as_the_network_does(monkeypatch):
    torch.manual_seed(0)
    network = LPIPS("vgg16")
    base, queries = pictures(9, 1, (20, 24)), pictures(5, 2, (20, 24))
    queries[2] = base[4].flip(-1)
    among = [Found(torch.ones(5, 3), torch.tensor([[0, 1, 2], [3, 4, 5], [4, 1, 0], [8, 7, 6], [2, 3, 4]]), torch.tensor([[False, True, False]] * 5)),
             Found(torch.ones(5, 2), torch.tensor([[0, 5], [1, 2], [4, 8], [8, 8], [0, 1]]), torch.tensor([[True, False]] * 5))]
    among[1].distance[0, 1] = torch.inf                                        # no candidate
    monkeypatch.setattr(search, "LPIPS_QUERIES", 2)
    monkeypatch.setattr(search, "LPIPS_IMAGES", 2)
    found = search.by_lpips(network, Images(queries), Images(base), among, 3, quiet)
    for q in range(5):
        best: dict[int, float] = {}
        for f in among:
            for at, m, d in zip(f.index[q].tolist(), f.mirrored[q].tolist(), f.distance[q].tolist()):
                if math.isfinite(d):
                    pair = [x[None].float() / 127.5 - 1 for x in (queries[q].flip(-1) if m else queries[q], base[at])]
                    best[at] = min(best.get(at, math.inf), float(network(*pair)))
        wanted = sorted(best, key=best.get)[:3]
        assert found.index[q, :len(wanted)].tolist() == wanted
        assert found.distance[q, :len(wanted)].tolist() == pytest.approx([best[i] for i in wanted], rel=1e-3, abs=1e-6)
    assert found.distance[2, 0] < 1e-6 and found.mirrored[2, 0]


def test_large_pictures_are_reduced_for_lpips_and_tiny_ones_enlarged():
    assert search.small(pictures(2, side=(96, 128))).shape == (2, 3, 64, 85) and search.small(pictures(1, side=(8, 12))).shape == (1, 3, 16, 24)
    same = pictures(1, side=(32, 32))
    assert torch.equal(search.small(same), same.float() / 127.5 - 1)


def test_digests_know_mirror_images():
    x = pictures(4)
    a, b, c, d = search.digests(Images(torch.stack([x[0], x[0].flip(-1), x[1], x[0].flip(-2)]))).tolist()
    assert a == b and len({a, c, d}) == 3


# ------------------------------------------------------------------------------------------------------------ statistics


def test_tail_counts_orders():
    """All orders of n fakes and R reals are equally probable: counted one by one."""
    n, reals, k = 4, 6, 2
    counts = []
    for places in itertools.combinations(range(n + reals), n):
        kth = [i for i in range(n + reals) if i not in places][k - 1]
        counts.append(sum(p < kth for p in places))
    for c in range(n + 1):
        assert copies.tail(c, n, k, reals) == pytest.approx(sum(x >= c for x in counts) / len(counts))


def test_figures_of_known_distances():
    real = torch.arange(1.0, 201)[:, None] * torch.tensor([1.0, 2, 2])
    fake = torch.tensor([0.5, 1.5, 1.9, 50.5])[:, None] * torch.tensor([1.0, 1, 3])
    found = copies.compare(fake, real, pairs=False)
    assert found["closer"] | {"p": 0} == {"bound": 2, "count": 3, "share": 0.75, "expected": pytest.approx(2 / 201), "p": 0}
    assert found["closer"]["p"] == pytest.approx(copies.tail(3, 4, 2, 200)) and found["stands_out"]["count"] == 0 and found["blatant"] == 0
    assert found["rank"] == pytest.approx((200 + 199 + 199 + 150) / 800) and found["fakes"]["median"] == pytest.approx(1.7)
    assert copies.rank(real[:, 0], real[:, 0]) == 0.5
    assert copies.compare(fake, real, pairs=True)["closer"]["p"] == pytest.approx(copies.tail(3, 4, 1, 100))


def test_the_detectable_share_is_detected():
    share = copies.detectable(64, 3, 300)
    g = torch.Generator().manual_seed(0)
    needed = next(c for c in range(65) if copies.tail(c, 64, 3, 300) < copies.ALARM)
    seen = ((torch.rand(20000, 64, generator=g) < share).sum(1) >= needed).double().mean()
    assert float(seen) == pytest.approx(0.95, abs=0.01) and copies.detectable(8, 1, 2) is None


def test_new_images_raise_an_alarm_as_rarely_as_promised():
    g = torch.Generator().manual_seed(1)
    alarms = 0
    for _ in range(300):
        x = torch.randn(400, 4, generator=g)
        base, reals, fakes = x[:150], x[150:300], x[300:]
        near = lambda x, itself=None, base=base: search.by_features(x.expand(2, -1, -1), base, 8, itself).distance
        heldout, alone = copies.compare(near(fakes), near(reals), False), copies.compare(near(fakes), near(base, torch.arange(150)), True)
        alarms += sum(copies.verdict(found) == "copies" for found in (heldout, alone))
    assert alarms <= 24                                                       # 600 verdicts, each at 1 % by one figure, seldom by the other


# -------------------------------------------------------------------------------------------------------------- verdicts


def model_of(samples: torch.Tensor) -> SimpleNamespace:
    """What `compare` wants of a model, with samples of our own."""
    return SimpleNamespace(device=torch.device("cpu"), config=SimpleNamespace(seed=0), images_seen=1000,
                           stream=lambda seeds: (samples[[s]].permute(0, 2, 3, 1).numpy() for s in seeds))


def dataset_of(images: torch.Tensor) -> Dataset:
    return Dataset(images, names=[f"{i}.png" for i in range(len(images))])


def compared(fakes: torch.Tensor, train: torch.Tensor, heldout: torch.Tensor | None = None, **more) -> nearest.Neighbours:
    return nearest.compare(model_of(fakes), dataset_of(train), None if heldout is None else dataset_of(heldout), seeds=range(len(fakes)),
                           kinds=["pixel"], **more)


@pytest.mark.parametrize("held", [False, True])
def test_verdicts(held):
    train, heldout, new = pictures(150, 1), pictures(120, 2) if held else None, pictures(64, 3)
    assert compared(new, train, heldout).sentence.startswith("no sign of copying at this sample size: 64 samples would show a share of copies above")
    noisy = (train[:20].flip(-1).float() + 12 * torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))).clamp(0, 255).byte()
    found = compared(torch.cat([new[:44], noisy]), train, heldout)
    who = "120 held-out reals" if held else "150 reals, each against the others,"
    assert f"of 64 samples lie closer to a training image than 99 % of {who} do by pixels: it may have memorised" in found.sentence
    assert {row["seed"] for row in found.figures["rows"][:20]} == set(range(44, 64))             # the most suspicious first
    first = found.figures["rows"][0]
    assert first["pixel"][0]["image"] == f"{first['seed'] - 44}.png" and first["pixel"][0]["mirrored"]
    blurred = F.interpolate(F.avg_pool2d(new.float(), 8), 16, mode="bilinear").byte()
    assert "more likely smoothness than copying" in compared(blurred, train, heldout).sentence
    far = compared(torch.randint(0, 256, new.shape, dtype=torch.uint8), train, heldout)
    assert far.sentence.startswith("no sign of copying") and "they lie farther from the training images than reals do" in far.sentence
    one = compared(torch.cat([new[:30], train[7:8]]), train, heldout)
    assert one.sentence.endswith("it may have memorised; look at the first rows") and one.figures["rows"][0]["seed"] == 30
    if not held:                                              # there some of the new ones happen to be near too
        assert one.sentence.startswith("1 of 31 samples is less than half as far from a training image as any of 150 reals")


def test_doubles_do_not_blunt_the_comparison():
    train, new = pictures(120, 1), pictures(40, 3)
    twice = torch.cat([train, train[:60], train[60:].flip(-1)])
    alone, doubled = compared(new, train).figures, compared(new, twice).figures
    assert doubled["notes"] == ["120 training images equal to another, or to its mirror image: each picture is taken once"]
    assert doubled["distinct"] == alone["distinct"] == 120 and doubled["kinds"] == alone["kinds"]
    held = compared(new, train, torch.cat([pictures(50, 2), train[:3].flip(-1)])).figures
    assert held["reals"] == 50 and held["notes"] == ["3 held-out images equal to a training image: left out"]
    with pytest.raises(HandfulError, match="every held-out image is a training image too"):
        compared(new, train, train[:5])
    with pytest.raises(HandfulError, match="all training images are the same picture"):
        compared(new, train[:1].expand(4, -1, -1, -1))


def test_near_duplicates_among_the_reals_are_said():
    train = pictures(120, 1)
    film = torch.cat([train, (train[:20].float() + 1).clamp(0, 255).byte()])
    assert any("the reals hold near duplicates (by pixels)" in note for note in compared(pictures(20, 3), film).figures["notes"])


def test_too_few_to_say_anything():
    found = compared(pictures(3, 3), pictures(10, 1), pictures(2, 2))
    assert found.sentence == "nothing can be said: 3 samples and 2 reals are too few; hold out more images (data.holdout)"


def test_two_training_images_are_enough_to_run():
    found = compared(pictures(3, 3), pictures(2, 1)).figures
    assert found["sentence"].startswith("nothing can be said") and "stands_out" not in found["kinds"]["pixel"]
    assert all(len(row["pixel"]) == 1 for row in found["rows"])


def test_a_blur_that_no_network_takes_for_a_picture_is_called_far():
    fine = {"closer": {"p": 1.0, "share": 0.0, "bound": 1.0}, "blatant": 0, "detectable_share": 0.1}
    kinds = {"pixel": {**fine, "rank": 0.8}, "lpips": {**fine, "rank": 0.01}}
    assert copies.sentence(kinds, 64, 300, True).endswith("farther from the training images than reals do: look again when they are better")
    assert copies.sentence({"pixel": kinds["pixel"]}, 64, 300, True).endswith("a share of copies above 10 % with 95 % confidence")


def test_features_are_sought_with_mirror_images_and_lpips_among_the_nearest(monkeypatch):
    torch.manual_seed(0)
    project = torch.randn(3 * 16 * 16, 48)
    monkeypatch.setattr(nearest, "_extractor", lambda device: lambda x: x.flatten(1).float() @ project)
    monkeypatch.setattr(nearest, "_lpips", lambda device: LPIPS("vgg16"))
    train = pictures(30, 1)
    fakes, stages = torch.cat([train[4:5].flip(-1), pictures(5, 3)]), []
    for heldout in (None, dataset_of(pictures(12, 2))):
        found = nearest.compare(model_of(fakes), dataset_of(train), heldout, seeds=range(6), progress=lambda *a: stages.append(a))
        assert list(found.figures["kinds"]) == ["pixel", "lpips", "features"] and found.figures["rows"][0]["seed"] == 0
        for kind in nearest.KINDS:
            best = found.figures["rows"][0][kind][0]
            assert (best["image"], best["mirrored"]) == ("4.png", True) and best["distance"] < 1e-3
    assert {"features of the samples", "reals, by LPIPS", "samples, by pixels", "features of the held-out images"} <= {what for what, *_ in stages}
    assert all(1 <= done <= total for _, done, total in stages)


def test_what_has_no_weights_is_left_out_and_said(monkeypatch, tmp_path):
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    found = nearest.compare(model_of(pictures(4, 3)), dataset_of(pictures(20, 1)), seeds=range(4))
    notes = " ".join(found.figures["notes"])
    assert list(found.figures["kinds"]) == ["pixel"] and "handful weights get lpips" in notes and "handful weights get inception" in notes
    with pytest.raises(HandfulError, match="handful weights get lpips"):
        nearest.compare(model_of(pictures(4, 3)), dataset_of(pictures(20, 1)), seeds=range(4), kinds=["lpips"])


def test_as_a_metric_of_features():
    g = torch.Generator().manual_seed(0)
    real, new = torch.randn(300, 16, generator=g), torch.randn(200, 16, generator=g)
    metric = nearest.Nearest()
    assert metric(real, new)["value"] < 0.05 and metric(real, real[:100] + 0.01 * new[:100])["value"] == 1
    assert metric(torch.cat([real, real[:30]]), torch.cat([new, real[:20]]))["value"] == pytest.approx(20 / 220, abs=0.02)


# ------------------------------------------------------------------------------------------------------- sheet and command


def test_the_sheet_holds_what_it_should(tmp_path):
    samples, near = np.full((2, 16, 16, 1), 40, np.uint8), np.full((2, 3, 16, 16, 1), 200, np.uint8)
    framed = np.array([[True, False, False], [False] * 3])
    picture = sheet(samples, ["seed 0", "seed 1"], {"nearest by pixels": (near, framed, [["0.1", "1.2", "1.3 mirrored"]] * 2)}, "some words")
    red = (picture == (0xD0, 0x20, 0x1C)).all(-1)
    assert picture.dtype == np.uint8 and (picture == 40).all(-1).sum() >= 2 * 112**2 and (picture == 200).all(-1).sum() >= 6 * 112**2
    assert red.sum() > 4 * 112 * 2 and not red[:, :128].any()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """(run folder, images): an untrained generator, all else as a run leaves it."""
    root = tmp_path_factory.mktemp("near")
    photos, folder = picture_folder(root / "photos", 24), root / "run"
    config = tiny_config(f"data.path={photos}", "data.holdout=0.25", r"data.groups=(\d\d)\d\.png")
    dataset = load(photos, resolution=16, groups=config.data.groups)
    config.data.fingerprint, config.data.count = dataset.fingerprint, len(dataset)
    trainer = tiny_trainer(f"data.path={photos}", dataset=dataset)
    save_model(folder / "model.safetensors", config, trainer.nets.G_ema, 80)
    (folder / "config.json").write_text(config_module.dumps(config))
    return folder, photos


def test_the_command(trained, capsys, tmp_path):
    folder, photos = trained
    write_report(folder)
    assert f"handful neighbours {folder} {photos}" in (folder / "report.html").read_text(encoding="utf-8")
    assert run(group, ["neighbours", str(folder), str(photos), "--samples", "5", "--by", "pixel", "--device", "cpu", "--trust", "tiny"]) == 0
    out = capsys.readouterr().out
    figures = json.loads((folder / "neighbours.json").read_text())
    assert figures["sentence"] in out and str(folder / "neighbours.jpg") in out and str(folder / "report.html") in out
    assert figures["training_images"] + figures["reals"] == 24 and figures["reals_are"].startswith("held-out") and figures["samples"] == 5
    trainer_side, heldout = load(photos, resolution=16, groups=r"(\d\d)\d\.png").split(0.25, nearest.derive(0, "holdout"))
    assert len(heldout) == figures["reals"]                                   # the images that the trainer kept out
    named = {hit["image"] for row in figures["rows"] for hit in row["pixel"]}
    assert named <= set(trainer_side.names) and not named & set(heldout.names)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert figures["sentence"][1:] in page and "data:image/jpeg" in page.split("Nearest training images")[1]
    with Image.open(folder / "neighbours.jpg") as image:
        assert image.format == "JPEG"
    assert run(group, ["neighbours", str(folder / "model.safetensors"), str(photos), "--seeds", "7,9", "--by", "pixel", "--trust", "tiny",
                       "--out", str(tmp_path / "n"), "--json", "-"]) == 0
    assert {row["seed"] for row in json.loads(capsys.readouterr().out)["rows"]} == {7, 9} and (tmp_path / "n" / "neighbours.jpg").is_file()


def test_wrong_use_is_one_line(trained, capsys):
    folder, photos = trained
    assert run(group, ["neighbours", str(folder), str(photos), "--by", "pixels"]) == 2
    assert capsys.readouterr().err.splitlines() == ["handful: no distance 'pixels'; did you mean 'pixel'?"]
    assert run(group, ["neighbours", str(folder), str(photos), "--by", ","]) == 2
    assert run(group, ["neighbours", str(folder), str(photos.parent / "nothing"), "--by", "pixel", "--trust", "tiny"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
    with pytest.raises(UsageError, match="no seeds"):
        nearest.neighbours(folder, photos, samples=0, kinds=["pixel"], device="cpu", trust=["tiny"])


def test_other_images_than_those_of_the_run_are_said(trained, tmp_path):
    folder, _ = trained
    found = nearest.neighbours(folder, picture_folder(tmp_path / "other", 20), 4, kinds=["pixel"], device="cpu", trust=["tiny"]).figures
    assert found["notes"][0].endswith("does not hold what the model was trained on: the samples are compared with all of it")
    assert found["training_images"] == 20 and found["reals_are"].startswith("training images")


def test_a_report_survives_a_broken_file(trained):
    folder, _ = trained
    for text in ("{", "[]", '{"sentence": 3}', '{"sentence": "fine", "kinds": {"pixel": 3}, "notes": null}'):
        (folder / "neighbours.json").write_text(text)
        assert write_report(folder).is_file()


def test_write_is_what_a_training_loop_calls(tmp_path):
    figures = nearest.write(tmp_path, model_of(pictures(6, 3)), dataset_of(pictures(20, 1)), dataset_of(pictures(9, 2)), samples=6)
    assert json.loads((tmp_path / "neighbours.json").read_text()) == figures and figures["reals"] == 9
