"""Figures of runs with pretrained networks: what is said beside them, the same in a second feature space, and the figures that are reported."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import handful
from handful import config as config_module
from handful.cli import group, run
from handful.data import load
from handful.errors import HandfulError, UsageError
from handful.features import available, weights
from handful.infer.model import Model, generator_of
from handful.metrics import KID, _session, evaluate
from handful.metrics._pictures import Drawn
from handful.metrics._pretrained import pretrained_networks, said, second_spaces
from handful.metrics._protocols import FRESH
from handful.metrics.kid import kernel, pairs
from handful.training import evaluation
from handful.training.checkpoint import save_model
from handful.training.report import write_report
from making import noise_set, picture_folder, tiny_config
from runs import TINY_SETTINGS
from test_evaluate import Projection
from test_report import Page
from tiny import TinyD

LPIPS_TERM = ("terms.reconstruction.loss=lpips",)
SEEING = ("d=test_second_space:SeeingD",)
EVERYTHING = ("kid", "fid", "precision", "recall")


class SeeingD(TinyD):
    """In the place of a discriminator on frozen features."""

    def __init__(self, resolution: int = 16, channels: int = 3, num_classes: int = 0, width: int = 8, network: str = "efficientnet") -> None:
        super().__init__(resolution, channels, num_classes, width)

    @classmethod
    def needs_weights(cls, settings: Mapping) -> tuple[str, ...]:
        return (settings["network"],)


class Named(Projection):
    """Stands in for the feature network `name`, each with weights of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.digest = name, f"digest of {name}"
        self.w = torch.randn(self.w.shape, generator=torch.Generator().manual_seed(len(name))) / 14


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)


@pytest.fixture
def networks(monkeypatch) -> dict[str, Named]:
    """The stand-ins that were loaded, by name; all weights but DINOv2's are here."""
    loaded = {}
    monkeypatch.setattr(_session, "pretrained", lambda name, device, **kw: loaded.setdefault(name, Named(name)))
    monkeypatch.setattr(_session, "available", lambda name: name != "dinov2")
    return loaded


def model_of(*settings: str) -> Model:
    torch.manual_seed(1)
    config = tiny_config(*settings)
    return Model(generator_of(config), config, 80)


def tree(*settings: str) -> dict:
    return config_module.to_tree(tiny_config(*settings))


# ------------------------------------------------------------------------------------------------------------ which networks, which space


def test_a_configuration_tells_its_pretrained_networks():
    assert pretrained_networks(tree()) == {} == pretrained_networks(tree("terms.reconstruction.loss=pixel"))
    assert pretrained_networks(tree(*LPIPS_TERM)) == {"lpips": ["terms.reconstruction"]}
    assert pretrained_networks(tree(*LPIPS_TERM, *SEEING)) == {"efficientnet": ["d"], "lpips": ["terms.reconstruction"]}
    assert pretrained_networks(tree(*LPIPS_TERM, *SEEING, "d.network=lpips")) == {"lpips": ["d", "terms.reconstruction"]}
    bare = tree(*SEEING)
    del bare["d"]["network"]                                                 # a file need not name it: the class gets its default
    assert pretrained_networks(bare) == {"efficientnet": ["d"]}
    assert pretrained_networks(tree(*LPIPS_TERM, *SEEING), trust=()) == {"lpips": ["terms.reconstruction"]}         # nothing is imported
    assert pretrained_networks({"terms": {"x": {"use": "no such term"}, "y": 3}, "d": {}, "g": None}) == {} == pretrained_networks({})


