"""`handful evaluate`: one pass, the right pictures, protocols by name, statistics kept, two processes as one. No weights are
needed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import handful
from handful import config as config_module
from handful.cli import group, run
from handful.data import load
from handful.errors import HandfulError, UsageError
from handful.features import LPIPS
from handful.infer.model import Model, SeedRng, generator_of, to_uint8
from handful.metrics import KID, _cache, _pass, _session, _sets, evaluate, lpips_diversity, ppl
from handful.metrics._metric import Job
from handful.metrics._pictures import Drawn, Filed, Held, shuffled
from handful.metrics._protocols import protocol, resolve
from handful.metrics._world import World
from handful.rng import derive
from handful.tensors import header_of
from making import in_two_processes, noise_set, picture_folder, tiny_config

ALL = ["fid", "kid", "precision", "recall", "density", "coverage", "inception_score"]


class Projection(nn.Module):
    """Stands in for a feature network: random projections of the 8x8 picture; counts what it sees."""

    name, dim, digest, resize = "projection", 24, "0f1e2d3c", "mean of blocks to 8x8"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.randn(192, self.dim, generator=torch.Generator().manual_seed(0)) / 14)
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        self.seen += len(images)
        small = nn.functional.adaptive_avg_pool2d(images.float().expand(-1, 3, -1, -1) / 127.5 - 1, 8)
        return (small.flatten(1) @ self.w).relu()

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, :10] * 3


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)


@pytest.fixture
def pretend(monkeypatch):
    """The pretrained networks are stand-ins."""
    monkeypatch.setattr(_session, "pretrained", lambda name, device, **kw: Projection())


def tiny_model(*settings: str, **data) -> Model:
    torch.manual_seed(1)
    config = tiny_config(*settings)
    for key, value in data.items():
        setattr(config.data, key, value)
    return Model(generator_of(config), config)


def saved(model: Model, path: Path) -> Path:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.generator.state_dict(), path, {"config": config_module.dumps(model.config)})
    return path


def features(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    images = torch.as_tensor(images)
    return Projection()(images if images.shape[1] == 3 else images.permute(0, 3, 1, 2))


# ---------------------------------------------------------------------------------------------------------------- the right pictures


def test_a_model_is_scored_by_its_seeds_against_data_prepared_as_in_training(tmp_path):
    photos = picture_folder(tmp_path / "photos", 30, 40)
    model = tiny_model()
    path = saved(model, tmp_path / "run" / "model.safetensors")
    (tmp_path / "run" / "config.json").write_text("{}")
    reals = load(photos, resolution=16).images
    expected = KID()(features(reals), features(model.sample(range(50))))
    for given in (model, path, tmp_path / "run"):
        found = evaluate(given, photos, ["kid"], samples=50, extractor=Projection(), batch=7, trust=["tiny"])["kid"]
        assert found["value"] == pytest.approx(expected["value"], rel=1e-5) and found["stderr"] == pytest.approx(expected["stderr"], rel=1e-4)
        assert (found["count_real"], found["count_fake"]) == (30, 50) and found["extractor_digest"] == "0f1e2d3c"
        assert "50 samples against 30 reals" in found["protocol"] and "mean of blocks" in found["protocol"] and found["resize"] == Projection.resize
    assert handful.evaluate is evaluate


def test_labels_of_samples_are_those_of_random_reals():
    data = noise_set(40, classes=2)
    data.labels = (torch.arange(40) >= 36).long()            # a tenth is of class 1
    data.class_names = ["b", "a"]
    model = tiny_model(class_names=["a", "b", "c"])
    labels = Drawn(model, data).labels(range(500))
    assert labels.dtype == torch.int64 and set(labels.tolist()) == {0, 1} and 0.05 < (labels == 0).double().mean() < 0.17    # by name: "a"
    assert labels[7] == {0: 1, 1: 0}[int(data.labels[derive("metrics", "label", 7) % 40])]
    assert Drawn(model, noise_set()).labels([0, 1, 5]).tolist() == [0, 1, 2] and Drawn(tiny_model(), data).labels([0]) is None
    at_once, apart = (torch.cat([x for _, x in Drawn(model, data).batches(range(3, 9), b)]) for b in (6, 1))
    assert (at_once.int() - apart.int()).abs().max() <= 1 and at_once.shape == (6, 3, 16, 16)


def test_two_folders_are_compared_at_the_files_own_sizes(tmp_path):
    def write(folder: str, seed: int) -> tuple[Path, torch.Tensor]:
        g, rows = torch.Generator().manual_seed(seed), []
        for i in range(20):
            size = (12 + 4 * (i % 3), 16 + 4 * (i % 2))
            pixels = torch.randint(0, 256 - 40 * seed, (*size, 3), generator=g, dtype=torch.uint8)
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels.numpy()).save(tmp_path / folder / f"{i:02d}.png")
            rows.append(features(pixels[None]))
        return tmp_path / folder, torch.cat(rows)

    (a, x), (b, y) = write("a", 1), write("b", 2)
    found = evaluate(a, b, ALL, extractor=Projection(), batch=6)
    assert found["kid"]["value"] == pytest.approx(KID()(y, x)["value"], rel=1e-4) and list(found) == ALL
    for by_content in (False, True):
        names = Filed(a, by_content)
        assert sorted(names.names) == [f"{i:02d}.png" for i in range(20)] != names.names     # in one random order, every time
        assert names.names == Filed(a, by_content).names and names.fingerprint == Filed(a).fingerprint != Filed(b).fingerprint
    at_16 = evaluate(a, b, ["kid"], extractor=Projection(), res=16)["kid"]["value"]
    assert at_16 == pytest.approx(KID()(features(load(b, resolution=16).images), features(load(a, resolution=16).images))["value"], rel=1e-4)
    (a / "07.png").write_bytes(b"no picture")
    with pytest.raises(HandfulError, match=r"07.png.*not an image"):
        evaluate(a, b, ["kid"], extractor=Projection())


def test_mirrored_and_held_out_parts_of_a_set():
    whole = noise_set(9)
    held = Held(whole, mirrored=True)
    places, images = next(held.batches(range(18), 18))
    assert held.count == 18 and sorted(shuffled(18).tolist()) == list(range(18))
    for place, image in zip(places.tolist(), images):
        index = int(held.order[place])
        assert torch.equal(image, whole.images[index % 9].flip(2) if index >= 9 else whole.images[index % 9])
    train, out = whole.split(0.3, 0)
    shown = torch.cat([x for _, x in Held(train).batches(range(6), 4)])
    assert sorted(x.sum().item() for x in shown) == sorted(x.sum().item() for x in whole.images[train.rows])
    prints = [h.fingerprint for h in (held, Held(whole), Held(train), Held(out))]
    assert len(set(prints)) == 4 and prints[1] == Held(noise_set(9)).fingerprint


def test_train_and_test_reals_are_told_by_the_fingerprint(tmp_path):
    photos, others = picture_folder(tmp_path / "photos", 20), picture_folder(tmp_path / "others", 14, 24)
    model = tiny_model("data.holdout=0.3", path=str(photos), fingerprint=load(photos, resolution=16).fingerprint)
    names = ["fid", "fid1k_train", "fid1k_test"]
    heard = []
    count = lambda data, model=model: {
        k: v["count_real"] for k, v in evaluate(model, data, names, 50, extractor=Projection(), say=heard.append).items()}
    assert count(photos) == {"fid": 20, "fid1k_train": 14, "fid1k_test": 6} and not heard
    assert count(others) == dict.fromkeys(names, 14) and "not the very set" in heard[-1]
    model.config.data.holdout = 0.0
    with pytest.raises(HandfulError, match="is what the model was trained on, nothing was held out; name a test set"):
        count(photos)
    subset = tiny_model("data.max_images=8", fingerprint=load(photos, resolution=16, max_images=8).fingerprint)
    found = evaluate(subset, photos, ["fid1k_train", "fid1k_full", "fid1k"], extractor=Projection())
    assert {k: v["count_real"] for k, v in found.items()} == {"fid1k_train": 8, "fid1k_full": 20, "fid1k": 40}          # trained with flips
    assert "mirror images" in found["fid1k"]["protocol"] and "against 8 training images" in found["fid1k_train"]["protocol"]


def test_what_zoomed_images_are_scored_against(tmp_path):
    """The training images are those it saw, with the sizes that were drawn; all others are the largest squares, of which nothing is drawn."""
    folder = tmp_path / "wide"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    how = dict(resolution=16, fit="zoomed", max_images=8, first=True, seed=5)
    model = tiny_model("data.fit=zoomed", "data.max_images=8", "data.subset=first", "seed=5", fingerprint=load(folder, **how).fingerprint)
    heard = []
    sets = _sets.beside_model(model, str(folder), {"train"}, False, lambda *a: None, heard.append)
    assert torch.equal(sets["train"].images, load(folder, **how).images) and not any("not the very set" in line for line in heard)
    assert torch.equal(sets["all"].images, load(folder, resolution=16).images)


def test_samples_are_scored_unrounded_where_the_settings_say_so():
    data, rounded, exact = noise_set(), tiny_model(), tiny_model("evaluate.rounded=false")
    a, b = (next(Drawn(m, data).batches(range(6), 6))[1] for m in (rounded, exact))
    assert a.dtype == torch.uint8 and b.dtype == torch.float32 and b.min() >= 0 and b.max() <= 255 and not torch.equal(b, b.round())
    assert torch.equal(b.round().to(torch.uint8), a) and torch.equal(a, torch.from_numpy(rounded.sample(range(6))).permute(0, 3, 1, 2))
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.forward = lambda x: x.float().mean((2, 3))
    found = [evaluate(m, data, "kid", 40, extractor=net)["kid"] for m in (rounded, exact)]
    assert found[0]["value"] != found[1]["value"] and found[0]["value"] == pytest.approx(found[1]["value"], rel=0.05)
    assert "not rounded to 8 bits" in found[1]["protocol"] and "rounded" not in found[0]["protocol"]


def test_batch_statistics_are_those_of_fifty_seeds(tmp_path):
    """As BigGAN's papers sample for their scores: nothing of the model moves, and a picture depends on its seed, not on who made it."""
    model = tiny_model("g=fastgan", "g.ngf=4", "g.z_dim=8", "data.resolution=32", "g.sync_batch_norm=true")
    G, data = model.generator, noise_set(resolution=32)
    before = {k: v.clone() for k, v in G.state_dict().items()}
    flags = [(m.training, getattr(m, "track_running_stats", None), getattr(m, "sync", None)) for m in G.modules()]
    standing, batch = (torch.cat([x for _, x in Drawn(model, data, statistics=s).batches(range(100), 16)]) for s in ("standing", "batch"))
    assert (standing.int() - batch.int()).abs().double().mean() > 1
    assert all(torch.equal(v, G.state_dict()[k]) for k, v in before.items())
    assert flags == [(m.training, getattr(m, "track_running_stats", None), getattr(m, "sync", None)) for m in G.modules()]
    with torch.no_grad():
        for m in G.modules():
            m.train(isinstance(m, nn.BatchNorm2d))
        by_hand = G(model.latents(range(50, 100)), rng=SeedRng(range(50, 100), torch.device("cpu"))).image
        G.load_state_dict(before)
        G.eval()
    assert (to_uint8(by_hand).transpose(0, 3, 1, 2).astype(int) - batch[50:].numpy()).__abs__().max() <= 1
    share = Drawn(model, data, statistics="batch").batches(range(37, 70), 7)
    places, pictures = (torch.cat(parts) for parts in zip(*share))
    assert places.tolist() == list(range(37, 70)) and torch.equal(pictures, batch[37:70])
    score = lambda **more: evaluate(model, data, ["kid"], 60, extractor=Projection(), **more)["kid"]
    assert "batch norm with standing statistics" in score()["protocol"] and "over each 50 samples" in score(statistics="batch")["protocol"]
    assert score()["value"] != score(statistics="batch")["value"]
    model.config.evaluate.statistics = "batch"
    assert score() == score(statistics="batch")
    assert "batch norm" not in evaluate(tiny_model(), noise_set(), "kid", 9, extractor=Projection())["kid"]["protocol"]
    with pytest.raises(UsageError, match="--statistics batch is about a model's batch norm"):
        evaluate(data, data, "kid", extractor=Projection(), statistics="batch")
    with pytest.raises(UsageError, match="statistics='live': must be one of standing, batch"):
        score(statistics="live")


