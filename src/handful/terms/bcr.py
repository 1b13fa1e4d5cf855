"""bCR, balanced consistency regularisation: D shall give a real and a generated picture the same logit after a small move.

Zhao, Singh, Lee, Zhang, Odena, Zhang: Improved Consistency Regularization for GANs, AAAI 2021, algorithm 1, as Karras et al. compare with it
(Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, figure 2a and appendix D.2). Adds to L_D, in every step,

    weight_real E (D(M(x)) - D(x))^2 + weight_fake E (D(M(y)) - D(y))^2,        x, y: reals and fakes as D saw them, after the run's augmentation

both sides of each difference differentiated. G's loss stays: the moved pictures aren't shown to it, which is why the moves leak into what it makes.

Defaults are those of appendix D.2: both weights 10; M a shift by whole pixels, up to a 32nd of each side (8 at 256 pixels), always applied, drawn
and carried out as ADA's integer translation (what comes in is mirrored). Figure 20 also flips left to right with probability 1/2
(policy="xint,xflip") and turns by up to 10, 20 or 45 degrees: rotate_degrees, uniform, after the shift.

FastGAN's smaller scale: a real's is made from the moved picture, as always. A fake's is G's own second picture, which is no reduction of the first;
it moves by the same part of its side, to whole pixels, so that the two are compared before and after one move and nothing else. Deviation: the
moved pictures run through D apart from the others, reals and fakes at once, or each by itself where D has batch statistics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from handful import catalog
from handful.errors import HandfulError, UsageError, nearest, within
from handful.rng import Rng
from handful.seam import Context, Needs, Nets, Result, Side, Term, View
from handful.terms._views import Shown, judged, picture_shape, shown, squared_gap

_MOVES = ("xint", "xflip")


class BCR(Term):
    """weight_real, weight_fake: one of 0 leaves out its work. policy: "xint", "xflip", both parted by a comma, or "" (with rotate_degrees alone);
    shift: largest one in parts of the side; rotate_degrees: largest angle.

    Stats per image: penalty_real, penalty_fake. Raises UsageError for numbers out of range, unknown words or nothing to do; HandfulError where the
    shift is less than half a pixel.
    """

    def __init__(self, weight_real: float = 10.0, weight_fake: float = 10.0, policy: str = "xint", shift: float = 1 / 32,
                 rotate_degrees: float = 0.0) -> None:
        super().__init__()
        within(0, weight_real=weight_real, weight_fake=weight_fake)
        within(0, 1, shift=shift)
        within(0, 180, rotate_degrees=rotate_degrees)
        self.words = [word.strip() for word in policy.split(",") if word.strip()]
        for word in self.words:
            if word not in _MOVES:
                raise UsageError(f"policy='{policy}': unknown word '{word}'{nearest(word, _MOVES)}")
        if not self.words and not rotate_degrees:
            raise UsageError("policy='' without rotate_degrees moves nothing; take policy=xint, or give the degrees")
        self.weights = {kind: w for kind, w in (("real", weight_real), ("fake", weight_fake)) if w}
        self.shift, self.rotate_degrees = shift, rotate_degrees
        # xflip: ADA draws a flip for half of those that it is applied to, here all.
        self.move = catalog.build("augment", catalog.Use("ada", policy=policy or "xint", xint_max=shift if "xint" in self.words else 0.0, p=1.0))

    def setup(self, nets: Nets) -> None:
        _, height, width = picture_shape(nets)
        if "xint" in self.words and self.shift * max(height, width) <= 0.5:
            raise HandfulError(f"terms.bcr.shift={self.shift:g} is half a pixel or less of {max(height, width)}, so no picture would move; give "
                               f"{1 / max(height, width):g} or more")

    def needs(self, side: Side) -> Needs | None:
        if side == "g" or not self.weights:
            return None
        return Needs(**{kind: View(logits=True) for kind in self.weights})

    def forward(self, ctx: Context) -> Result:
        moved = judged(ctx, {kind: self._moved(ctx, kind) for kind in self.weights}, ctx.rng.fork("judge"))
        penalties = {kind: weight * squared_gap(moved[kind].logits, getattr(ctx, kind).logits) for kind, weight in self.weights.items()}
        return Result(sum(p.mean() for p in penalties.values()), {f"penalty_{kind}": p.detach() for kind, p in penalties.items()})

    def _moved(self, ctx: Context, kind: str) -> Shown:
        x, c, extra = shown(ctx, kind, "x_in")
        maps = self.draw(x, ctx.rng.fork(kind))
        scales = None if kind == "real" else {k: self.move.transform(v, {"geometry": _for(v, maps, x)}) for k, v in extra.items()}
        return self.move.transform(x, {"geometry": maps}), c, scales

    def draw(self, x: Tensor, rng: Rng) -> Tensor:
        """The move of each image as ADA has it, [B,2,3]: positions in the output to the input's, in pixels from the centre."""
        maps = self.move.draw_params(x, rng)["geometry"]
        if not self.rotate_degrees:
            return maps
        angle = (2 * rng.fork("angle").rand(len(x)) - 1) * math.radians(self.rotate_degrees)
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
        return torch.cat([maps[:, :, :2] @ turn, maps[:, :, 2:]], 2)


def _for(small: Tensor, maps: Tensor, x: Tensor) -> Tensor:
    """The same move of a smaller picture, shifts in its own pixels."""
    shift = [(maps[:, i, 2] * (small.shape[3 - i] / x.shape[3 - i])).round() for i in (0, 1)]
    return torch.cat([maps[:, :, :2], torch.stack(shift, 1)[..., None]], 2)
