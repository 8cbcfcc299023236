"""Does the bot keep its memory limit? A warning below the limit, critical and a restart above, over well below."""

from __future__ import annotations

from multibot_plugin.hookspecs import Finding, Health, Level, Observation, hookimpl

_MB = 1024 * 1024


@hookimpl
def multibot_check(observation: Observation) -> list[Finding]:
    limit = float(observation.settings["memory_limit"])
    used = observation.memory_bytes
    if not limit:
        return []
    warning = limit * float(observation.settings["memory_warning_percent"]) / 100
    clear = limit * float(observation.settings["memory_clear_percent"]) / 100
    for_s = float(observation.settings["memory_for_s"])
    if used is None:
        # On its way back from a restart not known is not well; where no process is expected, it uses none.
        if "memory" not in observation.open or observation.state == "quarantined" or not observation.enabled:
            return []
        text = "near its memory limit when last seen"
        return [Finding(observation.bot, "memory", Level.WARNING, text, Health.DEGRADED, for_s)]
    if used >= limit:
        text = f"over its memory limit: {_size(used)} of {_size(limit)}"
        return [Finding(observation.bot, "memory", Level.CRITICAL, text, Health.OVER_LIMIT, for_s, restart=True)]
    if used >= (min(clear, warning) if "memory" in observation.open else warning):
        text = f"near its memory limit: {_size(used)} of {_size(limit)}"
        return [Finding(observation.bot, "memory", Level.WARNING, text, Health.DEGRADED, for_s)]
    return []


def _size(value: float) -> str:
    if value < _MB:
        return f"{value / 1024:.0f} KB"
    return f"{value / _MB:.0f} MB" if value >= 10 * _MB else f"{value / _MB:.1f} MB"
