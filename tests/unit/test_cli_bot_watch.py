"""Whether a start has succeeded: from supervisord's row and the runner's heartbeat."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from multibot_plugin.cli.bot_watch import Verdict, _explained, _is_awaited, at_the_end, judge, last_words
from multibot_plugin.home import find_home
from multibot_runner.protocol import BACKING_OFF, LOCKED_OUT, RUNNING, Exit, Heartbeat, Run, encode

NOW = 1000.0


def row(**changes: Any) -> dict[str, Any]:
    row = {"statename": "RUNNING", "pid": 7, "exit_code": 0, "spawn_error": None, "uptime_s": 10.0}
    return {**row, "enabled": True, "stop_at": None, **changes}


def beat(**changes: Any) -> Heartbeat:
    return Heartbeat(**{"pid": 7, "phase": RUNNING, "start_mono": NOW - 10, **changes})


@pytest.mark.parametrize(
    ("heartbeat", "launch", "text"),
    [
        (beat(poll_success_mono=NOW), "script", "polling"),
        (beat(polling_seen=True, poll_start_mono=NOW - 2), "build", "polling"),
        (beat(), "command", "running"),
        (beat(), "script", "running"),
    ],
)
def test_a_bot_has_started_when_telegram_took_its_poll_or_it_lives_where_polls_cannot_be_seen(
    heartbeat: Heartbeat, launch: str, text: str
) -> None:
    verdict = judge(row(), heartbeat, launch, NOW)
    assert verdict is not None
    assert (verdict.ok, verdict.text) == (True, text)


@pytest.mark.parametrize("launch", ["build", "script", "command"])
def test_a_bot_that_does_not_poll_has_started_when_it_lives_for_a_while(launch: str) -> None:
    assert judge(row(uptime_s=1.0), beat(polling_seen=True), launch, NOW, polls=False) is None
    assert judge(row(), beat(polling_seen=True), launch, NOW, polls=False) == Verdict(True, "running")


@pytest.mark.parametrize(
    ("state", "heartbeat"),
    [
        (row(statename="EXITED", exit_code=78, pid=None), None),
        (row(statename="FATAL", pid=None), None),
        (row(statename="BACKOFF", pid=None, spawn_error="no such file"), None),
        (row(), beat(phase=BACKING_OFF)),
    ],
)
def test_a_start_that_failed_is_told_at_once(state: dict[str, Any], heartbeat: Heartbeat | None) -> None:
    verdict = judge(state, heartbeat, "script", NOW)
    assert verdict is not None
    assert not verdict.ok


@pytest.mark.parametrize(
    ("spawn_error", "told"),
    [("Exited too quickly (process log may have details)", "died at once"), ("no such file", "could not be started")],
)
def test_a_start_that_supervisord_tries_again_is_not_told_as_the_end_of_it(spawn_error: str, told: str) -> None:
    verdict = judge(row(statename="BACKOFF", pid=None, spawn_error=spawn_error), None, "script", NOW)
    assert verdict == Verdict(False, f"{told}, and is tried again")


@pytest.mark.parametrize(
    ("state", "heartbeat", "launch"),
    [
        (row(statename="STARTING"), beat(), "script"),
        (row(statename="EXITED", exit_code=1, pid=None), None, "script"),
        (row(), None, "command"),
        (row(), beat(pid=6, poll_success_mono=NOW), "script"),
        (row(), beat(phase=LOCKED_OUT), "command"),
        (row(), beat(polling_seen=True), "build"),
        (row(), beat(polling_seen=True, poll_start_mono=NOW - 0.2), "build"),
        (row(), beat(polling_seen=True, poll_start_mono=NOW - 9, poll_failure_mono=NOW - 5), "script"),
        (row(uptime_s=0.5), beat(), "command"),
    ],
)
def test_nothing_is_said_before_it_is_known(state: dict[str, Any], heartbeat: Heartbeat | None, launch: str) -> None:
    assert judge(state, heartbeat, launch, NOW) is None


@pytest.mark.parametrize("statename", ["STOPPED", "STOPPING"])
def test_a_stop_that_came_between_is_no_failure_of_the_start(statename: str) -> None:
    stopped = row(statename=statename, enabled=False)
    assert judge(stopped, None, "script", NOW) == Verdict(True, "stopped meanwhile")
    past_multibot = row(statename=statename, stop_at=5.0)  # or in the middle of somebody's restart
    assert judge(past_multibot, None, "script", NOW) is None
    assert at_the_end(past_multibot, None) == Verdict(True, "stopped meanwhile")


@pytest.mark.parametrize(
    ("state", "heartbeat", "ok", "text"),
    [
        (row(statename="STOPPED"), None, False, "STOPPED"),
        (row(statename="BACKOFF"), None, False, "BACKOFF"),
        (row(), beat(phase=LOCKED_OUT), True, "earlier process"),
        (row(), beat(poll_code=409), True, "fails with 409"),
        (row(), beat(pid=6, poll_code=409), True, "no successful poll yet"),
    ],
)
def test_at_the_end_of_patience_the_bot_is_described_as_it_is(
    state: dict[str, Any], heartbeat: Heartbeat | None, ok: bool, text: str
) -> None:
    verdict = at_the_end(state, heartbeat)
    assert verdict.ok is ok
    assert text in verdict.text


def test_the_last_words_are_those_of_the_newest_run_that_ended() -> None:
    dead = Run(1.0, 1.0, 5, "d", exit=Exit(2.0, "crashed", "RuntimeError", code=1))
    assert last_words((Run(3.0, 3.0, 6, "d"), dead)) == "RuntimeError"
    assert last_words(()) == ""


@pytest.mark.parametrize(
    ("changes", "awaited"),
    [
        ({"cause": "just started"}, True),
        ({"cause": ""}, True),
        ({"cause": "the monitor does not run"}, False),
        ({"cause": "no successful getUpdates yet"}, False),
        ({"health": "healthy", "cause": "first poll open"}, False),
        ({"state": "backing-off", "cause": ""}, False),
    ],
)
def test_a_monitor_that_watches_is_given_a_moment_to_see_the_new_process(
    changes: dict[str, str], awaited: bool
) -> None:
    assert _is_awaited({"state": "running", "health": "unknown", **changes}) is awaited


@pytest.mark.parametrize(
    ("state", "text"),
    [("quarantined", "script /srv/bot.py: Permission denied"), ("backing-off", "ValueError: no.")],
)
def test_a_failed_start_says_why_and_what_to_type(tmp_path: Path, state: str, text: str) -> None:
    home = find_home(str(tmp_path))
    paths = home.bot("a")
    paths.run_dir.mkdir(parents=True)
    paths.runs.write_bytes(encode((Run(NOW, 1.0, 7, "d", exit=Exit(NOW, "crashed", text, code=78)),)))
    verdict = _explained(
        home, Verdict(False, "gave up"), row(id="a", state=state, health="unknown", statename="EXITED", pid=None)
    )
    command = f"multibot --home {tmp_path}"
    assert (
        verdict.todo
        == {
            # Root is told no path to open: the words are the bot's.
            "quarantined": (*(() if os.geteuid() == 0 else ("chmod o+r /srv/bot.py",)), f"{command} bot restart a"),
            "backing-off": (f"{command} logs a",),
        }[state]
    )
    assert verdict.text == f"gave up: {text.rstrip('.')}" + (
        ", and does not start again by itself" if state == "quarantined" else ""
    )
    assert verdict.told == f"{verdict.text}: {', then '.join(map(repr, verdict.todo))}"
