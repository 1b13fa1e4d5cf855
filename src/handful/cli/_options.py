"""Options that several commands have."""

from __future__ import annotations

from typing import Any

import click

trust = click.option("--trust", multiple=True, metavar="PACKAGE.MODULE",
                     help="A file that the command reads may name classes of this module of yours. Repeatable.")


def _no_network(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """In the environment, for the processes that this one starts too; as it was after the command."""
    import os

    from handful.fetch import OFFLINE

    before: Any = os.environ.get(OFFLINE)
    if wanted:
        os.environ[OFFLINE] = "1"
        ctx.call_on_close(lambda: os.environ.pop(OFFLINE) if before is None else os.environ.update({OFFLINE: before}))


offline = click.option("--offline", is_flag=True, expose_value=False, callback=_no_network,
                       help="Fetch nothing (also HANDFUL_OFFLINE=1): only what is on this machine is used.")