def test_asking_for_them_draws_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    pretrained_networks(tree(*LPIPS_TERM, "terms.insgen.use=insgen"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("used, figure, here, spaces, missing", [
    (["efficientnet"], "inception", "lpips efficientnet", ["lpips_vgg16"], ""),
    (["lpips"], "inception", "lpips efficientnet", ["efficientnet"], ""),
    (["vgg16"], "inception", "lpips efficientnet", ["efficientnet"], ""),                     # the convolutions of LPIPS
    (["efficientnet"], "vgg16", "lpips inception", ["inception"], ""),
    (["efficientnet"], "lpips_vgg16", "lpips inception", ["inception"], ""),
    (["inception"], "inception", "lpips", ["lpips_vgg16"], ""),
    (["efficientnet"], "inception", "lpips dinov2", ["lpips_vgg16", "dinov2"], ""),
    (["efficientnet"], "inception", "dinov2", ["dinov2"], "lpips"),                           # never another one for want of the first
    (["efficientnet"], "inception", "", [], "lpips"),
    (["lpips", "efficientnet"], "inception", "dinov2", ["dinov2"], ""),
    (["lpips", "efficientnet"], "inception", "lpips", [], "dinov2"),
    (["efficientnet"], "dinov2", "lpips dinov2", ["lpips_vgg16"], ""),
    (["lpips", "efficientnet", "dinov2"], "inception", "dinov2", [], ""),
    (["efficientnet"], "Somebody's", "lpips", ["lpips_vgg16"], "")])
def test_the_second_space_is_the_first_that_is_not_used(used, figure, here, spaces, missing):
    assert second_spaces(used, figure, lambda name: name in here.split()) == (spaces, missing)
    assert missing in ("", *weights.names())


def test_what_is_said():
    assert said({"efficientnet": ["d"]}, "inception", ["lpips_vgg16"]) == (
        "the run was trained with the pretrained network 'efficientnet' (d), trained on ImageNet as 'inception' is: figures in its features can "
        "overstate the quality; the same figures in features of 'lpips_vgg16', which the run did not use, stand beside them")
    both = said({"efficientnet": ["d"], "lpips": ["terms.x", "terms.y"]}, "inception", [], "dinov2")
    assert "networks 'efficientnet' (d) and 'lpips' (terms.x, terms.y)" in both and both.endswith("handful weights get dinov2")
    assert "'vgg16', which it used itself" in said({"lpips": ["d"]}, "vgg16")
    assert "overstate" not in said({"efficientnet": ["d"]}, "dinov2") and "overstate" not in said({"dinov2": ["d"]}, "inception")


# ------------------------------------------------------------------------------------------------------------------------------ evaluate


def test_every_figure_comes_in_a_second_space_of_the_same_samples(networks):
    data, plain = noise_set(30), model_of()
    seen = model_of(*SEEING)
    found = evaluate(seen, data, EVERYTHING, 40)
    assert list(found) == list(EVERYTHING) and set(networks) == {"inception", "lpips_vgg16"}
    assert networks["inception"].seen == networks["lpips_vgg16"].seen == 30 + 40                # once each, in one pass
    alone = evaluate(plain, data, EVERYTHING, 40)                                            # the same generator and seeds
    by_vgg = evaluate(plain, data, EVERYTHING, 40, extractor="lpips_vgg16")
    for name in EVERYTHING:
        second, pretrained = found[name].pop("second"), found[name].pop("pretrained")
        assert found[name] == alone[name] and second == {"lpips_vgg16": by_vgg[name]}
        assert second["lpips_vgg16"]["value"] != alone[name]["value"] or name in ("precision", "recall")
        assert pretrained["networks"] == ["efficientnet"] and "'lpips_vgg16', which the run did not use" in pretrained["note"]
    assert evaluate(seen, data, EVERYTHING, 40, second_space=False) == alone


def test_dinov2_stands_beside_where_it_is(networks, monkeypatch):
    monkeypatch.setattr(_session, "available", lambda name: True)
    found = evaluate(model_of(*LPIPS_TERM), noise_set(), "kid", 20)["kid"]
    assert list(found["second"]) == ["efficientnet", "dinov2"] and found["second"]["dinov2"]["extractor"] == "dinov2"


def test_what_is_missing_is_named_and_costs_no_figure(networks, monkeypatch):
    monkeypatch.setattr(_session, "available", lambda name: False)
    found = evaluate(model_of(*SEEING), noise_set(), ["kid"], 20)["kid"]
    assert "second" not in found and found["pretrained"]["note"].endswith("handful weights get lpips")
    both = evaluate(model_of(*SEEING, *LPIPS_TERM), noise_set(), ["kid"], 20)["kid"]
    assert "second" not in both and both["pretrained"]["note"].endswith("handful weights get dinov2")


def test_figures_that_one_network_defines_have_no_second_space(networks):
    found = evaluate(model_of(*SEEING), noise_set(), ["inception_score", "kid"], 20)
    assert "second" not in found["inception_score"] and found["inception_score"]["pretrained"]["networks"] == ["efficientnet"]
    assert "second" in found["kid"]


def test_the_space_depends_on_the_figure_s_own_network(networks):
    found = evaluate(model_of(*SEEING), noise_set(), ["fid", "pr1k3_full"], 20)
    assert list(found["fid"]["second"]) == ["lpips_vgg16"] and list(found["pr1k3_full"]["second"]) == ["inception"]
    assert {"value", "recall"} <= set(found["pr1k3_full"]["second"]["inception"])


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A run on frozen features, as far as scores and the report look at it."""
    photos = picture_folder(tmp_path / "photos", 30)
    folder = tmp_path / "run"
    folder.mkdir()
    model = model_of(*SEEING)
    model.config.data.path, model.config.data.fingerprint = str(photos), load(photos, resolution=16).fingerprint
    (folder / "config.json").write_text(config_module.dumps(model.config))
    save_model(folder / "model.safetensors", model.config, model.generator, 80)
    line = {"images": 80, "metric": "kid", "value": 0.5, "protocol": "as told", "extractor": "inception"}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return folder


TRUST = ("--trust", "tiny", "--trust", "test_second_space")


def test_the_command_says_it_once_and_shows_both(run_folder, networks, capsys):
    photos = run_folder.parent / "photos"
    line = ["evaluate", str(run_folder), str(photos), "--samples", "40", *TRUST]
    assert run(group, [*line, "--json", "scores.json"]) == 0
    out, found = capsys.readouterr().out.splitlines(), json.loads(Path("scores.json").read_text())
    assert list(found) == ["fid", "kid", "precision", "recall"]
    for name, its in found.items():
        at = next(i for i, text in enumerate(out) if text.startswith(name))
        assert out[at + 1].split()[:3] == ["by", "lpips_vgg16:", f"{its['second']['lpips_vgg16']['value']:.5g}"]
    assert [i for i, text in enumerate(out) if "pretrained network 'efficientnet' (d)" in text] == [len(out) - 1]
    assert not (run_folder / "reported.json").exists()
    assert run(group, [*line, "--no-second"]) == 0
    out = capsys.readouterr().out
    assert "by lpips_vgg16" not in out and "pretrained" not in out


# --------------------------------------------------------------------------------------------------------- metadata, and the page of a run


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_the_model_s_metadata_names_them(tmp_path):
    for settings, expected in ((LPIPS_TERM + SEEING, ["efficientnet", "lpips"]), ((), None)):
        model = model_of(*settings)
        save_model(tmp_path / "model.safetensors", model.config, model.generator, 80)
        found = metadata(tmp_path / "model.safetensors")
        assert (json.loads(found["pretrained"]) == expected) if expected else set(found) == {"format", "handful", "config", "images_seen"}
        assert handful.load(tmp_path / "model.safetensors", trust=["tiny", "test_second_space"]).images_seen == 80


def test_the_report_says_it_and_how_to_get_the_other_figures(run_folder):
    text = " ".join(Page(write_report(run_folder, ["tiny", "test_second_space"])).text)
    assert "The run was trained with the pretrained network 'efficientnet' (d), trained on ImageNet as 'inception' is" in text
    assert f"handful evaluate {run_folder} {run_folder.parent / 'photos'} --reported" in text
    assert "efficientnet' (d)" not in " ".join(Page(write_report(run_folder)).text)              # a class that nobody allowed isn't imported
    tree = json.loads((run_folder / "config.json").read_text())
    (run_folder / "config.json").write_text(json.dumps({**tree, "d": {"use": "tiny:TinyD"}}))
    text = " ".join(Page(write_report(run_folder, ["tiny"])).text)
    assert "pretrained network" not in text and "--reported" not in text and "as told" in text


def test_reported_figures_become_part_of_the_report(run_folder, networks, capsys):
    assert run(group, ["evaluate", str(run_folder), str(run_folder.parent / "photos"), "--reported", *TRUST]) == 0
    out, found = capsys.readouterr().out, json.loads((run_folder / "reported.json").read_text())
    assert str(run_folder / "reported.json") in out and "standard error from 5 disjoint sets of 400 samples" in out
    text = " ".join(Page(run_folder / "report.html").text)
    assert "Figures to report" in text and "seeds 1000000 to 1001999" in text and "--reported" not in text
    for its in found.values():
        second = its["second"]["lpips_vgg16"]
        assert (its["count_real"], its["count_fake"]) == (second["count_real"], second["count_fake"]) == (30, 2000)
        assert all(f"{value['value']:.3g}"[:4] in text for value in (its, second))


@pytest.mark.parametrize("damaged", ["no JSON", "[1]", '{"kid": 3, "fid": {"value": "<b>"}}', '{"kid": {"value": 1, "stderr": "x", "second": [2]}}',
                                     '{"kid": {"value": 1, "model_images_seen": -1, "second": {"a": {"value": true}, "b": null}}}'])
def test_a_damaged_file_of_reported_figures_costs_no_report(run_folder, damaged):
    (run_folder / "reported.json").write_text(damaged)
    assert not Page(write_report(run_folder)).open


# ------------------------------------------------------------------------------------------------------------------- reported figures


def test_the_standard_error_of_disjoint_sets_has_a_closed_form():
    """Features that are constant within a set: its KID is (c^2 + 1)^3 + 1 - 2, whatever the reals' kernel, which is 1 for reals at 0."""
    c = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])
    x, y = torch.zeros(7, 1), c.repeat_interleave(4)[:, None]
    found = KID(way="pairs", sets=5)(x, y)
    each = ((c.double() ** 2 + 1) ** 3 - 1).numpy()
    assert found["stderr"] == pytest.approx(each.std(ddof=1) / math.sqrt(5), rel=1e-6)
    assert "all pairs, standard error from 5 disjoint sets of 4 samples" in found["protocol"]