def test_a_set_s_own_test_images_are_the_unseen_ones(tmp_path, monkeypatch):
    photos, tests, samples = picture_folder(tmp_path / "photos", 20), picture_folder(tmp_path / "tests", 7), picture_folder(tmp_path / "s", 1000)
    for module in (_sets, _session):
        monkeypatch.setattr(module, "test_of", lambda path: str(tests) if Path(path) == photos else None)
    model = tiny_model("data.holdout=0.3", path=str(photos), fingerprint=load(photos, resolution=16).fingerprint)
    count = lambda *given: {k: v["count_real"] for k, v in evaluate(*given, ["fid", "fid1k_train", "fid1k_test"], 50, extractor=Projection()).items()}
    assert count(model, photos) == {"fid": 20, "fid1k_train": 14, "fid1k_test": 7} and count(model, tests)["fid1k_test"] == 7
    assert count(samples, photos) == {"fid": 20, "fid1k_train": 20, "fid1k_test": 7}
    found = evaluate(model, load(photos, resolution=16), ["fid1k_test"], extractor=Projection(), heldout=str(tests))
    assert found["fid1k_test"]["count_real"] == 7


# -------------------------------------------------------------------------------------------------------------- one pass, and the cache


def test_one_pass_serves_all_metrics():
    net, model = Projection(), tiny_model()
    stages = {}
    evaluate(model, noise_set(30), [*ALL, "fid1k_full", "kid1k_full"], samples=60, extractor=net,
             progress=lambda stage, done, total, left: stages.setdefault(stage, []).append((done, total, left)))
    assert net.seen == 30 + 1000                                             # not once more than the largest number asked for
    assert stages["sampling and looking"][-1][:2] == (1000, 1000) and stages["looking at the reals"][-1][:2] == (30, 30)
    assert {"kid", "precision", "fid"} <= set(stages)
    assert all(left is None or left >= 0 for seen in stages.values() for *_, left in seen) and stages["kid"][-1][2] == 0


