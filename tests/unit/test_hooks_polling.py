from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from watched import NOW, PID, heartbeat, observation

from multibot_hooks import polling
from multibot_plugin.hookspecs import Finding, Health, Level, Observation, WebhookInfo

STARTED = {"start_mono": NOW - 100, "poll_success_mono": None}


@pytest.fixture(autouse=True)
def forget() -> None:
    polling._conflicts.clear()


def check(seen: Observation) -> list[tuple[str, bool]]:
    return [(f.check, f.restart) for f in polling.multibot_check(seen)]


def test_a_bot_that_polls_is_well() -> None:
    assert check(observation()) == []


@pytest.mark.parametrize(
    ("beat", "settings", "deaf"),
    [
        ({"poll_success_mono": NOW - 45}, {}, False),
        ({"poll_success_mono": NOW - 46}, {}, True),
        ({"poll_success_mono": NOW - 60, "poll_timeout_s": 15.0}, {}, False),
        ({"poll_success_mono": NOW - 61, "poll_timeout_s": 15.0}, {}, True),
        ({"poll_success_mono": NOW - 165, "poll_timeout_s": 50.0}, {}, False),
        ({"poll_success_mono": NOW - 166, "poll_timeout_s": 50.0}, {}, True),
        ({"poll_success_mono": NOW - 46, "poll_timeout_s": None}, {}, True),
        ({"poll_success_mono": NOW - 9, "poll_timeout_s": 50.0}, {"deaf_after_s": 8.0}, True),
        ({"poll_success_mono": NOW - 100}, {"deaf_after_s": 200.0}, False),
        # Polls, but none came back since the start: the silence or the grace, whichever is longer.
        ({"start_mono": NOW - 44, "poll_success_mono": None}, {}, False),
        ({"start_mono": NOW - 46, "poll_success_mono": None}, {}, True),
        ({"start_mono": NOW - 59, "poll_success_mono": None}, {"start_grace_s": 60.0}, False),
        ({"start_mono": NOW - 999, "poll_success_mono": None, "until_mono": NOW - 20}, {}, False),
    ],
)
def test_deaf_means_no_successful_poll_for_45_s_or_three_polls_and_15_s(
    beat: dict[str, Any], settings: dict[str, Any], deaf: bool
) -> None:
    assert check(observation(settings, heartbeat=heartbeat(**beat))) == ([("deaf", True)] if deaf else [])


@pytest.mark.parametrize(
    ("launch", "age_s", "found"),
    [("build", 31, [("deaf", True)]), ("build", 29, []), ("script", 999, []), ("command", 999, [])],
)
def test_a_bot_that_never_polled_is_deaf_only_where_it_must_poll(
    launch: str, age_s: float, found: list[tuple[str, bool]]
) -> None:
    silent = heartbeat(start_mono=NOW - age_s, poll_start_mono=None, poll_success_mono=None, polling_seen=False)
    assert check(observation(launch=launch, heartbeat=silent)) == found


def test_the_text_says_for_how_long() -> None:
    (finding,) = polling.multibot_check(observation(heartbeat=heartbeat(poll_success_mono=NOW - 47)))
    assert finding == Finding(
        "greeter", "deaf", Level.CRITICAL, "deaf: no successful getUpdates for 47 s", Health.DEAF, 0.0, True, NOW - 47
    )
    (finding,) = polling.multibot_check(observation(heartbeat=heartbeat(poll_success_mono=NOW - 600)))
    assert finding.text == "deaf: no successful getUpdates for 10 min"


def test_a_bot_that_waits_as_telegram_asked_is_deaf_but_a_restart_would_add_calls() -> None:
    flooded = heartbeat(poll_success_mono=NOW - 60, poll_code=429)
    assert check(observation(heartbeat=flooded)) == [("deaf", False)]


def test_a_poll_that_hangs_after_a_flood_wait_is_a_reason_to_restart() -> None:
    flood = {"poll_code": 429, "poll_failure_mono": NOW - 400, "flood_until_mono": NOW - 395}
    hangs = heartbeat(**flood, poll_success_mono=NOW - 500, poll_start_mono=NOW - 394)
    assert check(observation(heartbeat=hangs)) == [("deaf", True)]
    assert check(observation(heartbeat=replace(hangs, poll_start_mono=NOW - 10))) == [("deaf", False)]


def test_a_bot_whose_polls_telegram_refuses_for_a_while_is_throttled_and_never_restarted_for_it() -> None:
    (found,) = polling.multibot_check(observation(heartbeat=heartbeat(poll_code=429)))
    assert (found.check, found.level, found.health) == ("throttled", Level.WARNING, Health.THROTTLED)
    assert found.text == "throttled: Telegram asks it to poll less often (429)"
    assert (found.restart, found.for_s) == (False, 10.0)
    told = observation(heartbeat=heartbeat(), open=frozenset({"throttled"}))
    assert check(told) == []
    (held,) = polling.multibot_check(replace(told, state="starting", heartbeat=None))
    assert (held.check, held.level, held.health) == ("throttled", Level.WARNING, Health.THROTTLED)


@pytest.mark.parametrize("code", [401, 404])
def test_a_rejected_token_is_told_and_never_cured_by_a_restart(code: int) -> None:
    (finding,) = polling.multibot_check(observation(heartbeat=heartbeat(poll_code=code, poll_success_mono=NOW - 999)))
    assert (finding.check, finding.restart, finding.health) == ("unauthorised", False, Health.UNAUTHORISED)
    assert finding.text == f"unauthorised: Telegram rejects its token ({code})"


