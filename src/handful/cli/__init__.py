"""The command `handful`: a file of this folder is a subcommand, imported when it is invoked and not before.

Here is what all of them share: the list for `--help` (read from the files' first lines), exit codes, and errors as one line.
"""

from __future__ import annotations

import ast
import errno
import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from .. import __version__
from ..errors import HandfulError, HandfulWarning, Untrusted, nearest

FOLDER = Path(__file__).parent
ORDER = ("demo", "train", "generate", "ema", "evaluate", "neighbours", "data", "weights", "report", "reproduce", "list", "doctor")   # in the help
LAUNCHED = "HANDFUL_LAUNCHED"        # of a process that `--gpus` started: the id of the one that did, and that shows its error
LOST = 75                            # exit code of such a process when it only lost another


class Commands(click.Group):
    """`cli/NAME.py` is the command NAME: its attribute `command` is a click command, its first line the short help. One that ORDER doesn't name
    comes after those that it does."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = {p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_")}
        return [n for n in ORDER if n in names] + sorted(names - set(ORDER))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return importlib.import_module(f"{__name__}.{name}").command if name in self.list_commands(ctx) else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            raise click.UsageError(f"no such command '{args[0]}'{nearest(args[0], self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_line(FOLDER / f"{name}.py")) for name in self.list_commands(ctx)])


@click.group(cls=Commands, invoke_without_command=True,
             context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
             epilog="More: handful COMMAND --help. Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped by you.")
@click.version_option(__version__, "--version", message="handful %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may also follow the command.")
@click.pass_context
def group(ctx: click.Context, debug: bool) -> None:
    """Train image GANs from a handful of pictures."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def first_line(path: Path) -> str:
    """The first line of a file's docstring, without importing it."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0].rstrip(".")


def main(args: Sequence[str] | None = None) -> None:
    """The entry point: runs the command and leaves the process with its exit code."""
    code = run(group, sys.argv[1:] if args is None else args)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "handful.training.distributed" in sys.modules:
        sys.modules["handful.training.distributed"].leave(code)
    sys.exit(code)


def run(command: click.Command, args: Sequence[str]) -> int:
    """Runs a click command; returns the exit code, with any error said in one line on stderr (the traceback too with --debug)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):      # a Windows code page must not turn a file's name into a crash
            stream.reconfigure(errors="replace")
    if "_HANDFUL_COMPLETE" in os.environ:       # the shell asks for completions
        command.main(list(args), prog_name="handful")
    end = args.index("--") if "--" in args else len(args)
    debug = "--debug" in args[:end]
    args = [a for i, a in enumerate(args) if a != "--debug" or i > end]
    try:
        with _warnings_in_one_line(), command.make_context("handful", args) as ctx:
            code = command.invoke(ctx)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except (KeyboardInterrupt, click.Abort) as stop:
        return _say("handful", str(stop) or "stopped", 130)
    except BaseException as error:
        if isinstance(error, SystemExit | GeneratorExit):
            raise
        if debug:
            import traceback

            traceback.print_exc()
        return _explain(error, args)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Our own warnings; those of libraries are shown as ever."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def line(message: Warning | str, category: type[Warning], *where: object) -> None:
            if issubclass(category, HandfulWarning):
                click.echo(f"handful: warning: {message}", err=True)
            else:
                show(message, category, *where)

        warnings.simplefilter("always", HandfulWarning)
        warnings.showwarning = line
        yield


def _explain(error: BaseException, args: Sequence[str]) -> int:
    """Says what happened and what to do about it; returns the exit code."""
    if isinstance(error, Untrusted):
        return _say("handful", f"{error.said}; if you trust that code, allow it with: handful {_with(args, error.options)}", error.exit_code)
    if isinstance(error, HandfulError):
        return _say("handful", str(error), error.exit_code)
    if isinstance(error, click.ClickException):
        return _say(*_wrong_use(error))
    if isinstance(error, BrokenPipeError):      # `handful list terms | head`: whoever read has gone, nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST_PEER):              # of torch.distributed
        return _say("handful", "another process of this run has ended, so this one can't go on; its own output says why",
                    LOST if LAUNCHED in os.environ else 1)
    for applies, message in _REMEDIES:
        if applies(error):
            return _say("handful", message(error), 1)
    text = " ".join(str(error).split())
    name = type(error).__name__
    return _say("handful", f"unexpected {name}: {text} (run again with --debug for the traceback; please report)", 1)


def _with(args: Sequence[str], options: str) -> str:
    """The command as it was typed, with more options."""
    from ..files import in_shell

    end = args.index("--") if "--" in args else len(args)
    return " ".join([*map(in_shell, args[:end]), options, *map(in_shell, args[end:])])


def _wrong_use(error: click.ClickException) -> tuple[str, str, int]:
    """click's own complaints as (command path, line, exit code), with the nearest option."""
    ctx = getattr(error, "ctx", None)
    where = ctx.command_path if ctx else "handful"
    if isinstance(error, click.NoSuchOption):
        near = f"; did you mean '{error.possibilities[0]}'?" if error.possibilities else f"; see '{where} --help'"
        return where, f"no such option '{error.option_name}'{near}", error.exit_code
    text = " ".join(error.format_message().split()).rstrip(".")
    if isinstance(error, click.MissingParameter):
        text += f"; see '{where} --help'"
    return where, text[:1].lower() + text[1:], error.exit_code


def _say(where: str, message: str, code: int) -> int:
    line = f"{where}: {' '.join(message.splitlines())}"                        # a path may hold a line's end
    if not _left_to_launcher(line):
        click.echo(line, err=True)
    return code


def _left_to_launcher(line: str) -> bool:
    """Several processes mostly fail together: where `--gpus` started this one, the line goes into the file that torch's launcher made for it, and
    the launcher shows one of these lines. False where there is no launcher, or no room for the file."""
    if os.environ.get(LAUNCHED) != str(os.getppid()):
        return False
    from ..files import write_text

    try:
        write_text(Path(os.environ["TORCHELASTIC_ERROR_FILE"]), json.dumps({"message": line, "timestamp": int(time.time())}))
    except HandfulError:
        return False
    return True


def _of(error: BaseException) -> str:
    """The file that an OSError is about."""
    name = getattr(error, "filename", None)
    return f" ({os.fsdecode(name)})" if isinstance(name, str | bytes) else ""


def _errno(*numbers: int) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, OSError) and error.errno in numbers


_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "Connection refused",
              "NCCL communicator was aborted", "wait timeout", "Timed out waiting")
_REMEDIES: tuple[tuple[Callable[[BaseException], bool], Callable[[BaseException], str]], ...] = (
    (_errno(errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)),
     lambda e: f"no space left on the disk{_of(e)}: free some, or choose another folder with --out"),
    (_errno(errno.EACCES, errno.EPERM, errno.EROFS),
     lambda e: f"no permission{_of(e)}: change the file's or folder's rights, or choose another folder"),
    (_errno(errno.EMFILE, errno.ENFILE), lambda e: "too many open files: raise the limit (ulimit -n 4096) and run again"),
    (lambda e: isinstance(e, MemoryError) or isinstance(e, RuntimeError) and "can't allocate memory" in str(e),         # so torch's CPU allocator
     lambda e: "out of memory: choose a smaller --batch or --res, or close other programs"),
    # torch.OutOfMemoryError, by name: torch may not have been imported
    (lambda e: type(e).__name__ == "OutOfMemoryError",
     lambda e: "the device is out of memory: choose a smaller --batch or --res, close other programs on it, or --device cpu"),
)
