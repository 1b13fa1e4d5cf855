"""Loading a model executes nothing, ends, and says in one line what is wrong: files that were made to do harm, through the function that all
commands load with, and through the commands."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import handful
from handful import HandfulError, UsageError, catalog
from handful import config as config_module
from handful.catalog import Use
from handful.cli import group, run
from handful.errors import Untrusted
from handful.infer import load
from hostile import DEEP, MARK, OUTSIDE, Maker, small_run
from making import picture_folder
from runs import TINY

SECONDS, BYTES = 10, 2**30


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return small_run(tmp_path_factory.mktemp("sound") / "run")


def in_child(path: Path) -> str:
    """What `load` says of a file, "" where it loads it; in a child process that is given 10 s and 1 GB more than it has."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)              # of forking beside threads that sleep
        child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            resource.setrlimit(resource.RLIMIT_AS, (_virtual() + BYTES,) * 2)
            load(path, "cpu")
            said = ""
        except HandfulError as error:
            said = str(error)
        except BaseException as error:                                   # the test says what came instead
            said = f"UNEXPECTED {type(error).__name__}: {error}"
        finally:
            os.write(writing, said.encode(errors="replace")[:60_000])
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return said if status == 0 else f"UNEXPECTED end: {status}"


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="children with limits of their own are made as on Linux")
def test_a_hundred_hostile_files(sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert in_child(sound) == in_child(sound / "model.safetensors") == in_child(sound / "checkpoints" / "000000000.pt") == ""
    count, wrong = 0, []
    for path, wanted in Maker(sound, tmp_path / "files").all():
        count += 1
        said = in_child(path)
        if not said or said.startswith("UNEXPECTED") or wanted not in said or "\n" in said or len(said) > 900 or "please report" in said:
            wrong.append(f"{path.name}: {said[:300]!r}, wanted {wanted!r}")
    assert not wrong, "\n".join(wrong)
    assert count >= 100 and not list(tmp_path.rglob(MARK))


def test_what_differs_is_named_with_how_many_more(sound, tmp_path):
    maker = Maker(sound, tmp_path / "files")
    with pytest.raises(HandfulError, match=r"the tensor '.*' is missing, and \d+ more; it was changed or is from another version"):
        load(maker.model("none", tensors={}))
    import handful.tensors as tensors_module

    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    with pytest.raises(HandfulError, match=r"a file doesn't fit its own configuration: the tensor '0.weight' is \[2, 2\], not \[3, 2\], and 1 more"):
        tensors_module.fill(net, {**net.state_dict(), "0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(7)}, "a file")


def ways_in(maker: Maker, photos: Path) -> dict[str, tuple[list[str], str]]:
    """A hostile file for each way in, with the command that takes it, and the module that its line must name."""
    def folder(name: str, place: str, code: str) -> str:
        return str(run_folder(maker, name, maker.naming(place, code)))

    recipe = maker.out / "recipe.json"
    recipe.write_text(json.dumps(maker.naming("terms.x", "subprocess:Popen")))
    pictures = str(photos)
    return {
        "generate": (["generate", str(maker.model("a", maker.naming("g", "subprocess:Popen"))), "--seeds", "0"], "subprocess"),
        "generate checkpoint": (["generate", str(maker.checkpoint("b", config=json.dumps(maker.naming("d", "os:system")))), "--seeds", "0"], "os"),
        "evaluate": (["evaluate", folder("c", "augment", "subprocess:Popen"), pictures, "--metrics", "kid"], "subprocess"),
        "neighbours": (["neighbours", folder("d", "loss", "subprocess:Popen"), pictures, "--by", "pixel"], "subprocess"),
        "init from": (["train", pictures, "--init-from", folder("e", "g", "subprocess:Popen"), "--kimg", "0"], "subprocess"),
        "recipe": (["train", pictures, "--recipe", str(recipe), "--dry-run"], "subprocess"),
        "resume": (["train", "--resume", folder("f", "terms.x", "subprocess:Popen")], "subprocess"),
        "resume auto": (["train", pictures, "--out", folder("g", "g", "subprocess:Popen"), "--resume", "auto"], "subprocess"),
        "metric": (["train", "--resume", str(run_folder(maker, "h", maker.changed(evaluate__metrics=["subprocess:Popen"])))], "subprocess"),
        "pickle": (["generate", str(maker.checkpoint("i", G_ema=_evil()))], "")}


def _evil():
    from hostile import Evil

    return Evil()


def run_folder(maker: Maker, name: str, tree: dict) -> Path:
    folder = maker.out / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(tree))
    torch.save({**maker.state, "config": json.dumps(tree)}, folder / "checkpoints" / "000000000.pt")
    (folder / "model.safetensors").write_bytes(maker.model(f"{name}_model", tree).read_bytes())
    return folder


def test_ten_ways_in(sound, tmp_path, monkeypatch):
    """Each as a process of its own. The line says what would be imported, and the whole command that allows it."""
    photos = picture_folder(tmp_path / "photos", 6, 32)
    monkeypatch.chdir(tmp_path)
    ways = ways_in(Maker(sound, tmp_path / "files"), photos)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "files").rglob("*") if p.is_file()}
    running = {name: subprocess.Popen([sys.executable, "-m", "handful", *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                      env={**os.environ, "OMP_NUM_THREADS": "1"}) for name, (line, _) in ways.items()}
    for name, process in running.items():
        _, err = process.communicate(timeout=100)
        line, module = ways[name]
        assert process.returncode == 1 and err.count("\n") == 1 and "please report" not in err, (name, err)
        if module:
            assert f"--trust {module}\n" in err and "allow it with: handful " + line[0] in err, (name, err)
        else:
            assert "holds more than tensors" in err
    assert not list(tmp_path.rglob(MARK))
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "files").rglob("*") if p.is_file() and p.name not in (".lock", "lock.json")}
    assert after == before


