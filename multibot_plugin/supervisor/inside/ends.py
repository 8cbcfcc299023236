"""How programs ended, and how often: supervisord keeps neither the signal nor a count."""

from __future__ import annotations

import os
import signal
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from supervisor import events

from multibot_runner.protocol import EXIT_FINISHED

WINDOWS = {"10m": 600.0, "1h": 3600.0, "24h": 86_400.0}
_MOST = 1000  # ends of one program that are remembered


@dataclass(frozen=True)
class End:
    """An end. ``at``: wall time. ``code``: exit code, None for a signal. ``signal``: its name, None for a code.

    ``asked``: supervisord had told it to end.
    """

    at: float
    code: int | None
    signal: str | None
    asked: bool = False


@dataclass
class Past:
    """What is remembered of a program. ``deaths``: monotonic times of the ends that nobody had asked for."""

    end: End | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST))

    def within(self, now_mono: float) -> dict[str, int]:
        """Return how many deaths there were in each of the windows."""
        return {name: len(self.deaths) - bisect_left(self.deaths, now_mono - s) for name, s in WINDOWS.items()}


class Ends:
    """Put around ``options.waitpid``; remembers by the program's name, also when it is taken out and in again."""

    def __init__(self, supervisord: Any, contain: Any) -> None:
        self._options = supervisord.options
        self._pasts: dict[str, Past] = {}
        stock, note = self._options.waitpid, contain(self._note)

        def waitpid() -> tuple[int | None, int | None]:
            pid, status = stock()
            if pid:
                note(pid, status)
            return pid, status

        self._options.waitpid = waitpid
        events.subscribe(events.ProcessGroupRemovedEvent, contain(self._removed))
        self._supervisord = supervisord

    def of(self, name: str) -> Past | None:
        """Return what is remembered of a program; None before its first end."""
        return self._pasts.get(name)

    def _note(self, pid: int, status: int) -> None:
        process = self._options.pidhistory.get(pid)
        if process is None:
            return
        past = self._pasts.setdefault(process.config.name, Past())
        past.end = replace(end_of(status, time.time()), asked=bool(process.killing))
        if not process.killing and past.end.code != EXIT_FINISHED:
            past.deaths.append(time.monotonic())

    def _removed(self, event: Any) -> None:
        # Looked at later: a bot that is replaced is back before this is asked again.
        if len(self._pasts) > 100 + 2 * len(self._supervisord.process_groups):
            known = {name for group in self._supervisord.process_groups.values() for name in group.processes}
            self._pasts = {name: past for name, past in self._pasts.items() if name in known}


def end_of(status: int, at: float) -> End:
    """Return what the status of waitpid says. Pure."""
    if not os.WIFSIGNALED(status):
        return End(at, os.WEXITSTATUS(status), None)
    number = os.WTERMSIG(status)
    try:
        return End(at, None, signal.Signals(number).name)
    except ValueError:
        return End(at, None, f"SIG{number}")
