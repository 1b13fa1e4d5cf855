"""The game of the two-point experiment: two real points, two generated ones, D and G tiny perceptrons, many seeds at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from handful.rng import derive

from .nets import Nets, drawn, size

REAL = (0.0, 4.0)                   # the data
HIT = 0.3                           # a generated point this near to a real one is on it
OUTCOMES = ("both modes", "both at 0", "both at 4", "other")
D_WIDTH, G_WIDTH = 10, 5
TINY = 1e-300                       # a norm of zero has the gradient zero


@dataclass(frozen=True)
class Setting:
    """How one game is played. layers: linear layers of each net (3: the paper's four, if it counts the input); d_steps and g_steps per iteration.

    weight: lambda of R = mean_i (|dD/dx_R,i| - |dD/dx_F,i|)^2, D the logit (norm="per_sample"), or of the squared difference of the two norms over
    the whole batch (norm="batch"); loss_scale: factor on D's adversarial loss; z_range: latents are uniform in +-z_range, drawn once.
    """

    layers: int = 3
    d_steps: int = 1
    g_steps: int = 1
    iterations: int = 10_000
    weight: float = 0.0
    norm: Literal["per_sample", "batch"] = "per_sample"
    lr: float = 0.01
    momentum: float = 0.9
    optimiser: Literal["sgd", "adam"] = "sgd"
    loss_scale: float = 1.0
    z_range: float = 5.0


@dataclass(frozen=True)
class State:
    """Parameters of D [S,P] and G [S,Q], latents z [S,2]; fp64."""

    d: Tensor
    g: Tensor
    z: Tensor

    def __getitem__(self, which: Tensor | slice) -> State:
        return State(self.d[which], self.g[which], self.z[which])


@dataclass(frozen=True)
class Trace:
    """at [T]: iterations; x [T,S,2]: generated points; gap [T,S]: R; end: the state after the last step; final [S,2]: its points."""

    at: Tensor
    x: Tensor
    gap: Tensor
    end: State
    final: Tensor


def initial(setting: Setting, seeds: int) -> State:
    """The first `seeds` starting points, uniform in +-1/sqrt(fan_in) as torch's linear layers; seed s is the same however many there are."""
    p, q = size(D_WIDTH, setting.layers), size(G_WIDTH, setting.layers)
    generator = torch.Generator().manual_seed(derive("two-point", setting.layers))
    u = torch.rand(seeds, p + q + 2, generator=generator, dtype=torch.float64)
    return State(drawn(u[:, :p], D_WIDTH, setting.layers), drawn(u[:, p:p + q], G_WIDTH, setting.layers), (2 * u[:, p + q:] - 1) * setting.z_range)


@torch.inference_mode()
def play(setting: Setting, start: State, every: int = 10) -> Trace:
    """`iterations` times d_steps steps of D, then g_steps steps of G, from `start` (left as it is) with optimisers that have no momentum yet.

    Points and R are kept `every` so many iterations, as they are before the iteration.
    """
    D, G = networks(setting, start)
    step_d, step_g = (_optimiser(setting, n) for n in (D, G))
    at = torch.arange(0, setting.iterations, every)
    xs, gaps = start.z.new_empty(len(at), *start.z.shape), start.z.new_empty(len(at), len(start.z))
    x, _ = G.forward(start.z)
    for i in range(setting.iterations):
        for k in range(setting.d_steps):
            gap = d_gradient(setting, D, x)
            if k == 0 and i % every == 0:
                xs[i // every], gaps[i // every] = x, gap
            step_d()
        for _ in range(setting.g_steps):
            y, slope = D.forward(x)
            G.backward(-torch.sigmoid(-y) * slope / x.shape[1], torch.zeros_like(x))        # of mean softplus(-D(G(z)))
            step_g()
            x, _ = G.forward(start.z)
    return Trace(at, xs, gaps, State(D.params, G.params, start.z), x)


@torch.inference_mode()
def judge_alone(setting: Setting, start: State, iterations: int) -> tuple[State, Tensor]:
    """D trained with G held still: the new state, and the gap | |dD/dx_R| - |dD/dx_F| | at its end, the mean over the two pairs, [S]."""
    D, G = networks(setting, start)
    step = _optimiser(setting, D)
    x, _ = G.forward(start.z)
    for _ in range(iterations):
        d_gradient(setting, D, x)
        step()
    _, slope = D.forward(torch.cat([_real(x), x], 1))
    real, fake = slope.abs().chunk(2, 1)
    return State(D.params, start.g, start.z), (real - fake).abs().mean(1)


def d_gradient(setting: Setting, D: Nets, fake: Tensor) -> Tensor:
    """Sets D.grad of loss_scale * (mean softplus(-D(x)) + mean softplus(D(fake))) + weight * R for fake [S,2]; returns R [S]."""
    n = fake.shape[1]
    y, slope = D.forward(torch.cat([_real(fake), fake], 1))                                  # reals, then fakes
    sign = y.new_tensor([-1.0] * n + [1.0] * n)
    if setting.norm == "per_sample":
        sizes, along = slope.abs(), slope.sign()
        difference = sizes[:, :n] - sizes[:, n:]                                             # [S,n]
        gap, by_size = difference.square().mean(1), difference * (2 / n)
    else:
        sizes = slope.unflatten(1, (2, n)).norm(dim=2)                                       # [S,2]
        along = slope / sizes.clamp_min(TINY).repeat_interleave(n, 1)
        difference = (sizes[:, :1] - sizes[:, 1:]).expand(-1, n)                             # [S,n], n times the same
        gap, by_size = difference[:, 0].square(), difference * 2
    by_slope = setting.weight * torch.cat([by_size, -by_size], 1) * along
    D.backward(setting.loss_scale / n * sign * torch.sigmoid(sign * y), by_slope)
    return gap


def networks(setting: Setting, state: State) -> tuple[Nets, Nets]:
    """D and G with parameters of their own."""
    return (Nets(state.d.clone(), D_WIDTH, setting.layers, "sigmoid"), Nets(state.g.clone(), G_WIDTH, setting.layers, "tanh"))


def outcomes(final: Tensor) -> Tensor:
    """final [S,2] -> the index in OUTCOMES of each, [S]."""
    on = [(final - r).abs() < HIT for r in REAL]
    both = (on[0][:, 0] & on[1][:, 1]) | (on[1][:, 0] & on[0][:, 1])
    classes = torch.stack([both, on[0].all(1), on[1].all(1)], 1)
    return torch.where(classes.any(1), classes.int().argmax(1), len(OUTCOMES) - 1)


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a fraction (1927): what the share may be, given `hits` of `of`."""
    p = hits / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return max(0.0, (middle - half) / (1 + z * z / of)), min(1.0, (middle + half) / (1 + z * z / of))


def joined(states: Sequence[State]) -> State:
    return State(*(torch.cat([getattr(s, k) for s in states]) for k in ("d", "g", "z")))


def _real(like: Tensor) -> Tensor:
    return like.new_tensor(REAL).expand(len(like), -1)


def _optimiser(setting: Setting, nets: Nets) -> Callable[[], object]:
    """The step that moves all parameters along `grad`."""
    if setting.optimiser == "adam":
        nets.params.grad = nets.grad
        return torch.optim.Adam([nets.params], setting.lr, (setting.momentum, 0.999)).step
    velocity = torch.zeros_like(nets.grad)

    def step() -> None:
        velocity.mul_(setting.momentum).add_(nets.grad)
        nets.params.add_(velocity, alpha=-setting.lr)

    return step
