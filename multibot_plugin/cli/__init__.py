"""The command ``multibot``: one file per noun, imported only when it is typed.

A command parses, calls one function and shows what came back. It may return its exit code (an int); every error it
meets is a MultibotError, which becomes one line on stderr here and nowhere else.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from multibot_plugin import __version__
from multibot_plugin.cli.lazy import LazyGroup, Sections
from multibot_plugin.cli.output import Context, one_line
from multibot_plugin.errors import MultibotError
from multibot_plugin.home import file_in_the_way, owner_of, user_name

INTERRUPTED = 130

COMMANDS: Sections = {
    "The installation": {
        "init": ("init:init", "prepare an installation: directories, database, configuration"),
        "start": ("start:start", "start supervisord, the database and every bot"),
        "stop": ("stop:stop", "stop all of it"),
        "status": ("status:status", "what is wrong, if anything; exit 3 if so"),
        "doctor": ("doctor:doctor", "check the installation, name the remedies"),
        "config": ("config:config", "show and change the settings of the fleet"),
    },
    "Bots": {
        "bot": ("bot:bot", "create, show, change, delete, start and stop bots"),
        "list": ("listing:list_bots", "one line per bot"),
        "logs": ("logs:logs", "the logs of one or several bots, merged, followed"),
        "render-config": ("render_config:render_config", "what supervisord would be told, what differs"),
        "apply": ("apply:apply", "bring the running bots to what the database says"),
    },
    "To try it": {
        "sandbox": ("sandbox:sandbox", "a local Telegram Bot API server"),
        "demo": ("demo:demo", "three bots, a local Telegram, and what happens to them"),
    },
}  # fmt: skip


class Main(LazyGroup):
    """The root group: errors as one line with an exit code."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
             standalone_mode: bool = True, **extra: Any) -> Any:  # fmt: skip
        """Run the command line and leave with its exit code."""
        context = extra.setdefault("obj", Context())
        try:
            result = super().main(args, "multibot", complete_var, False, **extra)
            sys.stdout.flush()
        except Exception as error:
            if not standalone_mode:
                raise
            _leave(_report(error, context.debug))
        if not standalone_mode:
            return result
        _leave(result if isinstance(result, int) else 0)

    def elsewhere(self, name: str) -> str:
        from multibot_plugin.cli.bot import COMMANDS as BOTS

        return f"multibot bot {name}" if any(name in section for section in BOTS.values()) else ""


def _leave(code: int) -> NoReturn:
    """Exit; a reader that has gone away (``multibot list | head -1``) is no error worth a word."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _report(error: Exception, debug: bool) -> int:
    """Say on stderr what happened, in one line, and return the exit code."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return 1
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if debug and not isinstance(error, click.ClickException | click.Abort):
        import traceback

        traceback.print_exception(error)
    text, code = _describe(error)
    if text:
        click.echo(f"multibot: {one_line(text)}", err=True)
    return code


def _describe(error: Exception) -> tuple[str, int]:
    if isinstance(error, MultibotError):
        return str(error), error.exit_code
    if isinstance(error, click.Abort):
        return "", INTERRUPTED  # Ctrl-C, or Ctrl-D at a question
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "multibot"
        text = error.format_message().rstrip(".")
        if isinstance(error, click.exceptions.NoSuchCommand | click.exceptions.NoSuchOption):
            guess = error.possibilities[0] if error.possibilities else ""
            text = error.message.rstrip(".") + (f" (did you mean {guess!r}?)" if guess else "")
        return f"{text[:1].lower()}{text[1:]}: see '{path} --help'", error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, OSError):
        return _refusal(error), 1
    name = type(error).__name__
    what = f"{name}: {error}" if str(error) else f"something went wrong ({name})"
    return f"{what} (run it again as 'multibot --debug ...' to see all of it)", 1


def _refusal(error: OSError) -> str:
    """Return in words what the operating system refused, and whose it is where that is the reason."""
    said = error.strerror or str(error) or "the operating system refused something"
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return said
    path = Path(os.fsdecode(error.filename))
    if isinstance(error, NotADirectoryError) and (file := file_in_the_way(path)):
        return f"{file} is not a directory"
    owner = owner_of(path)
    if isinstance(error, PermissionError) and owner not in (None, os.geteuid()):
        name = user_name(owner)
        return f"{path}: {said}: it belongs to {name or f'user id {owner}'}: run this as {name or 'its owner'}"
    return f"{path}: {said}"


@click.group(cls=Main, sections=COMMANDS, no_args_is_help=True)
@click.option(
    "--home", metavar="DIR", help="Everything below this directory (or MULTIBOT_HOME) instead of the system's places."
)
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
@click.version_option(__version__, prog_name="multibot", message="%(prog)s %(version)s")
@click.pass_obj
def main(context: Context, home: str | None, debug: bool) -> None:
    """Run many Telegram bots, each in its own process, on top of supervisord.

    First steps: 'multibot init', 'multibot start', 'multibot bot create ID --script FILE --token-file FILE'.

    Exit codes: 0 done, 1 failed, 2 usage, 3 something is wrong or stopped (status), 4 no such bot, 5 supervisord or
    database unreachable, 6 refused or not confirmed, 10 changes pending, 130 interrupted.
    """
    context.home_option = home
    context.debug = debug
