"""What every command shares: the context, how output looks, how a person is asked.

Data goes to stdout, everything else to stderr. Colour only on a terminal and without NO_COLOR; it never carries a
meaning alone. rich is imported only when a table is laid out, the database and supervisord only when they are asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click

from multibot_plugin.cli.tables import UNLIMITED, lay_out
from multibot_plugin.cli.tables import Column as Column
from multibot_plugin.errors import MultibotError, Refused
from multibot_plugin.home import Home, check_installed, check_owner, find_home
from multibot_plugin.settings import Settings, load
from multibot_runner.protocol import PROGRAM_PREFIX
from multibot_runner.redact import redact

if TYPE_CHECKING:
    from multibot_plugin.bots.store import Actor
    from multibot_plugin.supervisor.client import Supervisor

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])
SCHEMA = 1
FORMS = ("table", "wide", "json", "jsonl", "name")
NOTHING = "–"
# C0 (but tab), DEL, C1 and the marks that reorder or hide text: what a hostile message could use on a terminal.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_COLOURS = {"●": "green", "▲": "yellow", "✖": "red", "○": "bright_black", "…": "cyan"}


class Context:
    """What a command gets: ``ctx.obj`` (``@pass_context``). Everything is found out when it is first used.

    ``actor``: in whose name, through which door (None: the person at the keyboard, what they typed).
    """

    def __init__(self, home: str | None = None, debug: bool = False, actor: Actor | None = None) -> None:
        self.home_option = home
        self.debug = debug
        self._actor = actor

    @cached_property
    def home(self) -> Home:
        return find_home(self.home_option)

    @property
    def names_home(self) -> bool:
        """Whether somebody said which home (``--home``, MULTIBOT_HOME), so that it is not the default one."""
        return bool(self.home_option or os.environ.get("MULTIBOT_HOME"))

    @cached_property
    def settings(self) -> Settings:
        if os.geteuid() != 0:
            check_owner(self.home)
        return load(self.home.toml)

    @property
    def door(self) -> str:
        """What was typed, for the audit log: ``multibot bot stop``."""
        return click.get_current_context().command_path

    @property
    def actor(self) -> Actor:
        from multibot_plugin.bots.store import current_actor

        return self._actor or current_actor(self.door)

    def supervisor(self, timeout_s: float = 10.0) -> Supervisor:
        """Return a client of this home's supervisord; its calls raise SupervisordAway when nothing answers.

        Raises NoInstallation and Refused (home.check_installed).
        """
        from multibot_plugin.supervisor.client import Supervisor

        check_installed(self.home)
        return Supervisor.of(self.home, timeout_s)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run ``coroutine`` to its end and return its result."""
        import asyncio

        return asyncio.run(coroutine)

    @asynccontextmanager
    async def database(self, timeout_s: float = 5.0) -> AsyncIterator[Any]:
        """Give a connection (raises DatabaseAway), closed afterwards.

        Raises NoInstallation and Refused (home.check_installed).
        """
        from multibot_plugin.database.pool import connect

        check_installed(self.home)
        connection = await connect(self.home, self.settings, timeout_s)
        try:
            yield connection
        finally:
            await connection.close(timeout=timeout_s)


pass_context = click.make_pass_decorator(Context)


def output_option(default: str = "table", forms: Sequence[str] = FORMS) -> Callable[[_F], _F]:
    """Decorate a command with ``-o table|wide|json|jsonl|name`` and ``--json``; it gets the choice as ``form``."""

    def decorate(command: _F) -> _F:
        choice = click.option("-o", "form", type=click.Choice(list(forms)), default=default, show_default=True,
                              help="How to show it; json has stable keys.")  # fmt: skip
        flag = click.option(
            "--json", "form", flag_value="json", type=click.Choice(list(forms)), help="Same as -o json."
        )
        return choice(flag(command))

    return decorate


def json_option(what: str = "What happened, as JSON.") -> Callable[[_F], _F]:
    """Decorate a command that acts with ``--json``; it gets ``json_wanted``."""
    return click.option("--json", "json_wanted", is_flag=True, help=what)


def complete_bot(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Return the rendered bots whose id begins so, for the shell's completion; neither database nor supervisord."""
    try:
        text = find_home(context.find_root().params.get("home")).rendered.read_text()
    except (OSError, MultibotError):
        return []
    ids = re.findall(rf"^\[program:{PROGRAM_PREFIX}(.+)\]$", text, re.MULTILINE)
    return [bot for bot in ids if bot.startswith(begun)]


# --- words -----------------------------------------------------------------------------------------------------


def clean(text: object) -> str:
    """Return ``text`` with control characters (terminal escapes) made visible and harmless."""
    return _UNSAFE.sub(lambda m: f"\\x{ord(m[0]):02x}" if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}", str(text))


def one_line(text: str) -> str:
    """Return ``text`` as one harmless line in which no token can be read."""
    return clean(" ".join(redact(text).split()))


def duration(seconds: float | None) -> str:
    """Return a duration for a table: ``2s``, ``1m 02s``, ``3h 05m``, ``9d 4h``; ``–`` for None."""
    if seconds is None:
        return NOTHING
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60:02}m"
    return f"{minutes}m {whole % 60:02}s" if minutes else f"{whole}s"


