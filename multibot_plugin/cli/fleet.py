"""The bots as ``list``, ``status`` and ``logs`` show them: from supervisord, else from what was rendered last."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multibot_plugin.cli.output import NOTHING, Context
from multibot_plugin.errors import NoSuchBot, SupervisordAway
from multibot_plugin.health.states import Health

Row = Mapping[str, Any]
_SERIOUS = {Health.UNAUTHORISED, Health.CONFLICTED, Health.FROZEN, Health.DEAF}
_ROW_KEYS = (
    "id", "state", "health", "cause", "pid", "uptime_s", "restarts_24h", "memory_bytes", "cpu_percent", "connections",
    "last_poll_age_s", "last_update_age_s", "launch", "enabled", "digest", "statename", "start_at", "stop_at",
    "exit_code", "spawn_error", "stop_wait_s",
)  # fmt: skip


@dataclass(frozen=True)
class Fleet:
    """All bots (rows as the RPC method ``multibot.getBots`` gives them) and who said so.

    ``supervisord`` and ``monitor`` as there, empty when supervisord does not answer; then ``away`` says why.
    """

    rows: tuple[Row, ...]
    supervisord: Mapping[str, Any]
    monitor: Mapping[str, Any]
    at: float
    away: SupervisordAway | None = None


def look(context: Context) -> Fleet:
    """Return the fleet as it is now; never raises because supervisord is away."""
    try:
        with context.supervisor() as supervisor:
            answer = supervisor.bots()
    except SupervisordAway as error:
        return Fleet(_rendered(context), {}, {}, time.time(), error)
    rows = tuple(sorted(answer["bots"], key=lambda row: str(row["id"])))
    return Fleet(rows, answer["supervisord"], answer["monitor"], answer["at"])


def _rendered(context: Context) -> tuple[Row, ...]:
    """Return the bots of the rendered file: what supervisord would start."""
    from multibot_plugin.bots.render import read_rendered

    try:
        sections = read_rendered(context.home.rendered.read_text())
    except FileNotFoundError:
        return ()
    empty = dict.fromkeys(_ROW_KEYS)
    known = {"state": "stopped", "health": str(Health.UNKNOWN), "cause": "supervisord is not running"}
    return tuple(
        empty | known | {"id": bot, "enabled": section.autostart, "digest": section.digest, "restarts_24h": 0}
        for bot, section in sorted(sections.items())
    )


def select(rows: Sequence[Row], words: Sequence[str]) -> list[Row]:
    """Return the rows that the ids or patterns (``shop-*``) name, all without any; raises NoSuchBot."""
    names = [str(row["id"]) for row in rows]
    chosen: set[str] = set()
    for word in words:
        found = set(fnmatch.filter(names, word)) if set("*?[") & set(word) else {word} & set(names)
        if not found:
            raise NoSuchBot(word, names)
        chosen |= found
    return [row for row in rows if not words or row["id"] in chosen]


def condition(row: Row) -> str:
    """Return the one word for a row: its health while it runs, else its state."""
    return str(row["health"] if row["state"] == "running" else row["state"])


def symbol(row: Row) -> str:
    """Return ● healthy, ▲ warning, ✖ critical, ○ stopped or … in between."""
    state, health = row["state"], row["health"]
    if state in ("quarantined", "backing-off") or (state == "running" and health in _SERIOUS):
        return "✖"
    if state != "running":
        return "○" if state == "stopped" else "…"
    return {Health.HEALTHY: "●", Health.UNKNOWN: "…"}.get(health, "▲")


def health_words(row: Row) -> str:
    """Return the cell HEALTH: ``● healthy``; a command bot's polls cannot be seen: ``● healthy (no view)``."""
    if row["state"] == "stopped":
        return NOTHING
    unseen = " (no view)" if row["launch"] == "command" and row["health"] == Health.HEALTHY else ""
    return f"{symbol(row)} {row['health']}{unseen}"


def is_well(row: Row) -> bool:
    """Whether nothing is wrong with this bot and it is not stopped."""
    return symbol(row) in "●…"
