"""Spectral normalisation (Miyato et al. 2018, eq. 4 and algorithm 1): W / sigma(W), sigma estimated by power iteration.

Same numbers as `torch.nn.utils.spectral_norm`: one iteration in every training forward, none in evaluation, eps 1e-12 (BigGAN's releases: 1e-8
and 1e-6), gradient through W with u and v held constant. Two differences of form: the parameter keeps its name (`weight`, no `_orig`), and
1/sigma multiplies whichever is smaller, the weights or the layer's input, which is the same for a linear map and saves most of the cost where a
layer has millions of weights.

compare_gan's form (DiffAugment's ImageNet runs) is iterates="always": one iteration in every forward, in evaluation too, begun at the shorter of u
and v. Its vectors are v / sqrt(max(sum v^2, 1e-12)), which is v / max(|v|, 1e-6): eps 1e-6 here.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["spectral", "none"]
Bias = Literal["none", "zeros", "uniform"]
Iterates = Literal["training", "always"]
EPS = 1e-12


@torch.library.custom_op("handful::power_iteration", mutates_args=("u", "v"))
def power_iteration(matrix: Tensor, u: Tensor, v: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """One power iteration: moves u [outputs] and v [inputs] in place, and returns them as tensors of their own. No gradient.

    For compiled graphs alone, to which it is opaque: the partitioner would otherwise save the old u and compute v anew in the backward pass,
    by when u has moved on, and autograd refuses.
    """
    new_v = F.normalize(torch.mv(matrix.t(), u), dim=0, eps=eps)
    new_u = F.normalize(torch.mv(matrix, new_v), dim=0, eps=eps)
    u.copy_(new_u)
    v.copy_(new_v)
    return new_u, new_v


@power_iteration.register_fake
def _(matrix: Tensor, u: Tensor, v: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u), torch.empty_like(v)


def singular_vectors(weight: Tensor, dim: int = 0, eps: float = EPS, shorter: bool = False) -> tuple[Tensor, Tensor]:
    """First estimates u [outputs] and v [inputs x kernel] for a new weight: random ones after one power iteration. shorter: as below.

    Random vectors alone may give a sigma of nearly 0, and a fresh network is looked at.
    """
    outputs = weight.shape[dim]
    u, v = (F.normalize(torch.randn(n), dim=0, eps=eps) for n in (outputs, weight.numel() // outputs))
    with torch.no_grad():
        largest_singular_value(weight, u, v, True, dim, eps, shorter)
    return u, v


def largest_singular_value(weight: Tensor, u: Tensor, v: Tensor, iterate: bool, dim: int = 0, eps: float = EPS, shorter: bool = False) -> Tensor:
    """sigma of `weight` as a matrix [outputs, inputs x kernel], a scalar with gradient to `weight`; iterate: after a power iteration, which moves
    the estimates u [outputs] and v [inputs x kernel] in place. dim: the axis that counts outputs. shorter: the iteration begins at the shorter of
    the two, else at u."""
    device = weight.device.type
    with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
        matrix = weight.transpose(0, dim).flatten(1)                    # [outputs, inputs x kernel]
        if shorter and len(v) < len(u):
            matrix, u, v = matrix.t(), v, u                             # the same sigma, and u is where an iteration begins
        if not iterate:
            return torch.dot(u.clone(), torch.mv(matrix, v.clone()))
        if torch.compiler.is_compiling():
            u, v = power_iteration(matrix.detach(), u, v, eps)
            return torch.dot(u, torch.mv(matrix, v))
        with torch.no_grad():
            new_v = F.normalize(torch.mv(matrix.t(), u), dim=0, eps=eps)
        product = torch.mv(matrix, new_v)                               # serves the iteration and sigma
        with torch.no_grad():
            new_u = F.normalize(product, dim=0, eps=eps)
            u.copy_(new_u)
            v.copy_(new_v)
        return torch.dot(new_u, product)


class Spectral(nn.Module):
    """Base of linear maps whose `weight` may be spectrally normalised.

    weight: the initial values; norm: "spectral" or "none"; dim: the axis of `weight` that counts outputs (1 for transposed convolutions);
    eps: added to no norm but the least that one may be; bias: none, or one number per output, zero or U[-b, b] at first, b = 1/sqrt(fan_in)
    (torch's own). Buffers u [outputs] and v [inputs x kernel] are the estimates of the singular vectors. iterates: "training", once in every
    training forward, begun at u; "always", in evaluation too, begun at the shorter of the two.
    """

    def __init__(self, weight: Tensor, norm: Norm = "spectral", dim: int = 0, eps: float = EPS, bias: Bias = "none",
                 iterates: Iterates = "training") -> None:
        super().__init__()
        if norm not in ("spectral", "none"):
            raise ValueError(f"norm must be 'spectral' or 'none', not {norm!r}")
        self.weight = nn.Parameter(weight)
        self.dim, self.eps, self.always = dim, eps, iterates == "always"
        bound = {"none": None, "zeros": 0.0, "uniform": (weight.shape[dim] / weight.numel()) ** 0.5}[bias]
        self.bias = None if bound is None else nn.Parameter(torch.empty(weight.shape[dim]).uniform_(-bound, bound))
        if norm == "spectral":
            u, v = singular_vectors(weight, dim, eps, self.always)
            self.register_buffer("u", u)
            self.register_buffer("v", v)
        else:
            self.u = self.v = None

    def sigma(self, iterate: bool | None = None) -> Tensor:
        """The largest singular value, a scalar with gradient to `weight`; after one power iteration (iterate; None: in training mode, or always)."""
        iterate = self.training or self.always if iterate is None else iterate
        return largest_singular_value(self.weight, self.u, self.v, iterate, self.dim, self.eps, self.always)

    def scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x and `weight`, one of them divided by sigma: the smaller."""
        if self.u is None:
            return x, self.weight
        scale = self.sigma().reciprocal()
        if x.numel() < self.weight.numel():
            return x * scale.to(x.dtype), self.weight
        return x, self.weight * scale

    def extra_repr(self) -> str:
        return f"{'x'.join(map(str, self.weight.shape))}, norm={'none' if self.u is None else 'spectral'}"