def test_streams_when_there_are_many(monkeypatch):
    a, b = noise_set(70), noise_set(90, resolution=24)
    names = ["fid", "inception_score", "fid1k_full"]
    kept = evaluate(tiny_model(), a, names, samples=90, extractor=Projection(), cache=False)
    monkeypatch.setattr(_pass, "KEPT", 10)
    streamed = evaluate(tiny_model(), a, names, samples=90, extractor=Projection(), batch=11)
    again = evaluate(tiny_model(), a, names, samples=90, extractor=Projection())                 # reals from the cache
    for name in names:
        for other in (streamed, again):
            assert other[name]["value"] == pytest.approx(kept[name]["value"], rel=1e-5)
            assert other[name].get("bias", 0) == pytest.approx(kept[name].get("bias", 0), rel=1e-5)
    assert evaluate(b.images, a, "fid", extractor=Projection())["fid"]["value"] > 0


def test_reals_are_looked_at_once(tmp_path):
    photos = picture_folder(tmp_path / "photos", 25)
    score = lambda data, net, **kw: evaluate(tiny_model(), data, ["fid", "kid"], samples=10, extractor=net, **kw)
    nets = [Projection() for _ in range(6)]
    first = score(photos, nets[0])
    photos.rename(tmp_path / "elsewhere")
    assert score(tmp_path / "elsewhere", nets[1]) == first and (nets[0].seen, nets[1].seen) == (35, 10)
    nets[2].digest = "other weights"
    assert score(tmp_path / "elsewhere", nets[2])["fid"]["value"] == first["fid"]["value"] and nets[2].seen == 35
    Image.new("RGB", (20, 20)).save(tmp_path / "elsewhere" / "new.png")
    assert score(tmp_path / "elsewhere", nets[3])["fid"]["count_real"] == 26 and nets[3].seen == 36
    for file in _cache.folder().iterdir():
        file.write_bytes(file.read_bytes()[:50])                             # damaged: as if it weren't there
    score(tmp_path / "elsewhere", nets[4])
    assert nets[4].seen == 36 and not list(_cache.folder().glob(".*"))
    score(tmp_path / "elsewhere", nets[5], cache=False)
    assert nets[5].seen == 36


