"""Power-function averages of G's weights, and averages of any other length made from stored snapshots of them.

Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models" (EDM2, CVPR 2024), section 3 and appendix C, from a description
of the method. In an average that ends at t images, the weights of time s count in proportion to s^gamma. Its relative width is the standard deviation
of that profile as a share of t: sigma = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))). While a run goes on, two averages are kept (`Averages`),
and snapshots of both are stored in half precision. A profile of another width is approximated by a linear combination of the stored profiles (least
squares), and the same combination of the stored weights is the average of that width (`Snapshots`).

Deviations: the buffers of G are stored beside the averages, since those of StyleGAN2 (the mean of w) belong to the weights of their time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import config as config_module
from .. import tensors
from ..config import Config
from ..errors import HandfulError, UsageError
from ..infer.model import generator_of, pick_device, without_memory
from . import checkpoint, ema

WIDTHS = (0.05, 0.10)                # relative widths of the two averages
MOST_FILES, MOST_BYTES = 60, 2 * 10**9                       # of a run's snapshots
MOST_ERROR = 0.1                     # relative error of a combined profile (L2) up to which the average is given
MOST_NOISE = 10.0                    # factor on the rounding of half precision, 0.03 % of a weight: 0.3 % at most
WIDEST = 0.28                        # 0.2887 is that of gamma = 0, the plain mean over the whole run
_NAME = re.compile(r"\d{9,15}\.safetensors", re.ASCII)
_LENGTH = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(kimg)?", re.ASCII)


# ------------------------------------------------------------------------------------------------------------- the arithmetic


def gamma_of(width: float) -> float:
    """The exponent of a relative width: the largest real root of gamma^3 + 7 gamma^2 + (16 - width^-2) gamma + (12 - width^-2)."""
    q = width ** -2
    return max(float(root.real) for root in np.roots([1.0, 7.0, 16.0 - q, 12.0 - q]) if abs(root.imag) < 1e-9)


def width_of(gamma: float) -> float:
    """The relative width of an exponent, above -1."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def decay(gamma: float, batch: int, images_seen: int) -> float:
    """The factor on the old average in an update; images_seen includes this batch. The first update has 0: it copies the weights."""
    return (1 - batch / images_seen) ** (gamma + 1)


def gamma_of_halflife(halflife: float, images_seen: int) -> float:
    """The exponent of the average that forgets, at its end, as fast as one of this constant half-life; both in images. StyleGAN2's ramp-up, a
    half-life of 0.05 of the images seen, gives 12.9 at every time."""
    return math.log(2) * images_seen / halflife - 1


def halflife_of_gamma(gamma: float, images_seen: int) -> float:
    """The inverse of `gamma_of_halflife`, in images."""
    return math.log(2) * images_seen / (gamma + 1)


