"""What the documents say can be done: commands parse, names exist, files are there, figures have records."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

import handful
from handful.cli import group

ROOT = Path(__file__).parents[1]
PAGES = [p for p in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))] if p.exists()]


def commands(text: str) -> list[str]:
    blocks = [block.replace("\\\n", " ") for block in re.findall(r"^```(?:\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("handful ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_on_the_pages_parse(page):
    for line in commands(page.read_text(encoding="utf-8")):
        name, *args = shlex.split(line)[1:]
        ctx = click.Context(group)
        command = group.get_command(ctx, name)
        assert command is not None, line
        try:
            command.make_context(name, args, parent=ctx)
        except click.exceptions.Exit:                                     # --help
            pass
    for name in re.findall(r"`handful (\w+)[^`]*`", page.read_text(encoding="utf-8")):
        assert group.get_command(click.Context(group), name) is not None, name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_python_on_the_front_page_uses_names_that_exist():
    block, = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            assert all(hasattr(importlib.import_module(node.module), a.name) for a in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "handful":
            assert hasattr(handful, node.attr)


def test_front_page_names_every_method():
    text = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    for word in ("fastgan", "diffaugment", "soft hinge", "non-saturating", "wasserstein", "least squares", "relativistic", "r1", "r2", "lecam"):
        assert word in text
