"""StyleGAN2-ADA's `auto`: batch, feature maps, learning rate, R1 and the average of G by resolution and number of GPUs."""

from __future__ import annotations

from typing import Any

from . import _diggan
from ._stylegan2 import auto_formulas, stylegan2
from ._targets import Target

HOURS = {                                     # the release's expected hours per 1000 kimg, and sec/kimg, on 1, 2, 4, 8 V100 GPUs
    128: ((4 + 5 / 60, "12.8-13.7"), (2 + 6 / 60, "6.5-6.8"), (1 + 20 / 60, "4.1-4.6"), (1 + 13 / 60, "3.9-4.9")),
    256: ((6 + 36 / 60, "21.6-24.2"), (3 + 27 / 60, "11.2-11.8"), (1 + 45 / 60, "5.6-5.9"), (1 + 24 / 60, "4.4-5.5")),
    512: ((21 + 3 / 60, "72.5-74.9"), (10 + 59 / 60, "37.7-40.0"), (5 + 29 / 60, "18.7-19.1"), (2 + 48 / 60, "9.5-9.7")),
    1024: ((24 + 20, "154.3-161.6"), (23 + 9 / 60, "80.6-86.2"), (11 + 36 / 60, "40.1-40.8"), (5 + 54 / 60, "20.2-20.6"))}


def for_gpus(resolution: int, gpus: int) -> tuple[str, ...]:
    """The settings that the number of GPUs changes."""
    f = auto_formulas(resolution, gpus)
    lines = (f"data.resolution={resolution}",)
    if gpus > 1:
        lines += (f"train.batch={f['batch']}", f"terms.r1.gamma={f['gamma']!r}", f"ema.halflife_kimg={f['ema_kimg']!r}")
    return lines


TARGETS = tuple(Target("stylegan2-ada/cost", f"{gpus} GPU{'s' if gpus > 1 else ''}", f"{resolution}x{resolution}",
                       "hours per 1000 kimg", hours, f"the release's own table, with ADA and mixed precision; {pace} s/kimg",
                       f"{gpus} V100", for_gpus(resolution, gpus))
                for resolution, row in HOURS.items() for gpus, (hours, pace) in zip((1, 2, 4, 8), row))
TARGETS += tuple(_diggan.low_shot(for_gpus(256, 4)))


def recipe(resolution: int | None = None, batch: int | None = None, gpus: int = 1, **_: Any) -> dict[str, Any]:
    """gpus: processes that will share the batch; it moves batch, gamma and the average of G."""
    resolution = resolution or 256
    tree = stylegan2(resolution, kimg=25000, mapping_layers=2, rampup=0.05, asked_batch=batch, **auto_formulas(resolution, gpus))
    tree["train"]["micro_batch"] = None       # batch / gpus is what each of them gets anyway
    tree["every"] |= {"preview_kimg": 20, "checkpoint_kimg": 100}          # the recipe that people meet without a paper in mind
    return tree
