"""The bots as ``list``, ``status`` and ``logs`` show them: from supervisord, else from what was rendered last."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multibot_plugin.cli.output import NOTHING, Context
from multibot_plugin.errors import NoSuchBot, SupervisordAway
from multibot_plugin.health.states import NO_POLL_SEEN, Health
from multibot_plugin.home import Home
from multibot_runner.protocol import KILLED, PROGRAM_PREFIX, STATUS_CAP, BadFile, decode_object, is_number, read_file
from multibot_runner.readers import read_runs

Row = Mapping[str, Any]
_SERIOUS = {Health.UNAUTHORISED, Health.CONFLICTED, Health.FROZEN, Health.DEAF}
_ROW_KEYS = (
    "id", "state", "health", "cause", "pid", "uptime_s", "restarts_24h", "memory_bytes", "cpu_percent", "connections",
    "last_poll_age_s", "last_update_age_s", "launch", "enabled", "digest", "statename", "start_at", "stop_at",
    "exit_code", "spawn_error", "stop_wait_s", "end", "deaths",
)  # fmt: skip


class NotLoaded(SupervisordAway):
    """supervisord answers, and bots may run in it, but our plugin is not loaded in it (or refuses)."""


@dataclass(frozen=True)
class Fleet:
    """All bots (rows as the RPC method ``multibot.getBots`` gives them) and who said so.

    ``supervisord`` and ``monitor`` as there, empty when supervisord does not answer; then ``away`` says why.
    ``foreign``: ids that programs of somebody else have.
    """

    rows: tuple[Row, ...]
    supervisord: Mapping[str, Any]
    monitor: Mapping[str, Any]
    at: float
    away: SupervisordAway | None = None
    foreign: frozenset[str] = frozenset()


def look(context: Context) -> Fleet:
    """Return the fleet as it is now; never raises because supervisord is away."""
    try:
        with context.supervisor() as supervisor:
            answer = supervisor.bots()
    except SupervisordAway as error:
        return without(context, error)
    rows = tuple(explained(context.home, row) for row in sorted(answer["bots"], key=lambda row: str(row["id"])))
    foreign = frozenset(answer.get("foreign", ()))
    return Fleet(rows, answer["supervisord"], answer["monitor"], answer["at"], None, foreign)


def without(context: Context, away: SupervisordAway) -> Fleet:
    """Return what is known of the fleet without supervisord."""
    return Fleet(_rendered(context), {}, {}, time.time(), away)


def explained(home: Home, row: Row) -> Row:
    """Return the row with a cause where a bot does not stay up: its runner's words tell more than supervisord's."""
    if row["cause"] or row["state"] not in ("quarantined", "backing-off", "finished"):
        return row
    last = next((run for run in read_runs(home.bot(row["id"])) if run.pid != row["pid"]), None)
    if last is None:
        return {**row, "cause": row["spawn_error"] or ""}
    return {**row, "cause": last.exit.text if last.exit else KILLED if last.died else ""}


def _rendered(context: Context) -> tuple[Row, ...]:
    """Return the bots of the rendered file: what supervisord would start."""
    from multibot_plugin.bots.files import read_text
    from multibot_plugin.bots.render import read_rendered

    cause = "supervisord is not running"
    return tuple(
        empty_row(bot, cause=cause, enabled=section.autostart, digest=section.digest, restarts_24h=0)
        for bot, section in sorted(read_rendered(read_text(context.home.rendered)).items())
    )


def empty_row(bot: str, **known: Any) -> Row:
    """Return the row of a bot of which supervisord says nothing: all None but what is ``known``."""
    stopped = {"id": bot, "state": "stopped", "health": str(Health.UNKNOWN)}
    return dict.fromkeys(_ROW_KEYS) | stopped | known


def read_status(home: Home) -> Mapping[str, Any]:
    """Return the monitor's last picture (``channels``, ``incidents``, ``plugins`` ...), empty without one."""
    try:
        found = decode_object(read_file(home.status, STATUS_CAP))
    except BadFile:
        return {}
    return found | {
        "channels": [name for name in _list(found, "channels") if isinstance(name, str)],
        "incidents": _records(found, "incidents", {"text": str, "bot": str, "since_at": float}),
        "plugins": _records(found, "plugins", {"name": str, "failures": int}),
        "deliveries": _records(found, "deliveries", {"channel": str, "waiting": int}),
    }


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    return value if isinstance(value, list) else []


