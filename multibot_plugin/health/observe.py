"""What is seen of each bot at a tick: supervisord's row, the runner's files, the kernel's numbers."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from multibot_plugin.health.ends import completed, witnessed
from multibot_plugin.health.rules import Fleet, Row
from multibot_plugin.health.states import Observation
from multibot_plugin.home import Home
from multibot_plugin.settings import WATCHED_SETTINGS
from multibot_runner import oom
from multibot_runner.protocol import Exit, Run, lifecycle
from multibot_runner.readers import UNKNOWN, read_heartbeat, read_live, read_runs

_SOCKET = "socket:["
_ESTABLISHED = "01"
_PAGE, _TICKS_PER_S = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
_log = logging.getLogger("multibot.monitor")
DEFAULTS: Mapping[str, Any] = {s.name: s.default for s in WATCHED_SETTINGS}


class Supervisor(Protocol):
    """What the monitor needs of supervisord (see supervisor/client.py); all calls block."""

    def bots(self, known: Mapping[str, Any] | None = None) -> dict[str, Any]: ...

    def start(self, program: str) -> None: ...

    def stop(self, program: str, wait_s: float | None = ...) -> None: ...

    def close(self) -> None: ...


class Observer:
    """Looks at the bots of one installation; remembers what a difference needs (CPU times, the kernel's counters), and
    how runs ended that left no word: supervisord forgets that with the next end.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._meter = Meter()
        self._failed: set[str] = set()
        self._memory = oom.Watch()
        self._ends: dict[str, dict[tuple[int, float], Exit]] = {}
        self._news: list[tuple[str, Run, Exit]] = []

    def news(self) -> list[tuple[str, Run, Exit]]:
        """Return the ends (by bot) that were found out since this was asked last."""
        news, self._news = self._news, []
        return news

    def look(
        self, fleet: Fleet, clock: tuple[float, float], open_checks: Callable[[str], frozenset[str]]
    ) -> list[Observation]:
        """Return one observation per bot. ``clock``: monotonic and wall time; ``open_checks``: by bot."""
        self._meter.begin([row.pid for row in fleet.rows if row.pid])
        memory = self._memory.verdict()
        self._ends = {row.id: self._ends.get(row.id, {}) for row in fleet.rows}
        return [self._look_at(row, clock, open_checks(row.id), memory) for row in fleet.rows]

    def _look_at(self, row: Row, clock: tuple[float, float], open_checks: frozenset[str], memory: str) -> Observation:
        seen = Observation(
            bot=row.id, now=clock[0], now_at=clock[1], launch=UNKNOWN, enabled=row.enabled,
            state=lifecycle(row.statename, row.exit_code, None), pid=row.pid,
            uptime_s=row.uptime_s if row.pid else None, heartbeat=None, runs=(), memory_bytes=None, cpu_percent=None,
            connections=None, settings=DEFAULTS, open=open_checks, deaths=row.deaths,
        )  # fmt: skip
        try:
            seen = replace(seen, **self._more(row, memory))
        except Exception:  # whatever is wrong with one bot must not cost the others; supervisord's word remains
            if row.id not in self._failed:
                _log.exception("looking at %s", row.id)
            self._failed.add(row.id)
        else:
            self._failed.discard(row.id)
        return seen

    def _runs(self, row: Row, memory: str) -> tuple[Run, ...]:
        """Return the bot's runs with how they ended, also where they could not tell."""
        runs, known = read_runs(self._home.bot(row.id)), self._ends[row.id]
        found = witnessed(runs, row.pid, row.end, memory)
        if found is not None and (key := (found[0].pid, found[0].started_at)) not in known:
            known[key] = found[1]
            self._news.append((row.id, *found))
        self._ends[row.id] = {key: known[key] for run in runs if (key := (run.pid, run.started_at)) in known}
        return completed(runs, known)

    def _more(self, row: Row, memory: str) -> dict[str, Any]:
        """Return what the bot's files and the kernel add to supervisord's row."""
        paths = self._home.bot(row.id)
        launch, live = read_live(paths)
        heartbeat = read_heartbeat(paths)
        if heartbeat is not None and heartbeat.pid != row.pid:  # of an earlier process
            heartbeat = None
        resident, cpu, connections = self._meter.measure(row.pid) if row.pid else (None, None, None)
        own = {name: value for name, value in live.items() if name in DEFAULTS}
        phase = heartbeat.phase if heartbeat else None
        return {
            "launch": launch, "state": lifecycle(row.statename, row.exit_code, phase),
            "heartbeat": heartbeat, "runs": self._runs(row, memory), "memory_bytes": resident, "cpu_percent": cpu,
            "connections": connections, "settings": MappingProxyType({**DEFAULTS, **own}),
        }  # fmt: skip


class _Process(NamedTuple):
    """One process at the beginning of a tick. ``start`` tells it from an earlier one with its pid; both in ticks."""

    parent: int
    start: int
    cpu: int
    memory_bytes: int


class Meter:
    """Memory, CPU and connections of processes with their children.

    One pass over /proc per tick, one small file per process: psutil's objects took three times as long.
    """

    def __init__(self, proc: Path = Path("/proc"), now: Callable[[], float] = time.monotonic) -> None:
        self._proc, self._now = proc, now
        self._table: dict[int, _Process] = {}
        self._began, self._lasted_s = now(), 0.0
        self._before: dict[int, _Process] = {}  # of the tick before
        self._children: dict[int, list[int]] = {}
        self._established: frozenset[str] = frozenset()

    def begin(self, pids: Any) -> None:
        """Begin a tick in which the trees of ``pids`` are measured."""
        now = self._now()
        self._lasted_s, self._began = now - self._began, now
        self._before, self._table = self._table, self._read_all()
        self._children = {}
        for pid, process in self._table.items():
            self._children.setdefault(process.parent, []).append(pid)
        self._established = self._connected() if pids else frozenset()

    def measure(self, pid: int) -> tuple[int | None, float | None, int | None]:
        """Return resident bytes, percent of one core since the last tick, and established connections of a tree.

        None three times when the process is gone.
        """
        found, memory, ticks, connections = False, 0, 0, 0
        for member in self._tree(pid):
            process = self._table.get(member)
            if process is None:
                continue
            try:
                connections += self._sockets(member)
            except PermissionError:  # its memory is hidden, and so are its descriptors
                pass
            except OSError:
                continue
            before = self._before.get(member)
            memory += process.memory_bytes
            ticks += process.cpu - before.cpu if before and before.start == process.start else 0
            found = found or member == pid
        cpu = 100.0 * ticks / _TICKS_PER_S / self._lasted_s if self._lasted_s > 0 else 0.0
        return (memory, round(cpu, 1), connections) if found else (None, None, None)

    def _read_all(self) -> dict[int, _Process]:
        found = {}
        top = f"{self._proc}/"
        for name in os.listdir(self._proc):
            if name.isdecimal():
                with contextlib.suppress(OSError, ValueError, IndexError), open(f"{top}{name}/stat", "rb") as file:
                    # The name, in parentheses, may hold anything; what follows it begins with field 3 of proc(5).
                    fields = file.read().rpartition(b")")[2].split()
                    found[int(name)] = _Process(
                        int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12]), int(fields[21]) * _PAGE
                    )
        return found

    def _tree(self, pid: int) -> list[int]:
        members, seen = [pid], {pid}  # pids are used again while they are listed: a circle is possible
        for member in members:
            new = [child for child in self._children.get(member, ()) if child not in seen]
            members += new
            seen.update(new)
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
        folder, count = f"{self._proc}/{pid}/fd", 0
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                link = os.readlink(f"{folder}/{name}")
                count += link.startswith(_SOCKET) and link[len(_SOCKET) : -1] in self._established
        return count
