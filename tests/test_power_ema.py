"""Power-function averages: the arithmetic by the numbers of the specification, the stored snapshots, and averages made from them."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import handful
from handful import config
from handful.cli import group, run
from handful.errors import HandfulError, UsageError
from handful.nn.spectral import Spectral
from handful.reproduce._job import Job, differences
from handful.reproduce._tables import rows
from handful.tensors import read_header, read_tensors
from handful.training import power_ema
from handful.training.power_ema import Averages, Length, Snapshots, coefficients, decay, gamma_of, inner, width_of
from making import noise_set, run_steps, tiny_trainer
from runs import TINY, TRUST, command, same, tensors

SHORT = (*TINY[:TINY.index("every.checkpoint_kimg=0.04")], "every.checkpoint_kimg=0.008", *TINY[TINY.index("every.checkpoint_kimg=0.04") + 1:])
OLD = "ema.choose=false"


def folder_of(run_folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (run_folder / "ema").iterdir()}


def log_notes(run_folder: Path) -> list[str]:
    return [line["note"] for line in map(json.loads, (run_folder / "log.jsonl").read_text().splitlines()) if "note" in line]


# ------------------------------------------------------------------------------------------------------------- the arithmetic


@pytest.mark.parametrize("width, gamma", [(0.05, 16.9722), (0.10, 6.93720), (0.15, 3.55787), (0.20, 1.82621), (0.25, 0.719824)])
def test_the_exponent_of_a_width(width, gamma):
    assert gamma_of(width) == pytest.approx(gamma, rel=1e-5) and width_of(gamma_of(width)) == pytest.approx(width, rel=1e-12)


def test_the_factor_of_an_update():
    assert decay(gamma_of(0.05), 100, 10_000) == pytest.approx(0.834747, rel=1e-6)
    assert decay(gamma_of(0.10), 100, 10_000) == pytest.approx(0.923327, rel=1e-6)
    assert decay(gamma_of(0.10), 100, 100) == 0


@pytest.mark.parametrize("width, wanted", [
    (0.08, [2.7e-6, -3.7e-5, 0.003593, -0.019472, 0.257891, 0.758022]),
    (0.15, [-0.002154, 0.007451, -0.050394, 0.145726, -0.304556, 1.203928])])
def test_the_coefficients_of_a_reconstruction(width, wanted):
    x, error = coefficients([100, 100, 200, 200, 300, 300], [gamma_of(w) for w in (0.05, 0.10)] * 3, 300, gamma_of(width))
    assert x.dtype == np.float64 and x == pytest.approx(wanted, rel=2e-2, abs=5e-7) and x[2:] == pytest.approx(wanted[2:], abs=5e-7)
    assert x.sum() == pytest.approx(1, abs=1e-12) and 0 < error < 0.2


def test_inner_products_are_integrals_and_the_error_is_a_distance():
    s = (np.arange(200_000) + 0.5) / 200_000 * 300                                   # the middles of short stretches
    profile = lambda t, g: np.where(s <= t, (g + 1) * (s / t) ** g / t, 0.0)
    for a, b in (((300, 2.0), (100, 5.0)), ((100, 5.0), (300, 2.0)), ((200, 6.9), (200, 1.5))):
        assert inner(*a, *b) == pytest.approx((profile(*a) * profile(*b)).mean() * 300, rel=1e-4)
    stored, wanted = [(100, 7.0), (200, 7.0), (300, 7.0), (300, 17.0)], (300, 3.0)
    x, error = coefficients(*zip(*stored), *wanted)
    made = sum(w * profile(*p) for w, p in zip(x, stored))
    assert error == pytest.approx(np.sqrt(((made - profile(*wanted)) ** 2).mean() / (profile(*wanted) ** 2).mean()), rel=1e-3)
    assert coefficients(*zip(*stored), *stored[2])[0] == pytest.approx([0, 0, 1, 0], abs=1e-9)


def test_a_halflife_is_a_width_at_a_time():
    """StyleGAN2's ramp-up has a half-life of 0.05 of the images seen."""
    gamma = power_ema.gamma_of_halflife(0.05 * 12345, 12345)
    assert gamma + 1 == pytest.approx(13.86, abs=0.01) and round(width_of(gamma), 2) == 0.06
    length = power_ema.parse_length("10kimg", 200_000)
    assert length.halflife_kimg == pytest.approx(10) and length.width == pytest.approx(width_of(gamma))
    before = 0.5 ** (64 / 10_000)                                                    # of an update by 64 images, at a constant half-life
    assert decay(length.gamma, 64, 200_000) == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("text, why", [
    ("x", "give a half-life as in 10kimg, or a relative width as in 0.08"), ("", "give a half-life"), ("0", "give a half-life"), ("nan", "give"),
    ("-1kimg", "give"), ("1e3", "give"), ("0kimg", "give"), ("10", "at most 0.28; for a half-life write 10kimg"), ("0.29", "at most 0.28"),
    ("200kimg", "an average over 200000 images has a half-life of at most 119 kimg")])
