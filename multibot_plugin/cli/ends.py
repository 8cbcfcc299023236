"""The last ends of a bot: its runner's words, completed by who asked for it and by what others saw. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from multibot_plugin.cli.fleet import Row
from multibot_plugin.health.ends import KILLED_STOPPING, TOO_SLOW, Sight, is_wordless, read_sight
from multibot_runner.protocol import EXIT_FINISHED, KILLED, STOPPED, Run

MOST = 20
_LATE_S = 60.0  # a stop past multibot is written down some seconds after it
_MORE_S = 20.0  # beyond a bot's own time to stop
_ASKED = {"bot.stopped": "stopped", "bot.disabled": "stopped", "bot.restarted": "restarted",
          "bot.changed": "restarted for a change", "bot.deleted": "deleted", "stop": "stopped"}  # fmt: skip
_DIED = "supervisord.died"
_SEEN = "bot.killed"
_SIGNAL = re.compile(r"killed by (SIG\w+)")


@dataclass(frozen=True)
class End:
    """An end. ``how``: ``exit 3``, ``SIGKILL``; ``text``: its cause; ``ran_s``: how long it had run (None: not known).

    ``at`` None: not known.
    """

    at: float | None
    started_at: float
    how: str
    text: str
    ran_s: float | None
    died: bool


def ends(runs: Sequence[Run], row: Row, audit: Sequence[Mapping[str, Any]]) -> list[End]:
    """Return the last ends, newest first. ``audit``: the bot's rows of the audit log, newest first.

    A run that was killed left no word: it was over when the next one began, or when supervisord saw its end.
    """
    newer = {id(run): before.started_at for before, run in pairwise(runs)}
    over = [run for run in runs if run.exit is not None or run.pid != row["pid"]][:MOST]
    return [_end(run, newer.get(id(run)), row, list(_told(run, audit)), run is over[0], audit) for run in over]


def _end(
    run: Run, next_at: float | None, row: Row, told: Sequence[Mapping[str, Any]], last: bool,
    audit: Sequence[Mapping[str, Any]],
) -> End:  # fmt: skip
    seen = read_sight(row["end"]) if last else None
    if seen is not None and seen.at < run.started_at:
        seen = None
    stop_at = row["stop_at"] if row["stop_at"] and row["stop_at"] >= run.started_at else None
    asked = _was_asked(run, seen, told)
    witnessed_at = _at(told[0]) if told else None
    at = run.exit.ended_at if run.exit else seen.at if seen else witnessed_at
    if at is None and next_at and asked:  # nobody saw it: it took at most the time that it had
        since = [
            _at(change) for change in audit if change["action"] in _ASKED and run.started_at <= _at(change) < next_at
        ]
        at = min(max(since) + float(row.get("stop_wait_s") or 0.0), next_at) if since else None
    at = at or next_at or (stop_at if last else None)
    how, text = _words(run, seen, told, asked)
    if asked and at is not None and (who := _asker(audit, at, float(row.get("stop_wait_s") or 0.0), run.started_at)):
        text = who + (f" ({text.removeprefix('stopped: ')})" if "SIGKILL" in text or "killed" in text else "")
    ran_s = None if at is None else max(0.0, at - run.started_at - run.waited_s)
    return End(at, run.started_at, how, text, ran_s, run.died)


def _was_asked(run: Run, seen: Sight | None, told: Sequence[Mapping[str, Any]]) -> bool:
    """Whether somebody wanted this end."""
    if run.exit is not None:
        return run.stopping or run.exit.cause == STOPPED
    return run.stopping or (seen is not None and seen.asked) or any(row["detail"].get("asked") for row in told)


def _words(run: Run, seen: Sight | None, told: Sequence[Mapping[str, Any]], asked: bool) -> tuple[str, str]:
    """Return how a run ended, in a word and in a sentence."""
    how = "killed"
    if run.exit is not None:
        code = 0 if run.exit.code == EXIT_FINISHED else run.exit.code  # the bot's own, which ours stands for
        how = f"exit {code}" if code is not None else run.exit.cause
        how = _signal(run.exit.signal) if run.exit.signal else how
    elif seen is not None:
        how = seen.signal or f"exit {seen.code}"
    if run.exit is None and asked:
        words = next((str(row["detail"]["cause"]) for row in told), seen.stopped if seen else KILLED_STOPPING)
        return "killed" if how == TOO_SLOW else how, words
    if run.exit is not None and not is_wordless(run):
        return how, run.exit.text or run.exit.cause
    witnesses = [str(row["detail"].get("cause") or "") for row in told]
    text = next(filter(None, witnesses), seen.words if seen else run.exit.text if run.exit else KILLED)
    named = _SIGNAL.match(text)
    return named[1] if named else how, text


def _told(run: Run, audit: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield what the monitor wrote down of this very run's end."""
    for row in audit:
        if row["action"] == _SEEN and row["detail"].get("pid") == run.pid and row["at"].timestamp() >= run.started_at:
            yield row


def _asker(audit: Sequence[Mapping[str, Any]], at: float, stop_wait_s: float, since: float) -> str:
    """Return who had this run stopped, and why: the last who asked before it ended, else who is found soon after."""
    asked = [row for row in audit if row["action"] in _ASKED and row["at"].timestamp() >= since]
    before = [row for row in asked if at - stop_wait_s - _MORE_S <= row["at"].timestamp() <= at + 1.0]
    after = [row for row in asked if at < row["at"].timestamp() <= at + _LATE_S and row["door"] == "supervisorctl"]
    found = max(before, key=_at, default=None) or min(after, key=_at, default=None)
    if found is None:
        died = any(row["action"] == _DIED and abs(_at(row) - at) < _LATE_S for row in audit)
        return "stopped: supervisord had died" if died else ""
    word = _ASKED[found["action"]]
    cause = found["detail"].get("cause")
    if found["door"] == "monitor" and cause:
        return f"{word} by {found['actor']}: {cause}"
    return f"{word} by {found['actor']} ({found['door'].partition(' (from ')[0]})"


def _at(row: Mapping[str, Any]) -> float:
    return float(row["at"].timestamp())


def _signal(number: int | None) -> str:
    import signal

    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"
