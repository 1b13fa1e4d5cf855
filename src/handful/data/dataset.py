"""The images a run trains on: decoded once, uint8, on the device when they fit, and batches of them without waiting."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Dataset:
    """Training images.

    images: uint8 [N,C,H,W], in memory, on a device, or over a memory-mapped file. labels: int64 [N] class numbers, or None.
    names: paths inside the source, in order. fingerprint: sha256 of the content and how it was prepared, wherever it lies.
    notes: what the user should be told once.
    """

    images: Tensor
    labels: Tensor | None = None
    class_names: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)
    mapped: bool = False

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def resolution(self) -> tuple[int, int]:
        """(height, width)"""
        return self.images.shape[2], self.images.shape[3]

    def place(self, device: torch.device | str, budget_bytes: int) -> str:
        """Moves the images to `device` if they fit `budget_bytes`. Returns where they are: "device", "ram" or "mapped"."""
        device = torch.device(device)
        if device.type != "cpu" and self.images.numel() <= budget_bytes:
            self.images = self.images.to(device)
            self.labels = None if self.labels is None else self.labels.to(device)
            self.mapped = False
        if self.images.device.type != "cpu":
            return "device"
        return "mapped" if self.mapped else "ram"

    def batch(self, index: Tensor, flip: Tensor | None, device: torch.device | str) -> tuple[Tensor, Tensor | None]:
        """Images on `device`, float32 [B,C,H,W] in [-1,1] (uint8 / 127.5 - 1), and their labels, int64 [B] or None.

        index: int64 [B], which images. flip: bool [B], which of them to mirror, or None.
        Images travel as uint8, through pinned memory to a CUDA device.
        """
        device = torch.device(device)
        at = _send(index, self.images.device)
        if self.images.device.type == "cpu" and device.type == "cuda":
            pixels = torch.empty((len(index), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=True)
            torch.index_select(self.images, 0, at, out=pixels)
        else:
            pixels = torch.index_select(self.images, 0, at)
        pixels = pixels.to(device, non_blocking=device.type == "cuda")
        if flip is not None:
            pixels = torch.where(_send(flip, device)[:, None, None, None], pixels.flip(3), pixels)
        image = pixels.to(torch.float32).div_(127.5).sub_(1)
        return image, None if self.labels is None else _send(self.labels[at], device)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor to the device without making the host wait for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")
