"""Batch normalisation (Ioffe and Szegedy 2015), with statistics over all processes by keyword."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` (momentum 0.1) with weights drawn from N(1, std^2). affine=False: without weights and biases.

    sync: in training mode the statistics are those of the images of all processes (equally many each), so that two processes with half the
    batch are one with all of it. Differentiable, twice too; runs on the CPU (gloo), where torch's own synchronised form does not.
    track: keep running statistics for evaluation; without them batch statistics serve always, and there are no buffers.
    """

    def __init__(self, channels: int, *, sync: bool = False, track: bool = True, std: float = 0.02, eps: float = 1e-5,
                 affine: bool = True) -> None:
        super().__init__(channels, eps, affine=affine, track_running_stats=track)
        self.sync = sync
        if affine:
            nn.init.normal_(self.weight, 1.0, std)

    def forward(self, x: Tensor) -> Tensor:
        of_batch = self.training or not self.track_running_stats
        if not (self.sync and of_batch and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))                        # statistics in full precision
        var, mean = torch.var_mean(wide, (0, 2, 3), unbiased=False)                     # [C]
        mean_all = _mean_over_ranks(mean)
        var_all = _mean_over_ranks(var + (mean - mean_all).square())
        if self.track_running_stats:
            n = x.numel() // x.shape[1] * dist.get_world_size()
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean_all, self.momentum)
                self.running_var.lerp_(var_all * (n / (n - 1)), self.momentum)
        scale = torch.rsqrt(var_all + self.eps)
        if self.affine:
            scale = self.weight * scale
        shift = -mean_all * scale if self.bias is None else self.bias - mean_all * scale
        return torch.addcmul(shift[:, None, None], wide, scale[:, None, None]).to(x.dtype)


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, every batch norm within takes the statistics of the batch at hand, of this process alone, and changes no buffer."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(m.training, m.track_running_stats, getattr(m, "sync", False)) for m in norms]
    for m in norms:
        m.training, m.track_running_stats, m.sync = True, False, False
    try:
        yield
    finally:
        for m, (training, tracked, sync) in zip(norms, kept):
            m.training, m.track_running_stats, m.sync = training, tracked, sync


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum over ranks of the gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


def _mean_over_ranks(x: Tensor) -> Tensor:
    return _Sum.apply(x) / dist.get_world_size()
