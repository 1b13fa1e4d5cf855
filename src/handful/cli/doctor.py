"""Check versions, device, precision, fast operators, and what is missing."""

from __future__ import annotations

import json

import click

_COLOURS = {"ok": "green", "note": "yellow", "missing": "yellow", "broken": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Look at this machine the way training will: versions, device and precision, fast operators, memory, weights, extras, disk.

    Each line is ok, a note, or missing with the way to get it. Exit code 1 where something that training needs is broken.
    """
    from . import _checks

    lines = []
    for check in _checks.ALL:
        for line in _checks.run(check):
            lines.append(line)
            if not as_json:
                state = click.style(f"{line['state']:8}", fg=_COLOURS[line["state"]])
                click.echo(f"{state} {line['what']:18} {line['found']}" + (f"; {line['remedy']}" if line["remedy"] else ""))
    if as_json:
        click.echo(json.dumps(lines, indent=1, ensure_ascii=False))
    if any(line["state"] == "broken" for line in lines):
        ctx.exit(1)
