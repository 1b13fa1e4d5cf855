"""What a download shows."""

from __future__ import annotations

import sys

import click


class Download:
    """Download progress: a bar on a terminal, a line every quarter in a pipe."""

    def __enter__(self) -> Download:
        self.rich = self.task = self.said = None
        return self

    def __exit__(self, *_) -> None:
        if self.rich is not None:
            self.rich.stop()

    def __call__(self, file: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            quarter = (file, 4 * done // total if total else 0)
            if quarter != self.said:
                self.said = quarter
                click.echo(f"{file}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", err=True)
            return
        if self.rich is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self.rich = Progress(*columns, console=Console(stderr=True))
            self.rich.start()
        if self.said != file:
            self.said, self.task = file, self.rich.add_task(file)
        self.rich.update(self.task, completed=done, total=total or None)
