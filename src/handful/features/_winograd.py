"""3x3 convolution with frozen weights by Winograd's minimal filtering F(4x4, 3x3), for the CPU.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), eq. 4-13: a 4x4 tile of the output is
`A^T [ (G g G^T) * (B^T d B) ] A` of a 6x6 tile d of the input, 36 multiplications per channel pair where the direct form takes 144.
Because the weights are frozen, G g G^T is computed once. The backward pass is the adjoint, so it shares the transformed weights.
Relative error in fp32 about 1e-5 of the largest output; the plain twin is `F.conv2d(x, weight, bias, padding=1)`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
_AT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
_G = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # over 24


def transform(weight: Tensor) -> Tensor:
    """Weights [O,I,3,3] in Winograd's domain: [36,I,O]."""
    g = weight.new_tensor(_G, dtype=torch.float64) / 24
    o, c = weight.shape[:2]
    taps = weight.permute(2, 3, 1, 0).reshape(9, c * o)  # [O,I,3,3] -> [9,IO]
    return (torch.kron(g, g) @ taps.double()).to(weight.dtype).view(36, c, o)


def conv3x3(x: Tensor, u: Tensor, bias: Tensor) -> Tensor:
    """[B,I,H,W] -> [B,O,H,W], zero padding 1, both channels_last in memory; u from `transform`. Gradients flow to x alone."""
    return _Conv.apply(x, u, bias)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, u, bias):
        ctx.u = u
        return _forward(x, u) if bias is None else _forward(x, u).add_(bias[:, None, None])

    @staticmethod
    def backward(ctx, grad):
        return _Adjoint.apply(grad, ctx.u), None, None


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad, u):
        ctx.u = u
        return _adjoint(grad, u)

    @staticmethod
    def backward(ctx, grad):
        return _Conv.apply(grad, ctx.u, None), None


def _slabs(b: int, th: int, tw: int, channels: int):
    """Slices (images, tile rows) that cover b images of th x tw tiles.

    A slab's buffers should stay in the cache, yet each slab reads all weights: channels / 2 tiles were measured best (128 to 512).
    """
    tiles = max(1, channels // 2)
    images, rows = max(1, min(b, tiles // (th * tw))), max(1, min(th, tiles // tw))
    for i in range(0, b, images):
        for r in range(0, th, rows):
            yield slice(i, min(i + images, b)), slice(r, min(r + rows, th))


def _buffers(like: Tensor, *sizes: int) -> list[Tensor]:
    return [like.new_empty(n) for n in sizes]


def _forward(x: Tensor, u: Tensor) -> Tensor:
    b, c, h, w = x.shape
    o, th, tw = u.shape[2], -(-h // 4), -(-w // 4)
    bt, at = _kron(_BT, x), _kron(_AT, x)  # [36,36], [16,36]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 4 * tw - w + 1, 1, 4 * th - h + 1))  # [B,4th+2,4tw+2,C]
    tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)  # [6,6,B,th,tw,C], overlapping view
    y = torch.empty(b, o, 4 * th, 4 * tw, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    out = y.permute(0, 2, 3, 1).view(b, th, 4, tw, 4, o).permute(2, 4, 0, 1, 3, 5)  # [4,4,B,th,tw,O], view
    buffers = None
    for images, rows in _slabs(b, th, tw, max(c, o)):
        d, r = tiles[:, :, images, rows], out[:, :, images, rows]
        p = d.shape[2] * d.shape[3] * tw
        if buffers is None:  # the first slab is the largest
            buffers = _buffers(x, 36 * p * c, 36 * p * c, 36 * p * o, 16 * p * o)
        dd, v, m, s = (t[: k * p * n].view(k, p * n) for t, k, n in zip(buffers, (36, 36, 36, 16), (c, c, o, o)))
        dd.view(d.shape).copy_(d)
        torch.mm(bt, dd, out=v)
        torch.bmm(v.view(36, p, c), u, out=m.view(36, p, o))
        torch.mm(at, m, out=s)
        r.copy_(s.view(r.shape))
    if y.shape[2:] == (h, w):
        return y  # no view, so that a ReLU may run in place
    return y[:, :, :h, :w].clone(memory_format=torch.channels_last)


def _adjoint(grad: Tensor, u: Tensor) -> Tensor:
    b, o, h, w = grad.shape
    c, th, tw = u.shape[1], -(-h // 4), -(-w // 4)
    a, bb, ut = _kron(_AT, grad).t(), _kron(_BT, grad).t(), u.transpose(1, 2)  # [36,16], [36,36], [36,O,I]
    padded = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 0, 4 * tw - w, 0, 4 * th - h))
    tiles = padded.reshape(b, th, 4, tw, 4, o).permute(2, 4, 0, 1, 3, 5)  # [4,4,B,th,tw,O]
    gx = grad.new_zeros(b, 4 * th + 4, 4 * tw + 4, c)
    out = gx.view(b, th + 1, 4, tw + 1, 4, c).permute(2, 4, 0, 1, 3, 5)  # [4,4,B,th+1,tw+1,C]: a 6x6 tile reaches into its neighbours
    buffers = None
    for images, rows in _slabs(b, th, tw, max(c, o)):
        y = tiles[:, :, images, rows]
        n, k = y.shape[2], y.shape[3]
        p = n * k * tw
        if buffers is None:
            buffers = _buffers(grad, 16 * p * o, 36 * p * o, 36 * p * c, 36 * p * c)
        yy, m, v, d = (t[: q * p * e].view(q, p * e) for t, q, e in zip(buffers, (16, 36, 36, 36), (o, o, c, c)))
        yy.view(y.shape).copy_(y)
        torch.mm(a, yy, out=m)
        torch.bmm(m.view(36, p, o), ut, out=v.view(36, p, c))
        torch.mm(bb, v, out=d)
        d = d.view(6, 6, n, k, tw, c)
        below = slice(rows.start + 1, rows.stop + 1)
        out[:, :, images, rows, :tw].add_(d[:4, :4])
        out[:, :2, images, rows, 1:].add_(d[:4, 4:])
        out[:2, :, images, below, :tw].add_(d[4:, :4])
        out[:2, :2, images, below, 1:].add_(d[4:, 4:])
    return gx[:, 1 : h + 1, 1 : w + 1].permute(0, 3, 1, 2)


def _kron(matrix: list[list[int]], like: Tensor) -> Tensor:
    m = like.new_tensor(matrix)
    return torch.kron(m, m)