def test_statistics_belong_to_pixels_whatever_the_files_are_called(tmp_path):
    """Renamed, in other folders, in another order, compressed otherwise: the same statistics, found again; the same values without them."""
    photos, others = picture_folder(tmp_path / "photos", 25), tmp_path / "others"
    files = sorted(photos.iterdir())
    for i, file in enumerate(reversed(files)):
        (others / f"class{i % 3}").mkdir(parents=True, exist_ok=True)
        Image.open(file).save(others / f"class{i % 3}" / f"{'zyxwv'[i % 5]}{i}.png", compress_level=1)
    fakes, model = noise_set(30, resolution=20).images, tiny_model()
    names = ["fid", "kid", "precision"]
    for given in (fakes, model):
        found = []
        for data, cache in ((photos, True), (others, True), (others, False)):
            net = Projection()
            found.append(evaluate(given, data, names, 30, extractor=net, cache=cache))
            assert net.seen == 30 + (0 if data is others and cache else 25)
        assert found[0] == found[1] == found[2]
    whole = noise_set(9)
    turned = handful.data.Dataset(whole.images.flip(0), names=list("ihgfedcba"), fingerprint="another")
    assert Held(whole).fingerprint == Held(turned).fingerprint
    assert torch.equal(*(torch.cat([x for _, x in Held(d).batches(range(9), 4)]) for d in (whole, turned)))
    assert Held(handful.data.Dataset(whole.images.view(9, 3, 8, 32))).fingerprint != Held(whole).fingerprint


def test_the_cache_keeps_what_was_used_last(monkeypatch):
    monkeypatch.setattr(_cache, "MOST_FILES", 5)
    place, like = lambda i: ["somewhere", i], {"x": (torch.int64, (100,))}
    for i in range(5):
        _cache.write(place(i), {"x": torch.full((100,), i)})
        os.utime(_cache.path_of(place(i)), (1000 + i, 1000 + i))
    assert int(_cache.read(place(0), like)["x"][0]) == 0                           # used: now 1 is the oldest
    _cache.write(place(5), {"x": torch.full((100,), 5)})
    assert [i for i in range(6) if _cache.read(place(i), like) is not None] == [0, 2, 3, 4, 5]
    (_cache.folder() / ".a.1.tmp").write_text("half")
    (_cache.folder() / ".b.2.tmp").write_text("of another process, now")
    os.utime(_cache.folder() / ".a.1.tmp", (1000, 1000))
    monkeypatch.setattr(_cache, "MOST_BYTES", 2000)
    large = torch.zeros(1000)                                                # too large for all, and yet the newest
    _cache.write(place(6), {"x": large})
    assert [i for i in range(7) if _cache.path_of(place(i)).exists()] == [6]
    assert torch.equal(_cache.read(place(6), header_of({"x": large}))["x"], large)
    assert [p.name for p in _cache.folder().glob(".*")] == [".b.2.tmp"]
    gone = _cache.folder() / ("0" * 32 + ".safetensors")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [gone, _cache.path_of(place(6))] if pattern[0] == "*" else [])
    _cache.prune()                                                           # another process has pruned meanwhile
    assert _cache.read(place(6), header_of({"x": large})) is not None
    assert _cache.read(place(6), like) is None                               # of another shape: as if it were not there


