"""Randomness is derived, never carried: the only place that makes seeds.

Every stream is keyed by what it is for, (seed, images_seen, phase, substep, purpose), through a stable hash. So a checkpoint stores no
generator state, resuming needs the count of images alone, and a new term can't disturb the numbers that another one draws.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive(*parts: object) -> int:
    """A 63-bit seed from ints, strings and tuples of them. The same on every machine and in every process (Python's hash() is salted)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Rng:
    """Random tensors for one micro-batch, drawn for the whole global batch and sliced to this micro-batch's slots.

    So two processes, or four micro-batches, see the numbers that one process with the whole batch would see. The draws of one Rng follow each
    other: the same calls in the same order give the same numbers.

    seed: from `derive`, or None for torch's own global generator. batch: images in the global batch; slots: the range of them held here
    (both None: nothing is sliced).
    """

    def __init__(self, seed: int | None, device: torch.device | str = "cpu", batch: int | None = None, slots: range | None = None) -> None:
        self.seed, self.device = seed, torch.device(device)
        self.batch, self.slots = batch, slots
        self._generator: torch.Generator | None = None
        self._integers = 0

    @property
    def generator(self) -> torch.Generator | None:
        if self._generator is None and self.seed is not None:
            self._generator = torch.Generator(self.device).manual_seed(self.seed)
        return self._generator

    def randn(self, n: int, *shape: int) -> Tensor:
        """Standard normal [n, *shape], fp32."""
        return self._sliced(n, lambda m: torch.randn(m, *shape, generator=self.generator, device=self.device))

    def rand(self, n: int, *shape: int) -> Tensor:
        """Uniform [0, 1), [n, *shape], fp32."""
        return self._sliced(n, lambda m: torch.rand(m, *shape, generator=self.generator, device=self.device))

    def randint(self, high: int, n: int, *shape: int) -> Tensor:
        """Uniform integers 0 .. high-1, [n, *shape], int64."""
        return self._sliced(n, lambda m: torch.randint(high, (m, *shape), generator=self.generator, device=self.device))

    def integer(self, high: int) -> int:
        """One integer 0 .. high-1 for the whole batch, the same on every rank and in every micro-batch; costs no device sync."""
        if self.seed is None:
            return int(torch.randint(high, ()))
        self._integers += 1
        return derive(self.seed, "integer", self._integers) % high

    def fork(self, *purpose: object, batch: int | None = None, slots: range | None = None) -> Rng:
        """An independent stream of the same slots (or of others: path length's half batch)."""
        seed = None if self.seed is None else derive(self.seed, *purpose)
        return Rng(seed, self.device, self.batch if batch is None else batch, self.slots if slots is None else slots)

    def again(self) -> Rng:
        """The same stream from its start: what it drew once more. Torch's own generator can't be wound back."""
        return Rng(self.seed, self.device, self.batch, self.slots)

    def _sliced(self, n: int, draw) -> Tensor:
        if self.slots is None:
            return draw(n)
        if n != len(self.slots):
            raise ValueError(f"asked for {n} samples, this micro-batch holds {len(self.slots)}: fork() a stream with slots of its own")
        whole = draw(self.batch)
        return whole if n == self.batch else whole[self.slots.start:self.slots.stop]


def joined(*parts: Rng) -> Rng:
    """One stream for several batches laid end to end: each part draws its own rows."""
    return _Joined(parts)


class _Joined(Rng):
    def __init__(self, parts: tuple[Rng, ...]) -> None:
        super().__init__(parts[0].seed, parts[0].device)
        self.parts = parts

    def randn(self, n: int, *shape: int) -> Tensor:
        return torch.cat([p.randn(len(p.slots), *shape) for p in self.parts])

    def rand(self, n: int, *shape: int) -> Tensor:
        return torch.cat([p.rand(len(p.slots), *shape) for p in self.parts])

    def randint(self, high: int, n: int, *shape: int) -> Tensor:
        return torch.cat([p.randint(high, len(p.slots), *shape) for p in self.parts])

    def again(self) -> Rng:
        return _Joined(tuple(p.again() for p in self.parts))

    def fork(self, *purpose: object, batch: int | None = None, slots: range | None = None) -> Rng:
        return _Joined(tuple(p.fork(*purpose) for p in self.parts))


def ambient(device: torch.device | str = "cpu") -> Rng:
    """Draws from torch's own generator: what a plain module in somebody's own loop uses."""
    return Rng(None, device)
