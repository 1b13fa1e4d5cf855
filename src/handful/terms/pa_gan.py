"""PA-GAN: D must also tell the parity of random bits, more of them the more it overfits, so that the images alone don't give the answer away.

Zhang, Khoreva: PA-GAN: Improving GAN Training by Progressive Augmentation, NeurIPS 2019, in the form of Karras, Aittala, Hellsten, Laine, Lehtinen,
Aila: Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, appendix D.2, which compares with it. It adds no loss. Each image
that D judges comes with a string of `bits` random bits b (16), which enter through a linear map without bias, added to the product of D's first
layer before its bias, and D's logits are multiplied by the sign of their parity:

    D(x, b) = prod_i (1 - 2 b_i) D'(x, b)

With k = ceil(16 p) the first k - 1 bits are 1 with probability 1/2, the k-th fades in, the others are 0: at p = 0 there are none, and D is as
it was, bit for bit. `p` is a buffer, moved by `terms.ada_controller` with target 0.95 (the paper's; its r_t), or fixed. The k-th bit is 1 with

    fade="released"    1/2 clip(2 (16 p - k) + 1, 0, 1)    the TensorFlow release, and the default here
    fade="paper"       min(16 p - k + 1, 1/2)              the two are half a bit apart

Chosen here: the map is equalised, as the layers of the StyleGAN2 that it was published in (weights N(0, 1), times 1/sqrt(16) at run time), on every
architecture; it has no spectral norm. The first layer is the first convolution in D's `stem` (in a residual block that of the main path); a D that
looks at further scales of an image takes bits at each (`small_stem`, a map of its own), since each has logits that the sign multiplies. In
evaluation mode there are no bits. No other augmentation was used beside it. Bits come from the pass's own stream, so that processes and micro-batches
draw what the whole batch would.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.errors import HandfulError, within
from handful.nn.between import insert, linear_maps
from handful.rng import Rng, ambient
from handful.seam import Context, Discriminator, Judged, Needs, PassOf, Result, Side, Term, View
from handful.terms._wrapped import Place, Wrapped, chain, has_scales, name_of

Fade = Literal["released", "paper"]


class PAGAN(Term):
    """bits: how long the string is; p: the strength at first (the controller's `start` overrules it), from 0 none to 1 all bits; fade: above.

    Stats per real: p, and bits, how many are in use (ceil(bits p)). `wrap` raises HandfulError for a discriminator without a `stem` or with no
    convolution in it, and where a further scale has no first layer of its own. Raises UsageError for numbers out of range.
    """

    roles = frozenset({"wrapper that gives D bits"})

    def __init__(self, bits: int = 16, p: float = 0.0, fade: Fade = "released") -> None:
        super().__init__()
        within(1, bits=bits)
        within(0, p=p)
        self.bits, self.p_at_first, self.fade = bits, p, fade

    def wrap(self, d: Discriminator) -> Discriminator:
        return _WithBits(d, _first_layers(d), self.bits, self.p_at_first, self.fade)

    def needs(self, side: Side) -> Needs | None:
        return Needs(real=View(logits=True)) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        p = next(m.p for m in chain(ctx.nets.D) if isinstance(m, _WithBits))
        return Result(stats={"p": p.expand(len(ctx.slots)), "bits": (p * self.bits).ceil().clamp(max=self.bits).expand(len(ctx.slots))})


class _Added(Place):
    def change(self, product: Tensor, value: Tensor, gain: float) -> Tensor:
        return product + (value * gain).to(product.dtype)


class _WithBits(Wrapped):
    """first: the convolutions that take the image, each with its channels."""

    p: Tensor
    rewrites_logits = True

    def __init__(self, d: Discriminator, first: list[nn.Module], bits: int, p: float, fade: Fade) -> None:
        super().__init__(d)
        self.bits, self.fade = bits, fade
        self.register_buffer("p", torch.tensor(float(p)))
        self.maps = nn.ParameterList(torch.randn(conv.weight.shape[0], bits) for conv in first)
        self.places = [_Added() for _ in first]
        for conv, place in zip(first, self.places):
            insert(conv, place)

    def forward(self, image: Tensor, c: Tensor | None = None, extra: dict[str, Tensor] | None = None, want: frozenset[str] = frozenset(), *,
                rng: Rng | None = None, of: PassOf = "other") -> Judged:
        rng = ambient(image.device) if rng is None else rng
        if not self.training:
            return self.judge(image, c, extra, want, rng, of=of)
        bits = (rng.rand(len(image), self.bits) < self.chances()).to(self.maps[0].dtype)                  # [B,bits]
        added = [F.linear(bits, weight / math.sqrt(self.bits)) for weight in self.maps]                   # each [B,cout]
        judged = self.judge(image, c, extra, want, rng, added, of)
        sign = (1 - 2 * bits).prod(1)                                                                     # [B]
        return replace(judged, logits=judged.logits * sign.view(-1, *[1] * (judged.logits.ndim - 1)))

    def chances(self) -> Tensor:
        """The probability of each bit, [bits]: with k = ceil(bits p) a half below the k-th, which fades in, and 0 beyond, in one formula."""
        ahead = self.p * self.bits - torch.arange(1, self.bits + 1, device=self.p.device)                 # bits p - i
        return 0.5 * (2 * ahead + 1).clamp(0, 1) if self.fade == "released" else (ahead + 1).clamp(0, 0.5)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, p={float(self.p):g}, fade={self.fade!r}"


def _first_layers(d: Discriminator) -> list[nn.Module]:
    own, name = chain(d)[-1], name_of(d)
    leave = "or leave it out (--set terms.pa_gan=null)"
    if not isinstance(getattr(own, "stem", None), nn.Module):
        raise HandfulError(f"terms.pa_gan adds its bits to D's first layer, and {name} doesn't say which that is: "
                           f"name the module `stem`, {leave}")
    stems = {name: m for name, m in own.named_children() if name == "stem" or name.endswith("_stem")}
    stems = {"stem": own.stem} | {name: m for name, m in stems.items() if name != "stem"}
    if has_scales(own) and len(stems) == 1:
        raise HandfulError(f"terms.pa_gan: {name} looks at further scales of an image, and each must be given the bits: "
                           f"name their first modules `SCALE_stem`, {leave}")
    found = []
    for place, stem in stems.items():
        convs = [m for m in linear_maps(stem) if m.weight.ndim == 4]
        if not convs:
            raise HandfulError(f"terms.pa_gan adds its bits to D's first convolution, and {name}.{place} has none in it: "
                               f"take another architecture (--set d=stylegan2), {leave}")
        found.append(convs[0])
    return found
