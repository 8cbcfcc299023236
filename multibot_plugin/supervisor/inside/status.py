"""The monitor's file as supervisord reads it: what is in it, and whether it still counts.

Runs inside supervisord: standard library and multibot_runner.protocol only. Somebody may have made anything of the
file; nothing here raises because of that.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from multibot_runner.protocol import STATUS_CAP, BadFile, decode_object, is_number, read_file

# A picture of the monitor counts as present for this many of its ticks, and some.
_FRESH_TICKS, _FRESH_MORE_S = 3, 5.0
_LARGEST = 1e18  # of a number that is no mistake


class StatusFile:
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


def tick_age(status: Mapping[str, Any], now_mono: float) -> float | None:
    """Return the seconds since the monitor's last tick; None without one (or from before a reboot)."""
    mono = number(status.get("mono"))
    if mono is None or mono > now_mono:
        return None
    return round(now_mono - mono, 1)


def is_fresh(status: Mapping[str, Any], now_mono: float) -> bool:
    """Return whether the monitor's picture still counts."""
    age_s, tick_s = tick_age(status, now_mono), number(status.get("tick_s"))
    return age_s is not None and tick_s is not None and age_s <= _FRESH_TICKS * tick_s + _FRESH_MORE_S


def why_away(program: str, state: str, pid: int, status: Mapping[str, Any], now_mono: float) -> str:
    """Return why the monitor would not hear us, and what to do; "" when it would.

    ``program`` is its name in supervisord, ``state`` and ``pid`` what supervisord says of it. An earlier monitor's
    picture is not this one's.
    """
    if state in ("STARTING", "BACKOFF"):
        return f"the monitor does not run yet ({state}): ask again in a moment"
    if state != "RUNNING":
        return f"the monitor does not run ({state}): start the program {program}"
    its_own = status.get("pid", pid) == pid
    if its_own and is_fresh(status, now_mono):
        return ""
    age_s = tick_age(status, now_mono) if its_own else None
    silent = "has not reported yet" if age_s is None else f"has been silent for {age_s:.0f} s"
    return f"the monitor {silent}: ask again in a moment, else restart the program {program}"


def incident_rows(status: Mapping[str, Any], bots: Collection[str]) -> list[dict[str, Any]]:
    """Return the open incidents of ``bots`` in the monitor's file, whatever somebody made of it."""
    found = status.get("incidents")
    return [
        {key: text(item.get(key)) for key in ("id", "bot", "check", "level", "text", "decision")}
        | {"since_at": number(item.get("since_at")), "told": texts(item.get("told"))}
        for item in (found if isinstance(found, list) else ())
        if isinstance(item, dict) and text(item.get("bot")) in bots
    ]


def number(value: Any) -> float | None:
    return value if is_number(value, _LARGEST) else None


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
