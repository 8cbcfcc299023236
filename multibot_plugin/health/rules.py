"""The monitor's own rules on what supervisord says: rows, health, restarts, and what an operator did by hand. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from multibot_plugin.health.ends import Sight, read_sight
from multibot_plugin.health.states import NO_POLL_SEEN, Finding, Health, Observation, WebhookInfo, health_of
from multibot_runner.protocol import BOT_ID, KILLED, STOPPED, Heartbeat, Run

DAY_S = 86400.0
# A stop or start is the operator's wish once it has lasted: 'restart' and 'apply' pass through a stop.
WISH_AFTER_S = 3.0
UNSEEN_WISH_AFTER_S = 15.0
_RUNNING = ("STARTING", "RUNNING")
_ANSWER_S = 5.0  # beyond the poll's own timeout
_COMING_UP_S = 10.0
# What tells why a bot does not run; what was told of it while it ran comes after that.
_OF_THE_STATE = {
    "quarantined": "quarantined", "backing-off": "deaths", "stopped": "standing", "starting": "locked-out"
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A bot as supervisord has it (a row of ``multibot.getBots``). ``pid`` None: no process.

    ``start_at``, ``stop_at``: seconds since the epoch, 0 never. ``enabled``: ``autostart`` in supervisord's memory.
    ``end``: the last end of one of its processes. ``deaths``: by window, none where that end was asked for.
    """

    id: str
    statename: str
    pid: int | None
    uptime_s: float | None
    enabled: bool
    start_at: float
    stop_at: float
    exit_code: int
    stop_wait_s: float = 10.0
    end: Sight | None = None
    digest: str = ""
    deaths: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fleet:
    """One answer of ``multibot.getBots``: whether supervisord is in its RUNNING state, and the bots.

    ``stopping``: a program, whether a bot or not, is being stopped.
    """

    running: bool
    supervisord_pid: int
    rows: tuple[Row, ...]
    stopping: bool = False


def read_fleet(answer: Mapping[str, Any]) -> Fleet:
    """Return the fleet in an answer of getBots; a row that is none of ours or not understood is left out.

    Raises ValueError when the answer is not one.
    """
    try:
        supervisord = answer["supervisord"]
        running = supervisord["state"] in ("RUNNING", 1)
        at = float(answer.get("at") or 0.0)
        rows = [_read_row(item, at) for item in answer["bots"]]
        stopping = bool(supervisord.get("stopping"))
        return Fleet(running, int(supervisord["pid"]), tuple(row for row in rows if row), stopping)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an answer of getBots: {type(error).__name__} {error}") from error


def _read_row(item: Mapping[str, Any], at: float) -> Row | None:
    """Return a row of an answer of ``at``; the row itself may be older, its ages are not used."""
    if not BOT_ID.fullmatch(str(item.get("id", ""))):
        return None
    pid, end = int(item.get("pid") or 0) or None, read_sight(item.get("end"))
    return Row(
        id=item["id"], statename=str(item.get("statename", "UNKNOWN")), pid=pid,
        uptime_s=max(0.0, at - float(item["start_at"])) if pid else None, enabled=bool(item.get("enabled")),
        start_at=float(item.get("start_at") or 0), stop_at=float(item.get("stop_at") or 0),
        exit_code=int(item.get("exit_code") or 0), stop_wait_s=float(item.get("stop_wait_s") or 0),
        end=end, digest=str(item.get("digest") or ""),
        deaths={} if end and end.asked else dict(item.get("deaths") or {}),
    )  # fmt: skip


