"""What the contrastive methods share: InfoNCE against a queue of past keys (MoCo), the heads with their slow twin, a slow copy of D.

He, Fan, Wu, Xie, Girshick: Momentum Contrast for Unsupervised Visual Representation Learning, CVPR 2020; the sizes and names of the heads are those
of InsGen's released code. Nothing here writes state in a forward pass: `Head.insert`, `Head.follow` and `follow` belong into a term's `commit`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from handful.errors import HandfulError, UsageError
from handful.nn.equalized import EqualConv2d
from handful.nn.precision import no_autocast
from handful.nn.spectral import Spectral
from handful.rng import Rng
from handful.seam import Discriminator, Facts, FeatureInfo, Generated, Nets
from handful.terms._views import Shown, vector

ROLES = {kind: f"method that contrasts {kind}s" for kind in ("real", "fake")}     # seam.Term.roles


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float, log_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(loss [B], cosine of the positives [B]): cross-entropy of picking key i for query i among it and the queue's columns.

    query, key [B,W] of length 1, queue [W,K]. log_weight [K]: added to the negatives' logits (how much each of them counts).
    """
    positive = (query * key).sum(1, keepdim=True)                                                     # [B,1]
    negative = query @ queue / temperature                                                            # [B,K]
    negative = negative if log_weight is None else negative + log_weight
    logits = torch.cat([positive / temperature, negative], 1)
    return logits.logsumexp(1) - logits[:, 0], positive[:, 0]


class Head(nn.Module):
    """Features [B,C,h,w] (averaged over space) or [B,C] -> [B,width] of length 1, in fp32; its slow twin for keys; a ring of `length` past keys.

    hidden: units in between. State: queue [width,length], at first normalised noise; queue_ptr int64 [1], the next column; mlp; momentum_mlp.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(self, channels: int, length: int, hidden: int | None = None, width: int = 128) -> None:
        super().__init__()
        hidden = hidden or channels
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.momentum_mlp = copy.deepcopy(self.mlp).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(width, length), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.int64))

    def embed(self, features: Tensor) -> Tensor:
        return _unit(self.mlp, features)

    @torch.no_grad()
    def embed_slowly(self, features: Tensor) -> Tensor:
        return _unit(self.momentum_mlp, features)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """The twin moves: momentum * twin + (1 - momentum) * head."""
        torch._foreach_lerp_(list(self.momentum_mlp.parameters()), list(self.mlp.parameters()), 1 - momentum)

    @torch.no_grad()
    def insert(self, keys: Tensor) -> None:
        """Keys [B,width] take the next B columns, around the end. Of more keys than columns the first ones fill the ring, the pointer stays."""
        n, length = len(keys), self.queue.shape[1]
        if n > length:
            self.queue.copy_(keys[:length].T)
            return
        columns = (self.queue_ptr + torch.arange(n, device=keys.device)) % length
        self.queue.index_copy_(1, columns, keys.T.to(self.queue.dtype))
        end = self.queue_ptr + n
        self.queue_ptr.copy_(torch.where(end > length, end - length, end))                # the very end stays: the next insertion wraps


def _unit(mlp: nn.Module, features: Tensor) -> Tensor:
    with no_autocast(features):
        return F.normalize(mlp(vector(features)), dim=1)


def slow_copy(net: Discriminator) -> Discriminator:
    """A copy of D that makes keys: without gradients, at rest."""
    slow = copy.deepcopy(net).requires_grad_(False)
    rest(slow)
    return slow


def rest(slow: nn.Module) -> None:
    """Evaluation mode, but for batch norm and spectral norm: the one takes the statistics of the batch at hand, the other iterates, as D's own do
    while it makes queries. Else the two would see one image in two ways. `Nets.judge` undoes what they write into buffers."""
    slow.eval()
    for module in slow.modules():
        if isinstance(module, _BatchNorm | Spectral | EqualConv2d):
            module.train()


@torch.no_grad()
def follow(slow: Discriminator, net: Discriminator, momentum: float) -> None:
    """Trained parameters move as a head's twin does; buffers (spectral norm's vectors, running statistics) are taken over."""
    moved = [(s, p) for s, p in zip(slow.parameters(), net.parameters()) if p.requires_grad]
    if moved:
        torch._foreach_lerp_(*map(list, zip(*moved)), 1 - momentum)
    buffers = list(slow.buffers())
    if buffers:
        torch._foreach_copy_(buffers, list(net.buffers()))


@torch.no_grad()
def perturbed(nets: Nets, made: Generated, e: Tensor, rng: Rng, *, same: bool) -> Shown:
    """G(z + e) of the same classes; same: with the style mixing and noise of the images that were made of z, else with rng's."""
    other = nets.generate(made.z + e, made.c, rng=made.rng.again() if same else rng)
    return other.image, other.c, other.extra


def choose_tap(term: str, tap: str | None, info: Mapping[str, FeatureInfo]) -> str:
    """`tap` if D has it; None: the smallest, last feature map ahead of "pre_logits" (of the large scale), else "pre_logits"."""
    if tap is not None:
        if tap not in info:
            raise UsageError(f"terms.{term}.tap={tap}: this discriminator has no such feature; it has {', '.join(info)}")
        return tap
    maps = {k: v.resolution for k, v in info.items() if v.resolution and k != "pre_logits" and not k.startswith("small_")}
    return min(reversed(maps), key=maps.__getitem__) if maps else "pre_logits"


def queue_length(term: str, asked: int | None, facts: Facts, name: str | None = None) -> int:
    """`asked`, or 5 % of the images, doubled with flips, 1 or more. name: the setting of a queue of reals, which can't be longer than the data."""
    shown = facts.count * (2 if facts.flip else 1)
    if asked is None:
        return max(1, int(0.05 * facts.count) * (2 if facts.flip else 1))
    if name and asked > shown > 0:
        flips = ", flips counted" if facts.flip else ""
        raise HandfulError(f"terms.{term}.{name}={asked}: there are only {shown} training images{flips}; give at most {shown}, "
                           "or leave it out for 5 %")
    return asked
