"""What a person would choose who knows the data and the machine: recipe, resolution, precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import catalog
from .. import config as config_module
from ..config import Config, merge
from ..data import Scan
from ..errors import HandfulError, UsageError

NARROW = {64: "fastgan64_narrow", 128: "fastgan128_narrow", 256: "fastgan256_narrow"}
FULL = {256: "fastgan256", 512: "fastgan512", 1024: "fastgan1024"}
NARROW_ADA = {32: "stylegan2_32_narrow", 64: "stylegan2_64_narrow", 128: "stylegan2_128_narrow"}
FULL_ADA = "stylegan2_auto"
MANY = 1000                             # images from which StyleGAN2-ADA is taken: FastGAN's paper compares up to here, ADA's starts here
ADA_SIDE = 256                          # pixels up to which one GPU trains StyleGAN2-ADA within a day or two
ADA_KIMG = 5000.0                       # a length for whoever asked for none: the published 25 000 are for eight GPUs


@dataclass(frozen=True)
class Choice:
    """tree: a configuration as a plain tree; why: what to tell the user; file: where the tree is from a file, which."""

    tree: dict[str, Any]
    why: list[str]
    file: str = ""


def choose(recipe: str, scanned: Scan, device: torch.device, asked: Mapping[str, Any], world: int = 1) -> Choice:
    """The recipe, chosen where it is "auto", or the settings of another run. asked: what the user set, as a tree; it always wins. world: how many
    processes (GPUs) share the work."""
    if recipe.endswith(".json"):
        return Choice(config_module.as_it_was(config_module.read_tree(Path(recipe))), [f"settings from {recipe}"], recipe)
    why = []
    res = asked.get("data", {}).get("resolution")
    res = min(res) if isinstance(res, list) else res             # recipes compute with one number
    chosen = {}
    if recipe == "auto":
        recipe, size, reason = _pick(scanned, device, res)
        why.append(reason)
        res = res or size
        chosen = {"train": {"kimg": ADA_KIMG}} if recipe == FULL_ADA else {}
    ask = {"resolution": res, "count": scanned.count, "device": device.type, "num_classes": scanned.num_classes,
           "batch": asked.get("train", {}).get("batch"), "gpus": world}
    tree = merge(merge({"recipe": recipe}, catalog.load("recipes", recipe)(**ask)), chosen)
    return Choice(tree, why)


def _pick(scanned: Scan, device: torch.device, res: int | None) -> tuple[str, int, str]:
    """(recipe, its resolution, the sentence that says why)."""
    side, sizes = min(scanned.median_size), sorted({*NARROW, *FULL, *NARROW_ADA})
    if res is not None and res not in sizes:
        raise UsageError(f"--res {res}: choose one of {', '.join(map(str, sizes))} pixels, or name a --recipe that knows {res}")
    have = f"{scanned.count} images of about {scanned.median_size[0]}x{scanned.median_size[1]} pixels"
    many, small = scanned.count >= MANY, (res or side) < 48
    if device.type == "cpu":
        if many or small:
            size = res if res in NARROW_ADA else max(s for s in NARROW_ADA if s <= max(side, 32))
            name = NARROW_ADA[size]
            why = f"from {MANY} images on" if many else "for pictures this small"
            return name, size, (
                f"{have} and no GPU: {name}, StyleGAN2 with adaptive augmentation, the better choice {why}, in a form that does 50 to 100 "
                f"times less work per image than the published one, which would need weeks here")
        size = res if res in NARROW else 64 if side < 96 else 128
        return NARROW[size], size, (f"{have} and no GPU: {NARROW[size]}, a FastGAN that does 30 to 90 times less work per image than the "
                                    f"published one, which would need days here")
    sizes = [s for s in (*NARROW, *FULL) if s <= max(side, 64)]
    size = res if res in FULL or res in NARROW else sizes[-1]
    if small or many and size <= ADA_SIDE:
        why = f"the better choice from {MANY} images on" if many else "the choice for pictures this small"
        return FULL_ADA, res or (32 if small else size), f"{have} and a GPU: {FULL_ADA}, StyleGAN2 with adaptive augmentation, {why}"
    name = FULL.get(size) or NARROW[size]
    why = f"far cheaper than StyleGAN2 at {size} pixels" if many else "made for sets of this size"
    return name, size, f"{have} and a GPU: {name}, FastGAN with DiffAugment, {why}"


# --------------------------------------------------------------------------------------------------------------- the classes


def wants_classes(config: Config) -> bool:
    """Whether the generator is made for labelled images."""
    return bool(getattr(catalog.part("arch", config.g.name, "Generator"), "wants_classes", False))


def about_classes(config: Config, classes: Mapping[str, int]) -> list[str]:
    """What to tell the user about the classes (images of each, by name). Raises HandfulError, or UsageError where labels weren't asked for, for
    classes that an architecture made for them can't be trained with."""
    path, arch = config.data.path, config.g.name
    if not classes:
        if wants_classes(config):
            raise UsageError(f"{arch} is made for labelled images, and '{path}' has no labels: {catalog.GIVE_LABELS}")
        return []
    few = [f"'{name}' has {'one image' if n else 'none'}" for name, n in classes.items() if n < 2]
    named = ", ".join(few[:3]) + (f" and {len(few) - 3} more" if few[3:] else "")
    if wants_classes(config):
        if len(classes) == 1:
            raise HandfulError(f"{arch} needs two classes or more, and the images of '{path}' are all of one ('{next(iter(classes))}'): label them "
                               f"otherwise (--labels folders or FILE.csv), or take another --recipe")
        if few:
            raise HandfulError(f"{arch} learns each class from its own images, and of '{path}' class {named}: add images, or take the class out")
    if len(classes) == 1:
        return [f"labels: one class only ('{next(iter(classes))}'), which is like none"]
    return [f"labels: class {named}, which is too few to learn from"] if few else []


# --------------------------------------------------------------------------------------------------------------- the machine


def precision(wanted: str, device: torch.device) -> str:
    """The number format of the networks' passes. auto: bf16 on GPUs and CPUs that compute it, fp16 on older GPUs, fp32 elsewhere.

    Where a CPU has the instructions a step of the full FastGAN takes 0.6 of the CPU time of fp32, a narrow one 0.7 to 0.95 (docs/results.md);
    where it hasn't, many times more.
    """
    if wanted == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        raise UsageError("--precision bf16: this CPU has no bf16 instructions and would be many times slower; leave it at auto")
    if wanted == "fp16" and device.type == "cpu":
        raise UsageError("--precision fp16: CPUs compute it many times slower than fp32; leave it at auto")
    if wanted != "auto":
        return wanted
    if device.type == "cpu":
        return "bf16" if cpu_has_bf16() else "fp32"
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself (AVX512-BF16 or AMX)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in probes)


def compiles(wanted: str, device: torch.device) -> bool:
    """Whether first-order passes are compiled. auto: on CUDA, where Triton is installed."""
    if wanted == "auto":
        try:
            import triton  # noqa: F401  (its presence is the question)
        except ImportError:
            return False
        return device.type == "cuda"
    return wanted == "on"


def data_budget(device: torch.device) -> int:
    """Bytes of the device that the images may fill."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.25)
    return 0 if device.type == "cpu" else 2 * 10**9


def machine(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads > 1 else ''}" if device.type == "cpu" else "the Apple GPU"
