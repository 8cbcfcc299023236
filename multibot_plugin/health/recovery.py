"""What the monitor does about a bot's open incidents: one decision per bot and tick. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from multibot_plugin.health.incidents import Track
from multibot_plugin.health.states import Observation

HOUR_S = 3600.0
# A process cannot be judged before it had time to come up, whatever the bot's own start_grace_s says.
_LEAST_GRACE_S = 5.0
_FINAL, _LATER = "It does not start again by itself.", "It is tried again then."


@dataclass(frozen=True)
class Decision:
    """What is done about one bot. ``restart`` or not; ``track`` the incident that is the cause.

    ``said`` is the sentence for people; an incident's message is sent again when it changes. ``quiet``: nobody is told,
    for the cause is told once for all bots.
    """

    bot: str
    restart: bool
    track: Track | None = None
    said: str = ""
    quiet: bool = False


class Outage(NamedTuple):
    """A Bot API server that does not answer from here, or did not a moment ago.

    ``answers``: whether it does now; None: it has not been asked before, and has not answered yet.
    """

    server: str
    answers: bool | None = False


def decide(observation: Observation, incidents: Sequence[Track], restarts: Sequence[float], busy: bool) -> Decision:
    """Return what to do about a bot.

    ``incidents``: its open ones, worst first. ``restarts``: monotonic times of the monitor's restarts of it.
    ``busy``: one is under way. A bot that is stopped, not wanted, or waiting to start again is left alone.
    """
    nothing = Decision(observation.bot, False)
    now = observation.now
    if observation.state == "quarantined" and observation.enabled:
        final = next((t for t in incidents if t.finding.check == "quarantined"), None)
        return Decision(observation.bot, False, final, _LATER if observation.pid else _FINAL) if final else nothing
    if busy or not observation.enabled or observation.state != "running" or observation.pid is None:
        return nothing
    track = next((t for t in incidents if t.finding.restart and t.ripe(now)), None)
    if track is None or _too_young(observation, restarts):
        return nothing
    budget = int(observation.settings["restart_budget"])
    used = sum(1 for at in restarts if now - at < HOUR_S)
    if used < budget:
        return Decision(observation.bot, True, track, f"Restarting it ({used + 1} of {budget} this hour).")
    if budget == 0:
        return Decision(observation.bot, False, track, "Not restarting it: its restart budget is 0.")
    times = "1 restart" if budget == 1 else f"{budget} restarts"
    return Decision(observation.bot, False, track, f"Not restarting it: the budget of {times} per hour is used up.")


def is_for_deafness(decision: Decision) -> bool:
    return decision.track is not None and decision.track.finding.check == "deaf"


def hold_back(decisions: Iterable[Decision], away: Mapping[str, Outage]) -> list[Decision]:
    """Return the decisions without restarts of deaf bots whose server does not answer (``away``, by bot).

    Such a bot goes on trying by itself; restarted it would die of it.
    """
    return [_held(d, away[d.bot]) if d.bot in away and is_for_deafness(d) else d for d in decisions]


def _held(decision: Decision, outage: Outage) -> Decision:
    if outage.answers is None:
        return replace(decision, restart=False, said="", quiet=True)
    said = (
        f"Not restarting it yet: {outage.server} has begun to answer again."
        if outage.answers
        else f"Not restarting it: {outage.server} does not answer from here."
    )
    return replace(decision, restart=False, said=said, quiet=True)


def unanswered(away: Mapping[str, Outage]) -> str:
    """Return what is wrong as long as the servers of these bots do not answer; "" for none."""
    servers = Counter(outage.server for outage in away.values() if outage.answers is False)
    return "; ".join(
        f"Telegram ({server}) does not answer: {'1 bot' if n == 1 else f'{n} bots'} cannot poll"
        for server, n in sorted(servers.items())
    )


def _too_young(observation: Observation, restarts: Sequence[float]) -> bool:
    grace_s = max(float(observation.settings["start_grace_s"]), _LEAST_GRACE_S)
    last = max(restarts, default=None)
    if last is not None and observation.now - last < grace_s:
        return True
    heartbeat = observation.heartbeat
    return heartbeat is not None and observation.now - heartbeat.start_mono < _LEAST_GRACE_S
