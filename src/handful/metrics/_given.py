"""Anybody's network as a feature extractor: what it doesn't say of itself is found out."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from ..errors import UsageError

SAYS = ("name", "dim", "digest", "resize")


def digest_of(network: nn.Module) -> str:
    """16 hexadecimal digits: the start of the sha256 over the names, types, shapes and bytes of its state_dict's tensors."""
    total = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if isinstance(tensor, Tensor):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


class Given(nn.Module):
    """A network with name (that of its class), dim (of what it gives for `probe`, uint8 [B,C,H,W]), digest and resize, where it has none.

    It gets pictures as the pretrained ones do, uint8 [B,C,H,W] in 0..255 at their own sizes, on the probe's device, and gives [B,dim] or
    [B,dim,1,1]. Raises UsageError where it can't. lasting: whether statistics may be kept under its digest; one found out here doesn't cover its
    code, so they aren't.
    """

    def __init__(self, network: nn.Module, probe: Tensor) -> None:
        super().__init__()
        self.network, self.device = network, probe.device
        self.name, self.resize = getattr(network, "name", type(network).__name__), getattr(network, "resize", "sizes as it takes them")
        self.lasting = hasattr(network, "digest")
        self.digest = network.digest if self.lasting else digest_of(network)
        takes = f"extractor={self.name}: it must take uint8 [B,C,H,W] in 0..255 and give features [B,D]"
        try:
            with torch.no_grad():
                found = network(probe)
        except Exception as error:
            raise UsageError(f"{takes}; on {list(probe.shape)} it failed: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
        if not isinstance(found, Tensor) or found.dim() not in (2, 4) or found.shape[0] != len(probe) or found[0].numel() != found.shape[1]:
            raise UsageError(f"{takes}, not {list(found.shape) if isinstance(found, Tensor) else type(found).__name__}")
        self.dim = found.shape[1]
        if hasattr(network, "logits"):
            self.logits = network.logits

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.to(self.device)).flatten(1).float()