def test_every_command_with_every_way_in(sound, tmp_path, monkeypatch, capsys):
    photos = str(picture_folder(tmp_path / "photos", 6, 32))
    monkeypatch.chdir(tmp_path)
    maker = Maker(sound, tmp_path / "files")
    for i, (place, code) in enumerate({**OUTSIDE, "evaluate": ""}.items()):
        tree = maker.changed(evaluate__metrics=["os:system"]) if place == "evaluate" else maker.naming(place, code)
        folder = run_folder(maker, f"run{i}", tree)
        for model in (folder, folder / "model.safetensors", folder / "checkpoints" / "000000000.pt"):
            for line in (["generate", model], ["evaluate", model, photos], ["neighbours", model, photos], ["train", photos, "--init-from", model]):
                assert run(group, [str(a) for a in line]) == 1
                assert "--trust " in (err := capsys.readouterr().err) and err.count("\n") == 1
        for line in (["train", "--resume", folder], ["train", photos, "--recipe", folder / "config.json", "--dry-run"],
                     ["train", photos, "--out", folder, "--resume", "auto"]):
            assert run(group, [str(a) for a in line]) == 1
            assert "--trust " in (err := capsys.readouterr().err) and err.count("\n") == 1
        assert run(group, ["report", str(folder)]) == 0              # it shows settings, and imports nothing for it
        capsys.readouterr()
    assert not list(tmp_path.rglob(MARK)) and "antigravity" not in sys.modules


# ------------------------------------------------------------------------------------------------------------- what is allowed


