"""The configuration of a run: one tree, strict, JSON in and out, `--set a.b=c`.

Methods appear as {"use": NAME, keyword: value, ...}; their keywords are checked against the constructor. A saved file holds every default, so
that it reproduces the run whatever later versions change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from . import catalog
from .catalog import Use
from .errors import HandfulError, Untrusted, UsageError, nearest
from .files import parse_json, read_bounded


def _to_use(value: Any) -> Any:
    if isinstance(value, Mapping):
        if not isinstance(value.get("use"), str):
            raise ValueError('must name a method: {"use": NAME, ...}')
        return Use(value["use"], **{k: v for k, v in value.items() if k != "use"})
    if not isinstance(value, str | Use):
        raise ValueError('must name a method: {"use": NAME, ...}, or {} for the one of that name')
    return Use(value) if isinstance(value, str) else value


UseField = Annotated[Use, BeforeValidator(_to_use), PlainSerializer(lambda u: {"use": u.name, **u.kwargs})]


Pixels = Annotated[int, Field(ge=4, le=4096)]
Resolution = Annotated[Pixels | tuple[Pixels, Pixels], AfterValidator(lambda r: r[0] if isinstance(r, tuple) and r[0] == r[1] else r)]
Names = Annotated[list[str], BeforeValidator(lambda v: [n.strip() for n in v.split(",")] if isinstance(v, str) and v else v)]   # or "kid,fid"
Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True, allow_inf_nan=False)


class Data(Section):
    """What is trained on, and how a file becomes a tensor."""

    path: str = Field("", description="as typed: a folder, a zip, or a name such as cifar10:10%")
    resolution: Resolution = Field(256, description="pixels; or [height, width]")
    channels: Literal[1, 3] = Field(3, description="grey or colour")
    fit: Literal["crop", "pad", "stretch", "zoomed"] = Field(
        "crop", description="how another aspect ratio becomes this one; zoomed: a crop of random size, drawn for each image once, by the seed")
    filter: Literal["lanczos", "box", "bicubic", "bilinear", "nearest", "bilinear_tf1"] = Field(
        "lanczos", description="resize filter; it moves FID; bilinear_tf1: TensorFlow 1's, which skips pixels")
    flip: bool = Field(True, description="mirror half of the reals")
    labels: str | None = Field(None, description="folders, json, or a CSV file; none: unconditional")
    max_images: int | None = Field(None, ge=1, description="a subset of this size")
    subset: Literal["drawn", "first"] = Field("drawn", description="which images those are: drawn by the seed, or the first in the order of names")
    holdout: float = Field(0.0, ge=0, lt=1, description="this share of the images is kept out of training, drawn by the seed, to see D overfit")
    groups: str | None = Field(None, description="images held out together: a regular expression on file names, or a CSV file (file,group)")
    skip_bad: bool = Field(False, description="train without the files that can't be read")
    window: tuple[float, float] | None = Field(None, description="range of 16-bit values that is scaled to black..white")
    count: int = Field(0, description="images found; filled in")
    class_names: list[str] = Field([], description="filled in")
    fingerprint: str = Field("", description="sha256 of the content; filled in")


class Optim(Section):
    """Adam."""

    lr: float = Field(2e-4, gt=0)
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    eps: float = Field(1e-8, gt=0)
    warmup_kimg: float = Field(0.0, ge=0, description="the learning rate rises linearly over this")
    decay_from_kimg: float | None = Field(None, ge=0, description="from here it falls linearly to 0 at the end of the run")


class Ema(Section):
    """The averaged generator that people sample from."""

    decay: float | None = Field(0.999, ge=0, lt=1, description="per iteration; or give halflife_kimg")
    halflife_kimg: float | None = Field(None, gt=0)
    rampup: float | None = Field(None, gt=0, description="half-life at most this share of the images seen (StyleGAN2: 0.05)")
    start_kimg: float = Field(0.0, ge=0, description="until here the average is the generator itself")
    buffers: Literal["standing", "copy", "ema"] = Field(
        "standing", description="batch-norm statistics of the average: measured on its own samples before use; the live ones; averaged")
    standing_batches: int = Field(8, ge=1, description="batches of samples that standing statistics are measured on")
    standing_batch: int = Field(16, ge=2, description="samples of each")
    standing_rule: Literal["own", "accumulated"] = Field(
        "own", description="each of these batches is normalised by its own statistics, or by the mean of those so far, its own among them")
    choose: bool = Field(True, description="averages of two more lengths are kept in ema/, and the model is one of any length if it scores better")


class Train(Section):
    """The loop."""

    kimg: float = Field(400.0, ge=0, description="length: thousands of real images shown to D")
    batch: int = Field(8, ge=1, description="images of one optimiser step, over all processes")
    micro_batch: int | None = Field(None, ge=1, description="images at once on one device; none: all")
    g_batch: int | None = Field(None, ge=1, description="batch of G's step; none: batch")
    order: Literal["dg", "gd"] = "dg"
    d_steps: int = Field(1, ge=1, description="D steps per G step")
    joint: bool = Field(False, description="one D pass over fakes and reals together")
    share_fakes: bool = Field(False, description="the D step's augmented fakes serve the G step too")
    fake_labels: Literal["data", "classes"] = Field("data", description="drawn from the images' labels, or uniformly over classes")
    augment_at: list[Literal["real", "fake_d", "fake_g"]] = Field(
        ["real", "fake_d", "fake_g"], description="where the augmentation acts; the paper's failure cases leave some out")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    threads: int | None = Field(None, ge=1, le=1024, description="of the CPU, part of the arithmetic; none: chosen by timing steps, and filled in")
    threads_fixed: bool = Field(False, description="the number never changes, however slow the run becomes; --threads says so")
    guard_kimg: float = Field(4.0, gt=0, description="non-finite gradients for so long, at most a tenth of the run, roll it back")


class Periodic(Section):
    """What happens around the step, in kimg."""

    log_kimg: float = Field(0.5, gt=0)
    preview_kimg: float = Field(10.0, gt=0)
    checkpoint_kimg: float = Field(40.0, gt=0)
    keep_checkpoints: int = Field(3, ge=1)
    preview_images: int = Field(36, ge=1)
    tensorboard: bool = False


class Evaluate(Section):
    """Scores during the run, and the checkpoint that they choose."""

    metrics: Names | None = Field(None, description="none: kid below 5000 images, else fid, where the network's weights are; []: no scores")
    every_kimg: float | None = Field(None, gt=0, description="none: with every checkpoint")
    samples: int | None = Field(None, ge=2, description="none: as many as there are images, from 1000 to 5000")
    budget: float | None = Field(0.1, gt=0, le=1, description="at most this share of the run's time; beyond it, none; null: no limit")
    against: str | None = Field(None, description="DATA to score against; none: the run's own images, or for metrics of unseen ones, those")
    best: str | None = Field(None, description="the metric that chooses model.safetensors; none: the first")
    stop: Literal["auto"] | None = Field(
        None, description="auto: the run ends when that metric has not improved in `patience` evaluations, or samples become copies")
    patience: int = Field(5, ge=1, description="evaluations in a row without improvement after which evaluate.stop=auto ends the run")
    statistics: Literal["standing", "batch"] = Field(
        "standing", description="batch norm while samples are scored: as people's samples have it, or of each batch of samples (BigGAN's papers)")
    together: int = Field(50, ge=2, le=1000, description="samples that share batch statistics")
    rounded: bool = Field(True, description="samples are scored as people get them, rounded to 8 bits")


class Config(Section):
    format: Literal[1] = 1
    handful: str = Field("", description="version that wrote the file")
    recipe: str = ""
    seed: int = Field(0, ge=0)
    data: Data = Data()
    g: UseField = Use("fastgan")
    d: UseField = Use("fastgan")
    augment: UseField = Use("none")
    loss: UseField = Use("hinge")
    terms: dict[str, UseField] = {}
    optim_g: Optim = Optim()
    optim_d: Optim = Optim()
    ema: Ema = Ema()
    train: Train = Train()
    every: Periodic = Periodic()
    evaluate: Evaluate = Evaluate()
    notes: list[str] = Field([], description="why these settings were chosen, where handful chose")


BEFORE = (("d", "biggan", "skip", "plain"),                   # place, method ("": a section), setting, what was done before there was the setting
          ("ema", "", "choose", False))


def sections(tree: Mapping[str, Any], *names: str) -> Config:
    """Sections of a tree, checked by themselves before the rest is known; all else at its default. Raises UsageError."""
    return _validated({name: tree[name] for name in names if name in tree})


def parse(tree: Mapping[str, Any]) -> Config:
    """A checked configuration from a plain tree; every fault is named in one UsageError."""
    terms = tree.get("terms") or {}
    if not isinstance(terms, Mapping):
        raise UsageError(f"terms={terms!r}: must be terms by name, e.g. --set terms.r1.gamma=1")
    for name in terms:
        if not str(name).isidentifier():                     # it is part of names in the log and in checkpoints
            raise UsageError(f"a term can't be called '{name}'; give it a name of letters and digits, and the method by terms.NAME.use")
    tree = {**tree, "terms": {k: _named(k, v) for k, v in terms.items() if v is not None}}
    config = _validated(tree)
    for name, (kind, which) in catalog.PLACES.items():
        catalog.check(kind, getattr(config, name), name, which)
    for key, use in config.terms.items():
        catalog.check("terms", use, f"terms.{key}")
    if config.train.micro_batch and config.train.batch % config.train.micro_batch:
        raise UsageError(f"train.micro_batch={config.train.micro_batch} must divide train.batch={config.train.batch}")
    if config.train.share_fakes and config.train.order != "dg":
        raise UsageError("train.share_fakes=true: D's step must come first for G's to take its fakes; set train.order=dg")
    if config.ema.rampup is not None and config.ema.halflife_kimg is None:
        raise UsageError(f"ema.rampup={config.ema.rampup} shortens a half-life: set ema.halflife_kimg too")
    return config


def resolved(config: Config) -> Config:
    """The same configuration with every keyword of every method written out."""
    from . import __version__

    out = config.model_copy(deep=True)
    out.handful = __version__
    for name, (kind, which) in catalog.PLACES.items():
        setattr(out, name, _filled(kind, getattr(out, name), which))
    out.terms = {k: _filled("terms", use) for k, use in out.terms.items()}
    return out


def to_tree(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def dumps(config: Config) -> str:
    return json.dumps(to_tree(config), indent=1, ensure_ascii=False)


def read(path: Path, trust: Iterable[str] = (), given: Iterable[str] = ()) -> Config:
    """A saved configuration. trust, given: as of `from_file`. Raises HandfulError where the file isn't one."""
    return from_file(read_tree(path), str(path), trust, given)


