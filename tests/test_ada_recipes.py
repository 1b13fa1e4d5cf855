"""StyleGAN2-ADA's recipes against the published table of configurations, and their targets against the published figures."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from handful import catalog, config
from handful.reproduce._target import Target
from handful.reproduce.published import stylegan2_ada, targets
from making import noise_set, run_steps, tiny_trainer

NAMED = ("stylegan2", "paper256", "paper512", "paper1024", "cifar")
ALL = (*NAMED, "cifar_baseline", "stylegan2_auto", "stylegan2_32_narrow", "stylegan2_64_narrow", "stylegan2_128_narrow")
COLUMNS = {                                                 # stylegan2, paper256, paper512, paper1024, cifar
    "train.kimg": (25000, 25000, 25000, 25000, 100000),
    "train.batch": (32, 64, 64, 32, 64),
    "train.micro_batch": (4, 8, 8, 4, 32),
    "d.minibatch_group": (4, 8, 8, 4, 32),
    "g.channel_base": (32768, 16384, 32768, 32768, 32768),
    "d.channel_base": (32768, 16384, 32768, 32768, 32768),
    "optim_d.lr": (0.002, 0.0025, 0.0025, 0.002, 0.0025),
    "terms.r1.gamma": (10, 1, 0.5, 2, 0.01),
    "ema.halflife_kimg": (10, 20, 20, 10, 500),
    "ema.rampup": (None, None, None, None, 0.05),
    "g.mapping_layers": (8, 8, 8, 8, 2),
    "g.style_mixing": (0.9, 0.9, 0.9, 0.9, 0),
    "d.architecture": ("resnet", "resnet", "resnet", "resnet", "orig"),
    "data.resolution": (1024, 256, 512, 1024, 32),
}
COMMON = {
    "g.z_dim": 512, "g.w_dim": 512, "g.channel_max": 512, "d.channel_max": 512, "g.architecture": "skip", "g.mapping_lr": 0.01,
    "g.w_avg_decay": 0.995, "g.half_blocks": 4, "d.half_blocks": 4, "g.conv_clamp": 256, "d.conv_clamp": 256, "d.mapping_layers": 0,
    "d.minibatch_channels": 1, "d.capacity": 1, "terms.r1.every": 16, "terms.r1.own_step": True, "terms.r1.at": "x",
    "terms.ada_controller.target": None, "terms.ada_controller.kimg": 500, "terms.ada_controller.interval": 4,
    "terms.ada_controller.statistic": "r_t", "terms.ada_controller.max_p": None, "augment.use": "ada", "augment.policy": "bgc", "augment.p": 0,
    "loss.use": "non_saturating", "optim_d.eps": 1e-8, "optim_g.eps": 1e-8, "ema.buffers": "copy", "train.order": "gd", "train.d_steps": 1,
    "train.fake_labels": "data", "data.flip": False,
}


def configured(name: str, *settings: str, **known) -> config.Config:
    """A recipe as `handful train` takes it: what the user sets is known to it."""
    asked = config.assign({}, settings)
    known = {"resolution": asked.get("data", {}).get("resolution"), "batch": asked.get("train", {}).get("batch")} | known
    tree = catalog.load("recipes", name)(count=100, device="cpu", num_classes=0, **known)
    return config.resolved(config.parse(config.assign({"recipe": name, **tree}, settings)))


def at(parsed: config.Config, path: str):
    node = config.to_tree(parsed)
    for part in path.split("."):
        node = node[part]
    return node


@pytest.mark.parametrize("path", COLUMNS)
def test_named_configurations_are_the_published_table(path):
    assert tuple(at(configured(name), path) for name in NAMED) == COLUMNS[path]


@pytest.mark.parametrize("name", ALL[:7])
def test_what_all_configurations_share(name):
    parsed = configured(name)
    assert {path: at(parsed, path) for path in COMMON} == COMMON
    assert parsed.optim_d.betas == (0, 0.99)
    assert parsed.optim_g == parsed.optim_d
    weight = 0 if name == "cifar" else 2                                # at 0 the interval stays, and so does Adam's correction
    assert at(parsed, "terms.path_length") == {"use": "path_length", "weight": weight, "decay": 0.01, "shrink": 2, "every": 4, "own_step": True}


def test_the_cifar_baseline_is_cifar_with_four_parts_put_back():
    changed = config.differences(configured("cifar"), configured("cifar_baseline"))
    got = {k: new for k, (_, new) in changed.items() if not k.startswith(("optim_g", "terms.path_length", "recipe"))}
    assert got == {"g.mapping_layers": 8, "g.style_mixing": 0.9, "d.architecture": "resnet"}
    assert {k for k in changed if k.startswith("terms.path_length")}


AUTO = {                                                    # (batch, gamma, ema_kimg) on 1, 2, 4, 8 GPUs
    32: ((32, 0.0064, 10), (64, 0.0032, 20), (64, 0.0032, 20), (64, 0.0032, 20)),
    64: ((32, 0.0256, 10), (64, 0.0128, 20), (64, 0.0128, 20), (64, 0.0128, 20)),
    128: ((32, 0.1024, 10), (64, 0.0512, 20), (64, 0.0512, 20), (64, 0.0512, 20)),
    256: ((16, 0.8192, 5), (32, 0.4096, 10), (64, 0.2048, 20), (64, 0.2048, 20)),
    512: ((8, 6.5536, 2.5), (16, 3.2768, 5), (32, 1.6384, 10), (64, 0.8192, 20)),
    1024: ((4, 52.4288, 1.25), (8, 26.2144, 2.5), (16, 13.1072, 5), (32, 6.5536, 10))}


@pytest.mark.parametrize("resolution", AUTO)
@pytest.mark.parametrize("column, gpus", [(0, 1), (1, 2), (2, 4), (3, 8)])
def test_auto_computes_the_published_table(resolution, column, gpus):
    c = configured("stylegan2_auto", resolution=resolution, gpus=gpus)
    batch, gamma, ema_kimg = AUTO[resolution][column]
    assert (c.train.batch, c.ema.halflife_kimg, c.ema.rampup) == (batch, ema_kimg, 0.05)
    assert at(c, "terms.r1.gamma") == pytest.approx(gamma, rel=1e-12)
    assert at(c, "d.minibatch_group") == 4 and at(c, "g.mapping_layers") == 2 and c.train.kimg == 25000
    assert at(c, "g.channel_base") == at(c, "d.channel_base") == (32768 if resolution >= 512 else 16384)
    assert c.optim_g.lr == c.optim_d.lr == (0.002 if resolution >= 1024 else 0.0025)


@pytest.mark.parametrize("name", ALL)
def test_another_batch_moves_nothing_but_the_batch(name):
    changed = config.differences(configured(name), configured(name, "train.batch=12"))
    assert changed.keys() <= {"train.batch", "train.micro_batch"} and changed["train.batch"][1] == 12
    assert at(configured(name, "train.batch=12"), "train.micro_batch") is None


CORRECTED = {0.002: (0.0016, 0.00188235), 0.0025: (0.0020, 0.00235294)}       # learning rate: that of G, of D


@pytest.mark.parametrize("name", [*NAMED, "cifar_baseline", "stylegan2_auto"])
def test_lazy_regularisation_corrects_adam(name):
    """c = k/(k+1) on the learning rate and in the exponent of the betas; cifar has G's though its path length has no weight."""
    parsed = configured(name)
    tree = config.to_tree(parsed)
    trainer = tiny_trainer(terms={k: v for k, v in tree["terms"].items() if k != "ada_controller"},
                           optim_g=tree["optim_g"], optim_d=tree["optim_d"], train={"order": "gd"})
    for side, rate, beta in zip("gd", CORRECTED[parsed.optim_d.lr], (0.9919920, 0.9905855)):
        group = trainer.optim[side].param_groups[0]
        assert group["lr"] == pytest.approx(rate, rel=1e-5) and group["eps"] == 1e-8
        assert group["betas"] == (0, pytest.approx(beta, abs=1e-7))


