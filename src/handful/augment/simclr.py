"""SimCLR's augmentation: a random crop resized to the whole, a flip, colour jitter, greyscale, and for large pictures blur.

Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, in the form in which Jeong, Shin:
Training GANs with Stronger Augmentations via Contrastive Discriminator (ContraD), ICLR 2021, gives it to everything that D sees. It adds
nothing to the loss. Images are in [-1,1]; in this order, each per image by itself:

* crop: a box of area U[area, 1] of the image and of aspect (width : height, times the image's own) 3/4 to 4/3, log-uniform, anywhere in it; what
  sticks out of the image is its reflection. Resized to the image's size by bilinear interpolation. Always.
* flip left to right with probability 1/2.
* with probability 0.8, in terms of intensities in [0,1]: times U[1 - j, 1 + j] (brightness); away from the mean grey by U[1 - j, 1 + j] (contrast);
  away from each pixel's grey by U[1 - j, 1 + j] (saturation); hue turned by U[-h, h] of a circle. Grey is 0.299 R + 0.587 G + 0.114 B.
* greyscale with probability 0.2.
* form="hq": blur with probability 1/2 by a Gaussian of std U[0.1, 2] pixels, cut off to an odd number of pixels, about a tenth of the side.
* cutout=True: with probability 1/2 a square of 2 (side // 4) - 1 pixels (255 of 512), centred anywhere, becomes black.

    form      area from    j (brightness, contrast, saturation)    h      blur
    cifar     0.2          0.4                                     0.1    no       ContraD's CIFAR-10, at 32 pixels
    hq        0.08         0.8                                     0.2    yes      ContraD's AFHQ, at 512 pixels

Chosen here, as the specification leaves it open: the order within the jitter (SimCLR's is random); hue turns the colours about the grey axis, which
is linear (HSV's hue has no derivative at grey); nothing is clamped, as in the other augmentations here. So T is affine in the image: crop, flip and
blur are one matrix for the rows and one for the columns (blur and jitter commute, as a reflected blur keeps the mean), derivatives of any order pass,
and it runs on every device, deterministically.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from handful.errors import UsageError
from handful.rng import Rng
from handful.seam import Augment, Augmented

from ._simclr_maps import blurring, cropping, recoloring

DRAWS = ("area", "aspect", "x", "y", "flip", "jitter", "brightness", "contrast", "saturation", "hue", "grey", "blur", "sigma", "cut", "cut_x",
         "cut_y")
ASPECT = 4 / 3
AREA = {"cifar": 0.2, "hq": 0.08}
JITTER = {"cifar": (0.4, 0.1), "hq": (0.8, 0.2)}
SIGMA = (0.1, 2.0)


class SimCLR(Augment):
    """The policy for images [B,C,H,W] in [-1,1], fp64, fp32 or half precision (then computed in fp32); same shape and dtype out.

    form, cutout: above. Grey images (C = 1) have brightness and contrast alone, their colours being none. Raises UsageError for other C.
    """

    for_contrast = True

    def __init__(self, form: Literal["cifar", "hq"] = "cifar", cutout: bool = False) -> None:
        super().__init__()
        self.form, self.cutout = form, cutout

    def extra_repr(self) -> str:
        return f"form={self.form!r}, cutout={self.cutout}"

    def draw(self, x: Tensor, rng: Rng, extra: Mapping[str, Tensor] | None = None) -> Augmented:
        """Augment x, and each further scale with parameters of its own (from rng.fork(its name)).

        params: those of `draw_params`; the ones of a further scale as "NAME.crop" and so on.
        """
        out, params = {}, {}
        for name, image in {"": x, **(extra or {})}.items():
            drawn = self.draw_params(image, rng.fork(name) if name else rng)
            out[name] = self.transform(image, drawn)
            params |= {f"{name}.{key}" if name else key: value for key, value in drawn.items()}
        return Augmented(out.pop(""), out, params)

    def draw_params(self, x: Tensor, rng: Rng) -> dict[str, Tensor]:
        """What determines T, fp32. crop [B,4]: the box's centre (x, y), width and height in parts of the sides; flip: bool [B]; color [B,4]: factors
        of brightness, contrast and saturation, hue in turns (1, 1, 1, 0: none); grey: bool [B]; blur [B]: std in pixels, 0: none (form="hq");
        cutout [B,3]: centre (x, y) in parts of the sides, 1 where it is cut, else 0 (with `cutout`)."""
        if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
            raise UsageError(f"simclr takes images [B,C,H,W] of 1 or 3 channels in -1..1 as floating-point numbers, not {x.dtype} {list(x.shape)}")
        u = dict(zip(DRAWS, rng.rand(len(x), len(DRAWS)).unbind(1)))
        area = AREA[self.form] + (1 - AREA[self.form]) * u["area"]
        aspect = (math.log(ASPECT) * (2 * u["aspect"] - 1)).exp()
        width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
        centre = [0.5 + (1 - side) * (at - 0.5) for side, at in ((width, u["x"]), (height, u["y"]))]
        strength, turn = JITTER[self.form]
        jittered = (u["jitter"] < 0.8).to(area.dtype)
        factors = [1 + jittered * strength * (2 * u[name] - 1) for name in ("brightness", "contrast", "saturation")]
        params = {"crop": torch.stack([*centre, width, height], 1), "flip": u["flip"] < 0.5,
                  "color": torch.stack([*factors, jittered * turn * (2 * u["hue"] - 1)], 1), "grey": u["grey"] < 0.2}
        if self.form == "hq":
            params["blur"] = (u["blur"] < 0.5) * (SIGMA[0] + (SIGMA[1] - SIGMA[0]) * u["sigma"])
        if self.cutout:
            params["cutout"] = torch.stack([u["cut_x"], u["cut_y"], (u["cut"] < 0.5).to(area.dtype)], 1)
        return params

    def transform(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """T(x) for given parameters: pure, affine in x, each image by itself. Differentiable in x to any order."""
        dtype = x.dtype
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if dtype in (torch.float16, torch.bfloat16) else x
            own = {k: v if v.dtype == torch.bool else v.to(x.dtype) for k, v in params.items()}
            b, c, h, w = x.shape
            rows, columns = cropping(own["crop"], own["flip"], h, w)                                      # [B,H,H], [B,W,W]
            if "blur" in own:
                rows, columns = blurring(own["blur"], h) @ rows, blurring(own["blur"], w) @ columns
            x = rows[:, None] @ (x.reshape(b, c * h, w) @ columns.mT).view(b, c, h, w)
            x = recoloring(x, own["color"], own["grey"])
            if "cutout" in own:
                x = _cut(x, own["cutout"])
        return x.to(dtype)


def _cut(x: Tensor, cutout: Tensor) -> Tensor:
    """Black, -1, where both the row and the column lie in the square."""
    inside = []
    for i, n in ((1, x.shape[2]), (0, x.shape[3])):
        at = torch.arange(n, device=x.device) - (cutout[:, i, None] * n).floor()
        inside.append((at.abs() <= n // 4 - 1).to(x.dtype))                                               # [B,H], [B,W]
    black = inside[0][:, None, :, None] * inside[1][:, None, None, :] * cutout[:, 2, None, None, None]    # [B,1,H,W]
    return (x + 1) * (1 - black) - 1
