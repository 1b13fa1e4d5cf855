"""Many tiny perceptrons at once, with the derivatives of the two-point experiment in closed form.

A scalar x goes through linear layers with an activation between them. The tangent dy/dx is carried forward beside y (t_0 = 1,
t_l = s'(a_l) W_l t_{l-1}), so that a penalty on the input gradient costs one forward and one backward pass of twice the width, and a step of G
needs no backward pass of D. Autograd gives the same numbers (tests/test_two_point.py) at several times the cost, nearly all of it overhead.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Activation = Literal["sigmoid", "tanh"]


def drawn(uniform: Tensor, width: int, layers: int) -> Tensor:
    """Initial parameters of S nets 1 -> width -> ... -> 1 of `layers` linear layers: uniform [S,P] in [0,1) -> [S,P] in +-1/sqrt(fan_in)."""
    bounds = torch.cat([torch.full((out * (fan_in + 1),), fan_in ** -0.5) for out, fan_in in shapes(width, layers)])
    return (2 * uniform - 1) * bounds.to(uniform.dtype)


def size(width: int, layers: int) -> int:
    return sum(out * (fan_in + 1) for out, fan_in in shapes(width, layers))


def shapes(width: int, layers: int) -> list[tuple[int, int]]:
    """(outputs, inputs) of each linear layer."""
    widths = [1, *[width] * (layers - 1), 1]
    return list(zip(widths[1:], widths[:-1]))


class Nets:
    """S perceptrons that share nothing. params [S,P] holds, layer by layer, weights and bias as one matrix [outputs, inputs + 1]; grad is alike."""

    def __init__(self, params: Tensor, width: int, layers: int, activation: Activation) -> None:
        self.params, self.grad, self.activation = params, torch.zeros_like(params), activation
        self.weights, self.grads, start = [], [], 0
        for out, fan_in in shapes(width, layers):
            end = start + out * (fan_in + 1)
            for views, flat in ((self.weights, params), (self.grads, self.grad)):
                views.append(flat[:, start:end].unflatten(1, (out, fan_in + 1)))             # [S,out,fan_in+1]
            start = end
        self._buffers: dict[int, list[Tensor]] = {}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [S,n] -> y [S,n] and dy/dx [S,n]."""
        n = x.shape[1]
        self.inputs, self.slopes = self._rows(n), []
        self.inputs[0][:, 0, :n] = x
        for h, weight, after in zip(self.inputs, self.weights, [*self.inputs[1:], None]):
            a = torch.bmm(weight, h)                                                         # [S,out,2n]
            value, tangent = a[..., :n], a[..., n:]
            if after is None:
                return value[:, 0], tangent[:, 0]
            if self.activation == "sigmoid":
                s = value.sigmoid()
                ds = s - s * s
                dds = ds * (1 - 2 * s)
            else:
                s = value.tanh()
                ds = 1 - s * s
                dds = -2 * s * ds
            after[:, :-1, :n] = s
            after[:, :-1, n:] = ds * tangent
            self.slopes.append((ds, dds * tangent))

    def backward(self, by_y: Tensor, by_slope: Tensor) -> None:
        """Sets `grad` of a loss from its derivatives by y and by dy/dx, [S,n] each, at the points of the last forward pass."""
        n = by_y.shape[1]
        a = torch.cat([by_y, by_slope], 1)[:, None]                                          # [S,1,2n]
        for i in reversed(range(len(self.weights))):
            self.grads[i].copy_(torch.bmm(a, self.inputs[i].mT))
            if i:
                h = torch.bmm(self.weights[i][:, :, :-1].mT, a)                              # [S,inputs,2n]
                ds, bend = self.slopes[i - 1]
                by_value, by_tangent = h[..., :n], ds * h[..., n:]
                a = torch.cat([torch.addcmul(ds * by_value, bend, h[..., n:]), by_tangent], 2)

    def _rows(self, n: int) -> list[Tensor]:
        """What each layer multiplies, [S,inputs+1,2n], made once: values, then tangents; below them the row for the bias, ones and zeros."""
        if n not in self._buffers:
            rows = [self.params.new_zeros(len(self.params), w.shape[2], 2 * n) for w in self.weights]
            for h in rows:
                h[:, -1, :n] = 1
            rows[0][:, 0, n:] = 1                                                            # dx/dx
            self._buffers[n] = rows
        return self._buffers[n]