def judge(observation: Observation, open_findings: Iterable[Finding]) -> tuple[Health, str]:
    """Return a bot's health and its cause in words: the worst of what is found, else what can be seen at all.

    The cause of one that does not run is that of its state, whatever else is still told of it.
    """
    findings = list(open_findings)
    health = health_of(observation, findings)
    if cause := ": ".join(filter(None, (_until(observation), _of_the_state(observation, findings)))):
        return health, cause
    for finding in findings:
        if finding.health == health:
            return health, _beside(finding.text, health, observation.state)
    if health is not Health.HEALTHY:
        return health, ""
    heartbeat = observation.heartbeat
    if heartbeat is None:
        return Health.UNKNOWN, "no heartbeat yet"
    if heartbeat.status:
        return health, f"it says: {heartbeat.status}"
    if observation.receives in ("webhook", "nothing"):
        return health, "receives by webhook" if observation.receives == "webhook" else "only sends"
    if observation.launch == "command":
        return health, "polling is not visible"
    if heartbeat.poll_success_mono is None:
        if observation.polls and _first_poll_open(heartbeat, observation.now):
            return health, "first poll open"
        # A program that only sends is well without polling.
        return (Health.UNKNOWN, "no successful getUpdates yet") if observation.polls else (health, NO_POLL_SEEN)
    return health, ""


def followed(before: WebhookInfo | None, answer: WebhookInfo) -> WebhookInfo:
    """Return Telegram's answer with what the one ``before`` it adds: for how long updates wait and become no fewer, and
    whether they ever did.
    """
    if before is not None:
        fewer = answer.pending < before.pending
        answer = replace(answer, fetched=before.fetched or (fewer and not _expired(before, answer)))
        if fewer:
            return answer
    if not answer.pending:
        return answer
    if before is None or before.waiting_since_mono is None:
        return replace(answer, waiting_probes=1, waiting_since_mono=answer.asked_mono)
    return replace(answer, waiting_probes=before.waiting_probes + 1, waiting_since_mono=before.waiting_since_mono)


def _expired(before: WebhookInfo, answer: WebhookInfo) -> bool:
    """Whether updates may have become fewer because Telegram dropped them, which it does after a day."""
    since = before.waiting_since_mono
    return since is not None and answer.asked_mono - since > DAY_S / 2


def is_unseen(observation: Observation) -> bool:
    """Return whether only Telegram can tell if updates reach a bot (or its token is good): its polls are not seen."""
    return observation.state == "running" and observation.heartbeat is not None and not observation.polls


def _beside(text: str, *shown: str) -> str:
    """Return a finding's text as it stands beside the bot's state and health, without saying them a second time."""
    for word in shown:
        text = text.removeprefix(f"{word}: ")
        text = text.removeprefix(f"{word} ") if text.startswith(f"{word} until ") else text
    return text


def _of_the_state(observation: Observation, findings: Iterable[Finding]) -> str:
    """Return why a bot does not run, "" of one that runs or where nothing tells."""
    for finding in findings:
        if finding.check == _OF_THE_STATE.get(observation.state):
            return _beside(finding.text, observation.state)
    return _last_words(observation) if observation.state in ("quarantined", "backing-off") else ""


def _until(observation: Observation) -> str:
    """Return until when a bot backs off, "" where that is not known."""
    heartbeat = observation.heartbeat
    if observation.state != "backing-off" or heartbeat is None or heartbeat.until_mono is None:
        return ""
    until_at = datetime.fromtimestamp(observation.now_at + heartbeat.until_mono - observation.now)
    return f"until {until_at:%H:%M:%S}"


def _last_words(observation: Observation) -> str:
    """Return why the bot's last process ended."""
    last = next((run for run in observation.runs if run.pid != observation.pid), None)
    if last is None or not (last.exit or last.died):
        return ""
    return last.exit.text if last.exit else KILLED


def _first_poll_open(heartbeat: Heartbeat, now: float) -> bool:
    """Whether Telegram holds the first poll of this process: without an update it answers only at its timeout."""
    started = heartbeat.poll_start_mono
    if started is None or heartbeat.poll_failure_mono is not None:
        return False
    return now - started <= (heartbeat.poll_timeout_s or 0.0) + _ANSWER_S


