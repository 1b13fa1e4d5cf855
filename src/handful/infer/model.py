"""A trained generator, from whatever file it lies in, and pictures from it."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import catalog, tensors
from .. import config as config_module
from ..config import Config
from ..errors import HandfulError, UsageError, nearest
from ..files import parse_json
from ..nn import frozen
from ..rng import derive
from ..seam import Discriminator, Generator


class SeedRng:
    """`rng.Rng` for sampling: every row has a stream of its own, made from its seed, so that a picture doesn't depend on its batch."""

    def __init__(self, seeds: Sequence[int], device: torch.device, *purpose: object) -> None:
        self.seeds, self.device, self.purpose = seeds, device, purpose
        self._streams = [np.random.Generator(np.random.PCG64(derive(s, "sample", *purpose))) for s in seeds]
        self._shared = np.random.Generator(np.random.PCG64(derive("sample", *purpose)))

    def _rows(self, draw) -> Tensor:
        return torch.from_numpy(np.stack([draw(s) for s in self._streams])).to(self.device)

    def randn(self, n: int, *shape: int) -> Tensor:
        return self._rows(lambda s: s.standard_normal(shape, dtype=np.float32))

    def rand(self, n: int, *shape: int) -> Tensor:
        return self._rows(lambda s: s.random(shape, dtype=np.float32))

    def randint(self, high: int, n: int, *shape: int) -> Tensor:
        return self._rows(lambda s: s.integers(high, size=shape))

    def integer(self, high: int) -> int:
        return int(self._shared.integers(high))

    def fork(self, *purpose: object, batch: int | None = None, slots: range | None = None) -> SeedRng:
        return SeedRng(self.seeds, self.device, *self.purpose, *purpose)


class Model:
    """A generator ready to sample: `sample(seeds)` gives uint8 pictures. config: the run's settings; images_seen: how long it trained."""

    def __init__(self, generator: Generator, config: Config, images_seen: int = 0) -> None:
        self.generator, self.config, self.images_seen = generator.eval().requires_grad_(False), config, images_seen

    def __repr__(self) -> str:
        d = self.config.data
        return f"Model({self.config.g.name}, resolution={d.resolution}, classes={len(d.class_names)}, images_seen={self.images_seen})"

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device

    @property
    def class_names(self) -> list[str]:
        return self.config.data.class_names

    def to(self, device: torch.device | str) -> Model:
        self.generator.to(device)
        return self

    def latents(self, seeds: Iterable[int]) -> Tensor:
        """z [N, z_dim], fp32: row s is RandomState(s).randn(1, z_dim), the official convention of the StyleGAN line."""
        rows = [np.random.RandomState(check_seed(s)).randn(1, self.generator.z_dim) for s in seeds]
        return torch.from_numpy(np.concatenate(rows)).float().to(self.device)

    def label(self, label: str | int | None, seeds: Sequence[int]) -> Tensor | None:
        """c [N] for a class by name or number; None: the classes in turn, each seed having its own. Raises UsageError with the nearest name."""
        n, names = self.generator.num_classes, self.class_names
        if n == 0:
            if label is not None:
                raise UsageError(f"--class {label}: this model was trained without classes; leave it out")
            return None
        if label is None:
            return torch.tensor(seeds, device=self.device) % n
        if str(label) in names:
            index = names.index(str(label))
        elif str(label).isdigit() and int(label) < n:
            index = int(label)
        else:
            raise UsageError(f"no class '{label}'{nearest(str(label), names or [str(i) for i in range(n)])}")
        return torch.full((len(seeds),), index, device=self.device)

    def sample(self, seeds: Iterable[int], truncation: float = 1.0, label: str | int | None = None, batch: int = 16) -> np.ndarray:
        """Pictures, uint8 [N, H, W, C] in 0..255. truncation: 1 none, 0 the average picture; scales z where there is no mapping network."""
        parts = list(self.stream(seeds, truncation, label, batch))
        if not parts:
            raise UsageError("no seeds: name some, e.g. 0-63")
        return np.concatenate(parts)

    @torch.inference_mode()
    def stream(self, seeds: Iterable[int], truncation: float = 1.0, label: str | int | None = None, batch: int = 16) -> Iterator[np.ndarray]:
        """`sample`, a batch at a time."""
        seeds = [check_seed(s) for s in seeds]
        c = self.label(label, seeds)
        for at in range(0, len(seeds), batch):
            some = seeds[at:at + batch]
            labels = None if c is None else c[at:at + batch]
            yield to_uint8(self.generator.sample(self.latents(some), labels, rng=SeedRng(some, self.device), truncation=truncation))


