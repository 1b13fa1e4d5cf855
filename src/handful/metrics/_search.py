"""Nearest images: exactly by pixels and by features, among chosen candidates by LPIPS. Mirror images count: each query is looked for in both
orientations. Memory is bounded by ENTRIES, but for one row of numbers per image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Dataset
from ._blocks import exact_products
from ._manifold import exact, squared

ENTRIES = 1 << 25                        # of the largest tensor at once
CELLS = 32                               # cells a side of the small copies that bound the pixel distance from below
CHUNK = 16                               # candidates compared in full at once, per query
LPIPS_SIDE = 64                          # pixels; LPIPS' weights were fitted on patches of this size
LPIPS_QUERIES, LPIPS_IMAGES = 32, 32     # at once; a 64-pixel image takes 2 MB of its features

Tick = Callable[[int, int], None]


class Images:
    """Images by number: uint8 [N,C,H,W] from a tensor or a `Dataset`, batch by batch on `device`."""

    def __init__(self, source: Tensor | Dataset, device: torch.device | str = "cpu") -> None:
        self.images, self.device = source if isinstance(source, Tensor) else source.images, torch.device(device)
        rows = getattr(source, "rows", None)
        self.rows = torch.arange(len(self.images)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, index: Tensor) -> Images:
        """Some of them: index int64, in this order."""
        fewer = Images(self.images, self.device)
        fewer.rows = self.rows[index]
        return fewer

    def take(self, index: Tensor | slice) -> Tensor:
        """uint8 [B,C,H,W]"""
        rows = self.rows[index.cpu() if isinstance(index, Tensor) else index]
        return self.images[rows.to(self.images.device)].to(self.device)

    def batches(self, size: int, tick: Tick | None = None):
        for at in range(0, len(self), size):
            yield self.take(slice(at, at + size))
            if tick:
                tick(min(at + size, len(self)), len(self))


@dataclass(frozen=True)
class Found:
    """Of each query its nearest images, the nearest first: distance fp32, index int64, mirrored bool, all [Q,K] on the CPU."""

    distance: Tensor
    index: Tensor
    mirrored: Tensor

    @classmethod
    def best(cls, distance: Tensor, index: Tensor, mirrored: Tensor, k: int) -> Found:
        at = distance.topk(k, dim=1, largest=False).indices
        return cls(*(t.gather(1, at).cpu() for t in (distance.float(), index, mirrored)))

    @classmethod
    def joined(cls, parts: list[Found]) -> Found:
        return cls(*(torch.cat([getattr(p, name) for p in parts]) for name in ("distance", "index", "mirrored")))


def digests(pictures: Images) -> Tensor:
    """int64 [N]: equal for images that are the same pixel for pixel, mirrored or not."""
    found = []
    for part in pictures.batches(64):
        for image in part.cpu():
            both = (hashlib.blake2b(x.contiguous().numpy().data, digest_size=8).digest() for x in (image, image.flip(-1)))
            found.append(int.from_bytes(min(both), "little", signed=True))
    return torch.tensor(found, dtype=torch.int64)


# ------------------------------------------------------------------------------------------------------------------- pixels


@torch.no_grad()
def by_pixels(queries: Images, base: Images, k: int, itself: Tensor | None, tick: Tick) -> Found:
    """The k nearest by mean absolute difference, in levels of 0..255. itself: int64 [Q], the image of `base` that each query is, left out.

    Exact without comparing all pairs in full: the sum of differences over a cell is never more than the sum of their magnitudes, so
    images reduced to cells give a lower bound, and whatever lies beyond the k-th best in full so far need not be looked at.
    """
    channels, height, width = base.images.shape[1:]
    size, n = channels * height * width, len(base)
    cell = max(1, -(-min(height, width) // CELLS))
    while cell < min(height, width) and n * size // cell**2 > ENTRIES:
        cell *= 2
    reduced = torch.cat([cells(x, cell) for x in base.batches(256)])                                        # [N,d]
    step = max(1, ENTRIES // max(4 * n, CHUNK * size))
    parts = []
    for at in range(0, len(queries), step):
        x = queries.take(slice(at, at + step))
        both = torch.stack([x, x.flip(-1)], 1)                                                              # [B,2,C,H,W]
        bound = (torch.cdist(cells(both.flatten(0, 1), cell), reduced, p=1) / size).view(-1, 2, n)          # [B,2,N]
        if itself is not None:
            bound.scatter_(2, itself[at:at + step, None, None].expand(-1, 2, 1).to(bound.device), torch.inf)
        if cell == 1:
            distance, mirrored = bound.min(1)
            parts.append(Found.best(distance, torch.arange(n, device=x.device).expand_as(distance), mirrored.bool(), k))
        else:
            parts.append(_in_full(both.flatten(2).float(), base, bound.amin(1), k))
        tick(min(at + step, len(queries)), len(queries))
    return Found.joined(parts)


def cells(x: Tensor, side: int) -> Tensor:
    """uint8 [B,C,H,W] -> [B,d]: sums over cells of side x side pixels; what is missing at the edge counts as 0."""
    height, width = x.shape[2:]
    x = F.pad(x.float(), (0, -width % side, 0, -height % side))
    return (F.avg_pool2d(x, side) * side**2).flatten(1) if side > 1 else x.flatten(1)


def _in_full(queries: Tensor, base: Images, bound: Tensor, k: int) -> Found:
    """queries: fp32 [B,2,D], as they are and mirrored; bound: [B,N], lower bounds, infinite for what is left out."""
    bound, order = bound.sort(dim=1)
    bound *= 1 - 1e-4                                                                                       # rounding
    best = torch.full((len(queries), k), torch.inf, device=queries.device)
    index, mirrored = torch.zeros_like(best, dtype=torch.int64), torch.zeros_like(best, dtype=torch.bool)
    for at in range(0, bound.shape[1], CHUNK):
        open_ = (bound[:, at] < best[:, -1]).nonzero()[:, 0]
        if not len(open_):
            break
        candidates = order[open_, at:at + CHUNK]                                                            # [b,m]
        x = base.take(candidates.flatten()).flatten(1).float().view(*candidates.shape, -1)                  # [b,m,D]
        distance, flipped = (torch.cdist(queries[open_], x, p=1) / x.shape[2]).min(1)                       # [b,2,m] -> [b,m]
        distance = distance.masked_fill_(bound[open_, at:at + CHUNK].isinf(), torch.inf)
        all_ = torch.cat([best[open_], distance], 1), torch.cat([index[open_], candidates], 1), torch.cat([mirrored[open_], flipped.bool()], 1)
        kept = all_[0].topk(k, dim=1, largest=False).indices                                                # sorted
        best[open_], index[open_], mirrored[open_] = (t.gather(1, kept) for t in all_)
    return Found(best.cpu(), index.cpu(), mirrored.cpu())


# ----------------------------------------------------------------------------------------------------------------- features


@torch.no_grad()
def features(network: nn.Module, pictures: Images, mirrored: bool, tick: Tick, size: int = 32) -> Tensor:
    """fp32 [N,D] of images, or of their mirror images."""
    return torch.cat([network(x.flip(-1) if mirrored else x) for x in pictures.batches(size, tick)])


@torch.no_grad()
def by_features(queries: Tensor, base: Tensor, k: int, itself: Tensor | None = None) -> Found:
    """The k nearest by Euclidean distance of features. queries: [2,Q,D], of the images and of their mirror images; base: [N,D].

    Candidates come from matrix products, their distances from the differences, in fp64: a copy is at 0.
    """
    shift = base.mean(0)
    queries, base = queries - shift, base - shift
    n, step = len(base), max(1, ENTRIES // (4 * len(base)))
    spare, parts = min(2 * k + 4, 2 * n), []
    with exact_products():
        for at in range(0, queries.shape[1], step):
            rows = queries[:, at:at + step].transpose(0, 1)                                                 # [B,2,D]
            d = squared(rows.flatten(0, 1), base)[0].view(-1, 2, n)
            if itself is not None:
                d.scatter_(2, itself[at:at + step, None, None].expand(-1, 2, 1).to(d.device), torch.inf)
            near = d.flatten(1).topk(spare, dim=1, largest=False)                                           # of 2N: mirrored or not, image
            flipped, index = near.indices >= n, near.indices % n                                            # [B,spare]
            pairs = rows.gather(1, flipped.long()[..., None].expand(-1, -1, rows.shape[2]))                 # [B,spare,D]
            distance = exact(pairs.flatten(0, 1), base[index.flatten()]).sqrt().view_as(index)
            parts.append(_once(distance.masked_fill(near.values.isinf(), torch.inf), index, flipped, k))
    return Found.joined(parts)


def _once(distance: Tensor, index: Tensor, mirrored: Tensor, k: int) -> Found:
    """The k nearest candidates of [Q,M], each image once, in its nearer orientation."""
    order = distance.argsort(1)
    distance, index, mirrored = (t.gather(1, order) for t in (distance, index, mirrored))
    again = (index[:, :, None] == index[:, None, :]).tril(-1).any(2)                                        # [Q,M]
    return Found.best(distance.masked_fill(again, torch.inf), index, mirrored, k)


# -------------------------------------------------------------------------------------------------------------------- LPIPS


@torch.no_grad()
def by_lpips(network: nn.Module, queries: Images, base: Images, among: list[Found], k: int, tick: Tick) -> Found:
    """The k nearest by LPIPS among the images that other searches found, each in the orientation found; pictures beyond 64 pixels reduced to that."""
    index, mirrored = torch.cat([f.index for f in among], 1), torch.cat([f.mirrored for f in among], 1)     # [Q,M]
    finite = torch.cat([f.distance for f in among], 1).isfinite()
    distance = torch.full(index.shape, torch.inf)
    for at in range(0, len(queries), LPIPS_QUERIES):
        x = small(queries.take(slice(at, at + LPIPS_QUERIES)))
        units = [torch.stack(pair, 1).flatten(0, 1) for pair in zip(network.targets(x), network.targets(x.flip(-1)))]    # [2B,P,C] each
        rows, columns = finite[at:at + LPIPS_QUERIES].nonzero(as_tuple=True)
        wanted, place = index[at + rows, columns].unique(return_inverse=True)
        for start in range(0, len(wanted), LPIPS_IMAGES):
            theirs = network.targets(small(base.take(wanted[start:start + LPIPS_IMAGES])))
            pairs = ((place >= start) & (place < start + LPIPS_IMAGES)).nonzero()[:, 0]
            for some in pairs.split(LPIPS_IMAGES):
                mine = (2 * rows[some] + mirrored[at + rows[some], columns[some]]).to(x.device)
                other = (place[some] - start).to(x.device)
                parts = [((a[mine] - b[other]).square().mean(1) * head).sum(1) for a, b, head in zip(units, theirs, network.heads)]
                distance[at + rows[some], columns[some]] = sum(parts).float().cpu()
        tick(min(at + LPIPS_QUERIES, len(queries)), len(queries))
    return _once(distance, index, mirrored, k)


def small(x: Tensor) -> Tensor:
    """uint8 [B,C,H,W] -> fp32 in [-1,1], the shorter side between 16 pixels, LPIPS' least, and 64."""
    x, side = x.float() / 127.5 - 1, min(x.shape[2:])
    scale = LPIPS_SIDE / side if side > LPIPS_SIDE else max(1.0, 16 / side)
    if scale == 1:
        return x
    size = [max(16, round(s * scale)) for s in x.shape[2:]]
    return F.interpolate(x, size, mode="area") if scale < 1 else F.interpolate(x, size, mode="bilinear", align_corners=False)
