"""DiffAugment: differentiable colour, translation and cutout on every image that D sees, reals and fakes alike.

Zhao, Liu, Lin, Zhu, Han: Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS 2020. It adds nothing to the loss; D judges T(x)
and T(G(z)) with T drawn anew in every step, and G learns through T.

Operators, constants and their order are the released code's; images are in [-1,1] and nothing is clamped:

* color: brightness x + b, b ~ U[-0.5, 0.5); saturation (x - m) s + m, s ~ U[0, 2), m the mean over the channels of each pixel; contrast
  (x - m) c + m, c ~ U[0.5, 1.5), m the mean over the image as the two before left it (the gradient goes through both means).
* translation: a shift by whole pixels, uniform in -k .. k for rows and columns, k = floor(size * translation_ratio + 0.5); what comes in is 0,
  mid-grey. On ImageNet the released code has images in [0,1], where that is black: translation_fill=-1 here.
* cutout: a rectangle of q = floor(size * cutout_ratio + 0.5) pixels a side becomes 0; its rows are u - q//2 .. u - q//2 + q - 1 as far as they lie
  in the image, u uniform in 0 .. size - (q mod 2); columns likewise. So about 0.19 of the image is cut, not a quarter.

order="random" is the form of CHAIN's release (Ni, Koniusz 2024): brightness, saturation, contrast, translation and cutout, as far as the policy has
them, follow each other in an order drawn for each call, the same for its whole batch.

Deviation: heights and widths may differ, each with its own k and q (the release knows square images).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.errors import UsageError, nearest
from handful.rng import Rng
from handful.seam import Augment, Augmented

_GROUPS = ("color", "translation", "cutout")


class DiffAugment(Augment):
    """DiffAugment of images [B,C,H,W] in [-1,1], fp64, fp32 or half precision (colour is then computed in fp32); same shape and dtype out.

    policy: groups out of color, translation, cutout, run in the order written, each at most once; "" is the identity. translation_ratio,
    cutout_ratio: parts of the side, 0 to 1. impl: "fast", or "ref" for the operators one after the other as the paper has them.
    translation_fill: the pixels that a shift leaves empty, -1 black to 1 white. order: "written", that of the policy, or "random" (above).
    Raises UsageError for an unknown group or a number out of range.
    """

    def __init__(self, policy: str = "color,translation,cutout", translation_ratio: float = 0.125, cutout_ratio: float = 0.5,
                 impl: Literal["fast", "ref"] = "fast", translation_fill: float = 0.0,
                 order: Literal["written", "random"] = "written") -> None:
        super().__init__()
        self.policy = tuple(word.strip() for word in policy.split(",") if word.strip())
        for i, word in enumerate(self.policy):
            if word not in _GROUPS:
                raise UsageError(f"diffaug policy '{policy}': unknown group '{word}'{nearest(word, _GROUPS)}")
            if word in self.policy[:i]:
                raise UsageError(f"diffaug policy '{policy}': '{word}' is there twice; name it once")
        for name, ratio in (("translation_ratio", translation_ratio), ("cutout_ratio", cutout_ratio)):
            if not 0 <= ratio <= 1:
                raise UsageError(f"diffaug {name}={ratio}: give a part of the side, 0 to 1")
        if not -1 <= translation_fill <= 1:
            raise UsageError(f"diffaug translation_fill={translation_fill}: give a grey level, -1 (black) to 1 (white)")
        self.translation_ratio, self.cutout_ratio, self.impl = translation_ratio, cutout_ratio, impl
        self.translation_fill, self.order = translation_fill, order
        self.identity = not self.policy

    def extra_repr(self) -> str:
        return (f"{','.join(self.policy)!r}, translation_ratio={self.translation_ratio}, cutout_ratio={self.cutout_ratio}, "
                f"impl={self.impl!r}, translation_fill={self.translation_fill}, order={self.order!r}")

    def draw(self, x: Tensor, rng: Rng, extra: Mapping[str, Tensor] | None = None) -> Augmented:
        """Augment x, and each further scale with parameters of its own (from rng.fork(its name)), as FastGAN's release does.

        params: those of `draw_params`; the ones of a further scale as "NAME.brightness" and so on.
        """
        if x.ndim != 4 or not x.is_floating_point():
            raise UsageError(f"DiffAugment takes images [B,C,H,W] in -1..1 as floating-point numbers, not {x.dtype} {list(x.shape)}")
        rngs = {name: rng.fork(name) for name in extra or {}}
        params = self.draw_params(x, rng)
        scales = {name: (extra[name], self.draw_params(extra[name], rngs[name])) for name in rngs}
        for name, (_, drawn) in scales.items():
            params |= {f"{name}.{key}": value for key, value in drawn.items()}
        return Augmented(self._moved(x, params, rng), {name: self._moved(*scale, rngs[name]) for name, scale in scales.items()}, params)

    def _moved(self, x: Tensor, params: Mapping[str, Tensor], rng: Rng) -> Tensor:
        return self.transform(x, params) if self.order == "written" else self.transform(x, params, self.draw_order(rng))

    def draw_params(self, x: Tensor, rng: Rng) -> dict[str, Tensor]:
        """The parameters of every image, in the order of the policy and of this list.

        brightness b, saturation s, contrast c: fp32 [B]; translation: int64 [B,2], rows and columns that the picture moves down and right;
        cutout: int64 [B,2], the rectangle's centre (row u, column v).
        """
        n, (height, width) = len(x), x.shape[-2:]
        params: dict[str, Tensor] = {}
        for group in self.policy:
            if group == "color":
                params |= {"brightness": rng.rand(n) - 0.5, "saturation": rng.rand(n) * 2, "contrast": rng.rand(n) + 0.5}
            elif group == "translation":
                limits = [_pixels(side, self.translation_ratio) for side in (height, width)]
                params[group] = torch.stack([rng.randint(2 * k + 1, n) - k for k in limits], 1)
            else:
                sizes = [_pixels(side, self.cutout_ratio) for side in (height, width)]
                params[group] = torch.stack([rng.randint(s + 1 - q % 2, n) for s, q in zip((height, width), sizes)], 1)
        return params

    def draw_order(self, rng: Rng) -> tuple[str, ...]:
        """The operators in the order in which they follow each other: the policy, or with order="random" its parts, shuffled for the whole batch."""
        if self.order == "written":
            return self.policy
        left = [part for group in self.policy for part in (_COLOR if group == "color" else (group,))]
        return tuple(left.pop(rng.integer(len(left))) for _ in range(len(left)))

    def transform(self, x: Tensor, params: Mapping[str, Tensor], order: Sequence[str] | None = None) -> Tensor:
        """T(x) for given parameters: pure, affine in x, each image by itself. order: of `draw_order`; None: the policy as it is written."""
        fast = self.impl == "fast"
        height, width = x.shape[-2:]
        for group in self.policy if order is None else order:
            if group == "color":
                work = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
                b, s, c = (params[k].to(work.dtype)[:, None, None, None] for k in ("brightness", "saturation", "contrast"))    # [B,1,1,1]
                x = (_color if fast else _color_ref)(work, b, s, c).to(x.dtype)
            elif group in _COLOR:
                work = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
                x = _COLOR[group](work, params[group].to(work.dtype)[:, None, None, None]).to(x.dtype)
            elif group == "translation":
                if fast and x.device.type != "mps":        # MPS would copy out the windows' view, thousands of times the image
                    most = (_pixels(height, self.translation_ratio), _pixels(width, self.translation_ratio))
                    x = _Shift.apply(x, params[group], most, self.translation_fill)
                else:
                    x = _shift_ref(x, params[group], self.translation_fill)
            else:
                size = (_pixels(height, self.cutout_ratio), _pixels(width, self.cutout_ratio))
                x = (_cutout if fast else _cutout_ref)(x, params[group], size)
        return x


def _pixels(side: int, ratio: float) -> int:
    return int(side * ratio + 0.5)


def _brightness(x: Tensor, b: Tensor) -> Tensor:
    return x + b


def _saturation(x: Tensor, s: Tensor) -> Tensor:
    grey = x.mean(1, keepdim=True)
    return (x - grey) * s + grey


def _contrast(x: Tensor, c: Tensor) -> Tensor:
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * c + mean


_COLOR = {"brightness": _brightness, "saturation": _saturation, "contrast": _contrast}


def _color_ref(x: Tensor, b: Tensor, s: Tensor, c: Tensor) -> Tensor:
    return _contrast(_saturation(_brightness(x, b), s), c)


def _color(x: Tensor, b: Tensor, s: Tensor, c: Tensor) -> Tensor:
    """The three at once: saturation keeps every pixel's grey, so the contrast's mean is mean(x) + b and all is affine in (x, grey, mean)."""
    grey = x.sum(1, keepdim=True)                                                 # [B,1,H,W], times C
    mean = grey.sum((2, 3), keepdim=True) * (1 / x[0].numel())                    # [B,1,1,1]
    base = torch.addcmul(torch.addcmul(b, mean, 1 - c), grey, c * (1 - s) * (1 / x.shape[1]))
    return torch.addcmul(base, x, c * s)


def _shift_ref(x: Tensor, shift: Tensor, fill: float) -> Tensor:
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device) - shift[:, :1]                   # [B,H], where each row comes from
    cols = torch.arange(width, device=x.device) - shift[:, 1:]                    # [B,W]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((cols >= 0) & (cols < width))[:, None, None, :]
    x = x.gather(2, rows.clamp(0, height - 1)[:, None, :, None].expand(x.shape))
    x = x.gather(3, cols.clamp(0, width - 1)[:, None, None, :].expand(x.shape))
    return torch.where(inside, x, fill)


class _Shift(torch.autograd.Function):
    """The shift as one copy out of an image padded with `fill`; its adjoint is the shift back, which autograd would not find: it would scatter."""

    @staticmethod
    def forward(ctx, x: Tensor, shift: Tensor, most: tuple[int, int], fill: float) -> Tensor:
        ctx.save_for_backward(shift)
        ctx.most = most
        (ky, kx), (height, width) = most, x.shape[-2:]
        windows = F.pad(x, (kx, kx, ky, ky), value=fill).unfold(2, height, 1).unfold(3, width, 1)    # a view, [B,C,2ky+1,2kx+1,H,W]
        return windows[torch.arange(len(x), device=x.device), :, ky - shift[:, 0], kx - shift[:, 1]]

    @staticmethod
    def backward(ctx, grad: Tensor):
        (shift,) = ctx.saved_tensors
        return _Shift.apply(grad, -shift, ctx.most, 0.0), None, None, None


def _cutout_ref(x: Tensor, centre: Tensor, size: tuple[int, int]) -> Tensor:
    rows, cols = ((centre[:, i, None] - size[i] // 2 + torch.arange(size[i], device=x.device)).clamp(0, x.shape[2 + i] - 1) for i in (0, 1))
    keep = torch.ones(len(x), *x.shape[2:], dtype=x.dtype, device=x.device)
    keep[torch.arange(len(x), device=x.device)[:, None, None], rows[:, :, None], cols[:, None, :]] = 0
    return x * keep[:, None]


def _cutout(x: Tensor, centre: Tensor, size: tuple[int, int]) -> Tensor:
    """A pixel stays where its row or its column stays: the mask is made of two short ones."""
    keep = []
    for i in (0, 1):
        offset = torch.arange(x.shape[2 + i], device=x.device) - centre[:, i, None] + size[i] // 2
        keep.append(((offset < 0) | (offset >= size[i])).to(x.dtype))                 # [B,H], [B,W]
    return x * torch.maximum(keep[0][:, None, :, None], keep[1][:, None, None, :])    # [B,1,H,W]
