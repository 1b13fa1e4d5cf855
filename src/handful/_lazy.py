"""`from handful.augment import DiffAugment`: a room's classes by their own names, importing none but the file that holds the one asked for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .catalog import names
from .errors import nearest


def lazy(kind: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A room's `__getattr__` and `__dir__` (PEP 562), from the public classes in the files that the catalogue lists."""

    @cache
    def homes() -> dict[str, str]:
        folder = Path(__file__).parent / kind
        return {cls: name for name in names(kind)
                for cls in re.findall(r"^class ([A-Z]\w*)", (folder / f"{name}.py").read_text(encoding="utf-8"), re.MULTILINE)}

    def getattr_(name: str) -> Any:
        if name in homes():
            return getattr(importlib.import_module(f"handful.{kind}.{homes()[name]}"), name)
        hint = "" if name.startswith("__") else nearest(name, homes())
        raise AttributeError(f"module 'handful.{kind}' has no attribute '{name}'{hint}")

    return getattr_, lambda: sorted(homes())
