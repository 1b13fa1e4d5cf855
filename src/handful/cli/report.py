"""Write report.html of a run: previews over time, curves, settings."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import HandfulError, nearest
from ._options import trust as trust_option


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
@trust_option
def command(run: Path, show: bool, trust: tuple[str, ...]) -> None:
    """Write RUN/report.html, also while the run is going, and print its path.

    The file holds everything it shows and fetches nothing: send it, or copy it from a server.
    """
    from ..training.report import write_report

    check_run(run)
    path = write_report(run, trust)
    click.echo(path)
    if show:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())


def check_run(run: Path) -> None:
    """Raises HandfulError, naming what is missing and the nearest run, where `run` is not a run folder."""
    if (run / "config.json").is_file():
        return
    if run.is_file():
        raise HandfulError(f"{run} is a file; RUN is the folder that handful train made, with config.json in it")
    if inside := _runs(run):
        some = ", ".join(str(run / name) for name in inside[:5])
        raise HandfulError(f"{run} is not a run folder (it has no config.json), but holds some: {some}")
    what = f"{run} is not a run folder: it has no config.json" if run.is_dir() else f"{run} doesn't exist"
    beside = _runs(run.parent)
    raise HandfulError(what + (nearest(run.name, beside) if beside else "; RUN is the folder that handful train --out made"))


def _runs(folder: Path) -> list[str]:
    return sorted(p.parent.name for p in folder.glob("*/config.json")) if folder.is_dir() else []
