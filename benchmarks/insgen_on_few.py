"""What instance discrimination does for a few hundred images: StyleGAN2 plain, with ADA, with InsGen, with both, and with InsGen's shared mode.

    python benchmarks/insgen_on_few.py cifar10:10% --out runs/insgen-on-few --against cifar10:test
    python benchmarks/insgen_on_few.py emoji.zip --out runs/insgen-on-few --images 90 --holdout 26 --variants ada ada-insgen

How the runs are made: benchmarks/_few.py. Without ADA the augmentation is held at p = 0, so that r_t is measured alike in all; both views of an
image are then the same picture. KID is that of the run's last average of G: --samples pictures against --reals images of --against (None: the
held-out images and those trained on), its standard error is printed beside it. The last lines printed are the summary: mean and spread (largest
less smallest) over the seeds. Written to --out: the runs, curves.png, logits.png (see ada_on_few.py), samples.png (the first seed's pictures of
seeds 0 to 15, a row per variant), summary.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import _few
import handful
from handful import data
from handful.data import Dataset
from handful.errors import HandfulError
from handful.files import write_text

NO_ADA = ("terms.ada_controller.max_p=0",)
ALL = {"plain": ("plain", NO_ADA),
       "ada": ("+ ADA", ()),
       "insgen": ("+ InsGen", (*NO_ADA, 'terms.insgen={"use": "insgen"}')),
       "ada-insgen": ("+ ADA + InsGen", ('terms.insgen={"use": "insgen"}',)),
       "ada-shared": ("+ ADA + InsGen, shared", ('terms.insgen={"use": "insgen", "mode": "shared"}',))}


def main() -> None:
    parser = _few.arguments(__doc__, kimg=20)
    parser.add_argument("--variants", nargs="+", choices=list(ALL), default=list(ALL))
    parser.add_argument("--against", help="DATA that KID compares with; none: the run's own images")
    parser.add_argument("--reals", type=int, default=2000, help="the first so many of them")
    parser.add_argument("--samples", type=int, default=1000)
    args = parser.parse_args()
    variants = {name: ALL[name] for name in args.variants}
    plots = None if args.no_plots else _few.plotting()
    runs = _few.done(args, variants)
    summary = {variant: [_few.figures(run) | kid(run["folder"], args.against or args.data, args) for run in found]
               for variant, found in runs.items()}
    if plots:
        _few.draw_curves(plots, runs, variants, args.out / "curves.png")
        _few.draw_logits(plots, runs, variants, args.out / "logits.png")
    rows = [handful.load(found[0]["folder"], "cpu").sample(list(range(16))) for found in runs.values()]             # uint8 [16,H,W,C] each
    Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows])).save(args.out / "samples.png")
    _few.finish(summary, variants, args, "InsGen on few images")


def kid(folder: Path, against: str, args: Any) -> dict[str, float]:
    """KID and FID of a finished run; kept beside it."""
    kept = folder / "kid.json"
    asked = {"against": against, "reals": args.reals, "samples": args.samples}
    if kept.exists() and (found := json.loads(kept.read_text(encoding="utf-8")))["asked"] == asked:
        return found["figures"]
    reals = data.load(against, resolution=handful.load(folder, "cpu").config.data.resolution)
    reals = Dataset(reals.images[:args.reals])
    scores = handful.evaluate(folder, reals, ["kid", "fid"], args.samples, device=args.device)
    figures = {"KID": scores["kid"]["value"], "KID's standard error": scores["kid"]["stderr"], "FID": scores["fid"]["value"]}
    write_text(kept, json.dumps({"asked": asked, "figures": figures}))
    return figures


if __name__ == "__main__":
    try:
        main()
    except HandfulError as error:
        sys.exit(f"error: {error}")
