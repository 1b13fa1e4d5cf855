"""DCGAN: strided and transposed convolutions with batch norm.

Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks", ICLR 2016: no pooling,
no hidden dense layers, batch norm in G but for its output and in D but for its first layer, ReLU and tanh in G, leaky ReLU of slope 0.2 in D,
weights from N(0, 0.02^2), z of 100 numbers. Kernels are 4x4 with stride 2, as is usual since (the paper: 5x5, which overlap unevenly).

    channels at side r    width S / (2 r): at 64 pixels 512 at 4x4 with width=64, the usual form (G 3 576 704 and D 2 765 568 parameters);
                          the paper's figure 1 has 1024 there: width=128
    z                     N(0, 1) (the paper: uniform)
    norm="spectral"       spectral norm on all of D in place of its batch norm, with biases (published: "none")

Beyond the paper: 32 and 128 pixels (a stage less or more), grey pictures, classes (a vector per class is added to z; D's logit gets a projection).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from handful.nn.labels import needed

from .. import seam
from ..errors import UsageError
from ..nn.conv import Conv2d, ConvTranspose2d, Embedding, ToMap, ToVector
from ..nn.norm import BatchNorm2d
from ..nn.spectral import Norm
from ..rng import Rng

SLOPE = 0.2


class Generator(seam.Generator):
    """z [B,z_dim] ~ N(0, 1) (and c int64 [B]) -> image [B,channels,S,S] in [-1,1] (tanh).

    resolution: S, 32, 64 or 128. width: see above. sync_batch_norm: batch statistics over all processes. Raises UsageError for other sizes.
    """

    has_batch_stats = True

    def __init__(self, resolution: int = 64, channels: int = 3, num_classes: int = 0, z_dim: int = 100, width: int = 64,
                 sync_batch_norm: bool = False) -> None:
        super().__init__()
        widths = list(_widths(resolution, width).values())                      # at 4, 8 ... S/2
        self.resolution, self.channels, self.num_classes, self.z_dim = resolution, channels, num_classes, z_dim
        self.embed = nn.Embedding(num_classes, z_dim) if num_classes else None
        self.first = ToMap(z_dim, widths[0], norm="none")
        self.up = nn.ModuleList(ConvTranspose2d(a, b, norm="none") for a, b in pairwise(widths))
        self.norms = nn.ModuleList(BatchNorm2d(w, sync=sync_batch_norm) for w in widths)
        self.to_image = ConvTranspose2d(widths[-1], channels, norm="none")

    def forward(self, z: Tensor, c: Tensor | None = None, *, rng: Rng) -> seam.Generated:
        latent = x = z if self.embed is None else z + self.embed(needed(c, self.num_classes))
        for conv, norm in zip((self.first, *self.up), self.norms):
            x = F.relu_(norm(conv(x)))
        return seam.Generated(self.to_image(x).tanh(), latent, z, c)


class Discriminator(seam.Discriminator):
    """image [B,channels,S,S] in [-1,1] (and c int64 [B]) -> logits [B].

    resolution, width: as in the generator. norm: "none" (batch norm, as published) or "spectral" (instead of it).
    num_classes > 0: plus <embedding of c, h>, h the last map summed over its pixels.
    Features: "map_R", R = S/2 ... 8, the map of side R, and "pre_logits", the map of side 4 before the last convolution.
    """

    def __init__(self, resolution: int = 64, channels: int = 3, num_classes: int = 0, width: int = 64, norm: Norm = "none",
                 sync_batch_norm: bool = False) -> None:
        super().__init__()
        table = dict(reversed(_widths(resolution, width).items()))              # at S/2 ... 8, 4
        self.resolution, self.channels, self.num_classes = resolution, channels, num_classes
        self.has_batch_stats = norm == "none"
        self.stem, *convs = (Conv2d(a, b, 4, 2, 1, norm=norm, bias="zeros" if norm == "spectral" else "none")
                             for a, b in pairwise([channels, *table.values()]))
        self.down = nn.ModuleList(convs)
        widths = list(table.values())
        self.norms = nn.ModuleList(BatchNorm2d(w, sync=sync_batch_norm) if norm == "none" else nn.Identity() for w in widths[1:])
        self.to_logit = ToVector(widths[-1], 1, 4, norm=norm)
        self.embed = Embedding(num_classes, widths[-1], norm=norm) if num_classes else None
        self.names = [f"map_{s}" if s > 4 else "pre_logits" for s in table]
        self.feature_info = {name: seam.FeatureInfo(w, s) for name, (s, w) in zip(self.names, table.items())}

    def forward(self, image: Tensor, c: Tensor | None = None, extra: Mapping[str, Tensor] | None = None,
                want: frozenset[str] = frozenset()) -> seam.Judged:
        x = F.leaky_relu_(self.stem(image), SLOPE)
        features = {self.names[0]: x}
        for name, conv, norm in zip(self.names[1:], self.down, self.norms):
            x = features[name] = F.leaky_relu_(norm(conv(x)), SLOPE)
        logits = self.to_logit(x)[:, 0]
        if self.embed is not None:
            logits = logits + (self.embed(needed(c, self.num_classes)) * x.sum((2, 3))).sum(1)
        return seam.Judged(logits, {k: f for k, f in features.items() if k in want})


def _widths(resolution: int, width: int) -> dict[int, int]:
    """Channels by side, 4 ... S/2."""
    if resolution not in (32, 64, 128):
        raise UsageError(f"resolution={resolution}: DCGAN makes square pictures of 32, 64 or 128 pixels; choose one of them")
    sides = [4 << i for i in range((resolution // 4).bit_length() - 1)]
    return {s: width * resolution // (2 * s) for s in sides}
