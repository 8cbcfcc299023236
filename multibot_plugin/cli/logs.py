"""``multibot logs``: the logs of one or several bots, merged and followed."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click

from multibot_plugin.cli import fleet
from multibot_plugin.cli.output import Context, clean, colours, complete_bot, pass_context, say, show
from multibot_plugin.home import Home, check_installed
from multibot_runner.protocol import PROGRAM_PREFIX, BadFile, read_file
from multibot_runner.redact import redact

_POLL_S = 0.2
_BLOCK = 64 * 1024
_LONGEST = 256 * 1024  # a line without an end is shown in pieces of this size
_WORD = 160  # longer than any token: what may be half of one is not shown, or not yet
_HALF_A_WORD = re.compile(rb"\A\S{1,%d}" % _WORD)
_UNFINISHED_WORD = re.compile(rb"\S*\Z")
_BACKUPS = 3  # stdout_logfile_backups of the bots' sections
_STAMP = re.compile(r"\D{0,3}(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?)")
_TINTS = ("cyan", "magenta", "blue", "green", "yellow", "bright_cyan", "bright_magenta", "bright_blue")


@dataclass(frozen=True)
class Source:
    """One bot's log, and the secrets that must not be shown of it."""

    bot: str
    path: Path
    tokens: tuple[str, ...]

    def clean(self, line: bytes) -> str:
        """Return a line as it may be shown on a terminal."""
        return clean(redact(line.decode("utf-8", "replace").rstrip("\r\n"), self.tokens))


@click.command()
@click.argument("bots", nargs=-1, metavar="[BOT]...", shell_complete=complete_bot)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("-n", "--lines", type=click.IntRange(0), default=20, show_default=True, help="Last lines of each bot.")
@click.option("--json", "as_json", is_flag=True, help='One object per line: {"bot": ..., "line": ...}.')
@pass_context
def logs(context: Context, bots: tuple[str, ...], follow: bool, lines: int, as_json: bool) -> None:
    """Show the last lines of the bots' logs, all bots without any BOT (an id or a pattern, shop-*).

    Lines of several bots are merged by the time they begin with and carry the bot's name. Tokens are taken out and
    terminal escapes made harmless, whoever wrote them. The database and supervisord are not needed.
    """
    sources = _sources(context.home, bots)
    width = max((len(source.bot) for source in sources), default=0) if len(sources) > 1 else 0
    with ExitStack() as stack:
        # Opened before the tails are read, which end where they begin: no line is lost or shown twice.
        followers = [(source, stack.enter_context(Follower(source.path))) for source in sources]
        tails = {source.bot: _tail(source, lines, follower.position) for source, follower in followers}
        for bot, line in _merged(tails):
            _print(bot, line, width, as_json)
        if follow:
            for bot, line in _followed(followers):
                _print(bot, line, width, as_json)
    if not any(tails.values()):
        say("nothing was logged yet")


def _sources(home: Home, words: Sequence[str]) -> list[Source]:
    """Return the logs that the ids or patterns name, a deleted bot's too while its file is there.

    Raises NoSuchBot, NoInstallation.
    """
    from multibot_plugin.bots.files import read_text
    from multibot_plugin.bots.render import read_rendered

    prefix, suffix = PROGRAM_PREFIX, ".log"
    files = home.log.glob(f"{prefix}*{suffix}") if home.log.is_dir() else ()
    found = {file.name[len(prefix) : -len(suffix)] for file in files}
    found |= set(read_rendered(read_text(home.rendered)))
    if not found:
        check_installed(home)
    rows = fleet.select([{"id": bot} for bot in sorted(found)], words)
    return [Source(row["id"], home.bot_log(row["id"]), _tokens(home, row["id"])) for row in rows]


def _tokens(home: Home, bot: str) -> tuple[str, ...]:
    """Return the bot's tokens, to keep even their parts out of what is shown."""
    found = []
    for file in home.bot(bot).state_dir.glob("*.token"):
        with suppress(BadFile, UnicodeDecodeError):
            found.append(read_file(file).decode("ascii").strip())
    return tuple(found)