def to_uint8(image: Tensor) -> np.ndarray:
    """[B,C,H,W] in [-1,1] to uint8 [B,H,W,C]."""
    return (image.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def check_seed(seed: int) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**32:
        raise UsageError(f"seed {seed}: seeds are whole numbers from 0 to 4294967295")
    return number


def load(model: str | Path, device: str | torch.device = "auto", trust: Iterable[str] = ()) -> Model:
    """A Model from a run folder, a checkpoint (.pt) or a .safetensors. Nothing in any of them is executed.

    trust: modules outside of the package whose classes the file may name. Raises HandfulError where the path is none of these, is damaged, or
    holds other tensors than its own configuration describes; Untrusted where it names a class of a module that isn't in `trust`.
    """
    path = Path(model)
    device = pick_device(str(device))
    if path.is_dir():
        path = _in_folder(path)
    elif not path.exists():
        near = nearest(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise HandfulError(f"{model} doesn't exist{near if 'did you mean' in near else '; MODEL is a run folder, a checkpoint or a .safetensors'}")
    if path.suffix in (".safetensors", ".pt") and not path.is_file():         # reading a pipe would wait for ever
        raise HandfulError(f"{model} is not a regular file; give a run folder, a checkpoint (.pt) or a .safetensors")
    if path.suffix == ".safetensors":
        return _from_safetensors(path, device, trust)
    if path.suffix == ".pt":
        state = tensors.load_checkpoint(path)
        return model_of(state, path, trust).to(device)
    raise HandfulError(f"{model} is no model: give a run folder, a checkpoint (.pt) or a .safetensors")


def generator_of(config: Config) -> Generator:
    """The generator that a configuration describes, freshly initialised."""
    return _network_of(config, "Generator")


def check_networks(config: Config, said: str, G: tensors.Header | None = None, D: tensors.Header | None = None) -> None:
    """Raises HandfulError where G's or D's tensors in the file `said` are not those of the configuration beside them. Allocates nothing."""
    for which, found in (("Generator", G), ("Discriminator", D)):
        if found is None:
            continue
        if (wanted := without_memory(config, which, said)) is not None:
            tensors.compare(wanted.state_dict(), found, said)


def without_memory(config: Config, which: str, said: str) -> Generator | Discriminator | None:
    """The network that the configuration in the file `said` describes, its tensors without memory; None where a class outside of the package can't be
    made so. Raises HandfulError where the network can't be made."""
    try:
        with torch.device("meta"):
            return _network_of(config, which)
    except HandfulError:
        raise
    except Exception as error:
        if catalog.is_outside((config.g if which == "Generator" else config.d).name):        # a trusted class may need real memory to be made
            return None
        raise HandfulError(f"{said} describes a {which.lower()} that can't be made ({' '.join(str(error).split())[:100]})") from None


def _network_of(config: Config, which: str) -> Generator | Discriminator:
    d = config.data
    use = config.g if which == "Generator" else config.d
    return catalog.build("arch", use, which, resolution=d.resolution, channels=d.channels, num_classes=len(d.class_names))


def pick_device(device: str) -> torch.device:
    """"auto": CUDA, else Apple's GPU, else the CPU. Raises UsageError where the named device isn't there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError):
        raise UsageError(f"--device {device}: not available here; try --device auto, or see handful doctor") from None
    return chosen


def _in_folder(folder: Path) -> Path:
    """The file of a run folder that holds its model."""
    if not (folder / "config.json").exists():
        raise HandfulError(f"{folder} is not a run folder: it has no config.json")
    if (folder / "model.safetensors").exists():
        return folder / "model.safetensors"
    found = sorted((folder / "checkpoints").glob("*.pt"))
    if not found:
        raise HandfulError(f"{folder} holds no model yet; go on with: handful train --resume {folder}")
    return found[-1]


def _from_safetensors(path: Path, device: torch.device, trust: Iterable[str]) -> Model:
    metadata, header = tensors.read_header(path)
    if "config" not in metadata:
        raise HandfulError(f"{path} has no configuration of handful in its metadata; it was written by something else")
    config = config_module.from_file(parse_json(metadata["config"], f"the configuration in {path}", dict), str(path), trust)
    seen = metadata.get("images_seen", "0")
    if not (seen.isdecimal() and seen.isascii() and len(seen) < 16):
        raise HandfulError(f"{path}: its metadata says images_seen={seen[:30]!r}, which is no count; it was changed")
    check_networks(config, str(path), header)
    held = parse_json(metadata.get("frozen", "{}"), f"the digests in {path}", dict)
    return _filled(config, tensors.read_tensors(path), int(seen), path, held).to(device)


def model_of(state: Mapping[str, Any], path: Path, trust: Iterable[str] = ()) -> Model:
    """The averaged generator of a checkpoint's contents, on the CPU. path: where they come from. Errors: as of `load`."""
    config = config_module.from_file(parse_json(state["config"], f"the configuration in {path}", dict), str(path), trust)
    check_networks(config, str(path), tensors.header_of(state["G_ema"]))
    return _filled(config, state["G_ema"], state["progress"]["images_seen"], path, state.get("frozen", {}))


def _filled(config: Config, found: Mapping[str, Tensor], images_seen: int, path: Path, held: Mapping[str, str]) -> Model:
    tensors.must_be_finite(found, str(path))
    generator = generator_of(config)
    frozen.must_be(held, str(path), G=generator)
    tensors.fill(generator, found, str(path))
    return Model(generator, config, images_seen)