def test_lengths_that_make_no_sense(text, why):
    with pytest.raises(UsageError, match=why):
        power_ema.parse_length(text, 200_000)


# ------------------------------------------------------------------------------------------------------- the running averages


def test_the_averages_are_weighted_by_a_power_of_time():
    """Updates of a known sequence: the weight of each step is the integral of the profile over it."""
    net = torch.nn.Linear(8, 1, bias=False).double()
    averages = Averages(net)
    for step in range(8):
        with torch.no_grad():
            net.weight.copy_(torch.eye(8)[step])
        averages.update(4, 4 * (step + 1))
    for width, average in averages._of.items():
        steps = np.arange(9) / 8
        assert average[0][0].numpy() == pytest.approx(np.diff(steps ** (gamma_of(width) + 1)), abs=1e-12)


@pytest.mark.parametrize("g", ["tiny:TinyG", "fastgan"])
def test_training_is_the_same_with_and_without(g):
    more = ["terms.ada_controller={}", "augment=ada"] if g == "tiny:TinyG" else ["g.ngf=4", "g.z_dim=16", "data.resolution=64"]
    trainers = [run_steps(tiny_trainer(f"g.use={g}", *more, line, dataset=noise_set(resolution=64 if g == "fastgan" else 16)), 6)
                for line in ("ema.choose=true", OLD)]
    kept, without = (t.state_dict() for t in trainers)
    assert trainers[0].averages is not None and trainers[1].averages is None
    assert same({k: v for k, v in kept.items() if k != "power_ema"}, without)


def test_the_averages_go_on_bit_for_bit():
    straight = run_steps(tiny_trainer(), 9)
    half = run_steps(tiny_trainer(), 4)
    half.averages.note(half.images_seen)
    again = tiny_trainer()
    again.load_state_dict(copy.deepcopy(half.state_dict()))
    assert same(run_steps(again, 5).state_dict()["power_ema"]["averages"], straight.state_dict()["power_ema"]["averages"])
    assert again.averages.files == [32]
    with straight.preserved():
        before = copy.deepcopy(straight.state_dict())
        run_steps(straight, 2)
    assert same(straight.state_dict(), before)


def test_a_checkpoint_from_before_has_no_averages():
    trainer, state = tiny_trainer(), copy.deepcopy(run_steps(tiny_trainer(), 2).state_dict())
    del state["power_ema"]
    trainer.load_state_dict(state, "old.pt")
    assert trainer.averages is None and trainer.notes == ["old.pt holds no averages of other lengths, so none are kept from here on (ema.choose)"]
    assert "power_ema" not in run_steps(trainer, 1).state_dict()


@pytest.mark.parametrize("damage, why", [
    (lambda s: s.clear(), "doesn't hold averages"), (lambda s: s["averages"].pop("0.1"), "doesn't hold averages of the widths 0.05, 0.1"),
    (lambda s: s["averages"].update({"0.1": 5}), "doesn't hold averages"), (lambda s: s["averages"]["0.1"].popitem(), "is missing"),
    (lambda s: s["averages"]["0.1"].update({"dense.weight": torch.zeros(2)}), "the tensor 'dense.weight' is"),
    (lambda s: s["averages"]["0.1"].update({"dense.weight": 1.0}), "no tensor"),
    (lambda s: s.update(files=[3, 2]), "no sound list"), (lambda s: s.update(files=[0]), "no sound"), (lambda s: s.update(files=["1"]), "no sound"),
    (lambda s: s.update(files=[17]), "no sound list"), (lambda s: s.update(files=list(range(1, 63))), "no sound list"),
    (lambda s: s.update(files=True), "no sound list")])
