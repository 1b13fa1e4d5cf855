"""The experiment as a command: python -m examples.two_point, from the root of the checkout."""

from __future__ import annotations

import argparse
from pathlib import Path

from .experiment import run, summary

parser = argparse.ArgumentParser(prog="python -m examples.two_point", description="DigGAN's experiment on two points, from many seeds at once.")
parser.add_argument("--seeds", type=int, default=100, help="starting points [100]")
parser.add_argument("--quick", action="store_true", help="half the iterations, to see that it runs")
parser.add_argument("--out", type=Path, default=Path("runs/two-point"), help="the folder of the results [runs/two-point]")
args = parser.parse_args()
print(summary(run(args.out, args.seeds, quick=args.quick)))
