"""Adaptive dropout: noise multiplies what the layers of D compute, the more the more D overfits. Compared with ADA in its paper.

Karras, Aittala, Hellsten, Laine, Lehtinen, Aila: Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, figure 8a and appendix D.2
(multiplicative Gaussian dropout: Srivastava et al. 2014). It adds no loss. In every layer of D, before the bias,

    product <- product exp(p n),    n ~ N(0, 1) for each image and channel

on the first layer, convolutions, shortcuts, the 4x4 convolution and the dense layer, not on the output layer. `p` is a buffer, moved by
`terms.ada_controller` with target 0.6 (r_t), or fixed; at p = 0 D is as it was, bit for bit. Form and constants are the TensorFlow release's. No
image augmentation was used beside it.

Which layers: when it is built one image is followed through D (a copy without storage, so it costs nothing). Every linear map and convolution that
the image passes is meant, those of attention and excitation too; one that no other follows is an output layer, whatever it is called (FastGAN
has two). Layers that labels pass (embeddings, StyleGAN2's mapping) aren't. With batch norm behind a layer the noise reaches its statistics.

In evaluation mode nothing is dropped. The numbers of all layers are one draw from the pass's own stream, so that processes and micro-batches draw
what the whole batch would.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from handful.errors import HandfulError, within
from handful.nn.between import insert
from handful.rng import Rng, ambient
from handful.seam import Context, Discriminator, Judged, Needs, PassOf, Result, Side, Term, View
from handful.terms._wrapped import Place, Wrapped, chain, inner_layers, name_of


class AdaptiveDropout(Term):
    """p: the noise's strength at first (the controller's `start` overrules it), 0 or more. Stats per real: p.

    `wrap` raises HandfulError for a discriminator with no layer but the last one, or through which no image can be followed. Raises UsageError for a
    strength below 0.
    """

    roles = frozenset({"wrapper that drops out"})

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        within(0, p=p)
        self.p_at_first = p

    def wrap(self, d: Discriminator) -> Discriminator:
        layers = inner_layers(d, "adaptive_dropout")
        if not layers:
            raise HandfulError(f"terms.adaptive_dropout: {name_of(d)} has no linear layer or convolution but its last one; "
                               f"leave the term out (--set terms.adaptive_dropout=null)")
        return _Dropping(d, layers, self.p_at_first)

    def needs(self, side: Side) -> Needs | None:
        return Needs(real=View(logits=True)) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        p = next(m.p for m in chain(ctx.nets.D) if isinstance(m, _Dropping))
        return Result(stats={"p": p.expand(len(ctx.slots))})


class _Scaled(Place):
    def change(self, product: Tensor, value: Tensor, gain: float) -> Tensor:
        return product * value.to(product.dtype)


class _Dropping(Wrapped):
    """layers: where something is dropped, each with its channels."""

    p: Tensor

    def __init__(self, d: Discriminator, layers: list[tuple[nn.Module, int]], p: float) -> None:
        super().__init__(d)
        self.register_buffer("p", torch.tensor(float(p)))
        self.widths = [channels for _, channels in layers]
        self.places = [_Scaled() for _ in layers]
        for (layer, _), place in zip(layers, self.places):
            insert(layer, place)

    def forward(self, image: Tensor, c: Tensor | None = None, extra: dict[str, Tensor] | None = None, want: frozenset[str] = frozenset(), *,
                rng: Rng | None = None, of: PassOf = "other") -> Judged:
        rng = ambient(image.device) if rng is None else rng
        if not self.training:
            return self.judge(image, c, extra, want, rng, of=of)
        noise = (self.p * rng.randn(len(image), sum(self.widths))).exp()                                  # [B, channels of all layers]
        return self.judge(image, c, extra, want, rng, noise.split(self.widths, 1), of)

    def extra_repr(self) -> str:
        return f"p={float(self.p):g}, layers={len(self.widths)}"
