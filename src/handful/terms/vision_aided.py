"""Vision-aided training: beside D, small trained heads judge the images by the features of a pretrained network that doesn't change.

Kumari, Zhang, Shechtman, Zhu: Ensembling Off-the-shelf Models for GAN Training, CVPR 2022. With F the frozen network, T an augmentation of its own,
C_l the head on level l of F, and BCE the cross entropy of sigmoid(logit) with a target, averaged over the logits of one image, it adds

    L_D += weight * sum_l [ BCE(C_l(F(T x)), t) + BCE(C_l(F(T G(z))), 0) ]        L_G += weight * sum_l BCE(C_l(F(T G(z))), t)

t is 1 - smoothing. D, its loss, its augmentation and its penalties stay as they are: the heads see the images before the augmentation of D, and no
gradient penalty applies to them. In D's step no gradient passes through F; in G's step it does, down to the images, and the heads don't train.
Several networks are several terms, each with its own augmentation, heads and log: terms.eff={"use": "vision_aided"}, terms.vgg={"use":
"vision_aided", "network": "vgg16"}.

Images are resized to `size` by area interpolation, whatever their shape. Heads, of StyleGAN2's layers (equalised learning rate, leaky ReLU, the
filter 1,3,3,1 before strides); maps at 224 pixels:

    network        features                                        head
    efficientnet   stage3 40x28x28, stage5 112x14x14               3x3 convolution to h = 128 (stride 2), 1x1 to one logit (stride 2): 7x7, 3x3 logits
                   stage7 320x7x7, averaged over space             linear to h, linear to one logit
    vgg16          512x7x7, after the last pooling                 3x3 convolution to h = 256 (stride 2), linear to h, linear to one logit

Defaults are the paper's and its release's: weight 1, colour, translation and cutout of DiffAugment, and with it smoothing 0.2 (the target 0.8).
The heads have an Adam with the settings of D where D has layers of equalised learning rate too (StyleGAN2), as released.

Deviations:

* Networks. The release has CLIP, DINO, Swin and others, which no package registry carries. EfficientNet-Lite0 (ImageNet classes) takes the place of
  CLIP and DINO: two maps, after a third and two thirds of the depth, as theirs, and the mean of the last in place of the class token. VGG16 is that
  of LPIPS, whose pooling is not anti-aliased as the release's VGG16 is. A map of 7x7 or less keeps its size in the 3x3 convolution (as with CLIP).
* All networks begin with the run, or at `start_kimg`; the release trains without for 500 kimg, then adds one network after the other, each chosen by
  how well a linear classifier tells reals from fakes by its features.
* Where D has no layers of equalised learning rate, the heads train by lr 0.002 and betas 0, 0.99, StyleGAN2's, since those layers hardly move at the
  rates of others; the release has other layers there (with spectral normalisation).
* The heads take no step in the lazy phase of D; the release takes one without gradient. ADA as the augmentation of the heads, and class labels for
  them, are left out.
* Features are computed in the precision of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful import catalog
from handful.errors import UsageError, within
from handful.features import weights
from handful.features.efficientnet import EfficientNet
from handful.features.extractor import Extractor
from handful.features.vgg16 import LPIPSVGG16
from handful.nn.equalized import EqualConv2d, EqualLinear
from handful.nn.frozen import Frozen
from handful.ops.upfirdn import downsample2d
from handful.seam import Context, Needs, Nets, Result, Side, Term, View
from handful.terms._views import picture_shape

STYLEGAN2_ADAM = {"lr": 2e-3, "betas": (0.0, 0.99)}
SMALL_MAP = 7                # pixels a side up to which a 3x3 convolution has no stride
LEAST = {"efficientnet": 32, "vgg16": 64}        # pixels a side at which every head has at least one logit
NETWORKS: dict[str, type[Extractor]] = {"efficientnet": EfficientNet, "vgg16": LPIPSVGG16}


class VisionAided(Term):
    """network: "efficientnet" or "vgg16". size: pixels a side at which the network sees the images, a multiple of 32 (from 32 on; vgg16: 64); smaller
    than 224 costs less. weight: of both losses; at 0 nothing is computed. loss: "sigmoid" or "hinge" (relu(1 - real) + relu(1 + fake), -fake).
    smoothing: of the sigmoid's target, 0 to 0.5; None: 0.2. h: units of the heads; None: 128 (efficientnet), 256 (vgg16). policy: groups of
    DiffAugment, "" for none. start_kimg: before so many thousands of images the weight is 0. lr: of the heads; None: above. random: untrained
    weights of this seed instead of the pretrained ones, for tests and comparisons.

    Stats per image in D's step: margin_LEVEL, the mean logit of a head on the real image minus that on the fake one. Raises UsageError for numbers
    out of range, a size that is no multiple of 32, and smoothing with the hinge loss; HandfulError where the weights are absent.
    """

    may_change = frozenset({"weight"})
    lengths = ("start_kimg",)
    charts = {"Heads on frozen features, reals minus fakes": {f"margin_{level}": level for level in ("stage3", "stage5", "stage7", "relu5_3")}}

    def __init__(self, network: Literal["efficientnet", "vgg16"] = "efficientnet", size: int = 224, weight: float = 1.0,
                 loss: Literal["sigmoid", "hinge"] = "sigmoid", smoothing: float | None = None, h: int | None = None,
                 policy: str = "color,translation,cutout", start_kimg: float = 0.0, lr: float | None = None, random: int | None = None) -> None:
        super().__init__()
        within(0, weight=weight, start_kimg=start_kimg)
        within(0, 0.5, smoothing=smoothing)
        within(1, h=h)
        within(1e-9, lr=lr)
        if size % 32 or size < LEAST[network]:
            raise UsageError(f"size={size}: {network} takes images of {LEAST[network]}, {LEAST[network] + 32} ... pixels a side, multiples of 32")
        if smoothing and loss == "hinge":
            raise UsageError(f"smoothing={smoothing:g} with loss=hinge, which has no target: leave smoothing out, or take loss=sigmoid")
        self.size, self.weight, self.start, self.lr = size, weight, 1000 * start_kimg, lr
        self.hinge, self.target = loss == "hinge", 1 - (0.2 if smoothing is None else smoothing)
        self.pretrained = () if random is not None else (weights.entry_of(NETWORKS[network].name),)
        self.augment = catalog.build("augment", catalog.Use("diffaug", policy=policy))
        self.features = Frozen(partial(NETWORKS[network].made, random))
        self.heads = _heads(network, size, h)
        self.notes: list[str] = []

    def setup(self, nets: Nets) -> None:
        _ = self.features.net                                 # so that absent weights are an error now and not in the first step
        like_d = self.lr is None and any(isinstance(m, EqualConv2d | EqualLinear) for m in nets.D.modules())
        self.optim = {"heads": ("d", None if like_d else STYLEGAN2_ADAM | ({} if self.lr is None else {"lr": self.lr}))}
        if picture_shape(nets)[0] == 1:
            self.notes.append("vision_aided: the images are grey, and its network sees them as colour images with three equal channels")

    def needs(self, side: Side) -> Needs | None:
        if not self.weight:
            return None
        seen = View(logits=True)                              # the images alone; D's logits are computed anyway
        return Needs(real=seen, fake=seen) if side == "d" else Needs(fake=seen)

    def forward(self, ctx: Context) -> Result:
        if ctx.images_seen < self.start:
            return Result()
        if ctx.side == "g":
            logits = self.logits(self._shown(ctx, "fake"), ctx.nets)
            return Result(self.weight * self.loss_g(logits))
        with torch.no_grad():
            images = torch.cat([self._shown(ctx, "real"), self._shown(ctx, "fake")])
        logits = self.logits(images, ctx.nets)
        real, fake = ({level: part.chunk(2)[i] for level, part in logits.items()} for i in (0, 1))
        margins = {f"margin_{level}": (real[level].mean(1) - fake[level].mean(1)).detach() for level in logits}
        return Result(self.weight * self.loss_d(real, fake), margins)

    def logits(self, images: Tensor, nets: Nets) -> dict[str, Tensor]:
        """images [B,C,size,size] in [-1,1] -> the logits of each head, fp32 [B,*], by the name of its level. The network keeps a graph for images
        that have one."""
        with nets.autocast():
            maps = self.features.net.maps(images, tuple(self.heads))
            return {level: head(maps[level]).float() for level, head in self.heads.items()}

    def loss_d(self, real: Mapping[str, Tensor], fake: Mapping[str, Tensor]) -> Tensor:
        """Of logits [B,*] by level, as many reals as fakes: a scalar."""
        if self.hinge:
            return sum(F.relu(1 - real[level]).mean() + F.relu(1 + fake[level]).mean() for level in real)
        return sum(_bce(real[level], self.target) + _bce(fake[level], 0.0) for level in real)

    def loss_g(self, fake: Mapping[str, Tensor]) -> Tensor:
        """Of logits [B,*] by level: a scalar."""
        return sum(-logits.mean() if self.hinge else _bce(logits, self.target) for logits in fake.values())

    def _shown(self, ctx: Context, kind: str) -> Tensor:
        """The images of a shared pass as the network sees them: augmented anew, [B,C,size,size]."""
        x = self.augment.draw(ctx.passes[kind].x, ctx.rng.fork(kind)).image
        return x if x.shape[2:] == (self.size, self.size) else F.interpolate(x, size=(self.size, self.size), mode="area")


def _bce(logits: Tensor, target: float) -> Tensor:
    """Cross entropy of sigmoid(logits) with a target, the mean over all: -t log s - (1 - t) log(1 - s) = log(1 + e^l) - t l."""
    return (F.softplus(logits) - target * logits).mean()


def _heads(network: str, size: int, h: int | None) -> nn.ModuleDict:
    """{name of a level: its head}."""
    if network == "vgg16":
        channels, stride = LPIPSVGG16.stages["relu5_3"]
        return nn.ModuleDict({"relu5_3": _WholeMap(channels, h or 256, size // stride // 2)})
    (c3, s3), (c5, s5), (c7, _) = (EfficientNet.stages[level] for level in ("stage3", "stage5", "stage7"))
    h = h or 128
    return nn.ModuleDict({"stage3": _Patches(c3, h, size // s3), "stage5": _Patches(c5, h, size // s5), "stage7": _Mean(c7, h)})


class _Patches(nn.Module):
    """[B,cin,side,side] -> [B,n*n]: a logit for each part of the map."""

    def __init__(self, cin: int, h: int, side: int) -> None:
        super().__init__()
        self.conv = EqualConv2d(cin, h, 3, resample="down" if side > SMALL_MAP else None)
        self.out = EqualLinear(h, 1)                          # of every pixel: a 1x1 convolution with bias

    def forward(self, x: Tensor) -> Tensor:
        return self.out(downsample2d(self.conv(x)).permute(0, 2, 3, 1)).flatten(1)


class _Mean(nn.Module):
    """[B,cin,side,side] -> [B,1], by the mean over space."""

    def __init__(self, cin: int, h: int) -> None:
        super().__init__()
        self.hidden, self.out = EqualLinear(cin, h, lrelu=True), EqualLinear(h, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x.mean((2, 3))))


class _WholeMap(nn.Module):
    """[B,cin,2*side,2*side] before VGG16's last pooling -> [B,1]."""

    def __init__(self, cin: int, h: int, side: int) -> None:
        super().__init__()
        self.conv = EqualConv2d(cin, h, 3, resample="down")
        self.hidden, self.out = EqualLinear(h * (side // 2) ** 2, h, lrelu=True), EqualLinear(h, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(self.conv(F.max_pool2d(x, 2)).flatten(1)))
