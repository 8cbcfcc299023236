"""Three hundred bots die at the same moment, and the monitor with them: all come back, all ends are recorded once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from supervisord import Supervisord, rows, supervisord, wait_for

from multibot_plugin.journal import AuditEntry, Journal
from multibot_plugin.supervisor.client import MONITOR
from multibot_plugin.supervisor.conf import install_main

BOTS = tuple(f"b{number}" for number in range(300))


@pytest.fixture
def system() -> Iterator[Supervisord]:
    """A supervisord whose bots are stand-ins, and whose monitor is the real one."""
    with supervisord(lambda system: install_main(system.home)) as system:
        yield system


def ended(journal: Journal, entries: dict[str, AuditEntry]) -> list[str]:
    """Return the pids of the recorded ends; ``entries`` keeps what was read from the journal."""
    while (batch := journal.pending()) is not None:
        entries.update((e.id, e) for e in batch.entries if isinstance(e, AuditEntry))
        journal.done(batch)
    return sorted(e.detail["pid"] for e in entries.values() if e.action == "bot.exited")


def test_no_end_of_three_hundred_is_lost_or_recorded_twice(system: Supervisord) -> None:
    assert system.apply(rows(*BOTS)).started == tuple(sorted(BOTS))
    system.wait_state("RUNNING", *BOTS)
    pids, journal, entries = system.pids(), Journal(system.home.journal), dict[str, AuditEntry]()
    supervisord_pid = system.client.pid()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(ended(journal, entries)) >= 30, "the first ends")
    os.kill(system.client.running(MONITOR), signal.SIGKILL)
    wait_for(lambda: len(ended(journal, entries)) >= len(BOTS), "every end")
    system.wait_state("RUNNING", *BOTS)
    assert not set(system.pids().values()) & set(pids.values())
    assert ended(journal, entries) == sorted(map(str, pids.values()))
    assert not [e for e in entries.values() if e.action == "events.lost"]
    assert system.client.pid() == supervisord_pid
