"""Errors meant for people: one line that names the file or option and the remedy. The command shows them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HandfulError(Exception):
    """Something failed that the user can mend (exit code 1). The message is one line and names the remedy."""

    exit_code = 1


class UsageError(HandfulError):
    """The command, an option or a setting was wrong (exit code 2)."""

    exit_code = 2


class HandfulWarning(UserWarning):
    """Something that goes on, but that the user should know. The command shows it as one line."""


class NoPermission(HandfulError):
    """The system doesn't let this user read or write a file. That is not the file's fault, so nobody takes an older one in its place."""


class Untrusted(HandfulError):
    """A file names a class outside of the package, which nobody has allowed it to. said: which file and class; modules: what would be imported."""

    def __init__(self, said: str, modules: Iterable[str]) -> None:
        self.said, self.modules = said, sorted(modules)
        super().__init__(f"{said}; if you trust that code, allow it by trust={self.modules} ({self.options})")

    @property
    def options(self) -> str:
        """What allows it on the command line."""
        return " ".join(f"--trust {module}" for module in self.modules)


def within(least: float, most: float | None = None, **settings: float | None) -> None:
    """Raises UsageError for a setting, given by name, that is below `least` or above `most`. None passes."""
    for name, value in settings.items():
        if value is not None and (value < least or most is not None and value > most):
            raise UsageError(f"{name}={value:g}: give a number {f'from {least:g} to {most:g}' if most is not None else f'of {least:g} or more'}")


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known name closest to `word`, or a list of all of them when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
