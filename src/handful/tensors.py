"""Files of tensors: read without executing anything in them, within the bounds of their size, and compared with what should be in them
before anything is made of them.

A checkpoint is what `torch.save` writes: a zip of uncompressed members. Before torch looks at one, every member's checksum is verified (a
flipped bit is found) and none may unpack to more than the file holds. torch then reads it with `weights_only`, which knows tensors and plain
values alone, over a memory map, where a tensor that claims more than the file has is refused instead of read.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .errors import HandfulError
from .files import atomic, first_line, unreadable

FORMAT = 1
MIGRATIONS: Mapping[int, Callable[[dict], dict]] = {}        # format n -> the function that makes a state of format n + 1
MOST_PICKLE = 16 * 10**6                                     # bytes of a checkpoint's structure; a large network's takes one
MOST_DEPTH = 32                                              # of its nested dictionaries
MOST_IMAGES = 10**15
LONGEST = 1000                                               # characters of a tensor's name
CHUNK = 2**20
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
          "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}
PARTS = {"config": str, "progress": dict, "G": dict, "D": dict, "G_ema": dict, "augment": dict, "terms": dict, "optim_g": dict, "optim_d": dict}

Header = Mapping[str, tuple[torch.dtype | None, tuple[int, ...]]]          # name -> dtype and shape


# ------------------------------------------------------------------------------------------------------------ checkpoints


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's contents on the CPU, migrated to the present format. Nothing in the file is executed.

    Raises HandfulError: the file is absent, may not be read, is damaged, or is not a checkpoint of handful.
    """
    damaged = f"{path} is cut short or damaged"
    try:
        _verified(path, damaged)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except HandfulError:
        raise
    except FileNotFoundError:
        raise HandfulError(f"{path} doesn't exist") from None
    except PermissionError as error:
        raise unreadable(path, error) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise HandfulError(f"{damaged} ({first_line(error)[:80]}); take an earlier file of the same folder") from None
    except Exception as error:                               # weights_only's refusal is an UnpicklingError of pickle
        raise HandfulError(f"{path} holds more than tensors and is not a checkpoint of handful ({type(error).__name__})") from None
    if not isinstance(state, dict) or type(state.get("format")) is not int:
        raise HandfulError(f"{path} is not a checkpoint of handful")
    while state["format"] != FORMAT:
        if state["format"] not in MIGRATIONS:
            raise HandfulError(f"{path} has format {state['format']}, newer than this handful; install a newer version")
        state = MIGRATIONS[state["format"]](state)
    try:
        _well_formed(state)
        return _copied(state, [2 * path.stat().st_size])
    except (ValueError, RecursionError) as error:
        raise HandfulError(f"{path} is not a checkpoint of handful ({error})") from None


def _verified(path: Path, damaged: str) -> None:
    """Every member of the zip lies in it uncompressed, and agrees with its checksum."""
    size = path.stat().st_size
    if not path.is_file():
        raise HandfulError(f"{path} is not a regular file; take another")
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
            raise HandfulError(f"{path} is packed as no checkpoint is; take another")
        if any(m.filename.endswith("data.pkl") and m.file_size > MOST_PICKLE for m in members):
            raise HandfulError(f"{path} has a structure larger than {MOST_PICKLE // 10**6} MB; take another")
        for member in members:
            with file.open(member) as data:                  # the last read compares the checksum
                while data.read(CHUNK):
                    pass


def _well_formed(state: Mapping[str, Any]) -> None:
    """Raises ValueError where a part is absent or not of its kind."""
    for name, kind in PARTS.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(f"its part '{name}' is missing or not a {kind.__name__}")
    progress = state["progress"]
    for name in ("images_seen", "iteration"):
        if type(progress.get(name)) is not int or not 0 <= progress[name] < MOST_IMAGES:
            raise ValueError(f"its progress has no sound '{name}'")
    for name, most in (("threads", 1024), ("world", 10**6), ("detours", 10**6), ("stop_from", MOST_IMAGES)):
        value = progress.get(name)
        if value is not None and (type(value) is not int or not 0 <= value <= most or name == "threads" and value < 1):
            raise ValueError(f"its progress has no sound '{name}'")
    frozen = state.get("frozen", {})
    if not isinstance(frozen, dict) or not all(isinstance(v, str) and len(v) < LONGEST for pair in frozen.items() for v in pair):
        raise ValueError("its part 'frozen' is not a dict of digests")
    for name in ("sec", "scored_sec"):
        value = progress.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_IMAGES):
            raise ValueError(f"its progress has no sound '{name}'")


