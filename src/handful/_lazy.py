"""`from handful.augment import DiffAugment`: the classes of a folder of methods by their own names. A file is imported when a class is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from difflib import SequenceMatcher
from typing import Any

from .catalog import names
from .errors import nearest


def lazy(kind: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` (PEP 562) of the package `handful.KIND`: the public classes of the files that `catalog.names(kind)` lists.

    Files whose names resemble the class's are looked into first, so `LeCam` imports `lecam.py` alone. Listing them all, and the hint for a name
    that doesn't exist, import every file.
    """

    def classes(method: str) -> dict[str, type]:
        module = importlib.import_module(f"handful.{kind}.{method}")
        return {name: cls for name, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__ and name[0] != "_"}

    def everything() -> list[str]:
        return sorted(name for method in names(kind) for name in classes(method))

    def attribute(name: str) -> Any:
        hint = ""
        if name[0].isupper():                         # a class; other names are asked for by the import system, and by tools
            alike = {method: SequenceMatcher(None, name.lower(), method.replace("_", "")).ratio() for method in names(kind)}
            for method in sorted(alike, key=alike.get, reverse=True):
                if found := classes(method).get(name):
                    return found
            hint = nearest(name, everything())
        raise AttributeError(f"module 'handful.{kind}' has no attribute '{name}'{hint}")

    return attribute, everything
