"""LPIPS: the distance of two pictures as a trained network sees it.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), eq. 1,
in the authors' version 0.1 ("lin"): five layers of VGG-16 (or AlexNet), each spatial vector scaled to unit length over its channels,
squared difference, non-negative weights per channel, mean over the plane, sum over the layers. FastGAN's reconstruction uses the
VGG-16 one. The network is frozen and always in eval mode (so the dropout of its training does not exist here); gradients flow to the
first picture alone.

Deviations, none of which moves a value by more than rounding: a vector is divided by max(|v|, 1e-10) instead of |v| + 1e-10, so that an
all-zero vector has a finite gradient; on the CPU the wide layers of VGG-16 run by Winograd's filtering (`impl="ref"` switches it off),
about 1e-5 relative in fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.errors import UsageError, nearest
from handful.features import _winograd, weights

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # the input scaling of version 0.1, for [-1, 1]
_EPS = 1e-10
_SMALLEST = {"vgg16": 16, "alexnet": 31}  # pixels a side at which the deepest layer is not empty

# (channels in, channels out, kernel, stride, padding, max-pool before it: (kernel, stride) or None, is its ReLU compared?)
_NETS = {
    "vgg16": [
        (3, 64, 3, 1, 1, None, False),
        (64, 64, 3, 1, 1, None, True),
        (64, 128, 3, 1, 1, (2, 2), False),
        (128, 128, 3, 1, 1, None, True),
        (128, 256, 3, 1, 1, (2, 2), False),
        (256, 256, 3, 1, 1, None, False),
        (256, 256, 3, 1, 1, None, True),
        (256, 512, 3, 1, 1, (2, 2), False),
        (512, 512, 3, 1, 1, None, False),
        (512, 512, 3, 1, 1, None, True),
        (512, 512, 3, 1, 1, (2, 2), False),
        (512, 512, 3, 1, 1, None, False),
        (512, 512, 3, 1, 1, None, True),
    ],
    "alexnet": [
        (3, 64, 11, 4, 2, None, True),
        (64, 192, 5, 1, 2, (3, 2), True),
        (192, 384, 3, 1, 1, (3, 2), True),
        (384, 256, 3, 1, 1, None, True),
        (256, 256, 3, 1, 1, None, True),
    ],
}
_ENTRIES = {"vgg16": "lpips", "alexnet": "lpips_alexnet"}  # names in handful.features.weights


class LPIPS(nn.Module):
    """Perceptual distance; `LPIPS.load()` has the pretrained weights, the constructor makes untrained ones.

    net: "vgg16" or "alexnet". impl: "fast" or "ref" (plain convolutions everywhere).
    """

    def __init__(self, net: str = "vgg16", impl: str = "fast") -> None:
        super().__init__()
        if net not in _NETS:
            raise UsageError(f"LPIPS has no network '{net}'{nearest(net, _NETS)}")
        if impl not in ("fast", "ref"):
            raise UsageError(f"impl is 'fast' or 'ref', not '{impl}'")
        self.net, self.impl = net, impl
        self.convs = nn.ModuleList(_Conv(*layer[:5], impl=impl) for layer in _NETS[net])
        self.heads = nn.ParameterList(torch.full((layer[1],), 1 / layer[1]) for layer in _NETS[net] if layer[6])
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, net: str = "vgg16", device: torch.device | str | None = None, impl: str = "fast") -> LPIPS:
        """The pretrained network from the cache. Raises HandfulError, naming `handful weights get`, where it is absent or damaged."""
        module = cls(net, impl)
        tensors = weights.load(_ENTRIES[net])
        module.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
        return module.to(device)

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in eval mode, whatever the module it is part of does."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> LPIPS:
        """Stays frozen: its fast path holds for constant weights only."""
        return super().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each pair, [B], fp32 (fp64 for fp64 pictures); gradients flow to `a` alone.

        a, b: [B,C,H,W] in [-1,1], C 3 or 1 (repeated to 3), any height and width from 16 pixels on (AlexNet: 31). In smaller pictures
        the deepest layer is empty: enlarge them first. Raises UsageError on other shapes.
        """
        if a.shape != b.shape:
            raise UsageError(f"LPIPS compares pictures of one shape, not {tuple(a.shape)} with {tuple(b.shape)}")
        return self.forward_targets(a, self.targets(b))

    @torch.no_grad()
    def targets(self, b: Tensor) -> tuple[Tensor, ...]:
        """What `forward_targets` needs of the second pictures: their unit feature vectors, one tensor per layer, without a graph."""
        units = []
        for f in self._features(b):
            f = _rows(f)
            units.append(f / torch.linalg.vector_norm(f, dim=-1, keepdim=True).clamp_min_(_EPS))
        return tuple(units)

    def forward_targets(self, a: Tensor, targets: tuple[Tensor, ...]) -> Tensor:
        """`forward(a, b)` with `targets(b)` computed before: [B]. Targets of several groups may be concatenated along their first axis."""
        distance = 0
        for f, unit, head in zip(self._features(a), targets, self.heads):
            distance = distance + _Distance.apply(_rows(f), unit, head)
        return distance

    def _features(self, x: Tensor) -> list[Tensor]:
        if x.dim() != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < _SMALLEST[self.net]:
            least = _SMALLEST[self.net]
            raise UsageError(
                f"LPIPS ({self.net}) takes [B,3,H,W] or [B,1,H,W] of at least {least}x{least} pixels, not {tuple(x.shape)}; enlarge the pictures"
            )
        # Padding comes after the scaling, so that it can't be folded into the first layer. One channel broadcasts to three.
        x = ((x - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        found = []
        for conv, (*_, pool, compared) in zip(self.convs, _NETS[self.net]):
            if pool is not None:
                x = F.max_pool2d(x, *pool)
            x = conv(x).relu_()
            if compared:
                found.append(x)
        return found


class _Conv(nn.Module):
    """A frozen convolution with bias. `weight` and `bias` are its state; Winograd's form of the weight is made when first needed."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, padding: int, impl: str) -> None:
        super().__init__()
        weight = torch.randn(cout, cin, kernel, kernel) * (2 / (cin * kernel**2)) ** 0.5
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(cout))
        self.stride, self.padding = stride, padding
        # Below 128 channels the transforms cost what the products save (measured).
        self.wide = impl == "fast" and kernel == 3 and stride == 1 and min(cin, cout) >= 128
        self._transformed = self._made_of = None

    def forward(self, x: Tensor) -> Tensor:
        if self.wide and x.device.type == "cpu" and x.dtype == self.weight.dtype and not torch.is_autocast_enabled("cpu"):
            version = None if self.weight.is_inference() else self.weight._version     # made under inference_mode: never changed
            made_of = (self.weight.data_ptr(), version, x.dtype)
            if self._made_of != made_of:
                self._transformed, self._made_of = _winograd.transform(self.weight), made_of
            return _winograd.conv3x3(x, self._transformed, self.bias)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


def _rows(f: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,HW,C], at least fp32; a view for channels_last features."""
    f = f.permute(0, 2, 3, 1).flatten(1, 2)
    return f if f.dtype == torch.float64 else f.float()


class _Distance(torch.autograd.Function):
    """mean over positions of sum_c w_c (a_c/|a| - t_c)^2, with its own backward: a third of the memory traffic of the composed form.

    a, t (unit vectors): [B,N,C]; w: [C]; returns [B].
    """

    @staticmethod
    def forward(ctx, a, t, w):
        inverse = torch.linalg.vector_norm(a, dim=-1, keepdim=True).clamp_min_(_EPS).reciprocal_()  # [B,N,1]
        d = torch.addcmul(t, a, inverse, value=-1)  # t - a/|a|
        ctx.save_for_backward(a, inverse, d, w)
        return (d.square().sum(1) * w).sum(1) / a.shape[1]  # no matrix product: autocast would round it

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        a, inverse, d, w = ctx.saved_tensors
        # With u = a/|a| and g = dL/du: dL/da = (g - u (u.g)) / |a|.
        g = d * (w * (-2 / a.shape[1] * grad)[:, None])[:, None]  # [B,N,C]
        along = (a * g).sum(-1, keepdim=True) * inverse.square()
        return g.addcmul_(a, along, value=-1).mul_(inverse), None, None

