"""ADA's geometry: an affine map of each image, sampled at twice the resolution between two passes of an orthogonal wavelet's filter.

`geometry_ref` is the release's chain to the letter. `geometry` gives the same wherever nothing is sampled outside the image: instead of padding
the whole batch by its largest margin it reflects each sample's position, so that shapes depend on nothing but the image's.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.ops.upfirdn import upfirdn2d, upsample2d

from ._ada_band import downsampled, reflect, upsampled

SYM6 = (0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466, 0.787641141030194,
        0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148)
_SUM = math.fsum(SYM6)
_DOWN, _UP = tuple(t / _SUM for t in SYM6), tuple(2 * t / _SUM for t in SYM6)
_SEPARABLE = 512                  # the largest side for which two dense products are cheaper than sampling


# ------------------------------------------------------------------------------------------------------------- the reference


def geometry_ref(x: Tensor, inverse: Tensor) -> Tensor:
    """x [B,C,H,W]; inverse [B,2,3]: output to input position, in pixels from the image's centre. Waits for the device: the margin is a number."""
    b, _, h, w = x.shape
    g = torch.cat([inverse.to(x.dtype), x.new_tensor([[[0, 0, 1]]]).expand(b, 1, 3)], 1)                      # [B,3,3]
    cx, cy, unit = (w - 1) / 2, (h - 1) / 2, len(SYM6) // 4
    corners = g @ x.new_tensor([[-cx, cx, cx, -cx], [-cy, -cy, cy, cy], [1, 1, 1, 1]])                        # [B,3,4]
    margin = torch.stack([(sign * corners[:, i]).max() for sign in (-1, 1) for i in (0, 1)])                  # left, top, right, bottom
    most = x.new_tensor([w - 1, h - 1] * 2)
    margin = (margin + 2 * unit - x.new_tensor([cx, cy] * 2)).clamp_min(0).minimum(most).ceil()
    left, top, right, bottom = (int(m) for m in margin)
    x = reflect(x, left, right, top, bottom)
    g = _translation(x, (left - right) / 2, (top - bottom) / 2) @ g
    x = upsample2d(x, SYM6, impl="ref")
    g = _scaling(x, 2, 2) @ g @ _scaling(x, 0.5, 0.5)
    g = _translation(x, -0.5, -0.5) @ g @ _translation(x, 0.5, 0.5)
    height, width = 2 * (h + 2 * unit), 2 * (w + 2 * unit)
    rows = torch.arange(height, dtype=x.dtype, device=x.device) - (height - 1) / 2
    cols = torch.arange(width, dtype=x.dtype, device=x.device) - (width - 1) / 2
    at = torch.stack([cols.expand(height, width), rows[:, None].expand(height, width), x.new_ones(height, width)])    # [3,H',W']
    at = (g[:, :2] @ at.flatten(1)).view(b, 2, height, width)
    at = at + x.new_tensor([(x.shape[3] - 1) / 2, (x.shape[2] - 1) / 2]).view(2, 1, 1)
    return upfirdn2d(bilinear_ref(x, at), SYM6, down=2, padding=(5 - 2 * unit,) * 4, flip=True, impl="ref")


def bilinear_ref(x: Tensor, at: Tensor) -> Tensor:
    """x [B,C,H,W] at the positions at [B,2,H',W'] (column, row, counted from the first pixel's centre); zero outside. -> [B,C,H',W']."""
    b, c, h, w = x.shape
    floor = at.floor()
    out = 0
    for down in (0, 1):
        for right in (0, 1):
            col, row = floor[:, 0] + right, floor[:, 1] + down
            weight = (1 - (at[:, 0] - col).abs()) * (1 - (at[:, 1] - row).abs())                              # [B,H',W']
            weight = torch.where((col >= 0) & (col < w) & (row >= 0) & (row < h), weight, 0)
            index = (row.clamp(0, h - 1) * w + col.clamp(0, w - 1)).long().flatten(1)                         # [B,H'W']
            out = out + weight[:, None] * x.flatten(2).gather(2, index[:, None].expand(b, c, -1)).view(b, c, *at.shape[2:])
    return out


def _translation(x: Tensor, a: float, b: float) -> Tensor:
    return x.new_tensor([[1, 0, a], [0, 1, b], [0, 0, 1]])


def _scaling(x: Tensor, a: float, b: float) -> Tensor:
    return x.new_tensor([[a, 0, 0], [0, b, 0], [0, 0, 1]])


