"""`handful weights`: fetch the pretrained feature networks, and show which are here."""

from __future__ import annotations

import click

from handful.errors import HandfulError

from ._options import offline as offline_option


@click.group("weights", help="Pretrained feature networks: fetch them, and show which are on this machine.")
def command() -> None:
    pass


@command.command("get")
@click.argument("name", metavar="NAME|all")
@click.option("--from", "source", metavar="PATH", help="Take it from this file or folder instead (archive, checkpoint, .safetensors).")
@offline_option
def get(name: str, source: str | None) -> None:
    """Fetch NAME (or all), check it by sha256 and store it as safetensors. An interrupted download goes on where it stopped."""
    from handful.cli._download import Download
    from handful.features import weights

    failed = []
    for each in weights.names() if name == "all" else [name]:
        try:
            with Download() as bar:
                path = weights.get(each, source=source, progress=bar)
            click.echo(f"{each}: {path} ({path.stat().st_size / 1e6:.1f} MB)")
        except HandfulError as fault:
            if name != "all":
                raise
            failed.append(each)
            click.echo(str(fault), err=True)
    if failed:
        raise HandfulError(f"not on this machine yet: {', '.join(failed)}; the lines above say why and how to get them")


@command.command("list")
def list_() -> None:
    """Every network: where it is, its size, the sha256 of its tensors, its origin and licence."""
    from safetensors import safe_open

    from handful.features import weights

    for name in weights.names():
        entry, path = weights.ENTRIES[name], weights.path_of(name)
        click.echo(f"{name}  {entry.said}")
        if path is None:
            click.echo(f"    not on this machine: handful weights get {name}")
        else:
            try:
                with safe_open(path, "numpy") as file:
                    origin = (file.metadata() or {}).get("origin", "unknown")
                click.echo(f"    {path}  {path.stat().st_size / 1e6:.1f} MB, from {origin}")
            except Exception:  # any unreadable file: `get` replaces it
                click.echo(f"    {path}  is damaged: handful weights get {name}")
        click.echo(f"    sha256 {entry.digest or 'unverified: its origin is known, its numbers have been compared with no reference'}")
        click.echo(f"    licence {entry.licence}")
