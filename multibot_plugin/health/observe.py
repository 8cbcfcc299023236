"""What is seen of each bot at a tick: supervisord's row, the runner's files, the kernel's numbers."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import psutil

from multibot_plugin.health.rules import Fleet, Row
from multibot_plugin.health.states import Observation
from multibot_plugin.home import Home
from multibot_plugin.settings import BOT_SETTINGS
from multibot_runner.protocol import (
    BadFile,
    BotPaths,
    Heartbeat,
    Run,
    decode,
    decode_runs,
    lifecycle,
    read_file,
)

_SOCKET = re.compile(r"socket:\[(\d+)\]")
_ESTABLISHED = "01"
DEFAULTS: Mapping[str, Any] = {s.name: s.default for s in BOT_SETTINGS if s.applies == "live"}


class Supervisor(Protocol):
    """What the monitor needs of supervisord (see supervisor/client.py); all calls block."""

    def bots(self) -> dict[str, Any]: ...

    def start(self, program: str) -> None: ...

    def stop(self, program: str, wait_s: float | None = ...) -> None: ...

    def close(self) -> None: ...


class Observer:
    """Looks at the bots of one installation; remembers only what a difference needs (CPU times)."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._meter = Meter()

    def look(
        self, fleet: Fleet, clock: tuple[float, float], open_checks: Callable[[str], frozenset[str]]
    ) -> list[Observation]:
        """Return one observation per bot. ``clock``: monotonic and wall time; ``open_checks``: by bot."""
        self._meter.begin(row.pid for row in fleet.rows if row.pid)
        return [self._look_at(row, clock, open_checks(row.id)) for row in fleet.rows]

    def _look_at(self, row: Row, clock: tuple[float, float], open_checks: frozenset[str]) -> Observation:
        paths = self._home.bot(row.id)
        launch, settings = read_live(paths)
        heartbeat = read_heartbeat(paths, row.pid)
        memory, cpu, connections = self._meter.measure(row.pid) if row.pid else (None, None, None)
        return Observation(
            bot=row.id, now=clock[0], now_at=clock[1], launch=launch, enabled=row.enabled,
            state=lifecycle(row.statename, row.exit_code, heartbeat.phase if heartbeat else None),
            pid=row.pid, uptime_s=row.uptime_s if row.pid else None, heartbeat=heartbeat, runs=read_runs(paths),
            memory_bytes=memory, cpu_percent=cpu, connections=connections, settings=settings, open=open_checks,
        )  # fmt: skip


def read_heartbeat(paths: BotPaths, pid: int | None) -> Heartbeat | None:
    """Return the heartbeat of the process ``pid``; None when there is none or another process wrote it."""
    if pid is None:
        return None
    try:
        heartbeat = decode(Heartbeat, read_file(paths.heartbeat))
        return heartbeat if heartbeat.pid == pid and _sound(heartbeat) else None
    except BadFile:
        return None


def _sound(heartbeat: Heartbeat) -> bool:
    """Whether a file that a hostile bot may have written has numbers where numbers belong."""
    times = (heartbeat.loop_mono, heartbeat.poll_start_mono, heartbeat.poll_success_mono, heartbeat.poll_failure_mono,
             heartbeat.poll_timeout_s, heartbeat.update_mono, heartbeat.until_mono, heartbeat.poll_code)  # fmt: skip
    numbers = (heartbeat.start_mono, *(t for t in times if t is not None))
    return isinstance(heartbeat.phase, str) and all(_number(n) for n in numbers)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def read_runs(paths: BotPaths) -> tuple[Run, ...]:
    """Return a bot's last runs, newest first; nothing when the file is missing or broken."""
    try:
        runs = decode_runs(read_file(paths.runs))
    except BadFile:
        return ()
    return tuple(r for r in runs if _number(r.started_at) and _number(r.start_mono) and _sound_exit(r))


def _sound_exit(run: Run) -> bool:
    return run.exit is None or (_number(run.exit.ended_at) and isinstance(run.exit.text, str))


def read_live(paths: BotPaths) -> tuple[str, Mapping[str, Any]]:
    """Return launch form and live settings of a bot; defaults (launch "unknown") where the file says nothing."""
    try:
        live = json.loads(read_file(paths.live))
        known = {name: live[name] for name in DEFAULTS if type(live.get(name)) in (int, float)}
        launch = str(live.get("launch", "unknown"))
    except (BadFile, ValueError, AttributeError):
        known, launch = {}, "unknown"
    return launch, MappingProxyType({**DEFAULTS, **known})


class Meter:
    """Memory, CPU and connections of processes with their children. One pass over /proc per tick, objects reused."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._known: dict[int, psutil.Process] = {}
        self._children: dict[int, list[int]] = {}
        self._established: frozenset[str] = frozenset()

    def begin(self, pids: Any) -> None:
        """Begin a tick in which the trees of ``pids`` are measured."""
        self._children = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                self._children.setdefault(process.ppid(), []).append(process.pid)
        wanted = {member for pid in pids for member in self._tree(pid)}
        self._known = {pid: p for pid, p in self._known.items() if pid in wanted}
        self._established = self._connected() if wanted else frozenset()

    def measure(self, pid: int) -> tuple[int | None, float | None, int | None]:
        """Return resident bytes, percent of one core since the last tick, and established connections of a tree.

        None three times when the process is gone or not ours to see.
        """
        found, memory, cpu, connections = False, 0, 0.0, 0
        for member in self._tree(pid):
            with contextlib.suppress(psutil.Error, OSError):
                process = self._process(member)
                with process.oneshot():
                    used = process.cpu_percent()
                    memory += process.memory_info().rss
                cpu += used
                connections += self._sockets(member)
                found = found or member == pid
        return (memory, round(cpu, 1), connections) if found else (None, None, None)

    def _process(self, pid: int) -> psutil.Process:
        known = self._known.get(pid)
        if known is None or not known.is_running():  # is_running compares the time of creation: a pid may come again
            known = self._known[pid] = psutil.Process(pid)
            known.cpu_percent()
        return known

    def _tree(self, pid: int) -> list[int]:
        members = [pid]
        for member in members:
            members.extend(child for child in self._children.get(member, ()) if child not in members)
        return members

    def _connected(self) -> frozenset[str]:
        inodes = set()
        for name in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                for line in (self._proc / "net" / name).read_text().splitlines()[1:]:
                    columns = line.split()
                    if columns[3] == _ESTABLISHED:
                        inodes.add(columns[9])
        return frozenset(inodes)

    def _sockets(self, pid: int) -> int:
        folder, count = self._proc / str(pid) / "fd", 0
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                match = _SOCKET.fullmatch(os.readlink(folder / name))
                count += bool(match and match[1] in self._established)
        return count
