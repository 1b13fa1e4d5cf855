"""The images a run trains on: decoded once, uint8, on the device when they fit, and batches of them without waiting."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from handful.data.groups import whole_groups
from handful.errors import HandfulError


@dataclass
class Dataset:
    """Training images.

    images: uint8 [N,C,H,W], in memory, on a device, or over a memory-mapped file. labels: int64 [N] class numbers, or None.
    class_names: of class 0, 1, ...; the numbers themselves where there are labels and no names.
    names: paths inside the source, in order. fingerprint: sha256 of the content and how it was prepared, wherever it lies.
    notes: what the user should be told once. Raises HandfulError for labels that don't fit.
    """

    images: Tensor
    labels: Tensor | None = None
    class_names: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)
    mapped: bool = False
    rows: Tensor | None = None           # int64: which of `images` these are; None: all. Labels, groups and names are those of the rows.
    groups: Tensor | None = None         # int64 [N] on the CPU: images of one number stay together in a split

    def __post_init__(self) -> None:
        if self.labels is None:
            return
        if self.labels.shape != (len(self),):
            raise HandfulError(f"labels of shape {list(self.labels.shape)} for {len(self)} images; give one class number for each")
        least, most = (int(v) for v in self.labels.aminmax()) if len(self) else (0, -1)
        self.class_names = self.class_names or [str(i) for i in range(most + 1)]
        if least < 0 or most >= self.num_classes:
            wrong = least if least < 0 else most
            raise HandfulError(f"labels: one image has class {wrong}, but the {self.num_classes} classes are numbered 0 to {self.num_classes - 1}; "
                               f"correct it, or name the class in class_names")

    def __len__(self) -> int:
        return self.images.shape[0] if self.rows is None else len(self.rows)

    def split(self, holdout: float, seed: int) -> tuple[Dataset, Dataset | None]:
        """(training images, held-out images), by a draw of `seed`: disjoint views of the same memory, each in the old order.

        holdout: share kept out, 0 to 1; at least one image where it isn't 0. With `groups` whole groups are kept out, which meets the share
        as nearly as they allow; the held-out images' `notes` say how nearly. Raises HandfulError where fewer than 2 images would stay, or
        where the groups can't be divided.
        """
        if not holdout:
            return self, None
        n = max(1, round(holdout * len(self)))
        if len(self) - n < 2:
            raise HandfulError(f"data.holdout={holdout:g} leaves {len(self) - n} of {len(self)} images to train on; take a smaller share")
        generator = torch.Generator().manual_seed(seed)
        if self.groups is None:
            held = torch.zeros(len(self), dtype=torch.bool)
            held[torch.randperm(len(self), generator=generator)[:n]] = True
            self._keep_every_class(held)
        else:
            held = whole_groups(self.groups, n, generator)
        train, heldout = self._of((~held).nonzero()[:, 0]), self._of(held.nonzero()[:, 0])
        if self.groups is not None:
            few, many = len(heldout.groups.unique()), len(self.groups.unique())
            heldout.notes = [f"held out: {len(heldout)} of {len(self)} images ({few} of {many} groups, whole; {n} were wanted)"]
        return train, heldout

    def _keep_every_class(self, held: Tensor) -> None:
        """Gives a class of which no image would be trained on one of its images back."""
        labels = torch.zeros(0) if self.labels is None else self.labels.cpu()
        for c in range(self.num_classes):
            mine = (labels == c).nonzero()[:, 0]
            if len(mine) and held[mine].all():
                held[mine[0]] = False

    def _of(self, rows: Tensor) -> Dataset:
        fingerprint = hashlib.sha256(self.fingerprint.encode() + rows.numpy().tobytes()).hexdigest() if self.fingerprint else ""
        return replace(self, fingerprint=fingerprint, labels=None if self.labels is None else self.labels[rows.to(self.labels.device)],
                       names=[self.names[i] for i in rows.tolist()] if self.names else [], rows=rows if self.rows is None else self.rows[rows],
                       groups=None if self.groups is None else self.groups[rows])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def classes(self) -> dict[str, int]:
        """Images of each class, by its name; {} without labels."""
        if self.labels is None:
            return {}
        return dict(zip(self.class_names, torch.bincount(self.labels.cpu(), minlength=self.num_classes).tolist()))

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
        at = _send(index if self.rows is None else self.rows[index], self.images.device)
        if self.images.device.type == "cpu" and device.type == "cuda":
            pixels = torch.empty((len(index), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=True)
            torch.index_select(self.images, 0, at, out=pixels)
        else:
            pixels = torch.index_select(self.images, 0, at)
        pixels = pixels.to(device, non_blocking=device.type == "cuda")
        if flip is not None:
            pixels = torch.where(_send(flip, device)[:, None, None, None], pixels.flip(3), pixels)
        image = pixels.to(torch.float32).div_(127.5).sub_(1)
        return image, None if self.labels is None else _send(self.labels[_send(index, self.labels.device)], device)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor to the device without making the host wait for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")