def test_a_damaged_state_is_refused(damage, why):
    trainer = run_steps(tiny_trainer(), 2)                                           # 16 images
    state = copy.deepcopy(trainer.state_dict())
    damage(state["power_ema"])
    with pytest.raises(HandfulError, match=why):
        trainer.load_state_dict(state)


def test_runs_from_before_and_reproductions_keep_none():
    tree = config.to_tree(config.resolved(config.parse({"data": {"resolution": 64}})))
    assert config.from_file(tree, "a file").ema.choose
    del tree["ema"]["choose"]
    assert not config.from_file(tree, "a file").ema.choose
    assert config.from_file({**tree, "handful": ""}, "a recipe by hand").ema.choose
    row = next(r for r in rows() if not r.waits)
    job = Job(row)
    assert not job.config.ema.choose and not any("ema.choose" in line for line in differences(job))


# -------------------------------------------------------------------------------------------------------------- the snapshots


def test_when_the_list_is_full_every_second_one_goes():
    averages = Averages(torch.nn.Linear(2, 2))
    assert averages.most == 60
    averages.most = 6
    seen = []
    for images in range(10, 130, 10):
        averages.note(images)
        seen.append(list(averages.files))
    assert seen[4] == [10, 20, 30, 40, 50]                                           # room for one more: the state at the end
    assert seen[5] == [20, 40, 60] and seen[7] == [20, 40, 60, 70, 80] and seen[8] == [40, 70, 90] and seen[11] == [70, 100, 120]


def test_large_snapshots_are_fewer(monkeypatch):
    net = torch.nn.Linear(100, 100)                                                  # 10100 numbers, twice, 2 bytes each: 40400
    monkeypatch.setattr(power_ema, "MOST_BYTES", 200_000)
    averages = Averages(net)
    assert averages.most == 4
    for images in range(1, 30):
        averages.write(Path("run"), images)
        averages.note(images)
        averages.tidy(Path("run"))
        assert sum(p.stat().st_size for p in Path("run/ema").iterdir()) < 200_000
    monkeypatch.setattr(power_ema, "MOST_BYTES", 80_000)
    assert not Averages(net).write(Path("other"), 1) and not Path("other").exists()


def test_what_half_precision_cannot_hold_is_not_stored():
    net = torch.nn.Linear(4, 4)
    net.weight.data[0, 0] = 1e6
    assert not Averages(net).write(Path("run"), 1) and not Path("run").exists()


def test_a_run_stores_snapshots_and_lists_them(photos):
    assert command("train", photos, "--out", "run", "--kimg", "0.044", *SHORT) == 0
    listed = tensors(Path("run"), 44)["power_ema"]["files"]
    assert listed == [8, 16, 24, 32, 40] and sorted(power_ema.snapshots(Path("run"))) == [*listed, 44]
    metadata, header = read_header(Path("run/ema/000000040.safetensors"))
    assert metadata == {"format": "pt", "handful": "1", "images_seen": "40"}
    assert {dtype for name, (dtype, _) in header.items() if not name.startswith("buffer/")} == {torch.float16}
    assert header["0.05/dense.weight"][1] == header["0.1/dense.weight"][1] and header["buffer/z_avg"] == (torch.float32, (8,))
    state, stored = tensors(Path("run"), 44)["power_ema"]["averages"], read_tensors(Path("run/ema/000000044.safetensors"))
    assert all(torch.equal(stored[f"{w}/{name}"], t.half()) for w, named in state.items() for name, t in named.items())
    assert command("train", photos, "--out", "none", "--kimg", "0.016", *SHORT, "--set", OLD) == 0
    assert not Path("none/ema").exists()
    assert command("train", "--resume", "run", "--kimg", "0.056", "--device", "cpu") == 0              # the one between the beats goes
    assert command("train", photos, "--out", "straight", "--kimg", "0.056", *SHORT) == 0
    assert folder_of(Path("run")) == folder_of(Path("straight")) and same(tensors(Path("run"), 56), tensors(Path("straight"), 56))


