"""3x3 convolution (stride 1, padding 1) by Winograd's minimal filtering F(4x4, 3x3), to any order of differentiation.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): a 4x4 tile of the output is A^T [(G g G^T) * (B^T d B)] A of a 6x6 tile
d of the input, 36 multiplications per pair of channels where the direct form takes 144. Over all tiles the products are 36 matrix products.
Two kernels suffice: the convolution (its gradient by x is the convolution with the weight turned round) and the gradient by the weight,
G^T [sum over tiles (A g A^T) * (B^T d B)] G. Each one's derivative is made of the two, so gradients of gradients are as fast as gradients.

Interpolation points 0, +-sqrt(1/2), +-sqrt(2), infinity instead of 0, +-1, +-2, infinity: relative error in fp32 1.1e-6 forward and for both
gradients where the paper's points give 2.5e-6 (256 channels; direct form 0.2e-6 forward, 1.1e-6 for the weight).

Only x and the weight are kept for the backward pass. Tiles are worked on slab by slab, so that the buffers stay small: with 512 channels 36 MB for
the weight, as much for the tiles before and after the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd import Function

POINTS = (0.0, 0.5 ** 0.5, -0.5 ** 0.5, 2 ** 0.5, -2 ** 0.5)         # and infinity
STRIP, SLAB = 8192, 128           # measured best: tiles x channels transformed at a time; the least tiles in a product


def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """x [B,I,H,W], weight [O,I,3,3] -> [B,O,H,W]: correlation with zero padding 1, fp32 or fp64."""
    return _Conv.apply(x, weight, False)


class _Conv(Function):
    """turned: the weight [I,O,3,3] is transposed and turned round, which makes the operator the adjoint of the plain one."""

    @staticmethod
    def forward(x, weight, turned):
        return _convolve(x, weight, turned)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, ctx.turned = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        to_x = _Conv.apply(grad, weight, not ctx.turned) if ctx.needs_input_grad[0] else None
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = _ByWeight.apply(grad, x) if ctx.turned else _ByWeight.apply(x, grad)
        return to_x, to_weight, None


class _ByWeight(Function):
    """x [B,I,H,W], grad [B,O,H,W] -> [O,I,3,3]: what pairs with a weight as `grad` pairs with its convolution of x."""

    @staticmethod
    def forward(x, grad):
        return _correlate(x, grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        x, g = ctx.saved_tensors
        return (_Conv.apply(g, grad, True) if ctx.needs_input_grad[0] else None,
                _Conv.apply(x, grad, False) if ctx.needs_input_grad[1] else None)


def _convolve(x: Tensor, weight: Tensor, turned: bool) -> Tensor:
    bt, at, g = _matrices(x.dtype, x.device)
    if turned:
        g = g.flip(1)                                                                   # the nine taps in reverse
    first, second = weight.shape[:2]
    u = (g @ weight.reshape(-1, 9).t()).view(36, first, second)                         # [36,O,I], turned [36,I,O]
    u = u if turned else u.transpose(1, 2)                                              # [36,I,O]
    i, o = u.shape[1:]
    b, _, h, w = x.shape
    y = x.new_empty(b, o, h, w)
    buffers = _Buffers(x)
    for slab in _slabs(b, h, w, i, o):
        v = slab.transform(bt, x, buffers, "v")                                         # [36,p,I]
        m = torch.bmm(v, u, out=buffers("m", 36, slab.tiles, o)).view(36, -1)
        for strip, columns in slab.places(o):
            strip.scatter(torch.mm(at, m[:, columns], out=buffers("s", 16, strip.tiles * o)), y)
    return y


def _correlate(x: Tensor, grad: Tensor) -> Tensor:
    bt, at, g = _matrices(x.dtype, x.device)
    b, i, h, w = x.shape
    o = grad.shape[1]
    du = x.new_zeros(36, o, i)
    buffers = _Buffers(x)
    for slab in _slabs(b, h, w, i, o):
        du.baddbmm_(slab.transform(at.t(), grad, buffers, "m").transpose(1, 2), slab.transform(bt, x, buffers, "v"))
    return (g.t() @ du.view(36, -1)).view(3, 3, o, i).permute(2, 3, 0, 1).contiguous()


class _Strip:
    """Some rows of tiles of some images."""

    def __init__(self, images: slice, rows: slice, h: int, w: int) -> None:
        self.images, self.rows, self.h, self.w = images, rows, h, w
        self.shape = images.stop - images.start, rows.stop - rows.start, -(-w // 4)       # images, rows of tiles, columns of tiles
        self.tiles = self.shape[0] * self.shape[1] * self.shape[2]

    def gather(self, x: Tensor, buffers: _Buffers, size: int) -> Tensor:
        """Its tiles of x [B,C,H,W], every 4 pixels, 6 (overlapping, from one pixel before) or 4 wide: [size^2, tiles * C]."""
        n, th, tw = self.shape
        c, margin = x.shape[1], (size - 4) // 2
        padded = buffers("padded", n, c, 4 * th + size - 4, 4 * tw + size - 4).zero_()
        top, bottom = max(4 * self.rows.start - margin, 0), min(4 * self.rows.stop + margin, self.h)
        skip = top - (4 * self.rows.start - margin)
        padded[:, :, skip:skip + bottom - top, margin:margin + self.w] = x[self.images, :, top:bottom]
        tiles = padded.unfold(2, size, 4).unfold(3, size, 4).permute(4, 5, 0, 2, 3, 1)    # [size,size,n,th,tw,C], a view
        return buffers("d", *tiles.shape).copy_(tiles).view(size * size, -1)

    def scatter(self, s: Tensor, y: Tensor) -> None:
        """s [16, tiles * C] to its place in y [B,C,H,W]."""
        n, th, tw = self.shape
        s = s.view(4, 4, n, th, tw, -1).permute(2, 5, 3, 0, 4, 1)                         # [n,C,th,4,tw,4], a view
        part = y[self.images, :, 4 * self.rows.start:4 * self.rows.stop]
        if part.shape[2] == 4 * th and self.w == 4 * tw:
            part.unflatten(3, (tw, 4)).unflatten(2, (th, 4)).copy_(s)
        else:
            part.copy_(s.reshape(n, -1, 4 * th, 4 * tw)[:, :, :part.shape[2], :self.w])


class _Slab(list):
    """Strips whose products are made together."""

    @property
    def tiles(self) -> int:
        return sum(strip.tiles for strip in self)

    def places(self, channels: int) -> Iterator[tuple[_Strip, slice]]:
        """Each strip and where its columns are among those of the slab."""
        start = 0
        for strip in self:
            yield strip, slice(start, start := start + strip.tiles * channels)

    def transform(self, matrix: Tensor, x: Tensor, buffers: _Buffers, name: str) -> Tensor:
        """x [B,C,H,W] in Winograd's domain: [36,tiles,C]."""
        c, size = x.shape[1], {36: 6, 16: 4}[matrix.shape[1]]
        out = buffers(name, 36, self.tiles * c)
        for strip, columns in self.places(c):
            torch.mm(matrix, strip.gather(x, buffers, size), out=out[:, columns])
        return out.view(36, self.tiles, c)