class Bare(nn.Module):
    """Somebody's network, that says nothing of itself."""

    def __init__(self, dim: int = 6, **more) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.norm, self.seen = nn.Conv2d(3, dim, 4, 4), nn.BatchNorm2d(dim), 0

    def forward(self, images):
        self.seen += len(images)
        return self.norm(self.conv(images.float() / 255)).mean((2, 3), keepdim=True)


def test_any_network_can_look(tmp_path):
    reals, fakes, net = noise_set(30), noise_set(40, resolution=24).images, Bare().train()
    found = evaluate(fakes, reals, ["kid", "fid"], extractor=net)["kid"]
    assert net.training and net.norm.training and net.seen == 1 + 30 + 40 and net.norm.num_batches_tracked == 0
    expected = KID()(*(net.eval()(x).flatten(1) for x in (reals.images, fakes)))["value"]
    assert found["value"] == pytest.approx(expected, rel=1e-5)
    assert (found["extractor"], len(found["extractor_digest"])) == ("Bare", 16)
    digests = [evaluate(fakes, reals, "kid", extractor=n)["kid"]["extractor_digest"] for n in (Bare(), Bare().half().float(), Bare(7))]
    assert digests[0] == found["extractor_digest"] and len(set(digests)) == 3
    again, named = Bare(), [Bare(), Bare()]
    evaluate(fakes, reals, "kid", extractor=again)
    assert again.seen == 71                                                  # its weights don't say what its code does: nothing is kept
    for n in named:
        n.digest = "by its author"
        evaluate(fakes, reals, "kid", extractor=n)
    assert (named[0].seen, named[1].seen) == (71, 41)
    with pytest.raises(UsageError, match=r"extractor=Conv2d: it must take uint8 \[B,C,H,W\] in 0..255 and .*; on \[1, 3, 16, 16\] it failed"):
        evaluate(fakes, reals, "kid", extractor=nn.Conv2d(3, 4, 3))
    with pytest.raises(UsageError, match=r"extractor=Identity: .* \[B,D\], not \[1, 3, 16, 16\]"):
        evaluate(fakes, reals, "kid", extractor=nn.Identity())


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "file"))
    assert evaluate(tiny_model(), noise_set(), ["kid"], samples=10, extractor=Projection())["kid"]["count_real"] == 24


# ------------------------------------------------------------------------------------------------------------------ protocols and errors


def test_names_fix_protocols():
    facts = lambda name: {k: v for k, v in vars(resolve(name)).items()}
    full = {"samples": 50_000, "max_reals": None, "flips": "no", "ddof": 0, "reals": "all", "extractor": "inception"}
    assert facts("fid50k_full").items() >= full.items()
    assert facts("fid5k_train").items() >= {"samples": 5000, "reals": "train", "ddof": 1}.items()
    assert facts("fid10k_test").items() >= {"samples": 10_000, "reals": "test", "ddof": 1}.items()
    assert facts("fid50k").items() >= {"max_reals": 50_000, "flips": "trained"}.items()
    assert facts("kid50k_full").items() >= {"way": "subsets", "subsets": 100, "subset": 1000, "max_reals": 1_000_000, "samples": 50_000}.items()
    assert facts("pr50k3_full").items() >= {"k": 3, "max_reals": 200_000, "extractor": "vgg16", "with_recall": True}.items()
    assert facts("is50k")["samples"] == 50_000 and facts("is10k")["samples"] == 10_000
    assert facts("ppl2_wend").items() >= {"space": "w", "sampling": "end", "epsilon": 1e-4, "crop": False, "samples": 50_000}.items()
    assert facts("ppl_zfull").items() >= {"space": "z", "sampling": "full", "crop": True}.items()
    for name in ("fid", "fid0k_full", "pr50k_full", "fid50k3", "is50k_train", "ppl3_wend", "fid50k_fool"):
        assert protocol(name) is None


def test_what_was_taken_is_said(pretend):
    data = noise_set(30)
    found = evaluate(tiny_model(), data, ["precision", "fid", "pr1k3_full"], samples=200)
    assert found["precision"]["count_fake"] == 30 and found["fid"]["count_fake"] == 200 and found["pr1k3_full"]["count_fake"] == 1000
    assert set(found["pr1k3_full"]) >= {"value", "recall"} and "mostly bias" in found["fid"]["note"] and found["pr1k3_full"]["note"] == (
        "the name fixes 1000 samples, not 200")
    other = evaluate(tiny_model(), data, ["fid1k_full", "kid"], samples=10, extractor=Projection())
    assert "not with the network" in other["fid1k_full"]["note"] and "not with" not in other["kid"].get("note", "")


