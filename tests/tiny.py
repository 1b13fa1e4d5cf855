"""Networks of a few thousand parameters, smooth and without batch statistics, so that every identity of the trainer is exact; and passes by hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.rng import Rng
from handful.seam import Augment, Augmented, Context, Discriminator, FeatureInfo, Generated, Generator, Judged, Pass, View


class TinyG(Generator):
    """z (and class) -> 4x4 -> doubled to `resolution` (a power of two, 4 or more). noise: strength of the noise added at each size."""

    def __init__(self, resolution: int = 16, channels: int = 3, num_classes: int = 0, z_dim: int = 8, width: int = 8, noise: float = 0.0) -> None:
        super().__init__()
        self.z_dim, self.num_classes, self.width, self.noise = z_dim, num_classes, width, noise
        self.dense = nn.Linear(z_dim, width * 16)
        self.embed = nn.Embedding(num_classes, width * 16) if num_classes else None
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range((resolution // 4).bit_length() - 1))
        self.to_image = nn.Conv2d(width, channels, 3, padding=1)
        self.register_buffer("z_avg", torch.zeros(z_dim))

    def forward(self, z: Tensor, c: Tensor | None = None, *, rng: Rng) -> Generated:
        h = self.dense(z)
        if self.embed is not None:
            h = h + self.embed(c)
        h = h.view(len(z), self.width, 4, 4)
        for conv in self.convs:
            h = F.silu(conv(F.interpolate(h, scale_factor=2)))
            if self.noise:
                h = h + self.noise * rng.randn(len(z), 1, *h.shape[2:]).to(h.dtype)
        return Generated(torch.tanh(self.to_image(h)), z, z, c, stats={"z": z.detach()})

    def commit(self, means: Mapping[str, Tensor]) -> None:
        self.z_avg.lerp_(means["z"].to(self.z_avg.dtype), 0.1)


class TinyD(Discriminator):
    """Two strided convolutions, a mean over space, a head (with a projected class embedding). patches: logits [B,patches] rather than [B]."""

    def __init__(self, resolution: int = 16, channels: int = 3, num_classes: int = 0, width: int = 8, patches: int = 0) -> None:
        super().__init__()
        self.num_classes, self.patches = num_classes, patches
        self.stem = nn.Conv2d(channels, width, 3, 2, 1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.dense = nn.Linear(2 * width, 2 * width)
        self.head = nn.Linear(2 * width, patches or 1)
        self.embed = nn.Embedding(num_classes, 2 * width) if num_classes else None
        self.feature_info = {"conv1": FeatureInfo(width, resolution // 2), "conv2": FeatureInfo(2 * width, resolution // 4),
                             "pre_logits": FeatureInfo(2 * width)}

    def forward(self, image: Tensor, c: Tensor | None = None, extra: Mapping[str, Tensor] | None = None,
                want: frozenset[str] = frozenset()) -> Judged:
        conv1 = F.silu(self.stem(image))
        conv2 = F.silu(self.conv2(conv1))
        pre_logits = F.silu(self.dense(conv2.mean((2, 3))))
        logits = self.head(pre_logits)                                            # [B,max(patches,1)]
        if self.embed is not None:
            logits = logits + (self.embed(c) * pre_logits).sum(1, keepdim=True)
        features = {"conv1": conv1, "conv2": conv2, "pre_logits": pre_logits}
        return Judged(logits if self.patches else logits[:, 0], {k: f for k, f in features.items() if k in want})


def look(D, x: Tensor, view: View, T: Augment | None = None, rng: Rng | None = None, c: Tensor | None = None) -> Pass:
    """A Pass made by hand: x -> T -> D, as the trainer would."""
    if view.pixel_grad:
        x = x.detach().requires_grad_()
    aug = T.draw(x, rng) if T else Augmented(x)
    return Pass(x, aug.image, D(aug.image, c, {}, view.features), view, c=c, aug=aug)


def context(side: str = "d", step: int = 0, slots: range = range(0, 4), batch: int = 4, rng: Rng | None = None, nets=None, **passes: Pass) -> Context:
    return Context(side, step, 0, step * batch, batch, slots, rng or Rng(0, batch=batch, slots=slots), nets, passes)
