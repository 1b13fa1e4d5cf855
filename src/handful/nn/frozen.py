"""Frozen weights: a part of a network that never changes, such as a pretrained feature network or a fixed random projection."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from handful.errors import HandfulError


class Frozen(nn.Module):
    """Holds a module that is made by `build` and never changes; calling it calls that module.

    build: makes the module, the same in every process and at every time: pretrained weights by their name, or random ones from a seed of their own.
    It is called when the module is first used, not before, and outside of the random streams of the run.

    The module is no submodule: its tensors are in no `parameters()`, `buffers()` or `state_dict()`, and copies of a network around it share it. So it
    is never trained, averaged, wrapped, cloned, all-reduced or saved. A checkpoint keeps its `digest`; a run that goes on makes it again, and another
    digest is refused. It follows the network to its device, stays in evaluation mode and in its own dtype (autocast decides on precision), and is
    differentiable with respect to its inputs.
    """

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._build = build
        self._place = torch.empty(0, device="cpu")            # follows the network, to know the device
        self._made: dict[torch.device, nn.Module] = {}        # by device; copies of this module share it. A dict, so that nothing is registered

    @property
    def net(self) -> nn.Module:
        """The frozen module, on the device of the network around it."""
        device = self._place.device
        if device not in self._made:
            made = self._original() if device.type == "cpu" else copy.deepcopy(self._original()).to(device)
            self._made[device] = made.requires_grad_(False).eval()
        return self._made[device]

    def _original(self) -> nn.Module:
        cpu = torch.device("cpu")
        if cpu not in self._made:
            with torch.random.fork_rng(devices=[]), torch.device(cpu), torch.inference_mode(False):
                self._made[cpu] = self._build().requires_grad_(False).eval()
        return self._made[cpu]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the sha256 of its tensors' names, shapes, dtypes and contents."""
        if "_digest" not in self.__dict__:
            found = hashlib.sha256()
            for name, tensor in sorted(self._original().state_dict().items()):
                found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            self._digest = found.hexdigest()[:16]
        return self._digest

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        self._place = fn(self._place)
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        new = Frozen(self._build)
        new._place, new._made = self._place, self._made
        if "_digest" in self.__dict__:
            new._digest = self._digest
        return new


def digests(**modules: nn.Module) -> dict[str, str]:
    """{"MODULE.path of a frozen part": its digest}."""
    return {f"{name}.{path}": part.digest for name, module in modules.items() for path, part in module.named_modules() if isinstance(part, Frozen)}


def must_be(digests_then: Mapping[str, str], said: str, **modules: nn.Module) -> None:
    """Raises HandfulError where the frozen parts of these modules are not those that the file `said` was written with."""
    now = digests(**modules)
    other = [path for path, digest in now.items() if digests_then.get(path) != digest]
    if other:
        raise HandfulError(f"{said} was made with other frozen weights than are here: {other[0]} is {now[other[0]]} now and was "
                           f"{digests_then.get(other[0], 'absent')}; get the same ones again (handful weights list), or start a new run")
