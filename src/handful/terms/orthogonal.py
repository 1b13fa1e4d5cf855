"""Orthogonal regularisation: keeps a layer's filters from pointing the same way, without holding their lengths.

Brock, Donahue, Simonyan: Large Scale GAN Training for High Fidelity Natural Image Synthesis, ICLR 2019, equation 3. Adds to the loss

    weight sum_W || W^T W o (1 - I) ||_F^2        the columns of W are the filters: [inputs x kernel, outputs]

over the convolutions and linear layers of G, so that G bears truncation; `of` takes D, or both. Default: weight 1e-4 (the paper's choice). The
weights are the parameters, before spectral norm; class embeddings and layers of one output have no part.

||W^T W||_F = ||W W^T||_F, so whichever of the two is smaller is made, and the diagonal sum_j ||w_j||^4 taken off.

Deviation: in layers with an equalised learning rate (StyleGAN2's), whose parameters have unit variance by construction, the run-time constant is
multiplied in, so that the weight means there what it means elsewhere.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from handful.errors import HandfulError, within
from handful.nn.conv import Embedding
from handful.nn.equalized import EqualConv2d, EqualLinear
from handful.nn.modulate import ModulatedConv, ToRGB
from handful.nn.spectral import Spectral
from handful.seam import Context, Needs, Nets, Result, Side, Term


class Orthogonal(Term):
    """weight: beta; of: "g", "d" or "both"; every: lazy interval (the trainer multiplies by it). Stats: penalty.

    Raises UsageError for a weight below 0, HandfulError where a network has no weights that it could serve.
    """

    def __init__(self, weight: float = 1e-4, of: Literal["g", "d", "both"] = "g", every: int = 1) -> None:
        super().__init__()
        within(0, weight=weight)
        self.weight, self.of, self.every = weight, of, every

    def setup(self, nets: Nets) -> None:
        for side, net in (("g", nets.G), ("d", nets.D)):
            if self.needs(side) is not None and not filters(net):
                raise HandfulError(f"terms.orthogonal.of={self.of}: {side.upper()} has no convolution or linear layer of two outputs or more; "
                                   f"leave the term out (--set terms.orthogonal=null)")

    def needs(self, side: Side) -> Needs | None:
        return Needs() if self.of in (side, "both") else None

    def forward(self, ctx: Context) -> Result:
        net = ctx.nets.G if ctx.side == "g" else ctx.nets.D
        penalty = self.weight * sum(off_diagonal(w) for w in filters(net))
        return Result(penalty, {"penalty": penalty.detach().expand(len(ctx.slots))})


def filters(net: nn.Module) -> list[Tensor]:
    """The weights of a network's convolutions and linear layers as they act, one row per filter: [outputs, inputs x kernel], outputs > 1."""
    found = []
    for module in net.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim < 2 or isinstance(module, nn.Embedding | Embedding):
            continue
        outputs = 1 if isinstance(module, nn.ConvTranspose2d) else module.dim if isinstance(module, Spectral) else 0      # the axis that counts them
        rows = weight.transpose(0, outputs).flatten(1)
        if len(rows) < 2:
            continue
        if isinstance(module, EqualConv2d | EqualLinear):
            rows = rows * module.gain
        elif isinstance(module, ModulatedConv | ToRGB):
            rows = rows / math.sqrt(rows.shape[1])
        found.append(rows)
    return found


def off_diagonal(rows: Tensor) -> Tensor:
    """|| R R^T o (1 - I) ||_F^2 of R [outputs, inputs]: the squared inner products of all pairs of different rows, each pair twice."""
    small = rows @ rows.t() if rows.shape[0] <= rows.shape[1] else rows.t() @ rows
    return small.square().sum() - rows.square().sum(1).square().sum()
