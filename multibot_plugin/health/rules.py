"""The monitor's own rules on what supervisord says: rows, health, restarts, and what an operator did by hand. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from multibot_plugin.health.states import Finding, Health, Observation, health_of
from multibot_runner.protocol import BOT_ID, Run

DAY_S = 86400.0
# A stop or start is the operator's wish once it has lasted: 'restart' and 'apply' pass through a stop.
WISH_AFTER_S = 3.0
UNSEEN_WISH_AFTER_S = 15.0
_RUNNING = ("STARTING", "RUNNING")


@dataclass(frozen=True)
class Row:
    """A bot as supervisord has it (a row of ``multibot.getBots``). ``pid`` None: no process.

    ``start_at``, ``stop_at``: seconds since the epoch, 0 never. ``enabled``: ``autostart`` in supervisord's memory.
    """

    id: str
    statename: str
    pid: int | None
    uptime_s: float | None
    enabled: bool
    start_at: float
    stop_at: float
    exit_code: int
    stop_wait_s: float = 10.0


@dataclass(frozen=True)
class Fleet:
    """One answer of ``multibot.getBots``: whether supervisord is in its RUNNING state, and the bots."""

    running: bool
    supervisord_pid: int
    rows: tuple[Row, ...]


def read_fleet(answer: Mapping[str, Any]) -> Fleet:
    """Return the fleet in an answer of getBots; a row that is none of ours or not understood is left out.

    Raises ValueError when the answer is not one.
    """
    try:
        supervisord = answer["supervisord"]
        running = supervisord["state"] in ("RUNNING", 1)
        rows = [_read_row(item) for item in answer["bots"]]
        return Fleet(running, int(supervisord["pid"]), tuple(row for row in rows if row))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an answer of getBots: {type(error).__name__} {error}") from error


def _read_row(item: Mapping[str, Any]) -> Row | None:
    if not BOT_ID.fullmatch(str(item.get("id", ""))):
        return None
    uptime_s = item.get("uptime_s")
    return Row(
        id=item["id"], statename=str(item.get("statename", "UNKNOWN")), pid=int(item.get("pid") or 0) or None,
        uptime_s=None if uptime_s is None else float(uptime_s), enabled=bool(item.get("enabled")),
        start_at=float(item.get("start_at") or 0), stop_at=float(item.get("stop_at") or 0),
        exit_code=int(item.get("exit_code") or 0), stop_wait_s=float(item.get("stop_wait_s") or 0),
    )  # fmt: skip


def judge(observation: Observation, open_findings: Iterable[Finding]) -> tuple[Health, str]:
    """Return a bot's health and its cause in words: the worst of what is found, else what can be seen at all."""
    findings = list(open_findings)
    health = health_of(observation, findings)
    for finding in findings:
        if finding.health == health:
            return health, finding.text
    if health is not Health.HEALTHY:
        return health, ""
    heartbeat = observation.heartbeat
    if heartbeat is None:
        return Health.UNKNOWN, "no heartbeat yet"
    if observation.launch == "command":
        return health, "polling is not visible"
    if heartbeat.poll_success_mono is None:
        if heartbeat.polling_seen or observation.launch == "build":
            return Health.UNKNOWN, "no successful getUpdates yet"
        # A program that only sends is well without polling.
        return health, "no getUpdates seen"
    return health, ""


def restarts_24h(runs: tuple[Run, ...], ours_at: Iterable[float], now_at: float) -> int:
    """Return how often a bot came back within a day: after a death, or restarted by the monitor (``ours_at``).

    What a person started is not counted.
    """
    after_death = sum(
        1 for newer, older in itertools.pairwise(runs) if older.died and newer.started_at > now_at - DAY_S
    )
    return after_death + sum(1 for at in ours_at if at > now_at - DAY_S)


def contradiction(row: Row) -> bool | None:
    """Return the wish that a bot's state expresses against its autostart (True run, False not); None: they agree."""
    if row.statename == "STOPPED" and row.enabled and row.start_at:
        return False
    if row.statename in _RUNNING and not row.enabled:
        return True
    return None


@dataclass(frozen=True)
class Contrary:
    """A contradiction, since when it is seen (monotonic), and how long it must last to be the operator's wish.

    ``wait_s`` None: it is none, however long it lasts.
    """

    wish: bool
    since: float
    wait_s: float | None


def watch(held: Contrary | None, before: Row | None, row: Row, now: float) -> Contrary | None:
    """Return the contradiction of a bot after one more look (None: there is none).

    An operator who went past multibot (``supervisorctl stop``) changed the state. Where autostart changed instead,
    it was one of our own doors, which say what they want first and act then; with many bots that takes a while.
    ``before``: the last look; None after a start of the monitor, when it cannot be told which of them changed.
    """
    wish = contradiction(row)
    if wish is None:
        return None
    if held is not None and held.wish is wish:
        return held
    if before is None:
        return Contrary(wish, now, UNSEEN_WISH_AFTER_S)
    return Contrary(wish, now, None if before.enabled != row.enabled else WISH_AFTER_S)


def is_wish(contrary: Contrary, now: float) -> bool:
    """Return whether a contradiction has lasted long enough to be what the operator wants."""
    return contrary.wait_s is not None and now - contrary.since >= contrary.wait_s


def is_deserted(observation: Observation) -> bool:
    """Return whether nobody wants this bot to run, so that nothing can be wrong with it.

    A stopped bot that is still enabled may be on its way through a restart.
    """
    return not observation.enabled and observation.state not in ("running", "starting")


def ending_of(observation: Observation) -> str:
    """Return what to say of this bot's incidents that are over; "": it is well again."""
    if is_deserted(observation):
        return "was stopped"
    return "is quarantined now" if observation.state == "quarantined" else ""
