"""The command's frame: help, exit codes, errors as one line."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from handful import catalog, cli
from handful.cli import _checks, first_line, group, run
from handful.errors import HandfulError, UsageError

COMMANDS = sorted(p.stem for p in Path(cli.__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def shown(capsys) -> tuple[str, list[str]]:
    out, err = capsys.readouterr()
    return out, err.splitlines()


def raising(error: BaseException) -> click.Command:
    @click.command()
    @click.option("--kimg", type=float)
    @click.option("--batch", type=int)
    @click.argument("data", required=False)
    def command(kimg, batch, data):
        raise error

    return command


# ------------------------------------------------------------------------------------------------------------------- help


def test_help_lists_every_command_file_with_its_first_line(capsys):
    assert run(group, ["--help"]) == 0
    out, err = shown(capsys)
    words = " ".join(out.split())
    for name in COMMANDS:
        assert f"{name} {' '.join(first_line(Path(cli.FOLDER) / f'{name}.py').split())}" in words
    assert not err


def test_help_is_quick_and_imports_no_heavy_library():
    # CPU time of the process itself, not wall time: the machine may be busy
    code = ("import resource, sys\nfrom handful.cli import group, run\nassert run(group, ['--help']) == 0\n"
            "heavy = {'torch', 'pydantic', 'rich', 'numpy', 'PIL', 'jinja2'} & set(sys.modules)\n"
            "used = resource.getrusage(resource.RUSAGE_SELF)\nprint(heavy or '', used.ru_utime + used.ru_stime, file=sys.stderr)")
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stderr) < 0.5


def test_commands_come_in_the_order_of_their_use(capsys):
    names = group.list_commands(click.Context(group))
    assert sorted(names) == COMMANDS and names[:len(cli.ORDER)] == list(cli.ORDER)


def test_a_new_command_needs_only_its_file(tmp_path, monkeypatch, capsys):
    for name in ("zoom", "train", "_helper", "annotate"):
        (tmp_path / f"{name}.py").write_text(f'"""What {name} does."""')
    monkeypatch.setattr(cli, "FOLDER", tmp_path)
    assert group.list_commands(click.Context(group)) == ["train", "annotate", "zoom"]
    assert run(group, ["--help"]) == 0
    assert "annotate  What annotate does" in shown(capsys)[0]


def test_every_command_has_help(capsys):
    for name in ("list", "doctor", "report"):
        assert run(group, [name, "--help"]) == 0
        assert f"Usage: handful {name}" in shown(capsys)[0]


def test_version_and_no_command(capsys):
    from handful import __version__

    assert run(group, ["--version"]) == 0
    assert shown(capsys)[0] == f"handful {__version__}\n"
    assert run(group, []) == 0
    assert "Commands:" in shown(capsys)[0]


# ------------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(("error", "code", "line"), [
    (HandfulError("a.png is cut short; remove it"), 1, "handful: a.png is cut short; remove it"),
    (UsageError("unknown term 'lecan'; did you mean 'lecam'?"), 2, "handful: unknown term 'lecan'; did you mean 'lecam'?"),
    (KeyboardInterrupt(), 130, "handful: stopped"),
    (ZeroDivisionError("division\nby zero"), 1,
     "handful: unexpected ZeroDivisionError: division by zero (run again with --debug for the traceback; please report)"),
    (OSError(errno.ENOSPC, "No space left on device", "runs/a/log.jsonl"), 1,
     "handful: no space left on the disk (runs/a/log.jsonl): free some, or choose another folder with --out"),
    (PermissionError(errno.EACCES, "Permission denied", "photos"), 1,
     "handful: no permission (photos): change the file's or folder's rights, or choose another folder"),
    (MemoryError(), 1, "handful: out of memory: choose a smaller --batch or --res, or close other programs"),
])
def test_an_error_is_one_line_with_its_exit_code(error, code, line, capsys):
    assert run(raising(error), []) == code
    assert shown(capsys) == ("", [line])


def test_out_of_device_memory_names_the_remedy(capsys):
    import torch

    assert run(raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")), []) == 1
    assert "smaller --batch" in shown(capsys)[1][0]


@pytest.mark.parametrize(("args", "line"), [
    (["--kimgs", "3"], "handful: no such option '--kimgs'; did you mean '--kimg'?"),
    (["--zzz"], "handful: no such option '--zzz'; see 'handful --help'"),
    (["--kimg", "many"], "handful: invalid value for '--kimg': 'many' is not a valid float"),
    (["--kimg"], "handful: option '--kimg' requires an argument"),
    (["photos", "more"], "handful: got unexpected extra argument (more)"),
])
def test_wrong_use_is_one_line_and_exit_code_2(args, line, capsys):
    assert run(raising(AssertionError("must not run")), args) == 2
    assert shown(capsys) == ("", [line])


def test_a_command_that_does_not_exist_is_no_command(capsys):
    assert run(group, ["xyzzy", "x"]) == 2
    assert shown(capsys)[1] == [f"handful: no such command 'xyzzy'; known: {', '.join(COMMANDS)}"]


def test_wrong_use_of_a_command_names_it(capsys):
    assert run(group, ["report", "--opne", "x"]) == 2
    assert shown(capsys)[1] == ["handful report: no such option '--opne'; did you mean '--open'?"]
    assert run(group, ["report"]) == 2
    assert shown(capsys)[1] == ["handful report: missing argument 'RUN'; see 'handful report --help'"]
    assert run(group, ["reprot"]) == 2
    assert shown(capsys)[1] == ["handful: no such command 'reprot'; did you mean 'report'?"]


@pytest.mark.parametrize("args", [["--debug", "list", "trems"], ["list", "trems", "--debug"]])
def test_debug_shows_the_traceback_before_or_after_the_command(args, capsys):
    assert run(group, args) == 2
    lines = shown(capsys)[1]
    assert lines[0].startswith("Traceback") and lines[-1] == "handful: unknown kind 'trems'; did you mean 'terms'?"


def test_debug_after_a_double_dash_is_an_argument(capsys):
    assert run(raising(HandfulError("seen")), ["--", "--debug"]) == 1
    assert shown(capsys)[1] == ["handful: seen"]


def test_a_broken_pipe_is_quiet():
    code = "from handful.cli import group, run; import sys; sys.exit(run(group, ['list', 'terms']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


def test_a_terminal_without_unicode_does_not_crash():
    code = "import click\nfrom handful.cli import run\n@click.command()\ndef c(): click.echo('katze \\u732b')\nraise SystemExit(run(c, []))"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"katze ?", b"")


# ----------------------------------------------------------------------------------------------------------- list, doctor, report


def test_list_names_every_method(capsys):
    for kind in catalog.KINDS:
        assert run(group, ["list", kind, "--json"]) == 0
        assert list(json.loads(shown(capsys)[0])) == catalog.names(kind)
    assert run(group, ["list"]) == 0
    out = shown(capsys)[0]
    assert all(f"  {name} " in out for name in catalog.names("terms"))


def test_list_names_the_feature_networks(capsys):
    from handful.features import weights

    assert run(group, ["list", "features", "--json"]) == 0
    found = json.loads(shown(capsys)[0])
    assert found.pop("lpips_vgg16").startswith("the VGG16 of LPIPS")
    assert found == {name: weights.ENTRIES[name].said for name in weights.names()}
    assert run(group, ["list", "features", "lpips"]) == 2
    assert "handful weights list shows the origin" in shown(capsys)[1][0]


def test_list_shows_a_method_s_settings(capsys):
    assert run(group, ["list", "terms", "lecam"]) == 0
    out = shown(capsys)[0]
    assert out.startswith("LeCam") and any(line.split() == ["weight", "float", "=", "0.3"] for line in out.splitlines())
    assert run(group, ["list", "arch", "fastgan", "--json"]) == 0
    found = json.loads(shown(capsys)[0])
    assert found["settings"]["Generator"]["resolution"]["default"] == 256 and "ndf" in found["settings"]["Discriminator"]
    assert run(group, ["list", "recipes", "fastgan256"]) == 0
    out = shown(capsys)[0]
    assert "fastgan/2" in out and "35.11" in out
    assert run(group, ["list", "terms", "lecan"]) == 2
    assert shown(capsys)[1] == ["handful: unknown term 'lecan'; did you mean 'lecam'?"]


@pytest.mark.parametrize("kind, name, line", [
    ("terms", "contrad", "images with labels: train without labels (no --labels), or leave it out (--set terms.contrad=null)"),
    ("terms", "ada_controller", "another controller of the augmentation's strength (ada_controller): leave one of them out (--set terms.NAME=null)"),
    ("terms", "insgen", "another method that contrasts fakes (contrad, fake_contrast, insgen): leave one of them out (--set terms.NAME=null)"),
    ("arch", "biggan", f"images without labels: {catalog.GIVE_LABELS}")])
def test_list_shows_what_a_method_can_t_be_combined_with(kind, name, line, capsys):
    assert run(group, ["list", kind, name]) == 0
    section = shown(capsys)[0].partition("Can't be combined with:\n")[2]
    assert f"  {line}" in section.splitlines()
    assert run(group, ["list", kind, name, "--json"]) == 0
    conflicts = json.loads(shown(capsys)[0])["conflicts"]
    assert [f"  {c['what']}: {c['remedy']}" for c in conflicts] == section.splitlines()


@pytest.mark.parametrize("kind, name", [("terms", "lecam"), ("augment", "diffaug"), ("arch", "stylegan2"), ("recipes", "fastgan256")])
def test_list_shows_no_conflicts_where_there_are_none(kind, name, capsys):
    assert run(group, ["list", kind, name]) == 0
    assert "combined" not in shown(capsys)[0]
    assert run(group, ["list", kind, name, "--json"]) == 0
    assert json.loads(shown(capsys)[0])["conflicts"] == []


def test_doctor_finds_this_machine_fit(capsys):
    assert run(group, ["doctor", "--json"]) == 0
    lines = {line["what"]: line for line in json.loads(shown(capsys)[0])}
    assert {line["state"] for line in lines.values()} <= {"ok", "note", "missing"}
    assert lines["R1 by conv"]["state"] == "ok"
    assert all(line["remedy"] for line in lines.values() if line["state"] == "missing")


def test_doctor_says_how_much_memory_is_free(monkeypatch):
    from handful.data import memory

    for free, lines in ((5 * 2**30, [("ok", "memory", "5.0 GB free", "")]), (None, []),
                        (3 * 2**30, [("note", "memory", "3.0 GB free", "choose a small --batch and --res")])):
        monkeypatch.setattr(memory, "free_memory", lambda unknown, free=free: unknown if free is None else free)
        assert [line for line in _checks.threads_and_memory() if line[1] == "memory"] == lines


def test_doctor_reports_a_check_that_fails(monkeypatch, capsys):
    def disk():
        yield "ok", "disk", "10 GB", ""
        raise RuntimeError("the disk is\nmade of cheese")

    monkeypatch.setattr(_checks, "ALL", (disk,))
    assert run(group, ["doctor"]) == 1
    out = shown(capsys)[0].splitlines()
    assert out[0].split() == ["ok", "disk", "10", "GB"]
    assert out[1].startswith("broken") and "RuntimeError: the disk is made of cheese" in out[1]


def test_doctor_recognises_wrong_second_derivatives():
    import torch

    def detached(x):                        # its first derivative is right, its second is lost
        return (x**3).detach() + 3 * (x**2).detach() * (x - x.detach())

    (line,) = _checks._double_backward("conv", detached, torch.device("cpu"))
    assert line[0] in ("broken", "note") and line[3]


@pytest.mark.parametrize(("make", "path", "line"), [
    (["runs/cats/config.json"], "runs/cast", "handful: runs/cast doesn't exist; did you mean 'cats'?"),
    (["runs/cats/config.json"], "runs", "handful: runs is not a run folder (it has no config.json), but holds some: runs/cats"),
    (["photos/a.png"], "photos", "handful: photos is not a run folder: it has no config.json; RUN is the folder that handful train --out made"),
    (["a.pt"], "a.pt", "handful: a.pt is a file; RUN is the folder that handful train made, with config.json in it"),
])
def test_report_of_what_is_no_run(make, path, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in make:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}")
    assert run(group, ["report", path]) == 1
    assert shown(capsys) == ("", [line.replace("/", "\\") if sys.platform == "win32" else line])
    assert not list(tmp_path.rglob("report.html"))


def test_report_prints_its_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("cats").mkdir()
    Path("cats/config.json").write_text("{}")
    assert run(group, ["report", "cats"]) == 0
    assert Path(shown(capsys)[0].strip()) == Path("cats/report.html") and Path("cats/report.html").is_file()
