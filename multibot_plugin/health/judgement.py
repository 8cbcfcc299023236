"""From what was seen and answered to what is told, recorded and done. Pure: the monitor carries it out."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from multibot_plugin.alerts import format as words
from multibot_plugin.health.incidents import Change, Key, Seen, Step, Track, of_bot
from multibot_plugin.health.recovery import Decision
from multibot_plugin.health.rules import ending_of, is_deserted
from multibot_plugin.health.states import Alert, Finding, Health, Level, Observation
from multibot_plugin.journal import AuditEntry
from multibot_plugin.plugins import Answer, PluginStatus
from multibot_runner.protocol import STOPPED, Exit, Run

OWN = "multibot"  # the monitor as the source of findings about itself
ACTOR, DOOR = "multibot", "monitor"
# What a command in the middle of its work may look like for a moment.
_LASTS_S = {"rendered": 30.0}
_NAMESPACE = uuid.UUID("0d6a4a55-9d52-44a1-8a85-6c0e7b7f2a11")


@dataclass(frozen=True)
class Judgement:
    """What comes out of a tick: the tracks, and what to tell, to record and to do."""

    tracks: Mapping[Key, Track]
    alerts: tuple[Alert, ...]
    entries: tuple[AuditEntry, ...]
    restarts: tuple[Decision, ...]


def view(observations: Iterable[Observation], answers: Iterable[Answer]) -> list[Seen]:
    """Return for each bot what the plugins found, and which of them gave no answer."""
    by_bot: dict[str, list[Answer]] = {}
    for answer in answers:
        by_bot.setdefault(answer.bot, []).append(answer)
    return [
        Seen(
            bot=o.bot, pid=o.pid,
            findings=[(a.plugin, f) for a in by_bot.get(o.bot, ()) for f in a.findings or ()],
            silent=frozenset(a.plugin for a in by_bot.get(o.bot, ()) if a.findings is None),
            ending=ending_of(o), deserted=is_deserted(o),
        )
        for o in observations
    ]  # fmt: skip


def own_findings(plugins: Iterable[PluginStatus], troubles: Mapping[str, str]) -> Seen:
    """Return what is wrong with the monitor itself: disabled plugins, and ``troubles`` (check to text)."""
    findings = [
        Finding("", check, Level.CRITICAL, text, Health.DEGRADED, for_s=_LASTS_S.get(check, 0.0))
        for check, text in troubles.items()
    ]
    for plugin in plugins:
        if plugin.disabled:
            check = "plugin-" + re.sub(r"[^a-z0-9_.-]+", "-", plugin.name.lower())[:50]
            text = words.one_line(f"plugin {plugin.name} is disabled: {plugin.text}", 500)
            findings.append(Finding("", check, Level.WARNING, text, Health.DEGRADED))
    return Seen("", None, [(OWN, f) for f in findings])


def absent(bots: Iterable[str], watching: frozenset[str]) -> list[Seen]:
    """Return views of bots that are out of sight for a moment only: nothing about them changes."""
    return [Seen(bot, None, silent=watching | {OWN}) for bot in bots]


def conclude(step: Step, decisions: Sequence[Decision], host: str, now: float, now_at: float) -> Judgement:
    """Join changes and decisions: one message per incident that changed, or about which something else is done now.

    Everything is recorded; nobody is told of what is quiet, nor of the end of what was quiet all the time.
    """
    by_key = {d.track.key: d for d in decisions if d.track is not None and (d.said or d.quiet)}
    tracks = dict(step.tracks)
    changes: list[tuple[Change, bool]] = []  # and whether people are told
    for change in step.changes:
        if change.kind == "resolved":
            changes.append((_in_words(change, step), not change.track.quiet))
            continue
        decision = by_key.pop(change.track.key, None) or Decision(change.track.finding.bot, False)
        track = replace(change.track, said=decision.said or change.track.said)
        tracks[track.key] = _hushed(track, decision, first=change.kind == "opened")
        changes.append((replace(change, track=track), not decision.quiet))
    for key, decision in by_key.items():
        track = tracks[key]
        if decision.restart or decision.said not in ("", track.said):
            track = replace(track, said=decision.said, changes=track.changes + 1)
            tracks[key] = _hushed(track, decision)
            changes.append((Change("changed", track), not decision.quiet))
    told = [(*_tell(change, host, now, now_at), loud) for change, loud in changes]
    restarts = tuple(d for d in decisions if d.restart)
    return Judgement(tracks, tuple(a for a, _, loud in told if loud), tuple(e for _, e, _ in told), restarts)


def _hushed(track: Track, decision: Decision, first: bool = False) -> Track:
    return replace(track, quiet=decision.quiet and (first or track.quiet))


def _in_words(change: Change, step: Step) -> Change:
    """Return the end of an incident with what the bot is now instead, where it is not well again."""
    bot = change.track.finding.bot
    others = of_bot(step.tracks, bot) if bot and not change.ending else []
    return replace(change, ending=f"is {others[0].finding.health} now") if others else change


def _tell(change: Change, host: str, now: float, now_at: float) -> tuple[Alert, AuditEntry]:
    track, finding = change.track, change.track.finding
    level = track.level or finding.level
    lasted_s = track.lasted_s(now)
    if change.kind == "resolved":
        text = words.resolved(finding.bot, finding.check, change.ending, lasted_s)
        number = track.changes + 1
    else:
        say = words.opened if change.kind == "opened" or track.quiet else words.changed
        text, number = say(finding.bot, level, finding.text, track.said), track.changes
    alert = Alert(
        id=f"{track.id}.{number}", incident=track.id, host=host, bot=finding.bot, check=finding.check, level=level,
        kind=change.kind, text=words.signed(text, host, track.began_at), at=now_at,
    )  # fmt: skip
    detail = {"incident": track.id, "check": finding.check, "level": str(level), "plugin": track.plugin}
    if change.kind == "resolved":
        detail |= {"lasted_s": f"{lasted_s:.0f}", "ending": change.ending or "well again"}
    else:
        detail |= {"text": finding.text, "decision": track.said}
    entry = AuditEntry(
        id=str(uuid.uuid5(_NAMESPACE, alert.id)), at=now_at, actor=ACTOR, door=DOOR, bot=finding.bot or None,
        action=f"incident.{change.kind}", detail=detail, host=host,
    )  # fmt: skip
    return alert, entry


def unwatched(last: str, since_at: float, away_s: float, host: str, now_at: float) -> tuple[Alert, AuditEntry]:
    """Return what is told, once, when nobody watched for ``away_s``; ``last`` names the tick before."""
    number = str(uuid.uuid5(_NAMESPACE, f"away/{last}"))
    text = f"nobody watched the bots for {words.duration(away_s)}: the monitor hung or was away. It watches again."
    alert = Alert(
        id=f"{number}.0", incident=number, host=host, bot="", check="away", level=Level.WARNING, kind="opened",
        text=words.signed(words.opened("", Level.WARNING, text, ""), host, since_at), at=now_at,
    )  # fmt: skip
    detail = {"lasted_s": f"{away_s:.0f}"}
    return alert, AuditEntry(number, now_at, ACTOR, DOOR, None, "monitor.away", detail, host)


def ending(bot: str, run: Run, end: Exit, host: str) -> AuditEntry:
    """Return what is recorded of a process that could not tell how it ended; the same as long as it is the same one."""
    number = str(uuid.uuid5(_NAMESPACE, f"end/{bot}/{run.pid}/{run.started_at:.6f}"))
    detail = {"pid": run.pid, "cause": end.text, **({"asked": True} if end.cause == STOPPED else {})}
    return AuditEntry(number, end.ended_at, ACTOR, DOOR, bot, "bot.killed", detail, host)


def restart_id(decision: Decision, now_at: float) -> str:
    """Return the id of a restart's audit entry, the same also when another monitor finishes it."""
    return str(uuid.uuid5(_NAMESPACE, f"restart/{decision.bot}/{now_at:.6f}"))


def wish_id(bot: str, enabled: bool, start_at: float, stop_at: float) -> str:
    """Return the id of an outside stop or start: the same as long as it is the same one."""
    return str(uuid.uuid5(_NAMESPACE, f"wish/{bot}/{enabled}/{start_at:.6f}/{stop_at:.6f}"))
