"""InsGen's recipes against the specification's numbers, and the straight line of p that its release recommends."""

from __future__ import annotations

import copy

import pytest
import torch

from handful.errors import UsageError
from handful.terms import AdaController
from making import run_steps, tiny_trainer, weights
from test_ada_controller import controlled

# ------------------------------------------------------------------------------------------------------- the straight line of p

LINE = {"statistic": "linear", "length_kimg": 10.0}


def test_p_rises_to_the_target_over_the_length_whatever_d_does():
    """Spec 5: every 4 iterations p = 0.6 (images seen / 1000) / total kimg."""
    for sign in (-1.0, 1.0):
        found = controlled([sign] * 200, batch=64, **LINE)
        want = [0.6 * min(4 * (i // 4) * 64 / 10_000, 1) for i in range(1, 201)]
        assert found == pytest.approx(want, rel=1e-6)
    assert found[159] == pytest.approx(0.6) and found[199] == pytest.approx(0.6)          # 10.24 kimg; it stays there
    assert controlled([0.0] * 8, batch=64, lazy=range(8), **LINE)[-1] == pytest.approx(0.6 * 512 / 10_000)       # lazy phases show no new images


def test_the_line_has_a_target_an_interval_and_a_bound():
    assert controlled([1.0] * 2, batch=1000, interval=2, target=0.4, **LINE)[-1] == pytest.approx(0.4 * 0.2)
    assert controlled([1.0] * 40, batch=1000, max_p=0.5, **LINE)[-1] == pytest.approx(0.5)


def test_the_line_survives_a_resume_and_r_is_logged():
    settings = ["augment=test_seam:Mirror", "terms.ada_controller.statistic=linear", "terms.ada_controller.length_kimg=0.08",
                "terms.ada_controller.interval=2", "terms.r1.own_step=true", "terms.r1.every=2"]
    straight, first, second = (tiny_trainer(*settings) for _ in range(3))
    run_steps(straight, 7)
    second.load_state_dict(copy.deepcopy(run_steps(first, 3).state_dict()))
    assert torch.equal(weights(run_steps(second, 4)), weights(straight))
    assert second.nets.augment.p == straight.nets.augment.p == pytest.approx(0.6 * 6 * 8 / 80)
    logged = straight.take_log()
    assert -1 <= logged["d/ada_controller/r"] <= 1 and {"d/ada_controller/p", "d/ada_controller/sign"} <= logged.keys()


def test_r_is_measured_as_without_the_line():
    line, plain = AdaController(**LINE), AdaController()
    assert line.observes
    for term in (line, plain):
        controlled_by(term, [0.5, 0.7, -0.2, 0.4])
    assert line.r == plain.r == pytest.approx(0.35)


def controlled_by(term: AdaController, signs: list[float]) -> None:
    from test_ada_controller import Strong

    nets = Strong()
    for sign in signs:
        term.commit("d", {"sign": torch.tensor(sign)}, {}, nets, 8)


@pytest.mark.parametrize("settings, why", [
    ({"statistic": "linear"}, "statistic=linear: say how long p rises with length_kimg"),
    ({"length_kimg": 5}, "length_kimg=5 goes with statistic=linear alone, and this is r_t"),
    ({"length_kimg": 5, "statistic": "r_v"}, "and this is r_v"),
    ({"statistic": "linear", "length_kimg": 0}, "length_kimg=0: give a number of"),
    ({"statistic": "linear", "length_kimg": 5, "target": -1}, "target=-1"),
    ({"statistic": "linear", "length_kimg": 5, "start": 0.2}, "start=0.2: a linear p begins at 0"),
])
def test_lines_that_make_no_sense(settings, why):
    with pytest.raises(UsageError, match=why):
        AdaController(**settings)
