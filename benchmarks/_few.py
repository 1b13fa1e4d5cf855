"""Runs on a few hundred images in several variants, with D's logits on what it trained on, what it never saw and what G makes: for the scripts
beside this file, which choose the variants.

Each seed draws its own subset, its own held-out images (D never trains on them), order and initialisation. A run that is finished is not repeated,
one that was stopped goes on, so a command can be given again, or in two processes with half of the runs each.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import handful
from handful import config as config_module
from handful import data
from handful.errors import HandfulError
from handful.files import write_text
from handful.rng import Rng, derive
from handful.tensors import load_checkpoint
from handful.training.log import read
from handful.training.trainer import Trainer
from ledger import record

Variants = Mapping[str, tuple[str, tuple[str, ...]]]          # name: what it is called, and its settings
KINDS = {"train": "training images", "heldout": "held-out images", "fake": "generated"}
COLOURS = {"train": "#1f77b4", "heldout": "#2ca02c", "fake": "#ff7f0e"}
LOGGED = {"p": "d/ada_controller/p", "r_t": "d/ada_controller/sign", "train": "d/logits_real", "heldout": "d/heldout_logits/logits",
          "fake": "d/logits_fake"}
BINS = 40


def arguments(doc: str | None, kimg: float) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="zip or folder, e.g. of CIFAR-10's training images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="stylegan2_32_narrow")
    parser.add_argument("--images", type=int, default=500, help="to train on")
    parser.add_argument("--holdout", type=int, default=250, help="images kept out")
    parser.add_argument("--kimg", type=float, default=kimg)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--slices", type=int, default=16, help="checkpoints kept of each run")
    parser.add_argument("--looked-at", type=int, default=250, help="images of each kind that D judges per checkpoint")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-plots", action="store_true")
    parser.add_argument("--record", metavar="DEVICE", help="write the summary into the ledger under this device's name")
    return parser


def done(args: argparse.Namespace, variants: Variants) -> dict[str, list[dict[str, Any]]]:
    """Every run, trained where it wasn't yet: {variant: [{"folder", "log", "logits"} per seed]}."""
    if args.threads:
        torch.set_num_threads(args.threads)
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in args.seeds:
        for variant, (label, settings) in variants.items():
            folder = trained(args, f"{variant}-seed{seed}", label, settings, seed)
            runs.setdefault(variant, []).append({"folder": folder, "log": log_of(folder), "logits": logits_of(folder, args.looked_at)})
    return runs


def trained(args: argparse.Namespace, name: str, label: str, settings: tuple[str, ...], seed: int) -> Path:
    """The folder of one finished run."""
    folder = args.out / name
    if newest(folder) >= round(args.kimg * 1000):
        print(f"{folder} is done", flush=True)
        return folder
    print(f"{folder}: {args.kimg:g} kimg {label}", flush=True)
    if newest(folder) >= 0:
        run = handful.train(resume=folder, kimg=args.kimg, device=args.device, quiet=True)
    else:
        total = args.images + args.holdout
        settings = [f"data.max_images={total}", f"data.holdout={args.holdout / total!r}", "data.flip=false", "terms.heldout_logits.every=8",
                    f"every.checkpoint_kimg={args.kimg / args.slices:g}", f"every.keep_checkpoints={2 * args.slices}",
                    f"every.log_kimg={args.kimg / 200:g}", *settings, *args.settings]
        run = handful.train(args.data, args.recipe, folder, args.kimg, seed=seed, device=args.device, settings=settings, quiet=True)
    if not run.finished:
        sys.exit(130)
    return folder


def newest(folder: Path) -> int:
    """Images seen by the last checkpoint; -1 without one."""
    return max((int(p.stem) for p in (folder / "checkpoints").glob("*.pt")), default=-1)


