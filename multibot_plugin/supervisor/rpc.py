"""``[rpcinterface:multibot]``: what supervisord answers about bots, from its own memory and the monitor's one file.

Runs inside supervisord's only thread: imports supervisor, the standard library and multibot_runner.protocol (as does
inside.py); blocks on nothing; lets no exception out (one from a method makes supervisord log the whole request, one
from a subscriber of its events ends it). Every answer is one JSON string in ASCII, because XML-RPC has no place for
None, large numbers or control characters.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from supervisor.options import VERSION
from supervisor.states import getProcessStateDescription, getSupervisorStateDescription
from supervisor.xmlrpc import Faults, RPCError

from multibot_plugin.supervisor.inside import install
from multibot_plugin.supervisor.version import RefusingInterface, too_old
from multibot_runner.protocol import (
    BOT_ID,
    PROGRAM_PREFIX,
    STATUS_CAP,
    BadFile,
    decode_object,
    is_number,
    lifecycle,
    read_file,
)

SCHEMA = 1
VERSION_LOADED = importlib.metadata.version("supervisor-multibot")  # may be older than what is installed by now
INTERNAL_ERROR = 9000  # ours: supervisord's own fault codes end below 100
# A picture of the monitor counts as present for this many of its ticks, and some.
_MONITOR, _LISTENER = "multibot", "multibot_plugin.supervisor.listener"
_FRESH_TICKS, _FRESH_MORE_S = 3, 5.0
_RUNNER = " -m multibot_runner "  # in the command of every bot (templates/program.conf.j2)
_LARGEST = 1e18  # of a number that is no mistake
_OF_THE_PROCESS = ("memory_bytes", "cpu_percent", "connections")


def make_interface(supervisord: Any, status: str, state: str = "") -> MultibotInterface | RefusingInterface:
    """Return the interface; supervisord asks once for each of its HTTP servers and gets the same one.

    ``status`` is the monitor's file, ``state`` the state directory (the options of the section).
    """
    if reason := too_old(VERSION):
        supervisord.options.logger.critical(f"multibot is not loaded: {reason}")
        return RefusingInterface(reason)
    interface: MultibotInterface | None = getattr(supervisord, "multibot_interface", None)
    if interface is None:
        interface = MultibotInterface(supervisord, Path(status))
        install(supervisord)
        supervisord.multibot_interface = interface
    return interface


def _contained(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let only RPCError out of a method, and write no argument anywhere."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: MultibotInterface, *arguments: Any) -> Any:
        try:
            signature.bind(self, *arguments)
        except TypeError:
            raise RPCError(Faults.INCORRECT_PARAMETERS) from None
        try:
            return method(self, *arguments)
        except RPCError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            self._warn(f"multibot.{method.__name__}: {type(error).__name__} at {frame.name}:{frame.lineno}")
            raise RPCError(INTERNAL_ERROR, f"{type(error).__name__}: see supervisord's log") from None

    return call


class MultibotInterface:
    """The methods of the namespace ``multibot``; ``system.listMethods`` shows what stands in this class itself."""

    def __init__(self, supervisord: Any, status: Path) -> None:
        self._supervisord = supervisord
        self._status = _StatusFile(status)

    @_contained
    def getVersion(self) -> str:
        """Return the versions of multibot (as loaded here) and supervisor

        @return string result JSON: multibot, supervisor, schema
        """
        return _json({"multibot": VERSION_LOADED, "supervisor": VERSION, "schema": SCHEMA})

    @_contained
    def getBots(self) -> str:
        """Return every bot with its state and health

        @return string result JSON: schema, at, supervisord, monitor, bots
        """
        now, now_mono = time.time(), time.monotonic()
        status = self._status.read()
        age_s = tick_age(status, now_mono)
        state = getSupervisorStateDescription(self._supervisord.options.mood)
        states = [(process, getProcessStateDescription(process.get_state())) for process in self._processes()]
        listener, pid = next(((state, p.pid) for p, state in states if _is_monitor(p)), (None, 0))
        # What nobody looks at is not known; an earlier monitor's picture is not this one's.
        looks = listener == "RUNNING" and status.get("pid", pid) == pid
        seen = status if looks else {**status, "mono": None}
        return _json({
            "schema": SCHEMA,
            "at": now,
            "supervisord": {"pid": os.getpid(), "state": state, "version": VERSION,
                            "stopping": any(state == "STOPPING" for _, state in states)},
            "monitor": {"ok": is_fresh(status, now_mono) and listener == "RUNNING", "state": listener,
                        "tick_age_s": age_s, "database": _database(status.get("database"))},
            "bots": [bot_row(bot, p, seen, now, now_mono) for bot, p in sorted(self._bots().items())],
        })  # fmt: skip

    @_contained
    def setAutostart(self, bot: str, enabled: bool) -> bool:
        """Change whether a bot starts with supervisord, in memory only

        Whoever calls this writes the same into the section, so that reread sees no change.

        @param string bot Id of the bot
        @param boolean enabled Whether it starts with supervisord
        @return boolean result Always True unless error
        """
        if not isinstance(bot, str) or not isinstance(enabled, bool):
            raise RPCError(Faults.INCORRECT_PARAMETERS)
        process = self._bots().get(bot)
        if process is None:
            raise RPCError(Faults.BAD_NAME)
        process.config.autostart = enabled
        # What was read last, for 'avail' and for 'remove' and 'add' without a 'reread' between.
        for group in self._supervisord.options.process_group_configs:
            if group.name == process.config.name:
                for config in group.process_configs:
                    config.autostart = enabled
        return True

    def _bots(self) -> dict[str, Any]:
        """Return supervisord's process objects of the bots by id."""
        found: dict[str, Any] = {}
        for name, group in self._supervisord.process_groups.items():
            bot = name.removeprefix(PROGRAM_PREFIX)
            process = group.processes.get(name)
            # A program of somebody else may be called bot-something, too.
            if bot != name and BOT_ID.fullmatch(bot) and process and _RUNNER in process.config.command:
                found[bot] = process
        return found

    def _processes(self) -> list[Any]:
        return [process for group in self._supervisord.process_groups.values() for process in group.processes.values()]

    def _warn(self, text: str) -> None:
        self._supervisord.options.logger.warn(text)


