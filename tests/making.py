"""Small runs for the tests: tiny networks on noise, everything else as in the product."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from handful import catalog, config
from handful.data import Dataset
from handful.training.trainer import Trainer

TINY = {"data": {"resolution": 16}, "g": {"use": "tiny:TinyG"}, "d": {"use": "tiny:TinyD"}, "loss": {"use": "non_saturating"},
        "augment": {"use": "none"}, "train": {"batch": 8, "kimg": 0.08}, "ema": {"decay": 0.9}}
NARROW = {"fastgan": {"g": {"ngf": 4, "z_dim": 16}, "d": {"ndf": 4}},       # keeps tests fast; a new architecture may leave this empty
          "stylegan2": {"g": {"z_dim": 16, "w_dim": 16, "channel_base": 256, "channel_max": 16, "mapping_layers": 2},
                        "d": {"channel_base": 256, "channel_max": 16}},
          "biggan": {"g": {"z_dim": 16, "width": 4}, "d": {"width": 4}},
          "sngan": {"g": {"z_dim": 16, "width": 8}, "d": {"width": 8}},
          "dcgan": {"g": {"z_dim": 16, "width": 4}, "d": {"width": 4}},
          "r3gan": {"g": {"z_dim": 16, "width": 8}, "d": {"width": 8}},
          "chain": {"d": {"width": 1, "p": 0.5}},
          "projected": {"g": {"z_dim": 16, "ngf": 4}, "d": {"cout": 8, "separable": True, "enlarge_to": 128, "random": 0}}}
# Settings that a term can't do without.
TERMS_NEED = {"ada_controller": ["augment=test_seam:Mirror"], "augself": ["augment=diffaug"], "bcr": ["terms.bcr.shift=0.125"],
              "chain": ['d={"use": "chain", "width": 1, "p": 0.5}'], "contrad": ["augment=simclr"], "heldout_logits": ["data.holdout=0.2"],
              "vision_aided": ["terms.vision_aided.random=1", "terms.vision_aided.size=32"]}                   # and without pretrained weights


def pair(arch: str) -> dict[str, dict[str, Any]]:
    """The settings g and d of a narrow pair of networks: an architecture's own, and dcgan's where it has one alone."""
    use = {side: arch if which in catalog.networks(arch) else "dcgan" for side, which in (("g", "Generator"), ("d", "Discriminator"))}
    return {side: {"use": name, **NARROW.get(name, {}).get(side, {})} for side, name in use.items()}


def tiny_config(*settings: str, **over: Any) -> config.Config:
    return config.resolved(config.parse(config.assign(config.merge(TINY, over), settings)))


def noise_set(count: int = 24, classes: int = 0, resolution: int = 16, channels: int = 3) -> Dataset:
    g = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, channels, resolution, resolution), generator=g, dtype=torch.uint8)
    labels = torch.arange(count) % classes if classes else None
    return Dataset(images, labels, [f"c{i}" for i in range(classes)])


def tiny_trainer(*settings: str, dataset: Dataset | None = None, rank: int = 0, world: int = 1, precision: str = "fp32", compile: bool = False,
                 **over: Any) -> Trainer:
    return Trainer(tiny_config(*settings, **over), dataset or noise_set(), torch.device("cpu"), rank=rank, world=world, precision=precision,
                   compile=compile)


def in_two_processes(script: str, out: Path, **env: str) -> None:
    """Runs `script` as a program in two processes, with `out` as its argument."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, str(out)]
    done = subprocess.run(line, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, cwd=Path(__file__).parent, capture_output=True, text=True,
                          timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]


def of_two_processes(script: str, out: Path) -> list[Any]:
    """What each rank of `script` saved as out/rankN.pt."""
    in_two_processes(script, out)
    return [torch.load(out / f"rank{r}.pt", weights_only=True) for r in (0, 1)]


def weights(trainer: Trainer) -> torch.Tensor:
    """Everything that training moves, as one vector."""
    n = trainer.nets
    parts = [*n.G.state_dict().values(), *n.D.state_dict().values(), *n.G_ema.state_dict().values(), *trainer.terms.state_dict().values()]
    return torch.cat([p.detach().double().reshape(-1) for p in parts])


def run_steps(trainer: Trainer, steps: int) -> Trainer:
    for _ in range(steps):
        trainer.step()
    return trainer


def picture_folder(folder: Path, count: int = 12, size: int = 20, classes: int = 0) -> Path:
    g = torch.Generator().manual_seed(5)
    for i in range(count):
        place = folder / f"class{i % classes}" if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (size, size, 3), generator=g, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(place / f"{i:03d}.png")
    return folder
