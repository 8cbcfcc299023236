from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from watched import NOW, NOW_AT, PID, heartbeat, observation

from multibot_hooks import alive, memory
from multibot_plugin.health.rules import judge
from multibot_plugin.hookspecs import Exit, Health, Level, Run

MB = 1024**2


def run(age_s: float, pid: int = 1, **changes: Any) -> Run:
    """A run that began ``age_s`` ago and died without a word."""
    return Run(started_at=NOW_AT - age_s, start_mono=NOW - age_s, pid=pid, digest="d", **changes)


def ended(cause: str, text: str = "ended") -> Exit:
    return Exit(NOW_AT, cause, text, code=1)


CRASH = ended("crashed", "RuntimeError: no luck today")


@pytest.mark.parametrize(
    ("runs", "count"),
    [
        ((), 0),
        ((run(5, PID),), 0),  # alive
        ((run(5, PID), run(10), run(20)), 2),
        ((run(10), run(20)), 2),  # no process now: the newest is over too
        ((run(5, PID), run(601), run(700)), 1),  # the second ended when the next began: 601 s ago
        ((run(5, PID), run(10), run(20, exit=ended("stopped")), run(30)), 1),
        ((run(5, PID), run(10), run(20, stopping=True), run(30)), 1),  # a stop that ended in SIGKILL
        ((run(5, PID), run(10), run(20, exit=ended("token-rejected")), run(30)), 1),
        ((run(5, PID), run(10, exit=CRASH), run(20, exit=ended("finished"))), 2),
        ((run(-500), run(20)), 1),  # an impossible time: from before a reboot
        ((run(-0.5, PID), run(0.2), run(0.6)), 2),  # a run began since this look began
    ],
)
def test_deaths_of_the_window_are_counted(runs: tuple[Run, ...], count: int) -> None:
    assert alive.deaths_in_window(observation(runs=runs), 600.0)[0] == count


def test_three_deaths_in_the_window_are_a_warning_that_names_the_last() -> None:
    runs = (run(5, PID), run(10, exit=CRASH), run(20), run(30))
    (found,) = alive.multibot_check(observation(runs=runs))
    assert (found.check, found.level, found.restart) == ("deaths", Level.WARNING, False)
    assert found.text == "died 3 times within 10 min, last: RuntimeError: no luck today"
    assert alive.multibot_check(observation(runs=runs[:-1])) == []
    assert alive.multibot_check(observation({"deaths_limit": 0}, runs=runs)) == []


@pytest.mark.parametrize("runs", [(), (run(5, PID),)])
def test_of_a_bot_that_spoils_its_record_supervisords_count_is_told(runs: tuple[Run, ...]) -> None:
    seen = observation(runs=runs, deaths={"10m": 4})
    (found,) = alive.multibot_check(seen)
    assert found.text == "died 4 times within 10 min, last: it left no record of that"
    assert alive.multibot_check(replace(seen, runs=(run(5, PID), run(10, stopping=True)))) == []


def test_a_change_of_a_bot_begins_the_tally_of_its_deaths_anew() -> None:
    before = [replace(run(age, exit=CRASH), digest="other") for age in (20, 30, 40)]
    told = observation(runs=(run(5, PID), *before), open=frozenset({"deaths"}), uptime_s=5.0)
    (found,) = alive.multibot_check(told)
    assert found.text == "kept dying before it was stopped or changed; over once it has run for a minute"
    assert alive.multibot_check(replace(told, uptime_s=61.0)) == []


def test_a_bot_that_sends_itself_the_signal_of_a_stop_keeps_dying_all_the_same() -> None:
    stop = run(10, stopping=True, exit=ended("stopped", "stopped, ended by SIGTERM"))
    seen = observation(runs=(run(5, PID), stop), deaths={"10m": 28})
    (found,) = alive.multibot_check(seen)
    assert found.text == "died 28 times within 10 min, last: stopped, ended by SIGTERM, which nobody asked for"
    assert alive.multibot_check(replace(seen, deaths={})) == []  # somebody had asked


def test_once_told_it_is_over_when_no_death_is_left_in_the_window() -> None:
    told = observation(runs=(run(5, PID), run(10)), open=frozenset({"deaths"}))
    (found,) = alive.multibot_check(told)
    over = f"{datetime.fromtimestamp(NOW_AT - 5 + 600):%H:%M}"
    last = "killed (SIGKILL or crash of the interpreter)"
    assert found.text == f"died once within 10 min, last: {last}; over at {over} if it lives"
    assert alive.multibot_check(replace(told, runs=(run(601, PID), run(700)))) == []