def test_on_resume_the_folder_becomes_that_of_the_checkpoint(photos, capsys):
    assert command("train", photos, "--out", "run", "--kimg", "0.024", *SHORT) == 0
    ema = Path("run/ema")
    (ema / "000000016.safetensors").rename(ema / "000000099.safetensors")            # newer than the checkpoint, and one that is missing
    (ema / "000000012.safetensors").write_bytes(b"thinned out, and not yet removed")
    (ema / "model-0.1.safetensors").write_bytes(b"the user's")
    capsys.readouterr()
    assert command("train", "--resume", "run", "--kimg", "0.032", "--device", "cpu") == 0
    assert "1 of 3 snapshots of averages are missing in run/ema (of 16 images): other lengths are made from the rest" in capsys.readouterr().out
    assert sorted(p.name for p in ema.iterdir()) == ["000000008.safetensors", "000000024.safetensors", "000000032.safetensors",
                                                     "model-0.1.safetensors"]
    assert tensors(Path("run"), 32)["power_ema"]["files"] == [8, 16, 24, 32]


def test_a_run_from_before_goes_on_without(photos, capsys):
    """Its config.json lacks the setting, and its checkpoint the averages."""
    assert command("train", photos, "--out", "run", "--kimg", "0.024", *SHORT, "--set", OLD) == 0
    assert command("train", photos, "--out", "straight", "--kimg", "0.04", *SHORT, "--set", OLD) == 0
    tree = json.loads(Path("run/config.json").read_text())
    del tree["ema"]["choose"], tree["evaluate"]["stop"], tree["evaluate"]["patience"]
    Path("run/config.json").write_text(json.dumps(tree))
    capsys.readouterr()
    assert command("train", "--resume", "run", "--kimg", "0.04", "--device", "cpu") == 0
    assert capsys.readouterr().out.count("older than ema.choose: it keeps no averages") == 1
    assert same(tensors(Path("run"), 40), tensors(Path("straight"), 40)) and not Path("run/ema").exists()
    assert Path("run/model.safetensors").read_bytes() == Path("straight/model.safetensors").read_bytes()
    assert not any("average" in note for note in log_notes(Path("run")))
    assert command("train", "--resume", "run", "--kimg", "0.048", "--set", "ema.choose=true", "--device", "cpu") == 0      # none to go on with
    assert not Path("run/ema").exists() and any("holds no averages of other lengths" in note for note in log_notes(Path("run")))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fork")
def test_killed_between_any_two_operations_the_files_are_the_same(photos, monkeypatch):
    """Each rename and each removal in ema/ and checkpoints/ of a run that thins its snapshots twice is the last thing that a process does."""
    monkeypatch.setattr(power_ema, "MOST_FILES", 4)
    line = (*SHORT, "--kimg", "0.048", "--set", "every.preview_kimg=1")
    assert command("train", photos, "--out", "straight", *line) == 0
    wanted = folder_of(Path("straight"))
    assert len(wanted) == 2 and tensors(Path("straight"), 48)["power_ema"]["files"] == [32, 48]
    replace, unlink = os.replace, Path.unlink

    def killed_at(count: int) -> bool:
        """Runs in a process of its own, that ends before operation `count`; False where it came to the end."""
        left = [count]

        def operation(path) -> None:
            if Path(path).parent.name in ("ema", "checkpoints"):
                left[0] -= 1
                if not left[0]:
                    os._exit(9)

        child = os.fork()
        if child == 0:
            os.replace = lambda a, b: (operation(b), replace(a, b))[1]
            Path.unlink = lambda self, *args, **kw: (operation(self), unlink(self, *args, **kw))[1]
            command("train", photos, "--out", f"run{count}", *line, "--resume", "auto")
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

    count = 10                                                                       # from the third beat on
    while killed_at(count):
        assert command("train", photos, "--out", f"run{count}", *line, "--resume", "auto") == 0
        assert folder_of(Path(f"run{count}")) == wanted, count
        assert same(tensors(Path(f"run{count}"), 48), tensors(Path("straight"), 48))
        count += 1
    assert count > 25


# ----------------------------------------------------------------------------------------------- averages of other lengths