def _tail(source: Source, count: int, end: int | None = None) -> list[str]:
    """Return the last ``count`` lines, from the rotated files too where the newest does not hold so many.

    ``end``: where the newest file ends (None: where it does now).
    """
    lines: list[bytes] = []
    for path in (source.path, *(source.path.with_name(f"{source.path.name}.{n}") for n in range(1, _BACKUPS + 1))):
        if len(lines) >= count:
            break
        with suppress(FileNotFoundError), path.open("rb") as file:
            lines = _last(file, count - len(lines), end if path == source.path else None) + lines
    return [source.clean(line) for line in lines]


def _last(file: BinaryIO, count: int, end: int | None) -> list[bytes]:
    """Return the last lines of a file before ``end``, reading it backwards."""
    position, data = file.seek(0, os.SEEK_END), b""
    position = position if end is None else min(position, end)
    while position and data.count(b"\n") <= count and len(data) < max(_LONGEST, count * 1024):
        step = min(_BLOCK, position)
        position -= step
        file.seek(position)
        data = file.read(step) + data
    if position:
        data = _HALF_A_WORD.sub(b"", data)
    return data.splitlines()[-count:] if count else []


def _merged(tails: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Yield (bot, line) in the order of the time that a line begins with; one without stays behind the one before."""
    stamped: list[tuple[str, int, str, str]] = []
    for number, (bot, lines) in enumerate(tails.items()):
        stamps = [
            match[1].replace("T", " ").replace(",", ".") if (match := _STAMP.match(line)) else "" for line in lines
        ]
        current = next(filter(None, stamps), "")
        for stamp, line in zip(stamps, lines, strict=True):
            current = stamp or current
            stamped.append((current, number, bot, line))
    for _, _, bot, line in sorted(stamped, key=lambda item: item[:2]):
        yield bot, line


class Follower:
    """What is appended to one file from now on; it survives the file being rotated, truncated or not there yet.

    ``position``: where it began.
    """

    def __init__(self, path: Path) -> None:
        self.position = 0
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._inside = False  # a line: its beginning is not ours
        with suppress(FileNotFoundError):
            self._file = path.open("rb")
            self.position = self._file.seek(0, os.SEEK_END)
            self._inside = self.position > 0 and os.pread(self._file.fileno(), 1, self.position - 1) != b"\n"

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file:
            self._file.close()

    def lines(self) -> list[bytes]:
        """Return the lines that were finished since the last call."""
        data = self._rest + self._read()
        if self._moved():
            data += self._read()
            if self._file:
                self._file.close()
            with suppress(FileNotFoundError):
                self._file = None
                self._file = self._path.open("rb")
            data += self._read()
        whole, newline, self._rest = data.rpartition(b"\n")
        if len(self._rest) > _LONGEST:
            cut = len(data) - len(_UNFINISHED_WORD.search(data[-_WORD:])[0])  # type: ignore[index]
            whole, newline, self._rest = data[:cut], b"\n", data[cut:]
        if newline and self._inside:
            whole, self._inside = _HALF_A_WORD.sub(b"", whole), False
        return whole.split(b"\n") if newline else []

    def _read(self) -> bytes:
        return self._file.read() if self._file else b""

    def _moved(self) -> bool:
        """Whether the path is another file now, or this one was cut."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        if self._file is None:
            return True
        here = os.fstat(self._file.fileno())
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            return True
        if here.st_size < self._file.tell():
            self._file.seek(0)
        return False


def _followed(followers: Iterable[tuple[Source, Follower]]) -> Iterator[tuple[str, str]]:
    while True:
        for source, follower in followers:
            for line in follower.lines():
                yield source.bot, source.clean(line)
        time.sleep(_POLL_S)


def _print(bot: str, line: str, width: int, as_json: bool) -> None:
    if as_json:
        show(json.dumps({"bot": bot, "line": line}, ensure_ascii=False))
    elif width:
        tint = _TINTS[sum(bot.encode()) % len(_TINTS)]
        head = f"{bot:<{width}} │"
        show(f"{click.style(head, fg=tint) if colours() else head} {line}")
    else:
        show(line)
