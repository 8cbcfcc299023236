"""What the tests of the monitor share: values with defaults, a clock, a supervisord that answers as the real one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

from supervisor.states import ProcessStates

from multibot_plugin.errors import MultibotError, SupervisordAway
from multibot_plugin.health.observe import DEFAULTS
from multibot_plugin.hookspecs import Alert, Finding, Health, Heartbeat, Level, Observation
from multibot_plugin.plugins import GROUP
from multibot_plugin.supervisor.inside.ends import Past
from multibot_plugin.supervisor.inside.rows import Seen, bot_row

NOW, NOW_AT = 10_000.0, 1_800_000_000.0
PID = 99_999_999  # no process
TOKEN = "123456789:" + "AAsecret" * 5


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for a condition; TimeoutError when it does not come true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is any
            await asyncio.sleep(0.005)


def heartbeat(**changes: Any) -> Heartbeat:
    """A bot that polls with a timeout of 10 s, last heard of 1 s ago."""
    usual = {
        "pid": PID, "phase": "running", "start_mono": NOW - 1000, "polling_seen": True,
        "poll_start_mono": NOW - 1, "poll_success_mono": NOW - 1, "poll_timeout_s": 10.0,
    }  # fmt: skip
    return Heartbeat(**{**usual, **changes})


def observation(settings: Mapping[str, Any] | None = None, **changes: Any) -> Observation:
    """A healthy script bot; ``settings`` are laid over the defaults."""
    usual = {
        "bot": "greeter", "now": NOW, "now_at": NOW_AT, "launch": "script", "enabled": True, "state": "running",
        "pid": PID, "uptime_s": 1000.0, "heartbeat": heartbeat(), "runs": (), "memory_bytes": 50 * 1024**2,
        "cpu_percent": 0.1, "connections": 1,
    }  # fmt: skip
    return Observation(**{**usual, **changes}, settings={**DEFAULTS, **(settings or {})})


def finding(check: str = "deaf", level: Level = Level.CRITICAL, **changes: Any) -> Finding:
    usual = {"bot": "greeter", "text": f"{check}: no luck", "health": Health.DEAF}
    return Finding(check=check, level=level, **{**usual, **changes})


def alert(number: int = 1, incident: str = "i", **changes: Any) -> Alert:
    usual = {"id": f"{incident}.{number}", "incident": incident, "host": "h", "bot": "greeter", "check": "deaf",
             "level": Level.CRITICAL, "kind": "opened", "text": f"text {number}", "at": NOW_AT}  # fmt: skip
    return Alert(**{**usual, **changes})


@dataclass
class Clock:
    """A clock that stands still until a test moves it; ``wall`` can be moved alone."""

    mono: float = NOW
    wall: float = NOW_AT

    def __call__(self) -> tuple[float, float]:
        return self.mono, self.wall

    def forward(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds


def process(state: int = ProcessStates.RUNNING, pid: int = PID, autostart: bool = True, **changes: Any) -> Any:
    """supervisord's process object, as far as getBots reads it."""
    usual = {
        "pid": pid,
        "laststart": NOW_AT - 1000,
        "laststop": 0,
        "exitstatus": None,
        "spawnerr": None,
        "state": state,
    }
    made = SimpleNamespace(
        **{**usual, **changes}, config=SimpleNamespace(autostart=autostart, command="python -P x 0123", stopwaitsecs=12)
    )
    made.get_state = lambda: made.state
    return made


@dataclass
class FakeSupervisor:
    """supervisord with processes of ``process``; its answers are made by the code that runs inside the real one.

    ``calls`` are the orders in turn. ``on_stop`` is called in the middle of a stop. ``away``: it does not answer.
    """

    clock: Clock
    processes: dict[str, Any] = field(default_factory=dict)
    state: str = "RUNNING"
    calls: list[tuple[str, str]] = field(default_factory=list)
    on_stop: Any = None
    refuse_start: bool = False
    away: bool = False
    stopping: bool = False
    next_pid: int = 5000
    lock: threading.Lock = field(default_factory=threading.Lock)

    def bots(self) -> dict[str, Any]:
        if self.away:
            raise SupervisordAway("supervisord does not answer at /x: run 'multibot start'")
        seen = Seen({}, None, self.clock.wall, self.clock.mono)
        rows = [bot_row(bot, p, seen, Past()) for bot, p in self.processes.items()]
        answer = {"schema": 1, "at": self.clock.wall,
                  "supervisord": {"pid": 1, "state": self.state, "version": "4.3.0", "stopping": self.stopping},
                  "monitor": {"ok": False, "tick_age_s": None}, "bots": rows}  # fmt: skip
        restored: dict[str, Any] = json.loads(json.dumps(answer))
        return restored

    def stop(self, program: str, wait_s: float | None = None) -> None:
        with self.lock:
            self.calls.append(("stop", program))
            found = self.processes[program.removeprefix("bot-")]
            found.state, found.pid, found.laststop = ProcessStates.STOPPED, 0, self.clock.wall
        if self.on_stop is not None:
            self.on_stop()

    def start(self, program: str) -> None:
        with self.lock:
            self.calls.append(("start", program))
            if self.refuse_start:
                raise MultibotError("no")
            self.next_pid += 1
            found = self.processes[program.removeprefix("bot-")]
            found.state, found.pid, found.laststart = ProcessStates.RUNNING, self.next_pid, self.clock.wall

    def close(self) -> None:
        """There is no connection."""


class Point(EntryPoint):
    """An entry point of our group that loads an object of the test (or raises what it raises)."""

    _objects: dict[str, Any] = {}  # noqa: RUF012 - EntryPoint is immutable

    def load(self) -> Any:
        found = self._objects[self.value]
        if isinstance(found, BaseException):
            raise found
        return found() if isinstance(found, type(lambda: 0)) else found


def point(name: str, loads: Any) -> EntryPoint:
    """An entry point ``name`` that loads ``loads``; a function is called, an exception raised."""
    value = f"test:{id(loads)}"
    Point._objects[value] = loads
    return Point(name=name, value=value, group=GROUP)