@pytest.mark.parametrize("metrics, error, line", [
    (["kidd"], UsageError, "unknown metric 'kidd'; did you mean 'kid'"), (["fid50k_ful"], UsageError, "did you mean 'fid50k_full'"),
    ([], UsageError, "no metrics; name some"), (["kid"], HandfulError, "handful weights get inception"),
    (["pr1k3_full"], HandfulError, "handful weights get vgg16"), (["lpips_diversity"], HandfulError, "handful weights get lpips")])
def test_what_makes_no_sense_or_is_missing_is_said_before_the_work(metrics, error, line):
    with pytest.raises(error, match=line):
        evaluate(tiny_model(), noise_set(), metrics, samples=10)


def test_more_errors(tmp_path):
    few, model, net = noise_set(3), tiny_model(), Projection()
    with pytest.raises(HandfulError, match="precision needs at least 4 reals, there are 3"):
        evaluate(model, few, ["precision"], extractor=net)
    with pytest.raises(HandfulError, match="fid1k_full takes 1000 samples, but there are 24"):
        evaluate(noise_set(), noise_set(), ["fid1k_full"], extractor=net)
    with pytest.raises(HandfulError, match="ppl needs a model"):
        evaluate(noise_set(), noise_set(), ["ppl"])
    with pytest.raises(HandfulError, match="walks in w, but 'tiny:TinyG' has no mapping network"):
        evaluate(model, noise_set(), ["ppl2_wend"])
    with pytest.raises(UsageError, match="the images are 3x24x24, the model makes 3x16x16"):
        evaluate(model, noise_set(resolution=24), ["kid"], extractor=net)
    with pytest.raises(HandfulError, match="there is no folder or file 'nowhere'"):
        evaluate("nowhere", noise_set(), ["kid"], extractor=net)
    with pytest.raises(UsageError, match=r"pictures are uint8 \[N,C,H,W\], not torch.float32"):
        evaluate(torch.zeros(4, 3, 8, 8), noise_set(), ["kid"], extractor=net)
    with pytest.raises(UsageError, match="--res is for two folders"):
        evaluate(model, noise_set(), ["kid"], extractor=net, res=16)
    net.__class__ = type("Blind", (nn.Module,), {**{k: getattr(Projection, k) for k in ("name", "dim", "digest", "resize")}})
    with pytest.raises(HandfulError, match="inception_score is defined by the classes of inception, which 'projection' doesn't know"):
        evaluate(model, noise_set(), ["inception_score"], extractor=net)
    assert net.seen == 0


# ------------------------------------------------------------------------------------------------------- path length, LPIPS diversity


class Squared(nn.Module):
    """In LPIPS's place: the squared distance of pixels."""

    @classmethod
    def load(cls, net="vgg16", device=None, impl="fast"):
        return cls()

    def forward(self, a, b):
        return (a.double() - b.double()).square().sum((1, 2, 3))


class Linear(nn.Module):
    """z -> w = z M -> pixels w A: path lengths have a closed form."""

    num_classes, z_dim, num_ws = 0, 6, 2

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(4)
        self.m, self.a = (nn.Parameter(torch.randn(6, n, generator=g).double()) for n in (6, 3 * 8 * 8))

    def map(self, z, c=None):
        return z.double() @ self.m

    def noise(self, n, rng):
        return [rng.randn(n, 1, 8, 8)]

    def synthesise(self, ws, noise):
        return (ws[:, 0] @ self.a).view(-1, 3, 8, 8) + noise[0]

    def sample(self, z, c=None, *, rng, truncation=1.0):
        return (z.double() @ self.a).view(-1, 3, 8, 8) + rng.randn(len(z), 1, 8, 8)


def job(model, batch=16) -> Job:
    pictures = Held(noise_set())
    return Job(model, pictures, pictures, lambda seeds: None, torch.device("cpu"), batch, World(), lambda done, total: None)


def test_path_length_of_a_linear_generator(monkeypatch):
    monkeypatch.setattr(ppl, "LPIPS", Squared)
    g = Linear()
    model = Model(g, tiny_config())
    z = model.latents(range(400)).double()
    steps = (z[1::2] - z[::2]) @ g.m @ g.a                                   # d = |A (w1 - w0)|^2, whatever epsilon
    d = steps.square().sum(1).detach()
    low, high = np.percentile(d, 1, method="lower"), np.percentile(d, 99, method="higher")
    metric = resolve("ppl")
    metric.samples, metric.epsilon = 200, 1e-2
    metric.prepare(job(model), "ppl")
    found = metric.run(job(model))
    assert found["value"] == pytest.approx(float(d[(d >= low) & (d <= high)].mean()), rel=1e-3)      # noise is the same and fp32 cancels
    assert "200 pairs in w, endpoints" in found["protocol"]
    metric.space, metric.sampling = "z", "full"
    metric.prepare(job(model), "ppl")
    angle = torch.nn.functional.cosine_similarity(z[::2], z[1::2]).acos()
    in_z = metric.run(job(model, batch=7))["value"]                   # |dz/dt| = angle sqrt(6): A^T A of mean trace
    assert in_z == pytest.approx(float((angle**2).mean() * (g.a @ g.a.T).trace()), rel=0.3)
    assert "z, whole path" in metric.run(job(model))["protocol"]


