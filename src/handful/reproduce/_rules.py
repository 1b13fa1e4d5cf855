"""Which snapshot a paper's figure is of, how often it was scored, and by how many samples: each paper's own rule."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Config


@dataclass(frozen=True)
class Rule:
    """said: the rule in words. every_iterations, every_kimg: between two scores, at the published length. each: every figure is taken from the
    snapshot that is the best by its own metric, and is that snapshot's score; else one snapshot, the best by FID, serves all, and the figure is the
    mean over `sets` sets of samples of it. best_seed: of several runs the best counts, not their mean. together: so many samples share their batch
    statistics."""

    said: str
    every_iterations: int | None = None
    every_kimg: float | None = None
    each: bool = False
    sets: int = 1
    best_seed: bool = False
    together: int | None = None

    def kimg(self, config: Config) -> float:
        """Between two scores of a published setting, in thousands of real images."""
        if self.every_kimg is not None:
            return self.every_kimg
        return self.every_iterations * config.train.batch * config.train.d_steps / 1000


_BEST = "the snapshot of the best FID on the reals of the figure, as in the paper"
FASTGAN = Rule(f"{_BEST}; scored every 10k iterations; of 5 seeds the best; batch statistics of 16 samples",
               every_iterations=10_000, best_seed=True, together=16)
ADA = Rule("each figure from the snapshot that is the best by it, as in the paper; scored every 200 kimg", every_kimg=200, each=True)
CIFAR = Rule(f"{_BEST}; scored every 4000 iterations; the figure is the mean over 5 sets of samples of it", every_iterations=4000, sets=5)
STUDIOGAN = Rule(f"{_BEST}; scored every 2000 iterations; the figure is the mean over 5 sets of samples of it", every_iterations=2000, sets=5)
IMAGENET = Rule(f"{_BEST}; scored every 2000 iterations; the figure is the mean over 3 sets of samples of it", every_iterations=2000, sets=3)
FEW = Rule(f"{_BEST}, which are the training images; scored every 40 kimg", every_kimg=40)
OTHER = Rule("the snapshot of the best FID during the run; the paper doesn't say which it takes")


def rule_of(table: str, config: Config) -> Rule:
    """The rule for a row of a table that is trained with these settings."""
    paper, _, number = table.partition("/")
    if paper in ("stylegan2-ada", "insgen"):
        return ADA
    if paper == "fastgan":
        return FASTGAN
    if paper not in ("diffaugment", "diggan"):
        return OTHER
    if config.g.name == "stylegan2":
        return FEW if config.data.resolution > 64 else Rule(f"{_BEST}; scored every 200 kimg", every_kimg=200)
    if table == "diffaugment/2":
        return IMAGENET
    return STUDIOGAN if table == "diggan/3" else CIFAR


# Recipes whose releases compute in fp16.
HALF = {"paper256", "paper512", "paper1024", "stylegan2", "cifar", "cifar_baseline", "insgen256", "insgen512", "stylegan2_auto", "biggan_tiny",
        "biggan_cub"}


def precision(recipe: str, device: str) -> tuple[str, str]:
    """(the number format of a reproduction on this device, what to say where it isn't the release's or "")."""
    if recipe not in HALF:
        return "fp32", ""
    if device == "cuda":
        return "fp16", ""
    return "fp32", "computed in fp32, where the release computes in fp16 on a GPU"
