"""A run from the user's side: train, stop, resume, generate; and what is said when something is wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import handful
from handful import HandfulError, UsageError
from handful.data import Dataset
from handful.training import Run, checkpoint, choose, start
from handful.training import loop as fit_module
from handful.training.estimate import Estimate
from handful.training.trainer import Trainer
from making import picture_folder, tiny_trainer, weights
from runs import TINY, TINY_SETTINGS, command, load, refused, same, tensors

# ----------------------------------------------------------------------------------------------------------- the happy way


def test_a_run_folder_holds_what_it_should(done):
    names = {str(p.relative_to(done)) for p in done.rglob("*") if p.is_file()}
    assert {"config.json", "log.jsonl", "model.safetensors", "report.html", "previews/000000000.jpg", "previews/000000040.jpg",
            "checkpoints/000000040.pt", "checkpoints/index.json"} <= names
    assert json.loads((done / "checkpoints/index.json").read_text())["last"] == "000000040.pt"
    log = [json.loads(line) for line in (done / "log.jsonl").read_text().splitlines()]
    assert {"images", "step", "sec", "images_per_sec", "memory_gb", "d/logits_real", "d/logits_fake", "g/loss", "d/grad_norm"} <= set(log[-1])
    config = json.loads((done / "config.json").read_text())
    assert config["g"]["width"] == 8 and config["data"]["count"] == 12 and config["handful"] == handful.__version__


def test_the_saved_configuration_reproduces_the_run(done, photos, capsys):
    assert command("train", photos, "--recipe", "run/config.json", "--out", "again", "--device", "cpu") == 0
    assert "settings from run/config.json" in capsys.readouterr().out
    assert same(tensors(done, 40), tensors(Path("again"), 40))
    from handful import config

    assert set(config.differences(*(config.read(folder / "config.json", ["tiny"]) for folder in (done, Path("again"))))) == {"notes"}
    assert "nothing.json doesn't exist" in refused(capsys, "train", photos, "--recipe", "nothing.json", code=1)


def test_resuming_is_bit_exact_and_kimg_lengthens(done, photos, capsys):
    assert command("train", "--resume", "run", "--kimg", "0.08", "--device", "cpu") == 0
    assert "changed: train.kimg 0.04 -> 0.08" in capsys.readouterr().out
    assert command("train", photos, "--out", "straight", "--kimg", "0.08", *TINY) == 0
    assert same(tensors(done, 80), tensors(Path("straight"), 80))
    images = [json.loads(line)["images"] for line in (done / "log.jsonl").read_text().splitlines()]
    assert images == sorted(images) and images[-1] == 80


def test_python_and_command_are_one(photos):
    one = handful.train(photos, recipe="fastgan64_narrow", out="one", kimg=0.02, res=16, batch=4, device="cpu", quiet=True,
                        settings={"g": "tiny:TinyG", "d": "tiny:TinyD", "terms": {}, "loss": "hinge", "every.preview_images": 4})
    assert one.finished and one.folder == Path("one") and one.metrics() == []
    images = one.model().sample(seeds=range(5), truncation=0.7)
    assert images.shape == (5, 16, 16, 3) and images.dtype == np.uint8


def test_a_seed_is_a_picture_whatever_its_batch(done):
    model = load(done)
    whole = model.sample(range(6))
    assert np.array_equal(model.sample([4]), whole[4:5]) or np.abs(model.sample([4]).astype(int) - whole[4:5]).max() <= 1
    assert np.abs(model.sample(range(6), batch=4).astype(int) - whole).max() <= 1
    z = model.latents([7])
    assert np.allclose(z.numpy(), np.random.RandomState(7).randn(1, model.generator.z_dim))
    by_file = [load(done / p).sample(range(6)) for p in ("model.safetensors", "checkpoints/000000040.pt")]
    assert all(np.array_equal(p, whole) for p in by_file)


def test_generate_writes_pictures_and_sheets(done):
    assert command("generate", "run", "--seeds", "3,5-7", "--out", "out", "--device", "cpu") == 0
    assert sorted(p.name for p in Path("out").iterdir()) == [f"seed{s:08d}.png" for s in (3, 5, 6, 7)]
    picture = np.asarray(Image.open("out/seed00000003.png"))
    assert np.array_equal(picture, load("run").sample([3])[0]) or np.abs(picture.astype(int) - load("run").sample([3])[0]).max() <= 1
    assert command("generate", "run", "--seeds", "0-8", "--grid", "--trunc", "0.5", "--out", "out", "--device", "cpu") == 0
    assert np.asarray(Image.open("out/grid_0-8.png")).shape[1] >= 3 * 16


def test_labels_from_folders(tmp_path, capsys):
    data = picture_folder(tmp_path / "pets", classes=3)
    assert command("train", data, "--labels", "folders", "--out", "run", "--kimg", "0.02", *TINY) == 0
    model = load("run")
    assert model.class_names == ["class0", "class1", "class2"]
    assert not np.array_equal(model.sample([1], label="class0"), model.sample([1], label="class2"))
    assert np.array_equal(model.sample([1], label="class2"), model.sample([1], label=2))
    (data / "class1").rename(data / "class5")
    capsys.readouterr()
    assert command("train", data, "--labels", "folders", "--out", "more", "--kimg", "0", "--init-from", "run", *TINY) == 0
    assert "some have other names there: class1 -> class2, class2 -> class5" in capsys.readouterr().out
    for each in ("each", "all"):
        assert command("generate", "run", "--class", each, "--seeds", "0-4", "--grid", "--out", each, "--device", "cpu") == 0
    assert Path("each/classes_0-4.png").read_bytes() == Path("all/classes_0-4.png").read_bytes()
    sheet, side = np.asarray(Image.open("each/classes_0-4.png")), model.config.data.resolution
    assert sheet.shape[0] == 3 * (side + 2) - 2 and sheet.shape[1] > 5 * (side + 2) - 2                 # a row for each class, its name before it
    cell = sheet[2 * (side + 2):, -side:].astype(int)
    assert np.abs(cell - model.sample([4], label="class2")[0]).max() <= 1
    capsys.readouterr()
    for each in ("each", "all"):
        assert f"--class {each} makes a sheet" in refused(capsys, "generate", "run", "--class", each)
    preview = np.asarray(Image.open(sorted(Path("run/previews").glob("*.jpg"))[-1]))
    assert preview.shape[1] == 3 * (side + 2) - 2                                                       # a column for each class
    assert command("generate", "run", "--class", "clas2", "--out", "out") == 2
    assert "no class 'clas2'; did you mean 'class2'?" in capsys.readouterr().err


def test_a_class_called_each_is_meant_by_its_name(tmp_path, capsys):
    data = picture_folder(tmp_path / "pets", classes=2)
    (data / "class1").rename(data / "each")
    assert command("train", data, "--labels", "folders", "--out", "run", "--kimg", "0", *TINY) == 0
    assert command("generate", "run", "--class", "each", "--seeds", "3", "--out", "out", "--device", "cpu") == 0
    picture = np.asarray(Image.open("out/seed00000003.png")).astype(int)
    model = load("run")
    assert model.class_names == ["class0", "each"]
    assert np.abs(picture - model.sample([3], label=1)[0]).max() <= 1 < np.abs(picture - model.sample([3], label=0)[0]).max()
    assert command("generate", "run", "--class", "all", "--seeds", "3", "--grid", "--out", "out", "--device", "cpu") == 0
    assert Path("out/classes_3.png").exists()                                                           # the alias still means both


def test_dry_run_says_and_stops(photos, capsys):
    assert command("train", photos, "--dry-run", "--res", "64", "--device", "cpu", "--set", "g.ngf=4", "--set", "d.ndf=4") == 0
    said = capsys.readouterr().out
    assert "12 images of about 20x20 pixels" in said and "fastgan64_narrow" in said and "images/s" in said and "GB of memory" in said
    assert not Path("runs").exists()


def test_starting_from_another_model(done, photos, capsys):
    assert command("train", photos, "--out", "next", "--kimg", "0", "--init-from", "run", *TINY) == 0
    assert "starting from run (40 images): G and D" in capsys.readouterr().out
    assert same(tensors(Path("next"), 0)["D"], tensors(done, 40)["D"])
    assert command("train", photos, "--out", "wide", "--kimg", "0", "--init-from", "run", *TINY, "--set", "g.width=16") == 2
    assert "its G has another shape" in capsys.readouterr().err


def test_starting_inside_and_outside_of_what_terms_put_around_d(done, photos, capsys):
    """What is copied of D at the start is copied of the trained one; a wrapper's own part starts anew, its strength too."""
    bits = ("--set", "terms.pa_gan.p=0.3", "--set", "terms.insgen={}")
    assert command("train", photos, "--out", "bits", "--kimg", "0.04", "--init-from", "run", *TINY, *bits, "--set", "terms.pa_gan.p=0.9") == 0
    assert command("train", photos, "--out", "again", "--kimg", "0", "--init-from", "bits", *TINY, *bits) == 0
    assert command("train", photos, "--out", "plain", "--kimg", "0", "--init-from", "bits", *TINY) == 0
    bits, again, plain = tensors(Path("bits"), 40), tensors(Path("again"), 0), tensors(Path("plain"), 0)
    inner = {k.removeprefix("inner."): v for k, v in bits["D"].items() if k.startswith("inner.")}
    assert same(plain["D"], inner) and same({k.removeprefix("inner."): v for k, v in again["D"].items() if k.startswith("inner.")}, inner)
    assert again["D"]["p"].item() == pytest.approx(0.3)
    slow = {k.removeprefix("insgen.slow_d."): v for k, v in again["terms"].items() if k.startswith("insgen.slow_d.")}
    assert same(slow, again["D"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_saved_and_goes_on_bit_for_bit(photos, monkeypatch, capsys, number):
    step, count = Trainer.step, []

    def stopping(self):
        step(self)
        count.append(1)
        if self.images_seen == 12 and len(count) > 3:                # the estimate has taken steps of its own
            signal.raise_signal(number)
            signal.raise_signal(number)                              # as it comes through a program that passes signals on

    with monkeypatch.context() as m:
        m.setattr(Trainer, "step", stopping)
        assert command("train", photos, "--out", "run", "--kimg", "0.04", *TINY) == 130
    assert "go on with: handful train --resume run" in capsys.readouterr().out
    assert (Path("run") / "checkpoints" / "000000012.pt").exists() and (Path("run") / "model.safetensors").exists()
    assert command("train", "--resume", "run", "--device", "cpu") == 0
    assert command("train", photos, "--out", "straight", "--kimg", "0.04", *TINY) == 0
    assert same(tensors(Path("run"), 40), tensors(Path("straight"), 40))


# -------------------------------------------------------------------------------------------------------------- bad input


def test_a_folder_in_use_is_left_alone(photos, capsys):
    Path("mine").mkdir()
    (Path("mine") / "novel.txt").write_text("chapter one")
    assert "mine exists and is not empty; name another --out" in refused(capsys, "train", photos, "--out", "mine", *TINY)
    Path("file").touch()
    assert "file exists and is a file; name another --out" in refused(capsys, "train", photos, "--out", "file", *TINY)
    assert (Path("mine") / "novel.txt").read_text() == "chapter one" and len(list(Path("mine").iterdir())) == 1


def test_unknown_settings_name_the_nearest(photos, capsys):
    assert "unknown setting 'train.bach'; did you mean 'batch'?" in refused(capsys, "train", photos, *TINY, "--set", "train.bach=3")
    assert "'tiny:TinyG' has no setting 'widht'; did you mean 'width'?" in refused(capsys, "train", photos, *TINY, "--set", "g.widht=3")
    assert "unknown term 'lecm'; did you mean 'lecam'?" in refused(capsys, "train", photos, *TINY, "--set", "terms.lecm.weight=1")
    assert "unknown recipe 'fastgan265'; did you mean 'fastgan256'?" in refused(capsys, "train", photos, "--recipe", "fastgan265")
    assert "terms.lecam.weight='much'" in refused(capsys, "train", photos, *TINY, "--set", "terms.lecam.weight=much")
    assert not Path("runs").exists()


def test_a_link_to_nowhere(capsys):
    Path("link").symlink_to("gone")
    assert "'link', it is a link to 'gone', which is not there; mend the link" in refused(capsys, "train", "link", code=1)


def test_data_that_is_no_data(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(capsys, "train", tmp_path / "empty", *TINY, code=1)
    assert "there is no folder or file" in refused(capsys, "train", tmp_path / "emty", *TINY, code=1)
    one = picture_folder(tmp_path / "one", count=1)
    assert "one" in refused(capsys, "train", one, *TINY, code=1)
    bad = picture_folder(tmp_path / "bad", count=3)
    (bad / "001.png").write_bytes(b"not a png")
    assert "001.png" in refused(capsys, "train", bad, *TINY, code=1)
    assert command("train", bad, "--skip-bad", "--out", "run", "--kimg", "0.008", *TINY) == 0
    assert not Path("runs").exists()


def test_a_missing_extra_leaves_no_folder_behind(photos, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said = refused(capsys, "train", photos, "--out", "run", *TINY, "--set", "every.tensorboard=true", code=1)
    assert "handful[tensorboard]" in said and not Path("run").exists()


def test_a_dry_run_names_what_would_stop_the_run(photos, capsys):
    (photos / "empty.jpg").touch()
    (photos / "cut.png").write_bytes((photos / "000.png").read_bytes()[:-400])            # its header is sound
    said = refused(capsys, "train", photos, *TINY, "--dry-run", code=1)
    assert "2 of 14 images" in said and "cut.png (cut short" in said and "empty.jpg (empty (0 bytes))" in said
    assert command("train", photos, *TINY, "--dry-run", "--skip-bad") == 0
    assert "skipped 2 unusable files: cut.png" in capsys.readouterr().out


def test_a_resolution_that_the_architecture_has_not(photos, capsys):
    said = refused(capsys, "train", photos, "--res", "100", "--recipe", "fastgan64_narrow", "--device", "cpu")
    assert "resolution=100: FastGAN makes square pictures of 32, 64, 128" in said and not Path("runs").exists()


def test_names_with_spaces_can_be_typed_again(photos, capsys):
    assert command("train", photos, "--out", "my cats", "--kimg", "0.004", *TINY) == 0
    assert "handful generate 'my cats' --seeds" in capsys.readouterr().out
    assert "handful train --resume 'my cats')" in refused(capsys, "train", photos, "--out", "my cats", *TINY)


def test_a_run_is_not_shortened_below_what_it_has_seen(done, capsys):
    before = (done / "config.json").read_bytes()
    assert "--kimg 0.01: run has seen 40 images already" in refused(capsys, "train", "--resume", done, "--kimg", "0.01")
    assert (done / "config.json").read_bytes() == before


def test_pictures_where_a_file_lies(done, capsys):
    Path("taken").touch()
    assert "can't be written" in refused(capsys, "generate", done, "--seeds", "1", "--out", "taken", code=1)


@pytest.mark.parametrize("seed", [0.5, "a", None])
def test_a_seed_is_a_whole_number(done, seed):
    with pytest.raises(UsageError, match="seeds are whole numbers"):
        load(done).sample([seed])


def test_not_a_run_folder(photos, capsys):
    assert "is not a run folder: it has no config.json" in refused(capsys, "train", "--resume", photos)
    assert "is not a run folder" in refused(capsys, "generate", photos, code=1)
    assert "doesn't exist" in refused(capsys, "generate", "nowhere", code=1)
    assert "--resume nowhere: there is no such folder" in refused(capsys, "train", "--resume", "nowhere")


def test_a_checkpoint_cut_in_half(done, capsys):
    path = done / "checkpoints" / "000000040.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "000000040.pt is cut short or damaged" in refused(capsys, "generate", path, "--device", "cpu", code=1)
    assert command("train", "--resume", "run", "--device", "cpu") == 0                # goes on from the one before
    assert "cut short or damaged" in capsys.readouterr().out and tensors(done, 40)
    for p in (done / "checkpoints").glob("*.pt"):
        p.write_bytes(b"")
    assert "no checkpoint of run can be read" in refused(capsys, "train", "--resume", "run", "--device", "cpu", code=1).replace("handful: ", "")


def test_a_checkpoint_that_would_run_code_is_refused(done, capsys):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch was_here",)

    torch.save({"format": 1, "G": Evil()}, done / "checkpoints" / "000000099.pt")
    line = refused(capsys, "generate", done / "checkpoints" / "000000099.pt", "--device", "cpu", code=1)
    assert "holds more than tensors" in line and not Path("was_here").exists()


def test_a_damaged_model_file(done, capsys):
    path = done / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert "model.safetensors is cut short or damaged" in refused(capsys, "generate", "run", "--device", "cpu", code=1)


def test_resuming_with_other_settings_says_which(done, capsys):
    line = refused(capsys, "train", "--resume", "run", "--set", "g.width=16", "--set", "train.batch=8", "--device", "cpu")
    assert "g.width is 8, not 16" in line and "train.batch is 4, not 8" in line
    assert "leave out --out" in refused(capsys, "train", "--resume", "run", "--out", "other")


def test_resuming_on_other_pictures_is_refused(done, tmp_path, capsys):
    other = picture_folder(tmp_path / "other", count=5)
    assert "holds other images than this run was trained on (5 now, 12 then)" in refused(
        capsys, "train", other, "--resume", "run", "--device", "cpu")


def test_resuming_where_the_data_has_moved(done, photos, tmp_path, capsys):
    photos.rename(tmp_path / "moved")
    assert "handful train DATA --resume" in refused(capsys, "train", "--resume", "run", "--kimg", "0.05", "--device", "cpu", code=1)
    assert command("train", tmp_path / "moved", "--resume", "run", "--kimg", "0.05", "--device", "cpu") == 0


def test_a_full_disk_loses_nothing(done, monkeypatch, capsys):
    before = {p: p.read_bytes() for p in done.rglob("*") if p.suffix in (".pt", ".safetensors")}

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        line = refused(capsys, "train", "--resume", "run", "--kimg", "0.08", "--device", "cpu", code=1)
    assert "can't be written (No space left on device)" in line and "free some space" in line
    assert all(p.read_bytes() == content for p, content in before.items())
    assert not [p for p in done.rglob("*") if p.name.endswith(".tmp")]
    assert command("train", "--resume", "run", "--kimg", "0.08", "--device", "cpu") == 0


@pytest.mark.parametrize("seeds, why", [("x", "neither a number nor a range"), ("5-2", "runs backwards"), ("-3", "neither"), ("", "neither"),
                                        ("4294967296", "whole numbers from 0"), ("0-5000000", "more than a million")])
def test_seeds_that_make_no_sense(done, capsys, seeds, why):
    assert why in refused(capsys, "generate", "run", f"--seeds={seeds}", "--device", "cpu")
    assert not Path("pictures").exists()


def test_a_class_for_a_model_without_classes(done, capsys):
    assert "trained without classes" in refused(capsys, "generate", "run", "--class", "cat", "--device", "cpu")


def test_half_precision_that_a_cpu_would_crawl_in_is_refused(photos, capsys, monkeypatch):
    assert "--precision fp16: CPUs compute it many times slower" in refused(capsys, "train", photos, *TINY, "--precision", "fp16")
    monkeypatch.setattr("handful.training.choose.cpu_has_bf16", lambda: False)
    assert "--precision bf16: this CPU has no bf16 instructions" in refused(capsys, "train", photos, *TINY, "--precision", "bf16")
    assert not Path("runs").exists()


def test_a_device_that_is_not_there(photos, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    assert "--device cuda: not available here" in refused(capsys, "train", photos, "--device", "cuda")


# ---------------------------------------------------------------------------------------------------------------- trouble


def test_a_run_that_breaks_goes_back_once_and_then_stops(photos, monkeypatch, capsys):
    step, broken = Trainer.step, []

    def breaking(self):
        step(self)
        if self.images_seen >= 20 and self.config.recipe and hasattr(self, "_in_fit"):
            with torch.no_grad():
                next(self.nets.D.parameters()).fill_(float("nan"))
            broken.append(self.images_seen)

    real_fit = fit_module.fit

    def fit(trainer, *args, **kwargs):
        trainer._in_fit = True
        return real_fit(trainer, *args, **kwargs)

    with monkeypatch.context() as m:
        m.setattr(Trainer, "step", breaking)
        m.setattr("handful.training.session.fit", fit)
        assert command("train", photos, "--out", "run", "--kimg", "0.2", *TINY) == 1
    out, err = capsys.readouterr()
    notes = [json.loads(line).get("note", "") for line in Path("run/log.jsonl").read_text().splitlines()]
    assert sum("back to 000000000.pt, once" in n for n in notes) == 1
    assert "training broke down" in err and "optim_d.lr" in err
    assert torch.isfinite(torch.cat([v.flatten() for v in tensors(Path("run"), 0)["D"].values()])).all()


def test_a_single_bad_step_is_no_reason_to_go_back(photos, monkeypatch):
    batch, calls = Dataset.batch, []

    def once(self, index, flip, device):
        x, c = batch(self, index, flip, device)
        calls.append(1)
        return (x * float("nan") if len(calls) == 15 else x), c              # not in the four steps of the estimate

    monkeypatch.setattr(Dataset, "batch", once)
    run = handful.train(photos, "fastgan64_narrow", "run", kimg=0.08, res=16, batch=4, device="cpu", quiet=True, settings=TINY_SETTINGS)
    assert sum(line.get("d/bad_grads", 0) + line.get("g/bad_grads", 0) for line in run.log()) == 1
    assert not [line for line in run.log() if "note" in line]


def test_after_a_roll_back_a_run_still_resumes_bit_for_bit(photos, monkeypatch):
    step = Trainer.step

    def breaking(self):
        step(self)
        if self.images_seen >= 20 and self.detours == 0 and self.config.data.count:
            self.nets.D.stem.weight.data.fill_(float("nan"))

    monkeypatch.setattr(Trainer, "step", breaking)
    monkeypatch.setattr("handful.training.start.estimate", lambda *args: Estimate(1, 1, 1, ""))
    how = dict(recipe="fastgan64_narrow", res=16, batch=4, device="cpu", quiet=True, settings=TINY_SETTINGS)
    handful.train(photos, out="whole", kimg=0.08, **how)
    handful.train(photos, out="parts", kimg=0.04, **how)
    assert Run(Path("parts"), trust=("tiny",)).config().seed == 0 and tensors(Path("parts"), 40)["progress"]["detours"] == 1
    handful.train(resume="parts", kimg=0.08, device="cpu", quiet=True, trust=["tiny"])
    assert same(tensors(Path("whole"), 80), tensors(Path("parts"), 80))


def test_the_demonstration_leaves_images_and_a_report(capsys):
    """`handful demo`, the first command of the README, without options but for a length."""
    assert command("demo", "--kimg", "0.016", "--device", "cpu", "--set", "evaluate.metrics=[]", "--set", "train.threads=1") == 0
    said = capsys.readouterr().out
    folder = Path("runs/demo")
    assert f"64 pictures: {folder / 'pictures.png'}" in said and f"report: {folder / 'report.html'}" in said
    with Image.open(folder / "pictures.png") as sheet:
        assert sheet.width >= 8 * 64
    assert (folder / "report.html").stat().st_size > 10_000


def test_the_estimate_leaves_no_trace(photos, monkeypatch):
    """It runs steps of the trainer that then trains: a run with it and one without are the same in every file, from the first checkpoint on."""
    more = TINY_SETTINGS | {"augment": "ada", "terms": {"ada_controller": {"kimg": 0.01, "interval": 1}, "path_length": {"every": 2},
                                                        "lecam": {"start": 0}, "r1": {"gamma": 1.0, "every": 2, "own_step": True},
                                                        "insgen": {"queue_real": 8, "queue_fake": 8, "tap": "pre_logits"}},
                            "optim_d.warmup_kimg": 0.02, "train.threads": 1, "every.checkpoint_kimg": 0.008, "every.keep_checkpoints": 9}
    how = dict(recipe="fastgan64_narrow", res=16, batch=4, kimg=0.024, device="cpu", quiet=True, settings=more)
    torch.manual_seed(7)
    handful.train(photos, out="with", **how)
    monkeypatch.setattr(start, "estimate", lambda trainer: Estimate(1, 1, 1, "", 1))
    torch.manual_seed(7)
    handful.train(photos, out="without", **how)
    steps = [0, 8, 16, 24]
    assert [int(p.stem) for p in sorted(Path("with/checkpoints").glob("*.pt"))] == steps
    for images in steps:
        a, b = (tensors(Path(folder), images) for folder in ("with", "without"))
        assert same({k: v for k, v in a.items() if k != "progress"}, {k: v for k, v in b.items() if k != "progress"})
    a, b = (Path(folder, "model.safetensors").read_bytes() for folder in ("with", "without"))
    assert a == b and Path("with/config.json").read_bytes() == Path("without/config.json").read_bytes()


def test_a_setting_that_came_later_does_not_stop_an_old_run(done):
    tree = json.loads((done / "config.json").read_text())
    del tree["g"]["noise"], tree["train"]["augment_at"]
    (done / "config.json").write_text(json.dumps(tree))
    assert command("train", "--resume", "run", "--kimg", "0.044", "--device", "cpu") == 0
    assert tensors(done, 44)


def test_two_runs_that_start_at_once_take_two_folders(photos, monkeypatch):
    loads, nested = start.load_data, []

    def slow(config, say, quiet):
        if not nested:                                                       # meanwhile, another one starts and ends
            nested.append(1)
            nested.append(handful.train(photos, **how).folder)
        return loads(config, say, quiet)

    monkeypatch.setattr(start, "load_data", slow)
    how = dict(recipe="fastgan64_narrow", kimg=0, res=16, batch=4, device="cpu", quiet=True, settings=TINY_SETTINGS)
    assert {handful.train(photos, **how).folder.name, nested[1].name} == {"photos-fastgan64_narrow", "photos-fastgan64_narrow-2"}
    nested.clear()
    how["out"] = "same"
    with pytest.raises(UsageError, match="same exists and is not empty"):
        handful.train(photos, **how)


def test_lengths_are_whole_images():
    assert 2.007 * 1000 > 2007 and fit_module.to_images(2.007) == 2007       # binary fractions
    assert fit_module._due(1998, 2007, 2.007) and not fit_module._due(2007, 2016, 2.007) and fit_module._due(0, 1, 0.0001)


def test_settings_of_the_wrong_shape(photos, capsys):
    assert "data=5" in refused(capsys, "train", photos, "--set", "data=5")
    assert "train=3" in refused(capsys, "train", photos, "--set", "train=3")
    assert "data.labels=3" in refused(capsys, "train", photos, "--set", "data.labels=3")
    assert "FastGAN makes square pictures" in refused(capsys, "train", photos, "--set", "data.resolution=[64,96]", "--device", "cpu")
    assert "resolution=(64, 96): FastGAN makes square" in refused(capsys, "train", photos, "--res", "96x64", "--recipe", "fastgan64_narrow",
                                                                  "--device", "cpu")
    assert "--res big must be a number of pixels, or WIDTHxHEIGHT" in refused(capsys, "train", photos, "--res", "big", "--device", "cpu")


def test_the_class_of_a_seed_does_not_depend_on_its_batch(tmp_path):
    data = picture_folder(tmp_path / "pets", classes=3)
    run = handful.train(data, "fastgan64_narrow", "run", kimg=0, res=16, batch=4, labels="folders", device="cpu", quiet=True, settings=TINY_SETTINGS)
    model = run.model()
    assert model.label(None, [4, 5, 6]).tolist() == [1, 2, 0]
    assert np.abs(model.sample([4]).astype(int) - model.sample(range(6))[4:5]).max() <= 1


def test_previews_of_few_classes_are_no_tower(tmp_path):
    data = picture_folder(tmp_path / "pets", classes=2)
    run = handful.train(data, "fastgan64_narrow", "run", kimg=0, res=16, batch=4, labels="folders", device="cpu", quiet=True,
                        settings={**TINY_SETTINGS, "every.preview_images": 36})
    height, width, _ = np.asarray(Image.open(next((run.folder / "previews").glob("*.jpg")))).shape
    assert 0.5 < height / width < 2
    assert "classes=2, images_seen=0)" in repr(run.model())
    assert "--class each --seeds 0-9 --grid" in (run.folder / "report.html").read_text()


def test_a_disk_that_fills_up_within_a_model_file(tmp_path):
    resource = pytest.importorskip("resource")
    trainer = tiny_trainer()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(HandfulError, match=r"model.safetensors can't be written .*free some space"):
            checkpoint.save_model(tmp_path / "model.safetensors", trainer.config, trainer.nets.G_ema, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


def test_the_threads_are_counted(monkeypatch):
    for n, words in ((1, "1 CPU thread"), (2, "2 CPU threads")):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n: n)
        assert choose.machine(torch.device("cpu")) == words


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA X")
    assert choose.machine(torch.device("cuda")) == "NVIDIA X"


def test_errors_in_python_are_exceptions_with_the_same_line(tmp_path):
    with pytest.raises(UsageError, match="name the images to train on"):
        handful.train()
    with pytest.raises(HandfulError, match="doesn't exist"):
        handful.load(tmp_path / "nothing.pt")


def test_weights_helper_sees_every_part(photos):
    assert len(weights(tiny_trainer("terms.lecam.weight=1"))) > len(weights(tiny_trainer()))
