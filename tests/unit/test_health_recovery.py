from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from watched import NOW, NOW_AT, PID, finding, heartbeat, observation

from multibot_plugin.health.incidents import Track
from multibot_plugin.health.recovery import Decision, Outage, decide, hold_back, is_for_deafness, unanswered
from multibot_plugin.health.states import Level


def track(**changes: Any) -> Track:
    """An open incident of a finding that a restart may help."""
    usual = Track("polling", finding(restart=True), PID, NOW - 99, NOW_AT - 99, NOW - 99, NOW - 99, Level.CRITICAL)
    return replace(usual, **changes)


def test_a_restart_is_decided_and_names_cause_and_budget() -> None:
    decision = decide(observation(), [track()], [], busy=False)
    assert decision == Decision("greeter", True, track(), "Restarting it (1 of 3 this hour).")


def test_only_restarts_of_this_hour_count() -> None:
    decision = decide(observation(), [track()], [NOW - 5000, NOW - 3599, NOW - 100], busy=False)
    assert decision.said == "Restarting it (3 of 3 this hour)."


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (0, "Not restarting it: its restart budget is 0."),
        (1, "Not restarting it: the budget of 1 restart per hour is used up."),
        (2, "Not restarting it: the budget of 2 restarts per hour is used up."),
    ],
)
def test_a_used_budget_leaves_the_alert(budget: int, said: str) -> None:
    seen = observation({"restart_budget": budget})
    decision = decide(seen, [track()], [NOW - 100, NOW - 200], busy=False)
    assert (decision.restart, decision.said, decision.track) == (False, said, track())


def test_a_quarantined_bot_is_said_to_stay_down() -> None:
    final = track(finding=finding("quarantined"))
    decision = decide(observation(state="quarantined", pid=None), [track(), final], [], busy=False)
    assert decision == Decision("greeter", False, final, "It does not start again by itself.")
    waiting = decide(observation(state="quarantined"), [track(), final], [], busy=False)
    assert waiting.said == "It is tried again then."
    assert decide(observation(state="quarantined", enabled=False), [final], [], busy=False) == Decision(
        "greeter", False
    )


@pytest.mark.parametrize("state", ["stopped", "starting", "backing-off", "quarantined", "stopping"])
def test_a_bot_that_does_not_run_is_left_alone(state: str) -> None:
    assert decide(observation(state=state), [track()], [], busy=False) == Decision("greeter", False)


@pytest.mark.parametrize(
    ("changes", "busy"),
    [({"enabled": False}, False), ({"pid": None}, False), ({}, True)],
)
def test_a_bot_that_nobody_wants_or_that_is_being_restarted_is_left_alone(changes: dict[str, Any], busy: bool) -> None:
    assert decide(observation(**changes), [track()], [], busy) == Decision("greeter", False)


@pytest.mark.parametrize(
    "incident",
    [
        track(finding=finding()),
        track(level=None),
        track(finding=finding(restart=True, for_s=100)),
        track(finding=finding(restart=True, for_s=10), armed_since=NOW - 5),
        track(critical_since=None),
    ],
)
def test_what_a_restart_cannot_help_or_has_not_lasted_restarts_nothing(incident: Track) -> None:
    assert decide(observation(), [incident], [], busy=False) == Decision("greeter", False)


def test_the_worst_incident_that_a_restart_may_help_is_the_cause() -> None:
    memory = track(finding=finding("memory", restart=True))
    decision = decide(observation(), [track(finding=finding("conflicted")), memory, track()], [], busy=False)
    assert decision.track == memory


def test_a_bot_has_time_to_come_up_after_a_restart() -> None:
    grace = {"start_grace_s": 30.0}
    assert not decide(observation(grace), [track()], [NOW - 29], busy=False).restart
    assert decide(observation(grace), [track()], [NOW - 31], busy=False).restart
    assert not decide(observation({"start_grace_s": 0.0}), [track()], [NOW - 4], busy=False).restart


def test_a_process_that_just_came_up_is_not_restarted_whoever_started_it() -> None:
    young = observation(heartbeat=heartbeat(start_mono=NOW - 4))
    assert not decide(young, [track()], [], busy=False).restart
    assert decide(observation(heartbeat=None), [track()], [], busy=False).restart


def test_a_deaf_bot_is_not_restarted_while_its_server_does_not_answer() -> None:
    restart = decide(observation(), [track()], [], busy=False)
    outage = Outage("https://t.example")
    (held,) = hold_back([restart], {"greeter": outage})
    said = "Not restarting it: https://t.example does not answer from here."
    assert held == Decision("greeter", False, track(), said, quiet=True)
    (held,) = hold_back([restart], {"greeter": outage._replace(answers=True)})
    assert held.said == "Not restarting it yet: https://t.example has begun to answer again."
    assert hold_back([restart], {}) == hold_back([restart], {"dice": outage}) == [restart]
    frozen = replace(restart, track=track(finding=finding("frozen", restart=True)))
    assert hold_back([frozen], {"greeter": outage}) == [frozen]
    asked = [is_for_deafness(d) for d in (restart, held, frozen, Decision("greeter", False))]
    assert asked == [True, True, False, False]


def test_servers_that_do_not_answer_are_told_with_how_many_bots_they_cost() -> None:
    assert unanswered({}) == ""
    one, two, back = Outage("http://one"), Outage("http://two"), Outage("http://back", answers=True)
    assert unanswered({"d": back}) == ""
    assert unanswered({"a": two, "b": one, "c": two, "d": back}) == (
        "Telegram (http://one) does not answer: 1 bot cannot poll; "
        "Telegram (http://two) does not answer: 2 bots cannot poll"
    )
