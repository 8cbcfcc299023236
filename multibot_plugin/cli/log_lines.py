"""A line of a bot's log as people and programs are shown it, and which lines somebody wants to see. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any

from multibot_plugin.cli.output import clean
from multibot_runner.redact import redact

# The time that a line begins with, in every form of log_format and as loggers write it.
_TIME = re.compile(rb'(?:\{"at": "|\D{0,3})(\d{4}[-/]\d\d[-/]\d\d)[ T](\d\d:\d\d:\d\d(?:[.,]\d{1,6})?)'
                   rb"\d*(Z|[+-]\d\d:?\d\d)?")  # fmt: skip
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MOST_UNTIMED = 200
_AHEAD_S = 60.0  # a clock may be ahead of ours


@dataclass(frozen=True)
class Line:
    """``at``: seconds since the epoch, None where the line does not say it; ``stream``: only the form json knows it.

    ``text`` is for people, with its time; ``said`` is what the bot wrote. Both are harmless for a terminal.
    """

    bot: str
    at: float | None
    stream: str | None
    text: str
    said: str

    def as_json(self) -> str:
        """Return the line as an object; ``at`` in ISO 8601 with its zone."""
        at = (
            None if self.at is None else datetime.fromtimestamp(self.at).astimezone().isoformat(timespec="milliseconds")
        )
        return json.dumps({"bot": self.bot, "at": at, "stream": self.stream, "line": self.said}, ensure_ascii=False)


def read_line(
    bot: str, raw: bytes, tokens: Iterable[str] = (), zone: tzinfo | None = None, now: float = math.inf
) -> Line:
    """Return a line of a log, without tokens (``tokens`` in whatever form) and terminal escapes.

    ``zone``: see time_of; what has not come ``now`` is not when the line was written.
    """
    at, text = time_of(raw, zone), raw.decode("utf-8", "replace").rstrip("\r\n")
    at = at if at is None or at <= now + _AHEAD_S else None
    if at is not None and raw.startswith(b'{"at": "') and (found := _object(text)):
        said = clean(redact(found["line"], tokens))
        stamp = "" if _TIME.match(said.encode()) else f"{datetime.fromtimestamp(at).isoformat(' ', 'milliseconds')} "
        return Line(bot, at, clean(found["stream"]), stamp + said, said)
    text = clean(redact(text, tokens))
    return Line(bot, at, None, text, _STAMP.sub("", text, count=1) if _STAMP.match(text) else text)


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    names = ("at", "stream", "line")
    return found if isinstance(found, dict) and all(isinstance(found.get(name), str) for name in names) else None


def time_of(raw: bytes, zone: tzinfo | None = None) -> float | None:
    """Return the time that a line begins with; where that says no zone it is ``zone``'s (None: the local one)."""
    match = _TIME.match(raw)
    if match is None:
        return None
    moment = b"%bT%b%b" % (match[1].replace(b"/", b"-"), match[2], match[3] or b"")
    try:
        at = datetime.fromisoformat(moment.decode())
        seconds = (at if at.tzinfo else at.replace(tzinfo=zone)).timestamp()
        datetime.fromtimestamp(seconds).astimezone()  # a bot may write any year, and not each can be shown
        return seconds
    except (ValueError, OverflowError, OSError):
        return None


def in_time(lines: Iterable[Line]) -> Iterator[tuple[float, Line]]:
    """Yield each line of one log with the time that it is sorted by.

    A line without one belongs to the line before it; what comes before the first time to that one. A time that is not
    between those before and after it may be anybody's (a date in a message): the nearer of these two is taken.
    """
    place, at, waiting = 0.0, None, list[Line]()
    for line in lines:
        if line.at is not None and at is not None:
            place = sorted((place, at, line.at))[1]
            yield from ((place, earlier) for earlier in waiting)
            waiting.clear()
        at = at if line.at is None else line.at
        waiting.append(line)
        if len(waiting) > _MOST_UNTIMED:
            place = max(place, at or 0.0)
            yield from ((place, earlier) for earlier in waiting)
            waiting.clear()
    place = max(place, at or 0.0)
    yield from ((place, line) for line in waiting)


@dataclass(frozen=True)
class Wanted:
    """``count``: the last so many lines of each log (None: all); ``since``: seconds since the epoch."""

    count: int | None = None
    since: float | None = None
    pattern: re.Pattern[str] | None = None

    def has(self, line: Line) -> bool:
        """Whether a line of the right time is to be shown."""
        return self.pattern is None or self.pattern.search(line.text) is not None


def since_of(text: str, now: datetime) -> float:
    """Return the moment that ``10m`` (ago), ``14:03`` (the last) or an ISO date means; raises ValueError."""
    text = text.strip()
    if match := _DURATION.fullmatch(text):
        return (now - timedelta(**{_UNITS[match[2]]: float(match[1])})).timestamp()
    if match := re.fullmatch(r"(\d\d?):(\d\d)(?::(\d\d))?", text):
        then = now.replace(hour=int(match[1]), minute=int(match[2]), second=int(match[3] or 0), microsecond=0)
        return (then if then <= now else then - timedelta(days=1)).timestamp()
    return datetime.fromisoformat(text).timestamp()
