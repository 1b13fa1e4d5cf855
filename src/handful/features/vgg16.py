"""VGG16: up to its second fully connected layer, the feature space of improved precision and recall; and the convolutions that LPIPS carries.

Simonyan, Zisserman (ICLR 2015), configuration D; Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative
Models" (NeurIPS 2019) measure in the 4096 activations (after the ReLU) of the second fully connected layer.

Unverified: the official code uses a file of its own that no registry carries. These are torchvision's weights of the same network, its
usual input scaling, and an antialiased resize, so that values are close to the published protocol's, but not those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.features.extractor import Extractor
from handful.features.lpips import _NETS, _Conv
from handful.features.resize import pillow_bicubic

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for [0, 1]


def standardised(x: Tensor) -> Tensor:
    """[B,3,H,W], 0..255 -> zero mean and unit deviation over ImageNet."""
    mean, std = (255 * x.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (x - mean) / std


class _Convolutions(Extractor):
    """The thirteen convolutions, which both networks have."""

    resize = "antialiased bicubic of Pillow on floats, clipped to 0..255, to 224x224"
    stages = {"relu1_2": (64, 1), "relu2_2": (128, 2), "relu3_3": (256, 4), "relu4_3": (512, 8), "relu5_3": (512, 16)}

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_Conv(*layer[:5], impl="fast") for layer in _NETS["vgg16"])
        self.requires_grad_(False).eval()

    def _resized(self, x: Tensor) -> Tensor:
        return pillow_bicubic(x, 224)

    def _stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x, names = standardised(x).contiguous(memory_format=torch.channels_last), iter(self.stages)
        for conv, (*_, pool, compared) in zip(self.convs, _NETS["vgg16"]):
            if pool is not None:
                x = F.max_pool2d(x, *pool)
            x = conv(x).relu_()
            if compared:                                      # the last of each size, which LPIPS takes too
                yield next(names), x


class VGG16(_Convolutions):
    """Features [B,4096]: the second fully connected layer, after its ReLU. The dropout of training does not exist here."""

    name = "vgg16"
    dim = 4096

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.ModuleList([nn.Linear(512 * 7 * 7, 4096), nn.Linear(4096, 4096)])
        self.requires_grad_(False).eval()

    def _features(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self._last(x), 2, 2).flatten(1)  # [B,512,7,7] -> [B,25088], channel by channel
        for layer in self.fc:
            x = layer(x).relu_()
        return x


class LPIPSVGG16(_Convolutions):
    """Features [B,1280] of the VGG16 inside LPIPS (Zhang et al., CVPR 2018; the weights "lpips", without its heads): relu3_3, relu4_3 and relu5_3,
    each averaged over space, one after the other (256, 512 and 512 numbers).

    Images of 32 to 224 pixels are taken at their own size, as LPIPS takes them; to enlarge them would cost more and show nothing new. So only images
    of one size can be compared: of two folders, give `--res`.

    LPIPS scales its input as torchvision's VGG16 does: (x / 127.5 - 1 - shift) / scale is (x / 255 - mean) / deviation.
    """

    name = "lpips_vgg16"
    dim = 256 + 512 + 512
    resize = "antialiased bicubic of Pillow on floats, clipped to 0..255, to a square of the longer side, 32 to 224 pixels"

    @classmethod
    def _weights(cls) -> Mapping[str, np.ndarray]:
        return {name: array for name, array in super()._weights().items() if not name.startswith("heads.")}

    def _resized(self, x: Tensor) -> Tensor:
        return pillow_bicubic(x, min(max(32, *x.shape[2:]), 224))

    def _features(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)) for name, x in self._stages(x) if name in ("relu3_3", "relu4_3", "relu5_3")], 1)
