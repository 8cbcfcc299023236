"""``status.json``: what the monitor saw at its last tick, for supervisord's plugin and the command line. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from multibot_plugin.alerts.outbox import Delivery
from multibot_plugin.health.incidents import Key, Track, of_bot
from multibot_plugin.health.rules import judge, restarts_24h
from multibot_plugin.health.states import Observation
from multibot_plugin.plugins import PluginStatus

SCHEMA = 1


def bot_picture(observation: Observation, tracks: Mapping[Key, Track], restarts_at: Iterable[float]) -> dict[str, Any]:
    """Return one bot's part; ``restarts_at``: wall times of the monitor's restarts of it."""
    heartbeat = observation.heartbeat
    health, cause = judge(observation, (t.finding for t in of_bot(tracks, observation.bot)))
    return {
        "pid": observation.pid,
        "phase": heartbeat.phase if heartbeat else None,
        "health": str(health),
        "cause": cause,
        "memory_bytes": observation.memory_bytes,
        "cpu_percent": observation.cpu_percent,
        "connections": observation.connections,
        "poll_success_mono": heartbeat.poll_success_mono if heartbeat else None,
        "update_mono": heartbeat.update_mono if heartbeat else None,
        "restarts_24h": restarts_24h(
            observation.runs, restarts_at, observation.now_at, observation.deaths.get("24h", 0)
        ),
        "launch": observation.launch,
        "webhook": asdict(observation.webhook) if observation.webhook else None,
    }


def incidents_picture(tracks: Mapping[Key, Track], told: Callable[[str], list[str]]) -> list[dict[str, Any]]:
    """Return the open incidents; ``bot`` is "" for those of the monitor itself. ``told``: where one was told, by id."""
    return [
        {"id": t.id, "bot": t.finding.bot, "check": t.finding.check, "level": str(t.level), "text": t.finding.text,
         "since_at": t.began_at, "decision": t.said, "told": [] if t.quiet else told(t.id)}
        for t in tracks.values()
        if t.level is not None
    ]  # fmt: skip


def deliveries_picture(deliveries: Iterable[Delivery], channels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return how each channel that reaches people (``channels``: where it goes, by plugin) or fails does."""
    return [
        {"channel": d.channel, "to": channels.get(d.channel, d.channel), "waiting": d.waiting, "failure": d.failure}
        for d in deliveries
        if d.channel in channels or d.failure
    ]


def plugins_picture(plugins: Sequence[PluginStatus]) -> list[dict[str, Any]]:
    return [asdict(plugin) for plugin in plugins]
