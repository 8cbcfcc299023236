"""Is the bot kept alive, and does its process show anything?

Deaths in a window are a warning, and so is silence; a bot that will not be started again is critical.
"""

from __future__ import annotations

from datetime import datetime

from multibot_plugin.hookspecs import KILLED, Finding, Health, Level, Observation, Run, hookimpl

_REJECTED = "token-rejected"  # Exit.cause: Telegram does not know the token
_STOPPED = "stopped"  # Exit.cause
_WAITS, _LOCKED_S = "locked-out", 60.0  # Heartbeat.phase; stop_wait_s and a SIGKILL by the waiter fit into it
_STANDING_S = 30.0
_SILENT_S = 10.0  # at least: a heartbeat that is overwritten on a full disk may be unreadable for a moment
_LIVED_S = 15.0  # a token or a configuration that is wrong ends a process sooner
_STAYED_S = 60.0  # for a bot that kept dying until it was stopped or changed
_DAY_S = 86400.0
_COUNTED_S = 600.0  # supervisord's shortest window
_AHEAD_S = 60.0  # a run may have begun since this look began


@hookimpl
def multibot_check(observation: Observation) -> list[Finding]:
    if observation.state == "quarantined":
        return [_quarantined(observation)]
    if observation.state == "finished":
        return []
    findings = [*_standing(observation), *_locked_out(observation), *_silent(observation)]
    quarantined = "quarantined" in observation.open
    if not (quarantined and _tried(observation)):  # else these deaths are what was told
        findings += _dying(observation)
    if quarantined and not _back(observation):
        proof = "worked for long enough" if _tried(observation) else "polled"
        text = f"was quarantined; started again, it has not {proof} yet"
        findings.append(Finding(observation.bot, "quarantined", Level.CRITICAL, text, Health.DEGRADED))
    return findings


def _quarantined(observation: Observation) -> Finding:
    waiting = observation.heartbeat
    if observation.pid is not None and waiting is not None and waiting.until_mono is not None:
        until_at = observation.now_at + waiting.until_mono - observation.now
        text = f"quarantined until {_clock(until_at, observation.now_at)}: {waiting.status}"
        return Finding(
            observation.bot, "quarantined", Level.CRITICAL, text, Health.DEGRADED, since_mono=waiting.start_mono
        )
    last = observation.runs[0].exit if observation.runs else None
    why = last.text if last else "it cannot be started; its log says why"
    health = Health.UNAUTHORISED if last and last.cause == _REJECTED else Health.DEGRADED
    since = observation.now - (observation.now_at - last.ended_at) if last else None
    return Finding(observation.bot, "quarantined", Level.CRITICAL, f"quarantined: {why}", health, since_mono=since)


def _clock(at: float, now_at: float) -> str:
    """Return a time to come, for people."""
    then = datetime.fromtimestamp(at)
    return f"{then:%H:%M}" if at - now_at < _DAY_S else f"{then:%b %d %H:%M}"


def _back(observation: Observation) -> bool:
    """Whether a bot that was quarantined has shown that it can run: it polled, or has lived for a while.

    A mere try has to last until the runner forgives the deaths before it, or each would be told as an end.
    """
    heartbeat = observation.heartbeat
    if observation.state != "running" or heartbeat is None:
        return False
    if _tried(observation):
        return observation.now - heartbeat.start_mono > float(observation.settings["backoff_reset_s"])
    return heartbeat.poll_success_mono is not None or observation.now - heartbeat.start_mono > _LIVED_S


def _tried(observation: Observation) -> bool:
    """Whether this run came after a death, which counts on: nobody started the bot anew."""
    earlier = _earlier(observation)
    return bool(earlier) and earlier[0].died


def _earlier(observation: Observation) -> tuple[Run, ...]:
    """Return the runs that are over."""
    runs = observation.runs
    return runs[1:] if runs and runs[0].pid == observation.pid else runs