def is_coming_up(observation: Observation) -> bool:
    """Return whether a bot was started so recently that the next look should come soon: it has not shown itself yet."""
    heartbeat = observation.heartbeat
    if observation.uptime_s is None or observation.uptime_s > _COMING_UP_S or observation.launch == "command":
        return False
    return heartbeat is None or heartbeat.poll_start_mono is None


def restarts_24h(runs: tuple[Run, ...], ours_at: Iterable[float], now_at: float, deaths: int = 0) -> int:
    """Return how often a bot came back within a day: after a death, or restarted by the monitor (``ours_at``).

    What a person started is not counted. ``deaths``: supervisord's count, where the last end was asked for by nobody;
    it holds for a bot whose runs tell of no earlier one, or of a stop that nobody asked for.
    """
    after_death = sum(
        1 for newer, older in itertools.pairwise(runs) if older.died and newer.started_at > now_at - DAY_S
    )
    if len(runs) < 2 or any(run.exit is not None and run.exit.cause == STOPPED for run in runs[:2]):
        after_death = max(after_death, deaths)
    return after_death + sum(1 for at in ours_at if at > now_at - DAY_S)


def contradiction(row: Row) -> bool | None:
    """Return the wish that a bot's state expresses against its autostart (True run, False not); None: they agree."""
    if row.statename == "STOPPED" and row.enabled and row.start_at:
        return False
    if row.statename in _RUNNING and not row.enabled:
        return True
    return None


@dataclass(frozen=True)
class Contrary:
    """A contradiction, since when it is seen (monotonic), and how long it must last to be the operator's wish.

    ``wait_s`` None: it is none, however long it lasts.
    """

    wish: bool
    since: float
    wait_s: float | None


def in_motion(before: Mapping[str, Row], fleet: Fleet) -> bool:
    """Return whether somebody seems to be in the middle of stopping and starting programs.

    'supervisorctl restart A B' stops one after the other, and then starts one after the other: A stands still for as
    long as B takes to stop, B while A starts. ``before``: the last look.
    """
    started = (row.id in before and before[row.id].statename == "STOPPED" and row.start_at != before[row.id].start_at
               for row in fleet.rows)  # fmt: skip
    return fleet.stopping or any(started)


def watch(held: Contrary | None, before: Row | None, row: Row, now: float, moving: bool = False) -> Contrary | None:
    """Return the contradiction of a bot after one more look (None: there is none).

    An operator who went past multibot (``supervisorctl stop``) changed the state. Where autostart changed instead,
    it was one of our own doors, which say what they want first and act then; with many bots that takes a while. But
    a bot that was started between the two looks and does not do what our door said was turned after that.
    ``before``: the last look; None after a start of the monitor, when it cannot be told which of them changed.
    ``moving``: others are being stopped and started (``in_motion``), so that the waiting begins anew.
    """
    wish = contradiction(row)
    if wish is None:
        return None
    if held is not None and held.wish is wish:
        return replace(held, since=now) if moving else held
    if before is None:
        return Contrary(wish, now, UNSEEN_WISH_AFTER_S)
    ours = before.enabled != row.enabled and before.start_at == row.start_at
    return Contrary(wish, now, None if ours else WISH_AFTER_S)


def is_wish(contrary: Contrary, now: float) -> bool:
    """Return whether a contradiction has lasted long enough to be what the operator wants."""
    return contrary.wait_s is not None and now - contrary.since >= contrary.wait_s


def is_deserted(observation: Observation) -> bool:
    """Return whether nobody wants this bot to run, so that nothing can be wrong with it.

    A stopped bot that is still enabled may be on its way through a restart; one that has finished did what it should.
    """
    if observation.state == "finished":
        return True
    return not observation.enabled and observation.state not in ("running", "starting")


def ending_of(observation: Observation) -> str:
    """Return what to say of this bot's incidents that are over; "": it is well again."""
    if observation.state == "finished":
        return "has finished"
    if is_deserted(observation):
        return "was stopped"
    return "is quarantined now" if observation.state == "quarantined" else ""
