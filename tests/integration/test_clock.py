"""The wall clock is set back and forth under supervisord: bots start, stop and come back as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from supervisor.xmlrpc import SupervisorTransport
from supervisord import Supervisord, row, supervisord, wait_for

from multibot_plugin.supervisor.client import SupervisorFault

DAY_S = 86400.0
SECTION = "[rpcinterface:clock]\nsupervisor.rpcinterface_factory=clock_plugin:make_interface\n"
BOTS = {
    "a": row("a", 1),
    "deaf-b": row("deaf-b", 2, settings={"stop_wait_s": 1.0}),
    "quits-c": row("quits-c", 3),
}


@pytest.fixture(scope="module")
def system() -> Iterator[Supervisord]:
    """A supervisord whose clock can be set, with bots."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
        with supervisord(lambda made: _write(made.home.config / "conf.d" / "clock.conf")) as system:
            system.apply(BOTS)
            system.wait_state("RUNNING", "a", "deaf-b")
            yield system


def _write(path: Path) -> None:
    path.write_text(SECTION)


@pytest.fixture
def shift(system: Supervisord) -> Iterator[Callable[[float], None]]:
    transport = SupervisorTransport(None, None, f"unix://{system.home.socket}")
    with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as server:
        yield server.clock.shift


def starts(system: Supervisord, bot: str) -> int:
    return system.log().count(f"spawned: 'bot-{bot}'")


@pytest.mark.parametrize("seconds", [-DAY_S, 2 * DAY_S])
def test_bots_end_start_and_come_back_whatever_the_clock_does(
    system: Supervisord, shift: Callable[[float], None], seconds: float
) -> None:
    pid = system.client.pid()
    system.client.stop("bot-quits-c", None)
    with contextlib.suppress(SupervisorFault):  # where it has quit before supervisord answers
        system.client.start("bot-quits-c", None)  # the wait for its next try is short again
    system.client.stop("bot-deaf-b", None)  # deaf to SIGTERM: its SIGKILL is a matter of time
    shift(seconds)
    seen = starts(system, "quits-c")
    system.wait_state("STOPPED", "deaf-b")
    wait_for(lambda: starts(system, "quits-c") > seen, "another try of a bot that waits for it")
    system.client.start("bot-deaf-b", None)
    shift(-1.0)  # while it starts
    system.wait_state("RUNNING", "deaf-b")

    old, answer = system.pids()["a"], system.client.bots()
    (started_at,) = (r["start_at"] for r in answer["bots"] if r["id"] == "a")
    shift(started_at + 0.3 - answer["at"])  # it seems to have lived for less than startsecs
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: system.pids()["a"] not in (None, old), "the bot again")
    system.wait_state("RUNNING", "a")
    shift(answer["at"] - started_at)
    assert system.client.pid() == pid


def test_a_stop_in_the_future_is_one_of_long_ago(system: Supervisord, shift: Callable[[float], None]) -> None:
    system.ctl("stop", "bot-a")
    shift(-DAY_S)
    system.home.status.write_text(json.dumps({"mono": time.monotonic(), "tick_s": 3600.0}))
    assert system.apply(BOTS).started == ("a",)