def test_what_the_user_names_is_honoured_and_what_a_file_names_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photos = str(picture_folder(tmp_path / "photos"))
    assert run(group, ["train", photos, "--out", "run", "--kimg", "0.008", *TINY]) == 0
    capsys.readouterr()
    assert run(group, ["generate", "run", "--seeds", "0", "--device", "cpu"]) == 1
    told = re.search(r"allow it with: handful (.*)$", capsys.readouterr().err.strip())[1]
    assert told == "generate run --seeds 0 --device cpu --trust tiny"
    assert run(group, told.split()) == 0                                 # the command that was told works
    assert run(group, ["generate", "run", "--seeds", "0", "--trust", "tin"]) == 1
    assert run(group, ["generate", "run", "--seeds", "0", "--trust", "*"]) == 2
    capsys.readouterr()
    with pytest.raises(Untrusted, match=r"trust=\['tiny'\]"):
        handful.load("run")
    assert handful.load("run", trust=["tiny"]).sample([0]).shape == (1, 16, 16, 3)
    assert run(group, ["train", "--resume", "run", "--kimg", "0.012", "--device", "cpu"]) == 1
    again = ["train", "--resume", "run", "--kimg", "0.012", "--device", "cpu", "--set", "g=tiny:TinyG", "--set", "d=tiny:TinyD"]
    assert run(group, again) == 0                                        # named in this call


def test_a_setting_beside_it_does_not_make_a_files_class_the_users(sound, tmp_path, monkeypatch, capsys):
    """`--set terms.lecam.weight=1` names lecam; a file that calls something else `lecam` is refused all the same."""
    monkeypatch.chdir(tmp_path)
    photos = str(picture_folder(tmp_path / "photos", 6, 32))
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(Maker(sound, tmp_path / "files").changed(terms={"lecam": {"use": "subprocess:Popen"}})))
    line = ["train", photos, "--recipe", str(recipe), "--set", "terms.lecam.weight=1", "--dry-run"]
    assert run(group, line) == 1 and "'subprocess:Popen' as terms.lecam" in capsys.readouterr().err
    recipe.write_text(json.dumps(Maker(sound, tmp_path / "more").changed(g={"use": "subprocess:Popen"})))
    line = ["train", photos, "--recipe", str(recipe), "--set", "g.width=4", "--dry-run"]
    assert run(group, line) == 1 and "'subprocess:Popen' as g" in capsys.readouterr().err


def test_classes_and_names_passed_in_python_are_honoured(tmp_path, monkeypatch):
    import tiny

    monkeypatch.chdir(tmp_path)
    settings = {"g": tiny.TinyG, "d": {"use": tiny.TinyD, "width": 4}, "terms": {}, "loss": "hinge", "evaluate.metrics": [],
                "every.preview_images": 4}
    made = handful.train(picture_folder(tmp_path / "photos"), recipe="fastgan64_narrow", out="run", kimg=0.004, res=16, batch=4, device="cpu",
                         quiet=True, settings=settings)
    assert made.config().d == Use("tiny:TinyD", width=4, patches=0) and made.model().sample([1]).shape == (1, 16, 16, 3)
    with pytest.raises(UsageError, match="neither plain data nor a class"):
        handful.train(tmp_path / "photos", settings={"g": object()})


@pytest.mark.parametrize("kind, which, name, why", [
    ("arch", "Generator", "subprocess:Popen", "is no Generator"), ("arch", "Discriminator", "tiny:TinyG", "is no Discriminator"),
    ("augment", "", "subprocess:Popen", "is no Augment"), ("losses", "", "subprocess:Popen", "is no AdversarialLoss"),
    ("terms", "", "subprocess:Popen", "is neither a Term nor a Wrapper"), ("metrics", "", "subprocess:Popen", "is no Metric"),
    ("terms", "", "subprocess:run", "is not a class")])
def test_what_is_allowed_must_be_what_its_place_wants(kind, which, name, why, monkeypatch):
    """Before it is constructed: nothing of the class is called."""
    monkeypatch.setattr(subprocess, "Popen", type("Popen", (), {"__init__": lambda self, *a, **k: pytest.fail("it was called")}))
    with pytest.raises(UsageError, match=why):
        catalog.build(kind, Use(name, args=["touch", MARK]), which)


def test_a_name_with_a_dot_is_refused_even_within_the_package(sound, tmp_path):
    tree = Maker(sound, tmp_path / "files").changed(terms={"x": {"use": "handful.terms.r1:R1"}})
    with pytest.raises(Untrusted, match="handful.terms.r1"):
        config_module.from_file(tree, "a file")
    assert config_module.from_file(tree, "a file", trust=["handful.terms.r1"]).terms["x"].name == "handful.terms.r1:R1"


