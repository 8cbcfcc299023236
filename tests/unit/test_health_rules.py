from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from supervisor.states import ProcessStates
from watched import NOW, NOW_AT, PID, Clock, FakeSupervisor, finding, heartbeat, observation, process

from multibot_plugin.health.rules import (
    Contrary,
    Fleet,
    Row,
    contradiction,
    ending_of,
    in_motion,
    is_coming_up,
    is_deserted,
    is_wish,
    judge,
    read_fleet,
    restarts_24h,
    watch,
)
from multibot_plugin.health.states import Finding, Health
from multibot_runner.protocol import KILLED, Exit, Run


def row(**changes: Any) -> Row:
    usual = {"id": "greeter", "statename": "RUNNING", "pid": PID, "uptime_s": 10.0, "enabled": True,
             "start_at": NOW_AT - 10, "stop_at": 0.0, "exit_code": 0}  # fmt: skip
    return Row(**{**usual, **changes})


def test_the_answer_of_supervisords_plugin_is_understood() -> None:
    supervisor = FakeSupervisor(Clock(), {
        "echo": process(),
        "shop": process(ProcessStates.EXITED, pid=0, exitstatus=78, laststop=NOW_AT - 5, autostart=False),
        "new": process(ProcessStates.STOPPED, pid=0, laststart=0),
    })  # fmt: skip
    fleet = read_fleet(supervisor.bots())
    assert fleet.running
    echo, shop, new = fleet.rows
    assert echo == row(id="echo", uptime_s=1000.0, start_at=NOW_AT - 1000, stop_wait_s=12.0, digest="0123",
                       deaths={"10m": 0, "1h": 0, "24h": 0})  # fmt: skip
    assert (shop.statename, shop.pid, shop.uptime_s, shop.enabled, shop.exit_code) == ("EXITED", None, None, False, 78)
    assert (new.start_at, new.stop_at) == (0, 0)


@pytest.mark.parametrize(
    ("state", "running"), [("RUNNING", True), (1, True), ("SHUTDOWN", False), ("RESTARTING", False)]
)
def test_whether_supervisord_is_on_its_way_down(state: Any, running: bool) -> None:
    assert read_fleet({"supervisord": {"pid": 1, "state": state}, "bots": []}).running is running


@pytest.mark.parametrize(
    "answer", [{}, {"supervisord": 1, "bots": []}, {"supervisord": {"state": 1, "pid": 1}, "bots": [3]}]
)
def test_an_answer_that_is_none_is_a_clear_error(answer: Any) -> None:
    with pytest.raises(ValueError, match="not an answer of getBots"):
        read_fleet(answer)


def test_a_row_with_an_impossible_id_is_left_out() -> None:
    assert read_fleet({"supervisord": {"pid": 1, "state": 1}, "bots": [{"id": "../x"}, {}]}).rows == ()


@pytest.mark.parametrize(
    ("changes", "wish"),
    [
        ({}, None),
        ({"statename": "STARTING"}, None),
        ({"statename": "STOPPED"}, False),
        ({"statename": "STOPPED", "start_at": 0.0}, None),  # never started: 'add' does that next
        ({"statename": "STOPPED", "enabled": False}, None),
        ({"enabled": False}, True),
        ({"statename": "STARTING", "enabled": False}, True),
        ({"statename": "STOPPING", "enabled": False}, None),
        ({"statename": "STOPPING"}, None),
        ({"statename": "EXITED"}, None),
        ({"statename": "FATAL"}, None),
        ({"statename": "BACKOFF"}, None),
        ({"statename": "EXITED", "enabled": False}, None),
    ],
)
def test_what_a_bots_state_says_about_its_operators_wish(changes: dict[str, Any], wish: bool | None) -> None:
    assert contradiction(row(**changes)) is wish


RUNS, STOPPED = row(), row(statename="STOPPED")
WANTED_NOT = {"enabled": False}


@pytest.mark.parametrize(
    ("before", "after", "wait_s"),
    [
        (RUNS, STOPPED, 3.0),  # supervisorctl stop
        (replace(STOPPED, **WANTED_NOT), replace(RUNS, **WANTED_NOT), 3.0),  # supervisorctl start
        (RUNS, replace(RUNS, **WANTED_NOT), None),  # 'bot stop': the wish first, the act then
        (replace(STOPPED, **WANTED_NOT), STOPPED, None),  # 'bot start'
        (RUNS, replace(RUNS, **WANTED_NOT, start_at=NOW_AT), 3.0),  # 'bot stop', and supervisorctl start right after it
        (
            replace(STOPPED, **WANTED_NOT),
            replace(STOPPED, start_at=NOW_AT),
            3.0,
        ),  # 'bot start', then supervisorctl stop
        (None, STOPPED, 15.0),  # the monitor did not see it happen
        (None, replace(RUNS, **WANTED_NOT), 15.0),
    ],
)
def test_who_changed_the_state_went_past_us_and_who_changed_autostart_did_not(
    before: Row | None, after: Row, wait_s: float | None
) -> None:
    held = watch(None, before, after, NOW)
    assert held == Contrary(after.statename != "STOPPED", NOW, wait_s)
    assert watch(held, after, after, NOW + 99) is held
    assert is_wish(held, NOW + 99) is (wait_s is not None)
    assert not is_wish(held, NOW + 2.9)
    assert wait_s is None or is_wish(held, NOW + wait_s)