def read_tree(path: Path) -> dict[str, Any]:
    """The plain tree of a saved configuration, not checked yet. Raises HandfulError where the file isn't one."""
    return parse_json(read_bounded(path), f"the configuration {path}", dict)


def from_file(tree: Mapping[str, Any], said: str, trust: Iterable[str] = (), given: Iterable[str] = ()) -> Config:
    """A checked configuration from a tree that came in the file `said`. Raises Untrusted, before anything is imported, where it names a class
    outside of the package that is neither of a module in `trust` nor one of the names `given` by the user; HandfulError where it is no good."""
    refuse_outside(tree, said, trust, given)
    try:
        return parse(as_it_was(tree))
    except UsageError as error:                              # nobody typed this
        raise HandfulError(f"{said} holds settings that can't be used: {error}") from None


def as_it_was(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A run's own file holds every setting, so one that isn't in it is younger than the run: where its default changed what is computed, the file
    gets what was computed before."""
    tree = dict(tree)
    for place, name, key, value in BEFORE if tree.get("handful") else ():
        use = tree.get(place)
        if isinstance(use, Mapping) and use.get("use", "") == name and key not in use:
            tree[place] = {**use, key: value}
    return tree


def refuse_outside(tree: Mapping[str, Any], said: str, trust: Iterable[str] = (), given: Iterable[str] = ()) -> None:
    """Raises Untrusted where a tree that came in the file `said` names a class outside of the package that nobody allowed."""
    trust, given = set(trust), set(given)
    for module in trust:
        if not all(part.isidentifier() for part in module.split(".")):
            raise UsageError(f"--trust {module}: name one module, as in --trust mypackage.mymodule")
    found = {place: name for place, name in outside(tree).items() if name not in given and catalog.module_of(name) not in trust}
    if found:
        named = ", ".join(f"'{name}' as {place}" for place, name in found.items())
        modules = {catalog.module_of(name) for name in found.values()}
        raise Untrusted(f"{said} names code outside of handful that would be imported and run: {named}", modules)


def outside(tree: Mapping[str, Any]) -> dict[str, str]:
    """The classes outside of the package that a plain tree names, by their places: {"g": "mypackage.mymodule:MyG", "terms.mine": ...}."""
    terms = tree.get("terms") if isinstance(tree.get("terms"), Mapping) else {}
    places = {**{place: tree.get(place) for place in catalog.PLACES}, **{f"terms.{key}": value for key, value in terms.items()}}
    named = {place: value.get("use") if isinstance(value, Mapping) else value for place, value in places.items()}
    named = {place: value.name if isinstance(value, Use) else value for place, value in named.items()}
    scores = tree.get("evaluate") if isinstance(tree.get("evaluate"), Mapping) else {}
    metrics = scores.get("metrics") or []
    for name in metrics.split(",") if isinstance(metrics, str) else metrics if isinstance(metrics, list) else []:
        named[f"metric {name}"] = name.strip() if isinstance(name, str) else None
    return {place: name for place, name in named.items() if isinstance(name, str) and catalog.is_outside(name)}


def modules_of(config: Config) -> tuple[str, ...]:
    """The modules outside of the package that a configuration in use has imported."""
    return tuple(sorted({catalog.module_of(name) for name in outside(to_tree(config)).values()}))


def assign(tree: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """`--set a.b=c` applied to a plain tree, in order. Values are JSON where they parse as JSON, text otherwise; `terms.x=null` drops a term."""
    tree = json.loads(json.dumps(tree))
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise UsageError(f"--set {setting}: write it as key=value, e.g. --set train.batch=16")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *parents, last = path.split(".")
        node = tree
        for depth, key in enumerate(parents):
            if not isinstance(node.get(key), dict):
                if depth and parents[0] == "terms":
                    node[key] = {"use": key}
                elif isinstance(node.get(key), str) and key in catalog.PLACES:
                    node[key] = {"use": node[key]}
                elif node.get(key) is None:
                    node[key] = {}
                else:
                    raise UsageError(f"--set {setting}: '{'.'.join(parents[:depth + 1])}' is a value, not a section")
            node = node[key]
        if path in catalog.PLACES and isinstance(value, str):
            value = {"use": value}
        node[last] = value
    return tree


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, section by section; a method of another name replaces the whole entry."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        same = isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("use", old.get("use")) == old.get("use")
        out[key] = merge(old, value) if same else value
    return out


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, by dotted path: {path: (in a, in b)}."""
    fa, fb = _flat(to_tree(a)), _flat(to_tree(b))
    return {k: (fa.get(k), fb.get(k)) for k in sorted(fa.keys() | fb.keys()) if fa.get(k) != fb.get(k)}


def _validated(tree: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        told: dict[str, str] = {}
        for where, text in map(_fault, error.errors()):
            told.setdefault(where, text)
        raise UsageError("; ".join(told.values())) from None


def _named(key: str, value: Any) -> Any:
    return {"use": key, **value} if isinstance(value, Mapping) and "use" not in value else value


def _filled(kind: str, use: Use, which: str = "") -> Use:
    known = catalog.keywords(catalog.part(kind, use.name, which))
    defaults = {k: p.default for k, p in known.items() if p.default is not p.empty and k not in ("resolution", "channels", "num_classes")}
    inner = {k: _filled(kind, named, which) for k, v in use.kwargs.items() if (named := catalog.named_in(v, k))}
    return Use(use.name, **(defaults | use.kwargs | {k: {"use": v.name, **v.kwargs} for k, v in inner.items()}))


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping):
        return {k: v for key, sub in tree.items() for k, v in _flat(sub, f"{path}.{key}" if path else key).items()}
    return {path: tree}


def _fault(error: Mapping[str, Any]) -> tuple[str, str]:
    """(the setting, what is wrong with it); of the alternatives of one setting, each has a fault, and the first is told."""
    where = ".".join(str(part) for part in (error["loc"] if error["loc"][:2] != ("data", "resolution") else error["loc"][:2]))
    if error["type"] == "extra_forbidden":
        section: Any = Config
        for part in error["loc"][:-1]:
            section = section.model_fields[part].annotation
        return where, f"unknown setting '{where}'{nearest(str(error['loc'][-1]), section.model_fields)}"
    problem = error["msg"].removeprefix("Value error, ")
    return where, f"{where}={error['input']!r}: {problem[0].lower()}{problem[1:]}"