def spoken(seconds: float) -> str:
    """Return a duration for a sentence: ``2 s``, ``21 min``, ``4 h``, ``12 days``."""
    whole = max(0, int(seconds))
    for length, unit in ((2 * 86400, "days"), (3600, "h"), (60, "min")):
        if whole >= length:
            return f"{whole // (86400 if unit == 'days' else length)} {unit}"
    return f"{whole} s"


def size(value: float | None) -> str:
    """Return a number of bytes for people: ``12 MB``; ``–`` for None."""
    if value is None:
        return NOTHING
    for unit, factor in (("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
        if value >= factor:
            amount = value / factor
            return f"{amount:.1f} {unit}" if amount < 10 and unit == "GB" else f"{amount:.0f} {unit}"
    return f"{value:.0f} B"


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}%"


def count(number: int, noun: str) -> str:
    """Return ``1 bot``, ``2 bots``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# --- printing --------------------------------------------------------------------------------------------------


def colours(stream: Any = None) -> bool:
    """Whether this stream (default stdout) gets colour."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int:
    """The columns to fill: the terminal's, or without limit when piped."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED


def paint(text: str, colour: str, stream: Any = None) -> str:
    return click.style(text, fg=colour) if colours(stream) else text


def mark(symbol: str, stream: Any = None) -> str:
    """Return one of ● ▲ ✖ ○ … in its colour."""
    return paint(symbol, _COLOURS[symbol], stream)


def show(text: str = "") -> None:
    """Print data: a line on stdout. A token in it (somebody's command may hold one) cannot be read."""
    click.echo(redact(text), color=colours())


def say(text: str = "") -> None:
    """Print what is not data (progress, hints, results of an act): a line on stderr, without any token."""
    click.echo(redact(text), err=True, color=colours(sys.stderr))


def show_json(value: Mapping[str, Any]) -> None:
    """Print an object with ``"schema": 1`` in front."""
    show(json.dumps({"schema": SCHEMA} | dict(value), indent=2, ensure_ascii=False, default=str))


def show_rows(form: str, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column],
              identity: str = "id", extra: Mapping[str, Any] | None = None) -> None:  # fmt: skip
    """Print rows in the wanted form; ``name`` is their key in JSON (``{"schema": 1, "bots": [...]}``)."""
    if form == "json":
        show_json({**(extra or {}), name: [dict(row) for row in rows]})
    elif form == "jsonl":
        for row in rows:
            show(json.dumps(dict(row), ensure_ascii=False, default=str))
    elif form == "name":
        for row in rows:
            show(str(row[identity]))
    else:
        show(table(rows, columns, wide=form == "wide"))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], wide: bool = False) -> str:
    """Return an aligned table, no wider than the terminal (tables.py)."""
    head, *lines = lay_out(rows, columns, width(), wide, clean)
    if not colours():
        return "\n".join((head, *lines))
    painted = (re.sub("[●▲✖○…]", lambda m: paint(m[0], _COLOURS[m[0]]), line) for line in lines)
    return "\n".join((click.style(head, bold=True), *painted))


def fold(text: str, indent: int) -> str:
    """Return a sentence folded between words where the terminal ends, what follows indented by ``indent``.

    Only its first character may have a colour (``mark``).
    """
    plain = click.unstyle(text)
    wrapper = textwrap.TextWrapper(
        width=width(), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False,
        expand_tabs=False, replace_whitespace=False,
    )  # fmt: skip
    coloured = len(text) - len(plain)
    return text[: coloured + 1] + wrapper.fill(plain)[1:] if coloured else wrapper.fill(plain)


@contextmanager
def step(text: str, columns: int = 48) -> Iterator[None]:
    """Say that something slow is being done, and how long it took: ``  initdb ........... 2 s`` on stderr."""
    head = f"  {text} {'.' * max(3, columns - len(text) - 3)} "
    live = sys.stderr.isatty()
    if live:
        click.echo(head, err=True, nl=False)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        click.echo("failed" if live else f"{head}failed", err=True)
        raise
    took = time.monotonic() - started
    words = f"{took:.1f} s" if took < 10 else f"{took:.0f} s"
    click.echo(words if live else head + words, err=True)


def confirm(question: str, yes: bool) -> None:
    """Return when the answer is yes; raises Refused when it is no, or when there is nobody to ask."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Refused("not confirmed: this is no terminal, so add --yes")
    if not click.confirm(question, err=True):
        raise Refused("not confirmed, nothing was done")
