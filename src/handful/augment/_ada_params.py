"""What ADA draws for each image, and the maps and gains that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

GROUPS = {"blit": ("xflip", "rotate90", "xint"), "geom": ("scale", "rotate", "aniso", "xfrac"),
          "color": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
          "filter": ("imgfilter",), "noise": ("noise",), "cutout": ("cutout",)}
PRESETS = {"bg": ("blit", "geom"), "bgc": ("blit", "geom", "color"), "bgcf": ("blit", "geom", "color", "filter"),
           "bgcfn": ("blit", "geom", "color", "filter", "noise"), "bgcfnc": tuple(GROUPS)}
WORDS = {t: (t,) for group in GROUPS.values() for t in group} | GROUPS | {k: sum((GROUPS[g] for g in v), ()) for k, v in PRESETS.items()}

# The columns of the draws: gates (uniform numbers compared with p), uniform and normal numbers. All are drawn whatever the policy is, so that
# an image's flip, say, is the same under any policy that flips.
GATE = ("xflip", "rotate90", "xint", "scale", "rotate_pre", "rotate_post", "aniso", "xfrac", "brightness", "contrast", "lumaflip", "hue",
        "saturation", "band0", "band1", "band2", "band3", "noise", "cutout")
UNIFORM = ("xflip", "rotate90", "xint_x", "xint_y", "rotate_pre", "rotate_post", "lumaflip", "hue", "cutout_x", "cutout_y")
NORMAL = ("scale", "aniso", "xfrac_x", "xfrac_y", "brightness", "contrast", "saturation", "band0", "band1", "band2", "band3", "noise")
_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)              # expected share of an image's power in each band


class Draws(NamedTuple):
    """Per image [B], by the names above: whether it is applied, a number in [0, 1), a standard normal one."""

    on: Mapping[str, Tensor]
    u: Mapping[str, Tensor]
    z: Mapping[str, Tensor]

    def uniform(self, name: str, most: float, neutral: float = 0.0) -> Tensor:
        """U(-most, most) where on, else neutral."""
        return torch.where(self.on[name], (2 * self.u[name] - 1) * most, neutral)

    def normal(self, name: str, std: float) -> Tensor:
        return torch.where(self.on[name], self.z[name] * std, 0)

    def flip(self, name: str) -> Tensor:
        """1 or -1, both as likely where on, else 1."""
        return torch.where(self.on[name], 1 - 2 * (2 * self.u[name]).floor(), 1)


def geometry_of(d: Draws, enabled: Set[str], k: Mapping[str, float], height: int, width: int) -> Tensor:
    """[B,2,3], the inverse map: gathered from the output's side, each transformation's inverse comes on the right."""
    n, device = len(d.on["xflip"]), d.on["xflip"].device
    map_, shift = torch.eye(2, device=device).expand(n, 2, 2), torch.zeros(n, 2, device=device)
    if "xflip" in enabled:
        sign = d.flip("xflip")
        map_ = map_ * torch.stack([sign, torch.ones_like(sign)], 1)[:, None]
    if "rotate90" in enabled:
        i = torch.where(d.on["rotate90"], (4 * d.u["rotate90"]).floor(), 0)
        odd = i % 2 == 1
        map_ = map_ @ _turn(torch.where(odd, 0, 1 - i), torch.where(odd, 2 - i, 0))                      # exact: axes go to axes
    if "xint" in enabled:
        by = [((2 * d.u[f"xint_{axis}"] - 1) * k["xint_max"] * side).round() for axis, side in (("x", width), ("y", height))]
        shift = _moved(shift, map_, d.on["xint"], by)
    if "scale" in enabled:
        map_ = map_ * torch.exp2(-d.normal("scale", k["scale_std"]))[:, None, None]
    if "rotate" in enabled:
        angle = d.uniform("rotate_pre", math.pi * k["rotate_max"])
        map_ = map_ @ _turn(angle.cos(), angle.sin())
    if "aniso" in enabled:
        s = d.normal("aniso", k["aniso_std"])
        map_ = map_ * torch.exp2(torch.stack([-s, s], 1))[:, None]
    if "rotate" in enabled:
        angle = d.uniform("rotate_post", math.pi * k["rotate_max"])
        map_ = map_ @ _turn(angle.cos(), angle.sin())
    if "xfrac" in enabled:
        by = [d.z[f"xfrac_{axis}"] * k["xfrac_std"] * side for axis, side in (("x", width), ("y", height))]
        shift = _moved(shift, map_, d.on["xfrac"], by)
    return torch.cat([map_, shift[..., None]], 2)


def _turn(cos: Tensor, sin: Tensor) -> Tensor:
    """The inverse of a turn by -angle: [B], [B] -> [B,2,2]."""
    return torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)


def _moved(shift: Tensor, map_: Tensor, on: Tensor, by: list[Tensor]) -> Tensor:
    """The inverse of a translation by (x, y) pixels, on the right."""
    return shift - (map_ @ torch.where(on[:, None], torch.stack(by, 1), 0)[..., None])[..., 0]


def color_of(d: Draws, enabled: Set[str], k: Mapping[str, float], channels: int) -> Tensor:
    """[B,3,4]. All five are multiples of the luma axis' projection and turns of the plane across it, so that their product is written at once."""
    zero = torch.zeros_like(d.z["contrast"])
    bright = d.normal("brightness", k["brightness_std"]) if "brightness" in enabled else zero
    luma = chroma = torch.exp2(d.normal("contrast", k["contrast_std"])) if "contrast" in enabled else zero + 1
    if "lumaflip" in enabled:
        luma = luma * d.flip("lumaflip")
    angle = d.uniform("hue", math.pi * k["hue_max"]) if "hue" in enabled and channels > 1 else zero
    if "saturation" in enabled and channels > 1:
        chroma = chroma * torch.exp2(d.normal("saturation", k["saturation_std"]))
    parts = torch.stack([luma, chroma * angle.cos(), chroma * angle.sin()], 1)                           # [B,3]
    map_ = (parts @ _axes(parts.device).flatten(1)).view(-1, 3, 3)
    return torch.cat([map_, (luma * bright)[:, None, None].expand(-1, 3, 1)], 2)


@lru_cache(maxsize=16)
@torch.inference_mode(False)                            # what is kept must serve autograd later
def _axes(device: torch.device) -> Tensor:
    """The projection on the luma axis, that on the plane across it, and the quarter turn of that plane; [3,3,3]."""
    luma, roll = torch.full((3, 3), 1 / 3), torch.eye(3).roll(1, 0)
    return torch.stack([luma, torch.eye(3) - luma, (roll - roll.T) / 3 ** 0.5]).to(device)


def gains_of(d: Draws, k: Mapping[str, float]) -> Tensor:
    """[B,4]: each band's gain in turn, normalised by the expected power of what it gives."""
    own = [torch.exp2(d.normal(f"band{i}", k["imgfilter_std"])) for i in range(4)]
    power = math.prod(1 + share * (t.square() - 1) for share, t in zip(_POWER, own))
    return torch.stack(own, 1) * power.rsqrt()[:, None]
