"""ADA's augmentations: 18 differentiable transformations of every image that D sees, each applied with probability p.

Karras, Aittala, Hellsten, Laine, Lehtinen, Aila: Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, appendix B. It adds
nothing to the loss; D judges T(x) and T(G(z)), and G learns through T. p is a buffer which a controller moves (or 0.0 to 1.0 for good). As every
transformation is left out with probability 1 - p, augmented images tell the distribution of the images for p < 1 (in practice below 0.8): G
doesn't learn the augmentations.

Images are in [-1,1], nothing is clamped. In this order, each per image by itself (defaults are the paper's):

* geometry, one affine map: xflip; rotate90 (counter-clockwise quarter turns); xint, whole pixels, U(+-xint_max of the side); scale
  2^(scale_std n); rotate by U(+-180 degrees rotate_max), before and after the next, each with 1 - sqrt(1 - p) so that one happens with p; aniso
  2^(aniso_std n) along x and its inverse along y; xfrac N(0, xfrac_std of the side).
* colour, one affine map: brightness + N(0, brightness_std); contrast times 2^(contrast_std n); lumaflip, the luma axis mirrored; hue turned
  about it by U(+-180 degrees hue_max); saturation, chroma times 2^(saturation_std n).
* imgfilter: the gains of four octaves, 2^(imgfilter_std n) each, normalised to the power of a 1/f image; imgfilter_bands scales p of each.
* noise of std |N(0, noise_std)|; cutout of a rectangle, cutout_size of the sides, centred anywhere.

n is standard normal. Flips, quarter turns and lumaflip choose uniformly, so that a flip happens with p/2, a turn with 3p/4.

Where the paper and its release differ this follows the release: flips and quarter turns pass through the wavelet filter, which isn't symmetric (a
lone pixel keeps 93 to 97 % of its peak; the paper says they copy pixels); cutout takes the pixels whose centres lie inside (the paper rounds
corners). Deviations of impl="fast" (impl="ref" has none of them), both outside the image only: samples there are mirrored one by one, not by
padding the batch by its largest margin, so that an image depends on no other; beyond two mirrorings stands the border (the release: 0 beyond
one). Deviation of both: the filter reflects as often as its 21 pixels need, where the release fails below 22 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from handful.errors import UsageError, nearest
from handful.rng import Rng, ambient
from handful.seam import Augment, Augmented

from ._ada_filter import filter_ref, filtered
from ._ada_geometry import geometry, geometry_ref
from ._ada_params import GATE, GROUPS, NORMAL, UNIFORM, WORDS, Draws, color_of, gains_of, geometry_of

LEAKS_FROM = 0.8          # section 3 and appendix C of the paper: safe below about this


class ADA(Augment):
    """The pipeline for images [B,C,H,W] in [-1,1], fp64, fp32 or half precision (then computed in fp32); same shape and dtype out.

    policy: presets (bg bgc bgcf bgcfn bgcfnc), groups (blit geom color filter noise cutout) or single transformations, parted by commas; they run
    in the order above, whatever the order of the words; "" is the identity. p: the first value of the buffer `p`, 0 or more; above 1 counts as
    1. The constants are explained above. Colour wants 1 or 3 channels; grey images take the mean of the three colours' maps, without hue and
    saturation. impl: "fast", or "ref" for the release's chain step by step (slow; waits for the device). Raises UsageError for an unknown word, a
    constant out of range, or images that it can't augment.
    """

    p: Tensor

    def __init__(self, policy: str = "bgc", p: float = 1.0, *, xint_max: float = 0.125, scale_std: float = 0.2, rotate_max: float = 1.0,
                 aniso_std: float = 0.2, xfrac_std: float = 0.125, brightness_std: float = 0.2, contrast_std: float = 0.5, hue_max: float = 1.0,
                 saturation_std: float = 1.0, imgfilter_bands: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
                 imgfilter_std: float = 1.0, noise_std: float = 0.1, cutout_size: float = 0.5, impl: Literal["fast", "ref"] = "fast") -> None:
        super().__init__()
        self.policy = tuple(word.strip() for word in policy.split(",") if word.strip())
        for word in self.policy:
            if word not in WORDS:
                raise UsageError(f"ada policy '{policy}': unknown word '{word}'{nearest(word, WORDS)}")
        self.enabled = frozenset(t for word in self.policy for t in WORDS[word])
        self.constants = {"xint_max": xint_max, "scale_std": scale_std, "rotate_max": rotate_max, "aniso_std": aniso_std,
                          "xfrac_std": xfrac_std, "brightness_std": brightness_std, "contrast_std": contrast_std, "hue_max": hue_max,
                          "saturation_std": saturation_std, "imgfilter_std": imgfilter_std, "noise_std": noise_std, "cutout_size": cutout_size}
        for name, value in {"p": p, **self.constants}.items():
            if not 0 <= value < math.inf:
                raise UsageError(f"ada {name}={value}: give a number, 0 or more")
        if len(imgfilter_bands) != 4 or not all(0 <= band <= 1 for band in imgfilter_bands):
            raise UsageError(f"ada imgfilter_bands={tuple(imgfilter_bands)}: give four numbers from 0 to 1")
        self.imgfilter_bands, self.impl = tuple(imgfilter_bands), impl
        self.identity = not self.policy
        self.register_buffer("p", torch.tensor(float(p)))

    @property
    def notes(self) -> list[str]:
        """What a run says aloud when it starts: a fixed strength that may leak (the paper's appendix C)."""
        p = round(float(self.p), 6)                    # a buffer of fp32
        return [f"augment.p={p:g}: from 0.8 on augmented looks may leak into the pictures"] if p > LEAKS_FROM and self.enabled else []

    def extra_repr(self) -> str:
        return f"{','.join(self.policy)!r}, p={float(self.p):g}, impl={self.impl!r}"

    # ------------------------------------------------------------------------------------------------------------- parameters

    def draw(self, x: Tensor, rng: Rng, extra: Mapping[str, Tensor] | None = None) -> Augmented:
        """Augment x, and each further scale with parameters of its own (from rng.fork(its name)).

        params: those of `draw_params` less the noise itself; the ones of a further scale as "NAME.geometry" and so on.
        """
        out, params = {}, {}
        for name, image in {"": x, **(extra or {})}.items():
            drawn = self.draw_params(image, rng.fork(name) if name else rng)
            out[name] = self.transform(image, drawn)
            params |= {f"{name}.{key}" if name else key: value for key, value in drawn.items() if key != "noise_field"}
        return Augmented(out.pop(""), out, params)

    def draw_params(self, x: Tensor, rng: Rng) -> dict[str, Tensor]:
        """What determines T, fp32, for the groups of the policy.

        geometry [B,2,3]: maps positions in the output to the input's, in pixels from the image's centre, x right and y down; color [B,3,4]: maps
        (r, g, b, 1) to (r, g, b); imgfilter [B,4]: gains of the bands; noise [B]: its std, noise_field [B,C,H,W]: standard normal;
        cutout [B,3]: size and centre (x, y) in parts of the side.
        """
        self._check(x)
        n = len(x)
        gates, u, z = rng.rand(n, len(GATE)), rng.rand(n, len(UNIFORM)), rng.randn(n, len(NORMAL))
        p = self.p.to(gates)
        p_rotate = 1 - (1 - p).clamp(0, 1).sqrt()
        limits = {"rotate_pre": p_rotate, "rotate_post": p_rotate, **{f"band{i}": p * m for i, m in enumerate(self.imgfilter_bands)}}
        on = {name: gate < limits.get(name, p) for name, gate in zip(GATE, gates.unbind(1))}
        return self._params(x, Draws(on, dict(zip(UNIFORM, u.unbind(1))), dict(zip(NORMAL, z.unbind(1)))), rng)

    def percentile_params(self, x: Tensor, q: float, rng: Rng | None = None) -> dict[str, Tensor]:
        """As `draw_params`, every transformation of the policy applied with its parameter at quantile q in (0, 1), the post-rotation left out.

        The release's debug mode: normal numbers are erfinv(2q - 1), less than the true quantile by sqrt(2). The noise stays random.
        """
        self._check(x)
        every = torch.ones(len(x), dtype=torch.bool, device=x.device)
        one = torch.ones(len(x), device=x.device)
        on = {name: every & (name != "rotate_post") for name in GATE}
        on |= {f"band{i}": every & (m > 0) for i, m in enumerate(self.imgfilter_bands)}
        z = dict.fromkeys(NORMAL, torch.erfinv(one * (2 * q - 1))) | {"noise": torch.erfinv(one * q)}
        return self._params(x, Draws(on, dict.fromkeys(UNIFORM, one * q), z), rng or ambient(x.device))

    def _params(self, x: Tensor, draws: Draws, rng: Rng) -> dict[str, Tensor]:
        params = {}
        if self.enabled & {*GROUPS["blit"], *GROUPS["geom"]}:
            params["geometry"] = geometry_of(draws, self.enabled, self.constants, *x.shape[2:])
        if self.enabled & set(GROUPS["color"]):
            params["color"] = color_of(draws, self.enabled, self.constants, x.shape[1])
        if "imgfilter" in self.enabled:
            params["imgfilter"] = gains_of(draws, self.constants)
        if "noise" in self.enabled:
            params["noise"] = draws.normal("noise", self.constants["noise_std"]).abs()
            params["noise_field"] = rng.randn(*x.shape)
        if "cutout" in self.enabled:
            size = draws.on["cutout"] * self.constants["cutout_size"]
            params["cutout"] = torch.stack([size, draws.u["cutout_x"], draws.u["cutout_y"]], 1)
        return params

    # ---------------------------------------------------------------------------------------------------------------- transform

    def transform(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """T(x) for the parameters of `draw_params`: pure, affine in x; each image by itself (with impl="fast"). Differentiable in x, twice."""
        dtype, ref = x.dtype, self.impl == "ref"
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if dtype in (torch.float16, torch.bfloat16) else x
            if "geometry" in params:
                x = (geometry_ref if ref else geometry)(x, params["geometry"])
            if "color" in params:
                x = _recolored(x, params["color"].to(x.dtype))
            if "imgfilter" in params:
                x = (filter_ref if ref else filtered)(x, params["imgfilter"])
            if "noise" in params:
                x = x + params["noise_field"].to(x.dtype) * params["noise"].to(x.dtype)[:, None, None, None]
            if "cutout" in params:
                x = _cutout(x, params["cutout"].to(x.dtype))
        return x.to(dtype)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or not x.is_floating_point():
            raise UsageError(f"ADA takes images [B,C,H,W] in -1..1 as floating-point numbers, not {x.dtype} {list(x.shape)}")
        if x.shape[1] not in (1, 3) and self.enabled & set(GROUPS["color"]):
            raise UsageError(f"ada policy '{','.join(self.policy)}' changes colours, which wants 1 or 3 channels, not {x.shape[1]}; take 'bg'")


def _recolored(x: Tensor, color: Tensor) -> Tensor:
    if x.shape[1] == 1:
        mean = color.mean(1)                                                                            # [B,4]
        return x * mean[:, :3].sum(1)[:, None, None, None] + mean[:, 3][:, None, None, None]
    return torch.baddbmm(color[:, :, 3:], color[:, :, :3], x.flatten(2)).view(x.shape)


def _cutout(x: Tensor, cutout: Tensor) -> Tensor:
    """A pixel stays where its column or its row stays: the mask is made of two short ones."""
    h, w = x.shape[2:]
    keep = [(((torch.arange(n, dtype=x.dtype, device=x.device) + 0.5) / n - cutout[:, i, None]).abs() >= cutout[:, :1] / 2).to(x.dtype)
            for i, n in ((1, w), (2, h))]                                                               # [B,W], [B,H]
    return x * torch.maximum(keep[0][:, None, None, :], keep[1][:, None, :, None])
