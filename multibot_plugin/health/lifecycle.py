"""The states of a bot's life and what each event does in each of them: one table, every cell decided. Pure.

What ``bot start``, ``stop``, ``restart`` and ``run`` do and say is looked up here; what happens by itself follows from
supervisord's section and from the runner, and is held against this table by a test. docs/lifecycle.md shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """A lifecycle state; ``quarantined`` is two: a runner that waits to try again, and no process at all."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing-off"
    QUARANTINED = "quarantined"
    GIVEN_UP = "quarantined for good"
    FINISHED = "finished"
    STOPPING = "stopping"


class Event(StrEnum):
    """What people do, and what happens."""

    START = "bot start"
    STOP = "bot stop"
    STOP_NOW = "bot stop --now"
    RESTART = "bot restart"
    CHANGE = "apply of a change"
    RUN = "bot run"
    UP = "its code runs"
    DEATH = "death"
    ONE_TOO_MANY = "one death too many"
    EXIT_FINAL = "exit 78"
    EXIT_FINISHED = "exit 79"
    WAIT_OVER = "the wait is over"
    RETRY_DUE = "the retry is due"
    STOP_DONE = "it has ended"
    KILLED = "kill -9"
    SUPERVISORD_DIED = "supervisord dies"


class Act(StrEnum):
    """What is done. LEAVE: nothing to it; what it may have left behind is ended all the same."""

    LEAVE = "nothing"
    START = "start"
    STOP = "stop"
    KILL = "kill"
    STOP_START = "stop, start"
    REPLACE = "replace"
    RUN = "run"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Cell:
    """What an event does in a state: the state that follows, what is done, and what is said of it."""

    then: State
    act: Act = Act.LEAVE
    words: str = ""


# What people do; the rest happens.
WISHES = (Event.START, Event.STOP, Event.STOP_NOW, Event.RESTART, Event.CHANGE, Event.RUN)
IMPOSSIBLE = None  # an event that cannot come in this state

S = State
_ALIVE = (S.STARTING, S.RUNNING, S.BACKING_OFF, S.QUARANTINED)
_AT_REST = (S.STOPPED, S.GIVEN_UP, S.FINISHED)


def _row(default: Cell | None, **cells: Cell | None) -> Mapping[State, Cell | None]:
    """Return an event's row; ``cells`` by the names of the states that differ from ``default``."""
    return {state: cells.pop(state.name, default) for state in State}


def _stop(act: Act, words: str) -> Mapping[State, Cell | None]:
    return _row(
        Cell(S.STOPPING, act, words),
        STOPPED=Cell(S.STOPPED, Act.LEAVE, "is stopped already"),
        GIVEN_UP=Cell(S.GIVEN_UP, Act.LEAVE, "is stopped already"),
        FINISHED=Cell(S.FINISHED, Act.LEAVE, "had finished; it is not started again until somebody does"),
    )


_STARTED = Cell(S.STARTING, Act.START, "started")
_BEGUN_ANEW = Cell(S.STARTING, Act.STOP_START, "started")  # the tally of deaths, too
_RESTARTED = Cell(S.STARTING, Act.STOP_START, "restarted")
_ELSEWHERE = "runs under supervisord"

TABLE: Mapping[Event, Mapping[State, Cell | None]] = {
    Event.START: _row(
        _STARTED, RUNNING=Cell(S.RUNNING, Act.LEAVE, "is running already"), BACKING_OFF=_BEGUN_ANEW,
        QUARANTINED=_BEGUN_ANEW,
    ),
    Event.STOP: _stop(Act.STOP, "stopped"),
    Event.STOP_NOW: _stop(Act.KILL, "killed"),
    Event.RESTART: _row(_RESTARTED, STOPPED=_STARTED, GIVEN_UP=_STARTED, FINISHED=_STARTED),
    Event.CHANGE: _row(
        Cell(S.STARTING, Act.STOP_START, "restarted"),
        STOPPED=Cell(S.STOPPED, Act.REPLACE, "takes effect at its next start"),
        GIVEN_UP=Cell(S.STARTING, Act.REPLACE, "started"),
        FINISHED=Cell(S.FINISHED, Act.REPLACE, "takes effect at its next start"),
    ),
    Event.RUN: {
        state: Cell(state, Act.RUN) if state in _AT_REST else Cell(state, Act.REFUSE, _ELSEWHERE) for state in State
    },
    Event.UP: _row(IMPOSSIBLE, STARTING=Cell(S.RUNNING)),
    Event.DEATH: _row(
        IMPOSSIBLE, STARTING=Cell(S.BACKING_OFF), RUNNING=Cell(S.BACKING_OFF), STOPPING=Cell(S.STOPPED)
    ),
    Event.ONE_TOO_MANY: _row(
        IMPOSSIBLE, STARTING=Cell(S.QUARANTINED), RUNNING=Cell(S.QUARANTINED), STOPPING=Cell(S.STOPPED)
    ),
    Event.EXIT_FINAL: _row(
        IMPOSSIBLE, STARTING=Cell(S.GIVEN_UP), RUNNING=Cell(S.GIVEN_UP), STOPPING=Cell(S.STOPPED)
    ),
    Event.EXIT_FINISHED: _row(
        IMPOSSIBLE, STARTING=Cell(S.FINISHED), RUNNING=Cell(S.FINISHED), STOPPING=Cell(S.STOPPED)
    ),
    Event.WAIT_OVER: _row(IMPOSSIBLE, BACKING_OFF=Cell(S.RUNNING)),
    Event.RETRY_DUE: _row(IMPOSSIBLE, QUARANTINED=Cell(S.RUNNING)),
    Event.STOP_DONE: _row(IMPOSSIBLE, STOPPING=Cell(S.STOPPED)),
    # A runner that is killed while it waits, for the lock or to start again, waits anew.
    Event.KILLED: _row(
        IMPOSSIBLE, STARTING=Cell(S.STARTING), RUNNING=Cell(S.BACKING_OFF), BACKING_OFF=Cell(S.BACKING_OFF),
        QUARANTINED=Cell(S.QUARANTINED), STOPPING=Cell(S.STOPPED),
    ),
    # The kernel tells its processes to end; what is enabled starts with the next supervisord.
    Event.SUPERVISORD_DIED: _row(Cell(S.STOPPED)),
}  # fmt: skip


def state_of(row: Mapping[str, Any]) -> State:
    """Return the state in a row of getBots."""
    if row["state"] == S.QUARANTINED and not row["pid"]:
        return S.GIVEN_UP
    return State(row["state"])


def decide(state: State, event: Event) -> Cell:
    """Return what a person's ``event`` does in ``state``; each of ``WISHES`` is possible in each."""
    cell = TABLE[event][state]
    assert cell is not None, (state, event)
    return cell
