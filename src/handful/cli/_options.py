"""Options that several commands have."""

from __future__ import annotations

from typing import Any

import click

trust = click.option("--trust", multiple=True, metavar="PACKAGE.MODULE",
                     help="A file that the command reads may name classes of this module of yours. Repeatable.")


def resolution(given: str | None) -> int | tuple[int, int] | None:
    """Of --res: "256", or "320x256" as width and height; the library's order is (height, width). Raises UsageError."""
    from handful.errors import UsageError

    if given is None:
        return None
    try:
        width, *height = (int(side) for side in given.lower().split("x", 1))
        return (height[0], width) if height else width
    except ValueError:
        raise UsageError(f"--res {given} must be a number of pixels, or WIDTHxHEIGHT as in 320x256") from None


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
