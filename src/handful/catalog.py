"""A folder is a registry: `terms/lecam.py` is the term `lecam`. Nothing registers itself; listing the folder is the catalogue. Recipes alone share
files: every public function of a file in `recipes/` is one.

A name with a dot or colon (`mypackage.mymodule:MyTerm`) is a class outside the package: authors of methods need no fork. Here such a name is
imported, so whoever passes a configuration that came in a file asks `config.refuse_outside` first.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UsageError, nearest

KINDS = ("arch", "augment", "losses", "terms", "metrics", "recipes")
PLACES = {"g": ("arch", "Generator"), "d": ("arch", "Discriminator"), "augment": ("augment", ""), "loss": ("losses", "")}    # of a configuration
_FILLED_IN = ("resolution", "channels", "num_classes")       # known from the data set
_COUNTS = ("layers", "blocks", "depth")                      # settings so called, or ending so, say how many modules are made
MOST_LAYERS = 64
GIVE_LABELS = "give --labels folders, with each class in a folder of its own, or --labels FILE.csv, or take another --recipe"


class Use:
    """A method by name with keywords: `Use("lecam", weight=0.3)`. Plain data until `build`, so that configurations stay JSON."""

    __slots__ = ("kwargs", "name")

    def __init__(self, name: str, /, **kwargs: Any) -> None:
        self.name, self.kwargs = name, kwargs

    def __repr__(self) -> str:
        return f"Use({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.kwargs.items())])})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Use) and (self.name, self.kwargs) == (other.name, other.kwargs)

    def __hash__(self) -> int:
        return hash((self.name, repr(sorted(self.kwargs.items()))))

    def but(self, **kwargs: Any) -> Use:
        return Use(self.name, **{**self.kwargs, **kwargs})


def named_in(value: Any, where: str) -> Use | None:
    """The method that a setting's value names, {"use": NAME, keyword: value, ...}: of the kind of the method whose setting it is. None where it names
    none. Raises UsageError for a class outside of the package: files name those in the places that `config.outside` knows, and nowhere else."""
    if not isinstance(value, Mapping) or not isinstance(value.get("use"), str):
        return None
    if is_outside(value["use"]):
        raise UsageError(f"{where}: '{value['use']}' is a class outside of the package, which can't be named there; name one of handful list")
    return Use(value["use"], **{k: v for k, v in value.items() if k != "use"})


def is_outside(name: str) -> bool:
    """Whether a name stands for a class outside of the package."""
    return ":" in name or "." in name


def module_of(name: str) -> str:
    """The module that the name of a class outside of the package asks to import."""
    return name.replace(":", ".").rpartition(".")[0]


def names(kind: str) -> list[str]:
    """The methods of one kind, by listing its folder. Costs no import."""
    if kind not in KINDS:
        raise UsageError(f"unknown kind '{kind}'{nearest(kind, KINDS)}")
    return sorted(_recipes() if kind == "recipes" else (p.stem for p in _files(kind)))


def _files(kind: str) -> list[Path]:
    return [p for p in (Path(__file__).parent / kind).glob("*.py") if not p.stem.startswith("_")]


@cache
def _recipes() -> dict[str, tuple[str, str]]:
    """Of every recipe, by its name, the file (without .py) and the docstring. Costs no import."""
    return {node.name: (path.stem, ast.get_docstring(node) or "")
            for path in _files("recipes") for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}


def load(kind: str, name: str) -> Any:
    """The class of a method; for `arch` the module with its `Generator`, its `Discriminator`, or both; for `recipes` the function. Raises UsageError
    with the nearest name."""
    if is_outside(name):
        return _outside(kind, name)
    if name not in names(kind):
        raise UsageError(f"unknown {_one(kind)} '{name}'{nearest(name, names(kind))}")
    if kind == "recipes":
        return getattr(importlib.import_module(f"handful.recipes.{_recipes()[name][0]}"), name)
    module = importlib.import_module(f"handful.{kind}.{name}")
    return module if kind == "arch" else _one_class(module, name)


def part(kind: str, name: str, which: str) -> type:
    """A class of an architecture's file: which is "Generator" or "Discriminator"; any other kind has one class.

    Raises UsageError where a class outside of the package is not what its place wants.
    """
    found = load(kind, name)
    if inspect.ismodule(found) and which not in networks(name):
        having = [n for n in names(kind) if which in networks(n)]
        raise UsageError(f"{_one(kind)} '{name}' has no {which.lower()}; these have one: {', '.join(having)}")
    found = getattr(found, which) if inspect.ismodule(found) else found
    if not inspect.isclass(found):
        raise UsageError(f"{_one(kind)} '{name}' is not a class; write it as package.module:Class")
    if is_outside(name):
        _must_fit(kind, found, name, which)
    return found


def networks(name: str) -> dict[str, type]:
    """The networks of an architecture's file by their names there, "Generator" and "Discriminator": it has both, or one of them."""
    module = load("arch", name)
    return {which: getattr(module, which) for which in ("Generator", "Discriminator") if inspect.isclass(getattr(module, which, None))}


