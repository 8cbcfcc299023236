"""A row of getBots: what supervisord knows, and what the monitor saw of this very process a moment ago."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from supervisor.process import Subprocess
from supervisor.states import ProcessStates
from supervisor.xmlrpc import RPCError

from multibot_plugin.supervisor.inside.ends import Ends, Past
from multibot_plugin.supervisor.inside.parts import Inside
from multibot_plugin.supervisor.inside.rows import Seen, bot_row
from multibot_plugin.supervisor.inside.status import is_fresh, tick_age
from multibot_plugin.supervisor.inside.updates import Updates
from multibot_plugin.supervisor.rpc import MultibotInterface, make_interface

NOW, MONO = 1_800_000_000.0, 5_000.0
MONITOR = SimpleNamespace(pid=7, get_state=lambda: ProcessStates.RUNNING)
ROW_KEYS = {
    "id", "state", "health", "cause", "pid", "uptime_s", "restarts_24h", "memory_bytes", "cpu_percent", "connections",
    "last_poll_age_s", "last_update_age_s", "launch", "enabled", "digest", "statename", "start_at", "stop_at",
    "exit_code", "spawn_error", "stop_wait_s", "end", "deaths",
}  # fmt: skip


def process(state: int = ProcessStates.RUNNING, pid: int = 42, **changes: Any) -> Subprocess:
    """Return supervisor's own process object, never spawned, in a state."""
    config = SimpleNamespace(
        options=None, name="bot-echo", command='"/p y" -P -m multibot_runner echo 0123456789abcdef', autostart=True,
        stopwaitsecs=12,
    )  # fmt: skip
    made = Subprocess(config)
    made.state, made.pid, made.laststart = state, pid, NOW - 100
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def status(mono: Any = MONO - 2, **changes: Any) -> dict[str, Any]:
    seen = {"pid": 42, "phase": "running", "health": "healthy", "cause": "", "memory_bytes": 1000, "cpu_percent": 0.1,
            "connections": 1, "poll_success_mono": MONO - 3, "update_mono": MONO - 70, "restarts_24h": 2,
            "launch": "build"}  # fmt: skip
    return {"mono": mono, "tick_s": 5.0, "bots": {"echo": seen | changes}}


def row(made: Subprocess, picture: dict[str, Any]) -> dict[str, Any]:
    return bot_row("echo", made, Seen(picture, MONITOR, NOW, MONO), Past())


def test_a_fresh_picture_of_this_process_is_shown_whole() -> None:
    shown = row(process(), status())
    assert set(shown) == ROW_KEYS
    assert (shown["state"], shown["health"], shown["cause"], shown["memory_bytes"]) == ("running", "healthy", "", 1000)
    assert (shown["last_poll_age_s"], shown["last_update_age_s"], shown["uptime_s"]) == (3.0, 70.0, 100.0)
    assert (shown["digest"], shown["enabled"], shown["stop_wait_s"]) == ("0123456789abcdef", True, 12)


@pytest.mark.parametrize(
    ("picture", "cause"),
    [
        (status(pid=41), "just started"),
        (status(mono=MONO - 30), "the monitor has been silent for 30 s"),
        (status(mono=MONO + 100), "the monitor does not run"),  # from before a reboot
        (status(mono="soon"), "the monitor does not run"),
        ({}, "the monitor does not run"),
        ({"mono": MONO, "tick_s": 5.0, "bots": "none"}, "just started"),
        ({"mono": MONO, "tick_s": 5.0, "bots": {"echo": 7}}, "just started"),
    ],
)
def test_otherwise_the_health_is_unknown_and_the_cause_says_why(picture: dict[str, Any], cause: str) -> None:
    shown = row(process(), picture)
    assert set(shown) == ROW_KEYS
    assert (shown["health"], shown["cause"], shown["state"]) == ("unknown", cause, "running")
    assert (shown["memory_bytes"], shown["last_poll_age_s"]) == (None, None)


