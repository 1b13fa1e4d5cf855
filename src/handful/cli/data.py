"""`handful data check`, `handful data prepare` and `handful data get`."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from ._options import offline as offline_option
from ._options import resolution

FITS = ["crop", "pad", "stretch"]
FILTERS = ["lanczos", "box", "bicubic", "bilinear", "nearest"]
LABELS = "folders, json, a CSV file (file,label), none; auto: whichever DATA has."


def preparation_options(command):
    for option in reversed([
        click.option("--fit", type=click.Choice(FITS), default="crop", show_default=True, help="How another aspect ratio is met."),
        click.option("--filter", type=click.Choice(FILTERS), default="lanczos", show_default=True, help="Resize filter; it moves FID."),
        click.option("--channels", type=click.Choice(["1", "3"]), default="3", show_default=True, help="Greyscale or RGB."),
        click.option("--window", type=float, nargs=2, metavar="LOW HIGH", help="Black and white of 16-bit images [default: 0 65535]."),
        click.option("--labels", default="auto", show_default=True, help=LABELS),
    ]):
        command = option(command)
    return command


@click.group("data")
def data_group() -> None:
    """Look at, and prepare, a folder or a zip of pictures."""


@data_group.command("check")
@click.argument("data")
@click.option("--res", metavar="N|WxH", help="The resolution they would be trained at: says how many are smaller.")
@preparation_options
@offline_option
@click.option("--near/--no-near", default=True, help="Look for near duplicates too.")
@click.option("--sheet", metavar="FILE", help="Write a contact sheet (.png or .jpg).")
@click.option("--json", "json_file", metavar="FILE", help="Write the report as JSON; - prints it.")
def check_command(data, res, fit, filter, channels, window, labels, near, sheet, json_file) -> None:
    """Every bad file of DATA with its fault and remedy; duplicates, sizes, classes. Exit code 1 when there are bad files."""
    from pathlib import Path

    from handful.data import check
    from handful.files import write_text

    with progress_of("checking") as progress:
        report = check(
            data, resolution=resolution(res), labels=_labels(labels), near=near, sheet=sheet, progress=progress,
            fit=fit, filter=filter, channels=int(channels), window=window,
        )
    text = json_module.dumps(report.as_dict(), indent=1)
    if json_file == "-":
        click.echo(text)
    else:
        click.echo("\n".join(report.lines()))
        if json_file:
            write_text(Path(json_file), text)
    if not report.ok:
        raise SystemExit(1)


@data_group.command("prepare")
@click.argument("data")
@click.argument("out")
@click.option("--res", metavar="N|WxH", required=True, help="Pixels of a side, or WIDTHxHEIGHT.")
@preparation_options
@offline_option
@click.option("--skip-bad", is_flag=True, help="Leave unusable files out instead of stopping.")
def prepare_command(data, out, res, fit, filter, channels, window, labels, skip_bad) -> None:
    """Crop and resize DATA into OUT: a folder, or a zip when OUT ends with .zip. DATA stays as it is."""
    from handful.data import prepare
    from handful.data.problems import count

    with progress_of("preparing") as progress:
        done = prepare(
            data, out, resolution=resolution(res), fit=fit, filter=filter, labels=_labels(labels), channels=int(channels),
            skip_bad=skip_bad, window=window, progress=progress,
        )
    for note in done.notes:
        click.echo(f"note: {note}")
    for problem in done.problems:
        click.echo(f"left out: {problem}")
    classes = f", classes: {len(done.class_names)}" if done.class_names else ""
    click.echo(f"wrote {count(done.count, 'image')} to {out}{classes}")


@data_group.command("get")
@click.argument("name")
@click.option("--from", "source", metavar="PATH", help="Take it from this archive, as it is distributed (or its unpacked folder, or a zip of PNGs).")
@offline_option
def get_command(name, source) -> None:
    """Fetch NAME, a set that DATA may call by name: cifar10 (so cifar10:10%, cifar10:test) or cifar100. An interrupted download goes on."""
    from handful.cli._download import Download
    from handful.data import get

    with Download() as bar:
        paths = get(name.partition(":")[0], source, bar)
    for path in paths:
        click.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


command = data_group


def _labels(given: str) -> str | None:
    return None if given == "none" else given


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr; in a pipe a plain line every five seconds."""
    if not sys.stderr.isatty():
        last = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last > 5:
                last = time.monotonic()
                click.echo(f"{what}: {done} of {total}", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)
