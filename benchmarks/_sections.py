"""How docs/results.md shows the records: a section per benchmark, with patterns that find row and column of a figure in its name.

The text says what was measured and holds no measured figure; `shows` computes the figures in its sentence from the records. A figure that no pattern
finds is not lost: it stands under "Other figures" of its section, and a group without a section gets one of its own.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Figures = Mapping[str, float]                   # name of the figure: its value, on one machine (over several seeds their mean)


@dataclass(frozen=True)
class Layout:
    """One kind of table. The named groups of `pattern`, which must match the whole figure, fill title, row and column.

    Figures with different titles stand in different tables. titles, rows, columns: those that come first, in this order; others follow, numbers by
    size.
    aside: what stands in brackets behind a value, and the pattern that finds it in the record's note. facts: further columns from the notes.
    """

    pattern: str
    row: str = "{row}"
    column: str = "{column}"
    title: str = ""
    head: str = ""
    titles: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    aside: tuple[str, str] = ("", "")
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plot:
    """lines: a line per row over the columns, which are numbers; bars: rows by value, a bar per column. columns: the pattern of those drawn."""

    kind: str
    axis: str
    x: str = ""
    columns: str = ".*"
    log: bool = True
    layout: int = 0


@dataclass(frozen=True)
class Section:
    """group: that of the records. command: how the commands look where they are too many to list above the table."""

    group: str
    title: str
    text: str
    layouts: tuple[Layout, ...] = ()
    shows: Callable[[Figures], str] | None = None
    command: str = ""
    plot: Plot | None = None


REST = Layout(r"(?P<row>.*)", column="measured", title="Other figures", head="figure")
BY_COLON = Layout(r"(?P<row>.+): (?P<column>[^:]+)")
ON_FEW = r"(?P<recipe>\w+), (?P<images>\d+) images, (?P<kimg>[\d.]+) kimg, (?P<column>.+): (?P<row>[^:]+)"
FEW_ROWS = ("p", "r_t", "r_v", "D(train)", "D(held-out)", "D(fake)", "train - held-out", "overlap of train and held-out", "overlap of train and fake",
            "overlap of held-out and fake", "KID", "KID's standard error", "FID")
FEW_TEXT = ("p and r_t (the mean sign of D's logits on training images) are means over the last tenth of a run; the rest is of its last checkpoint. "
            "D(...) is D's mean logit on training images, held-out images and generated ones; r_v is (D(train) - D(held-out)) / "
            "(D(train) - D(fake)); an overlap is the share that two histograms of logits have in common.")


def few(*variants: str) -> Layout:
    return Layout(ON_FEW, title="{recipe}, {images} images, {kimg} kimg", titles=("stylegan2_32_narrow, 500 images, 20 kimg",), rows=FEW_ROWS,
                  columns=variants,
                  aside=("largest less smallest of the seeds", r"largest less smallest ([\d.]+)"))


def one(figures: Figures, name: str) -> float:
    """The value of the one figure whose name fits, * standing for any text. Raises LookupError where none or several do."""
    found = fnmatch.filter(figures, name)
    if len(found) != 1:
        raise LookupError(f"{len(found)} figures fit {name}")
    return figures[found[0]]


def training_step(v: Figures) -> str:
    parts = [name.removesuffix(" fp32: CPU-s/image") for name in v if name.endswith(" fp32: CPU-s/image")]
    share = {part: v[f"{part} bf16: CPU-s/image"] / v[f"{part} fp32: CPU-s/image"] for part in parts}
    least, most = sorted(share, key=share.__getitem__)[0], sorted(share, key=share.__getitem__)[-1]
    return f"A step in bf16 takes between {share[least]:.2f} (`{least}`) and {share[most]:.2f} (`{most}`) of the CPU time of the same step in fp32."


def sampling(v: Figures) -> str:
    singles = [name for name in v if name.endswith("batch 1: CPU-s/image")]
    share = sorted(v[name.replace("batch 1:", "batch 16:")] / v[name] for name in singles)
    return f"An image in a batch of 16 takes between {share[0]:.2f} and {share[-1]:.2f} of the CPU time of an image made alone."


def threads(v: Figures) -> str:
    def share(where: str) -> float:
        return one(v, f"fastgan128_narrow, {where}: chosen *") / max(v[n] for n in fnmatch.filter(v, f"fastgan128_narrow, {where}: [12] thread*"))

    return (f"With the number that it found itself, `handful train` reached {share('idle'):.2f} of the speed of the best fixed setting on the idle "
            f"machine and {share('2 busy programs'):.2f} of it beside two busy programs.")


def augmentations(v: Figures) -> str:
    def times(p: str) -> float:
        return one(v, f"ADA (bgc, p = {p}) at 256: forward and backward, *") / one(v, "DiffAugment * at 256: forward and backward, *")

    return (f"At 256 pixels, forward and backward, ADA (bgc) costs {times('0.1'):.0f} times as much as DiffAugment with p = 0.1, and "
            f"{times('1'):.0f} times as much with p = 1.")


def regularisers(v: Figures) -> str:
    def both(term: str, digits: int = 2) -> str:
        return f"{one(v, f'stylegan2_32_narrow: {term}, extra *'):.{digits}f} and {one(v, f'biggan_cifar: {term}, extra *'):.{digits}f}"

    return (f"R1 adds {both('r1')} of a plain step on `stylegan2_32_narrow` and `biggan_cifar`; where it has a step of its own, 1 of 16, "
            f"{both('r1 by x, in a step of its own, 1 of 16')}. LeCam adds {both('lecam', 3)}.")


def contrastive(v: Figures) -> str:
    parts = [name.partition(":")[0] for name in v if ": insgen, released, extra" in name]
    share = sorted(one(v, f"{part}: insgen, shared, extra *") / one(v, f"{part}: insgen, released, extra *") for part in parts)
    return f"InsGen's shared mode adds between {share[0]:.2f} and {share[-1]:.2f} of what the released form adds."


def cost_of_metrics(v: Figures) -> str:
    growth = {name: v[f"{name} of 50000 and 50000: CPU-s"] / v[f"{name} of 5000 and 5000: CPU-s"] for name in ("fid", "kid", "pr")}
    return (f"Ten times as many images take {growth['fid']:.1f} times as long for FID, {growth['kid']:.1f} times for KID and {growth['pr']:.0f} "
            "times for precision and recall, whose work grows with the square of the number.")


def real_sets(v: Figures) -> str:
    return (f"FID isn't 0 for images of the same kind: two halves of CIFAR-10's test images score {one(v, '* against the other half: FID'):.1f}, "
            f"and training images against test images {one(v, '* against cifar10-train*: FID'):.1f}. KID is "
            f"{one(v, '* against the other half: KID'):.1g} and {one(v, '* against cifar10-train*: KID'):.1g}.")


def ada_on_few(v: Figures) -> str:
    return (f"r_t ends at {one(v, '*with ADA: r_t'):.2f} with ADA and at {one(v, '*without ADA: r_t'):.2f} without, and D's mean logit on training "
            f"images lies {one(v, '*with ADA: train - held-out'):.2f} above that on held-out images with ADA and "
            f"{one(v, '*without ADA: train - held-out'):.2f} without.")


def insgen_on_few(v: Figures) -> str:
    def get(variant: str, name: str) -> float:
        return one(v, f"*, 500 images, * kimg, {variant}: {name}")

    return (f"On 500 images p ends at {get('+ ADA', 'p'):.3f} with ADA alone and at {get('+ ADA + InsGen', 'p'):.3f} with InsGen beside it; KID is "
            f"{get('+ ADA', 'KID'):.3f} and {get('+ ADA + InsGen', 'KID'):.3f}, without ADA {get('plain', 'KID'):.3f} and, with InsGen, "
            f"{get('+ InsGen', 'KID'):.3f}.")


def pixel_gain(v: Figures) -> str:
    return (f"At the start the gradient of the loss on pixels must be multiplied by {one(v, '*after 0 steps by lpips'):.2f} to be as large as that "
            "of LPIPS. The loss that is trained gets smaller, so the two columns go apart.")


SECTIONS = (
    Section("Training step", "Training step",
            "One iteration of each recipe (steps of D and of G, lazy terms by their share of the iterations), per image that D sees. images/s is "
            "wall time, and so depends on what else ran on the machine more than CPU time does.",
            (Layout(r"(?P<row>.+) (?P<precision>fp32|bf16|fp16|auto): (?P<what>.+)", column="{what}, {precision}", head="recipe",
                    columns=("CPU-s/image, fp32", "CPU-s/image, bf16", "images/s, fp32", "images/s, bf16", "peak GB, fp32", "peak GB, bf16"),
                    facts={"batch": r"batch (\d+)"}),),
            training_step, "python benchmarks/train_step.py RECIPE [--set SETTING=VALUE ...] --precision PRECISION --steps N --threads N",
            Plot("bars", "CPU-s per image", columns="CPU-s/image.*")),
    Section("BigGAN", "A step of BigGAN",
            "BigGAN for CIFAR with DiffAugment's schedule, four steps of D to one of G, without augmentation.",
            (BY_COLON,)),
    Section("Threads", "Number of threads",
            "Training steps with a fixed number of threads, which wait as the system has it by default or passively, and with the number that "
            "`handful train` finds by itself; on an idle machine and beside two programs that compute without pause.",
            (Layout(r"(?P<recipe>\w+), (?P<column>.+?): (?P<row>.+)", title="{recipe}, images/s", head="threads", columns=("idle",),
                    aside=("share of the best fixed setting", r"([\d.]+) of the best fixed setting")),),
            threads),
    Section("Augmentation alone", "Augmentations",
            "CPU-milliseconds per image of DiffAugment and ADA by themselves, on one thread. ADA's groups of transformations: blitting, "
            "geometry and colour (bgc); filters, noise and cutout as well (bgcfnc).",
            (Layout(r"(?P<row>.+) at (?P<side>\d+): (?P<what>.+), CPU-ms per image", column="{side} pixels", title="{what}, CPU-ms per image",
                    head="augmentation", titles=("forward, CPU-ms per image",), rows=("DiffAugment (color,translation,cutout)",)),),
            augmentations, plot=Plot("lines", "CPU-ms per image", x="pixels")),
    Section("Cost of regularisers", "Regularisers",
            "What each term adds to a step of D, as a share of the plain step (adversarial loss alone). Where terms ask for the same gradients, they "
            "share them.",
            (Layout(r"(?P<column>\w+): (?P<row>.+), extra per D step, in plain D steps", head="term",
                    aside=("backward passes that make gradients by pixels", r"(\d+) gradients by pixels")),),
            regularisers, plot=Plot("bars", "extra per step of D, in plain steps", log=False)),
    Section("Cost of contrastive tasks", "Contrastive tasks",
            "What each task adds to a training step (of D and G together), as a share of the same step without it.",
            (Layout(r"(?P<column>\w+): (?P<row>.+), extra per training step, in plain steps", head="task"),),
            contrastive),
    Section("StyleGAN2's operators", "StyleGAN2's operators",
            "The 3x3 convolutions of G and D together, per image, to the first order (forward and backward) or the second.",
            (Layout(r"(?P<column>\d+ px), the 3x3 convolutions of G and D, (?P<row>.+): (?P<unit>.+) per image", title="{unit} per image"),)),
    Section("Sampling", "Generating images",
            "G alone with untrained weights, in evaluation mode, one image at a time and in batches. The number after the @ is the resolution.",
            (Layout(r"(?P<row>.+) (?P<precision>fp32|bf16|fp16|auto) (?P<batch>batch \d+): (?P<what>.+)", column="{what}, {batch}",
                    title="{precision}", head="recipe"),),
            sampling),
    Section("Metrics", "Cost of metrics",
            "CPU seconds and peak memory (over what torch and the features take) of each metric on made-up features of 2048 numbers, by the number "
            "of images on either side; and how many images the feature networks read (those whose weights were not at hand are untrained, which "
            "takes as long). FID reads its features as a stream; KID, and precision and recall (pr), work in blocks of bounded memory.",
            (Layout(r"(?P<row>\w+) of (?P<n>\d+) and (?P=n): (?P<what>.+)", column="{n} images", title="{what}", head="metric"),
             Layout(r"(?P<row>\w+) at (?P<side>\d+) pixels: (?P<column>.+)", title="Networks, {side} pixels", head="network"),
             Layout(r"(?P<row>.+): (?P<column>difference)", title="Precision of KID")),
            cost_of_metrics, "python benchmarks/metrics.py --counts N --metrics METRIC --networks NETWORK --device cpu --threads 1 --memory-mb 256",
            Plot("lines", "", x="images")),
    Section("Metrics on real pictures", "Metrics of real images",
            "Sets of real images against each other, and a set against altered copies of itself.",
            (Layout(r"(?P<real>.+?) against (?P<row>.+): (?P<column>\w+)", title="{real}", head="against", columns=("FID", "KID"),
                    aside=("for FID, that of two halves of the reals against each other; for KID, its standard error",
                           r"(?:standard error|halves of the reals) ([-\d.e]+)")),),
            real_sets),
    Section("Models that handful trained", "Models that were trained here",
            "Scores of whole runs of `handful train`. The runs are short: they show what a CPU reaches, not what the method can.",
            (BY_COLON,)),
    Section("ADA on few images", "ADA on few images",
            f"StyleGAN2 with ADA and with the same augmentations held at p = 0. {FEW_TEXT}\n\n"
            "![p, r_t and D's mean logits over the runs](images/ada-on-few-curves.png)\n\n"
            "These curves were drawn from the logs of the same runs; [ada-on-few.md](ada-on-few.md) says what they show.",
            (few("with ADA", "without ADA"),), ada_on_few),
    Section("InsGen on few images", "InsGen on few images",
            f"StyleGAN2 plain, with ADA, with InsGen, with both; the two without ADA hold the same augmentations at p = 0. {FEW_TEXT}\n\n"
            "![p, r_t and D's mean logits over the runs](images/insgen-on-few-curves.png)\n\n"
            "These curves were drawn from the logs of the same runs; [insgen-on-few.md](insgen-on-few.md) says what they show.",
            (few("plain", "+ ADA", "+ InsGen", "+ ADA + InsGen", "+ ADA + InsGen, shared"),), insgen_on_few),
    Section("Reconstruction by pixels", "FastGAN's reconstruction by pixels",
            "The norm of the gradient by D's weights of FastGAN's reconstruction loss: with LPIPS, divided by that with pixels, at the start of a "
            "run and while it trains with either of the two. PHOTOS is a folder of images.",
            (Layout(r"(?P<recipe>\w+): gradient norm by LPIPS / by pixels, after (?P<row>\d+ steps) by (?P<by>\w+)", column="trained by {by}",
                    title="{recipe}: gradient norm by LPIPS / by pixels", head="after"),),
            pixel_gain),
)
