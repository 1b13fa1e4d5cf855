"""A place between a layer's product with its weights and its bias, for methods that must live inside a network: PA-GAN's bits, dropout."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Change(Protocol):
    """product [B,cout,...] -> the same shape. gain: what the layer has multiplied its product by (it multiplies the bias by it too), so what is
    added must be multiplied by it. An object, not a closure, so that a deep copy of the network has a copy of its own."""

    def __call__(self, product: Tensor, gain: float) -> Tensor: ...


def insert(layer: nn.Module, change: Change) -> None:
    """From now on the layer's product with its weights goes through `change` before the bias is added; a second change follows the first.

    layer: a linear map or a convolution. Those of nn/equalized.py, which hold their activation, have the place (`before_bias`); every other has
    its bias as the last thing, which is left out of what is changed. A change that is the identity leaves every bit as it is.
    """
    if not hasattr(layer, "before_bias"):
        layer.register_forward_hook(_Around(change))
    elif layer.before_bias is None:
        layer.before_bias = change
    else:
        layer.before_bias = _Both(layer.before_bias, change)


def linear_maps(module: nn.Module) -> list[nn.Module]:
    """The linear maps and convolutions inside a network, itself included, in the order of their definition: what `insert` serves. Embeddings
    have no product with an input, so they aren't among them."""
    return [m for m in module.modules() if getattr(m, "weight", None) is not None and m.weight.ndim > 1
            and "mbedding" not in type(m).__name__]


def beneath(y: Tensor, bias: Tensor, change: Change, gain: float) -> Tensor:
    """y = product + bias with the product changed; bias [cout]. Where nothing changes this is y, bit for bit, which product + bias isn't once a
    layer has added both in one operator."""
    product = y - bias.view(-1, *[1] * (y.ndim - 2))
    return y + (change(product, gain) - product)


class _Both:
    def __init__(self, first: Change, second: Change) -> None:
        self.first, self.second = first, second

    def __call__(self, product: Tensor, gain: float) -> Tensor:
        return self.second(self.first(product, gain), gain)


class _Around:
    def __init__(self, change: Change) -> None:
        self.change = change

    def __call__(self, layer: nn.Module, inputs: tuple, y: Tensor) -> Tensor:
        bias = getattr(layer, "bias", None)
        return self.change(y, 1.0) if bias is None else beneath(y, bias.to(y.dtype), self.change, 1.0)
