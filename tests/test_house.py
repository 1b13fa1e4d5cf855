"""The house stands as it is drawn: who may import whom, methods found by listing, strict configuration, stable randomness."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import handful
from handful import catalog, config, rng
from handful.catalog import Use
from handful.errors import UsageError
from making import tiny_config

SRC = Path(handful.__file__).parent
ROOT = Path(__file__).parents[1]
GROUND = {"errors", "files", "tensors", "fetch", "unpickle", "rng", "seam", "catalog", "config", "_lazy", "gradients", "__init__"}
MAY_IMPORT = {                                           # room -> rooms it may import; everything on the ground floor is free
    "ops": set(), "features": set(), "nn": {"ops"}, "arch": {"features", "nn", "ops"}, "data": set(), "augment": {"ops"}, "losses": set(),
    "terms": {"features", "nn", "ops"}, "recipes": set(), "infer": {"nn"},
    "interop": set(), "metrics": {"infer", "features", "data", "nn"}, "training": {"data", "features", "infer", "metrics", "nn", "ops"},
    "reproduce": {"training", "infer", "metrics", "features", "recipes"},
    "cli": {"training", "infer", "metrics", "data", "features", "reproduce"}}
GROUND_ORDER = {"errors": set(), "files": {"errors"}, "fetch": {"errors"}, "unpickle": {"errors"}, "rng": set(), "seam": {"gradients", "rng"},
                "gradients": {"seam"},                           # for its types alone
                "tensors": {"errors", "files"}, "catalog": {"errors", "seam"}, "config": {"catalog", "errors", "files"},
                "_lazy": {"catalog", "errors"}}


def imports(path: Path) -> set[str]:
    """The rooms (or ground-floor files) that a module of the package imports."""
    package = ("handful", *path.relative_to(SRC).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(a.name.split(".")) for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found |= {(*module, a.name) for a in node.names}
    return {parts[1] for parts in found if parts[0] == "handful" and len(parts) > 1} - {"__version__", "HandfulError", "UsageError"}


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_run_one_way(path):
    room = path.relative_to(SRC).parts[0].removesuffix(".py")
    found = imports(path)
    if room in GROUND_ORDER:
        assert found <= GROUND_ORDER[room] | {room}
    elif room in MAY_IMPORT:
        assert found - GROUND <= MAY_IMPORT[room] | {room}
        if room in ("terms", "augment", "losses", "arch") and not path.stem.startswith("_"):
            others = {f"handful.{room}.{n}" for n in catalog.names(room)} - {f"handful.{room}.{path.stem}"}
            text = path.read_text(encoding="utf-8")
            assert not any(f"{o} import" in text or f"from .{o.rsplit('.', 1)[1]} import" in text for o in others), "methods never import each other"


@pytest.mark.parametrize("folder", [SRC, Path(__file__).parent, ROOT / "benchmarks", ROOT / "examples"], ids=lambda p: p.name)
def test_every_name_that_is_imported_exists(folder):
    """In functions too, where an import that fails would be met by the first user of a command."""
    missing = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level and (node.module or "").split(".")[0] != "handful":
                continue
            if node.level and folder != SRC:                  # files of an example among themselves
                continue
            package = ("handful", *path.relative_to(SRC).parent.parts) if node.level else ()
            module = ".".join((*package[:len(package) - node.level + 1], *([node.module] if node.module else ())))
            found = importlib.import_module(module)
            missing += [f"{path.name}: {module}.{a.name}" for a in node.names
                        if not hasattr(found, a.name) and not (hasattr(found, "__path__") and importlib.util.find_spec(f"{module}.{a.name}"))]
    assert not missing


def test_a_file_is_its_registration():
    for kind in catalog.KINDS:
        files = [p.stem for p in (SRC / kind).glob("*.py") if not p.stem.startswith("_")]
        if kind == "recipes":                            # the public functions of its files
            modules = [importlib.import_module(f"handful.recipes.{file}") for file in files]
            functions = [(name, f) for m in modules for name, f in inspect.getmembers(m, inspect.isfunction) if f.__module__ == m.__name__]
            assert catalog.names(kind) == sorted(name for name, _ in functions if not name.startswith("_"))        # none is there twice
            assert all(catalog.load(kind, name) is f for name, f in functions if not name.startswith("_"))
        else:
            assert catalog.names(kind) == sorted(files)
        for name in catalog.names(kind):
            assert catalog.load(kind, name) is not None and catalog.summary(kind, name)
    with pytest.raises(UsageError, match="unknown term 'lecan'; did you mean 'lecam'?"):
        catalog.load("terms", "lecan")


def test_a_family_may_have_one_network_alone(monkeypatch):
    """Its generator or its discriminator; whoever asks for the other is told which families have one."""
    from handful.arch import dcgan
    from handful.cli.list import describe

    lone = types.ModuleType("handful.arch.lone", '"""A discriminator alone."""')
    lone.Discriminator = dcgan.Discriminator
    monkeypatch.setitem(sys.modules, "handful.arch.lone", lone)
    every = catalog.names
    monkeypatch.setattr(catalog, "names", lambda kind: every(kind) + ["lone"] * (kind == "arch"))
    having = [name for name in every("arch") if "Generator" in catalog.networks(name)]
    parsed = tiny_config("d=lone", "data.resolution=32")
    assert type(catalog.build("arch", parsed.d, "Discriminator", resolution=32, channels=3, num_classes=0)) is dcgan.Discriminator
    with pytest.raises(UsageError, match=f"arch 'lone' has no generator; these have one: {', '.join(having)}$"):
        tiny_config("g=lone")
    assert list(describe("arch", "lone")["settings"]) == ["Discriminator"]


def test_a_class_outside_the_package_needs_no_fork():
    assert type(catalog.build("arch", Use("tiny:TinyG", width=4), "Generator", resolution=16, channels=3, num_classes=0)).__name__ == "TinyG"
    with pytest.raises(UsageError, match="write it as package.module:Class"):
        catalog.load("terms", "no_such_module:Term")


def test_configuration_round_trip():
    first = tiny_config("terms.lecam.weight=0.5", "train.batch=4", "optim_d.betas=[0, 0.99]")
    assert first.optim_d.betas == (0.0, 0.99) and isinstance(first.optim_d.betas[0], float)
    assert first.terms["lecam"] == Use("lecam", weight=0.5, decay=0.9, start=1000, one_sided=True, update="before", every=1)
    again = config.parse(config.to_tree(first))
    assert config.dumps(again) == config.dumps(first) and not config.differences(first, again)


def test_every_fault_is_named_at_once():
    with pytest.raises(UsageError) as error:
        config.parse({"train": {"batch": "many", "kimgs": 3}, "sead": 1})
    text = str(error.value)
    assert "train.batch='many'" in text and "'train.kimgs'; did you mean 'kimg'?" in text and "'sead'; did you mean 'seed'?" in text


def test_set_reaches_into_methods_and_drops_terms():
    tree = config.assign(config.to_tree(tiny_config("terms.r1.gamma=1")), ["terms.r1.every=4", "terms.lecam.weight=1", "g.width=4", "loss=hinge"])
    parsed = config.parse(tree)
    assert parsed.terms["r1"].kwargs["every"] == 4 and "lecam" in parsed.terms and parsed.g.kwargs["width"] == 4 and parsed.loss.name == "hinge"
    assert not config.parse(config.assign(tree, ["terms.r1=null", "terms.lecam=null"])).terms
    with pytest.raises(UsageError, match="write it as key=value"):
        config.assign({}, ["train.batch"])
    with pytest.raises(UsageError, match="'train.batch' is a value"):
        config.assign(tree, ["train.batch.x=1"])


@pytest.mark.parametrize("setting, why", [
    ("terms=5", "terms=5: must be terms by name"), ("terms.r1=0.5", "terms.r1=0.5: must name a method"), ("g=null", "g=None: must name a method"),
    ("terms.r1.name=x", "'r1' has no setting 'name'"), ("terms.a/b.use=r1", "can't be called 'a/b'"), ("loss=hing", "unknown loss 'hing'"),
    ("loss=tiny:look", "'tiny:look' is not a class"), ("g.resolution=128", "g.resolution follows from the data; set data.resolution"),
    ("train.kimg=Infinity", "train.kimg=inf: input should be a finite number"), ("optim_d.betas=[0,2]", "optim_d.betas.1=2: input should be less"),
    ("data.resolution=abc", r"^data.resolution='abc': input should be a valid integer[^;]*$"), ("data.resolution=0", "greater than or equal to 4$")])
def test_what_makes_no_sense_is_said_in_a_line(setting, why):
    with pytest.raises(UsageError, match=why):
        tiny_config(setting)


def test_a_square_is_one_number():
    assert tiny_config("data.resolution=[32,32]").data.resolution == 32 and tiny_config("data.resolution=[32,64]").data.resolution == (32, 64)


@given(st.lists(st.one_of(st.integers(), st.text())))
def test_seeds_are_positive_63_bit(parts):
    assert 0 <= rng.derive(*parts) < 2**63


def test_seeds_are_the_same_in_every_process_and_version():
    assert rng.derive(0, "init", "g") == 654576671120830730
    line = "from handful.rng import derive; print(derive(0, 'real', ('a', 1)))"
    assert int(subprocess.check_output([sys.executable, "-c", line])) == rng.derive(0, "real", ("a", 1))


def test_draws_are_of_the_whole_batch_and_sliced():
    whole = rng.Rng(9)
    part = rng.Rng(9, batch=8, slots=range(2, 5))
    for draw in ("randn", "rand"):
        assert torch.equal(getattr(whole, draw)(8, 3)[2:5], getattr(part, draw)(3, 3))
    assert torch.equal(whole.randint(7, 8)[2:5], part.randint(7, 3))
    assert whole.integer(100) == part.integer(100) and torch.equal(whole.fork("x").rand(8)[2:5], part.fork("x").rand(3))
    with pytest.raises(ValueError, match="fork"):
        part.rand(4)


def test_importing_the_package_is_cheap():
    code = "import sys, handful; handful.__version__; assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_recipes_are_listed_without_being_imported():
    code = ("import sys; from handful import catalog; assert all(catalog.summary('recipes', n) for n in catalog.names('recipes')); "
            "assert 'torch' not in sys.modules and not any(m.startswith('handful.recipes') for m in sys.modules); "
            "from handful.reproduce import published; assert published.targets('fastgan256') and 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_everything_public_is_importable():
    for name in handful.__all__:
        assert getattr(handful, name) is not None
    assert callable(handful.train)


@pytest.mark.parametrize("kind", ["augment", "losses", "metrics", "terms"])
def test_every_class_is_importable_by_its_name(kind):
    package = importlib.import_module(f"handful.{kind}")
    methods = {catalog.load(kind, name) for name in catalog.names(kind)}
    assert {getattr(package, name) for name in dir(package)} >= methods
    assert not any(name.startswith("_") for name in dir(package))


@pytest.mark.parametrize("kind, cls", [("terms", "PAGAN"), ("augment", "DiffAugment"), ("augment", "NoAugment"), ("metrics", "KID")])
def test_a_class_is_imported_without_the_other_methods(kind, cls):
    code = (f"import sys, handful.{kind}\nassert 'torch' not in sys.modules\nfrom handful.{kind} import {cls}\n"
            f"print(*(m for m in sys.modules if m.startswith('handful.{kind}.') and '._' not in m), {cls}.__module__)")
    one, *more = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert more == [one]


def test_a_wrong_class_gets_the_nearest_and_a_file_is_no_class():
    import handful.terms

    with pytest.raises(AttributeError, match="module 'handful.terms' has no attribute 'LeCan'; did you mean 'LeCam'?"):
        handful.terms.LeCan                                              # noqa: B018
    code = "import sys\nfrom handful.losses import hinge\nassert 'handful.losses.wasserstein' not in sys.modules and hinge.Hinge"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_saved_run_keeps_what_was_computed_before_a_setting_existed():
    tree = config.to_tree(config.resolved(config.parse({"data": {"resolution": 64}, "g": {"use": "biggan"}, "d": {"use": "biggan"}})))
    assert config.from_file(tree, "a file").d.kwargs["skip"] is None                 # the table's, as it was saved
    del tree["d"]["skip"]
    assert config.from_file(tree, "a file").d.kwargs["skip"] == "plain"
    assert "skip" not in config.from_file({**tree, "handful": ""}, "a recipe by hand").d.kwargs