# ------------------------------------------------------------------------------------------------------------- the fast path
#
# Along an axis of n pixels, positions at twice the resolution are counted from the centre: pixel i lies at 2i - (n-1), the border pixels at
# -(n-1) and n-1. The upsampled image reaches 7 further at both ends, filtered from the reflected image; a position more than 6.5 outside is
# mirrored into the image instead. Downsampling needs the 2n+10 positions from -5 - (n-1) to 4 + 2n - (n-1).

_REACH, _EDGE = 7, 6.5


def geometry(x: Tensor, inverse: Tensor) -> Tensor:
    """As `geometry_ref`, but samples more than 3 pixels outside read the mirrored upsampled image (the wavelet's filter is not quite symmetric),
    mirrored twice, beyond which the border stands.

    On a CPU every image takes the cheapest way that its map allows: none for the identity, a product of matrices from both sides where axes map
    to axes, sampling otherwise. Elsewhere all are sampled, since which is which would have to be waited for.
    """
    inverse = inverse.to(x.dtype)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return _sampled(x, inverse)
    off = inverse[:, [0, 1], [1, 0]] == 0, inverse[:, [0, 1], [0, 1]] == 0
    straight, turned = (o.all(1) & (max(x.shape[2:]) <= _SEPARABLE) for o in off)
    same = (inverse == torch.eye(2, 3, dtype=x.dtype)).flatten(1).all(1)
    kind = torch.where(same, 0, torch.where(straight, 1, torch.where(turned, 2, 3)))
    return by_kind(x, inverse, kind, (_identity, _straight, _turned, _sampled))


def by_kind(x: Tensor, params: Tensor, kind: Tensor, maps) -> Tensor:
    """maps[kind[b]] of each image x[b] with params[b], each map run once; for a CPU, as the counts are numbers."""
    counts = torch.bincount(kind, minlength=len(maps)).tolist()
    if max(counts) == len(x):
        return maps[counts.index(len(x))](x, params)
    order = kind.argsort(stable=True)
    parts = zip(maps, x.index_select(0, order).split(counts), params.index_select(0, order).split(counts))
    return torch.cat([f(part, own) for f, part, own in parts if len(part)]).index_select(0, order.argsort())


def _identity(x: Tensor, _: Tensor) -> Tensor:
    return x


