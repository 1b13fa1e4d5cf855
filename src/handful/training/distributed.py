"""Several processes: one flat all-reduce per phase. No wrapper around the networks, so second order and feature access stay plain."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start(device: torch.device) -> tuple[int, int]:
    """Joins the process group that torchrun (or anything that sets RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) describes: (rank, world)."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def leave(code: int = 0) -> NoReturn:
    """Ends this process, one of several, with this exit code and without tearing the interpreter down: the threads of torch's process group may
    still let go of tensors then, which ends the process with SIGABRT ("terminate called without an active exception")."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def from_first(value: Any, world: int) -> Any:
    """What the first process has, for all of them."""
    if world == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gradients(parameters: Iterable[nn.Parameter], sums: dict[str, Tensor], world: int) -> None:
    """Gradients become their mean over ranks, per-sample statistics their sum, through one collective. In place."""
    if world == 1:
        return
    live = [p for p in parameters if p.grad is not None]
    keys = sorted(sums)
    device = live[0].device if live else "cpu"
    flat = torch.cat([*(p.grad.reshape(-1).float() / world for p in live), *(sums[k].to(device, torch.float32).reshape(-1) for k in keys)])
    dist.all_reduce(flat)
    at = 0
    for p in live:
        p.grad.copy_(flat[at:at + p.numel()].view_as(p))
        at += p.numel()
    for k in keys:
        sums[k] = flat[at:at + sums[k].numel()].view_as(sums[k]).clone()
        at += sums[k].numel()


def gathered(parts: Mapping[str, list[Tensor]], world: int) -> dict[str, Tensor]:
    """Per-sample values of all micro-batches and ranks in global order: each rank holds one run of slots, so rank-major is that order."""
    out = {k: torch.cat(v) for k, v in parts.items()}
    if world > 1:
        for k in sorted(out):
            box = [torch.empty_like(out[k]) for _ in range(world)]
            dist.all_gather(box, out[k].contiguous())
            out[k] = torch.cat(box)
    return out


@torch.no_grad()
def buffers(modules: Iterable[nn.Module], world: int) -> None:
    """Floating-point buffers (batch norm, spectral norm's vectors, w_avg) become their mean over ranks, through one collective."""
    if world == 1:
        return
    floats = [b for m in modules for b in m.buffers() if b.is_floating_point()]
    if floats:
        flat = torch.cat([b.reshape(-1).float() for b in floats])
        dist.all_reduce(flat)
        flat /= world
        for b, part in zip(floats, flat.split([b.numel() for b in floats])):
            b.copy_(part.view_as(b))


@torch.no_grad()
def spread(module: nn.Module, world: int) -> None:
    """Parameters and buffers become the first process's. In place."""
    if world > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.data, 0)
