"""What a bot forked polls no longer than the bot runs, whoever stops it and however its runner ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from system import System, alive, wait_for

from multibot_plugin.bots.uids import claim, owner_of_uid

# The poller is a double fork in a session of its own that ignores SIGTERM; it is nobody's child.
FORKS = """
import json, os, signal, time, urllib.request

def poll():
    print("poller", os.getpid(), flush=True)
    while True:
        url = os.environ["BOT_API_URL"] + "/bot" + os.environ["BOT_TOKEN"] + "/getUpdates?timeout=50"
        urllib.request.urlopen(url).read()

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        poll()
    os._exit(0)
os.wait()
while True:
    time.sleep(600)
"""


@pytest.fixture
def poller(system: System) -> Callable[[], int]:
    """A bot ``forks``; returns the pid of its poller once that polls."""
    script = system.bots / "forks.py"
    script.write_text(FORKS)
    system.create_bot("forks", "--script", str(script))

    def pid() -> int:
        system.wait_polling("forks")
        words = system.home.bot_log("forks").read_text().split()
        return int(words[len(words) - 1 - words[::-1].index("poller") + 1])

    return pid


def test_a_stop_by_any_door_ends_what_the_bot_forked(system: System, poller: Callable[[], int]) -> None:
    for words in (["bot", "stop", "forks"], ["bot", "stop", "forks", "--now"]):
        child = poller()
        system.run(*words)
        assert not alive(child), words
        system.run("bot", "start", "forks")
    child = poller()
    system.run("bot", "restart", "forks", "--now")
    wait_for(lambda: not alive(child), "the old poller gone")
    child = poller()
    system.run("stop", "--now", "--yes")
    assert not alive(child)
    system.run("start")
    child = poller()
    system.run("stop", "--yes")
    assert not alive(child)
    system.run("start")
    child = poller()
    system.run("bot", "delete", "forks", "--yes")
    assert not alive(child)


def test_a_killed_runner_leaves_no_second_poller(system: System, poller: Callable[[], int]) -> None:
    child, runner = poller(), system.pid("forks")
    os.kill(runner, signal.SIGKILL)
    wait_for(lambda: system.row("forks")["pid"] not in (None, 0, runner), "the next runner")
    wait_for(lambda: not alive(child), "the old poller gone")
    assert poller() != child


@pytest.mark.root
def test_two_installations_on_one_host_share_no_user_id(system: System) -> None:
    with System.create() as other:
        uids = []
        for one in (system, other):
            one.create_form("echo", "command", "--no-start")
            uids.append(one.sql("SELECT uid FROM bot_configs WHERE id = 'echo'")[0]["uid"])
            assert owner_of_uid(uids[-1]) == one.home.state
        assert uids[0] != uids[1]
        assert not claim(uids[0], other.home.state)
