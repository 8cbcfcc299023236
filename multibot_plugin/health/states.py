"""The vocabulary of health: what is observed, what is found, what is decided. Pure data, one type per arrow.

Strangers' hooks import these from ``multibot_plugin.hookspecs``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from multibot_runner.protocol import Heartbeat, Run

NO_POLL_SEEN = "no getUpdates seen"  # a bot that may only send: well, as far as can be seen


class Health(StrEnum):
    """A bot's health. The order is the rule: the first that applies is shown."""

    UNAUTHORISED = "unauthorised"
    CONFLICTED = "conflicted"
    FROZEN = "frozen"
    DEAF = "deaf"
    THROTTLED = "throttled"
    OVER_LIMIT = "over-limit"
    DEGRADED = "degraded"
    HEALTHY = "healthy"
    UNKNOWN = "unknown"


class Level(StrEnum):
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class WebhookInfo:
    """What Telegram last answered about a bot whose polls cannot be seen (getWebhookInfo), and since when it is so.

    ``asked_mono``: when. ``code``: 200, or 401 or 404 where the token is rejected; the rest is empty then. ``origin``:
    scheme and host of the webhook, "" where none is set; ``as_configured`` False: it is not the setting
    ``webhook_url``. ``pending``: updates that wait at Telegram; ``waiting_probes``: how many answers in a row, this one
    included, found some waiting and no fewer than before, since ``waiting_since_mono``; ``fetched``: they became fewer
    once while this process ran. ``error``: Telegram's words on
    the last delivery that failed, at ``error_at`` (seconds since the epoch).
    """

    asked_mono: float
    code: int = 200
    origin: str = ""
    as_configured: bool = True
    pending: int = 0
    waiting_probes: int = 0
    waiting_since_mono: float | None = None
    fetched: bool = False
    error_at: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Observation:
    """One bot at one tick, as seen from outside.

    ``now`` is CLOCK_MONOTONIC, ``now_at`` seconds since the epoch. ``state`` is the lifecycle state, ``pid`` and
    ``uptime_s`` those of the runner, None without a process. ``heartbeat`` is None unless this very process wrote it.
    ``runs`` newest first. ``memory_bytes`` (resident) and ``cpu_percent`` (of one core, since the last tick) cover
    the runner and its children. ``settings`` are the bot's live settings (docs/settings.md). ``open``: the checks
    (``Finding.check``) that have an open incident on this bot, for thresholds that clear lower than they fire.
    ``webhook`` is None as long as Telegram was not asked about this process: bots that are seen to poll are not.
    ``deaths`` since supervisord last ended it are supervisord's count by window (``10m``, ``1h``, ``24h``): for a bot
    whose ``runs`` tell nothing.
    ``blind``: the monitor itself cannot write where heartbeats stand, so that there being none means nothing.
    """

    bot: str
    now: float
    now_at: float
    launch: str
    enabled: bool
    state: str
    pid: int | None
    uptime_s: float | None
    heartbeat: Heartbeat | None
    runs: tuple[Run, ...]
    memory_bytes: int | None
    cpu_percent: float | None
    connections: int | None
    settings: Mapping[str, Any]
    open: frozenset[str] = frozenset()
    webhook: WebhookInfo | None = None
    deaths: Mapping[str, int] = field(default_factory=dict)
    blind: bool = False

    @property
    def receives(self) -> str:
        """How updates reach the bot: auto, polling, webhook or nothing (the setting)."""
        return str(self.settings.get("receives", "auto"))

    @property
    def polls(self) -> bool:
        """Whether its polls tell if updates reach the bot: it has to poll and they can be seen, or were seen.

        Of a script that has shown none that is not known: it may only send, or poll where nothing shows.
        """
        seen = self.launch == "build" or (self.heartbeat is not None and self.heartbeat.poll_start_mono is not None)
        return seen and self.receives in ("auto", "polling")


@dataclass(frozen=True)
class Finding:
    """What a check found wrong with one bot at one tick.

    ``check`` names the kind of trouble (one incident per bot and check), ``text`` is one line for a person without
    the bot's name. ``for_s``: only if it is still found after that long does it count. ``restart``: a restart may
    help. ``health``: what the bot is while this lasts. ``since_mono``: since when it is so (CLOCK_MONOTONIC), where
    that is known to be longer ago than the first look that found it.
    """

    bot: str
    check: str
    level: Level
    text: str
    health: Health = Health.DEGRADED
    for_s: float = 0.0
    restart: bool = False
    since_mono: float | None = None


@dataclass(frozen=True)
class Alert:
    """What is told to people: an incident that opened, changed (level, what was done) or was resolved.

    ``id`` is unique per message, ``incident`` per incident. ``text`` is the whole message, at most 4,000 characters.
    That nobody watched for a while (``check`` "away") is opened and never resolved: it is over when it is told.
    """

    id: str
    incident: str
    host: str
    bot: str
    check: str
    level: Level
    kind: str  # opened | changed | resolved
    text: str
    at: float


def health_of(observation: Observation, findings: Iterable[Finding]) -> Health:
    """Return the first health in order among the findings; without any: healthy if the bot runs, else unknown."""
    present = {finding.health for finding in findings}
    for health in Health:
        if health in present:
            return health
    return Health.HEALTHY if observation.state == "running" else Health.UNKNOWN