def log_of(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """(kimg, value) by name."""
    lines = read(folder / "log.jsonl")
    return {name: [(line["images"] / 1000, line[key]) for line in lines if line.get(key) is not None] for name, key in LOGGED.items()}


def logits_of(folder: Path, n: int) -> dict[float, dict[str, list[float]]]:
    """D's logits on n images of each kind, by kimg of the checkpoint; kept beside the run, since they take longer than the drawing."""
    kept = folder / "logits.json"
    paths = sorted((folder / "checkpoints").glob("*.pt"))
    want = [f"{int(p.stem) / 1000:g}" for p in paths]
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if list(found) != want or any(len(v["fake"]) != n for v in found.values()):
        config = config_module.read(folder / "config.json")
        d = config.data
        dataset = data.load(d.path, resolution=d.resolution, channels=d.channels, fit=d.fit, filter=d.filter, labels=d.labels,
                            max_images=d.max_images, seed=config.seed)
        trainer = Trainer(config, dataset, torch.device("cpu"))
        found = {}
        for kimg, path in zip(want, paths):
            trainer.load_state_dict(load_checkpoint(path))
            found[kimg] = judged(trainer, n)
        write_text(kept, json.dumps(found))
    return {float(kimg): logits for kimg, logits in found.items()}


@torch.no_grad()
def judged(trainer: Trainer, n: int) -> dict[str, list[float]]:
    """In batches of the run's own size: D compares the images of a batch. G as it is, not its average, since that is what D sees."""
    out: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for kind, source in (("train", trainer.dataset), ("heldout", trainer.heldout), ("fake", None)):
        order = None if source is None else torch.randperm(len(source), generator=torch.Generator().manual_seed(derive("looked at", kind)))
        for at in range(0, n if order is None else min(n, len(order)) - trainer.batch + 1, trainer.batch):
            rng = Rng(derive("looked at", kind, at))
            if order is None:
                z, c = trainer.nets.latents(trainer.batch, rng)
                x = trainer.nets.generate(z, c, rng=rng.fork("g")).image
            else:
                x, c = source.batch(order[at:at + trainer.batch], None, "cpu")
            found = trainer.nets.judge(x, c, rng=rng.fork("d")).logits
            out[kind] += [round(v, 4) for v in found.flatten(1).mean(1).tolist()] if found.ndim > 1 else [round(v, 4) for v in found.tolist()]
    out["fake"] = out["fake"][:n]
    return out


# ---------------------------------------------------------------------------------------------------------------- the figures


def figures(run: Mapping[str, Any]) -> dict[str, float]:
    """One run in numbers: p and r_t over the last tenth of the run, the rest of the last checkpoint's logits."""
    log, last = run["log"], {k: torch.tensor(v) for k, v in run["logits"][max(run["logits"])].items()}
    mean = {k: v.mean().item() for k, v in last.items()}
    gap = mean["train"] - mean["heldout"]
    return {"p": tail(log["p"]), "r_t": tail(log["r_t"]), "D(train)": mean["train"], "D(held-out)": mean["heldout"], "D(fake)": mean["fake"],
            "train - held-out": gap, "r_v": gap / max(mean["train"] - mean["fake"], 1e-8),
            "overlap of train and fake": overlap(last["train"], last["fake"]),
            "overlap of held-out and fake": overlap(last["heldout"], last["fake"]),
            "overlap of train and held-out": overlap(last["train"], last["heldout"])}


def tail(curve: list[tuple[float, float]]) -> float:
    end = curve[-1][0]
    values = [v for kimg, v in curve if kimg > 0.9 * end]
    return sum(values) / len(values)


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The share that two histograms have in common: 1 the same, 0 apart."""
    low, high = min(a.min(), b.min()).item(), max(a.max(), b.max()).item()
    ha, hb = (torch.histc(v, BINS, low, high) / len(v) for v in (a, b))
    return torch.minimum(ha, hb).sum().item()


def table(summary: Mapping[str, list[dict]], variants: Variants, args: argparse.Namespace) -> str:
    lines = [f"{args.recipe}, {args.images} images, {args.kimg:g} kimg, seeds {', '.join(map(str, args.seeds))}: mean (spread)", "",
             "| | " + " | ".join(label for label, _ in variants.values()) + " |", "|---|" + "---|" * len(variants)]
    for name in next(iter(summary.values()))[0]:
        cells = [f"{m:.3f} ({s:.3f})" for m, s in (mean_spread([f[name] for f in summary[v]]) for v in variants)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_spread(values: list[float]) -> tuple[float, float]:
    return sum(values) / len(values), max(values) - min(values)


def finish(summary: Mapping[str, list[dict]], variants: Variants, args: argparse.Namespace, group: str) -> None:
    """Writes summary.json, the ledger where asked, and prints the table."""
    seeds = ", ".join(map(str, args.seeds))
    write_text(args.out / "summary.json", json.dumps({"command": command(args), "seeds": args.seeds, **summary}, indent=1))
    for variant, (label, _) in variants.items() if args.record else ():
        for name in summary[variant][0]:
            mean, spread = mean_spread([f[name] for f in summary[variant]])
            record(f"{args.recipe}, {args.images} images, {args.kimg:g} kimg, {label}: {name}", mean, "", command(args), device=args.record,
                   group=group, note=f"mean of seeds {seeds}; largest less smallest {spread:.3f}")
    print(table(summary, variants, args))


def command(args: argparse.Namespace) -> str:
    """As it was given, without the places of files, which are another machine's business."""
    kept = [a for a in sys.argv[1:] if a not in (args.data, str(args.out), "--out", "--record", args.record)]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", Path(args.data).name, "--out", args.out.name, *kept])


# ---------------------------------------------------------------------------------------------------------------- the drawing


def plotting():
    """matplotlib.pyplot, drawing to files."""
    try:
        import matplotlib
    except ImportError:
        raise HandfulError("the plots need matplotlib: pip install matplotlib, or give --no-plots") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_curves(plt, runs: Mapping[str, list[dict]], variants: Variants, path: Path) -> None:
    figure, axes = plt.subplots(2, len(variants), figsize=(1 + 5 * len(variants), 7), sharex=True, sharey="row", layout="constrained")
    for column, (variant, (label, _)) in enumerate(variants.items()):
        top, bottom = axes[0][column], axes[1][column]
        for number, run in enumerate(runs[variant]):
            for name, colour in (("p", "#9467bd"), ("r_t", "#d62728")):
                top.plot(*zip(*smooth(run["log"][name])), color=colour, lw=1, label=None if number else name)
            for name, colour in COLOURS.items():
                bottom.plot(*zip(*smooth(run["log"][name])), color=colour, lw=1, label=None if number else KINDS[name])
        top.axhline(0.6, color="grey", lw=0.5, ls=":")
        top.set(title=label)
        bottom.set(xlabel="kimg (reals shown to D)")
    axes[0][0].legend()
    axes[1][0].legend()
    axes[0][0].set_ylabel("p, and r_t with its target")
    axes[1][0].set_ylabel("mean logit of D")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def smooth(curve: list[tuple[float, float]], over: int = 5) -> list[tuple[float, float]]:
    """Means of `over` neighbours."""
    parts = [curve[i:i + over] for i in range(0, len(curve), over)]
    return [(sum(k for k, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]


def draw_logits(plt, runs: Mapping[str, list[dict]], variants: Variants, path: Path) -> None:
    """Left the first seed over time, a histogram per vertical slice (figure 1b, c), held-out images as median and quartiles; right the last
    checkpoint of all seeds together."""
    from matplotlib.colors import to_rgb

    everything = torch.tensor([v for found in runs.values() for run in found for slices in run["logits"].values() for some in slices.values()
                               for v in some])
    low, high = (torch.quantile(everything, q).item() for q in (0.001, 0.999))
    figure, axes = plt.subplots(len(variants), 2, figsize=(12, 4 * len(variants)), sharey=True, width_ratios=(3, 1), layout="constrained")
    for (left, right), (variant, (label, _)) in zip(axes, variants.items()):
        slices = runs[variant][0]["logits"]
        times = list(slices)
        half = (times[-1] - times[0]) / max(len(times) - 1, 1) / 2
        for kind, colour in COLOURS.items():
            each = [torch.tensor(s[kind]) for s in slices.values()]
            if kind == "heldout":                              # as lines, or it would lie over the training images
                for q, style in ((0.25, ":"), (0.5, "-"), (0.75, ":")):
                    left.plot(times, [v.quantile(q).item() for v in each], color=colour, ls=style, lw=1.2)
            else:
                share = torch.stack([torch.histc(v, BINS, low, high) / len(v) for v in each], 1)                          # [BINS,S]
                rgba = torch.tensor(to_rgb(colour)).expand(*share.shape, 3)
                rgba = torch.cat([rgba, (share / share.amax(0) * 0.7)[..., None]], -1)                                    # [BINS,S,4]
                left.imshow(rgba.numpy(), origin="lower", aspect="auto", extent=(times[0] - half, times[-1] + half, low, high),
                            interpolation="nearest")
            last = torch.tensor([v for run in runs[variant] for v in run["logits"][max(run["logits"])][kind]])
            right.hist(last.clamp(low, high).numpy(), BINS, range=(low, high), density=True, histtype="step", orientation="horizontal", color=colour,
                       lw=1.5, label=KINDS[kind])
        left.axhline(0, color="grey", lw=0.5)
        left.set(title=f"D(x) {label}: first seed", ylabel="logit")
        right.set(title="at the end, all seeds")
        right.legend()
    axes[-1][0].set_xlabel("kimg (reals shown to D)")
    figure.savefig(path, dpi=110)
    plt.close(figure)