def _standing(observation: Observation) -> list[Finding]:
    """A bot that is wanted stands still, and supervisord will not start it; a restart passes through that."""
    if observation.state != "stopped" or not observation.enabled:
        return []
    text = "is wanted, but does not run: start it"
    return [Finding(observation.bot, "standing", Level.WARNING, text, Health.DEGRADED, for_s=_STANDING_S)]


def _locked_out(observation: Observation) -> list[Finding]:
    """A process waits for another one of the same bot to end; for a moment that is what a restart looks like."""
    if observation.heartbeat is None or observation.heartbeat.phase != _WAITS:
        return []
    text = "waits for another process of the same bot to end"
    return [Finding(observation.bot, "locked-out", Level.WARNING, text, Health.DEGRADED, for_s=_LOCKED_S)]


def _silent(observation: Observation) -> list[Finding]:
    """A process of which nothing is seen: a runner writes a heartbeat before it does anything else."""
    if observation.state != "running" or observation.pid is None or observation.heartbeat is not None:
        return []
    if observation.blind and "silent" not in observation.open:
        return []
    text = "silent: no heartbeat, so nothing is seen of it; its log says what is in the way"
    for_s = max(float(observation.settings["start_grace_s"]), _SILENT_S)
    return [Finding(observation.bot, "silent", Level.WARNING, text, Health.DEGRADED, for_s=for_s)]


def _dying(observation: Observation) -> list[Finding]:
    limit = int(observation.settings["deaths_limit"])
    window_s = float(observation.settings["deaths_window_s"])
    deaths, last, newest_mono = deaths_in_window(observation, window_s)
    # Once told it is over only when the window holds no death at all: a bot at the limit would flap.
    told = "deaths" in observation.open
    if limit and told and not deaths and not _stayed(observation):
        text = "kept dying before it was stopped or changed; over once it has run for a minute"
        return [Finding(observation.bot, "deaths", Level.WARNING, text, Health.DEGRADED)]
    if not limit or deaths < (1 if told else limit):
        return []
    times = "once" if deaths == 1 else f"{deaths} times"
    text = f"died {times} within {window_s / 60:g} min, last: {last}"
    if told and deaths < limit and observation.state == "running":
        over_at = observation.now_at + newest_mono + window_s - observation.now
        text = f"{text}; over at {_clock(over_at, observation.now_at)} if it lives"
    return [Finding(observation.bot, "deaths", Level.WARNING, text, Health.DEGRADED)]


def _stayed(observation: Observation) -> bool:
    return observation.state == "running" and (observation.uptime_s or 0.0) >= _STAYED_S


def deaths_in_window(observation: Observation, window_s: float) -> tuple[int, str, float]:
    """Return the deaths of the last ``window_s`` seconds since the last stop, change or final exit, the newest's words,
    and when that was (monotonic).

    A run that was killed left no word; it ended at the latest when the next one began.
    """
    runs = _earlier(observation)
    counted = observation.deaths.get("10m", 0) if window_s >= _COUNTED_S else 0
    if not runs:  # the first, or a bot that spoils its record: supervisord counts, too
        return counted, "it left no record of that", observation.now
    unasked = _unasked(runs[0], observation)
    ended, count, words, newest_mono = observation.now, 0, "", observation.now
    if runs is not observation.runs:  # the newest is alive
        ended = observation.runs[0].start_mono
    for run in runs:
        died = run.died or (unasked and run is runs[0])
        if not died or run.digest != observation.runs[0].digest:
            break
        # Far beyond now: the file is from before a reboot.
        if not observation.now - window_s <= ended <= observation.now + _AHEAD_S:
            break
        count += 1
        newest_mono = newest_mono if words else ended
        words = words or (run.exit.text if run.exit else KILLED) + (", which nobody asked for" if unasked else "")
        ended = run.start_mono
    return max(count, counted) if unasked else count, words, newest_mono


def _unasked(run: Run, observation: Observation) -> bool:
    """Whether a run that took a SIGTERM for a stop was told so by nobody: by itself, say, or by ``kill``."""
    return run.exit is not None and run.exit.cause == _STOPPED and bool(observation.deaths)