@pytest.mark.parametrize("name", ["cifar", "stylegan2_32_narrow"])
def test_path_length_is_corrected_for_once(name):
    with_it = configured(name, "terms.path_length.weight=2")
    assert with_it.optim_g == configured(name).optim_g == configured(name).optim_d


def test_r_v_has_its_own_target():
    from handful import catalog

    settings = ("terms.ada_controller.statistic=r_v", "data.holdout=0.1")
    assert catalog.build("terms", configured("paper256", *settings).terms["ada_controller"]).target == 0.5


# ------------------------------------------------------------------------------------------------------------------ narrow ones


class Flops(TorchDispatchMode):
    """torch's counts of floating-point operations; FlopCounterMode itself trips over gradients inside a forward pass."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize("side, full, gflop", [(32, 99.3, 1.60), (64, 204.6, 3.26), (128, 302.6, 4.87)])
def test_narrow_recipes_do_the_work_they_say(side, full, gflop):
    """full: counted likewise for cifar and for auto at 64 and 128 pixels. Lazy phases count by their share of the iterations."""
    from handful.training.trainer import Trainer

    parsed = configured(f"stylegan2_{side}_narrow", "augment=none", "terms.ada_controller=null", "train.batch=4")
    trainer, work = Trainer(parsed, noise_set(8, resolution=side), torch.device("cpu")), []
    run = trainer._run

    def counted(phase, *rest):
        with Flops() as flops:
            run(phase, *rest)
        work.append(flops.total / phase.every / 4)

    trainer._run = counted
    trainer.step()
    assert sum(work) / 1e9 == pytest.approx(gflop, rel=0.02) and 50 < full / gflop < 100
    assert f"{gflop:.1f} GFLOP" in catalog.load("recipes", f"stylegan2_{side}_narrow").__doc__


def test_a_narrow_recipe_trains():
    from handful.training.trainer import Trainer

    trainer = run_steps(Trainer(configured("stylegan2_32_narrow"), noise_set(24, resolution=32), torch.device("cpu")), 5)
    logged = trainer.take_log()
    assert logged["d/bad_grads"] == logged["g/bad_grads"] == 0
    r, p = trainer.terms["ada_controller"].r.item(), trainer.nets.augment.p.item()                     # p moved once, after the fourth step
    assert -1 <= r <= 1 and p == pytest.approx(4 * 16 / 50_000 if r > 0.6 else 0)


# -------------------------------------------------------------------------------------------------------------------- targets

PUBLISHED = [                                               # recipe, table, row, data, figure, value, spread
    ("paper256", "7c", "baseline", "FFHQ 1k", "FID", 100.16, None),
    ("paper256", "7c", "ADA", "FFHQ 10k", "FID", 8.13, None),
    ("paper256", "7c", "ADA", "FFHQ 140k", "FID", 3.81, None),
    ("paper256", "7c", "baseline", "LSUN Cat 200k", "FID", 7.98, None),
    ("paper256", "7c", "ADA", "LSUN Cat 30k", "FID", 10.50, None),
    ("paper256", "8a", "shallow mapping", "FFHQ 2k", "FID", 71.35, 7.20),
    ("paper256", "8a", "ADA", "FFHQ 140k", "FID", 3.88, 0.13),
    ("paper256", "8a", "baseline", "FFHQ 10k", "FID", 30.73, 0.48),
    ("paper256", "18", "baseline", "FFHQ 256x256, 2k", "recall", 0.000, None),
    ("paper256", "18", "ADA", "FFHQ 256x256, 5k", "FID", 10.78, None),
    ("stylegan2", "18", "config F", "FFHQ 256x256, 30k", "recall", 0.283, None),
    ("stylegan2", "11a", "config F", "MetFaces (1336)", "KID x1000", 35.66, None),
    ("stylegan2", "15", "config F", "AFHQ Dog (4739)", "recall", 0.196, None),
    ("paper1024", "11a", "ADA", "MetFaces (1336)", "FID", 18.22, None),
    ("paper512", "11a", "ADA", "BreCaHAD (1944)", "KID x1000", 2.88, None),
    ("paper512", "16", "ADA", "AFHQ Wild (4738)", "recall", 0.147, None),
    ("cifar_baseline", "11b", "baseline", "CIFAR-10", "FID", 8.32, 0.09),
    ("cifar_baseline", "11b", "ADA", "CIFAR-10 conditional", "IS", 10.24, 0.07),
    ("cifar", "11b", "ADA + tuning", "CIFAR-10 conditional", "FID", 2.42, 0.04),
    ("cifar", "FID-10k", "ADA + tuning", "CIFAR-10", "FID 10k", 7.01, 0.06),
    ("cifar", "17", "best IS", "CIFAR-10 conditional", "IS", 10.33, None),
    ("stylegan2_auto", "cost", "1 GPU", "1024x1024", "hours per 1000 kimg", 44, None),
    ("stylegan2_auto", "cost", "8 GPUs", "512x512", "hours per 1000 kimg", 2.8, None),
]


@pytest.mark.parametrize("recipe, table, row, data, figure, value, spread", PUBLISHED)
def test_targets_hold_the_published_figures(recipe, table, row, data, figure, value, spread):
    found = [t for t in targets(recipe) if (t.table, t.row, t.data, t.figure) == (f"stylegan2-ada/{table}", row, data, figure)]
    assert [(t.value, t.spread) for t in found] == [(pytest.approx(value, abs=1e-6), spread)]


RIVALS = stylegan2_ada.FIG_8A.keys() - {"baseline", "shallow mapping", "ADA"} | {"ADA + bCR"}


def own(name: str) -> list[Target]:
    """Without the rows of other methods (test_comparison_recipes.py) and InsGen's tables (test_insgen_recipes.py)."""
    return [t for t in targets(name) if t.row not in RIVALS and not t.table.startswith("insgen/")]


