"""``multibot logs``: the logs of one or several bots, merged and followed."""

from __future__ import annotations

import heapq
import re
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click

from multibot_plugin.cli import fleet
from multibot_plugin.cli.log_files import Follower, parts_of
from multibot_plugin.cli.log_lines import Line, Wanted, in_time, read_line, since_of
from multibot_plugin.cli.output import Context, colours, complete_bot, pass_context, say, show
from multibot_plugin.home import Home, check_installed
from multibot_runner.protocol import PROGRAM_PREFIX, BadFile, read_file

if TYPE_CHECKING:
    from multibot_plugin.bots.render import Section

_POLL_S = 0.2
_LINES = 20
_TINTS = ("cyan", "magenta", "blue", "green", "yellow", "bright_cyan", "bright_magenta", "bright_blue")


@dataclass(frozen=True)
class Source:
    """One bot's log, the secrets that must not be shown of it, and the zone of its times (None: the local one)."""

    bot: str
    path: Path
    tokens: tuple[str, ...]
    zone: tzinfo | None = None

    def line(self, raw: bytes) -> Line:
        """Return a line as it may be shown."""
        return read_line(self.bot, raw, self.tokens, self.zone, time.time())


class Since(click.ParamType[float]):
    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return since_of(value, datetime.now())
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is no time: 10m (ago), 14:03 or 2026-11-30T14:03", param, ctx)


class Pattern(click.ParamType[str]):
    name = "pattern"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            self.fail(f"{value!r} is no regular expression: {error}", param, ctx)
        return value


@click.command()
@click.argument("bots", nargs=-1, metavar="[BOT]...", shell_complete=complete_bot)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0),
    help=f"Last lines of each bot, of those that --grep finds; {_LINES} unless --since says from when.",
)
@click.option("--since", type=Since(), metavar="WHEN", help="What was written since 10m (ago), 14:03 or an ISO time.")
@click.option("--grep", type=Pattern(), metavar="REGEX", help="Only lines in which this is found.")
@click.option("-i", "--ignore-case", is_flag=True, help="--grep takes capitals and small letters for the same.")
@click.option("--json", "as_json", is_flag=True, help='One object per line: {"bot", "at", "stream", "line"}.')
@pass_context
def logs(
    context: Context,
    bots: tuple[str, ...],
    follow: bool,
    lines: int | None,
    since: float | None,
    grep: str | None,
    ignore_case: bool,
    as_json: bool,
) -> None:
    """Show the last lines of the bots' logs, all bots without any BOT (an id or a pattern, shop-*).

    Lines of several bots are merged by the time they begin with and carry the bot's name; a line without a time belongs
    to the one before it. Tokens are taken out and terminal escapes made harmless, whoever wrote them. The database and
    supervisord are not needed.
    """
    sources = _sources(context.home, bots)
    wanted = Wanted(
        count=_LINES if lines is None and since is None else lines,
        since=since,
        pattern=re.compile(grep, re.IGNORECASE if ignore_case else 0) if grep is not None else None,
    )
    width = max((len(source.bot) for source in sources), default=0) if len(sources) > 1 else 0
    shown = False
    _allow_files()
    with ExitStack() as stack:
        # Opened before the rest is read, which ends where they begin: no line is lost or shown twice.
        followers = [(source, stack.enter_context(Follower(source.path))) for source in sources]
        for line in _written(followers, wanted, stack):
            _print(line, width, as_json)
            shown = True
        if not shown and lines != 0:
            say("nothing was logged yet" if wanted == Wanted(_LINES) else "nothing was found")
        if follow:
            for line in _followed(followers, wanted):
                _print(line, width, as_json)


def _allow_files() -> None:
    """Each bot's log needs a descriptor or two."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _sources(home: Home, words: Sequence[str]) -> list[Source]:
    """Return the logs that the ids or patterns name, a deleted bot's too while its file is there.

    Raises NoSuchBot, NoInstallation.
    """
    from multibot_plugin.bots.files import read_text
    from multibot_plugin.bots.render import read_rendered

    rendered = read_rendered(read_text(home.rendered))
    prefix, suffix = PROGRAM_PREFIX, ".log"
    files = home.log.glob(f"{prefix}*{suffix}") if home.log.is_dir() else ()
    found = {file.name[len(prefix) : -len(suffix)] for file in files}
    found |= set(rendered)
    if not found:
        check_installed(home)
    rows = fleet.select([{"id": bot} for bot in sorted(found)], words)
    return [
        Source(bot, home.bot_log(bot), _tokens(home, bot), _zone(home, rendered.get(bot)))
        for bot in (str(row["id"]) for row in rows)
    ]


def _zone(home: Home, section: Section | None) -> tzinfo | None:
    """Return the zone that a bot's own TZ names."""
    from multibot_plugin.bots.files import read_deployment

    deployment = read_deployment(home, section) if section else None
    with suppress(KeyError, ValueError, OSError):  # none, or no zone that has a name
        return ZoneInfo(deployment.settings.env["TZ"].removeprefix(":")) if deployment else None
    return None


def _tokens(home: Home, bot: str) -> tuple[str, ...]:
    """Return the bot's tokens, to keep even their parts out of what is shown."""
    found = []
    for file in home.bot(bot).state_dir.glob("*.token"):
        with suppress(BadFile, UnicodeDecodeError):
            found.append(read_file(file).decode("ascii").strip())
    return tuple(found)


def _written(followers: Iterable[tuple[Source, Follower]], wanted: Wanted, stack: ExitStack) -> Iterator[Line]:
    """Yield what stands in the logs already, in the order of its time."""
    logs = []
    for source, follower in followers:
        parts = parts_of(source.path, follower, wanted, source.line, stack)
        logs.append(in_time(map(source.line, chain.from_iterable(part.lines() for part in parts))))
    for _, line in heapq.merge(*logs, key=lambda item: item[0]):
        if wanted.has(line):
            yield line


def _followed(followers: Sequence[tuple[Source, Follower]], wanted: Wanted) -> Iterator[Line]:
    while True:
        logs = [in_time([source.line(raw) for raw in follower.lines()]) for source, follower in followers]
        for _, line in heapq.merge(*logs, key=lambda item: item[0]):
            if wanted.has(line):
                yield line
        time.sleep(_POLL_S)


def _print(line: Line, width: int, as_json: bool) -> None:
    if as_json:
        show(line.as_json())
    elif width:
        tint = _TINTS[sum(line.bot.encode()) % len(_TINTS)]
        head = f"{line.bot:<{width}} │"
        show(f"{click.style(head, fg=tint) if colours() else head} {line.text}")
    else:
        show(line.text)