def test_slerp_keeps_to_the_sphere():
    a, b = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (0.0, 0.25, 1.0):
        between = ppl.slerp(a, b, torch.tensor([[t]]))
        whole, part = (torch.nn.functional.cosine_similarity(a, x).acos() for x in (b, between))
        assert torch.allclose(between.norm(dim=1), torch.ones(5).double()) and torch.allclose(part, t * whole, atol=1e-6)
    assert torch.allclose(ppl.slerp(a, b, torch.ones(1, 1)), torch.nn.functional.normalize(b, dim=1))
    assert ppl.trimmed_mean(torch.tensor([1e9, *[2.0] * 198, -1e9])) == 2


def test_path_length_of_stylegan2(monkeypatch):
    monkeypatch.setattr(ppl.LPIPS, "load", classmethod(lambda cls, net, device, impl: LPIPS(net, impl)))
    model = tiny_model("g=stylegan2", "g.channel_base=128", "g.w_dim=16", "g.z_dim=16", "data.resolution=16")
    torch.manual_seed(0)
    metric = resolve("ppl2_wend")
    metric.samples, metric.epsilon = 8, 1e-2                  # an untrained one hardly changes: 1e-4 would be lost in fp32
    metric.prepare(job(model), "ppl2_wend")
    values = [metric.run(job(model, batch=b))["value"] for b in (8, 3)]
    assert values[0] > 0 and values[0] == pytest.approx(values[1], rel=1e-2)


def test_lpips_diversity(monkeypatch):
    torch.manual_seed(0)
    net = LPIPS("vgg16")
    monkeypatch.setattr(lpips_diversity.LPIPS, "load", classmethod(lambda cls, *a, **k: net))
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    e = lpips_diversity.embedding(net, x)
    assert torch.allclose((e[:2] - e[2:]).square().sum(1), net(x[:2], x[2:]), rtol=1e-4)
    assert torch.allclose(lpips_diversity.distances(e, e)[0, 1:], net(x[:1].expand(3, -1, -1, -1), x[1:]), rtol=1e-2, atol=1e-5)
    reals, copies = noise_set(6, resolution=32), noise_set(6, resolution=32).images[:1].repeat(8, 1, 1, 1)
    found = evaluate(copies, reals, ["lpips_diversity"], batch=3)["lpips_diversity"]
    assert found["value"] == pytest.approx(0, abs=1e-6) and found["nearest_real"] == pytest.approx(0, abs=1e-4) and found["reals"] > 0.01
    assert (found["count_real"], found["count_fake"]) == (6, 8) and "4 pairs of samples, 3 of reals at 32 pixels" in found["protocol"]
    fresh = evaluate(noise_set(8, resolution=32).images.flip(2), reals, ["lpips_diversity"])["lpips_diversity"]
    assert fresh["value"] == pytest.approx(fresh["reals"], rel=0.3) and fresh["nearest_real"] > found["nearest_real"] + 0.001


# --------------------------------------------------------------------------------------------------------------------------- the command