@pytest.fixture
def stored():
    """(folder, trainer, {width: the average of that width, by its own updates}) of a run with a snapshot every 4 steps of 60."""
    trainer = tiny_trainer("optim_g.lr=0.01", "optim_d.lr=0.01")
    live = list(trainer.nets.G.parameters())
    direct = {width: [p.detach().clone() for p in live] for width in (0.04, 0.08, 0.14, 0.2)}
    for _ in range(60):
        trainer.step()
        with torch.no_grad():
            for width, average in direct.items():
                torch._foreach_lerp_(average, live, 1 - decay(gamma_of(width), 8, trainer.images_seen))
        if trainer.iteration % 4 == 0:
            trainer.averages.write(Path("run"), trainer.images_seen)
            trainer.averages.note(trainer.images_seen)
    return Path("run"), trainer, direct


def test_another_length_is_the_average_that_it_claims_to_be(stored):
    folder, trainer, direct = stored
    snapshots = Snapshots(folder, trainer.nets.G, pytest.fail)
    assert snapshots.times == list(range(32, 481, 32))
    flat = lambda tensors: torch.cat([t.flatten() for t in tensors])
    far = (flat(direct[0.08]) - flat(direct[0.14])).norm()                           # what the lengths differ by
    for width, average in direct.items():
        G = copy.deepcopy(trainer.nets.G)
        snapshots.fill(G, Length.of_width(480, width))
        assert (flat(G.parameters()) - flat(average)).norm() < 0.06 * far, width
    G = copy.deepcopy(trainer.nets.G)
    snapshots.fill(G, Length.of_width(480, 0.05))                                    # a stored one is itself, to half precision
    for p, stored_one in zip(G.parameters(), trainer.averages._of[0.05]):
        assert torch.allclose(p, stored_one.half().float(), atol=1e-6)
    snapshots.fill(G, Length.of_width(320, 0.1))                                     # an earlier end, with the buffers of its time
    assert torch.equal(G.z_avg, read_tensors(folder / "ema" / "000000320.safetensors")["buffer/z_avg"])
    assert not torch.equal(G.z_avg, trainer.nets.G.z_avg)


def test_lengths_that_the_snapshots_cannot_give(stored):
    folder, trainer, _ = stored
    snapshots = Snapshots(folder, trainer.nets.G, pytest.fail)
    assert snapshots.can_give(Length.of_width(480, 0.05)) and not snapshots.can_give(Length.of_width(480, 0.01))
    with pytest.raises(UsageError, match=r"--length 0.01: 15 snapshots up to 480 images can't give .* they give widths of 0.03 to 0.25"):
        snapshots.fill(copy.deepcopy(trainer.nets.G), Length.of_width(480, 0.01))
    with pytest.raises(UsageError, match="1 snapshots up to 32 images can't give a width of 0.2"):
        snapshots.combination(Length.of_width(32, 0.2))


def test_snapshots_that_cannot_be_used_are_left_out(stored):
    folder, trainer, _ = stored
    files = [folder / "ema" / f"{t:09d}.safetensors" for t in (64, 96, 128, 160, 192)]
    files[0].write_bytes(files[0].read_bytes()[:200])
    found = load_file(files[1])
    save_file({**found, "0.05/dense.weight": found["0.05/dense.weight"][:2].clone()}, files[1], {"images_seen": "96"})
    save_file({k: v.float() for k, v in found.items()}, files[2], {"images_seen": "128"})
    files[3].write_bytes(files[4].read_bytes())
    (folder / "ema" / "notes.safetensors").write_bytes(b"")
    said = []
    snapshots = Snapshots(folder, trainer.nets.G, said.append)
    assert [t for t in range(32, 481, 32) if t not in snapshots.times] == [64, 96, 128, 160]
    for line, why in zip(said, ("cut short or damaged", "is [2, 8], not", "is float32, not float16", "is not of 160 images")):
        assert line.startswith("left out: ") and why in line
    whole = read_tensors(files[4])
    whole["0.1/dense.weight"][0, 0] = float("nan")
    save_file(whole, files[4], {"images_seen": "192"})
    with pytest.raises(HandfulError, match="not finite"):
        Snapshots(folder, trainer.nets.G, lambda line: None).fill(copy.deepcopy(trainer.nets.G), Length.of_width(480, 0.1))


