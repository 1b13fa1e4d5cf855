"""APA, adaptive pseudo augmentation: some of the images that D is shown as real are G's own.

Jiang, Dai, Wu, Loy: Deceive D: Adaptive Pseudo Augmentation for GAN Training with Limited Data, NeurIPS 2021, and its release, which is StyleGAN2-ADA
with this in ADA's place. It adds nothing to the loss: every image of a batch of reals is replaced, with probability p and by itself, by the
generated image of its slot, detached, and D takes it for a real: in the adversarial loss, in R1, which is taken on the mixed batch, and in r_t, by
which `terms.ada_controller` moves p (target 0.6, every 4 steps, by 1 in 500 000 images, never below 0, without an upper bound: its defaults are
APA's too; the release takes 100 000 when it fine-tunes).

policy: "" as in the paper; "bgc" is its "with data augmentation": ADA's pipeline on all that D sees, in both steps, with the same p.

Which fakes: those that G's step of this iteration made, where G goes first (order "gd", StyleGAN2's), else others made for it; a step of R1's own
takes the same and draws anew which are shown. Deviation: with classes they are always made for it, of the classes of the reals that they replace,
so that none carries a wrong label.

The loss must say by the sign of D(x) what D takes for real, since r_t goes by it: with `relativistic`, where a constant in D is free, it says
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from handful import catalog
from handful.catalog import Use
from handful.errors import HandfulError, within
from handful.rng import Rng
from handful.seam import Augment, Augmented


class APA(Augment):
    """Images [B,C,H,W] in [-1,1]. policy: of ADA, see above ("": none). p: the first value of the probability, 0 to 1.

    In a loop of your own: `D(apa(apa.reals(x, fakes, ambient())))` for reals, `D(apa(fakes))` for fakes; `apa.p` is a buffer to move.
    Raises UsageError for an unknown policy or a p out of range.
    """

    wants_fakes = True

    def __init__(self, policy: str = "", p: float = 0.0) -> None:
        super().__init__()
        within(0, 1, p=p)
        self.ada = catalog.build("augment", Use("ada", policy=policy, p=p))
        self.identity = self.ada.identity

    @property
    def p(self) -> Tensor:
        """The share of pseudo-reals, and the probability of each of ADA's transformations: one buffer."""
        return self.ada.p

    @property
    def notes(self) -> list[str]:
        return self.ada.notes

    def reals(self, x: Tensor, fakes: Tensor | None, rng: Rng) -> Tensor:
        """x with each image replaced by the one of its slot in `fakes`, with probability p. No graph leads into the fakes."""
        if fakes is None:
            raise HandfulError("augment 'apa' shows generated images as reals: pass it as many as there are reals")
        pseudo = rng.rand(len(x)) < self.p                                                               # [B]
        return torch.where(pseudo[:, None, None, None], fakes.detach().to(x), x)

    def draw(self, x: Tensor, rng: Rng, extra: Mapping[str, Tensor] | None = None) -> Augmented:
        return self.ada.draw(x, rng, extra) if self.ada.policy else Augmented(x, extra or {})
