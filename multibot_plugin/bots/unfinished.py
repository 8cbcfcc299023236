"""Which bots are being restarted right now: that stands in the file that is also the lock of whoever does it.

A process that is killed between a bot's stop and its start leaves the names there, and the lock free; one that fails
there leaves the names of those that stand still for it. So the monitor can tell a stop of ours from an operator's, and
whoever takes the lock next finishes the work (apply.py). After a crash of the host nothing of this is needed, because
supervisord then starts everything as it is rendered: nothing is synced.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from multibot_plugin.bots.files import LOCK_WAIT_S, changing, translated
from multibot_plugin.errors import MultibotError, Unreachable
from multibot_plugin.home import Home
from multibot_runner.protocol import BOT_ID, BadFile, decode_object, read_file

_CAP = 1024 * 1024


@dataclass(frozen=True)
class Whose:
    """Whose command it was that was cut off, and what they had typed."""

    actor: str
    door: str


class Work:
    """The file, while its lock is ours. ``left``: the bots of commands that were cut off."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mark = os.fstat(descriptor).st_size
        self._noted: dict[str, Whose] = {}
        self._kept: frozenset[str] | None = None
        self.left: Mapping[str, Whose] = _read(os.pread(descriptor, _CAP, 0))

    @property
    def noted(self) -> Collection[str]:
        """All that stand in the file, ours and what others have left."""
        return self.left.keys() | self._noted.keys()

    def note(self, bots: Iterable[str], whose: Whose) -> None:
        """Write down that ``bots`` are about to be stopped and started; raises OSError."""
        noted = dict.fromkeys(bots, whose)
        line = _lines(noted)
        if os.pwrite(self._descriptor, line, self._mark) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._noted = noted

    def keep(self, bots: Collection[str]) -> None:
        """At the end only ``bots`` stay noted, of ours and of what others have left: somebody has to come back."""
        self._kept = frozenset(bots)

    def strike(self) -> None:
        """Take back what we noted, or all that is not to be kept."""
        if self._kept is None:
            os.ftruncate(self._descriptor, self._mark)
            return
        noted = {**self.left, **self._noted}
        data = _lines({bot: noted[bot] for bot in sorted(self._kept & noted.keys())})
        os.pwrite(self._descriptor, data, 0)  # no longer than what stands there: needs no space, is never missing
        os.ftruncate(self._descriptor, len(data))


class Done(Protocol):
    """Says of a bot that it has been started; ``failed``: it has not, and stays noted."""

    def __call__(self, bot: str, *, failed: bool = False) -> None: ...


@contextmanager
def working(home: Home, wait_s: float = LOCK_WAIT_S) -> Iterator[Work]:
    """Be the one who starts, stops and replaces bots.

    What was noted is struck at the end, and after an error that a person is told, but for what is to be kept. All of it
    stays when this process is killed or interrupted, or supervisord is lost. Raises Refused as ``changing`` does, and
    MultibotError.
    """
    with translated(), changing(_path(home), wait_s) as descriptor:
        work = Work(descriptor)
        try:
            yield work
        except (MultibotError, OSError) as error:
            if not isinstance(error, Unreachable):
                work.strike()
            raise
        work.strike()


@contextmanager
def restarting(home: Home, bots: Iterable[str], whose: Whose) -> Iterator[Done]:
    """Note ``bots``; gives a function to be called (from any thread) for each of them when it has been started or not.

    With the last of them the lock is let go. Raises as ``working`` does.
    """
    open_bots, stay, turn = set(bots), set[str](), threading.Lock()
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(working(home))
        with contextlib.suppress(OSError):  # a full disk must not keep anybody from restarting a bot
            work.note(open_bots, whose)

        def done(bot: str, *, failed: bool = False) -> None:
            with turn:
                open_bots.discard(bot)
                if failed:
                    stay.add(bot)
                    work.keep({*work.left, *stay})
                if not open_bots:
                    stack.close()

        yield done


def under_way(home: Home) -> frozenset[str]:
    """Return the bots that somebody is restarting, or was cut off or has failed in the middle of it."""
    try:
        return frozenset(_read(read_file(_path(home), _CAP)))
    except BadFile:
        return frozenset()


def _path(home: Home) -> Path:
    return home.state / "apply.lock"


def _lines(noted: Mapping[str, Whose]) -> bytes:
    """Return a line for each command; each begins with a line break, behind what may be half of one."""
    lines = []
    for whose in dict.fromkeys(noted.values()):
        names = sorted(bot for bot, one in noted.items() if one == whose)
        lines.append(b"\n" + json.dumps({"bots": names, **asdict(whose)}).encode() + b"\n")
    return b"".join(lines)


def _read(data: bytes) -> dict[str, Whose]:
    """Return the bots in whole lines: the writer of half a line had not stopped anything yet."""
    found: dict[str, Whose] = {}
    for line in data.split(b"\n"):
        try:
            item = decode_object(line) if line else {}
        except BadFile:
            continue
        bots = item.get("bots")
        for bot in bots if isinstance(bots, list) else ():
            if isinstance(bot, str) and BOT_ID.fullmatch(bot):
                found[bot] = Whose(str(item.get("actor")), str(item.get("door")))
    return found
