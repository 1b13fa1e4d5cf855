"""Where the two-point experiment is found: in the source checkout, since an experiment is no part of the installed library."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ..errors import HandfulError

NAME = "handful_two_point"               # of the package examples/two_point among the imported modules
PACKAGE = Path(__file__).resolve().parents[1]


def experiment() -> ModuleType:
    """The module examples/two_point/experiment.py of the checkout ROOT whose ROOT/src/handful is this package; no other place is looked at.

    Raises HandfulError where the package is installed elsewhere, as from a wheel.
    """
    folder = PACKAGE.parents[1] / "examples" / "two_point"
    if PACKAGE.parts[-2:] != ("src", "handful") or not (folder / "experiment.py").is_file():
        raise HandfulError("diggan/two-point is part of the source checkout, in its folder examples/two_point, not of the installed package")
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, folder / "__init__.py", submodule_search_locations=[str(folder)])
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    return importlib.import_module(f"{NAME}.experiment")
