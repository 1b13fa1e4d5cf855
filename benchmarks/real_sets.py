"""What the metrics say of real pictures: sets against each other, and a set against copies of itself that were altered on purpose.

    python benchmarks/real_sets.py FOLDER [--count 1000] [--threads 2] [--record DEVICE]

FOLDER holds cifar10-test.zip, cifar10-train-20pct.zip, cat-faces-270.zip and panda-faces-100.zip. Each picture is shown to Inception once; all
figures are computed from those features, the first --count pictures of a random order of each set. Of each kind of alteration the stronger one
scores worse, as a person would say; across kinds Inception sees otherwise than people do: faint noise counts for more than a slight blur.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from handful.data import load
from handful.features.extractor import extractor
from handful.metrics import FID, KID, Precision, Recall
from ledger import record

Alter = Callable[[Image.Image, np.random.Generator], Image.Image]


def blurred(radius: float) -> Alter:
    return lambda image, rng: image.filter(ImageFilter.GaussianBlur(radius))


def noised(level: float) -> Alter:
    return lambda image, rng: Image.fromarray((np.asarray(image) + rng.normal(0, level, (*image.size[::-1], 3))).clip(0, 255).astype(np.uint8))


def jpeg(quality: int) -> Alter:
    def alter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return alter


ALTERED: dict[str, Alter] = {"noise of 5 levels": noised(5), "JPEG of quality 80": jpeg(80), "blur of 1 pixel": blurred(1),
                             "noise of 30 levels": noised(30), "JPEG of quality 10": jpeg(10), "blur of 3 pixels": blurred(3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="pictures of each CIFAR set")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--record", metavar="DEVICE", help="write the figures into the ledger under this device's name")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    network = extractor("inception", args.device)
    pictures = lambda name, side: shuffled(load(args.folder / f"{name}.zip", resolution=side).images)                                     # noqa: E731
    test, train = pictures("cifar10-test", 32), pictures("cifar10-train-20pct", 32)
    cats, pandas = pictures("cat-faces-270", 256), pictures("panda-faces-100", 256)
    n = min(args.count, len(test) // 2)
    f = {"one half of cifar10-test": network(test[:n]), "the other half": network(test[n:2 * n]), "cifar10-train-20pct": network(train[:n]),
         "cat faces": network(cats), "panda faces": network(pandas)}
    rows = [("one half of cifar10-test", "the other half"), ("one half of cifar10-test", "cifar10-train-20pct"), ("cat faces", "panda faces")]
    for name, alter in ALTERED.items():
        f[f"the same, {name}"] = network(altered(cats, alter))
        rows.append(("cat faces", f"the same, {name}"))
    few = f["cat faces"][:27].repeat(10, 1)
    f["27 of them ten times each"] = few
    rows.append(("cat faces", "27 of them ten times each"))
    print("| reals | against | counts | FID | KID | precision | recall |\n|---|---|---|---|---|---|---|")
    for real, fake in rows:
        found = {m.__name__: m()(f[real], f[fake]) for m in (FID, KID, Precision, Recall)}
        kid = found["KID"]
        print(f"| {real} | {fake} | {len(f[real])}, {len(f[fake])} | {found['FID']['value']:.2f} | {kid['value']:.5f} +- {kid['stderr']:.5f} | "
              f"{found['Precision']['value']:.3f} | {found['Recall']['value']:.3f} |", flush=True)
        if args.record:
            command = f"python benchmarks/real_sets.py FOLDER --count {args.count}"
            note = f"{len(f[real])} and {len(f[fake])} pictures, Inception ({network.resize})"
            for name, one in found.items():
                spread = {"KID": "standard error {stderr:.2g}", "FID": "halves of the reals {bias:.3g}"}.get(name, "")
                record(f"{real} against {fake}: {name}", one["value"], "", command, device=args.record, seed=0, group="Metrics on real pictures",
                       note="; ".join(filter(None, [note, spread.format(**one)])))


def shuffled(images: Tensor) -> Tensor:
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]


def altered(images: Tensor, alter: Alter) -> Tensor:
    """uint8 [N,3,H,W], each picture altered."""
    rng = np.random.default_rng(0)
    out = [np.asarray(alter(Image.fromarray(x), rng)) for x in images.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
