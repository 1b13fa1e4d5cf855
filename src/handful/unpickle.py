"""Reads pickles of numpy arrays and the tensors of TorchScript files, and executes nothing: any other class or function in the stream
is refused by name.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy._core import multiarray

from handful.errors import HandfulError

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,  # the name that numpy 1 wrote
    ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy.core.multiarray", "scalar"): multiarray.scalar,
    ("numpy._core.multiarray", "scalar"): multiarray.scalar,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs") from None


def arrays(data: bytes, said: str, encoding: str = "ASCII") -> dict:
    """The dictionary of arrays in `data`. Raises HandfulError, naming `said` and the fault, for anything that is not one.

    encoding: how the texts of a pickle of Python 2 become ours ("bytes": they stay bytes, as in `pickle.load`).
    """
    try:
        tree = _Unpickler(io.BytesIO(data), encoding=encoding).load()
    except Exception as fault:  # a broken stream raises nearly anything
        raise _refused(said, fault) from None
    if not isinstance(tree, dict):
        raise _refused(said, f"it holds a {type(tree).__name__}, not a dictionary")
    return tree


def torchscript(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a TorchScript file by their dotted names. Raises HandfulError for anything else; needs no torch.

    The file is a zip of code, which is not looked at, a pickle of the modules' attributes, and a member of numbers for each tensor.
    """
    try:
        with zipfile.ZipFile(path) as file:
            stem = next(name for name in file.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
            return dict(_leaves(_Archive(file, stem).load(), ""))
    except Exception as fault:
        raise _refused(path.name, fault or type(fault).__name__) from None


def _refused(said: str, why: object) -> HandfulError:
    return HandfulError(f"{said} was refused: {why}; get the file anew from its origin")


class _Module:
    """Any class of the archive's own: a module, of which only the attributes are kept."""

    state: dict = {}

    def __setstate__(self, state: dict) -> None:
        self.state = state


class _Archive(pickle.Unpickler):
    def __init__(self, file: zipfile.ZipFile, stem: str) -> None:
        super().__init__(io.BytesIO(file.read(stem + "data.pkl")))
        self.file, self.stem = file, stem

    def find_class(self, module: str, name: str):
        if module.startswith("__torch__."):
            return _Module
        try:
            return _ALLOWED_IN_ARCHIVES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs") from None

    def persistent_load(self, pid: tuple) -> np.ndarray:
        _, dtype, key, _, count = pid
        return np.frombuffer(self.file.read(f"{self.stem}data/{key}"), dtype, count)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_) -> np.ndarray:
    packed = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    if any(a != b for a, b, n in zip(strides, packed, shape) if n > 1):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} has strides {strides}")
    return storage[offset : offset + math.prod(shape)].reshape(shape)


_ALLOWED_IN_ARCHIVES = {
    ("torch", "FloatStorage"): "<f4",
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.jit._pickle", "build_intlist"): list,
    ("collections", "OrderedDict"): OrderedDict,
}


def _leaves(tree: object, name: str):
    if isinstance(tree, np.ndarray):
        yield name, tree
    elif isinstance(tree, _Module):
        for key, value in tree.state.items():
            yield from _leaves(value, f"{name}.{key}" if name else key)
