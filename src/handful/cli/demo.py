"""Train on the small set inside the package: pictures and a report within minutes."""

from __future__ import annotations

import click


@click.command(name="demo")
@click.option("--out", type=click.Path(), help="The run's folder.  [default: runs/demo]")
@click.option("--kimg", type=float, help="Thousands of images to train for.")
@click.option("--seed", type=int, help="Another seed, another crowd of faces.")
@click.option("--device", default="auto", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting by its path.")
def command(out, kimg, seed, device, settings):
    """Train on the 116 smileys inside the package, then write pictures and a report. Takes minutes on two CPU cores."""
    from pathlib import Path

    from handful.files import in_shell
    from handful.infer.grid import grid, save_image
    from handful.training import train
    from handful.training.folder import free_name

    folder = Path(out) if out else free_name(Path("runs"), "demo")
    run = train("demo", "demo", folder, kimg, seed=seed, device=device, settings=settings, say=click.echo)
    if not run.finished:
        click.echo(f"stopped and saved; go on with: handful train --resume {in_shell(run.folder)}")
        return 130
    sheet = run.folder / "pictures.png"
    save_image(sheet, grid(run.model().sample(range(64))))
    click.echo(f"64 pictures: {sheet}\nreport: {run.folder / 'report.html'}\n"
               f"next: handful train YOUR_FOLDER, or handful generate {in_shell(run.folder)} --seeds 0-99")
