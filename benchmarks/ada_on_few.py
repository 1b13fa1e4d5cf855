"""What adaptive augmentation does for a few hundred images: the same runs with and without it, and D's logits as in the paper's figure 1.

    python benchmarks/ada_on_few.py cifar10-train.zip --out runs/ada-on-few                        500 images, seeds 0 1 2, with and without
    python benchmarks/ada_on_few.py cifar10-train.zip --out runs/ada-on-few --kimg 100 --threads 1 --record "2 cores, ..."

"Without" is the same pipeline held at p = 0, so that r_t is measured alike in both. How the runs are made: benchmarks/_few.py. Written to --out:
the runs, curves.png (p, r_t, D's mean logits), logits.png (a slice per checkpoint is the histogram of D's logits on training images, held-out images
and fakes, all augmented as D sees them then; beside it the last one), summary.json. The last lines printed are the summary: mean and spread (largest
less smallest) over the seeds.
"""

from __future__ import annotations

import sys

import _few
from handful.errors import HandfulError

VARIANTS = {"with": ("with ADA", ()), "without": ("without ADA", ("terms.ada_controller.max_p=0",))}


def main() -> None:
    args = _few.arguments(__doc__, kimg=100).parse_args()
    plots = None if args.no_plots else _few.plotting()
    runs = _few.done(args, VARIANTS)
    if plots:
        _few.draw_curves(plots, runs, VARIANTS, args.out / "curves.png")
        _few.draw_logits(plots, runs, VARIANTS, args.out / "logits.png")
    _few.finish({variant: [_few.figures(run) for run in found] for variant, found in runs.items()}, VARIANTS, args, "ADA on few images")


if __name__ == "__main__":
    try:
        main()
    except HandfulError as error:
        sys.exit(f"error: {error}")
