"""Every error a person can meet, and the exit code that goes with it.

    MultibotError 1
      +- BadValue 2           a value, a file or a row that cannot be used as it is
      +- NoSuchBot 4
      +- Unreachable 5        supervisord, the database or the sandbox is away, or was never installed
      +- Refused 6            possible, but not allowed or not confirmed
      +- Unwritable 1         a file of ours cannot be written: a full disk, a missing right

A message is one line: what, where, what to do. It never holds a token or a value of a bot's environment.
The CLI prints it behind ``multibot: `` and leaves with ``exit_code``; nothing else in the program exits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MultibotError(Exception):
    """Something failed; the message says what, where and what to do."""

    exit_code = 1


class BadValue(MultibotError):
    """A setting, an argument, a file or a row cannot be used as it is."""

    exit_code = 2


class NoSuchBot(MultibotError):
    """No bot has this id."""

    exit_code = 4

    def __init__(self, bot: str, known: Iterable[str] = ()) -> None:
        super().__init__(f"no bot {bot!r}{did_you_mean(bot, known)}")


class Unreachable(MultibotError):
    """supervisord, the database or another program of ours does not answer."""

    exit_code = 5


class NoInstallation(Unreachable):
    """``init`` was never run for this home."""


class SupervisordAway(Unreachable):
    """supervisord does not answer on its socket."""


class DatabaseAway(Unreachable):
    """PostgreSQL cannot be reached, or refuses us."""


class Refused(MultibotError):
    """The request is understood and not carried out: a conflict, a missing right, no confirmation."""

    exit_code = 6


class Unwritable(MultibotError):
    """A file of the installation cannot be written: a full disk, a missing right."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest of the known words, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