class _StatusFile:
    """The monitor's file, parsed again only when it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._content: Mapping[str, Any] = {}

    def read(self) -> Mapping[str, Any]:
        """Return the content, or an empty mapping when the file is missing or not what it should be."""
        try:
            info = os.stat(self._path)
            seen = (info.st_ino, info.st_mtime_ns, info.st_size)
            if seen != self._seen:
                self._content = decode_object(read_file(self._path, STATUS_CAP))
                self._seen = seen
        except (OSError, BadFile):
            self._seen, self._content = None, {}
        return self._content


def _is_monitor(process: Any) -> bool:
    return process.config.name == _MONITOR or _LISTENER in process.config.command


def tick_age(status: Mapping[str, Any], now_mono: float) -> float | None:
    """Return the seconds since the monitor's last tick; None without one (or from before a reboot)."""
    mono = _number(status.get("mono"))
    if mono is None or mono > now_mono:
        return None
    return round(now_mono - mono, 1)


def is_fresh(status: Mapping[str, Any], now_mono: float) -> bool:
    """Return whether the monitor's picture still counts."""
    age_s, tick_s = tick_age(status, now_mono), _number(status.get("tick_s"))
    return age_s is not None and tick_s is not None and age_s <= _FRESH_TICKS * tick_s + _FRESH_MORE_S


def bot_row(bot: str, process: Any, status: Mapping[str, Any], now: float, now_mono: float) -> dict[str, Any]:
    """Return one row of getBots out of supervisord's process and what the monitor saw of it.

    The monitor's part is used only where it is fresh and speaks of the process that lives now.
    """
    bots = status.get("bots")
    seen = bots.get(bot) if isinstance(bots, dict) else None
    seen = seen if isinstance(seen, dict) else {}
    pid = process.pid or None
    same = is_fresh(status, now_mono) and bool(seen) and seen.get("pid") == pid
    statename = getProcessStateDescription(process.get_state())
    row: dict[str, Any] = {
        "id": bot,
        "state": lifecycle(statename, process.exitstatus or 0, _text(seen.get("phase")) if same else None),
        "health": _text(seen.get("health")) or "unknown" if same else "unknown",
        "cause": _text(seen.get("cause")) if same else _why_unknown(status, now_mono, pid),
        "pid": pid,
        "uptime_s": round(max(0.0, now - process.laststart), 1) if pid else None,
        "restarts_24h": _number(seen.get("restarts_24h")),
        "launch": _text(seen.get("launch")) or None,
        "last_poll_age_s": _age(seen.get("poll_success_mono"), now_mono) if same and pid else None,
        "last_update_age_s": _age(seen.get("update_mono"), now_mono) if same and pid else None,
    }
    row.update({key: _number(seen.get(key)) if same and pid else None for key in _OF_THE_PROCESS})
    return row | _of_supervisord(process, statename)


def _of_supervisord(process: Any, statename: str) -> dict[str, Any]:
    return {
        "enabled": bool(process.config.autostart),
        "digest": process.config.command.rpartition(" ")[2],
        "statename": statename,
        "start_at": process.laststart or None,
        "stop_at": process.laststop or None,
        "exit_code": process.exitstatus,
        "spawn_error": process.spawnerr or None,
        "stop_wait_s": process.config.stopwaitsecs,
    }


def _why_unknown(status: Mapping[str, Any], now_mono: float, pid: int | None) -> str:
    if pid is None:
        return ""
    if is_fresh(status, now_mono):
        return "just started"
    age_s = tick_age(status, now_mono)
    return "the monitor does not run" if age_s is None else f"the monitor has been silent for {age_s:.0f} s"


def _number(value: Any) -> float | None:
    return value if is_number(value, _LARGEST) else None


def _database(value: Any) -> dict[str, Any] | None:
    """Return what the monitor says of the database, whatever somebody made of its file."""
    return {"ok": value.get("ok") is True, "text": _text(value.get("text"))} if isinstance(value, dict) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _age(value: Any, now_mono: float) -> float | None:
    mono = _number(value)
    return None if mono is None else round(max(0.0, now_mono - mono), 1)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
