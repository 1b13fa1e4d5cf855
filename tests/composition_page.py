"""docs/composition.md, from what the classes state that they can't be combined with: python tests/composition_page.py writes it."""

from __future__ import annotations

from pathlib import Path

from handful import catalog

PAGE = Path(__file__).parents[1] / "docs" / "composition.md"
COMMAND = "python tests/composition_page.py"
HEAD = f"""# What can't be combined

Every architecture, augmentation and term goes with every other, on images with labels and without, except for what the table lists. A run that
has such a combination is refused before its first step: all reasons at once, each with what to do about it. `handful list terms NAME` shows the
same of one method.

This page is generated from the statements of the classes (`{COMMAND}`): don't edit it. The tests check that each statement
refuses the runs that it describes, that nothing else is refused, and that a random sample of all other combinations trains: every gradient, weight
and logged value is finite, every parameter moves, and each term changes what is learnt, or logs values where it only observes. That a combination
trains says nothing about the quality of its images.

NAME stands for the name that a term has in the run.

| method | can't be combined with | what to do |
| --- | --- | --- |
"""


def render() -> str:
    """The page, from the classes alone."""
    rows = [(f"`{name}`", what, remedy) for kind in ("arch", "augment", "terms") for name in catalog.names(kind)
            for what, remedy in catalog.conflicts(kind, name)]
    return HEAD + "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8", newline="\n")
