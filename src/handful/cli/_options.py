"""Options that several commands have."""

from __future__ import annotations

import click

trust = click.option("--trust", multiple=True, metavar="PACKAGE.MODULE",
                     help="A file that the command reads may name classes of this module of yours. Repeatable.")
