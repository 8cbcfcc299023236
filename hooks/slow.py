"""Are updates handled in time? Where the bot's handlers can be seen: how long the oldest update has been waiting."""

from __future__ import annotations

from multibot_plugin.hookspecs import Finding, Health, Level, Observation, hookimpl


@hookimpl
def multibot_check(observation: Observation) -> list[Finding]:
    limit_s = float(observation.settings["slow_after_s"])
    arrived = observation.heartbeat.oldest_update_mono if observation.heartbeat else None
    if observation.state != "running" or not limit_s or arrived is None or observation.now - arrived <= limit_s:
        return []
    text = f"slow: an update has been waiting for its handler for {observation.now - arrived:.0f} s"
    return [Finding(observation.bot, "slow", Level.WARNING, text, Health.DEGRADED, since_mono=arrived)]
