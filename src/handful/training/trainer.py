"""The trainer: one iteration, from reals and latents to stepped networks. Everything around the step is in `loop.py`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import catalog, tensors
from ..config import Config
from ..data import Dataset, Sampler
from ..errors import HandfulError, UsageError
from ..nn import frozen
from ..rng import Rng, derive
from ..seam import CONTROLS_AUGMENT, CONTROLS_D, Context, Discriminator, Facts, Generator, Needs, Pass, Side, Term, Wrapper
from . import distributed, ema, optim
from .adversarial import ADVERSARIAL, Adversarial
from .networks import LiveNets
from .passes import MicroBatch, SharedPasses
from .phases import Phase, phases_of, union
from .power_ema import Averages

# Keeps small fp16 gradients out of the subnormal range; undone before the guard. Not in steps that terms have of their own: second-order
# gradients are large enough, and path length overflowed.
FP16_LOSS_SCALE = 1024.0


class Trainer:
    """Networks, terms, optimisers, and the iteration that moves them.

    config: resolved settings; dataset: the images; device, rank, world: where this process stands; count: how many training images the terms are
    told of, where `dataset` stands in for others (0: not known; None: its own); start: fills G and D with trained weights, before anything is put
    around them and before terms copy them, and returns those of the average (None: G's own). After `step()`, `images_seen` counts the
    real images shown to D, and `take_log()` gives the means since the last call.
    """

    def __init__(self, config: Config, dataset: Dataset, device: torch.device, *, rank: int = 0, world: int = 1,
                 precision: str = "fp32", compile: bool = False, count: int | None = None,
                 start: Callable[[Generator, Discriminator], Mapping[str, Tensor] | None] | None = None) -> None:
        self.config, self.device, self.rank, self.world = config, device, rank, world
        if config.data.holdout and config.data.groups is not None and dataset.groups is None:
            raise HandfulError("data.groups is set, but this Dataset has no groups: load it with data.load(..., groups=...)")
        self.dataset, self.heldout = dataset.split(config.data.holdout, derive(config.seed, "holdout"))
        self.count = len(self.dataset) if count is None else count
        self.batch = config.train.batch
        self.g_batch = config.train.g_batch or self.batch
        for name, batch in (("train.batch", self.batch), ("train.g_batch", self.g_batch)):
            if batch % world:
                raise HandfulError(f"{name}={batch} can't be shared by {world} processes; take a multiple of {world}")
        largest = max(self.batch, self.g_batch)
        self.micro_batch = min(config.train.micro_batch or largest, largest // world)
        self.sampler = Sampler(len(self.dataset), derive(config.seed, "order"))
        self.loss = catalog.build("losses", config.loss)
        bare = self._bare_networks()                      # first: a resolution that the architecture hasn't is its to refuse
        average = None if start is None else start(*bare)
        methods = self._methods()
        self.nets = self._networks(*bare, methods, precision, compile)
        if average is not None:
            self.nets.G_ema.load_state_dict(average)
        self.averages = Averages(self.nets.G) if config.ema.choose else None
        self.terms = nn.ModuleDict(self._terms(methods))
        self.plan = phases_of(self.terms, config.train.order)
        self._check()
        self.optim = {
            side: optim.build(side, net, self.terms, {"g": config.optim_g, "d": config.optim_d}, self.plan)
            for side, net in (("g", self.nets.G), ("d", self.nets.D))}
        self.scale = FP16_LOSS_SCALE if precision == "fp16" else 1.0
        self.images_seen = self.iteration = 0
        self.scored_sec = 0.0                             # spent on scores, in all sessions
        self.stop_from = 0                                # evaluations up to here don't count for evaluate.stop: the user went on after it
        self.detours = 0                                  # roll-backs so far: each goes on with other latents and augmentations
        self.settled_at: int | None = None                # the iteration whose average has been made ready to sample from (loop.sampler)
        self.threads: int | None = None                   # that it computes with on a CPU, where whoever runs the loop has set them
        # Said aloud by whoever runs the loop.
        self.notes = [*bare[1].check(self.nets.facts), *(n for part in (self.nets.augment, *self.terms.values()) for n in getattr(part, "notes", ()))]
        self._log: dict[str, Tensor] = {}                 # sum and count by name, on the device
        self.stuck: tuple[Side, ...] = ()
        self.passes = SharedPasses(config.train, self.nets, self.dataset, self.heldout, self.sampler, config.data.flip)
        if self.heldout is not None and self.heldout.groups is not None:
            self.notes += self.heldout.notes
        self.notes += self._idle_strengths()
        self._say_what_accumulation_changes()

    # ------------------------------------------------------------------------------------------------------- building

    def _methods(self) -> dict[str, Term | Wrapper]:
        """What the configuration lists as terms, built but not set up."""
        out: dict[str, Term | Wrapper] = {}
        for name, use in self.config.terms.items():
            if name in (ADVERSARIAL, "G") or hasattr(nn.ModuleDict, name):
                raise UsageError(f"a term can't be called '{name}': that name is taken; choose another, and the method by terms.NAME.use")
            torch.manual_seed(derive(self.config.seed, "init", name))
            try:
                out[name] = catalog.build("terms", use)
            except UsageError as error:                   # its settings' own names need their place
                raise UsageError(f"terms.{name}: {error}") from None
            if not isinstance(out[name], Term | Wrapper):
                raise HandfulError(f"terms.{name}: '{use.name}' is neither a Term nor a Wrapper")
            if isinstance(out[name], Term) and out[name].every < 1:
                raise HandfulError(f"terms.{name}.every={out[name].every}: give a whole number of iterations, 1 or more")
        return out

    def _bare_networks(self) -> tuple[Generator, Discriminator]:
        height_width = self.dataset.resolution
        known = {"resolution": height_width[0] if height_width[0] == height_width[1] else tuple(height_width),
                 "channels": self.dataset.channels, "num_classes": self.dataset.num_classes}
        torch.manual_seed(derive(self.config.seed, "init", "g"))
        G = catalog.build("arch", self.config.g, "Generator", **known)
        torch.manual_seed(derive(self.config.seed, "init", "d"))
        return G, catalog.build("arch", self.config.d, "Discriminator", **known)

    def _networks(self, G: Generator, D: Discriminator, methods: Mapping[str, Term | Wrapper], precision: str, compile: bool) -> LiveNets:
        for name, method in methods.items():
            if isinstance(method, Wrapper):
                torch.manual_seed(derive(self.config.seed, "init", name, "wrap"))
                D = method.wrap(D)
        augment = catalog.build("augment", self.config.augment)
        G_ema = copy.deepcopy(G).eval().requires_grad_(False)
        labels = None if self.dataset.labels is None else self.dataset.labels.to(self.device)   # once: copying them in a step would stall it
        facts = Facts(self.count, self.config.data.flip, self.batch, min(self.micro_batch, self.batch // self.world),
                      self.loss.paired, tuple(self.config.train.augment_at))
        return LiveNets(G.to(self.device), D.to(self.device), G_ema.to(self.device), augment.to(self.device), precision=precision,
                        compile=compile, labels=labels, fake_labels=self.config.train.fake_labels, facts=facts)

    def _terms(self, methods: Mapping[str, Term | Wrapper]) -> dict[str, Term]:
        out: dict[str, Term] = {ADVERSARIAL: Adversarial(self.loss)}
        refused: list[HandfulError] = []                  # all that stands in the way, at once
        claimed: dict[str, str] = {}
        for name, method in [(self.config.g.name, self.nets.G), (self.config.augment.name, self.nets.augment), *methods.items()]:
            # First: `setup` may take for granted that none of its conflicts applies.
            lines = [line for c in getattr(method, "conflicts", ()) if (line := c.refusal(method, name, self.nets))]
            refused += map(HandfulError, lines)
            if not isinstance(method, Term):
                continue
            torch.manual_seed(derive(self.config.seed, "init", name, "setup"))
            try:
                if not lines:
                    method.setup(self.nets)
                    out[name] = method.to(self.device)
            except HandfulError as error:
                refused.append(error)
            if shared := sorted(r for r in method.roles if r in claimed):
                refused.append(HandfulError(f"terms.{claimed[shared[0]]} and terms.{name} both want to be the {' and the '.join(shared)}: leave "
                                            f"one of them out (--set terms.{name}=null)"))
            claimed |= dict.fromkeys(method.roles, name)
        if refused:
            raise refused[0] if len(refused) == 1 else HandfulError("; and ".join(map(str, refused)))
        return out

    def _check(self) -> None:
        if self.config.train.joint and self.nets.D.knows_pass:
            raise HandfulError(f"train.joint: {self.config.d.name} judges reals and fakes in a pass each: leave it out (--set train.joint=false)")
        for phase in self.plan:
            need = union(self.terms, phase.names, phase.side)
            if need.heldout.pixel_grad:
                raise HandfulError(f"terms {', '.join(phase.names)}: held-out images may be looked at, not trained on")
            if need.heldout and self.heldout is None:
                who = [n for n in phase.names if (self.terms[n].needs(phase.side) or Needs()).heldout]
                raise HandfulError(f"terms.{', terms.'.join(who)}: wants images that D doesn't train on; keep some out (--set data.holdout=0.1)")
            for view in (need.real, need.fake, need.heldout):
                unknown = view.features - self.nets.D.feature_info.keys()
                if unknown:
                    raise HandfulError(f"{self.config.d.name} has no feature {sorted(unknown)}; it has {sorted(self.nets.D.feature_info)}")
            if (need.real | need.fake).pixel_grad and not self.nets.D.second_order:       # a class outside of the package may not state it
                who = [n for n in phase.names if (v := self.terms[n].needs(phase.side) or Needs()) and (v.real | v.fake).pixel_grad]
                raise HandfulError(f"terms.{', terms.'.join(who)}: wants D's gradient by its pixels, but {self.config.d.name} can't be "
                                   f"differentiated twice: take another one (--set d=fastgan), or leave the term out (--set terms.{who[0]}=null)")
            if phase.side == "g" and need.real and self.g_batch != self.batch:
                raise HandfulError("train.g_batch must equal train.batch where G's step needs the reals (a relativistic loss)")

    def _idle_strengths(self) -> list[str]:
        """What has a strength of 0 that nothing will move: it would do nothing, silently."""
        roles = {role for term in self.terms.values() for role in term.roles}
        idle = []
        for role, where, controller, parts in (
                (CONTROLS_AUGMENT, f"augment={self.config.augment.name}", "terms.{name}={{}}", [self.nets.augment]),
                (CONTROLS_D, "a part of D", 'terms.inside={{"use": "{name}", "of": "d"}}', self.nets.D.modules())):
            strengths = [float(m.p) for m in parts if isinstance(getattr(m, "p", None), Tensor)]
            if 0.0 in strengths and role not in roles:
                controller = controller.format(name=next(n for n in catalog.names("terms") if role in getattr(catalog.load("terms", n), "roles", ())))
                idle.append(f"{where} has strength p=0 and nothing moves it, so it does nothing; give it a p, or a controller (--set '{controller}')")
        return idle

    def _say_what_accumulation_changes(self) -> None:
        if self.world > 1 or self.micro_batch < self.batch:
            why = [n for n, t in self.terms.items() if not t.exact_under_accumulation]
            why += [n for n, net in (("G", self.nets.G), ("D", self.nets.D)) if net.has_batch_stats]
            if why:
                self.notes.append(f"{', '.join(why)}: computed per micro-batch of {self.micro_batch} on each of {self.world} processes, "
                                  f"so a run with the whole batch of {self.batch} at once differs slightly")

    # -------------------------------------------------------------------------------------------------- the iteration

    def step(self) -> None:
        """One iteration: D's steps and G's step in the configured order, then the average of G."""
        last = self.images_seen + (self.config.train.d_steps - 1) * self.batch
        for side in self.config.train.order:
            main, *own = [p for p in self.plan if p.side == side]
            if side == "d":
                for substep in range(self.config.train.d_steps):
                    self._run(main, self.images_seen + substep * self.batch, substep)
            else:
                self._run(main, last if self.config.train.order == "dg" else self.images_seen, 0)
            for phase in own:
                self._run(phase, last, 0)
        self.passes.clear()
        ema.update(self.nets.G_ema, self.nets.G, self.config.ema, self.batch * self.config.train.d_steps, self.images_seen)
        self.iteration += 1
        self.images_seen += self.batch * self.config.train.d_steps
        if self.averages is not None:
            self.averages.update(self.batch * self.config.train.d_steps, self.images_seen)

    def _run(self, phase: Phase, at: int, substep: int) -> None:
        """One optimiser step. at: images seen before it, the key of its reals and its randomness."""
        active = tuple(n for n in phase.names if self.terms[n].active(phase.side, self.iteration, substep))
        if not any(phase.main or self.terms[n].own_step for n in active):         # observers alone take no step
            return
        done = None
        while done is None:
            try:
                done = self._accumulate(phase, active, at, substep)
            except torch.OutOfMemoryError:
                pass
            if done is None:                              # here, not above: the exception held on to what the attempt had allocated
                self._halve()
        sums, gather = done
        optimiser = self.optim[phase.side]
        parameters = [p for g in optimiser.param_groups for p in g["params"]]
        distributed.gradients(parameters, sums, self.world)
        norm, bad = optim.guard(optimiser, self.scale if phase.main else 1.0)
        optim.schedule(optimiser, {"g": self.config.optim_g, "d": self.config.optim_d}, at, self.config)
        optimiser.step()
        awaited = phase.side == "d" and self._keeps_graph      # G's graph is still to go back through, with the buffers that it saved
        distributed.buffers((self.nets.D,) if awaited else (self.nets.G, self.nets.D), self.world)
        self._commit(phase, active, sums, gather)
        self._note(phase, active, sums, norm, bad)

    def _accumulate(self, phase: Phase, active: tuple[str, ...], at: int, substep: int) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """The gradients of one optimiser step, micro-batch by micro-batch; returns per-sample sums with their counts, and what is gathered."""
        need = union(self.terms, active, phase.side)
        adversarial = self.terms[ADVERSARIAL].needs(phase.side) if phase.main else Needs()
        batch = self.g_batch if phase.side == "g" else self.batch
        local = batch // self.world
        self._train_only(phase.side)
        self.optim[phase.side].zero_grad(set_to_none=True)
        samples: dict[str, list[Tensor]] = {}
        gather: dict[str, list[Tensor]] = {}
        for start in range(self.rank * local, (self.rank + 1) * local, self.micro_batch):
            slots = range(start, min(start + self.micro_batch, (self.rank + 1) * local))
            passes = self.passes(MicroBatch(phase, at, batch, slots, self._rng, self._keeps_graph), need, adversarial)
            total: Tensor | None = None
            for name in active:
                term = self.terms[name]
                ctx = Context(phase.side, self.iteration, substep, self.images_seen, batch, slots,
                              self._rng(at, phase.key, "term", name, batch=batch, slots=slots), self.nets,
                              self._seen_by(passes, term.needs(phase.side) or Needs(), name))
                result = term(ctx)
                if result.loss is not None:
                    add = result.loss.float() * (phase.gain[name] * len(slots) / local)
                    total = add if total is None else total + add
                    key = f"loss_{name}" if name != ADVERSARIAL else "loss"
                    samples.setdefault(key, []).append(result.loss.detach().float().expand(len(slots)))
                for key, value in result.stats.items():
                    value = value.detach().float()
                    samples.setdefault(f"{name}/{key}", []).append(value.flatten(1).mean(1) if value.ndim > 1 else value)
                for key, value in result.gather.items():
                    gather.setdefault(f"{name}/{key}", []).append(value.detach())
            if phase.side == "g" and phase.main:
                for key, value in passes["fake"].generated.stats.items():
                    samples.setdefault(f"G/{key}", []).append(value.detach().float())
            if total is not None and total.requires_grad:
                (total * (self.scale if phase.main else 1.0)).backward()
            for p in passes.values():                     # they know each other: without this their graphs would wait for the garbage collector
                p.beside.clear()
                p.kept.clear()
        return self._sums(samples), gather

    @staticmethod
    def _sums(samples: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
        """Per key the sum over samples and, as the last element, how many. What is not finite is left out: it must not reach any state."""
        out: dict[str, Tensor] = {}
        alike: dict[torch.Size, dict[str, Tensor]] = {}                       # few large operations rather than many small ones
        for key, parts in samples.items():
            values = torch.cat(parts) if len(parts) > 1 else parts[0]
            alike.setdefault(values.shape, {})[key] = values
        for group in alike.values():
            values = torch.stack([v.reshape(len(v), -1) for v in group.values()])                      # [K,n,*]
            finite = values.isfinite().all(2, keepdim=True)                                            # [K,n,1]
            total = torch.where(finite, values, 0).sum(1)                                              # [K,*]
            out |= zip(group, torch.cat([total, finite.sum(1)], 1).unbind())
        return out

    @staticmethod
    def _seen_by(passes: Mapping[str, Pass], needs: Needs, name: str) -> dict[str, Pass]:
        views = {"real": needs.real, "fake": needs.fake, "heldout": needs.heldout}
        return {k: p.seen_by(views[k], f"term '{name}'") for k, p in passes.items() if views[k]}

    def _train_only(self, side: Side) -> None:
        """Gradients flow to the parameters of this side alone; to G's too where its graph must outlive D's step."""
        for other in ("g", "d"):
            on = other == side or (other == "g" and self._keeps_graph)
            for group in self.optim[other].param_groups:
                for p in group["params"]:
                    p.requires_grad_(on)

    @property
    def _keeps_graph(self) -> bool:
        """FastGAN's shared fakes: one G forward serves both steps where the batch is not accumulated.

        Else the same latents run again in G's step: the same pictures but for one power iteration more of G's spectral norm.
        """
        t = self.config.train
        return t.share_fakes and t.order == "dg" and self.g_batch == self.batch and self.micro_batch >= self.batch // self.world

    def _halve(self) -> None:
        if self.micro_batch == 1:
            raise HandfulError("out of memory with one image at a time; take a smaller resolution or a narrower recipe")
        self.passes.clear()
        self.micro_batch = (self.micro_batch + 1) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.notes.append(f"out of memory: the batch of {self.batch} is now accumulated from micro-batches of {self.micro_batch}")

    def _rng(self, *key: object, batch: int, slots: range, device: torch.device | str | None = None) -> Rng:
        detour = ("detour", self.detours) if self.detours else ()
        return Rng(derive(self.config.seed, *detour, *key), device or self.device, batch, slots)

    # ------------------------------------------------------------------------------------------------ after the step

    def _commit(self, phase: Phase, active: tuple[str, ...], sums: dict[str, Tensor], gather: dict[str, list[Tensor]]) -> None:
        batch = 0 if not phase.main else self.g_batch if phase.side == "g" else self.batch
        together = {k: torch.nan_to_num(v, 0, 0, 0) if v.is_floating_point() else v for k, v in distributed.gathered(gather, self.world).items()}
        with torch.no_grad():
            for name in active:
                means = {k.split("/", 1)[1]: v[0] / v[-1].clamp(min=1) for k, v in sums.items() if k.startswith(name + "/")}
                values = {k.split("/", 1)[1]: v for k, v in together.items() if k.startswith(name + "/")}
                self.terms[name].commit(phase.side, means, values, self.nets, batch)
            if phase.side == "g" and phase.main:
                self.nets.G.commit({k[2:]: v[:-1] / v[-1].clamp(min=1) for k, v in sums.items() if k.startswith("G/")})

    def _note(self, phase: Phase, active: tuple[str, ...], sums: dict[str, Tensor], norm: Tensor, bad: Tensor) -> None:
        """Adds this step's means to the log, on the device; nothing is read back before `take_log`."""
        values = {f"{phase.side}/{k.removeprefix(ADVERSARIAL + '/')}": v for k, v in sums.items() if not k.startswith("G/")}
        steps = torch.stack([norm, torch.ones_like(norm), bad.float(), torch.ones_like(norm)])
        if phase.main:
            values[f"{phase.side}/grad_norm"] = steps[:2]
        values[f"{phase.key}/bad_grads"] = steps[2:]
        for key, value in values.items():
            if key in self._log:
                self._log[key] += value
            else:
                self._log[key] = value.clone()

    def take_log(self) -> dict[str, float]:
        """Means since the last call, NaN where there was nothing finite; `SIDE/bad_grads`: how many steps had gradients that weren't finite.

        The one place where the host waits for the device. Afterwards `stuck` names the sides of which some phase had no good step at all.
        """
        self.stuck = ()
        if not self._log:
            return {}
        out: dict[str, float] = {}
        for key, (total, count) in zip(self._log, torch.stack(list(self._log.values())).tolist()):
            if key.endswith("bad_grads"):
                side = key[0]
                out[f"{side}/bad_grads"] = out.get(f"{side}/bad_grads", 0.0) + total
                self.stuck += (side,) if total == count else ()
            else:
                out[key] = total / count if count else math.nan
        self._log.clear()
        return out

    def derived(self, logged: Mapping[str, float]) -> dict[str, float]:
        """Further values that the terms compute from those of `take_log`."""
        return {k: v for term, values in self._told(logged) for k, v in term.derived(values).items()}

    def status(self, logged: Mapping[str, float]) -> list[str]:
        """The terms' parts of the progress line."""
        return [part for term, values in self._told(logged) if (part := term.status(values))]

    def overfitting(self, logged: Mapping[str, float]) -> str | None:
        """What a stretch of the log says of D's overfitting: a sign of it in words; "" for none, None where it can't be told."""
        found = [term.overfitting(values) for term, values in self._told(logged)]
        return next(filter(None, found), "" if "" in found else None)

    def advice(self, logged: Mapping[str, float]) -> list[str]:
        """What the terms have to say about the values of `take_log`."""
        return [line for term, values in self._told(logged) if (line := term.advice(values))]

    def _told(self, logged: Mapping[str, float]) -> list[tuple[Term, dict[str, float]]]:
        """Each term, and the values that concern it by their own names, beside those of the adversarial loss in D's step."""
        common = {k.removeprefix("d/"): v for k, v in logged.items() if k.startswith("d/") and k.count("/") == 1}
        own: dict[str, dict[str, float]] = {name: {} for name in self.terms}
        for key, value in logged.items():
            _, *name, stat = key.split("/")
            if len(name) == 1 and name[0] in own:
                own[name[0]][stat] = value
        return [(term, common | own[name]) for name, term in self.terms.items()]

    # ------------------------------------------------------------------------------------------------------- the state

    def state_dict(self) -> dict[str, Any]:
        n = self.nets
        progress = {"images_seen": self.images_seen, "iteration": self.iteration, "detours": self.detours,
                    "scored_sec": self.scored_sec, "stop_from": self.stop_from, "world": self.world, "threads": self.threads}
        held = frozen.digests(G=n.G, D=n.D, terms=self.terms)
        return {"progress": progress, **({"frozen": held} if held else {}), "G": n.G.state_dict(), "D": n.D.state_dict(),
                "G_ema": n.G_ema.state_dict(), "augment": n.augment.state_dict(), "terms": self.terms.state_dict(),
                "optim_g": self.optim["g"].state_dict(), "optim_d": self.optim["d"].state_dict(),
                **({} if self.averages is None else {"power_ema": self.averages.state_dict()})}

    def load_state_dict(self, state: Mapping[str, Any], said: str = "the checkpoint") -> None:
        """What `state_dict` gave, or a checkpoint holds. said: the file that it is from. Raises HandfulError where the state isn't this run's."""
        n = self.nets
        frozen.must_be(state.get("frozen", {}), said, G=n.G, D=n.D, terms=self.terms)
        for key, module in (("G", n.G), ("D", n.D), ("G_ema", n.G_ema), ("augment", n.augment), ("terms", self.terms)):
            tensors.fill(module, state[key], f"{said} ({key})")
        for side in ("g", "d"):
            settings = self.optim[side].state_dict()["param_groups"]
            optim.load(self.optim[side], state[f"optim_{side}"], f"{said} (optim_{side})")
            for group, now in zip(self.optim[side].param_groups, settings):
                group.update({k: v for k, v in now.items() if k != "params"})      # settings are the configuration's, moments the file's
        progress = state["progress"]
        self.images_seen, self.iteration = progress["images_seen"], progress["iteration"]
        self.detours, self.scored_sec = progress.get("detours", 0), progress.get("scored_sec", 0.0)
        self.threads, self.settled_at = progress.get("threads"), None
        self.stop_from = progress.get("stop_from") or 0
        if self.averages is not None and "power_ema" in state:
            self.averages.load_state_dict(state["power_ema"], self.images_seen, f"{said} (power_ema)")
        elif self.averages is not None:
            self.averages = None
            self.notes.append(f"{said} holds no averages of other lengths, so none are kept from here on (ema.choose)")

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """What is run inside leaves no trace: afterwards every tensor, counter and random stream is as before, to the bit. Only batches that were
        found to need more memory than there is stay divided."""
        device_rng = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        state, rng, log, notes = copy.deepcopy(self.state_dict()), torch.get_rng_state(), self._log, len(self.notes)
        settings = {side: [{k: v for k, v in group.items() if k != "params"} for group in o.param_groups] for side, o in self.optim.items()}
        flags = [(p, p.requires_grad) for module in (self.nets.G, self.nets.D, self.terms) for p in module.parameters()]
        stuck, settled_at, runs, micro_batch, self._log = self.stuck, self.settled_at, self.nets.runs, self.micro_batch, {}
        try:
            yield
        finally:
            self.load_state_dict(state)
            for side, groups in settings.items():
                self.optim[side].zero_grad(set_to_none=True)
                for group, before in zip(self.optim[side].param_groups, groups):
                    group.update(before)
            for p, flag in flags:
                p.requires_grad_(flag)
            self.passes.clear()
            self._log, self.stuck, self.settled_at, self.nets.runs = log, stuck, settled_at, runs
            if self.micro_batch == micro_batch:
                del self.notes[notes:]
            torch.set_rng_state(rng)
            if device_rng is not None:
                torch.cuda.set_rng_state(device_rng, self.device)

    def average_is_finite(self) -> bool:
        """Whether the averaged generator holds finite numbers alone. Waits for the device, once."""
        floats = [t for t in self.nets.G_ema.state_dict().values() if t.is_floating_point()]
        return bool(torch.stack(torch._foreach_norm(floats, float("inf"))).isfinite().all())