def _copied(value: Any, room: list[int], depth: int = 0) -> Any:
    """The same tree with tensors in memory of their own. room: [bytes that they may take in all]. Raises ValueError for what no state holds."""
    if isinstance(value, Tensor):
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise ValueError("one of its tensors is of a kind that no checkpoint has")
        room[0] -= value.numel() * value.element_size()
        if room[0] < 0:
            raise ValueError("its tensors claim more than the file holds")
        return value.detach().clone()
    if isinstance(value, dict | list | tuple):               # one list may stand in many places, and a copy of it would have no end
        room[0] -= 8 * len(value)
        if depth > MOST_DEPTH or room[0] < 0:
            raise ValueError("it is nested without end")
    if isinstance(value, dict):
        return {k: _copied(v, room, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(_copied(v, room, depth + 1) for v in value)
    return value


# ------------------------------------------------------------------------------------------------------------ safetensors


def read_header(path: Path) -> tuple[dict[str, str], Header]:
    """The metadata of a safetensors file, and dtype and shape of its tensors; reads no tensor. Raises HandfulError where it is no such file."""
    with _opened(path) as file:
        shapes = {name: file.get_slice(name) for name in file.keys()}                 # noqa: SIM118, it is no dictionary
        return file.metadata() or {}, {name: (DTYPES.get(s.get_dtype()), tuple(s.get_shape())) for name, s in shapes.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}                  # noqa: SIM118


class _opened:
    """A safetensors file; what goes wrong with it becomes a HandfulError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        try:
            with open(self.path, "rb"):                      # says why, where the library only says that
                pass
            self.file = safe_open(self.path, "pt")
            return self.file.__enter__()
        except Exception as error:
            self._refuse(error)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.file.__exit__(kind, error, trace)
        if isinstance(error, Exception):
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        if isinstance(error, PermissionError):
            raise unreadable(self.path, error) from None
        if isinstance(error, SafetensorError | OSError | ValueError | RuntimeError | KeyError):
            why = first_line(error)[:80]
            raise HandfulError(f"{self.path} is cut short or damaged ({why}); write it anew from a checkpoint of its run") from None
        raise error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, atomically; the same tensors and metadata give the same bytes."""
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, dict(metadata))
    length = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:length])
    header["__metadata__"] = dict(sorted(metadata.items()))  # the library writes them in the order of a hash that differs between processes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            file.write(memoryview(data)[length:])

    atomic(path, write)


# ------------------------------------------------------------------------------------------- what is, and what should be


def header_of(tensors: Mapping[str, Any]) -> Header:
    """Dtype and shape by name. Raises HandfulError where a value is no tensor."""
    if strange := [name for name, value in tensors.items() if not isinstance(value, Tensor) or not isinstance(name, str) or len(name) > LONGEST]:
        raise HandfulError(f"'{str(strange[0])[:100]}' is not the name of a tensor, or no tensor")
    return {name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()}


def compare(wanted: Mapping[str, Tensor], found: Header, said: str) -> None:
    """Raises HandfulError, naming the first tensor and how many more, where names, shapes or dtypes differ. said: whose tensors were found."""
    faults = list(_differences(header_of(wanted), found))
    if faults:
        more = f", and {len(faults) - 1} more" if faults[1:] else ""
        raise HandfulError(f"{said} doesn't fit its own configuration: {faults[0]}{more}; it was changed or is from another version")


def _differences(wanted: Header, found: Header) -> Iterator[str]:
    for name, (dtype, shape) in wanted.items():
        if name not in found:
            yield f"the tensor '{name}' is missing"
        elif found[name][1] != shape:
            yield f"the tensor '{name}' is {list(found[name][1])}, not {list(shape)}"
        elif found[name][0] != dtype:
            yield f"the tensor '{name}' is {_word(found[name][0])}, not {_word(dtype)}"
    for name in found.keys() - wanted.keys():
        yield f"the tensor '{name[:100]}' has no place"


def _word(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.") if dtype else "of an unknown type"


def must_be_finite(tensors: Mapping[str, Tensor], said: str) -> None:
    """Raises HandfulError, naming the first, where a tensor holds NaN or infinity."""
    floats = {name: value for name, value in tensors.items() if value.is_floating_point() and value.numel()}
    bad = [name for name, value in floats.items() if not math.isfinite(value.abs().amax().item())]
    if bad:
        more = f", and {len(bad) - 1} more" if bad[1:] else ""
        raise HandfulError(f"{said} holds values that are not finite (the tensor '{bad[0]}'{more}); take an earlier checkpoint of its run")


def fill(module: nn.Module, tensors: Mapping[str, Tensor], said: str) -> None:
    """`module.load_state_dict`, in one line where it can't. said: whose tensors they are."""
    try:
        module.load_state_dict(tensors)
    except (RuntimeError, AttributeError, TypeError, ValueError, KeyError) as error:
        compare(module.state_dict(), header_of(tensors), said)
        raise HandfulError(f"{said} can't be taken ({first_line(error)[:120]})") from None