@pytest.mark.parametrize("g, narrow", [("fastgan", ["g.ngf=4"]), ("biggan", ["g.width=4", "g.norm=spectral"])])
def test_statistics_and_spectral_vectors_are_made_anew(g, narrow):
    """Of the new average's own weights: what the network held before leaves no trace."""
    trainer = tiny_trainer(f"g.use={g}", *narrow, "g.z_dim=16", "data.resolution=32", dataset=noise_set(resolution=32))
    for _ in range(4):
        trainer.step()
        trainer.averages.write(Path("run"), trainer.images_seen)
    snapshots, made = Snapshots(Path("run"), trainer.nets.G, pytest.fail), []
    for start in (trainer.nets.G, trainer.nets.G_ema):
        G = copy.deepcopy(start).eval()
        snapshots.fill(G, Length.of_width(32, 0.07))
        before = copy.deepcopy(G)
        power_ema.settled(G, trainer.config)
        made.append(G.state_dict())
    assert same(dict(made[0]), dict(made[1])) and not any(m.training for m in G.modules())
    norms = [(a, b) for a, b in zip(before.modules(), G.modules()) if isinstance(a, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(not torch.equal(a.running_mean, b.running_mean) for a, b in norms)
    largest = lambda m: torch.linalg.matrix_norm(m.weight.transpose(0, m.dim).flatten(1), 2)
    spectral = [(a, b) for a, b in zip(before.modules(), G.modules()) if isinstance(a, Spectral) and a.u is not None]
    short = [sum(float(1 - m.sigma(iterate=False) / largest(m)) for m in side) for side in zip(*spectral)]
    assert spectral and 0 <= short[1] < 0.8 * short[0]                               # the estimates come nearer to the largest singular values


# ----------------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def ran(photos) -> Path:
    assert command("train", photos, "--out", "run", "--kimg", "0.08", *SHORT) == 0
    return Path("run")


def ema(*args: str) -> int:
    return run(group, ["ema", *args, *TRUST, "--device", "cpu"])


def test_the_command_makes_a_model(ran, capsys):
    before = (ran / "model.safetensors").read_bytes()
    assert ema("run", "--length", "0.006kimg") == 0
    path = ran / "ema" / "model-0.006kimg.safetensors"
    assert f"{path}: the average of a width of 0.0885 (half-life 0.006 kimg) at 80 images" in capsys.readouterr().out
    model = handful.load(path, trust=["tiny"])
    assert model.images_seen == 80 and model.sample([0, 1]).shape == (2, 16, 16, 3)
    said = json.loads(read_header(path)[0]["ema"])
    assert said == {"sigma_rel": pytest.approx(0.0885, abs=1e-4), "halflife_kimg": 0.006, "snapshot": 80}
    assert ema("run", "--length", "0.08", "--at", "64", "--out", "other.safetensors") == 0
    assert handful.load("other.safetensors", trust=["tiny"]).images_seen == 64
    assert ema("run", "--length", ".08", "--at", "64") == 0 and (ran / "ema" / "model-.08-at-64.safetensors").exists()
    assert (ran / "model.safetensors").read_bytes() == before
    assert command("train", "--resume", "run", "--kimg", "0.088", "--device", "cpu") == 0 and path.exists()


def test_the_command_says_what_is_wrong(ran, photos, capsys):
    capsys.readouterr()
    for args, code, why in (
            (("run", "--length", "0.01"), 2, "10 snapshots up to 80 images can't give a width of 0.01"),
            (("run", "--length", "10kimg"), 2, "an average over 80 images has a half-life of at most"),
            (("run", "--length", "long"), 2, "give a half-life as in 10kimg"),
            (("run", "--length", "0.1", "--at", "66"), 2, "has no snapshot of 66 images; the nearest is of 64"),
            (("nowhere", "--length", "0.1"), 2, "nowhere: there is no such folder"), ((str(photos), "--length", "0.1"), 2, "is not a run folder")):
        assert ema(*args) == code
        said = capsys.readouterr().err
        assert why in said and said.count("\n") == 1, said
    assert run(group, ["ema", "run", "--length", "0.1"]) == 1 and "--trust tiny" in capsys.readouterr().err
    assert command("train", photos, "--out", "none", "--kimg", "0.008", *SHORT, "--set", OLD) == 0
    capsys.readouterr()
    assert ema("none", "--length", "0.1") == 1
    assert "none has no snapshots of averages in none/ema" in (said := capsys.readouterr().err) and "ema.choose=false" in said
