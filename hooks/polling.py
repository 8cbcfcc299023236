"""Does the bot hear? Its getUpdates calls, as its own process stamped them; the first trouble that applies is told.

Only what can be seen counts. Of a command's polls, a webhook, and a script that never polled (it may only send)
Telegram is asked instead (webhook.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from multibot_plugin.hookspecs import Finding, Health, Heartbeat, Level, Observation, hookimpl

from . import webhook

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
            elif not _heard(observation, heartbeat, check):
                findings.append(_held(observation, check))
    return findings


def _unauthorised(observation: Observation, heartbeat: Heartbeat) -> Finding | None:
    code, since = heartbeat.poll_code, heartbeat.poll_failure_mono
    if code not in _REJECTED and observation.webhook is not None:
        code, since = observation.webhook.code, None
    if code not in _REJECTED:
        return None
    text = f"unauthorised: Telegram rejects its token ({code})"
    return Finding(observation.bot, "unauthorised", Level.CRITICAL, text, Health.UNAUTHORISED, since_mono=since)


@dataclass
class _Conflicts:
    """The times of one process's 409 answers: two pollers take turns, so the newest answer alone says little.

    ``webhook``: the newest was because of a webhook.
    """

    pid: int
    webhook: bool = False
    times: deque[float] = field(default_factory=lambda: deque(maxlen=16))


_conflicts: dict[str, _Conflicts] = {}


def _conflicted(observation: Observation, heartbeat: Heartbeat) -> Finding | None:
    if place := webhook.taken(observation):
        text = f"conflicted: a webhook takes its updates to {place}, so it cannot poll: it has to delete the webhook"
        return Finding(observation.bot, "conflicted", Level.CRITICAL, text, Health.CONFLICTED)
    seen = _remembered(observation, heartbeat)
    if not _fighting(seen.times, observation.now, "conflicted" in observation.open):
        return None
    # No restart: it would only feed the fight.
    text = "conflicted: another process polls with its token (409)"
    if seen.webhook:
        text = "conflicted: a webhook is set, so it cannot poll (409): it has to delete the webhook"
    since = min((t for t in seen.times if observation.now - t < _CONFLICT_WINDOW_S), default=None)
    return Finding(observation.bot, "conflicted", Level.CRITICAL, text, Health.CONFLICTED, since_mono=since)


def _remembered(observation: Observation, heartbeat: Heartbeat) -> _Conflicts:
    """Return this process's conflicts, with its newest answer; whose last one is long ago is forgotten."""
    now, failed = observation.now, heartbeat.poll_failure_mono
    seen = _conflicts.get(observation.bot)
    if seen is None or seen.pid != heartbeat.pid:
        seen = _Conflicts(heartbeat.pid)
    if heartbeat.poll_code != _CONFLICT or failed is None or failed in seen.times or now - failed > _CONFLICT_WINDOW_S:
        return seen
    for bot in [bot for bot, other in _conflicts.items() if now - other.times[-1] > _CONFLICT_WINDOW_S]:
        del _conflicts[bot]
    seen.times.append(failed)
    seen.webhook = heartbeat.poll_webhook
    _conflicts[observation.bot] = seen
    return seen


def _fighting(times: Iterable[float], now: float, told: bool) -> bool:
    """Whether 409 answers at these times mean another poller; once told it takes a while of quiet to be over."""
    ages = [now - t for t in times]
    if told:
        return any(age < _CONFLICT_QUIET_S for age in ages)
    return sum(age < _CONFLICT_WINDOW_S for age in ages) >= _CONFLICTS


def _frozen(observation: Observation, heartbeat: Heartbeat) -> Finding | None:
    if heartbeat.watchdog_s:
        since, limit_s, text = heartbeat.watchdog_mono, heartbeat.watchdog_s, "frozen: no WATCHDOG=1 from it for"
        if since is None:
            since, limit_s = webhook.began(heartbeat), max(limit_s, float(observation.settings["start_grace_s"]))
            text = "frozen: it has never fed its watchdog (WATCHDOG=1), for"
    elif heartbeat.loop_mono is not None:
        since, limit_s = heartbeat.loop_mono, float(observation.settings["frozen_after_s"])
        text = "frozen: its event loop stands still for"
    else:
        return None
    if observation.now - since <= limit_s:
        return None
    text = f"{text} {webhook.span(observation.now - since)}"
    return Finding(observation.bot, "frozen", Level.CRITICAL, text, Health.FROZEN, restart=True, since_mono=since)