def _must_fit(kind: str, cls: type, name: str, which: str) -> None:
    """A class outside of the package is what its place wants, before anything of it is called."""
    from . import seam

    if kind == "losses":
        fits, wanted = callable(getattr(cls, "d", None)) and callable(getattr(cls, "g", None)) and hasattr(cls, "paired"), "no AdversarialLoss"
    elif kind == "metrics":
        fits, wanted = callable(getattr(cls, "compute", None)) and hasattr(cls, "takes"), "no Metric"
    else:
        wanted = {"arch": f"no {which}", "augment": "no Augment", "terms": "neither a Term nor a Wrapper"}[kind]
        fits = issubclass(cls, {"arch": getattr(seam, which, ()), "augment": seam.Augment, "terms": (seam.Term, seam.Wrapper)}[kind])
    if not fits:
        raise UsageError(f"{_one(kind)} '{name}' is {wanted} (handful.seam says what that is): derive the class from it, or name another")


def check(kind: str, use: Use, where: str, which: str = "") -> None:
    """Raises UsageError where a keyword of `use` is unknown or ill-typed; `where` is its place in the configuration."""
    cls = part(kind, use.name, which)
    known = keywords(cls)
    for key, value in use.kwargs.items():
        if key in _FILLED_IN:
            raise UsageError(f"{where}.{key} follows from the data; set data.{key if key != 'num_classes' else 'labels'} instead")
        if key not in known:
            raise UsageError(f"{where}: '{use.name}' has no setting '{key}'{nearest(key, set(known) - set(_FILLED_IN))}")
        _typed(known[key], value, f"{where}.{key}")
        if inner := named_in(value, f"{where}.{key}"):
            check(kind, inner, f"{where}.{key}", which)
        if key.rpartition("_")[2] in _COUNTS and isinstance(value, int | float) and value > MOST_LAYERS:
            raise UsageError(f"{where}.{key}={value}: at most {MOST_LAYERS}")
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and key not in use.kwargs and key not in _FILLED_IN:
            raise UsageError(f"{where}: '{use.name}' needs the setting '{key}'")


def build(kind: str, use: Use, which: str = "", **filled_in: Any) -> Any:
    """The object that `use` names. filled_in: settings known from elsewhere (resolution ...), passed on where the constructor takes them."""
    cls = part(kind, use.name, which)
    known = keywords(cls)
    kwargs = {k: v for k, v in filled_in.items() if k in known} | {k: _typed(known[k], v, k) for k, v in use.kwargs.items() if k in known}
    check(kind, use, use.name, which)
    return cls(**kwargs)


def keywords(cls: type) -> dict[str, inspect.Parameter]:
    """The constructor's settings, with annotations resolved."""
    signature = inspect.signature(cls.__init__)
    hints = typing.get_type_hints(cls.__init__)
    return {k: p.replace(annotation=hints.get(k, Any)) for k, p in signature.parameters.items()
            if k != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def conflicts(kind: str, name: str) -> list[tuple[str, str]]:
    """What a method can't be combined with, and the remedy for each: the conflicts that its class states (of an architecture its Generator), labels
    where it is made for labelled images, and roles that only one term of a run can have. Empty where it states nothing."""
    found = load(kind, name)
    cls = getattr(found, "Generator", found) if kind == "arch" else found
    called = "NAME" if is_outside(name) else name
    stated = [(c.what, c.remedy.format(name=called)) for c in getattr(cls, "conflicts", ())]
    if getattr(cls, "wants_classes", False):
        stated.append(("images without labels", GIVE_LABELS))
    for role in sorted(getattr(cls, "roles", ())):
        others = [n for n in names("terms") if role in getattr(load("terms", n), "roles", ())]
        stated.append((f"another {role} ({', '.join(others) or called})", "leave one of them out (--set terms.NAME=null)"))
    return stated


def summary(kind: str, name: str) -> str:
    """The first line of a method's docstring, read without importing it."""
    if kind == "recipes":
        doc = _recipes()[name][1]
    else:
        doc = ast.get_docstring(ast.parse((Path(__file__).parent / kind / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return doc.split("\n\n")[0].replace("\n", " ")


def _typed(parameter: inspect.Parameter, value: Any, where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}={value}: give a finite number")
    try:
        return TypeAdapter(parameter.annotation).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(f"{where}={value!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}") from None


def _one(kind: str) -> str:
    return "loss" if kind == "losses" else kind.removesuffix("s")


def _outside(kind: str, name: str) -> Any:
    module_name, _, attribute = name.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{_one(kind)} '{name}' can't be imported ({error}); write it as package.module:Class") from None


def _one_class(module: Any, name: str) -> Any:
    """The file's class: the only public one, or the one that is spelt like the file, case and underscores aside."""
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__ and not c.__name__.startswith("_")]
    same = [c for c in classes if c.__name__.lower() == name.replace("_", "")]
    if len(same) == 1 or len(classes) == 1:
        return (same or classes)[0]
    raise TypeError(f"{module.__name__} must hold one public class, found {[c.__name__ for c in classes]}")