def test_a_bot_without_a_process_shows_what_the_monitor_knows_of_its_end() -> None:
    ended = process(ProcessStates.EXITED, pid=0, exitstatus=78, laststop=NOW - 5)
    shown = row(ended, status(pid=None, health="unauthorised", cause="token rejected by Telegram (401)"))
    assert (shown["state"], shown["health"], shown["cause"]) == (
        "quarantined",
        "unauthorised",
        "token rejected by Telegram (401)",
    )
    assert (shown["pid"], shown["uptime_s"], shown["memory_bytes"], shown["last_poll_age_s"]) == (None,) * 4
    assert (shown["exit_code"], shown["stop_at"], shown["restarts_24h"]) == (78, NOW - 5, 2)
    stopped = row(process(ProcessStates.STOPPED, pid=0), status())
    assert (stopped["state"], stopped["health"], stopped["cause"]) == ("stopped", "unknown", "")


def test_the_runners_phase_refines_the_state_only_for_its_own_process() -> None:
    assert row(process(), status(phase="backing-off"))["state"] == "backing-off"
    assert row(process(), status(phase="backing-off", pid=41))["state"] == "running"


def test_freshness_is_three_ticks_and_some() -> None:
    assert is_fresh({"mono": MONO - 19.9, "tick_s": 5.0}, MONO)
    assert not is_fresh({"mono": MONO - 20.1, "tick_s": 5.0}, MONO)
    assert not is_fresh({"mono": MONO, "tick_s": None}, MONO)
    assert tick_age({"mono": True}, MONO) is None


def interface(supervisord: Any, path: Path) -> MultibotInterface:
    """Return the interface of a supervisord in which nothing else of ours runs."""
    options = SimpleNamespace(waitpid=lambda: (None, None))
    inside = Inside(
        Ends(SimpleNamespace(options=options), lambda f: f), Updates(supervisord, "", list, whole=False), prompt=True
    )
    return MultibotInterface(supervisord, path / "status.json", path, inside)


def test_one_supervisord_has_one_interface_and_unknown_bots_are_refused(tmp_path: Path) -> None:
    existing = interface(SimpleNamespace(process_groups={}, options=None), tmp_path)
    supervisord = SimpleNamespace(multibot_interface=existing)
    assert make_interface(supervisord, status=str(tmp_path / "status.json"), state=str(tmp_path)) is existing
    with pytest.raises(RPCError) as caught:
        existing.setAutostart("nobody", True)
    assert caught.value.text == "BAD_NAME"


def test_an_exception_of_our_own_is_a_fault_that_shows_no_value_of_the_request(tmp_path: Path) -> None:
    log: list[str] = []
    logger = SimpleNamespace(warn=log.append)
    broken = SimpleNamespace(process_groups={"bot-echo": None}, options=SimpleNamespace(logger=logger))
    with pytest.raises(RPCError) as caught:
        interface(broken, tmp_path).setAutostart("secret", True)
    assert (caught.value.code, caught.value.text) == (9000, "INTERNAL_ERROR: AttributeError: see supervisord's log")
    assert len(log) == 1
    assert re.fullmatch(r"multibot\.setAutostart: AttributeError at _bots:\d+", log[0])


@pytest.mark.parametrize("wrong", ["x", [[1]], {"a": 1}, 1e999, float("nan"), 10**4000])
def test_no_value_in_the_monitors_file_breaks_an_answer(wrong: Any) -> None:
    changes = dict.fromkeys(("phase", "health", "cause", "memory_bytes", "cpu_percent", "connections",
                             "poll_success_mono", "update_mono", "restarts_24h", "launch"), wrong)  # fmt: skip
    shown = row(process(), status(**changes))
    assert len(json.dumps(shown, allow_nan=False)) < 1000
    assert set(shown) == ROW_KEYS
    assert row(process(), status(mono=wrong))["health"] == "unknown"
