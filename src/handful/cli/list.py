"""List architectures, losses, terms, recipes, feature networks ...; with a name: its settings, and what it can't be combined with."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

import click

from .. import catalog
from ..errors import UsageError, nearest

KINDS = (*catalog.KINDS, "features")     # feature networks have weights and no settings


@click.command()
@click.argument("kind", required=False, metavar="[" + "|".join(KINDS) + "]")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(kind: str | None, name: str | None, as_json: bool) -> None:
    """List the methods of one KIND, or of all; with a NAME: its settings, their defaults, where it comes from, what it can't be combined with. The
    NAME of a metric may be that of a protocol (fid5k_train): what it stands for.

    A setting is given in the configuration, e.g. handful train DATA --set terms.lecam.weight=0.1
    """
    if name and kind == "metrics" and name not in catalog.names("metrics") and not set(name) & set(":."):
        from ..metrics._protocols import explained

        found = explained(name)
        click.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else "\n".join(_aligned([*found.items()], indent=0)))
        return
    if name and kind == "features":
        raise UsageError(f"feature networks have no settings; handful weights list shows the origin and licence of {name}")
    if name and kind:
        found = describe(kind, name)
        click.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else _page(found))
        return
    if kind and kind not in KINDS:
        raise UsageError(f"unknown kind '{kind}'{nearest(kind, KINDS)}")
    listed = {k: _summaries(k) for k in ([kind] if kind else KINDS)}
    if as_json:
        click.echo(json.dumps(listed[kind] if kind else listed, indent=1, ensure_ascii=False))
        return
    for k, methods in listed.items():
        if not kind:
            click.echo(f"{k}:" if methods else f"{k}: none yet")
        click.echo("".join(f"{line}\n" for line in _aligned([*methods.items()], indent=0 if kind else 2)), nl=False)
        if k == "metrics":
            from ..metrics._protocols import NAMED

            click.echo(f"{'' if kind else '  '}protocols of the papers: {' '.join(NAMED)} ...; what one stands for: handful list metrics {NAMED[-1]}")


def _summaries(kind: str) -> dict[str, str]:
    """{name: what it is in a line}."""
    if kind != "features":
        return {name: catalog.summary(kind, name) for name in catalog.names(kind)}
    from ..features import weights

    return {name: weights.ENTRIES[name].said for name in weights.names()} | {name: said for name, (_, said) in weights.PARTS.items()}


def describe(kind: str, name: str) -> dict[str, Any]:
    """{kind, name, doc, settings: {part: {setting: {type, default, required}}}, meaning: {part: what they are}, conflicts: [{what, remedy}],
    targets: a recipe's figures}.

    A part is "" where the method is one class or function.
    """
    found = catalog.load(kind, name)
    parts = catalog.networks(name) if kind == "arch" else {"": found}
    told = found if inspect.ismodule(found) or kind == "recipes" else inspect.getmodule(found)          # whose docstring describes it
    targets = []
    if kind == "recipes":
        from ..reproduce import published

        targets = published.targets(name)
    return {"kind": kind, "name": name, "doc": inspect.getdoc(told) or "",
            "settings": {which: _settings(part) for which, part in parts.items()},
            "meaning": {which: inspect.getdoc(part) or "" for which, part in parts.items()} if kind != "recipes" else {},
            "conflicts": [{"what": what, "remedy": remedy} for what, remedy in catalog.conflicts(kind, name)],
            "targets": [dataclasses.asdict(target) for target in targets]}


def _settings(part: Any) -> dict[str, dict[str, Any]]:
    known = catalog.keywords(part) if inspect.isclass(part) else dict(inspect.signature(part).parameters)
    return {name: _setting(parameter) for name, parameter in known.items() if parameter.kind is not parameter.VAR_KEYWORD}


def _setting(p: inspect.Parameter) -> dict[str, Any]:
    annotation = "" if p.annotation is p.empty else inspect.formatannotation(p.annotation).replace("typing.", "")
    required = p.default is p.empty
    return {"type": annotation.strip("'"), "default": None if required else _plain(p.default), "required": required}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | list | tuple | dict | None) else repr(value)


def _page(found: dict[str, Any]) -> str:
    lines = [found["doc"]]
    for which, settings in found["settings"].items():
        lines += ["", f"Settings of the {which.lower()}:" if which else "Settings:"]
        rows = [(k, s["type"], "required" if s["required"] else f"= {s['default']!r}") for k, s in settings.items()]
        lines += _aligned(rows, indent=2) or ["  none"]
        if settings and found["meaning"].get(which):
            lines += ["", *("  " + line if line else "" for line in found["meaning"][which].splitlines())]
    if found["conflicts"]:
        lines += ["", "Can't be combined with:", *(f"  {c['what']}: {c['remedy']}" for c in found["conflicts"])]
    if found["targets"]:
        lines += ["", "Published:"]
        rows = [(t["table"], t["row"], t["data"], _figure(t), t["protocol"], " ".join(f"--set {s}" for s in t["settings"])) for t in found["targets"]]
        lines += _aligned(rows, indent=2)
    return "\n".join(lines)


def _figure(target: dict[str, Any]) -> str:
    return f"{target['figure']} {target['value']:g}" + ("" if target["spread"] is None else f" +- {target['spread']:g}")


def _aligned(rows: list[tuple[str, ...]], indent: int) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)][:-1]
    return [" " * indent + "  ".join([*(c.ljust(w) for c, w in zip(row, widths)), row[-1]]).rstrip() for row in rows]