# ---------------------------------------------------------------------------------------------------------- other small files


def test_damaged_files_of_a_run_are_one_line(sound, tmp_path, monkeypatch, capsys):
    """config.json, index.json, neighbours.json, log.jsonl, metrics.jsonl: of another shape, nested without end, of absurd numbers."""
    import shutil

    monkeypatch.chdir(tmp_path)
    shutil.copytree(sound, "run")
    photos = str(picture_folder(tmp_path / "photos", 6, 32))
    texts = [DEEP, "{", "[]", "7", '{"best": "../../evil.pt", "metric": "kid", "value": 1}', '{"best": 7}', '{"last": ["x"]}', "",
             '{"images": ' + "9" * 400 + "}",
             '{"best": "000000000.pt", "metric": "kid", "value": 1e999}', '{"sentence": "x", "kinds": {"pixel": {"closer": 7}}}',
             '{"images_seen": [1]}',
             '{"data": [], "train": 7, "g": "x", "terms": [1], "notes": {"a": 1}, "seed": []}', '{"train": {"kimg": "x"}, "data": {"count": "y"}}',
             '{"images": "x", "note": 7, "machine": [], "threads": "many", "sec": {}}',
             '{"metric": 7}', '{"metric": "kid", "value": "x", "images": []}']
    for name in ("checkpoints/index.json", "neighbours.json", "log.jsonl", "metrics.jsonl", "config.json"):
        kept = (tmp_path / "run" / name).read_bytes() if (tmp_path / "run" / name).exists() else None
        for text in texts:
            (tmp_path / "run" / name).write_text(text)
            for line in (["report", "run"], ["train", photos, "--resume", "run", "--kimg", "0", "--device", "cpu", "--dry-run"]):
                code = run(group, line)
                err = capsys.readouterr().err
                assert code in (0, 1, 2) and "unexpected" not in err and err.count("\n") <= 1, (name, text[:80], line, err)
                assert code or name != "config.json" or line[0] == "report", (name, text[:80])
        (tmp_path / "run" / name).unlink()
        if kept is not None:
            (tmp_path / "run" / name).write_bytes(kept)


def test_permission_is_never_called_damage(sound, tmp_path, monkeypatch, capsys):
    """As root every file can be read, so the system's refusal is made here."""
    import builtins
    import shutil

    import handful.files
    from handful.training import checkpoint

    monkeypatch.chdir(tmp_path)
    shutil.copytree(sound, "run")
    real_open, read_bytes, stopped = builtins.open, Path.read_bytes, []

    def guarded(path, *args, **kwargs):
        if isinstance(path, str | os.PathLike) and Path(path).name in stopped:
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *args, **kwargs)

    def guarded_bytes(path):
        with guarded(path, "rb") as file:
            return file.read()

    monkeypatch.setattr(builtins, "open", guarded)
    monkeypatch.setattr("io.open", guarded)
    monkeypatch.setattr(Path, "read_bytes", guarded_bytes)
    photos = str(picture_folder(tmp_path / "photos", 6, 32))
    resume, pt = ["train", photos, "--resume", "run"], "000000000.pt"
    for name, line in (("config.json", resume), (pt, resume), (pt, ["generate", f"run/checkpoints/{pt}"]), ("model.safetensors", ["generate", "run"]),
                       ("index.json", ["train", photos, "--init-from", "run"]), ("log.jsonl", ["report", "run"])):
        (Path("run") / "log.jsonl").touch()
        stopped[:] = [name]
        assert run(group, line) == 1
        err = capsys.readouterr().err
        assert "no permission" in err and name in err and "damaged" not in err and err.count("\n") == 1, (name, err)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    stopped.clear()
    assert checkpoint.index(Path("run"))["last"] == "000000000.pt" and handful.files.read_bounded(Path("run/config.json"))
