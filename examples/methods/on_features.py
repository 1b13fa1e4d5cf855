"""A discriminator on a frozen, pretrained feature network: a small convolutional head on each of some of its maps.

In the manner of Sauer, Chitta, Müller, Geiger: Projected GANs Converge Faster, NeurIPS 2021, without its random mixing of channels and scales: an
example of how frozen weights are used, not that method.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from handful.features.extractor import CLASSES
from handful.nn.frozen import Frozen
from handful.seam import Discriminator, FeatureInfo, Judged


class OnFeatures(Discriminator):
    """network: of `handful weights list`; stages: its maps, by name; width: channels of each head. random: weights of this seed in place of the
    pretrained ones (for tests)."""

    def __init__(self, *, resolution: int, channels: int = 3, num_classes: int = 0, network: str = "efficientnet",
                 stages: tuple[str, ...] = ("stage2", "stage3"), width: int = 32, random: int | None = None) -> None:
        super().__init__()
        self.num_classes, self.resolution, self.channels, self.stages = num_classes, resolution, channels, stages
        self.network = Frozen(lambda: _class(network).made(random))
        sizes = _class(network).stages
        self.heads = nn.ModuleDict({name: nn.Sequential(nn.Conv2d(sizes[name][0], width, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 1))
                                    for name in stages})
        self.stem = self.heads[stages[0]]
        self.feature_info = {"pre_logits": FeatureInfo(width * len(stages))}

    def forward(self, image: Tensor, c: Tensor | None = None, extra: Mapping[str, Tensor] | None = None,
                want: frozenset[str] = frozenset()) -> Judged:
        maps = self.network.net.maps(image, self.stages)
        inside = {name: head[1](head[0](maps[name])) for name, head in self.heads.items()}
        logits = [self.heads[name][2](x).flatten(1) for name, x in inside.items()]
        features = {"pre_logits": torch.cat([x.mean((2, 3)) for x in inside.values()], 1)}
        return Judged(torch.cat(logits, 1), {k: features[k] for k in want}, heads=tuple(part.shape[1] for part in logits))


def _class(network: str) -> type:
    module, name = CLASSES[network]
    return getattr(__import__(f"handful.features.{module}", fromlist=[name]), name)