def test_how_many_figures_are_aimed_at():
    """24 of figure 7c, 9 of 8a, 20 of 11a, 12 of 11b, 24 of 13 to 16, 8 of 17, 24 of 18, 2 FID-10k, 16 of the table of costs."""
    counts = {}
    for t in (t for name in ALL for t in own(name) if t.table.startswith("stylegan2-ada/")):
        counts[t.table.split("/")[1]] = counts.get(t.table.split("/")[1], 0) + 1
    assert counts == {"7c": 24, "8a": 9, "11a": 20, "11b": 12, "13": 6, "14": 6, "15": 6, "16": 6, "17": 8, "18": 24, "FID-10k": 2, "cost": 16}


@pytest.mark.parametrize("name", ALL[:7])
def test_settings_of_every_target_make_its_row(name):
    for t in own(name):
        parsed = configured(name, *t.settings)
        plain = t.row in ("baseline", "config F", "shallow mapping")
        assert (parsed.augment.name == "none") == plain and ("ada_controller" in parsed.terms) == (not plain), t
        assert (at(parsed, "g.mapping_layers") == 2) == (t.row == "shallow mapping" or name in ("cifar", "stylegan2_auto")), t
        assert (parsed.train.precision == "fp32") == (t.row == "config F")
        assert (parsed.data.labels is not None) == ("conditional" in t.data)
        if t.data.startswith(("FFHQ", "LSUN")):
            size = t.data.split()[-1]
            whole = size in ("70k", "140k")
            assert parsed.data.max_images == (None if whole else int(size[:-1]) * 1000) and parsed.data.resolution == 256
            assert parsed.data.flip == (size == "140k") and (parsed.data.filter == "box") == t.data.startswith("FFHQ")
        elif t.table.split("/")[1] in ("11a", "13", "14", "15", "16"):
            assert parsed.data.flip and parsed.data.resolution == (1024 if "MetFaces" in t.data else 512)


def test_settings_of_the_table_of_costs_are_what_that_many_gpus_get():
    for resolution, row in stylegan2_ada.HOURS.items():
        for gpus in (1, 2, 4, 8)[:len(row)]:
            by_settings = configured("stylegan2_auto", *stylegan2_ada.for_gpus(resolution, gpus))
            assert not config.differences(by_settings, configured("stylegan2_auto", resolution=resolution, gpus=gpus))


def test_cost_is_the_papers_account_per_run():
    assert stylegan2_ada.cost(174, 10.82, 8, "figure 7").startswith("2.8 days on 8 V100 GPUs")
