"""What a bot forked polls no longer than the bot runs, whoever stops it and however its runner ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest
from system import System, alive, wait_for

from multibot_plugin.bots.uids import claim, owner_of_uid

# The poller has a session of its own, ignores SIGTERM, and does not end where another polls, too.
POLL = """
import contextlib, json, os, signal, time, urllib.request

def poll():
    print("poller", os.getpid(), flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        url = os.environ["BOT_API_URL"] + "/bot" + os.environ["BOT_TOKEN"] + "/getUpdates?timeout=50"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url).read()
"""
# A double fork: it is nobody's child.
FORKS = f"""{POLL}
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        poll()
    os._exit(0)
os.wait()
while True:
    time.sleep(600)
"""
# The runner does not heed a stop either: it ends by its own timer, without a look for others.
DEAF = f"""{POLL}
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    poll()
while True:
    time.sleep(600)
"""


@pytest.fixture
def poller(system: System) -> Callable[[], int]:
    """A bot ``forks``; returns the pid of its poller once that polls."""
    return forking(system, FORKS)


@pytest.fixture
def deaf(system: System) -> Callable[[], int]:
    """The same of one whose runner does not heed a stop either."""
    return forking(system, DEAF, "--stop-wait-s", "1s")


def forking(system: System, source: str, *options: str) -> Callable[[], int]:
    script = system.bots / "forks.py"
    script.write_text(source)
    system.create_bot("forks", "--script", str(script), *options)

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


def test_a_stop_of_the_whole_system_does_not_wait_for_what_a_bot_left_behind(
    system: System, deaf: Callable[[], int]
) -> None:
    child = deaf()
    assert "killed 1 process(es) that bots left behind" in system.run("stop", "--yes").stderr
    assert not alive(child)
    system.run("start")


@pytest.mark.root
def test_a_change_of_user_leaves_no_poller_of_the_earlier_one(system: System, deaf: Callable[[], int]) -> None:
    child = deaf()
    system.run("bot", "set", "forks", "--user", "nobody")
    assert not alive(child)
    child = deaf()
    assert psutil.Process(child).username() == "nobody"
    system.supervisorctl("stop", "bot-forks")
    assert alive(child)
    system.run("bot", "set", "forks", "--user", "daemon")
    assert not alive(child)
    system.run("bot", "start", "forks")
    assert psutil.Process(deaf()).username() == "daemon"


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
