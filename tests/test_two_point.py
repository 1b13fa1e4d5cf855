"""The two-point experiment: closed-form derivatives against plain autograd, outcome classes, intervals, and the story at reduced length."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handful.errors import HandfulError, UsageError
from handful.reproduce._two_point import experiment

two_point = experiment()
game = sys.modules[two_point.Setting.__module__]
Setting, initial, outcomes, play, wilson = game.Setting, game.initial, game.outcomes, game.play, game.wilson


def plain(flat: torch.Tensor, width: int, layers: int, activation: type[nn.Module]) -> nn.Sequential:
    """One perceptron of torch's own layers with the given parameters."""
    widths, modules, start = [1, *[width] * (layers - 1), 1], [], 0
    for i in range(layers):
        fan_in, out = widths[i], widths[i + 1]
        matrix = flat[start:start + out * (fan_in + 1)].view(out, fan_in + 1)
        start += matrix.numel()
        linear = nn.Linear(fan_in, out, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(matrix[:, :-1])
            linear.bias.copy_(matrix[:, -1])
        modules += [linear, activation()]
    return nn.Sequential(*modules[:-1])


def by_autograd(setting: Setting, start: game.State) -> tuple[torch.Tensor, list[float]]:
    """One seed, the obvious loop: final points [2] and R before each iteration."""
    D = plain(start.d[0], 10, setting.layers, nn.Sigmoid)
    G = plain(start.g[0], 5, setting.layers, nn.Tanh)
    make = torch.optim.SGD if setting.optimiser == "sgd" else torch.optim.Adam
    second = {"momentum": setting.momentum} if setting.optimiser == "sgd" else {"betas": (setting.momentum, 0.999)}
    opt_d, opt_g = (make(n.parameters(), setting.lr, **second) for n in (D, G))
    z, real = start.z[0][:, None], torch.tensor(game.REAL, dtype=torch.float64)[:, None]
    gaps = []
    for _ in range(setting.iterations):
        for k in range(setting.d_steps):
            x = torch.cat([real, G(z).detach()]).requires_grad_()
            y = D(x)
            slope, = torch.autograd.grad(y.sum(), x, create_graph=True)
            if setting.norm == "per_sample":
                gap = (slope[:2].abs() - slope[2:].abs()).square().mean()
            else:
                gap = (slope[:2].norm() - slope[2:].norm()).square()
            loss = setting.loss_scale * (F.softplus(-y[:2]).mean() + F.softplus(y[2:]).mean()) + setting.weight * gap
            opt_d.zero_grad()
            loss.backward()
            opt_d.step()
            if k == 0:
                gaps.append(gap.item())
        for _ in range(setting.g_steps):
            opt_g.zero_grad()
            F.softplus(-D(G(z))).mean().backward()
            opt_g.step()
    return G(z)[:, 0].detach(), gaps


@pytest.mark.parametrize("setting", [
    Setting(), Setting(weight=1), Setting(weight=1, norm="batch", layers=4), Setting(weight=3, d_steps=2, g_steps=3, loss_scale=0.5, lr=0.02),
    Setting(weight=1, optimiser="adam", momentum=0.5, z_range=2)], ids=["vanilla", "diggan", "batch norm, 4 layers", "steps", "adam"])
def test_closed_form_equals_a_plain_autograd_loop(setting):
    setting = dataclasses.replace(setting, iterations=100)
    start = initial(setting, 3)
    trace = play(setting, start, every=1)
    for s in range(3):
        final, gaps = by_autograd(setting, start[s:s + 1])
        assert torch.allclose(trace.final[s], final, rtol=1e-9, atol=1e-9)
        assert torch.allclose(trace.gap[:, s], torch.tensor(gaps, dtype=torch.float64), rtol=1e-7, atol=1e-12)


def test_seeds_do_not_depend_on_how_many_there_are_nor_on_each_other():
    setting = Setting(iterations=50, weight=1)
    few, many = initial(setting, 3), initial(setting, 8)
    assert torch.equal(few.d, many.d[:3]) and torch.equal(few.g, many.g[:3]) and torch.equal(few.z, many.z[:3])
    assert many.z.abs().max() <= 5 and many.d[:, :20].abs().max() <= 1 and many.d[:, 20:].abs().max() <= 10 ** -0.5
    before = many.d.clone()
    assert torch.allclose(play(setting, few).final, play(setting, many).final[:3], atol=1e-12) and torch.equal(before, many.d)


def test_outcomes_and_intervals():
    final = torch.tensor([[0.1, 4.2], [3.9, -0.2], [0.0, 0.29], [4.1, 3.8], [0.0, 2.0], [0.31, 4.0], [-9.0, 9.0]])
    assert [game.OUTCOMES[i] for i in outcomes(final)] == ["both modes", "both modes", "both at 0", "both at 4", "other", "other", "other"]
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = wilson(0, 100)
    assert low == 0 and high == pytest.approx(0.0370, abs=1e-4)
    assert wilson(100, 100)[1] == pytest.approx(1)


def test_a_trapped_state_is_an_equilibrium_of_the_vanilla_game():
    """D free to be optimal against two fakes on 0: the logit is log(1/2) at 0 and grows without end at 4."""
    setting = Setting()
    start = initial(setting, 4)
    still = game.State(start.d, torch.zeros_like(start.g), start.z)                        # G gives 0 whatever z
    end, _ = game.judge_alone(setting, still, 6000)
    D, _ = game.networks(setting, end)
    y, _ = D.forward(torch.tensor([game.REAL] * 4, dtype=torch.float64))
    assert torch.allclose(y[:, 0], torch.tensor(0.5, dtype=torch.float64).log().expand(4), atol=0.05) and (y[:, 1] > 3).all()


def test_the_share_of_trapped_runs_agrees_with_an_independent_trial():
    """100 seeds of another implementation: 49 % of vanilla runs end with both points on 0. Other draws and 48 seeds, so a wide interval."""
    found = outcomes(play(Setting(), initial(Setting(), 48), every=1000).final)
    assert 0.3 < (found == two_point.AT_0).double().mean() < 0.68


def test_orbits_are_told_from_runs_with_one_point_about_each():
    t = torch.arange(100.0)
    orbit = 2 + 2 * torch.sin(t / 3)
    x = torch.stack([torch.stack([orbit, orbit + 0.01], 1), torch.stack([orbit / 5, 3.6 + orbit / 5], 1),
                     torch.stack([torch.zeros(100), torch.full((100,), 4.0)], 1)], 1)          # [T,3,2]
    told = two_point._told(game.Trace(t, x, t, None, x[-1]))
    assert told["moving"] == 2 and told["apart"]["count"] == 2 and told["of"] == 3


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """All of `run`, each game cut to 60 iterations, and with runs called trapped that aren't."""
    pytest.importorskip("matplotlib")
    out, lines = tmp_path_factory.mktemp("two-point"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_point, "TABLE", {k: dataclasses.replace(s, iterations=30) for k, s in two_point.TABLE.items()})
        patch.setattr(two_point, "VANILLA", dataclasses.replace(two_point.VANILLA, iterations=30))
        patch.setattr(two_point, "DIGGAN", dataclasses.replace(two_point.DIGGAN, iterations=30))
        patch.setattr(two_point, "outcomes", lambda x: torch.arange(len(x)) % 2)
        return out, two_point.run(out, 6, say=lines.append), lines


def test_run_reports_draws_and_writes(rehearsed):
    out, result, lines = rehearsed
    assert json.loads((out / "two-point.json").read_text()) == json.loads(json.dumps(result))
    assert len(result["rows"]) == len(two_point.TABLE) and result["trapped"] == 3
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in result["figures"]) and len(result["figures"]) == 4
    assert sum(o["count"] for o in result["experiment_2"]["5"]["outcomes"].values()) == 3
    assert all(r["apart"]["count"] <= r["of"] >= r["moving"] for r in result["rows"])
    text = two_point.summary(result)
    assert all(row["name"] in text for row in result["rows"]) and all(s in text for s in result["sentences"])
    assert [s[:2] for s in result["sentences"][:4]] == ["1.", "2.", "3.", "4."] and any("variance 10" in line for line in lines)


def test_a_missing_matplotlib_is_said_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(HandfulError, match=r"pip install 'handful\[plots\]'"):
        two_point.run(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="seeds=0"):
        two_point.run(tmp_path, 0)
