"""Was anything memorised? The training images nearest to samples, and a figure."""

from __future__ import annotations

import click

from ._options import offline as offline_option
from ._options import trust as trust_option


@click.command(name="neighbours")
@click.argument("model", type=click.Path())
@click.argument("data")
@click.option("--samples", type=click.IntRange(1), default=64, show_default=True, help="How many pictures of MODEL: seeds 0, 1, 2 ...")
@click.option("--seeds", help="These instead, e.g. 0-63 or 1,5,9-12.")
@click.option("--by", default="pixel,lpips,features", show_default=True, help="What nearness is measured by.")
@click.option("--out", type=click.Path(), help="Folder to write to.  [default: the run's own, else neighbours]")
@click.option("--json", "json_file", metavar="FILE", help="Write the figures here too; - prints them.")
@click.option("--device", default="auto", show_default=True)
@trust_option
@offline_option
def command(model, data, samples, seeds, by, out, json_file, device, trust):
    """Find the training images nearest to pictures of MODEL. DATA: what it was trained on; its held-out images are told apart.

    Writes neighbours.jpg, the most suspicious samples first, and neighbours.json: how near samples lie to the training images, against how
    near real pictures lie to them. In a run's own folder they become part of its report.
    """
    import json
    from pathlib import Path

    from handful.cli.evaluate import Stages
    from handful.cli.generate import parse_seeds
    from handful.files import write_text
    from handful.metrics._session import Clock
    from handful.metrics.nearest import check_kinds, neighbours

    kinds = [kind.strip() for kind in by.split(",") if kind.strip()]
    check_kinds(kinds)
    numbers = parse_seeds(seeds) if seeds else range(samples)
    is_run = Path(model).is_dir()
    with Stages() as stages:
        clock, ticks = Clock(stages), {}
        told = lambda stage, done, total: ticks.setdefault(stage, clock.stage(stage))(done, total)               # noqa: E731
        found = neighbours(model, data, kinds=kinds, seeds=numbers, device=device, progress=told, trust=trust)
    folder = Path(out) if out else Path(model) if is_run else Path("neighbours")
    written = found.save(folder)
    text = json.dumps(found.figures, indent=1, ensure_ascii=False)
    if json_file == "-":
        click.echo(text)
        return
    if json_file:
        write_text(Path(json_file), text)
    for note in found.figures["notes"]:
        click.echo(f"note: {note}")
    click.echo(found.sentence)
    if is_run and folder == Path(model):
        from handful.training.report import write_report

        written = (*written, write_report(folder, trust))
    click.echo("\n".join(map(str, written)))
