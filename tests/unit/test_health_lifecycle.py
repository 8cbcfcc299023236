"""The table of states and events: whole, and in agreement with what supervisord and the runner make of a bot."""

from __future__ import annotations

from typing import Any

import pytest

from multibot_plugin.health.lifecycle import TABLE, WISHES, Act, Event, State, decide, state_of
from multibot_runner.protocol import BACKING_OFF, EXIT_FINAL, EXIT_FINISHED, LOCKED_OUT, QUARANTINED, RUNNING, lifecycle

CELLS = [(event, state) for event in Event for state in State]


@pytest.mark.parametrize(("event", "state"), CELLS)
def test_every_cell_is_decided_and_what_is_done_fits_the_state_that_follows(event: Event, state: State) -> None:
    cell = TABLE[event][state]
    if cell is None:
        assert event not in WISHES
        return
    alive = state not in (State.STOPPED, State.GIVEN_UP, State.FINISHED)
    follows: dict[Act, set[State]] = {
        Act.START: {State.STARTING}, Act.STOP_START: {State.STARTING}, Act.STOP: {State.STOPPING},
        Act.KILL: {State.STOPPING}, Act.RUN: {state}, Act.REFUSE: {state}, Act.REPLACE: {State.STARTING, state},
        Act.LEAVE: {state} if event in WISHES else set(State),
    }  # fmt: skip
    assert cell.then in follows[cell.act]
    assert bool(cell.words) is (event in WISHES and cell.act != Act.RUN)
    assert alive or cell.act not in (Act.STOP, Act.KILL, Act.STOP_START, Act.REFUSE)  # there is nothing to be stopped
    if event in WISHES:
        assert decide(state, event) is cell


def test_the_table_has_every_event_and_every_state_and_nothing_else() -> None:
    assert set(TABLE) == set(Event)
    assert all(list(row) == list(State) for row in TABLE.values())


def test_every_state_can_be_reached_and_left() -> None:
    steps = {(state, cell.then) for row in TABLE.values() for state, cell in row.items() if cell is not None}
    for state in State:
        assert any(then == state and begin != state for begin, then in steps), state
        assert any(begin == state and then != state for begin, then in steps), state


@pytest.mark.parametrize(
    ("statename", "code", "phase", "pid", "state"),
    [
        ("STOPPED", 0, None, None, State.STOPPED), ("STARTING", 0, None, 7, State.STARTING),
        ("RUNNING", 0, RUNNING, 7, State.RUNNING), ("RUNNING", 0, None, 7, State.RUNNING),
        ("RUNNING", 0, LOCKED_OUT, 7, State.STARTING), ("RUNNING", 0, BACKING_OFF, 7, State.BACKING_OFF),
        ("RUNNING", 0, QUARANTINED, 7, State.QUARANTINED), ("EXITED", EXIT_FINAL, None, None, State.GIVEN_UP),
        ("EXITED", EXIT_FINISHED, None, None, State.FINISHED), ("EXITED", 3, None, None, State.BACKING_OFF),
        ("BACKOFF", 0, None, None, State.BACKING_OFF), ("FATAL", 0, None, None, State.GIVEN_UP),
        ("STOPPING", 0, None, 7, State.STOPPING),
    ],
)  # fmt: skip
def test_what_supervisord_and_the_runner_say_is_a_state_of_the_table(
    statename: str, code: int, phase: str | None, pid: int | None, state: State
) -> None:
    row: dict[str, Any] = {"state": lifecycle(statename, code, phase), "pid": pid}
    assert state_of(row) == state