def _slabs(b: int, h: int, w: int, i: int, o: int) -> Iterator[_Slab]:
    """All tiles of b images.

    A strip's buffers should stay in the second-level cache (of each thread). A slab reads all the transformed weights, so it has as many tiles
    as channels.
    """
    c, threads = max(i, o), torch.get_num_threads()
    th, tw = -(-h // 4), -(-w // 4)
    tiles = STRIP * threads // c
    images, rows = max(1, min(b, tiles // (th * tw))), max(1, min(th, tiles // tw))
    strips = [_Strip(slice(n, min(n + images, b)), slice(r, min(r + rows, th)), h, w) for n in range(0, b, images) for r in range(0, th, rows)]
    together = max(1, max(SLAB, c) * threads // (images * rows * tw))
    for k in range(0, len(strips), together):
        yield _Slab(strips[k:k + together])


class _Buffers:
    """Memory by name, used again by each slab."""

    def __init__(self, like: Tensor) -> None:
        self.like, self.held = like, {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        n = torch.Size(shape).numel()
        if name not in self.held or self.held[name].numel() < n:
            self.held[name] = self.like.new_empty(n)
        return self.held[name][:n].view(shape)


@lru_cache
def _matrices(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """B^T (x) B^T [36,36], A^T (x) A^T [16,36], G (x) G [36,9] by Toom and Cook's construction, each row of G scaled to sum 1 in absolute value."""
    p = torch.tensor(POINTS, dtype=torch.float64)

    def powers(n: int) -> Tensor:                                                       # [6,n], the last row is the point at infinity
        return torch.cat([p[:, None] ** torch.arange(n), torch.eye(n, dtype=p.dtype)[-1:]])

    a, g, bt = powers(4), powers(3), torch.linalg.inv(powers(6)).t()
    scale = g.abs().sum(1, keepdim=True)
    return tuple(torch.kron(m, m).to(device, dtype).contiguous() for m in (bt * scale, a.t(), g / scale))