def inner(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> np.ndarray:
    """Inner products, float64, of profiles that end at t_a and t_b images. Arguments are broadcast."""
    t_a, gamma_a, t_b, gamma_b = (np.asarray(value, np.float64) for value in (t_a, gamma_a, t_b, gamma_b))
    first, last = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    return (gamma_a + 1) * (gamma_b + 1) * (first / last) ** np.where(t_a < t_b, gamma_b, gamma_a) / ((gamma_a + gamma_b + 1) * last)


def coefficients(times: Sequence[float], gammas: Sequence[float], at: float, gamma: float) -> tuple[np.ndarray, float]:
    """(x [N] float64 with sum 1, relative error): the combination of N stored profiles that is nearest to the one of exponent gamma at time `at`.

    times, gammas: of the stored profiles, none later than `at`. The error is the L2 distance of the two profiles over the norm of the wanted one.
    """
    t, g = np.asarray(times, np.float64), np.asarray(gammas, np.float64)
    products, wanted = inner(t[:, None], g[:, None], t, g), inner(t, g, at, gamma)
    x = np.linalg.solve(products, wanted)
    x /= x.sum()
    norm = float(inner(at, gamma, at, gamma))
    return x, math.sqrt(max(0.0, float(x @ products @ x - 2 * x @ wanted) / norm + 1))


# ------------------------------------------------------------------------------------------------------------ while a run goes on


class Averages:
    """The two running averages of G's parameters, on G's device, and which snapshots of them the run has stored (images seen, in order).

    A checkpoint holds both, so that they go on bit for bit. The averages read G and nothing else: training is the same without them.
    """

    def __init__(self, G: nn.Module) -> None:
        self.G = G
        self._live = dict(G.named_parameters())
        self._of = {width: [p.detach().clone() for p in self._live.values()] for width in WIDTHS}
        self._gamma = {width: gamma_of(width) for width in WIDTHS}
        self.files: list[int] = []
        size = sum(t.numel() * t.element_size() for t in _layout(G).values())
        self.most = min(MOST_FILES, MOST_BYTES // max(size, 1))

    @torch.no_grad()
    def update(self, batch: int, images_seen: int) -> None:
        """After an iteration of `batch` images; images_seen includes them. The host doesn't wait for the device."""
        live = list(self._live.values())
        for width, average in self._of.items():
            torch._foreach_lerp_(average, live, 1 - decay(self._gamma[width], batch, images_seen))

    def state_dict(self) -> dict[str, Any]:
        return {"averages": {f"{width:g}": dict(zip(self._live, average)) for width, average in self._of.items()}, "files": list(self.files)}

    def load_state_dict(self, state: Any, images_seen: int, said: str) -> None:
        """said: where the state comes from. Raises HandfulError where it isn't that of these averages."""
        wanted = self.state_dict()["averages"]
        averages, files = (state.get("averages"), state.get("files")) if isinstance(state, Mapping) else (None, None)
        if not isinstance(averages, Mapping) or averages.keys() != wanted.keys() or not all(isinstance(v, Mapping) for v in averages.values()):
            raise HandfulError(f"{said} doesn't hold averages of the widths {', '.join(wanted)}; take an earlier checkpoint")
        if not isinstance(files, list) or len(files) > MOST_FILES or not all(
                type(t) is int and before < t <= images_seen for before, t in zip([0, *files], files)):
            raise HandfulError(f"{said} holds no sound list of snapshots; take an earlier checkpoint")
        for width, named in averages.items():
            tensors.compare(wanted[width], tensors.header_of(named), f"{said}: width {width}")
        with torch.no_grad():
            for width, named in averages.items():
                for name, tensor in wanted[width].items():
                    tensor.copy_(named[name])
        self.files = list(files)

    @torch.no_grad()
    def write(self, folder: Path, images_seen: int) -> bool:
        """ema/IMAGES_SEEN.safetensors: both averages in half precision and G's buffers. False, and nothing is written, where a number doesn't fit
        into half precision or two files would be too large."""
        found = {f"{width:g}/{name}": p.half() for width, average in self._of.items() for name, p in zip(self._live, average)}
        norms = torch._foreach_norm(list(found.values()), float("inf"))
        if self.most < 2 or not torch.stack(norms).isfinite().all():
            return False
        found |= {f"buffer/{name}": b for name, b in _buffers(self.G).items()}
        tensors.write_tensors(folder / "ema" / f"{images_seen:09d}.safetensors", found,
                              {"format": "pt", "handful": str(tensors.FORMAT), "images_seen": str(images_seen)})
        return True

    def note(self, images_seen: int) -> None:
        """A snapshot was written at a regular beat: it joins the list; when that is full, every second one leaves it. The newest stays, and there is
        always room for one more, of the state at the end of the run."""
        self.files = [t for t in self.files if t < images_seen] + [images_seen]
        if len(self.files) > self.most - 1:
            self.files = self.files[::-2][::-1]

    def tidy(self, folder: Path, images_seen: int | None = None) -> list[int]:
        """Removes the snapshots that aren't in the list, but not one of the present state (images_seen). Returns those that are missing."""
        found = snapshots(folder)
        for images, path in found.items():
            if images not in self.files and images != images_seen:
                path.unlink(missing_ok=True)
        return [t for t in self.files if t not in found]

    def after_load(self, folder: Path, images_seen: int, say: Callable[[str], None]) -> None:
        """The folder as the loaded state has it: what is newer goes, and what is missing is said."""
        if missing := self.tidy(folder, images_seen):
            say(f"{len(missing)} of {len(self.files)} snapshots of averages are missing in {folder / 'ema'} (of {missing[0]} images"
                f"{', ...' if missing[1:] else ''}): other lengths are made from the rest")


def snapshots(folder: Path) -> dict[int, Path]:
    """The stored snapshots of a run by images seen, in order."""
    return {int(p.stem): p for p in sorted((folder / "ema").glob("*.safetensors"), key=lambda p: (len(p.name), p.name)) if _NAME.fullmatch(p.name)}


def _buffers(G: nn.Module) -> dict[str, Tensor]:
    """The buffers of G that its state dict has."""
    kept = G.state_dict().keys()
    return {name: b for name, b in G.named_buffers() if name in kept}


def _layout(G: nn.Module) -> dict[str, Tensor]:
    """What a snapshot of G holds, as tensors without memory."""
    out = {f"{width:g}/{name}": torch.empty(p.shape, dtype=torch.half, device="meta") for width in WIDTHS for name, p in G.named_parameters()}
    return out | {f"buffer/{name}": torch.empty(b.shape, dtype=b.dtype, device="meta") for name, b in _buffers(G).items()}


# ------------------------------------------------------------------------------------------------------- averages of other lengths


@dataclass(frozen=True)
class Length:
    """Of an average that ends at `at` images. said: as the user gave it, for messages."""

    at: int
    gamma: float
    said: str = ""

    @classmethod
    def of_width(cls, at: int, width: float) -> Length:
        return cls(at, gamma_of(width), f"{width:g}")

    @property
    def width(self) -> float:
        return width_of(self.gamma)

    @property
    def halflife_kimg(self) -> float:
        return halflife_of_gamma(self.gamma, self.at) / 1000

    def __str__(self) -> str:
        return f"a width of {self.width:.3g} (half-life {self.halflife_kimg:.3g} kimg) at {self.at} images"

    def metadata(self) -> dict[str, str]:
        """For a model's file."""
        return {"ema": json.dumps({"sigma_rel": round(self.width, 6), "halflife_kimg": round(self.halflife_kimg, 6), "snapshot": self.at})}


def parse_length(text: str, at: int) -> Length:
    """"10kimg", a half-life, or "0.08", a relative width, of an average that ends at `at` images. Raises UsageError for anything else, and for a
    length that no average over a run of `at` images has."""
    match = _LENGTH.fullmatch(text.strip())
    number = float(match[1]) if match else 0.0
    if not match or not 0 < number < 1e9:
        raise UsageError(f"--length {text}: give a half-life as in 10kimg, or a relative width as in 0.08")
    if not match[2]:
        if number > WIDEST:
            raise UsageError(f"--length {text}: a relative width is above 0 and at most {WIDEST:g}; for a half-life write {text.strip()}kimg")
        return Length(at, gamma_of(number), text.strip())
    gamma = gamma_of_halflife(number * 1000, at)
    if gamma < gamma_of(WIDEST):
        raise UsageError(f"--length {text}: an average over {at} images has a half-life of at most "
                         f"{halflife_of_gamma(gamma_of(WIDEST), at) / 1000:.3g} kimg")
    return Length(at, gamma, f"{match[1]}kimg")


class Snapshots:
    """The stored snapshots of a run, to make averages from. like: G, or one of the same shape on PyTorch's meta device; say: told of files that
    can't be used. Nothing but headers is read before an average is made."""

    def __init__(self, folder: Path, like: nn.Module, say: Callable[[str], None]) -> None:
        self.paths: dict[int, Path] = {}
        layout = _layout(like)
        for images, path in snapshots(folder).items():
            try:
                metadata, header = tensors.read_header(path)
                tensors.compare(layout, header, str(path))
                if metadata.get("images_seen") != str(images):
                    raise HandfulError(f"{path} is not of {images} images, as its name says; it was renamed")
                self.paths[images] = path
            except HandfulError as error:
                say(f"left out: {error}")

    @property
    def times(self) -> list[int]:
        return list(self.paths)

    def combination(self, length: Length) -> tuple[list[int], np.ndarray]:
        """(times [n], x [n,2]): the coefficients of the snapshots up to length.at. Raises UsageError where they can't give this length."""
        times, x, error = self._solved(length)
        if error > MOST_ERROR or np.linalg.norm(x) > MOST_NOISE:
            raise UsageError(f"--length {length.said or f'{length.width:.3g}'}: {len(times)} snapshots up to {length.at} images can't give {length}; "
                             f"{self._range(length.at)}")
        return times, x

    def can_give(self, length: Length) -> bool:
        _, x, error = self._solved(length)
        return error <= MOST_ERROR and float(np.linalg.norm(x)) <= MOST_NOISE

    def _solved(self, length: Length) -> tuple[list[int], np.ndarray, float]:
        times = [t for t in self.paths if t <= length.at]
        x, error = coefficients(np.repeat(times, len(WIDTHS)), np.tile([gamma_of(w) for w in WIDTHS], len(times)), length.at, length.gamma)
        return times, x.reshape(-1, len(WIDTHS)), error

    def _range(self, at: int) -> str:
        possible = [w for w in np.arange(0.01, WIDEST, 0.01).tolist() if self.can_give(Length.of_width(at, w))]
        short, long = (Length.of_width(at, w) for w in (possible[0], possible[-1]))
        return (f"they give widths of {short.width:.2g} to {long.width:.2g}, half-lives of {short.halflife_kimg:.3g} to {long.halflife_kimg:.3g} "
                f"kimg")

    @torch.no_grad()
    def fill(self, G: nn.Module, length: Length) -> None:
        """G becomes the average of this length: parameters combined in fp32, buffers of the snapshot at length.at. Raises HandfulError for a file
        that can't be read, UsageError as `combination`."""
        times, x = self.combination(length)
        total: dict[str, Tensor] = {}
        buffers: dict[str, Tensor] = {}
        for images, weights in zip(times, x.tolist()):
            found = tensors.read_tensors(self.paths[images])
            for width, weight in zip(WIDTHS, weights):
                for name, _ in G.named_parameters():
                    part = found[f"{width:g}/{name}"].float()
                    total[name] = total[name].add_(part, alpha=weight) if name in total else part.mul_(weight)
            buffers = {name: found[f"buffer/{name}"] for name in _buffers(G)} if images == length.at else buffers
        tensors.must_be_finite(total, str(self.paths[length.at].parent))
        for name, p in G.named_parameters():
            p.copy_(total[name])
        for name, b in _buffers(G).items():
            b.copy_(buffers[name])


def settled(G: nn.Module, config: Config) -> None:
    """Spectral norm's vectors of G for its own weights, and batch norm's statistics measured on its own samples."""
    ema.settle(G, G)
    ema.standing(G, config.ema.standing_batches, config.ema.standing_batch, config.ema.standing_rule)


def make(folder: Path, length: str, at: int | None = None, out: Path | None = None, device: str = "auto", trust: Iterable[str] = (),
         say: Callable[[str], None] = print) -> tuple[Path, Length]:
    """A model of another average of a run's generator, from its snapshots: what `handful ema` does. Returns the file and the length.

    length: as `parse_length`; at: images seen by the snapshot where it ends, none: the last; out: none: ema/model-LENGTH.safetensors in the run's
    folder. Raises UsageError for a length that the snapshots can't give, HandfulError where there are none or they can't be read.
    """
    if not (folder / "config.json").exists():
        raise UsageError(f"{folder} is not a run folder: it has no config.json" if folder.is_dir() else f"{folder}: there is no such folder")
    config = config_module.read(folder / "config.json", trust)
    found = Snapshots(folder, without_memory(config, "Generator", str(folder / "config.json")) or generator_of(config), say)
    if not found.paths:
        raise HandfulError(f"{folder} has no snapshots of averages in {folder / 'ema'}: a run stores them every {config.every.checkpoint_kimg:g} kimg"
                           + ("" if config.ema.choose else ", but this one has ema.choose=false"))
    if at is not None and at not in found.paths:
        near = min(found.times, key=lambda t: abs(t - at))
        raise UsageError(f"--at {at}: {folder / 'ema'} has no snapshot of {at} images; the nearest is of {near}")
    wanted = parse_length(length, found.times[-1] if at is None else at)
    found.combination(wanted)                             # refused before any memory is taken
    G = generator_of(config).to(pick_device(device)).eval().requires_grad_(False)
    found.fill(G, wanted)
    settled(G, config)
    path = out or folder / "ema" / f"model-{wanted.said}{'' if at is None else f'-at-{at}'}.safetensors"
    checkpoint.save_model(path, config, G, wanted.at, wanted.metadata())
    return path, wanted
