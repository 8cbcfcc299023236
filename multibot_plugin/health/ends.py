"""How a process ended that left no word, from what others saw of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from multibot_runner.protocol import CRASHED, KILLED, STOPPED, Exit, Run

TOO_SLOW = "SIGALRM"  # the runner's own timer for a stop (runner/stop.py), which no bot can ignore
KILLED_STOPPING = "killed while it was stopping"
_CRASHES = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT"}  # of the interpreter, or of C code in it


@dataclass(frozen=True)
class Sight:
    """An end as supervisord saw it: when (wall time), with what code or by which signal (its name; "" with a code).

    ``asked``: supervisord had told it to end.
    """

    at: float
    code: int | None
    signal: str
    asked: bool = False

    @property
    def words(self) -> str:
        """What is to be said of it where the bot was not asked to end."""
        if not self.signal:
            return f"ended without a word, exit code {self.code}"
        if self.signal == "SIGKILL":
            return "killed by SIGKILL from outside, not by multibot"
        return f"killed by {self.signal}{' (a crash in C code)' if self.signal in _CRASHES else ''}"

    @property
    def stopped(self) -> str:
        """What is to be said of it where the bot was asked to end, and left no word."""
        if self.signal == TOO_SLOW:
            return "killed: it had not ended within its stop_wait_s"
        return KILLED_STOPPING if self.signal else f"ended with exit code {self.code} while stopping"


def read_sight(item: Any) -> Sight | None:
    """Return the end in a row of getBots (``end``); None: there is none. Raises KeyError, TypeError, ValueError."""
    return Sight(float(item["at"]), item["code"], item["signal"] or "", bool(item.get("asked"))) if item else None


def is_wordless(run: Run) -> bool:
    """Whether a run, known to be over, died and nobody of its own process said how."""
    return run.died if run.exit is None else run.exit.text.startswith(KILLED)


def witnessed(runs: tuple[Run, ...], pid: int | None, sight: Sight | None, memory: str) -> tuple[Run, Exit] | None:
    """Return the newest run that is over and how it ended, where it left no word and supervisord saw it.

    ``pid``: of the living process. ``memory``: what the kernel's counters say of a SIGKILL of this moment.
    """
    run = next((run for run in runs if run.pid != pid), None)
    if run is None or sight is None or sight.at < run.started_at:
        return None
    if sight.asked:
        return None if run.exit else (run, Exit(sight.at, STOPPED, sight.stopped, code=sight.code))
    if not is_wordless(run):
        return None
    words = f"killed by SIGKILL ({memory})" if sight.signal == "SIGKILL" and memory else sight.words
    return run, Exit(sight.at, CRASHED, words, code=None if sight.signal else sight.code)


def completed(runs: tuple[Run, ...], known: Mapping[tuple[int, float], Exit]) -> tuple[Run, ...]:
    """Return the runs with the ends that are known by pid and start, where they left no word themselves."""
    return tuple(
        replace(run, exit=known[run.pid, run.started_at])
        if (run.pid, run.started_at) in known and is_wordless(run) and not run.stopping else run
        for run in runs
    )  # fmt: skip