def test_each_set_is_scored_against_all_reals_and_the_value_takes_all_pairs():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 6, generator=g).double(), torch.randn(53, 6, generator=g).double() * 1.3
    found = KID(way="pairs", sets=5)(x, y)
    sets = torch.tensor([KID(way="pairs")(x, part)["value"] for part in y[:50].split(10)])
    assert found["stderr"] == pytest.approx(float(sets.std()) / 5**0.5, rel=1e-4)
    k = [kernel(a, b) for a, b in ((x, x), (y, y), (x, y))]
    mean = lambda m: float((m.sum() - m.trace()) / (len(m) * (len(m) - 1)))
    assert found["value"] == pytest.approx(mean(k[0]) + mean(k[1]) - 2 * float(k[2].mean()), rel=1e-4) == KID(way="pairs")(x, y)["value"]


def test_it_is_the_deviation_of_the_value_over_fresh_samples():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(200, 8, generator=g)
    values, errors = zip(*((f["value"], f["stderr"]) for f in (KID(way="pairs", sets=5)(x, torch.randn(200, 8, generator=g) * 1.2 + 0.2)
                                                             for _ in range(150))))
    spread = float(torch.tensor(values).std())
    assert float(torch.tensor(errors).square().mean().sqrt()) == pytest.approx(spread, rel=0.2)


