"""What the methods that live inside a discriminator share: a discriminator around another, changes of its layers, a look at how it is built."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from handful.errors import HandfulError
from handful.nn.between import linear_maps
from handful.rng import Rng, ambient
from handful.seam import Discriminator, Judged, PassOf

SIDES = tuple(2**k for k in range(3, 11))       # tried on a discriminator that doesn't name its `resolution`


class Wrapped(Discriminator):
    """A discriminator around `inner`, with what others read of it. Its parameters and buffers are saved as `inner.*`, and deep copies are
    independent. rewrites_logits: True where it computes its logits from those of `inner`."""

    draws = True
    rewrites_logits: ClassVar[bool] = False
    places: Sequence[Place] = ()

    def __init__(self, inner: Discriminator) -> None:
        super().__init__()
        self.inner = inner
        for name in ("num_classes", "feature_info", "has_batch_stats", "knows_pass", "second_order", "resolution", "channels"):
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    @property
    def stem(self) -> nn.Module:
        return self.inner.stem

    def extra_of(self, image: Tensor) -> Mapping[str, Tensor]:
        return self.inner.extra_of(image)

    def judge(self, image: Tensor, c: Tensor | None, extra: Mapping[str, Tensor] | None, want: frozenset[str], rng: Rng,
              values: Sequence[Tensor] | None = None, of: PassOf = "other") -> Judged:
        """What `inner` says with these values in `places`, for this pass alone (None: with its layers as they are)."""
        for place, value in zip(self.places, values or [None] * len(self.places)):       # all of them: a pass that failed may have left some
            place.value = value
        how = ({"rng": rng.fork("inner")} if self.inner.draws else {}) | ({"of": of} if self.inner.knows_pass else {})
        judged = self.inner(image, c, extra, want, **how)
        for place in self.places:
            place.value = None
        return judged


class Place:
    """What is done to one layer's product during one forward (nn/between.py): `value` [B,C], None outside of it."""

    value: Tensor | None = None

    def __call__(self, product: Tensor, gain: float) -> Tensor:
        if self.value is None:
            return product
        value = self.value.view(*self.value.shape, *[1] * (product.ndim - 2))                             # [B,C,1,1] or [B,C]
        return self.change(product, value, gain)

    def change(self, product: Tensor, value: Tensor, gain: float) -> Tensor:
        raise NotImplementedError


def chain(d: Discriminator) -> list[Discriminator]:
    """d and what is inside it, the architecture's own discriminator last."""
    return [d, *chain(d.inner)] if isinstance(d, Wrapped) else [d]


def name_of(d: Discriminator) -> str:
    """What a message calls the architecture: its file's name here, its class elsewhere."""
    own = type(chain(d)[-1])
    return own.__module__.rpartition(".")[2] if own.__name__ == "Discriminator" else own.__name__


def has_scales(d: Discriminator) -> bool:
    """Whether it looks at further scales of an image."""
    return chain(d)[-1].extra_of.__func__ is not Discriminator.extra_of


def inner_layers(d: Discriminator, term: str) -> list[tuple[nn.Module, int]]:
    """The linear maps and convolutions that an image passes, with the number of their channels, less the output layers: those which no other
    follows, whatever they are called. Labels' layers aren't passed by an image. Raises HandfulError where d can't be followed."""
    net = copy.deepcopy(d).requires_grad_(False)                  # so that what depends on the image has a graph, and nothing else
    names = {m: name for name, m in net.named_modules()}
    made: dict[object, tuple[str, int]] = {}

    def keep(layer: nn.Module, inputs: tuple, y: Tensor) -> None:
        if y.grad_fn is not None:
            made[y.grad_fn] = names[layer], y.shape[1]

    for layer in linear_maps(net):
        layer.register_forward_hook(keep)
    rehearse(net, term, frozenset())
    followed, seen, todo = set(), set(), [up for node in made for up, _ in node.next_functions]
    while todo:
        node = todo.pop()
        if node in made:
            followed.add(made[node])
        elif node is not None and node not in seen:
            seen.add(node)
            todo += [up for up, _ in node.next_functions]
    channels = dict(followed)
    return [(m, channels[name]) for name, m in d.named_modules() if name in channels]


def unused_by(d: Discriminator, feature: str, term: str) -> list[nn.Parameter]:
    """The parameters of d that its feature of this name doesn't depend on."""
    net = copy.deepcopy(d).requires_grad_(True)
    value = rehearse(net, term, frozenset({feature})).features[feature]
    named = dict(net.named_parameters())
    grads = torch.autograd.grad(value.sum(), list(named.values()), allow_unused=True)
    idle = {name for name, grad in zip(named, grads) if grad is None}
    return [p for name, p in d.named_parameters() if name in idle]


def rehearse(net: Discriminator, term: str, want: frozenset[str]) -> Judged:
    """A pass of two images through a copy of a discriminator, with its graph: without numbers (on "meta"), or else on the CPU."""
    known = getattr(net, "resolution", None)
    sides = [(known, known) if isinstance(known, int) else tuple(known)] if known else [(s, s) for s in SIDES]
    channels = getattr(net, "channels", None) or next((m.weight.shape[1] for m in linear_maps(net) if m.weight.ndim == 4), 3)
    fault: Exception | None = None
    for device in ("meta", "cpu"):
        net = net.eval().to_empty(device=device)
        for height, width in sides:
            image = torch.zeros(2, channels, height, width, device=device, requires_grad=True)
            c = torch.zeros(2, dtype=torch.int64, device=device) if net.num_classes else None
            try:
                return net(image, c, net.extra_of(image), want, **({"rng": ambient(device)} if net.draws else {}))
            except Exception as error:                            # whatever a network of somebody's own may raise
                fault = error
    raise HandfulError(f"terms.{term}: no image can be followed through {name_of(net)} ({str(fault).splitlines()[0]}); give it the attributes "
                       f"`resolution` and `channels`, or leave the term out (--set terms.{term}=null)")
