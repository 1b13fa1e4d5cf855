"""`handful.evaluate`: a model, or a folder of pictures, against the real ones, by any number of metrics in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..data import Dataset
from ..errors import UsageError
from ..infer.model import Model, pick_device
from . import _sets
from ._protocols import FRESH, reported_metric, resolve
from ._session import Clock, Progress, Session
from ._world import World

DEFAULT = ("fid", "kid", "precision", "recall")


def evaluate(
    model: Model | _sets.Given,
    data: _sets.Given,
    metrics: str | Iterable[str] = DEFAULT,
    samples: int | None = None,
    *,
    device: str | torch.device = "auto",
    batch: int | None = None,
    res: int | None = None,
    extractor: str | nn.Module | None = None,
    resize: str | None = None,
    truncation: float = 1.0,
    statistics: str | None = None,
    skip_bad: bool = False,
    cache: bool = True,
    memory_mb: int = 256,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    together: bool = True,
    heldout: Dataset | str | None = None,
    trust: Iterable[str] = (),
    first: int = 0,
    second_space: bool = True,
    reported: bool = False,
) -> dict[str, dict[str, Any]]:
    """Scores a model, or pictures, against real ones: {metric: {"value", "protocol", "count_real", "count_fake", "resize",
    "extractor", "extractor_digest", and what it has besides: "stderr", "bias", "note"}}, keyed as asked.

    model: a Model, a MODEL's path (run folder, checkpoint, .safetensors), or pictures: a folder without config.json, a zip, a
    Dataset, uint8 [N,C,H,W]. data: the real pictures, likewise. With a model they are prepared as its training images were; two
    folders are compared at the files' own sizes, or both at `res` pixels. metrics: names of `handful list metrics`, or protocols of
    the papers (fid50k_full, fid5k_train ...: metrics/_protocols.py), which fix the numbers themselves. samples: of the model, for
    the plain ones; by default as many as there are reals, from 5000 to 50000. Sample i is the picture of seed i, its class that of
    a random real. statistics: of batch norm while sampling, "standing" or "batch" (of 50 samples at a time; BigGAN's papers), None: as the
    model's configuration says. extractor, resize: instead of the metric's own ("inception", "official"). An extractor may be any
    module that takes uint8 [B,C,H,W] in 0..255 and gives [B,D]; without attributes `name`, `dim` and `digest` it goes by its class's
    name, the D that it gives and the sha256 of its weights; since that doesn't cover its code, statistics of reals are kept for those
    alone that have a `digest`. cache: keep statistics of the reals.
    memory_mb: for blocks of a matrix between all images. progress: called with (stage, done, total, seconds left or None); what it
    raises ends the work. say: gets notes, line by line. together: divide the work among all processes of torch.distributed, where
    it runs; all must call this then, all get the result, and each has its progress called about its own share. heldout: with `data`
    a Dataset that the model was trained on, the images that it was not, or their path: what metrics of unseen reals (..._test)
    take. With a path as `data` they are found: held out of it, or the test set that belongs to it (cifar10:10%, cifar10:test). trust: modules
    outside of the package whose classes the model's file may name. first: the seed of the first sample, for further sets of samples.

    second_space: where the model's run used pretrained networks, each result says so and has the same figure in features that the run did not use:
    "pretrained", {"networks": names, "note": in words}, and "second", {feature network: result}, for metrics of features whose weights are on this
    machine (`metrics/_pretrained.py` has which). The same samples are taken, in the same pass. False: results without either.
    reported: the figures of a model that are published. 2000 samples of seeds from 1,000,000 on, which nothing in handful chooses by; all reals as
    they were prepared, without mirror images; KID over all pairs, with its standard error from five disjoint sets of 400 samples. It fixes samples,
    first and truncation, and takes metrics of features by their plain names.

    Raises UsageError for unknown names; HandfulError, in one line, for absent weights, too few images, files that can't be read.
    What one of several processes raises, all raise: a HandfulError that names its rank, or, after KeyboardInterrupt, `Stopped`.
    """
    world = World.here() if together else World()
    with ExitStack() as stack:
        session = _planned(stack, world, model, data, metrics, samples, device=device, batch=batch, res=res, extractor=extractor,
                           resize=resize, truncation=truncation, statistics=statistics, skip_bad=skip_bad, cache=cache,
                           memory_mb=memory_mb, progress=progress, say=say, heldout=heldout, trust=trust, first=first,
                           second_space=second_space, reported=reported)
        session.look()
        return session.scores()


@contextmanager
def planned(*args: Any, **keywords: Any) -> Iterator[Session]:
    """What `evaluate` would do, in this process alone, with everything ready and no picture looked at."""
    with ExitStack() as stack:
        yield _planned(stack, World(), *args, **keywords)


def _planned(stack: ExitStack, world: World, model: Model | _sets.Given, data: _sets.Given, metrics: str | Iterable[str],
             samples: int | None, *, device: str | torch.device = "auto", batch: int | None = None, res: int | None = None,
             extractor: str | nn.Module | None = None, resize: str | None = None, truncation: float = 1.0, statistics: str | None = None,
             skip_bad: bool = False, cache: bool = True, memory_mb: int = 256, progress: Progress | None = None,
             say: Callable[[str], None] | None = None, heldout: Dataset | str | None = None, trust: Iterable[str] = (), first: int = 0,
             second_space: bool = True, reported: bool = False) -> Session:
    """Arguments as of `evaluate`; what is opened is closed with `stack`."""
    on = model.device if isinstance(model, Model) else pick_device(str(device))
    if on.type == "cuda":
        stack.enter_context(torch.cuda.device(on))           # what processes send each other goes through it
    stack.enter_context(world.together())
    wanted = {name: resolve(name) for name in ([n.strip() for n in metrics.split(",") if n.strip()] if isinstance(metrics, str) else metrics)}
    if not wanted:
        raise UsageError(f"no metrics; name some, e.g. {','.join(DEFAULT)}")
    if reported:
        if samples is not None or first or truncation != 1:
            raise UsageError("--reported fixes the samples, their seeds and no truncation; leave --samples and --trunc out")
        wanted, first = {name: reported_metric(name) for name in wanted}, FRESH
    if samples is not None and samples < 2:
        raise UsageError(f"samples={samples}: take 2 or more; 5000 is usual")
    if statistics not in (None, "standing", "batch"):
        raise UsageError(f"statistics={statistics!r}: must be one of standing, batch")
    session = Session(wanted, samples, on, batch or (64 if on.type == "cuda" else 16), world, Clock(progress), cache, memory_mb,
                      stack, second_space, reported)
    session.open(model, data, res, truncation, statistics, skip_bad, say or (lambda line: None), heldout, trust, first)
    session.plan(extractor, resize)
    return session
