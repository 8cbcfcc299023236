"""Logs under a real supervisord: rotation as ``bot set`` says, read and followed while it happens, removed by age."""

from __future__ import annotations

import os
import re
import subprocess
import time

from system import System, wait_for

COUNTER = """#!/bin/sh
n=0 line=$(printf %150s | tr ' ' x)
while :; do n=$((n+1)); echo "number $n $line"; [ $((n % 20)) = 0 ] && sleep 0.01; done
"""


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} number (\d+) ", text, re.MULTILINE)]


def test_rotation_is_set_read_across_followed_and_ended(system: System) -> None:
    counter = system.directory / "counter"
    counter.write_text(COUNTER)
    counter.chmod(0o755)
    size = 64 * 1024
    system.create_bot("chatty", "--command", str(counter), "--log-max-size", "64KB", "--log-backups", "1")
    log = system.home.bot_log("chatty")
    rotated = [log.with_name(f"{log.name}.{number}") for number in range(1, 6)]
    wait_for(rotated[0].exists, "a rotated log")
    assert not rotated[1].exists()

    system.run("bot", "set", "chatty", "--log-backups", "4")
    wait_for(rotated[3].exists, "the fourth")
    assert not rotated[4].exists()
    # supervisord writes what a pipe gave it, 128 KiB at most, before it looks at the size
    assert all(path.stat().st_size <= size + 128 * 1024 for path in rotated if path.exists())

    shown = numbers(system.run("logs", "chatty", "-n", "1000").stdout)
    assert shown == list(range(shown[0], shown[0] + 1000))
    words = [*system.cli, "--home", str(system.home.config), "logs", "chatty", "-f", "-n", "10"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=system.environment) as follower:
        assert follower.stdout is not None
        followed = numbers("".join(follower.stdout.readline() for _ in range(1000)))
        follower.terminate()
    assert followed == list(range(followed[0], followed[0] + 1000))

    system.run("bot", "stop", "chatty", "--now")
    system.run("bot", "set", "chatty", "--log-keep-s", "60s")
    past = time.time() - 120
    for path in (log, *rotated[1:4]):
        os.utime(path, (past, past))
    system.run("config", "set", "monitor.tick_s", "0.4s")  # the monitor begins anew, and with old logs
    wait_for(lambda: not any(path.exists() for path in rotated[1:4]), "the old ones gone")
    system.run("config", "set", "monitor.tick_s", "0.5s")
    assert log.exists()
    assert rotated[0].exists()
