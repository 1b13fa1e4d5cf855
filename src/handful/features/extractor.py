"""What every feature network is to the metrics: images in, one vector of numbers an image out."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.errors import UsageError, nearest
from handful.features import weights

CLASSES = {
    "inception": ("inception", "Inception"),
    "vgg16": ("vgg16", "VGG16"),
    "dinov2": ("dinov2", "DINOv2"),
    "efficientnet": ("efficientnet", "EfficientNet"),
    "lpips_vgg16": ("vgg16", "LPIPSVGG16"),
}


def names() -> list[str]:
    return list(CLASSES)


def extractor(name: str, device: torch.device | str | None = None, **kw) -> Extractor:
    """The pretrained network `name` on `device`; `kw` are those of its class (Inception: resize="official" or "clean").

    Raises UsageError for an unknown name, HandfulError, naming `handful weights get`, where its weights are absent or damaged.
    """
    if name not in CLASSES:
        raise UsageError(f"there is no feature network '{name}'{nearest(name, CLASSES)}")
    module, cls = CLASSES[name]
    return getattr(import_module(f"handful.features.{module}"), cls).load(device, **kw)


class Extractor(nn.Module):
    """A frozen network in eval mode. `load()` has the pretrained weights, the constructor makes untrained ones.

    name: also that of its weights, unless `weights.entry_of` says otherwise. dim: length of a feature vector. resize: how images come to the size of
    the network, in words.
    stages: the maps that it can give, {name: (channels, stride in pixels)}. batch: images of one pass; more are taken in turn.
    """

    name: str
    dim: int
    resize: str
    stages: Mapping[str, tuple[int, int]] = {}
    batch: int = 16

    @classmethod
    def load(cls, device: torch.device | str | None = None, **kw) -> Extractor:
        """The pretrained network. Raises HandfulError, naming `handful weights get`, where the weights are absent or damaged."""
        with torch.inference_mode(False):  # a network outlives the block that it is loaded in
            with torch.device("meta"):  # no random numbers are drawn, and no memory is filled twice
                module = cls(**kw)
            tensors = {name: torch.from_numpy(array) for name, array in cls._weights().items()}
            module.load_state_dict(tensors, assign=True)
            return module.to(device=device or "cpu", memory_format=torch.channels_last)

    @classmethod
    def made(cls, random: int | None = None) -> Extractor:
        """The pretrained network, or an untrained one with weights of the seed `random`, which tests and dry runs take."""
        if random is None:
            return cls.load()
        torch.manual_seed(random)
        return cls()

    @classmethod
    def _weights(cls) -> Mapping[str, np.ndarray]:
        """The pretrained tensors, by their names in the state of the network."""
        return weights.load(weights.entry_of(cls.name))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for the weights: the start of the sha256 that `handful weights list` shows (of "lpips_vgg16", which has a
        part of them, of its own tensors)."""
        return weights.digest({name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()})[:16]

    def train(self, mode: bool = True) -> Extractor:
        """Stays in eval mode, whatever the module it is part of does."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Extractor:
        """Stays frozen."""
        return super().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """images [B,C,H,W], uint8 or floating point, 0..255, C 3 or 1 (repeated to 3), any size and device -> features [B,dim], fp32.

        Always computed in fp32: autocast and TF32 are off inside. Gradients flow to images that want them. Raises UsageError on
        other shapes.
        """
        self._check(images)
        device = next(self.parameters()).device
        found = []
        with _fp32(device):
            for part in images.split(self.batch if device.type == "cpu" else 4 * self.batch):
                x = self._resized(part.to(device=device, dtype=torch.float32))
                found.append(self._features(x.expand(-1, 3, -1, -1)))
        return torch.cat(found) if found else images.new_zeros(0, self.dim, dtype=torch.float32, device=device)

    def maps(self, images: Tensor, stages: Collection[str]) -> dict[str, Tensor]:
        """The maps [B,channels,H/stride,W/stride] (rounded as the network's padding has it) of these `stages`, for networks that are trained on them.

        images [B,C,H,W], floating point in [-1,1], C 3 or 1 (repeated to 3), taken at the size that they have. The pass goes no further than the
        last stage that is wanted, in one batch, in the precision that autocast says, and gradients flow to the images. Raises UsageError for other
        shapes and for names that are not in `stages`.
        """
        if unknown := sorted(set(stages) - self.stages.keys()):
            raise UsageError(f"{self.name} has no stage '{unknown[0]}'{nearest(unknown[0], self.stages)}; it has {', '.join(self.stages)}")
        self._check(images)
        found: dict[str, Tensor] = {}
        for name, x in self._stages(((images + 1) * 127.5).expand(-1, 3, -1, -1)):
            if name in stages:
                kind = x.device.type
                found[name] = x.to(torch.get_autocast_dtype(kind)) if kind != "meta" and torch.is_autocast_enabled(kind) else x
            if len(found) == len(set(stages)):
                break
        return found

    def _check(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise UsageError(f"{self.name} takes images [B,3,H,W] or [B,1,H,W], not {tuple(images.shape)}")

    def _resized(self, x: Tensor) -> Tensor:
        """[B,C,H,W], 0..255 -> the size of the network, 0..255."""
        raise NotImplementedError

    def _stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """[B,3,H,W], 0..255 -> (name, map) of each of `stages`, in the order of the network. Nothing writes into a map that was given."""
        raise NotImplementedError

    def _features(self, x: Tensor) -> Tensor:
        """[B,3,H,W], 0..255 -> [B,dim]."""
        raise NotImplementedError

    def _last(self, x: Tensor) -> Tensor:
        """The map of the last stage."""
        ((_, last),) = deque(self._stages(x), maxlen=1)       # the others aren't kept
        return last


@contextmanager
def _fp32(device: torch.device):
    """No autocast, no TF32, no bfloat16 inside products: a network computes the same numbers everywhere."""
    matmul, conv = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = conv


class Conv(nn.Module):
    """A convolution with bias, which the normalisation after it is folded into. Padding "same", or none: for stride 2 or padding=False."""

    def __init__(self, cin: int, cout: int, kernel: int | tuple[int, int] = 1, stride: int = 1, padding: bool = True, groups: int = 1) -> None:
        super().__init__()
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        inputs = cin // groups
        weight = torch.randn(cout, inputs, height, width) * (2 / (inputs * height * width)) ** 0.5  # keeps the scale of what goes through
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(cout))
        self.stride, self.groups = stride, groups
        self.padding = (height // 2, width // 2) if padding and stride == 1 else (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
