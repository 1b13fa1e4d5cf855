"""What is chosen for whom: every sort of set and machine gets a recipe that fits it, and a sentence that says why."""

from __future__ import annotations

import pytest
import torch

from handful import HandfulError, config
from handful.data import Scan
from handful.training.choose import ADA_KIMG, choose
from handful.training.estimate import estimate, of_noise
from handful.training.run import train
from making import picture_folder, tiny_config


@pytest.mark.parametrize("count, side, device, res, recipe, size", [
    (100, 500, "cpu", None, "fastgan128_narrow", 128), (100, 80, "cpu", None, "fastgan64_narrow", 64),
    (100, 500, "cpu", 256, "fastgan256_narrow", 256), (500, 32, "cpu", None, "stylegan2_32_narrow", 32),
    (5000, 32, "cpu", None, "stylegan2_32_narrow", 32), (5000, 64, "cpu", None, "stylegan2_64_narrow", 64),
    (5000, 900, "cpu", None, "stylegan2_128_narrow", 128), (5000, 900, "cpu", 64, "stylegan2_64_narrow", 64),
    (100, 500, "cpu", 32, "stylegan2_32_narrow", 32), (100, 300, "cuda", None, "fastgan256", 256),
    (100, 1200, "cuda", None, "fastgan1024", 1024), (100, 70, "cuda", None, "fastgan64_narrow", 64),
    (3000, 300, "cuda", None, "stylegan2_auto", 256), (3000, 1200, "cuda", None, "fastgan1024", 1024),
    (3000, 1200, "cuda", 256, "stylegan2_auto", 256), (300, 32, "cuda", None, "stylegan2_auto", 32),
    (3000, 64, "cuda", None, "stylegan2_auto", 64)])
def test_the_recipe_fits_set_and_machine(count, side, device, res, recipe, size):
    asked = {"data": {"resolution": res}} if res else {}
    choice = choose("auto", Scan("photos", [(side, side)] * count), torch.device(device), asked)
    parsed = config.parse(config.merge(choice.tree, asked))
    assert parsed.recipe == recipe and parsed.data.resolution == size
    assert choice.why[0].startswith(f"{count} images of about {side}x{side} pixels and ") and recipe in choice.why[0]
    assert (parsed.augment.name == "ada" and "ada_controller" in parsed.terms) == recipe.startswith("stylegan2")
    if recipe == "stylegan2_auto":
        assert parsed.train.kimg == ADA_KIMG


def test_a_size_that_no_recipe_has_is_refused_before_the_images_are_read():
    from handful.errors import UsageError

    with pytest.raises(UsageError, match="--res 48: choose one of 32, 64, 128, 256, 512, 1024 pixels"):
        choose("auto", Scan("photos", [(60, 60)] * 100), torch.device("cpu"), {"data": {"resolution": 48}})


@pytest.mark.parametrize("more", [["data.holdout=0.1", "train.batch=2"], ["data.holdout=0.5", "data.groups=^(.)"],
                                  ["data.holdout=0.2", "augment=test_seam:Mirror", "terms.ada_controller.statistic=r_v"]])
def test_an_estimate_needs_no_real_images(more):
    assert estimate(of_noise(tiny_config(*more, "terms.r1.every=4", "terms.r1.own_step=true"), torch.device("cpu"))).images_per_sec > 0


def test_terms_are_told_of_the_runs_own_images_in_the_estimate():
    """Not of the noise that stands for them: a queue may be as long as the data allows."""
    whole = tiny_config("data.flip=true", "terms.insgen.queue_real=200", "augment=flip")
    whole.data.count = 100
    assert of_noise(whole, torch.device("cpu")).notes == []
    whole.data.count = 99
    with pytest.raises(HandfulError, match="queue_real=200: there are only 198 training images, flips counted"):
        estimate(of_noise(whole, torch.device("cpu")))
    whole.data.count = 0                                     # not known: a row of a table
    assert estimate(of_noise(whole, torch.device("cpu"))).images_per_sec > 0


def test_a_dry_run_says_what_the_run_would(tmp_path):
    said = []
    train(picture_folder(tmp_path / "photos", 40), "stylegan2_32_narrow", tmp_path / "run", 1, settings=["terms.ada_controller=null"], dry_run=True,
          say=said.append)
    assert any("augment=ada has strength p=0 and nothing moves it" in line for line in said)