def test_the_command(tmp_path, capsys, pretend):
    photos = picture_folder(tmp_path / "photos", 30)
    path = saved(tiny_model(), tmp_path / "model.safetensors")
    assert run(group, ["evaluate", str(path), str(photos), "--samples", "40", "--json", "out/scores.json", "--metrics", "fid, kid,precision",
                       "--trust", "tiny"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(Path("out/scores.json").read_text())
    assert list(found) == ["fid", "kid", "precision"] and all({"value", "protocol"} <= set(v) for v in found.values())
    assert "lower is better" in out and "two halves of the reals (15 and 15)" in out and "note: below 2000 images" in out and "+-" in out
    assert not err
    assert run(group, ["evaluate", str(photos), str(photos), "--metrics", "kid", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["kid"]["count_fake"] == 30
    assert run(group, ["evaluate", str(photos), str(photos), "--metrics", "kit"]) == 2
    assert capsys.readouterr().err == "handful: unknown metric 'kit'; did you mean 'kid'?\n"


def test_the_command_without_weights_names_the_remedy(tmp_path, capsys):
    photos = picture_folder(tmp_path / "photos", 6)
    assert run(group, ["evaluate", str(photos), str(photos), "--metrics", "kid"]) == 1
    err = capsys.readouterr().err
    assert "handful weights get inception" in err and err.count("\n") == 1


@pytest.mark.parametrize("option", ["--features", "--extractor"])
def test_the_network_is_chosen_by_features_and_by_its_older_name(option, tmp_path, monkeypatch, capsys):
    photos = picture_folder(tmp_path / "photos")
    assert run(group, ["evaluate", str(photos), str(photos), "--metrics", "kid", option, "dinov3"]) == 2
    assert "there is no feature network 'dinov3'; did you mean 'dinov2'?" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr("handful.metrics._evaluate.evaluate", lambda *given, extractor, **more: asked.append(extractor) or {})
    assert run(group, ["evaluate", "a", "b", option, "vgg16", "--json", "-"]) == 0 and asked == ["vgg16"]


def test_metrics_are_listed(capsys):
    assert run(group, ["list", "metrics"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in [*ALL, "ppl", "lpips_diversity"]) and "fid50k_full" in out
    assert run(group, ["list", "metrics", "kid"]) == 0 and "subsets" in capsys.readouterr().out


@pytest.mark.parametrize("name, words", [
    ("fid5k_train", "5000, of a model | what the model was trained on | no mirror images | n - 1 | inception"),
    ("fid10k_test", "10000 | never saw | n - 1"), ("kid50k_full", "50000 | all pictures of DATA, at most 1000000 | 100 of 1000"),
    ("pr50k3_full", "precision and recall | at most 200000 | k = 3 | VGG16"), ("ppl_wend", "path length in w | 50000 pairs | t = 0 | centre | lpips"),
    ("is50k", "Inception Score | none | 10 parts"), ("fid50k", "at most 50000 | with their mirror images"), ("kid5k", "5000")])
def test_a_protocol_is_explained(name, words, capsys):
    assert run(group, ["list", "metrics", name]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in words.split(" | ")) and out.startswith("protocol")
    assert run(group, ["list", "metrics", name, "--json"]) == 0 and json.loads(capsys.readouterr().out)["metric"] == protocol(name).name
    assert run(group, ["list", "metrics", name + "x"]) == 2 and "unknown metric" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------------- several processes


def scores(world_of_its_own: bool) -> dict:
    data = noise_set(37, classes=2)
    model = tiny_model(class_names=["c0", "c1"])
    torch.manual_seed(0)
    ppl.LPIPS = Squared
    _pass.KEPT = 20                                          # so that sums are joined too
    return evaluate(model, data, ["fid", "kid", "recall", "coverage", "inception_score", "ppl"], samples=61, extractor=Projection(), batch=8,
                    together=not world_of_its_own)


class Failing(Projection):
    """Raises `error` in the second batch that it sees on rank 1."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, images):
        if torch.distributed.get_rank() == 1 and self.seen:
            raise self.error
        return super().forward(images)


def failures() -> list[list[str]]:
    """What each rank gets when rank 1 fails alone: in the middle of its share, when it is told to stop, in the last metric, or as rank 0 does."""
    rank, model, data = torch.distributed.get_rank(), tiny_model(), noise_set(37)

    def stop(stage, done, total, left):
        if rank == 1 and stage == "sampling and looking" and done:
            raise KeyboardInterrupt

    def fail(stage, done, total, left):
        if rank == 1 and stage == "kid":
            raise ValueError("odd\nnumbers")

    tries = [{"extractor": Failing(HandfulError("a broken picture"))}, {"extractor": Failing(RuntimeError("out of memory"))},
             {"extractor": Projection(), "progress": stop}, {"extractor": Projection(), "progress": fail}, {"extractor": Projection(), "samples": 1}]
    found = []
    for i, more in enumerate(tries):
        try:
            evaluate(model, data, ["fid", "kid"], **{"samples": 200, "batch": 8, "cache": i > 1, **more})
        except BaseException as error:
            found.append([type(error).__name__, str(error)])
    return found


def work(out: Path) -> None:
    """What each rank runs under torchrun."""
    from handful.training import distributed

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found = {"failures": failures(), "together": scores(False)}
    if rank == 0:
        found["alone"] = scores(True)                        # nobody else is there to answer
    (out / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    distributed.leave()


def test_two_processes_give_the_value_of_one(tmp_path):
    in_two_processes(__file__, tmp_path, HANDFUL_CACHE=str(tmp_path / "theirs"))
    a, b = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    assert a["failures"] == b["failures"] == [
        ["Joint", "rank 1 of 2: a broken picture"], ["Joint", "rank 1 of 2: RuntimeError: out of memory"], ["Stopped", "stopped"],
        ["Joint", "rank 1 of 2: ValueError: odd"], ["UsageError", "samples=1: take 2 or more; 5000 is usual"]]
    assert a["together"] == b["together"]
    for name, one in a["alone"].items():
        for key, value in one.items():
            assert a["together"][name][key] == (pytest.approx(value, rel=1e-4, abs=1e-9) if isinstance(value, float) else value), (name, key)


def test_spans_divide_without_gap_or_overlap():
    for n in (0, 1, 7, 100):
        for size in (1, 2, 3, 8):
            assert [i for r in range(size) for i in World(r, size).span(n)] == list(range(n))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
