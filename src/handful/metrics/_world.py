"""One process or several: who works on which images, how their shares come together again, and how all stop when one can't go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import HandfulError


class Stopped(KeyboardInterrupt):
    """Somebody asked to stop, in this process or in another."""


class Joint(HandfulError):
    """What went wrong in one process, raised in all of them."""


@dataclass(frozen=True)
class World:
    """rank of `size` processes. Work is divided by index, so that the values are those of one process to rounding.

    Before every collective, and before every batch of `parts`, all tell each other whether they are well: nobody waits for one that has failed.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> World:
        """All processes of torch.distributed's default group, where there is one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else cls()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is raised inside, by one process or by several, ends the block for all: KeyboardInterrupt (and Stopped) as Stopped, everything
        else as one HandfulError with the rank and its message. Leaving the block waits for the others."""
        try:
            yield
        except Joint:
            raise
        except BaseException as error:
            if self.size > 1 and not getattr(error, "told", False):
                self._told(error)
            raise
        self.agree()

    def agree(self) -> None:
        """Waits for all processes. Raises Joint or Stopped where one of them has failed or was asked to stop."""
        if self.size > 1:
            self._told(None)

    def _told(self, error: BaseException | None) -> None:
        stopped = isinstance(error, KeyboardInterrupt)
        flag = self._sent(torch.tensor([float(error is not None)]))
        try:
            dist.all_reduce(flag)
            if not flag.item():
                return
            said: list[tuple[bool, str]] = [(False, "")] * self.size
            dist.all_gather_object(said, (stopped, "" if error is None or stopped else _line(error)))
        except RuntimeError as lost:
            raise Joint(f"rank {self.rank} of {self.size} has lost the others ({_line(lost)})") from error
        failed = [(rank, text) for rank, (_, text) in enumerate(said) if text]
        if any(asked for asked, _ in said):
            found = Stopped("stopped")
            found.told = True
            raise found from error
        alike = len(failed) == self.size and len({text for _, text in failed}) == 1
        if alike and isinstance(error, HandfulError):        # as one process would have said it
            error.told = True
            raise error
        rank, text = failed[0]
        raise Joint(text if alike else f"rank {rank} of {self.size}: {text}") from error

    def span(self, n: int, rank: int | None = None) -> range:
        """The share of 0 .. n-1 of this process, or of another."""
        rank = self.rank if rank is None else rank
        return range(n * rank // self.size, n * (rank + 1) // self.size)

    def parts(self, n: int, batch: int) -> Iterator[range]:
        """This process's share of 0 .. n-1 in ranges of at most `batch`. All processes agree before each, and after the last."""
        mine = self.span(n)
        for start in range(0, max(len(self.span(n, rank)) for rank in range(self.size)), batch):
            self.agree()
            if part := mine[start:start + batch]:
                yield part
        self.agree()

    def gathered(self, x: Tensor, sizes: list[int]) -> Tensor:
        """The rows x of all processes, one after the other, on the CPU; sizes: how many each has."""
        if self.size == 1:
            return x.cpu()
        mine = x.new_zeros((max(sizes), *x.shape[1:]))
        mine[: len(x)] = x
        mine = self._sent(mine)
        box = [torch.empty_like(mine) for _ in range(self.size)]
        self.agree()
        dist.all_gather(box, mine)
        return torch.cat([part[:n].cpu() for part, n in zip(box, sizes)])

    def summed(self, x: Tensor) -> Tensor:
        if self.size == 1:
            return x
        sent = self._sent(x).clone()
        self.agree()
        dist.all_reduce(sent)
        return sent.to(x.device)

    def from_first(self, value: Any) -> Any:
        if self.size == 1:
            return value
        box = [value]
        self.agree()
        dist.broadcast_object_list(box)
        return box[0]

    def _sent(self, x: Tensor) -> Tensor:
        return x.cuda() if dist.get_backend() == "nccl" else x.cpu()


def _line(error: BaseException) -> str:
    """An error in one line, as the user should see it."""
    text = (str(error).splitlines() or [""])[0]
    return text or type(error).__name__ if isinstance(error, HandfulError) else f"{type(error).__name__}: {text}"
