"""Whose port is it? Those that bots declare, and the processes that listen on them now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import psutil

from multibot_plugin.bots.leftovers import processes
from multibot_plugin.errors import Refused
from multibot_plugin.home import Home

Listening = Mapping[int, tuple[int | None, ...]]  # by port: pids, None where the kernel does not tell us


def check_port_free(bot: str, port: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise Refused when another bot of ``rows`` (columns id, settings) has declared this port; 0 is none."""
    for row in rows:
        settings = row["settings"] if isinstance(row["settings"], Mapping) else {}
        if port and row["id"] != bot and str(settings.get("port", 0)) == str(port):
            raise Refused(f"port {port} of {bot!r} is already the port of {row['id']!r}: choose another one")


def check_port_unused(home: Home, bot: str, port: int) -> None:
    """Raise Refused when a process that is not of this bot listens on its port."""
    if port and (who := stranger(home, bot, port, listening())):
        raise Refused(f"port {port} of {bot!r} is in use by {who}: choose another one, or end that (or --no-check)")


def listening() -> Listening:
    """Return which processes listen on which TCP port, on whatever address."""
    found: dict[int, tuple[int | None, ...]] = {}
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.status == psutil.CONN_LISTEN:
            found[connection.laddr.port] = (*found.get(connection.laddr.port, ()), connection.pid)
    return found


def stranger(home: Home, bot: str, port: int, listening: Listening) -> str:
    """Return who else than this bot listens on ``port``, ``nginx (pid 812)``; "": nobody."""
    pids = set(listening.get(port, ()))
    others = pids - processes(home, bot) if pids else pids
    for pid in others - {None}:
        assert pid is not None
        try:
            return f"{psutil.Process(pid).name()} (pid {pid})"
        except psutil.Error:
            continue
    return "another user's process" if None in others else ""