def _records(document: Mapping[str, Any], name: str, needed: Mapping[str, type]) -> list[dict[str, Any]]:
    """Return the records of a list that have what they need; a file that somebody damaged costs a line, no command."""
    return [
        item
        for item in _list(document, name)
        if isinstance(item, dict)
        and all(is_number(item.get(k)) if t is not str else isinstance(item.get(k), str) for k, t in needed.items())
    ]


def select(rows: Sequence[Row], words: Sequence[str]) -> list[Row]:
    """Return the rows that the ids or patterns (``shop-*``) name, all without any; raises NoSuchBot.

    supervisord's own name of a bot (``bot-shop``) will do, too, where no bot has it for an id.
    """
    names = [str(row["id"]) for row in rows]
    chosen: set[str] = set()
    for word in words:
        found = _named(names, word) or _named(names, word.removeprefix(PROGRAM_PREFIX))
        if not found:
            raise NoSuchBot(word, names)
        chosen |= found
    return [row for row in rows if not words or row["id"] in chosen]


def _named(names: Sequence[str], word: str) -> set[str]:
    return set(fnmatch.filter(names, word)) if set("*?[") & set(word) else {word} & set(names)


def stopper(audit: Sequence[Mapping[str, Any]]) -> str:
    """Return `` by ada (supervisorctl)`` from a bot's audit rows, newest first: who wished that it does not run."""
    for entry in audit:
        if entry["action"] in ("bot.disabled", "bot.stopped"):
            return f" by {entry['actor']} ({entry['door'].partition(' (')[0]})"  # without "(from the journal)"
        if entry["action"] in ("bot.enabled", "bot.started"):
            return ""
    return ""


def condition(row: Row) -> str:
    """Return the one word for a row: its health while it runs, else its state."""
    return str(row["health"] if row["state"] == "running" else row["state"])


def began(row: Row) -> float | None:
    """Return since when a bot is in its state, or its process runs; None where supervisord does not say."""
    if row["state"] == "stopping":
        return None
    at = row["stop_at"] if row["state"] in ("stopped", "quarantined", "backing-off", "finished") else row["start_at"]
    return float(at) if at else None


def in_words(word: str, since: str, cause: str) -> str:
    """Return ``degraded since 14:03: cause``; a cause that tells until when it is so takes the place of since when."""
    if cause.startswith("until "):
        return f"{word} {cause}"
    return f"{word}{since}{f': {cause}' if cause else ''}"


def symbol(row: Row) -> str:
    """Return ● healthy, ▲ warning, ✖ critical, ○ stopped or finished, … in between."""
    state, health = row["state"], row["health"]
    if state in ("quarantined", "backing-off") or (state == "running" and health in _SERIOUS):
        return "✖"
    if state != "running":
        return "○" if state in ("stopped", "finished") else "…"
    return {Health.HEALTHY: "●", Health.UNKNOWN: "…"}.get(health, "▲")


def health_words(row: Row) -> str:
    """Return the cell HEALTH: ``● healthy``, and where nothing can be seen of its polls: ``● healthy (no view)``."""
    if row["state"] in ("stopped", "finished"):
        return NOTHING
    blind = row["launch"] == "command" or row["cause"] == NO_POLL_SEEN
    unseen = " (no view)" if blind and row["health"] == Health.HEALTHY else ""
    return f"{symbol(row)} {row['health']}{unseen}"


def is_well(row: Row) -> bool:
    """Whether nothing is wrong with this bot and it is not stopped."""
    return row["state"] == "finished" or symbol(row) in "●…"
