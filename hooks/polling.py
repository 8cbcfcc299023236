"""Does the bot hear? Its getUpdates calls, as its own process stamped them; the first trouble that applies is told.

Only what the launch form shows counts: a command bot's polls are invisible, and a script that never polled may be
one that only sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from multibot_plugin.hookspecs import Finding, Health, Heartbeat, Level, Observation, hookimpl

_REJECTED = (401, 404)
_CONFLICT, _FLOOD = 409, 429
_CONFLICTS = 2  # one alone is what a restart may leave behind: the old process's last poll
_CONFLICT_WINDOW_S = 60.0
_CONFLICT_QUIET_S = 30.0  # libraries wait up to 30 s after a conflict
_THROTTLED_S = 10.0  # one refused poll that is soon made up for is nobody's business


@hookimpl
def multibot_check(observation: Observation) -> list[Finding]:
    heartbeat = observation.heartbeat
    if observation.state != "running" or heartbeat is None:
        return [_held(observation, check) for check in _RULES if check in observation.open]
    found = {check: rule(observation, heartbeat) for check, rule in _RULES.items()}
    first = next((finding for finding in found.values() if finding), None)
    findings = [first] if first else []
    # What was told before and is not over stays; only the first may ask for a restart.
    for check, finding in found.items():
        if check in observation.open and (first is None or check != first.check):
            if finding is not None:
                findings.append(replace(finding, restart=False))
            elif not _heard(observation, heartbeat):
                findings.append(_held(observation, check))
    return findings


def _unauthorised(observation: Observation, heartbeat: Heartbeat) -> Finding | None:
    if heartbeat.poll_code not in _REJECTED:
        return None
    text, since = f"unauthorised: Telegram rejects its token ({heartbeat.poll_code})", heartbeat.poll_failure_mono
    return Finding(observation.bot, "unauthorised", Level.CRITICAL, text, Health.UNAUTHORISED, since_mono=since)


@dataclass
class _Conflicts:
    """The times of one process's 409 answers: two pollers take turns, so the newest answer alone says little."""

    pid: int
    times: deque[float] = field(default_factory=lambda: deque(maxlen=16))


_conflicts: dict[str, _Conflicts] = {}


def _conflicted(observation: Observation, heartbeat: Heartbeat) -> Finding | None:
    seen = _conflicts.get(observation.bot)
    if seen is None or seen.pid != heartbeat.pid:
        seen = _conflicts[observation.bot] = _Conflicts(heartbeat.pid)
    failed = heartbeat.poll_failure_mono
    if heartbeat.poll_code == _CONFLICT and failed is not None and failed not in seen.times:
        seen.times.append(failed)
    if not _fighting(seen.times, observation.now, "conflicted" in observation.open):
        return None
    # No restart: it would only feed the fight.
    text = "conflicted: another process polls with its token (409)"
    since = min((t for t in seen.times if observation.now - t < _CONFLICT_WINDOW_S), default=None)
    return Finding(observation.bot, "conflicted", Level.CRITICAL, text, Health.CONFLICTED, since_mono=since)


def _fighting(times: Iterable[float], now: float, told: bool) -> bool:
    """Whether 409 answers at these times mean another poller; once told it takes a while of quiet to be over."""
    ages = [now - t for t in times]
    if told:
        return any(age < _CONFLICT_QUIET_S for age in ages)
    return sum(age < _CONFLICT_WINDOW_S for age in ages) >= _CONFLICTS


def _frozen(observation: Observation, heartbeat: Heartbeat) -> Finding | None:
    if heartbeat.loop_mono is None:
        return None
    silent_s = observation.now - heartbeat.loop_mono
    if silent_s <= float(observation.settings["frozen_after_s"]):
        return None
    text = f"frozen: its event loop stands still for {_span(silent_s)}"
    since = heartbeat.loop_mono
    return Finding(observation.bot, "frozen", Level.CRITICAL, text, Health.FROZEN, restart=True, since_mono=since)


def _deaf(observation: Observation, heartbeat: Heartbeat) -> Finding | None:
    limit_s = deaf_after_s(heartbeat, float(observation.settings["deaf_after_s"]))
    grace_s = float(observation.settings["start_grace_s"])
    began = max(heartbeat.start_mono, heartbeat.until_mono or 0.0)
    if heartbeat.poll_success_mono is not None:
        silent_s = observation.now - heartbeat.poll_success_mono
        text = f"deaf: no successful getUpdates for {_span(silent_s)}"
    elif heartbeat.poll_start_mono is not None:
        silent_s, limit_s = observation.now - began, max(limit_s, grace_s)
        text = f"deaf: no successful getUpdates since its start {_span(silent_s)} ago"
    elif observation.launch == "build":
        silent_s, limit_s = observation.now - began, grace_s
        text = f"deaf: no getUpdates since its start {_span(silent_s)} ago"
    else:
        return None
    if silent_s <= limit_s:
        return None
    since, flooded = observation.now - silent_s, heartbeat.poll_code == _FLOOD
    if flooded:  # it will poll when Telegram lets it; a restart would add calls
        text = f"{text} (Telegram: too many requests, 429)"
    return Finding(observation.bot, "deaf", Level.CRITICAL, text, Health.DEAF, restart=not flooded, since_mono=since)


def _throttled(observation: Observation, heartbeat: Heartbeat) -> Finding | None:
    if heartbeat.poll_code != _FLOOD:
        return None
    # No restart: its first poll would come before Telegram wants it.
    text = "throttled: Telegram asks it to poll less often (429)"
    return Finding(observation.bot, "throttled", Level.WARNING, text, Health.THROTTLED, for_s=_THROTTLED_S)


def deaf_after_s(heartbeat: Heartbeat, override_s: float) -> float:
    """Return the silence that means deaf: 45 s, or three polls of the bot's length and 15 s if that is longer."""
    return override_s or max(45.0, 3 * (heartbeat.poll_timeout_s or 0.0) + 15.0)


def _heard(observation: Observation, heartbeat: Heartbeat) -> bool:
    """Whether this process shows that it is well, or cannot show anything."""
    if heartbeat.poll_success_mono is not None:
        return True
    return observation.launch != "build" and not heartbeat.polling_seen


def _held(observation: Observation, check: str) -> Finding:
    """Return what is still the matter with a bot that is coming up again: a restart alone cures nothing."""
    text = f"{check}: no successful getUpdates yet since it came back"
    level = Level.WARNING if check == "throttled" else Level.CRITICAL
    return Finding(observation.bot, check, level, text, Health(check))


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


_RULES = {
    "unauthorised": _unauthorised,
    "conflicted": _conflicted,
    "frozen": _frozen,
    "deaf": _deaf,
    "throttled": _throttled,
}
