"""What becomes of findings over time: pending, open, worse, over. Pure; the monitor keeps the tracks.

A finding must last (``for_s``) before it opens an incident, at its level: a warning that becomes critical has to be
critical for that long. Within an incident the level only rises; it is over when the check finds nothing any more.
A check that gave no answer changes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from multibot_plugin.health.states import Finding, Level

Key = tuple[str, str]  # bot ("" the monitor itself), check
_NAMESPACE = uuid.UUID("6a3f2c0e-9f0d-4c55-8f2b-2f4e7c1b9d10")


@dataclass(frozen=True)
class Track:
    """One kind of trouble with one bot, as long as it is found without a break.

    ``since``: first found (``since_at`` the same for people). ``critical_since``: since when it is critical without
    a break, None when it is not. ``armed_since``: since when it is found in this very process (``pid``), so that a
    restart begins the waiting anew. ``level``: that of the incident, None while pending. ``said``: what the last
    message told about what is done. ``before_s``: how long it had been so when it was first found. ``quiet``: it is
    open and nobody was told.
    """

    plugin: str
    finding: Finding
    pid: int | None
    since: float
    since_at: float
    critical_since: float | None
    armed_since: float
    level: Level | None = None
    changes: int = 0
    said: str = ""
    before_s: float = 0.0
    quiet: bool = False

    @property
    def began_at(self) -> float:
        """Since when it is so, in seconds since the epoch."""
        return self.since_at - self.before_s

    def lasted_s(self, now: float) -> float:
        """Return for how long it has been so."""
        return now - self.since + self.before_s

    @property
    def key(self) -> Key:
        return self.finding.bot, self.finding.check

    @property
    def id(self) -> str:
        """The incident's id: the same after a crash of the monitor."""
        return str(uuid.uuid5(_NAMESPACE, "/".join((*self.key, f"{self.since_at:.6f}"))))

    def ripe(self, now: float) -> bool:
        """Return whether the finding, at its own level and in this process, has lasted long enough to act on it."""
        since = self.since if self.finding.level is Level.WARNING else self.critical_since
        return self.level is not None and since is not None and now - max(since, self.armed_since) >= self.finding.for_s


@dataclass(frozen=True)
class Seen:
    """What one tick knows of one bot: its process, the findings by plugin, and which plugins gave no answer.

    ``ending``: what to say of incidents that are over ("" well again); ``deserted``: nobody wants the bot to run, so
    findings do not count.
    """

    bot: str
    pid: int | None
    findings: Sequence[tuple[str, Finding]] = ()
    silent: frozenset[str] = frozenset()
    ending: str = ""
    deserted: bool = False


@dataclass(frozen=True)
class Change:
    """An incident that opened, rose to a higher level, or is over (``ending`` as in Seen)."""

    kind: str  # opened | changed | resolved
    track: Track
    ending: str = ""


@dataclass(frozen=True)
class Step:
    """The tracks after a tick and what changed in it."""

    tracks: Mapping[Key, Track]
    changes: tuple[Change, ...]


def advance(
    tracks: Mapping[Key, Track], seen: Iterable[Seen], watching: frozenset[str], now: float, now_at: float
) -> Step:
    """Return the next state of all tracks.

    ``seen``: one for every bot there is (and "" for the monitor); a bot that is missing was removed. ``watching``:
    the plugins that check; incidents of others are over, because nobody looks any more.
    """
    after: dict[Key, Track] = {}
    changes: list[Change] = []
    bots = {s.bot: s for s in seen}
    for view in bots.values():
        for plugin, finding in _strongest(view):
            key = (view.bot, finding.check)
            track, change = _found(tracks.get(key), plugin, finding, view.pid, now, now_at)
            after[key] = track
            changes.extend(change)
    for key, track in tracks.items():
        if key not in after:
            ending = _missing(track, bots.get(key[0]), watching)
            if ending is None:
                after[key] = track
            elif track.level is not None:
                changes.append(Change("resolved", track, ending))
    return Step(after, tuple(changes))


def _strongest(view: Seen) -> list[tuple[str, Finding]]:
    """Return at most one finding per check: the critical one where plugins (or one twice) differ."""
    best: dict[str, tuple[str, Finding]] = {}
    for plugin, finding in () if view.deserted else view.findings:
        held = best.get(finding.check)
        if held is None or (finding.level is Level.CRITICAL and held[1].level is not Level.CRITICAL):
            best[finding.check] = (plugin, finding)
    return list(best.values())


def _found(
    track: Track | None, plugin: str, finding: Finding, pid: int | None, now: float, now_at: float
) -> tuple[Track, list[Change]]:
    critical = finding.level is Level.CRITICAL
    if track is None:
        before_s = 0.0 if finding.since_mono is None else max(0.0, now - finding.since_mono)
        track = Track(plugin, finding, pid, now, now_at, now if critical else None, now, before_s=before_s)
    track = replace(
        track, plugin=plugin, finding=finding, pid=pid,
        armed_since=track.armed_since if track.pid == pid else now,
        critical_since=None if not critical else now if track.critical_since is None else track.critical_since,
    )  # fmt: skip
    level = _level(track, now)
    if level is None or level is track.level or track.level is Level.CRITICAL:
        return track, []
    kind = "opened" if track.level is None else "changed"
    track = replace(track, level=level, changes=track.changes + 1)
    return track, [Change(kind, track)]


def _level(track: Track, now: float) -> Level | None:
    """Return the level that the finding has earned by lasting."""
    if track.critical_since is not None and now - track.critical_since >= track.finding.for_s:
        return Level.CRITICAL
    return Level.WARNING if now - track.since >= track.finding.for_s else None


def _missing(track: Track, view: Seen | None, watching: frozenset[str]) -> str | None:
    """Return how a trouble ended that is not found any more; None when it is only not known."""
    if view is None:
        return "was removed"
    if view.deserted:
        return view.ending
    if track.plugin not in watching:
        return f"is not checked any more by {track.plugin}"
    return None if track.plugin in view.silent else view.ending


def open_checks(tracks: Mapping[Key, Track], bot: str) -> frozenset[str]:
    """Return the checks that have an open incident on a bot."""
    return frozenset(check for (name, check), track in tracks.items() if name == bot and track.level is not None)


def of_bot(tracks: Mapping[Key, Track], bot: str) -> list[Track]:
    """Return a bot's open incidents, critical ones first, then by age."""
    found = [t for (name, _), t in tracks.items() if name == bot and t.level is not None]
    return sorted(found, key=lambda t: (t.level is not Level.CRITICAL, t.since))


def after_boot(tracks: Iterable[Track], now: float, now_at: float) -> list[Track]:
    """Return tracks of an earlier boot with their monotonic times set to this one's, by the wall clock."""

    def moved(track: Track) -> Track:
        since = now - max(0.0, now_at - track.since_at)
        critical = track.critical_since
        return replace(track, since=since, armed_since=now,
                       critical_since=None if critical is None else since + critical - track.since)  # fmt: skip

    return [moved(track) for track in tracks]