@pytest.mark.parametrize("code", [None, 500, 502, 403])
def test_other_answers_are_no_rejection(code: int | None) -> None:
    assert check(observation(heartbeat=heartbeat(poll_code=code))) == []


def conflict(at: float, now: float, told: bool = False, **beat: Any) -> list[tuple[str, bool]]:
    opened = frozenset({"conflicted"} if told else ())
    beat = {"poll_code": 409, "poll_failure_mono": at, "poll_success_mono": now - 1, **beat}
    return check(observation(now=now, heartbeat=heartbeat(**beat), open=opened))


def test_one_conflict_alone_is_what_a_restart_leaves_behind() -> None:
    assert conflict(NOW, NOW) == []
    assert conflict(NOW, NOW + 5) == []  # the same answer, seen again


def test_two_conflicts_within_a_minute_are_another_poller() -> None:
    conflict(NOW, NOW)
    assert conflict(NOW + 50, NOW + 50) == [("conflicted", False)]


def test_two_conflicts_further_apart_are_not() -> None:
    conflict(NOW, NOW)
    assert conflict(NOW + 61, NOW + 61) == []


def test_a_conflict_between_two_successes_is_remembered_and_over_after_half_a_minute_of_quiet() -> None:
    conflict(NOW, NOW)
    conflict(NOW + 5, NOW + 5)
    assert conflict(NOW + 5, NOW + 34, told=True, poll_code=None) == [("conflicted", False)]
    assert conflict(NOW + 5, NOW + 36, told=True, poll_code=None) == []


def test_a_webhook_is_no_second_poller() -> None:
    conflict(NOW, NOW, poll_webhook=True)
    conflict(NOW + 5, NOW + 5, poll_webhook=True)
    beat = heartbeat(poll_code=502, poll_failure_mono=NOW + 6)
    (found,) = polling.multibot_check(observation(now=NOW + 7, heartbeat=beat))
    assert found.text == "conflicted: a webhook is set, so it cannot poll (409): it has to delete the webhook"
    assert (found.health, found.restart) == (Health.CONFLICTED, False)


def test_conflicts_of_bots_that_are_gone_are_forgotten() -> None:
    check(observation(bot="gone", heartbeat=heartbeat(poll_code=409, poll_failure_mono=NOW)))
    conflict(NOW + 61, NOW + 61)
    conflict(NOW + 61, NOW + 122)
    assert polling._conflicts.keys() == {"greeter"}
    check(observation())
    assert check(observation(bot="well")) == []
    assert polling._conflicts.keys() == {"greeter"}


def test_conflicts_of_an_earlier_process_do_not_count() -> None:
    conflict(NOW, NOW)
    assert conflict(NOW + 5, NOW + 5, pid=PID + 1) == []


@pytest.mark.parametrize(("age_s", "frozen"), [(30, False), (31, True)])
def test_a_loop_that_stands_still_is_frozen(age_s: float, frozen: bool) -> None:
    beat = heartbeat(loop_mono=NOW - age_s)
    assert check(observation(launch="build", heartbeat=beat)) == ([("frozen", True)] if frozen else [])


def test_the_first_trouble_in_order_is_told_alone() -> None:
    bad = heartbeat(poll_success_mono=NOW - 999, loop_mono=NOW - 999, poll_code=401)
    assert check(observation(heartbeat=bad)) == [("unauthorised", False)]
    assert check(observation(heartbeat=replace(bad, poll_code=None))) == [("frozen", True)]


def test_what_was_told_and_is_still_there_stays_behind_a_worse_trouble() -> None:
    bad = heartbeat(poll_success_mono=NOW - 999, poll_code=401)
    seen = observation(heartbeat=bad, open=frozenset({"deaf"}))
    assert check(seen) == [("unauthorised", False), ("deaf", False)]


@pytest.mark.parametrize("state", ["starting", "backing-off", "stopped", "quarantined"])
@pytest.mark.parametrize("told", ["deaf", "frozen", "conflicted", "unauthorised"])
def test_a_bot_on_its_way_back_is_not_well_yet(state: str, told: str) -> None:
    seen = observation(state=state, heartbeat=None, open=frozenset({told, "memory"}))
    assert check(seen) == [(told, False)]
    assert check(replace(seen, open=frozenset())) == []


def test_a_bot_that_came_back_is_well_when_it_polled_and_not_before() -> None:
    back = heartbeat(start_mono=NOW - 5, poll_success_mono=None)
    seen = observation(heartbeat=back, open=frozenset({"deaf"}))
    (held,) = polling.multibot_check(seen)
    assert (held.check, held.restart) == ("deaf", False)
    assert held.text == "deaf: no successful getUpdates yet since it came back"
    assert check(replace(seen, heartbeat=heartbeat(start_mono=NOW - 5))) == []


def test_a_bot_that_came_back_and_is_deaf_again_may_be_restarted_again() -> None:
    again = heartbeat(start_mono=NOW - 50, poll_success_mono=None)
    assert check(observation(heartbeat=again, open=frozenset({"deaf"}))) == [("deaf", True)]


def test_a_command_bots_polls_are_invisible() -> None:
    blind = heartbeat(polling_seen=False, poll_start_mono=None, poll_success_mono=None, poll_timeout_s=None)
    assert check(observation(launch="command", heartbeat=blind)) == []
    told = observation(launch="command", heartbeat=blind, open=frozenset({"deaf"}))
    assert check(told) == [("deaf", False)]  # until Telegram was asked
    assert check(replace(told, webhook=WebhookInfo(NOW - 1))) == []
