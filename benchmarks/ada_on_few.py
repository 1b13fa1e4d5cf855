"""What adaptive augmentation does for a few hundred images: the same runs with and without it, and D's logits as in the paper's figure 1.

    python benchmarks/ada_on_few.py cifar10-train.zip --out runs/ada-on-few                        500 images, seeds 0 1 2, with and without
    python benchmarks/ada_on_few.py cifar10-train.zip --out runs/ada-on-few --kimg 100 --threads 1 --record "2 cores, ..."

Each seed draws its own subset, its own held-out images (D never trains on them), order and initialisation. "Without" is the same pipeline held at
p = 0, so that r_t is measured alike in both. A run that is finished is not repeated, one that was stopped goes on, so the command can be given
again. Written to --out: the runs, curves.png (p, r_t, D's mean logits), logits.png (a slice per checkpoint is the histogram of D's logits on training
images, held-out images and fakes, all augmented as D sees them then; beside it the last one), summary.json. The last lines printed are the summary:
mean and spread (largest less smallest) over the seeds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch

import handful
from handful import config as config_module
from handful import data
from handful.errors import HandfulError
from handful.files import load_checkpoint, write_text
from handful.rng import Rng, derive
from handful.train.log import read
from handful.train.loop import Trainer
from ledger import record

VARIANTS = {"with": "with ADA", "without": "without ADA"}
KINDS = {"train": "training images", "heldout": "held-out images", "fake": "generated"}
COLOURS = {"train": "#1f77b4", "heldout": "#2ca02c", "fake": "#ff7f0e"}
LOGGED = {"p": "d/ada_controller/p", "r_t": "d/ada_controller/sign", "train": "d/logits_real", "heldout": "d/heldout_logits/logits",
          "fake": "d/logits_fake"}
BINS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="zip or folder, e.g. of CIFAR-10's training images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="stylegan2_32_narrow")
    parser.add_argument("--images", type=int, default=500, help="to train on")
    parser.add_argument("--holdout", type=int, default=250, help="images kept out")
    parser.add_argument("--kimg", type=float, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--slices", type=int, default=16, help="checkpoints kept of each run")
    parser.add_argument("--looked-at", type=int, default=250, help="images of each kind that D judges per checkpoint")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-plots", action="store_true")
    parser.add_argument("--record", metavar="DEVICE", help="write the summary into the ledger under this device's name")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    plots = None if args.no_plots else plotting()
    runs: dict[str, list[dict]] = {}
    for seed in args.seeds:
        for variant in VARIANTS:
            folder = trained(args, variant, seed)
            runs.setdefault(variant, []).append({"log": log_of(folder), "logits": logits_of(folder, args.looked_at)})
    if plots:
        draw_curves(plots, runs, args.out / "curves.png")
        draw_logits(plots, runs, args.out / "logits.png")
    summary = {variant: [figures(run) for run in found] for variant, found in runs.items()}
    write_text(args.out / "summary.json", json.dumps({"command": command(args), "seeds": args.seeds, **summary}, indent=1))
    if args.record:
        keep(summary, args)
    print(table(summary, args))


# ------------------------------------------------------------------------------------------------------------------- the runs


def trained(args: argparse.Namespace, variant: str, seed: int) -> Path:
    """The folder of one finished run."""
    folder = args.out / f"{variant}-seed{seed}"
    if newest(folder) >= round(args.kimg * 1000):
        print(f"{folder} is done", flush=True)
        return folder
    print(f"{folder}: {args.kimg:g} kimg {VARIANTS[variant]}", flush=True)
    if newest(folder) >= 0:
        run = handful.train(resume=folder, kimg=args.kimg, device=args.device, quiet=True)
    else:
        total = args.images + args.holdout
        settings = [f"data.max_images={total}", f"data.holdout={args.holdout / total!r}", "data.flip=false", "terms.heldout_logits.every=8",
                    f"every.checkpoint_kimg={args.kimg / args.slices:g}", f"every.keep_checkpoints={2 * args.slices}",
                    f"every.log_kimg={args.kimg / 200:g}", *(["terms.ada_controller.max_p=0"] if variant == "without" else []), *args.settings]
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


def figures(run: dict) -> dict[str, float]:
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


def table(summary: dict[str, list[dict]], args: argparse.Namespace) -> str:
    lines = [f"{args.recipe}, {args.images} images, {args.kimg:g} kimg, seeds {', '.join(map(str, args.seeds))}: mean (spread)", "",
             "| | " + " | ".join(VARIANTS.values()) + " |", "|---|" + "---|" * len(VARIANTS)]
    for name in summary["with"][0]:
        cells = [f"{m:.3f} ({s:.3f})" for m, s in (mean_spread([f[name] for f in summary[v]]) for v in VARIANTS)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_spread(values: list[float]) -> tuple[float, float]:
    return sum(values) / len(values), max(values) - min(values)


def keep(summary: dict[str, list[dict]], args: argparse.Namespace) -> None:
    seeds = ", ".join(map(str, args.seeds))
    for variant, label in VARIANTS.items():
        for name in summary[variant][0]:
            mean, spread = mean_spread([f[name] for f in summary[variant]])
            record(f"{args.recipe}, {args.images} images, {args.kimg:g} kimg, {label}: {name}", mean, "", command(args), device=args.record,
                   group="ADA on few images", note=f"mean of seeds {seeds}; largest less smallest {spread:.3f}")


def command(args: argparse.Namespace) -> str:
    """As it was given, without the places of files, which are another machine's business."""
    kept = [a for a in sys.argv[1:] if a not in (args.data, str(args.out), "--out", "--record", args.record)]
    return shlex.join(["python", "benchmarks/ada_on_few.py", Path(args.data).name, "--out", args.out.name, *kept])


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


def draw_curves(plt, runs: dict[str, list[dict]], path: Path) -> None:
    figure, axes = plt.subplots(2, len(VARIANTS), figsize=(11, 7), sharex=True, sharey="row", layout="constrained")
    for column, (variant, label) in enumerate(VARIANTS.items()):
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


def draw_logits(plt, runs: dict[str, list[dict]], path: Path) -> None:
    """Left the first seed over time, a histogram per vertical slice (figure 1b, c), held-out images as median and quartiles; right the last
    checkpoint of all seeds together."""
    from matplotlib.colors import to_rgb

    everything = torch.tensor([v for found in runs.values() for run in found for slices in run["logits"].values() for some in slices.values()
                               for v in some])
    low, high = (torch.quantile(everything, q).item() for q in (0.001, 0.999))
    figure, axes = plt.subplots(len(VARIANTS), 2, figsize=(12, 8), sharey=True, width_ratios=(3, 1), layout="constrained")
    for (left, right), (variant, label) in zip(axes, VARIANTS.items()):
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


if __name__ == "__main__":
    try:
        main()
    except HandfulError as error:
        sys.exit(f"error: {error}")