def _wider(x: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,C,2H+13,2W+13]."""
    h, w = x.shape[2:]
    x = upsampled(reflect(x, 6, 6, 6, 6), _UP, 10, 2 * h - 1 + 2 * _REACH, 2)
    return upsampled(x, _UP, 10, 2 * w - 1 + 2 * _REACH, 3)


def _positions(n: int, like: Tensor) -> Tensor:
    return torch.arange(2 * n + 10, dtype=like.dtype, device=like.device) - (n + 4)


def _mirrored(at: Tensor, far: Tensor | float) -> Tensor:
    """Positions more than _EDGE beyond +-far, mirrored about +-far, twice; at is overwritten."""
    for _ in range(2):
        at.add_(F.hardshrink(torch.clamp(at, -far, far).sub_(at), _EDGE), alpha=2)
    return at


def _sampled(x: Tensor, inverse: Tensor) -> Tensor:
    b, _, h, w = x.shape
    with torch.no_grad():
        columns, rows = _positions(w, x), _positions(h, x)
        # at[b,i,j] = inverse[b,:,0] columns[j] + inverse[b,:,1] rows[i] + 2 inverse[b,:,2]; j and the coordinate lie along one axis, for speed
        along = torch.addcmul(2 * inverse[:, None, :, 2], columns[:, None], inverse[:, None, :, 0]).flatten(1)            # [B,2W'], W' = 2W+10
        across = inverse[:, None, :, 1].expand(b, len(columns), 2).flatten(1)                                            # [B,2W']
        at = torch.addcmul(along[:, None], rows[:, None], across[:, None])                                               # [B,H',2W']
        far = w - 1 if h == w else _tile(w - 1, h - 1, len(columns), x.dtype, x.device)
        reach = far + _REACH
        at = _mirrored(at, far).mul_(1 / reach).view(b, len(rows), len(columns), 2)
    return downsampled(downsampled(_Sample.apply(_wider(x), at), _DOWN, h, 2), _DOWN, w, 3)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _tile(a: float, b: float, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([a, b], dtype=dtype).repeat(n).to(device)


class _Sample(torch.autograd.Function):
    """Bilinear sampling of x [B,C,H,W] at grid [B,H',W',2] (-1 and 1: the border pixels' centres); linear in x, so its backward is its adjoint.

    Nothing depends on the sampler's own second derivative, which differs among versions of torch.
    """

    @staticmethod
    def forward(ctx, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.size = x.shape[2:]
        if x.device.type == "mps":                       # where the kernels of some versions lack the adjoint
            return bilinear_ref(x, _pixels(grid, x.shape))
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (grid,) = ctx.saved_tensors
        return _Spread.apply(grad, grid, ctx.size), None


class _Spread(torch.autograd.Function):
    """The adjoint: adds y [B,C,H',W'] to the four neighbours of each position in an image of the given size."""

    @staticmethod
    def forward(ctx, y: Tensor, grid: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(grid)
        shape = (*y.shape[:2], *size)
        if y.device.type == "mps":
            return spread_ref(y, _pixels(grid, shape), size)
        like = y.new_zeros(()).expand(shape)             # gives the shape alone: no gradient by the grid is asked for
        return torch.ops.aten.grid_sampler_2d_backward(y, like, grid, 0, 1, True, [True, False])[0]     # bilinear, border, corners' centres

    @staticmethod
    def backward(ctx, grad: Tensor):
        (grid,) = ctx.saved_tensors
        return _Sample.apply(grad, grid), None, None


def _pixels(grid: Tensor, shape: tuple[int, ...]) -> Tensor:
    """-> [B,2,H',W'], counted from the first pixel, none outside."""
    far = torch.stack([grid.new_full((), shape[3] - 1), grid.new_full((), shape[2] - 1)])
    return ((grid.clamp(-1, 1) + 1) / 2 * far).permute(0, 3, 1, 2)


def spread_ref(y: Tensor, at: Tensor, size: tuple[int, int]) -> Tensor:
    """The adjoint of `bilinear_ref` by torch's own derivative of a gather."""
    with torch.enable_grad():
        x = y.new_zeros(*y.shape[:2], *size).requires_grad_()
        return torch.autograd.grad(bilinear_ref(x, at), x, y)[0]


# -------------------------------------------------------------------------------------------------- maps of axes to axes


def _straight(x: Tensor, inverse: Tensor) -> Tensor:
    h, w = x.shape[2:]
    return _from_both_sides(x, _matrix(inverse[:, 1, 1], inverse[:, 1, 2], h, h), _matrix(inverse[:, 0, 0], inverse[:, 0, 2], w, w))


def _turned(x: Tensor, inverse: Tensor) -> Tensor:
    h, w = x.shape[2:]
    return _from_both_sides(x.mT, _matrix(inverse[:, 0, 1], inverse[:, 0, 2], h, w), _matrix(inverse[:, 1, 0], inverse[:, 1, 2], w, h))


def _from_both_sides(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """left x right^T: x [B,C,h,w], left [B,H,h], right [B,W,w] -> [B,C,H,W]."""
    b, c, h, w = x.shape
    return left[:, None] @ (x.reshape(b, c * h, w) @ right.mT).view(b, c, h, -1)


@torch.no_grad()
def _matrix(scale: Tensor, shift: Tensor, n: int, size: int) -> Tensor:
    """Upsampling, sampling at scale t + shift and downsampling of one axis as a matrix; scale, shift [B] -> [B,n,size]."""
    at = torch.addcmul(2 * shift[:, None], scale[:, None], _positions(n, scale))                         # [B,2n+10]
    wide = _wide(size, scale.dtype, scale.device)                                                        # [2 size+13,size]
    at = (_mirrored(at, size - 1) + size - 1 + _REACH).clamp_(0, len(wide) - 1)
    floor = at.floor().clamp_(max=len(wide) - 2)
    i = floor.long()
    rows = torch.lerp(wide[i], wide[i + 1], (at - floor)[..., None])                                     # [B,2n+10,size]
    return downsampled(rows[:, None], _DOWN, n, 2)[:, 0]


@lru_cache(maxsize=64)
@torch.inference_mode(False)                            # what is kept must serve autograd later
@torch.no_grad()
def _wide(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The upsampling of an axis, reflection included: [2n+13,n]."""
    eye = reflect(torch.eye(n, dtype=dtype, device=device)[None, None], 0, 0, 6, 6)
    return upsampled(eye, _UP, 10, 2 * n - 1 + 2 * _REACH, 2)[0, 0]