@pytest.mark.parametrize(
    ("after", "stopping", "moving"),
    [
        (STOPPED, False, False),
        (STOPPED, True, True),  # 'supervisorctl restart A B': B is slow
        (replace(RUNS, start_at=NOW_AT), False, True),  # its second half: one is back, the next ones follow
        (replace(RUNS, statename="STARTING", start_at=NOW_AT), False, True),
    ],
)
def test_while_programs_are_stopped_and_started_no_wish_counts(after: Row, stopping: bool, moving: bool) -> None:
    assert in_motion({"greeter": STOPPED}, Fleet(True, 1, (after,), stopping)) is moving
    held = watch(None, RUNS, STOPPED, NOW)
    assert held is not None
    again = watch(held, STOPPED, STOPPED, NOW + 9, moving)
    assert again is not None
    assert is_wish(again, NOW + 9) is not moving
    assert is_wish(again, NOW + 12)


def test_a_bot_that_dies_and_comes_back_is_nobodys_doing() -> None:
    died = replace(RUNS, statename="EXITED")
    assert not in_motion({"greeter": died}, Fleet(True, 1, (replace(RUNS, start_at=NOW_AT),)))
    assert not in_motion({}, Fleet(True, 1, (RUNS,)))


def test_a_contradiction_that_turns_round_begins_anew_and_one_that_is_over_is_forgotten() -> None:
    held = watch(None, RUNS, STOPPED, NOW)
    assert watch(held, STOPPED, RUNS, NOW + 1) is None
    turned = watch(held, STOPPED, replace(RUNS, **WANTED_NOT), NOW + 1)
    assert turned == Contrary(True, NOW + 1, None)


@pytest.mark.parametrize(
    ("changes", "health", "cause"),
    [
        ({}, Health.HEALTHY, ""),
        ({"state": "stopped"}, Health.UNKNOWN, ""),
        ({"heartbeat": None}, Health.UNKNOWN, "no heartbeat yet"),
        ({"launch": "command", "heartbeat": heartbeat(polling_seen=False)}, Health.HEALTHY, "polling is not visible"),
        ({"heartbeat": heartbeat(poll_success_mono=None)}, Health.HEALTHY, "first poll open"),
        (
            {"heartbeat": heartbeat(poll_success_mono=None, poll_start_mono=NOW - 15.1)},
            Health.UNKNOWN,
            "no successful getUpdates yet",
        ),
        (
            {"heartbeat": heartbeat(poll_success_mono=None, poll_failure_mono=NOW - 2)},
            Health.UNKNOWN,
            "no successful getUpdates yet",
        ),
        (
            {"launch": "build", "heartbeat": heartbeat(poll_success_mono=None, poll_start_mono=None)},
            Health.UNKNOWN,
            "no successful getUpdates yet",
        ),
        ({"heartbeat": heartbeat(poll_success_mono=None, poll_start_mono=None)}, Health.HEALTHY, "no getUpdates seen"),
    ],
)
def test_health_without_findings_says_what_can_be_seen(changes: dict[str, Any], health: Health, cause: str) -> None:
    assert judge(observation(**changes), []) == (health, cause)


def test_health_is_the_worst_of_what_is_found_and_its_text_the_cause() -> None:
    found = [finding("memory", health=Health.OVER_LIMIT), finding("conflicted", health=Health.CONFLICTED), finding()]
    assert judge(observation(), found) == (Health.CONFLICTED, "no luck")


@pytest.mark.parametrize(
    ("state", "found", "cause"),
    [
        ("running", finding("deaf", text="deaf: no successful getUpdates for 47 s", health=Health.DEAF),
         "no successful getUpdates for 47 s"),
        ("quarantined", finding("quarantined", text="quarantined: no module named 'x'"), "no module named 'x'"),
        ("running", finding("memory", text="near its memory limit: 9 MB of 10 MB"),
         "near its memory limit: 9 MB of 10 MB"),
    ],
)  # fmt: skip
def test_a_cause_does_not_say_again_what_stands_beside_it(state: str, found: Finding, cause: str) -> None:
    assert judge(observation(state=state), [found])[1] == cause


