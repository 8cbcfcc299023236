"""A command killed in the middle: the bot runs all the same, nobody is said to have stopped it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest
from system import System, wait_for

from multibot_plugin.bots.apply import not_applied
from multibot_plugin.bots.unfinished import under_way
from multibot_plugin.supervisor.client import Supervisor

SLOW = """#!/bin/sh
trap 'sleep 1; exit 0' TERM
while :; do sleep 0.1; done
"""
POINTS = 6


@pytest.fixture
def slow(system: System) -> System:
    """A bot that takes a second to stop."""
    program = system.bots / "slow.sh"
    program.write_text(SLOW)
    program.chmod(0o755)
    system.create_bot("slow", "--command", str(program))
    return system


def cut_off(system: System, when: Callable[[], object], *words: str) -> int | None:
    """Start a command and kill it ``when`` it is time; return its exit code (-9: it was not over yet)."""
    command = [*system.cli, "--home", str(system.home.config), *words]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=system.environment, **quiet) as process:  # type: ignore[call-overload]
        try:
            when()
        finally:
            process.kill()
    code: int | None = process.returncode
    return code


def all_is_well(system: System, client: Supervisor) -> bool:
    """Whether the bot runs, enabled and as it is rendered, and no work is left."""
    (row,) = client.bots()["bots"]
    return (row["statename"], row["enabled"], not_applied(system.home, [row]), under_way(system.home)) == (
        "RUNNING", True, (), frozenset(),
    )  # fmt: skip


def nobody_is_accused(system: System) -> bool:
    rows = system.sql("SELECT * FROM audit_log WHERE bot_id = 'slow' AND action IN ('bot.stopped', 'bot.disabled')")
    return rows == []


@pytest.mark.parametrize("words", [("bot", "set", "slow", "--env", "A=1"), ("bot", "restart", "slow")])
def test_killed_between_stop_and_start_the_monitor_finishes_it(slow: System, words: tuple[str, ...]) -> None:
    with Supervisor.of(slow.home) as client:
        first = client.row("slow")
        code = cut_off(
            slow, lambda: wait_for(lambda: client.row("slow")["statename"] == "STOPPING", "the stop"), *words
        )
        assert code == -signal.SIGKILL
        assert under_way(slow.home) == {"slow"}
        wait_for(lambda: all_is_well(slow, client), "the bot back")
        assert (client.row("slow")["digest"] != first["digest"]) is ("set" in words)
        # Longer than a stop has to last to be a wish.
        since = time.monotonic()
        wait_for(lambda: time.monotonic() - since > 5 or not all_is_well(slow, client), "a while")
        assert all_is_well(slow, client)
    cut = [row for row in slow.audit("slow", "bot.restarted") if "cut off" in row["detail"]]
    assert [row["door"] for row in cut] == [f"multibot {words[0]} {words[1]}"]
    assert nobody_is_accused(slow)


def test_killed_at_any_moment_the_bot_runs_as_it_is_rendered(slow: System) -> None:
    begun = time.monotonic()
    slow.run("bot", "set", "slow", "--env", "N=0")
    took_s = time.monotonic() - begun
    with Supervisor.of(slow.home) as client:
        for point in range(1, POINTS + 1):
            cut_off(
                slow, lambda at=point: time.sleep(took_s * at / POINTS), "bot", "set", "slow", "--env", f"N={point}"
            )
            wait_for(lambda: all_is_well(slow, client), f"the bot back after a kill at {point}/{POINTS}")
        slow.run("apply")
        assert all_is_well(slow, client)
        (child,) = psutil.Process(client.row("slow")["pid"]).children()
        assert child.environ()["N"] == str(POINTS)
    assert nobody_is_accused(slow)


def test_stock_restart_of_two_bots_of_which_one_is_slow_is_no_wish(slow: System) -> None:
    slow.create_form("echo", "script")
    slow.wait_polling("echo")
    program = slow.bots / "slow.sh"
    program.write_text(SLOW.replace("sleep 1", "sleep 5"))
    slow.run("bot", "restart", "slow")
    slow.supervisorctl("restart", "bot-echo", "bot-slow")
    slow.wait_polling("echo")
    since = time.monotonic()
    wait_for(lambda: time.monotonic() - since > 5 or not slow.row("echo")["enabled"], "a while")
    assert [slow.row(bot)["enabled"] for bot in ("echo", "slow")] == [True, True]
    assert slow.audit("echo", door="supervisorctl") == []


def test_failed_between_stop_and_start_the_bot_is_nobodys_wish_and_comes_back(slow: System) -> None:
    words = [*slow.cli, "--home", str(slow.home.config), "bot", "set", "slow", "--env", "A=1"]
    with Supervisor.of(slow.home) as client:
        begun = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=slow.environment)
        wait_for(lambda: client.row("slow")["statename"] == "STOPPING", "the stop")
        shutil.rmtree(slow.home.rendered.parent)
        said = begun.communicate(timeout=60)[1]
        assert begun.returncode == 1
        assert "but it was told to stop, then supervisord refuses its configuration; the monitor tries again" in said
        # Longer than a stop has to last to be a wish.
        since = time.monotonic()
        wait_for(lambda: time.monotonic() - since > 8, "a while")
        assert (client.row("slow")["statename"], client.row("slow")["enabled"]) == ("STOPPED", True)
        assert "(multibot has not finished its restart)" in slow.run("status", code=3).stdout
        assert "slow: started" in slow.run("apply").stderr
        wait_for(lambda: all_is_well(slow, client), "the bot back")
    assert slow.sql("SELECT enabled FROM bot_configs") == [{"enabled": True}]
    assert nobody_is_accused(slow)
