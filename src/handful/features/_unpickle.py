"""Reads pickles of numpy arrays and executes nothing: any other class or function in the stream is refused by name."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict

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
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which holds no weights") from None


def arrays(data: bytes, said: str) -> dict:
    """The dictionary of arrays in `data`. Raises HandfulError, naming `said` and the fault, for anything that is not one."""
    try:
        tree = _Unpickler(io.BytesIO(data)).load()
    except Exception as fault:  # a broken stream raises nearly anything
        raise HandfulError(f"{said} was refused: {fault}; get the file anew from its origin") from None
    if not isinstance(tree, dict):
        raise HandfulError(f"{said} was refused: it holds a {type(tree).__name__}, not a dictionary; get the file anew from its origin")
    return tree
