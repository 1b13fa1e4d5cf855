"""Published tables: what was published, what was measured here, and how to run a row again."""

from __future__ import annotations

from pathlib import Path

import click

from ._options import offline as offline_option
from ._options import trust as trust_option


@click.command(name="reproduce")
@click.argument("table", required=False, metavar="[PAPER/TABLE]")
@click.option("--row", help="Train this row's setting, score it as the paper did, and put the result beside the published figure.")
@click.option("--data-set", help="The column, where the row has several.")
@click.option("--data", metavar="DATA", help="What to train on, for sets that handful doesn't know by name.")
@click.option("--against", metavar="DATA", help="What to score against, for sets that handful doesn't know by name.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="A shortened run: this share of the schedule. It says how it differs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The first, or only, seed.")
@click.option("--seeds", type=click.IntRange(1), help="How many runs, with seeds in a row [default: 1; 100 for diggan/two-point].")
@click.option("--samples", type=int, help="Score with so many samples, a multiple of 1000, instead of the paper's number; the reals stay.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting besides the row's. Repeatable.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/reproduce"), show_default=True, help="The folder of all these runs.")
@click.option("--device", default="auto", show_default=True, help="cuda, mps or cpu.")
@click.option("--dry-run", is_flag=True, help="With --row: say what would be run and what it costs here; then stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@trust_option
@offline_option
def command(table, row, data_set, data, against, scale, seed, seeds, samples, settings, out, device, dry_run, as_json, trust):
    """Without arguments: the papers and their tables. With PAPER/TABLE: its figures, the settings behind them, and what has been measured
    under --out. With --row: train and score that row; the same command goes on with an unfinished run."""
    from handful.errors import UsageError
    from handful.reproduce import _show, _tables

    if table is None:
        if row is not None:
            raise UsageError(f"--row {row}: name its table too; `handful reproduce` lists them")
        return click.echo("\n".join(_show.papers()))
    if table == _tables.TWO_POINT:
        if row or data_set or data or against or samples or settings or dry_run or as_json:
            raise UsageError(f"{table} has no rows: it takes --seeds, --out, and --scale (below 1: half the iterations, to see that it runs)")
        from handful.reproduce._two_point import experiment

        two_point = experiment()
        result = two_point.run(out / "diggan-two-point", seeds or 100, say=click.echo, quick=scale < 1)
        return click.echo(two_point.summary(result))
    found = _tables.table(table)
    if row is None:
        return click.echo(_show.as_json(found, out) if as_json else "\n".join(_show.table(found, out)))
    if any(r.table != found[0].table for r in found):
        raise UsageError(f"'{table}' has several tables: {', '.join(dict.fromkeys(r.table for r in found))}; name one")
    from handful.cli.evaluate import Stages
    from handful.reproduce import _run
    from handful.reproduce._job import Job

    chosen, results = _tables.pick(found, row, data_set), []
    for number in range(seed, seed + (seeds or 1)):
        job = Job(chosen, data, against, scale, number, samples, tuple(settings), out, device, trust)
        if dry_run:
            return _run.describe(job, click.echo)
        with Stages() as stages:
            try:
                result = _run.reproduce(job, click.echo, stages)
            except KeyboardInterrupt:                     # while it is scored; the training is saved
                result = None
        if result is None:
            click.echo("stopped and saved; the same command goes on")
            return 130
        results.append(result)
        click.echo("\n".join(_show.result(job, result)))
    if len(results) > 1:
        click.echo("\n".join(_show.over_seeds(job, results)))