def test_sets_must_be_possible():
    for sets in (1, -1):
        with pytest.raises(UsageError, match="takes two sets or more"):
            KID(sets=sets)
    with pytest.raises(HandfulError, match="with 5 sets needs at least 10 samples, there are 9"):
        KID(sets=5)(torch.zeros(4, 2), torch.zeros(9, 2))
    assert "stderr" in KID()(torch.rand(9, 2), torch.rand(9, 2)) and pairs.__doc__


def test_reported_figures_take_samples_that_no_choice_used(networks, monkeypatch):
    data, model, drawn = noise_set(30), model_of("data.flip=true"), []
    make = Drawn._pictures
    monkeypatch.setattr(Drawn, "_pictures", lambda self, places: drawn.extend(self.first + p for p in places) or make(self, places))
    found = evaluate(model, data, EVERYTHING, reported=True)
    assert drawn == list(range(FRESH, FRESH + 2000))                           # one set of samples for all figures
    for its in found.values():
        assert (its["count_real"], its["count_fake"]) == (30, 2000) and "mirror" not in its["protocol"] and "second" not in its
        assert "2000 samples against 30 reals" in its["protocol"] and "seeds 1000000 to 1001999, which no choice used" in its["protocol"]
    assert "all pairs, standard error from 5 disjoint sets of 400 samples" in found["kid"]["protocol"]
    net = Named("inception")
    fakes = net(torch.from_numpy(model.sample(range(FRESH, FRESH + 2000))).permute(0, 3, 1, 2))
    expected = KID(way="pairs", sets=5)(net(data.images), fakes)
    for key in ("value", "stderr"):
        assert found["kid"][key] == pytest.approx(expected[key], rel=1e-3)


