"""The programs that every manager runs: one script for all, which tells each of its starts in a file and sleeps.

So nobody has to look for processes: a line "ID PID" in ``started`` is a new process at its first own act.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

PATIENCE_S = 300.0
LOOK_S = 0.002
# It has a runner's arguments: -P -m multibot_runner ID DIGEST. slow-*: one second from SIGTERM to its end; its child
# may be told to end before it is itself (pm2 signals whole trees), hence the loop; and a SIGTERM to a child that is
# not yet more than a fork would be lost, hence -9.
SCRIPT = """#!/bin/sh
echo "$4 $$" >>"$0.started"
case "$4" in slow-*)
  trap 'kill -9 $!; sleep 1; exit 0' TERM
  while :; do sleep 1000000 & wait; done ;;
esac
exec sleep 1000000
"""


class Fleet:
    """``count`` programs, whose script and record of starts lie in ``directory``."""

    def __init__(self, directory: Path, count: int, *, slow: bool = False) -> None:
        self.directory = directory
        self.ids = [f"{'slow' if slow else 'b'}-{number:04d}" for number in range(count)]
        self.script = directory / "program"
        self.script.write_text(SCRIPT)
        self.script.chmod(0o755)
        self.versions: dict[str, int] = {}
        self._started = Path(f"{self.script}.started")
        self._started.touch()

    def words(self, bot: str) -> list[str]:
        """Return the script's arguments for one program in its present version."""
        return ["-P", "-m", "multibot_runner", bot, f"{self.versions.get(bot, 1):016x}"]

    def size(self) -> int:
        return self._started.stat().st_size

    def starts(self, since: int = 0) -> list[tuple[str, int]]:
        """Return (id, pid) of every start that was told after ``since`` bytes of the file."""
        with self._started.open() as file:
            file.seek(since)
            whole = file.read().rpartition("\n")[0]
        return [(bot, int(pid)) for bot, pid in map(str.split, whole.splitlines())]

    def pids(self) -> dict[str, int]:
        return dict(self.starts())

    def wait_started(self, bots: Iterable[str], since: int = 0) -> None:
        """Return when each of ``bots`` has told a start after ``since``."""
        wanted = set(bots)
        least = since + sum(len(f"{bot} 1\n") for bot in wanted)  # read only when they can all be there
        wait(lambda: self.size() >= least and wanted <= dict(self.starts(since)).keys(), f"{len(wanted)} starts")

    def wait_ended(self) -> None:
        pids = self.pids().values()
        wait(lambda: not any(map(lives, pids)), "the end of all programs")


def wait(condition: Callable[[], bool], what: str) -> None:
    """Return when ``condition`` holds; raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:g} s for {what}")
        time.sleep(LOOK_S)


def lives(pid: int) -> bool:
    """Return whether this process runs; one that nobody has reaped yet does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def end_all(directory: Path) -> None:
    """SIGKILL, each by its pid, every process that a manager with this directory has started, and wait for their end.

    They are known by their environment (Manager.environment), whoever is their parent by now.
    """
    wait(lambda: not _kill_found(str(directory)), "the end of what was killed")


def _kill_found(home: str) -> bool:
    found = False
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("HOME") == home and lives(process.pid):
                found = True
                process.kill()
    return found
