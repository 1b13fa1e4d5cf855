"""Files on the ground floor: atomic writing, and checkpoints read without executing anything in them."""

from __future__ import annotations

import os
import shlex
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import HandfulError

FORMAT = 1
MIGRATIONS: Mapping[int, Callable[[dict], dict]] = {}        # format n -> the function that makes a state of format n + 1


def atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Writes to a temporary name in the same folder, syncs, renames: a reader finds the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise HandfulError(f"{path} can't be written ({error.strerror or error}); free some space or choose another folder; "
                           f"what was saved before is untouched") from error
    except RuntimeError as error:                            # torch's writer wraps what the disk says
        raise HandfulError(f"{path} can't be written ({_first_line(error)}); is the disk full?") from error
    finally:
        if temporary.exists():                               # where the folder is a file, unlink would fail
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    atomic(path, lambda p: p.write_text(text, encoding="utf-8"))


def in_shell(path: Path | str) -> str:
    """A path as it is typed in a shell, in quotes where it needs them."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


def load_checkpoint(path: Path, device: Any = "cpu") -> dict[str, Any]:
    """A checkpoint's contents, migrated to the present format. Nothing in the file is executed."""
    import torch

    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise HandfulError(f"{path} doesn't exist") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise HandfulError(f"{path} is cut short or damaged ({_first_line(error)[:80]}); take an earlier file of the same folder") from None
    except Exception as error:                               # weights_only's refusal is an UnpicklingError of pickle
        raise HandfulError(f"{path} holds more than tensors and is not a checkpoint of handful ({type(error).__name__})") from None
    if not isinstance(state, dict) or "format" not in state:
        raise HandfulError(f"{path} is not a checkpoint of handful")
    while state["format"] != FORMAT:
        if state["format"] not in MIGRATIONS:
            raise HandfulError(f"{path} has format {state['format']}, newer than this handful; install a newer version")
        state = MIGRATIONS[state["format"]](state)
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