@pytest.mark.parametrize("metrics, more, why", [
    (["fid50k_full"], {}, "not 'fid50k_full'"), (["ppl"], {}, "not 'ppl'"), (["inception_score"], {}, "not 'inception_score'"),
    (["kid"], {"samples": 50}, "leave --samples and --trunc out"), (["kid"], {"truncation": 0.7}, "leave --samples and --trunc out")])
def test_a_protocol_is_not_bent(metrics, more, why):
    with pytest.raises(UsageError, match=why):
        evaluate(model_of(), noise_set(), metrics, reported=True, extractor=Projection(), **more)


def test_pictures_without_seeds_are_not_reported():
    with pytest.raises(UsageError, match="--reported is for a model"):
        evaluate(noise_set(2000), noise_set(), "kid", reported=True, extractor=Projection())


def test_a_run_scores_itself_by_other_seeds_and_in_one_space(monkeypatch, networks):
    """What chooses the snapshot has neither the samples of reported figures nor the cost of a second space."""
    drawn = set()
    make = Drawn._pictures
    monkeypatch.setattr(Drawn, "_pictures", lambda self, places: drawn.update(self.first + p for p in places) or make(self, places))
    monkeypatch.setattr(evaluation, "available", lambda name: True)
    monkeypatch.setattr("handful.training.pretrained.available", lambda name: True)
    settings = {**TINY_SETTINGS, "d": "test_second_space:SeeingD", "evaluate.metrics": ["kid"], "evaluate.budget": None, "evaluate.samples": 50}
    photos = picture_folder(Path("photos"))
    done = handful.train(photos, "fastgan64_narrow", "run", 0.016, res=16, batch=4, device="cpu", settings=settings, quiet=True)
    assert set(range(50)) <= drawn and max(drawn) < FRESH and set(networks) == {"inception"}
    scores = done.metrics()
    assert scores and not any({"second", "pretrained"} & set(line) for line in scores)
    assert json.loads(metadata(done.folder / "model.safetensors")["pretrained"]) == ["efficientnet"]
    assert "pretrained network 'efficientnet' (d)" in (done.folder / "report.html").read_text().replace("&#39;", "'")


@pytest.mark.parametrize("setting", ["evaluate.samples=1000001", "evaluate.metrics=fid2000k_full", "evaluate.metrics=ppl2_wend"])
def test_no_setting_of_a_run_reaches_those_seeds(setting, monkeypatch):
    monkeypatch.setattr(evaluation, "available", lambda name: True)
    if "ppl" in setting:
        assert evaluation.planned(tiny_config(setting))[0] == ["ppl2_wend"]                  # two pictures for each of 50000
        return
    with pytest.raises(HandfulError, match="seeds from 1000000 on are kept for figures that are reported"):
        evaluation.planned(tiny_config("evaluate.metrics=kid", setting))


# ------------------------------------------------------------------------------------------------------------------- with real weights


CACHE = weights.cache_folder()           # before a test sets another


@pytest.mark.skipif(not (available("lpips") and available("inception")), reason="handful weights get lpips inception")
def test_figures_of_real_networks(monkeypatch):
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(CACHE))
    found = evaluate(model_of(*SEEING), noise_set(12), ["fid", "kid", "precision", "recall"], 12)
    for name, its in found.items():
        assert its["extractor"] == "inception" and its["second"]["lpips_vgg16"]["extractor"] == "lpips_vgg16"
        assert "32 to 224 pixels" in its["second"]["lpips_vgg16"]["protocol"] and math.isfinite(its["second"]["lpips_vgg16"]["value"]), name
