"""StyleGAN2-ADA's setting for 256 pixels: its sweeps over FFHQ and LSUN Cat, half the feature maps, the setting of 8 GPUs."""

from __future__ import annotations

from typing import Any

from . import _comparisons, _insgen
from ._stylegan2 import BEST_FID, FIG_7, FIG_8A, NO_ADA, cells, ffhq, stylegan2

MEDIAN = "50,000 generated images against all {n:,}, whatever the subset trained on; median of 3 runs"
MEAN = "50,000 generated images against all 70,000 of FFHQ, whatever the subset trained on; mean of 3 runs"
ROWS = {"baseline": NO_ADA, "ADA": (), "ADA + bCR": _comparisons.BCR}
FIG_7C_FFHQ = {"1k": (100.16, 21.29, 22.61), "5k": (49.68, 10.96, 10.58), "10k": (30.74, 8.13, 7.53), "30k": (12.31, 5.46, 4.57),
               "70k": (5.28, 4.30, 3.91), "140k": (3.71, 3.81, 3.62)}
FIG_7C_CAT = {1: (186.91, 43.25, 38.82), 5: (96.44, 16.95, 16.80), 10: (50.66, 13.13, 12.90), 30: (15.90, 10.50, 9.68), 100: (8.56, 9.26, 8.73),
              200: (7.98, 9.22, 9.03)}
FIG_18 = {"baseline": {"2k": (76.61, 0.000), "5k": (43.72, 0.010), "30k": (11.40, 0.258), "140k": (3.54, 0.452)},
          "ADA": {"2k": (15.76, 0.135), "5k": (10.78, 0.185), "30k": (5.40, 0.354), "140k": (3.79, 0.440)},
          "ADA + bCR": {"2k": (17.05, 0.076), "5k": (10.21, 0.155), "30k": (4.55, 0.327), "140k": (3.55, 0.412)}}

TARGETS = (
    *(t for size, values in FIG_7C_FFHQ.items() for (row, lines), fid in zip(ROWS.items(), values)
      for t in cells("7c", row, f"FFHQ {size}", MEDIAN.format(n=70000), FIG_7, (*lines, *ffhq(size)), FID=fid)),
    *(t for kilo, values in FIG_7C_CAT.items() for (row, lines), fid in zip(ROWS.items(), values)
      for t in cells("7c", row, f"LSUN Cat {kilo}k", MEDIAN.format(n=200000), FIG_7,
                     (*lines, "data.resolution=256", f"data.max_images={kilo * 1000}"), FID=fid)),
    *(t for row, (lines, fids) in _comparisons.FIG_8A.items() for size, fid in zip(_comparisons.SIZES, fids)
      for t in cells("8a", row, f"FFHQ {size}", MEAN, FIG_8A, (*lines, *ffhq(size)), FID=fid)),
    *(t for row, sizes in FIG_18.items() for size, (fid, recall) in sizes.items()
      for t in cells("18", row, f"FFHQ 256x256, {size}", BEST_FID, FIG_7, (*ROWS[row], *ffhq(size)), FID=fid, recall=recall)),
    *_insgen.paper256(),
)


def recipe(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    return stylegan2(resolution or 256, kimg=25000, batch=64, micro_batch=8, fmaps=0.5, lr=0.0025,
                     gamma=1.0, ema_kimg=20.0, asked_batch=batch)
