"""Train a generator on a folder or zip of images."""

from __future__ import annotations

import click

from . import LAUNCHED
from ._options import offline as offline_option
from ._options import resolution
from ._options import trust as trust_option


@click.command(name="train")
@click.argument("data", required=False)
@click.option("--recipe", default="auto", show_default=True, help="A name of `handful list recipes`, or another run's config.json.")
@click.option("--out", type=click.Path(), help="The run's folder.  [default: runs/NAME]")
@click.option("--res", metavar="N|WxH", help="Pixels of a side, or WIDTHxHEIGHT where the architecture makes oblong images.")
@click.option("--kimg", type=float, help="Length: thousands of real images shown to the discriminator.")
@click.option("--batch", type=int, help="Images of one step, over all GPUs.")
@click.option("--seed", type=int, help="Everything random follows from it.  [default: 0]")
@click.option("--labels", help="folders, json, auto, or a CSV file: train with classes.")
@click.option("--device", default="auto", show_default=True, help="cuda, mps or cpu.")
@click.option("--gpus", type=click.IntRange(1), help="Processes to start on this machine, one per GPU.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Number format of the networks.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting by its path, e.g. --set g.ngf=32. Repeatable.")
@click.option("--skip-bad", is_flag=True, help="Train without the files that can't be read.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, how long it takes and how much memory; then stop.")
@click.option("--init-from", type=click.Path(), metavar="MODEL", help="Start from the weights of another run.")
@click.option("--resume", type=click.Path(), metavar="RUN|auto",
              help="Go on with a run, bit for bit; DATA may be left out, --kimg lengthens it. auto: with the run in --out, or begin it.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Of the CPU, part of the arithmetic.  [default: found out by timing steps]")
@click.option("--stop", type=click.Choice(["auto"]), help="auto: end when the scores no longer improve, or samples become copies; keep the best.")
@trust_option
@offline_option
def command(data, recipe, out, res, kimg, batch, seed, labels, device, gpus, precision, settings, skip_bad, dry_run, init_from, resume, threads,
            stop, trust):
    """Train a generator on DATA: a folder of any depth, a zip, or a name (cifar10:10%). With nothing else, settings are chosen for DATA and this
    machine."""
    import os
    import sys

    from handful.errors import UsageError

    if data is None and resume is None:
        raise UsageError("name the images to train on: handful train DATA")
    if gpus and gpus > 1 and "WORLD_SIZE" not in os.environ:
        from ._launch import start_processes

        return start_processes(gpus, sys.argv[1:])
    if LAUNCHED in os.environ:
        from ._launch import end_with_launcher

        end_with_launcher()
    from handful.cli.data import progress_of
    from handful.files import in_shell
    from handful.training import train

    size = resolution(res)
    size = list(size) if isinstance(size, tuple) else size          # as in the configuration
    with progress_of("reading the images") as reading:
        run = train(data, recipe, out, kimg, res=size, batch=batch, seed=seed, labels=labels, device=device, precision=precision, settings=settings,
                    skip_bad=skip_bad, dry_run=dry_run, init_from=init_from, resume=resume, threads=threads, stop=stop, trust=trust, say=click.echo,
                    reading=reading)
    if dry_run or os.environ.get("RANK", "0") != "0":
        return 0
    if not run.finished:
        click.echo(f"stopped and saved; go on with: handful train --resume {in_shell(run.folder)}")
        return 130
    click.echo(f"done: {run.folder / 'report.html'}\npictures: handful generate {in_shell(run.folder)} --seeds 0-63 --grid")
