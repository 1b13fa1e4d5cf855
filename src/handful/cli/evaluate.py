"""Score a model, or a folder of pictures, against real ones."""

from __future__ import annotations

import sys
import time

import click

from ._options import offline as offline_option
from ._options import trust as trust_option


@click.command(name="evaluate")
@click.argument("model", metavar="MODEL|FOLDER")
@click.argument("data")
@click.option("--metrics", default="fid,kid,precision,recall", show_default=True, help="Also protocols: fid50k_full, fid5k_train.")
@click.option("--samples", type=click.IntRange(2), help="Of the model [default: as many as DATA has, 5000 to 50000].")
@click.option("--json", "json_file", metavar="FILE", help="Write the results as JSON; - prints them.")
@click.option("--device", default="auto", show_default=True)
@click.option("--batch", type=click.IntRange(1), help="Images at once [default: 16, 64 on a GPU].")
@click.option("--res", type=click.IntRange(8), help="Of two folders: bring both to this size [default: as they are].")
@click.option("--trunc", type=click.FloatRange(0, 2), default=1.0, show_default=True, help="Truncation; figures to compare have none.")
@click.option("--statistics", type=click.Choice(["standing", "batch"]), help="Of batch norm while sampling [default: as MODEL's settings say].")
@click.option("--features", "--extractor", "extractor", metavar="NAME",
              help="The network whose features are compared; --extractor is an alias [default: the metric's own, mostly inception].")
@click.option("--resize", type=click.Choice(["official", "clean"]), help="How inception's input is resized [default: official].")
@click.option("--reported", is_flag=True, help="As figures are published: 2000 samples of seeds that nothing was chosen by; a RUN keeps them.")
@click.option("--no-second", is_flag=True, help="Only the network asked for, where MODEL's run used pretrained networks.")
@click.option("--skip-bad", is_flag=True, help="Leave unusable files of DATA out instead of stopping.")
@click.option("--no-cache", is_flag=True, help="Look at the reals again, though nothing has changed.")
@trust_option
@offline_option
def command(model, data, metrics, samples, json_file, device, batch, res, trunc, statistics, extractor, resize, reported, no_second, skip_bad,
            no_cache, trust):
    """Score MODEL (a run folder, checkpoint or .safetensors), or a FOLDER or zip of pictures, against the pictures of DATA.

    With a MODEL, DATA is prepared as its training images were; two folders are compared as they are. A folder with a config.json is
    a run. `handful list metrics` has the names. Several processes share the work under torchrun.

    Where MODEL was trained with pretrained networks, this is said, and every figure is also given in features that the run did not use. --reported
    takes the samples of seeds 1,000,000 to 1,001,999, all of DATA without mirror images, and KID over all pairs with its standard error from five
    disjoint sets of 400 samples; in a run's own folder the figures become part of its report.
    """
    import json
    from pathlib import Path

    from handful.files import write_text
    from handful.metrics import evaluate

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    device, rank = joined(device)
    say = (lambda line: click.echo(f"note: {line}", err=True)) if rank == 0 else None
    with Stages() as stages:
        found = evaluate(model, data, names, samples, device=device, batch=batch, res=res, extractor=extractor, resize=resize,
                         truncation=trunc, statistics=statistics, skip_bad=skip_bad, cache=not no_cache,
                         progress=stages if rank == 0 else None, say=say, trust=trust, second_space=not no_second,
                         reported=reported)
    if rank:
        return
    text = json.dumps(found, indent=1)
    written = ()
    if reported and (Path(model) / "config.json").is_file():
        from handful.training.report import REPORTED, write_report

        write_text(Path(model) / REPORTED, text + "\n")
        written = Path(model) / REPORTED, write_report(model, trust)
    if json_file == "-":
        click.echo(text)
        return
    click.echo("\n".join([*table(found), *map(str, written)]))
    if json_file:
        write_text(Path(json_file), text + "\n")


def joined(device: str) -> tuple[str, int]:
    """Under torchrun: the device of this process, one GPU each, and its rank, with the others joined. Else as given, and 0."""
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device, 0
    import torch

    from handful.infer.model import pick_device
    from handful.training import distributed

    chosen = pick_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        chosen = pick_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        torch.cuda.set_device(chosen)
    return str(chosen), distributed.start(chosen)[0]


def table(found: dict[str, dict]) -> list[str]:
    """Each metric's value, its protocol in words, and what has to be said with it. Last, once for all, which pretrained networks the run used."""
    wide = max(map(len, found))
    lines = []
    for name, said in found.items():
        below = [f"by {space}: {_figure(its)}" for space, its in said.get("second", {}).items()]
        below.append(said["protocol"])
        if "bias" in said:
            a, b = said["bias_counts"]
            below.append(f"two halves of the reals ({a} and {b}) score {said['bias']:.4g}: the bias to expect at that size")
        below += [f"note: {said['note']}"] if "note" in said else []
        lines.append(f"{name:<{wide}}  {_figure(said)}  ({said['better']} is better)")
        lines += [f"{'':<{wide}}  {line}" for line in below]
    notes = dict.fromkeys(said["pretrained"]["note"] for said in found.values() if "pretrained" in said)
    return lines + [note[0].upper() + note[1:] for note in notes]


def _figure(said: dict) -> str:
    """A value and what belongs to it."""
    beside = {"std": "deviation", "recall": "recall", "reals": "of reals", "nearest_real": "to the nearest real"}
    more = "".join(f", {word} {said[key]:.4g}" for key, word in beside.items() if key in said)
    return f"{said['value']:.5g}" + (f" +- {said['stderr']:.2g}" if "stderr" in said else "") + more


class Stages:
    """Progress of one stage after the other: a bar on a terminal's stderr; in a pipe a plain line every five seconds."""

    def __enter__(self) -> Stages:
        self.bar, self.tasks, self.last = None, {}, time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, stage: str, done: int, total: int, left_sec: float | None) -> None:
        if not sys.stderr.isatty():
            if time.monotonic() - self.last > 5:
                self.last = time.monotonic()
                click.echo(f"{stage}: {done} of {total}{'' if left_sec is None else f', {left_sec:.0f} s left'}", err=True)
            return
        if self.bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.start()
        if stage not in self.tasks:
            self.tasks[stage] = self.bar.add_task(stage)
        self.bar.update(self.tasks[stage], completed=done, total=total)