def test_a_bot_that_was_stopped_while_it_kept_dying_has_to_stay_up_before_it_is_over() -> None:
    stop = run(9, exit=ended("stopped"))
    told = observation(runs=(run(5, PID), stop, run(20), run(30)), open=frozenset({"deaths"}), uptime_s=5.0)
    (found,) = alive.multibot_check(told)
    assert found.text == "kept dying before it was stopped or changed; over once it has run for a minute"
    assert alive.multibot_check(replace(told, uptime_s=61.0)) == []


@pytest.mark.parametrize(
    ("exit", "text", "health"),
    [
        (
            ended("token-rejected", "token rejected by Telegram (401)"),
            "token rejected by Telegram (401)",
            Health.UNAUTHORISED,
        ),
        (ended("misconfigured", "cannot read /x"), "cannot read /x", Health.DEGRADED),
        (None, "it cannot be started; its log says why", Health.DEGRADED),
    ],
)
def test_a_quarantined_bot_is_critical_and_says_why(exit: Exit | None, text: str, health: Health) -> None:
    seen = observation(state="quarantined", pid=None, heartbeat=None, runs=(run(10, exit=exit),))
    (found,) = alive.multibot_check(seen)
    assert (found.text, found.health, found.level) == (f"quarantined: {text}", health, Level.CRITICAL)
    assert not found.restart
    assert alive.multibot_check(replace(seen, runs=()))[0].text.endswith("its log says why")


def test_a_bot_that_waits_in_quarantine_says_until_when_and_one_that_has_finished_says_nothing() -> None:
    why = "died 10 times in a row, last: ValueError: no"
    waiting = heartbeat(phase="quarantined", start_mono=NOW - 60, until_mono=NOW + 3540, status=why)
    seen = observation(state="quarantined", heartbeat=waiting, runs=(run(60, PID), run(70, exit=CRASH)))
    (found,) = alive.multibot_check(seen)
    assert found.text == f"quarantined until {datetime.fromtimestamp(NOW_AT + 3540):%H:%M}: {why}"
    assert (found.level, found.since_mono) == (Level.CRITICAL, NOW - 60)
    assert judge(seen, [found])[1] == found.text.removeprefix("quarantined ")
    later = replace(seen, heartbeat=replace(waiting, until_mono=NOW + 2 * 86400))
    assert f"until {datetime.fromtimestamp(NOW_AT + 2 * 86400):%b %d %H:%M}:" in alive.multibot_check(later)[0].text
    done = observation(state="finished", pid=None, heartbeat=None, runs=(run(10),), open=frozenset({"deaths"}))
    assert alive.multibot_check(done) == []


@pytest.mark.parametrize(
    ("changes", "over"),
    [
        ({"state": "starting"}, False),
        ({"heartbeat": None, "blind": True}, False),
        ({"heartbeat": heartbeat(start_mono=NOW - 5, poll_success_mono=None)}, False),
        ({"heartbeat": heartbeat(start_mono=NOW - 5)}, True),
        ({"heartbeat": heartbeat(start_mono=NOW - 16, poll_success_mono=None)}, True),
    ],
)
def test_a_quarantine_is_over_when_the_bot_polled_or_lived_for_a_while(changes: dict[str, Any], over: bool) -> None:
    seen = observation(open=frozenset({"quarantined"}), **changes)
    assert [f.check for f in alive.multibot_check(seen)] == ([] if over else ["quarantined"])


def test_a_try_of_a_quarantined_bot_tells_nothing_until_it_has_worked_for_long_enough() -> None:
    deaths = tuple(run(40 + n, exit=CRASH) for n in range(3))
    told, short = frozenset({"quarantined"}), {"backoff_reset_s": 100.0}

    def checks(lived_s: float, *earlier: Run, open: frozenset[str] = told) -> list[str]:
        now = run(lived_s + 4, PID, waited_s=4.0)
        beat = heartbeat(start_mono=now.start_mono + now.waited_s)  # the runner moves it when the bot's code begins
        return [f.check for f in alive.multibot_check(
            observation(short, runs=(now, *earlier), heartbeat=beat, open=open)
        )]  # fmt: skip

    assert checks(20, *deaths, open=frozenset()) == ["deaths"]
    assert checks(20, *deaths) == checks(99, *deaths) == ["quarantined"]
    assert checks(101, *(run(700 + n, exit=CRASH) for n in range(3))) == []
    assert checks(1, run(30, stopping=True), *deaths) == []  # a person's start
    between = observation(short, state="backing-off", pid=None, heartbeat=None, runs=deaths, open=told)
    assert [f.check for f in alive.multibot_check(between)] == ["quarantined"]


def test_a_process_that_waits_for_another_of_the_same_bot_is_told_when_it_lasts() -> None:
    (found,) = alive.multibot_check(observation(state="starting", heartbeat=heartbeat(phase="locked-out")))
    assert (found.check, found.level, found.for_s) == ("locked-out", Level.WARNING, 60.0)
    assert alive.multibot_check(observation(state="starting", heartbeat=heartbeat(phase="backing-off"))) == []


