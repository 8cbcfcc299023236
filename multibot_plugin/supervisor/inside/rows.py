"""A bot as getBots tells of it: supervisord's process, its past, and what the monitor saw of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervisor.states import getEventListenerStateDescription, getProcessStateDescription

from multibot_plugin.supervisor.inside.ends import WINDOWS, Past
from multibot_plugin.supervisor.inside.status import is_fresh, number, text, tick_age
from multibot_runner.protocol import lifecycle

_OF_THE_PROCESS = ("memory_bytes", "cpu_percent", "connections")
_UNSEEN = dict.fromkeys(("last_poll_age_s", "last_update_age_s", *_OF_THE_PROCESS))
_NO_DEATHS = dict.fromkeys(WINDOWS, 0)


class Seen:
    """The monitor's picture at one moment (wall and monotonic time), its freshness judged once for all bots.

    ``monitor`` is supervisord's process object of our listener: what nobody looks at is not known, and an earlier
    monitor's picture is not this one's.
    """

    def __init__(self, status: Mapping[str, Any], monitor: Any | None, now: float, now_mono: float) -> None:
        bots = status.get("bots")
        self.now, self.now_mono = now, now_mono
        self.bots: Mapping[str, Any] = bots if isinstance(bots, dict) else {}
        runs = monitor is not None and getProcessStateDescription(monitor.get_state()) == "RUNNING"
        looks = runs and status.get("pid", monitor.pid) == monitor.pid  # type: ignore[union-attr]
        age_s = tick_age(status, now_mono) if looks else None
        self.fresh = looks and is_fresh(status, now_mono)
        self.why_unknown = (
            "just started" if self.fresh
            else "the monitor does not run" if age_s is None
            else f"the monitor has been silent for {age_s:.0f} s"
        )  # fmt: skip


def bot_row(bot: str, process: Any, seen: Seen, past: Past | None) -> dict[str, Any]:
    """Return one row of getBots.

    The monitor's part is used only where it is fresh and speaks of the process that lives now.
    """
    told = seen.bots.get(bot)
    told = told if isinstance(told, dict) else {}
    pid = process.pid or None
    same = seen.fresh and bool(told) and told.get("pid") == pid
    statename = getProcessStateDescription(process.get_state())
    return {
        "id": bot,
        "state": lifecycle(statename, process.exitstatus or 0, text(told.get("phase")) if same else None),
        "health": text(told.get("health")) or "unknown" if same else "unknown",
        "cause": text(told.get("cause")) if same else seen.why_unknown if pid else "",
        "pid": pid,
        "uptime_s": round(max(0.0, seen.now - process.laststart), 1) if pid else None,
        "restarts_24h": number(told.get("restarts_24h")),
        "launch": text(told.get("launch")) or None,
        # of supervisord
        "enabled": bool(process.config.autostart),
        "digest": process.config.command.rpartition(" ")[2],
        "statename": statename,
        "start_at": process.laststart or None,
        "stop_at": process.laststop or None,
        "exit_code": process.exitstatus,
        "spawn_error": process.spawnerr or None,
        "stop_wait_s": process.config.stopwaitsecs,
        **(_of_the_process(told, seen.now_mono) if same and pid else _UNSEEN),
        **_of_the_past(past, seen.now_mono),
    }


def _of_the_process(told: Mapping[str, Any], now_mono: float) -> dict[str, Any]:
    """Return what the monitor measured of the process that lives now."""
    row: dict[str, Any] = {key: number(told.get(key)) for key in _OF_THE_PROCESS}
    row["last_poll_age_s"] = _age(told.get("poll_success_mono"), now_mono)
    row["last_update_age_s"] = _age(told.get("update_mono"), now_mono)
    return row


def _of_the_past(past: Past | None, now_mono: float) -> dict[str, Any]:
    """Return the last end (see ends.End) and the deaths that nobody had asked for, by window."""
    if past is None or past.end is None:
        return {"end": None, "deaths": _NO_DEATHS}
    end = past.end
    return {
        "end": {"at": end.at, "code": end.code, "signal": end.signal, "asked": end.asked},
        "deaths": past.within(now_mono),
    }


def monitor_row(monitor: Any | None, status: Mapping[str, Any], now_mono: float) -> dict[str, Any]:
    """Return what getBots says of the monitor: whether it looks, where our listener stands in supervisord's protocol
    (READY, BUSY ...), how many events wait for it, and what it says of the database."""
    state = None if monitor is None else getProcessStateDescription(monitor.get_state())
    spoken = None if monitor is None else monitor.listener_state
    database = status.get("database")
    return {
        "ok": is_fresh(status, now_mono) and state == "RUNNING",
        "state": state,
        "listener": None if spoken is None else getEventListenerStateDescription(spoken),
        "backlog": 0 if monitor is None else len(monitor.group.event_buffer),
        "tick_age_s": tick_age(status, now_mono),
        # whatever somebody made of the file
        "database": {"ok": database.get("ok") is True, "text": text(database.get("text"))}
        if isinstance(database, dict) else None,
    }  # fmt: skip


def _age(value: Any, now_mono: float) -> float | None:
    mono = number(value)
    return None if mono is None else round(max(0.0, now_mono - mono), 1)
