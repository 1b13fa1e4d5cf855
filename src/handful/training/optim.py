"""Adam for each player, with the lazy-regularisation correction applied once, and the guard against non-finite gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config, Optim
from ..errors import HandfulError
from ..files import first_line
from ..seam import Side, Term
from .phases import Phase, lazy_correction


def build(side: Side, net: nn.Module, terms: Mapping[str, Term], settings: Mapping[Side, Optim], plan: list[Phase]) -> torch.optim.Adam:
    """One Adam: the network's parameters, then those of the terms that train on this side, each with its own settings where it has some."""
    groups = [_group("net", [p for p in net.parameters() if p.requires_grad], settings[side], lazy_correction(plan, side), side)]
    for name, term in terms.items():
        for part, (where, own, wanted) in _own_parameters(term).items():
            if where == side and own:
                like = wanted if isinstance(wanted, str) else side
                use = Optim(**wanted) if isinstance(wanted, Mapping) else settings[like]
                groups.append(_group(f"{name}.{part}" if part else name, own, use, lazy_correction(plan, like), like))
    return torch.optim.Adam(groups, fused=_fused(groups))


def _own_parameters(term: Term) -> dict[str, tuple[Side, list[nn.Parameter], Mapping[str, Any] | Side | None]]:
    """What a term trains of its own, by submodule ("": what it names nowhere): the side, the parameters, their settings."""
    out = {part: (side, [p for p in term.get_submodule(part).parameters() if p.requires_grad], wanted)
           for part, (side, wanted) in term.optim.items()}
    named = {id(p) for _, own, _ in out.values() for p in own}
    rest = [p for p in term.parameters() if p.requires_grad and id(p) not in named]
    return {"": ("d" if term.needs("d") is not None else "g", rest, None), **out}


def _group(name: str, parameters: Iterable[nn.Parameter], o: Optim, c: float, like: Side) -> dict:
    lr = o.lr * c
    betas = o.betas[0] ** c, o.betas[1] ** c
    return {"name": name, "like": like, "params": list(parameters), "lr": lr, "base_lr": lr, "betas": betas, "eps": o.eps}


def _fused(groups: list[dict]) -> bool:
    devices = {p.device.type for g in groups for p in g["params"]}
    return devices <= {"cpu", "cuda", "mps"} and all(p.is_floating_point() for g in groups for p in g["params"])


def load(optimiser: torch.optim.Optimizer, state: Mapping[str, Any], said: str) -> None:
    """`optimiser.load_state_dict`. said: where the state is from. Raises HandfulError where it is that of other parameters."""
    try:
        optimiser.load_state_dict(dict(state))
        fits = all(v.shape == p.shape or v.numel() == 1 for p, values in optimiser.state.items() for v in values.values() if isinstance(v, Tensor))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise HandfulError(f"{said} can't be taken ({first_line(error)[:120]})") from None
    if not fits:
        raise HandfulError(f"{said} is the state of other parameters; take another checkpoint of this run")


def schedule(optimiser: torch.optim.Optimizer, settings: Mapping[Side, Optim], images_seen: int, config: Config) -> None:
    """Sets the learning rates for this moment: linear warm-up, linear decay to zero, of the side whose settings a group has. A function of images
    seen, so nothing is carried."""
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * _factor(settings[group["like"]], images_seen / 1000, config.train.kimg)


def _factor(settings: Optim, kimg: float, whole: float) -> float:
    factor = min(1.0, kimg / settings.warmup_kimg) if settings.warmup_kimg else 1.0
    if settings.decay_from_kimg is not None and kimg > settings.decay_from_kimg:
        factor *= max(0.0, (whole - kimg) / max(whole - settings.decay_from_kimg, 1e-9))
    return factor


@torch.no_grad()
def guard(optimiser: torch.optim.Optimizer, scale: float) -> tuple[Tensor, Tensor]:
    """Undoes the loss scale, zeroes non-finite gradients. Returns (norm of the finite gradients, 1 if any was not finite, else 0), both on
    the device: nothing waits for them."""
    grads = [p.grad for g in optimiser.param_groups for p in g["params"] if p.grad is not None]
    if not grads:
        device = optimiser.param_groups[0]["params"][0].device
        return torch.zeros((), device=device), torch.zeros((), device=device)
    if scale != 1:
        torch._foreach_mul_(grads, 1 / scale)
    norms = torch.stack(torch._foreach_norm(grads))
    finite = torch.isfinite(norms)
    for g in grads:
        torch.nan_to_num_(g, nan=0.0, posinf=0.0, neginf=0.0)
    return torch.where(finite, norms, 0).square().sum().sqrt(), (~finite).any()
