"""Make another average of a run's generator."""

from __future__ import annotations

import click

from ._options import trust as trust_option


@click.command(name="ema")
@click.argument("run", type=click.Path())
@click.option("--length", required=True, metavar="Nkimg|WIDTH",
              help="A half-life as in 10kimg, or a relative width as in 0.08: the spread over time of what is averaged, as a share of the run.")
@click.option("--at", type=click.IntRange(1), metavar="IMAGES", help="Where it ends: the images seen by a snapshot in RUN/ema.  [default: the last]")
@click.option("--out", type=click.Path(dir_okay=False), metavar="FILE", help="[default: RUN/ema/model-LENGTH.safetensors]")
@click.option("--device", default="auto", show_default=True)
@trust_option
def command(run, length, at, out, device, trust):
    """Make a model of another average of RUN's generator, from the snapshots in RUN/ema. Nothing is trained, and RUN's own model stays."""
    from pathlib import Path

    from handful.files import in_shell
    from handful.training.power_ema import make

    path, made = make(Path(run), length, at, None if out is None else Path(out), device, trust, say=click.echo)
    click.echo(f"{path}: the average of {made}\npictures: handful generate {in_shell(path)} --seeds 0-63 --grid")