def test_a_process_without_a_heartbeat_is_told_when_it_lasts_but_not_while_none_can_be_written() -> None:
    silent = observation(heartbeat=None)
    (found,) = alive.multibot_check(silent)
    assert (found.check, found.level, found.health, found.restart) == ("silent", Level.WARNING, Health.DEGRADED, False)
    assert found.for_s == 30.0
    assert (
        judge(silent, [found])[1] == "silent: no heartbeat, so nothing is seen of it; its log says what is in the way"
    )
    full = replace(silent, blind=True)
    assert alive.multibot_check(full) == []
    assert [f.check for f in alive.multibot_check(replace(full, open=frozenset({"silent"})))] == ["silent"]
    for changes in ({"state": "starting"}, {"pid": None}, {"heartbeat": heartbeat()}):
        assert alive.multibot_check(replace(silent, **changes)) == []  # type: ignore[arg-type]


def used(megabytes: float | None, told: bool = False) -> list[tuple[Level, bool]]:
    seen = observation(
        {"memory_limit": 100 * MB}, memory_bytes=None if megabytes is None else int(megabytes * MB),
        open=frozenset({"memory"} if told else ()),
    )  # fmt: skip
    return [(f.level, f.restart) for f in memory.multibot_check(seen)]


WARNING, CRITICAL = [(Level.WARNING, False)], [(Level.CRITICAL, True)]


@pytest.mark.parametrize(
    ("megabytes", "fresh", "told"),
    [
        (69, [], []),
        (70, [], WARNING),
        (79, [], WARNING),
        (80, WARNING, WARNING),
        (99, WARNING, WARNING),
        (100, CRITICAL, CRITICAL),
        (300, CRITICAL, CRITICAL),
        (None, [], WARNING),
    ],
)
def test_memory_warns_below_its_limit_restarts_above_and_clears_lower(
    megabytes: float | None, fresh: list[Any], told: list[Any]
) -> None:
    assert used(megabytes) == fresh
    assert used(megabytes, told=True) == told


@pytest.mark.parametrize(
    ("changes", "held"),
    [({"state": "starting"}, True), ({"state": "stopped"}, True), ({"state": "backing-off"}, True),
     ({"state": "quarantined"}, False), ({"state": "stopped", "enabled": False}, False)],
)  # fmt: skip
def test_memory_that_is_not_known_is_held_only_where_a_process_is_expected(changes: dict[str, Any], held: bool) -> None:
    gone = {"pid": None, "heartbeat": None, "memory_bytes": None, "open": frozenset({"memory"})}
    seen = observation({"memory_limit": 100 * MB}, **{**gone, **changes})
    assert [f.check for f in memory.multibot_check(seen)] == (["memory"] if held else [])


def test_a_bot_that_is_wanted_and_stands_still_is_told_about_after_a_while() -> None:
    gone = {"pid": None, "heartbeat": None, "state": "stopped"}
    (found,) = alive.multibot_check(observation(**gone))
    assert (found.check, found.level, found.for_s, found.restart) == ("standing", Level.WARNING, 30.0, False)
    assert found.text == "is wanted, but does not run: start it"
    assert alive.multibot_check(observation(**gone, enabled=False)) == []
    assert alive.multibot_check(observation(**gone | {"state": "stopping"})) == []


def test_without_a_limit_memory_is_nobodys_business() -> None:
    assert memory.multibot_check(observation(memory_bytes=10**12, open=frozenset({"memory"}))) == []


def test_memory_says_how_much_of_what_and_for_how_long_it_must_last() -> None:
    limit = {"memory_limit": 150 * MB, "memory_for_s": 7.0}
    (found,) = memory.multibot_check(observation(limit, memory_bytes=200 * MB))
    assert (found.text, found.for_s, found.health) == (
        "over its memory limit: 200 MB of 150 MB",
        7.0,
        Health.OVER_LIMIT,
    )
    (found,) = memory.multibot_check(observation({"memory_limit": 5 * MB}, memory_bytes=int(4.5 * MB)))
    assert found.text == "near its memory limit: 4.5 MB of 5.0 MB"


def test_a_clear_level_above_the_warning_level_does_not_hide_the_warning() -> None:
    odd = {"memory_limit": 100 * MB, "memory_clear_percent": 95}
    seen = observation(odd, memory_bytes=85 * MB, open=frozenset({"memory"}))
    assert [f.level for f in memory.multibot_check(seen)] == [Level.WARNING]


def test_a_size_below_a_megabyte_is_shown_in_kilobytes() -> None:
    (found,) = memory.multibot_check(observation({"memory_limit": 102_400}, memory_bytes=40 * MB))
    assert found.text == "over its memory limit: 40 MB of 100 KB"