def _deaf(observation: Observation, heartbeat: Heartbeat) -> Finding | None:
    if not observation.polls:
        return webhook.deaf(observation, heartbeat)
    limit_s = deaf_after_s(heartbeat, float(observation.settings["deaf_after_s"]))
    grace_s = float(observation.settings["start_grace_s"])
    flooded_until = heartbeat.flood_until_mono or 0.0
    if flooded_until > observation.now:  # it does what Telegram wants
        return None
    began = max(webhook.began(heartbeat), flooded_until)
    if heartbeat.poll_success_mono is not None:
        silent_s = observation.now - max(heartbeat.poll_success_mono, flooded_until)
        text = f"deaf: no successful getUpdates for {webhook.span(silent_s)}"
    elif heartbeat.poll_start_mono is not None:
        silent_s, limit_s = observation.now - began, max(limit_s, grace_s)
        text = f"deaf: no successful getUpdates since its start {webhook.span(silent_s)} ago"
    else:
        silent_s, limit_s = observation.now - began, grace_s
        text = f"deaf: no getUpdates since its start {webhook.span(silent_s)} ago"
    if silent_s <= limit_s:
        return None
    since = observation.now - silent_s
    # A poll since then that hangs is no waiting for Telegram.
    started = heartbeat.poll_start_mono or 0.0
    hangs = started > (heartbeat.poll_failure_mono or 0.0) and observation.now - started > limit_s
    flooded = heartbeat.poll_code == _FLOOD and not hangs
    if flooded:  # it will poll when Telegram lets it; a restart would add calls
        text = f"{text} (Telegram: too many requests, 429)"
    return Finding(observation.bot, "deaf", Level.CRITICAL, text, Health.DEAF, restart=not flooded, since_mono=since)


def _throttled(observation: Observation, heartbeat: Heartbeat) -> Finding | None:
    until_s = (heartbeat.flood_until_mono or 0.0) - observation.now
    if not observation.polls or (heartbeat.poll_code != _FLOOD and until_s <= 0):
        return None
    # No restart: its first poll would come before Telegram wants it.
    text = "throttled: Telegram asks it to poll less often (429)"
    if until_s > 0:
        text = f"throttled: Telegram wants no poll until {_clock(observation.now_at + until_s)} (429)"
    return Finding(observation.bot, "throttled", Level.WARNING, text, Health.THROTTLED, for_s=_THROTTLED_S)


def deaf_after_s(heartbeat: Heartbeat, override_s: float) -> float:
    """Return the silence that means deaf: 45 s, or three polls of the bot's length and 15 s if that is longer."""
    return override_s or max(45.0, 3 * (heartbeat.poll_timeout_s or 0.0) + 15.0)


def _heard(observation: Observation, heartbeat: Heartbeat, check: str) -> bool:
    """Whether this process, which the check finds nothing wrong with, shows that it is well or cannot show anything."""
    if check == "frozen" and heartbeat.watchdog_s:
        return heartbeat.watchdog_mono is not None
    if heartbeat.poll_success_mono is not None or observation.polls:
        return heartbeat.poll_success_mono is not None
    if check != "unauthorised" and webhook.has_received(observation):  # its token may have been revoked since
        return True
    return not webhook.is_awaited(observation) and (observation.webhook is None or observation.webhook.code == 200)


def _held(observation: Observation, check: str) -> Finding:
    """Return what is still the matter with a bot that is coming up again: a restart alone cures nothing."""
    shown = "no successful getUpdates" if observation.polls else "no sign of life"
    text = f"{check}: {shown} yet since it came back"
    level = Level.WARNING if check == "throttled" else Level.CRITICAL
    return Finding(observation.bot, check, level, text, Health(check))


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at):%H:%M:%S}"


_RULES = {
    "unauthorised": _unauthorised,
    "conflicted": _conflicted,
    "frozen": _frozen,
    "deaf": _deaf,
    "throttled": _throttled,
}