def test_a_bot_that_does_not_stay_up_has_its_last_words_as_cause() -> None:
    crashed = run(20, exit=Exit(NOW_AT, "crashed", "ValueError: no", code=1))
    waits = observation(state="backing-off", runs=(run(1, pid=PID), crashed))
    assert judge(waits, []) == (Health.UNKNOWN, "ValueError: no")
    assert judge(replace(waits, runs=(run(20),)), [])[1] == KILLED
    assert judge(replace(waits, runs=(run(20, stopping=True),)), [])[1] == ""
    assert judge(replace(waits, runs=()), [])[1] == ""


def test_why_a_bot_does_not_run_comes_before_what_was_told_of_it_while_it_ran() -> None:
    held = [
        finding("deaf", text="deaf: no sign of life yet since it came back"),
        finding("quarantined", text="was quarantined; started again, it has not polled yet", health=Health.DEGRADED),
    ]
    waits = observation(state="backing-off", runs=(run(1, pid=PID), run(20, exit=Exit(NOW_AT, "crashed", "no file"))))
    assert judge(waits, held) == (Health.DEAF, "no file")
    dying = finding("deaths", text="died 5 times within 10 min, last: no file", health=Health.DEGRADED)
    assert judge(waits, [*held, dying])[1] == dying.text
    retried = finding("quarantined", text="quarantined until 16:33: died 10 times in a row", health=Health.DEGRADED)
    assert judge(replace(waits, state="quarantined"), [held[0], retried])[1] == "until 16:33: died 10 times in a row"
    assert judge(replace(waits, state="running"), [*held, dying])[1] == "no sign of life yet since it came back"


def test_a_bot_that_backs_off_says_until_when() -> None:
    until = datetime.fromtimestamp(NOW_AT + 17).strftime("%H:%M:%S")
    beat = heartbeat(phase="backing-off", until_mono=NOW + 17)
    waits = observation(state="backing-off", heartbeat=beat, runs=(run(1, pid=PID), run(20)))
    assert judge(waits, [])[1] == f"until {until}: {KILLED}"
    assert judge(replace(waits, runs=()), [finding()])[1] == f"until {until}"
    assert judge(replace(waits, state="running"), [])[1] == ""


def test_a_bot_that_comes_up_is_looked_at_again_soon() -> None:
    young = observation(uptime_s=2.0, heartbeat=heartbeat(poll_success_mono=None, poll_start_mono=None))
    assert is_coming_up(young)
    assert is_coming_up(replace(young, heartbeat=None))
    assert not is_coming_up(replace(young, heartbeat=heartbeat()))
    assert not is_coming_up(replace(young, uptime_s=11.0))
    assert not is_coming_up(replace(young, launch="command"))


def run(age_s: float, **changes: Any) -> Run:
    values = {"started_at": NOW_AT - age_s, "start_mono": NOW - age_s, "pid": 1, "digest": "d"}
    return Run(**{**values, **changes})


def test_restarts_of_a_day_are_those_after_deaths_and_the_monitors_own() -> None:
    stopped = Exit(NOW_AT, "stopped", "stopped by its operator", code=0)
    runs = (run(10), run(100), run(1000, exit=stopped), run(2000), run(90_000), run(90_001))
    # 10 came after the death of 100; 100 after a stop; 1000 after the death of 2000; 2000 after that of 90000.
    assert restarts_24h(runs, [NOW_AT - 5, NOW_AT - 90_000], NOW_AT) == 4
    assert restarts_24h((), [], NOW_AT) == 0
    assert restarts_24h(runs[:1], [NOW_AT - 5], NOW_AT, 7) == 8  # its record was spoilt: supervisord counted
    assert restarts_24h(runs, [], NOW_AT, 7) == 3
    assert restarts_24h(runs[1:], [], NOW_AT, 7) == 7  # the last stop was asked for by nobody


def test_deaths_that_supervisord_counted_are_none_once_it_was_told_to_end_the_bot() -> None:
    def deaths(asked: bool) -> Any:
        end = {"at": NOW_AT, "code": None, "signal": "SIGKILL", "asked": asked}
        item = {"id": "greeter", "end": end, "deaths": {"10m": 4}}
        return read_fleet({"supervisord": {"pid": 1, "state": 1}, "bots": [item]}).rows[0].deaths

    assert (deaths(False), deaths(True)) == ({"10m": 4}, {})


@pytest.mark.parametrize(
    ("state", "enabled", "deserted", "ending"),
    [
        ("running", True, False, ""),
        ("running", False, False, ""),
        ("starting", False, False, ""),
        ("stopped", True, False, ""),
        ("stopped", False, True, "was stopped"),
        ("quarantined", False, True, "was stopped"),
        ("quarantined", True, False, "is quarantined now"),
        ("stopping", False, True, "was stopped"),
        ("backing-off", False, True, "was stopped"),
        ("backing-off", True, False, ""),
    ],
)
def test_whether_anybody_wants_the_bot_to_run(state: str, enabled: bool, deserted: bool, ending: str) -> None:
    seen = observation(state=state, enabled=enabled)
    assert (is_deserted(seen), ending_of(seen)) == (deserted, ending)
