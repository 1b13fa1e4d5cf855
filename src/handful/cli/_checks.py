"""What `handful doctor` looks at. A check yields lines (state, what, found, remedy); one that raises is itself a "broken" line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

Line = tuple[str, str, str, str]
Check = Callable[[], Iterator[Line]]


def run(check: Check) -> list[dict[str, str]]:
    lines: list[Line] = []
    try:
        lines.extend(check())
    except Exception as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        lines.append(("broken", check.__name__.replace("_", " "), found, "please report this line"))
    return [dict(zip(("state", "what", "found", "remedy"), line)) for line in lines]


def versions() -> Iterator[Line]:
    import numpy
    import PIL
    import torch

    from .. import __version__

    yield "ok", "handful", f"{__version__}, python {platform.python_version()}, {platform.system()} {platform.machine()}", ""
    yield "ok", "libraries", f"torch {torch.__version__}, numpy {numpy.__version__}, pillow {PIL.__version__}", ""
    if int(torch.__version__.split(".")[0]) == 2 and int(torch.__version__.split(".")[1]) < 6:
        yield "broken", "torch", f"{torch.__version__} is too old", "pip install 'torch>=2.6'"


def device() -> Iterator[Line]:
    import torch

    from ..infer.model import pick_device
    from ..training.choose import compiles, cpu_has_bf16, precision

    on = pick_device("auto")
    if on.type == "cpu":
        unused = shutil.which("nvidia-smi") and not torch.backends.cuda.is_built()
        yield "note", "device", "no GPU that torch can use: training runs on the CPU", (
            "there is an NVIDIA driver, but this torch is built without CUDA: install the build for it from pytorch.org"
            if unused else "the narrow recipes are made for it")
    elif on.type == "mps":
        yield "ok", "device", "Apple GPU", ""
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        yield "ok", f"cuda:{i}", f"{p.name}, {p.total_memory / 2**30:.0f} GB, compute capability {p.major}.{p.minor}", ""
    chosen = precision("auto", on)
    why = {"bf16": "this GPU computes it", "fp16": "this GPU has no bf16", "fp32": f"always on {on.type}"}[chosen]
    if on.type == "cpu":
        why = ("this CPU computes it" if cpu_has_bf16() else
               "it has no bf16 instructions: bf16 would be many times slower")
    yield "ok", "precision", f"{chosen}: {why}", ""
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"])), None)
    if on.type == "cuda" and not compiles("auto", on):
        yield "missing", "torch.compile", "no triton: training runs uncompiled", "pip install triton (Windows: triton-windows)"
    elif compiler is None:
        yield "missing", "torch.compile", "no C++ compiler: training runs uncompiled", (
            "install one: apt install g++, xcode-select --install, or Visual Studio Build Tools")
    else:
        usual = "on" if compiles("auto", on) else f"off by default on {on.type}"
        yield "ok", "torch.compile", f"{usual}; compiler {Path(compiler).name}", ""


def threads_and_memory() -> Iterator[Line]:
    import torch

    from ..data.memory import free_memory
    from ..training.threads import usable as usable_cores

    usable, used = usable_cores(), torch.get_num_threads()
    found = f"torch uses {used} of {usable} cores, {torch.backends.cpu.get_cpu_capability()}"
    yield ("ok", "threads", found, "") if used <= usable else (
        "note", "threads", found, f"OMP_NUM_THREADS={usable} avoids that they wait for each other")
    free = free_memory(unknown=None)
    if free is not None:
        found = f"{free / 2**30:.1f} GB free"
        yield ("ok", "memory", found, "") if free >= 4 * 2**30 else ("note", "memory", found, "choose a small --batch and --res")


def operators() -> Iterator[Line]:
    import torch

    from ..infer.model import pick_device

    on = pick_device("auto")
    try:
        weight = torch.zeros(1, device=on, requires_grad=True)
        weight.grad = torch.ones_like(weight)
        torch.optim.Adam([weight], fused=True).step()
        yield "ok", "fused Adam", f"works on {on.type}", ""
    except (RuntimeError, TypeError) as error:
        yield "note", "fused Adam", f"not on {on.type} ({str(error).splitlines()[0]})", "the plain one is used, a little slower"
    for name, works in (("conv", _conv), ("grid_sample", _grid_sample)):
        yield from _double_backward(name, works, on)


def _conv(x):
    import torch

    w = torch.linspace(-1, 1, 18, device=x.device, dtype=x.dtype).reshape(2, 1, 3, 3)
    return torch.nn.functional.conv2d(x, w, padding=1).pow(3)


def _grid_sample(x):
    import torch

    theta = torch.tensor([[[0.8, 0.3, 0.1], [-0.2, 0.9, 0.0]]], device=x.device, dtype=x.dtype)
    grid = torch.nn.functional.affine_grid(theta, [1, 1, 4, 4], align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, align_corners=False).pow(3)


def _double_backward(name: str, f, on) -> Iterator[Line]:
    """A gradient of a gradient (R1 needs it) against a difference quotient, in double precision where the device has it."""
    import torch

    dtype, h, tolerance = (torch.float32, 1e-2, 5e-2) if on.type == "mps" else (torch.float64, 1e-5, 1e-6)
    x = torch.linspace(-1, 1, 16, device=on, dtype=dtype).reshape(1, 1, 4, 4)

    def penalty(x):
        (g,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        return g.square().sum()

    label = f"R1 by {name}"
    try:
        x.requires_grad_()
        (exact,) = torch.autograd.grad(penalty(x), x)
        step = torch.zeros_like(x)
        step[0, 0, 1, 2] = h
        quotient = (penalty(x + step) - penalty(x - step)) / (2 * h)
        good = bool((exact[0, 0, 1, 2] - quotient).abs() <= tolerance * (1 + quotient.abs()))
    except (RuntimeError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        yield "note", label, f"not on {on.type} ({why})", "train with gradient penalties on --device cpu"
        return
    # every network has convolutions; grid_sample is ADA's alone
    yield ("ok", label, "double backward is exact", "") if good else (
        "broken" if name == "conv" else "note", label, "wrong second derivatives", "use another torch: pip install -U torch")


def weights() -> Iterator[Line]:
    from ..features import weights

    for name in weights.names():
        path = weights.path_of(name)
        yield ("ok", f"weights {name}", str(path), "") if path else (
            "missing", f"weights {name}", "not here yet", f"handful weights get {name}")


def extras() -> Iterator[Line]:
    wanted: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("handful") or ():
        if (extra := re.search(r"""extra\s*==\s*['"]([\w-]+)""", line)) and extra[1] not in ("dev", "test"):
            wanted.setdefault(extra[1], []).append(re.match(r"[\w.-]+", line)[0])
    for extra, distributions in sorted(wanted.items()):
        absent = [d for d in distributions if not _installed(d)]
        yield ("missing", f"extra {extra}", f"without {', '.join(absent)}", f"pip install 'handful[{extra}]'") if absent else (
            "ok", f"extra {extra}", "installed", "")


def _installed(distribution: str) -> bool:
    try:
        return bool(importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return False


def disk() -> Iterator[Line]:
    free = shutil.disk_usage(".").free / 2**30
    yield ("ok", "disk", f"{free:.1f} GB free here", "") if free >= 5 else (
        "note", "disk", f"{free:.1f} GB free here", "a run at 256 keeps up to 2 GB of checkpoints")
    if not os.access(".", os.W_OK):
        yield "note", "folder", "this folder can't be written to", "run handful from another one, or give --out"
    if sys.stdout.encoding and sys.stdout.encoding.lower().replace("-", "") not in ("utf8", "cp65001"):
        yield "note", "terminal", f"encoding {sys.stdout.encoding} can't show every file name", "PYTHONUTF8=1 mends it"


ALL: tuple[Check, ...] = (versions, device, threads_and_memory, operators, weights, extras, disk)
