"""supervisord has no descriptor left: it lives, what runs runs on, and what could not be started starts later."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator

import pytest
from supervisord import Supervisord, rows, supervisord, wait_for

LIMIT = resource.RLIMIT_NOFILE


@pytest.fixture
def system() -> Iterator[Supervisord]:
    with supervisord() as system:
        system.apply(rows("a", "b"))
        system.wait_state("RUNNING", "a", "b")
        yield system


def test_supervisord_outlives_the_end_of_its_descriptors(system: Supervisord) -> None:
    pid, before, more = system.client.pid(), system.pids(), tuple("cdefgh")
    limits = resource.prlimit(pid, LIMIT)
    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, LIMIT, (highest + 1, limits[1]))
    applied = system.apply(rows("a", "b", *more))
    assert (applied.started, applied.failed) == (more, {})
    os.kill(before["a"], signal.SIGKILL)
    wait_for(lambda: "BACKOFF" in system.states().values(), "a bot that waits for descriptors")
    assert "too many open files to spawn" in system.log()
    resource.prlimit(pid, LIMIT, limits)
    system.wait_state("RUNNING", "a", "b", *more)
    assert system.pids()["a"] != before["a"]
    assert system.pids()["b"] == before["b"]
    assert system.client.pid() == pid
