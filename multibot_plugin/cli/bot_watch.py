"""Has a bot that was just started really started? Judged from supervisord's row and the runner's own files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multibot_plugin.cli.output import one_line
from multibot_plugin.cli.remedies import remedy
from multibot_plugin.home import Home
from multibot_runner.protocol import BACKING_OFF, EXIT_FINAL, EXIT_FINISHED, LOCKED_OUT, QUARANTINED, Heartbeat, Run
from multibot_runner.readers import read_heartbeat, read_live, read_runs

if TYPE_CHECKING:
    from multibot_plugin.supervisor.client import Supervisor

_LOOK_EVERY_S = 0.1
_TOO_QUICK = "Exited too quickly"  # supervisord's words; all others are of a fork or exec that failed
# A runner that gives up does so no earlier than 1.5 s after its start; a script's polls show once its library is in.
_POLL_TAKEN_S = 1.0
_MONITOR_S = 3.0  # it looks every second while a bot comes up
_COMMAND_PROVEN_S, _SCRIPT_PROVEN_S = 2.0, 4.0


@dataclass(frozen=True)
class Verdict:
    """What became of a start. ``ok`` False: it failed; ``text`` says how it is, for ``echo: polling``.

    ``todo``: after a failure, what to type, one after the other.
    """

    ok: bool
    text: str
    todo: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The text and what to type."""
        return f"{self.text}: {', then '.join(map(repr, self.todo))}" if self.todo else self.text


_STOPPED = Verdict(True, "stopped meanwhile")  # as somebody wished


def watch(home: Home, supervisor: Supervisor, bot: str, patience_s: float = 15.0) -> Verdict:
    """Wait until the start of ``bot`` has succeeded or failed, at most ``patience_s`` seconds.

    Raises SupervisordAway, NoSuchBot.
    """
    paths = home.bot(bot)
    launch, live = read_live(paths)
    polls = live.get("receives") not in ("webhook", "nothing")
    deadline, agreed = time.monotonic() + patience_s, None
    while True:
        row, heartbeat = supervisor.row(bot), read_heartbeat(paths)
        verdict = judge(row, heartbeat, launch, time.monotonic(), polls)
        if verdict is None and time.monotonic() > deadline:
            verdict = at_the_end(row, heartbeat)
        if verdict is not None and verdict.ok and _is_awaited(row):
            # Else 'list' would say "unknown" of a bot that was just said to be polling.
            agreed = agreed or time.monotonic() + _MONITOR_S
            verdict = verdict if time.monotonic() > min(agreed, deadline) else None
        if verdict is not None:
            return verdict if verdict.ok else _explained(home, verdict, row)
        time.sleep(_LOOK_EVERY_S)


def _explained(home: Home, verdict: Verdict, row: Mapping[str, Any]) -> Verdict:
    """Return a failure with the runner's words for it, and what to type."""
    bot = str(row["id"])
    reason = one_line(last_words(read_runs(home.bot(bot))))[:200].rstrip(" .:")
    final = ", and does not start again by itself" if row["state"] == "quarantined" and not row["pid"] else ""
    todo = remedy(row, reason, home.command).commands or (home.command(f"logs {bot}"),)
    return Verdict(False, f"{verdict.text}{f': {reason}' if reason else ''}{final}", todo)


def judge(
    row: Mapping[str, Any], heartbeat: Heartbeat | None, launch: str, now: float, polls: bool = True
) -> Verdict | None:
    """Return how a start came out, None while that is not known yet. ``now`` is CLOCK_MONOTONIC. Pure.

    ``polls`` False: the bot receives by webhook or nothing.
    """
    statename = row["statename"]
    if statename == "EXITED":
        known = {EXIT_FINAL: Verdict(False, "gave up"), EXIT_FINISHED: Verdict(True, "has finished")}
        return known.get(row["exit_code"])
    if statename in ("STOPPED", "STOPPING") and not row["enabled"]:
        return _STOPPED
    if statename == "FATAL":
        return Verdict(False, "could not be started")
    if statename == "BACKOFF" and row["spawn_error"]:
        how = "died at once" if row["spawn_error"].startswith(_TOO_QUICK) else "could not be started"
        return Verdict(False, f"{how}, and is tried again")
    if statename != "RUNNING" or heartbeat is None or heartbeat.pid != row["pid"]:
        return None
    if heartbeat.phase in (BACKING_OFF, QUARANTINED):
        return Verdict(False, "died, and waits before its next start")
    if heartbeat.phase == LOCKED_OUT:
        return None
    if heartbeat.poll_success_mono is not None or _holds_a_poll(heartbeat, now):
        return Verdict(True, "polling")
    proven_s = {"command": _COMMAND_PROVEN_S, "script": _SCRIPT_PROVEN_S}.get(
        launch, None if polls else _SCRIPT_PROVEN_S
    )
    if proven_s is not None and not (polls and heartbeat.polling_seen) and (row["uptime_s"] or 0.0) >= proven_s:
        return Verdict(True, "running")
    return None


def _is_awaited(row: Mapping[str, Any]) -> bool:
    """Whether the monitor, which watches, is about to look at this process for the first time since it runs."""
    return row["state"] == "running" and row["health"] == "unknown" and row["cause"] in ("", "just started")


def _holds_a_poll(heartbeat: Heartbeat, now: float) -> bool:
    """Whether Telegram has taken a poll and holds it: without an update it answers only after the poll's timeout."""
    started, failed = heartbeat.poll_start_mono, heartbeat.poll_failure_mono
    return started is not None and failed is None and now - started >= _POLL_TAKEN_S


def at_the_end(row: Mapping[str, Any], heartbeat: Heartbeat | None) -> Verdict:
    """Return what to say of a start that is still open when patience ends. Pure."""
    ours = heartbeat if heartbeat is not None and heartbeat.pid == row["pid"] else None
    if row["statename"] == "STOPPING" or (row["statename"] == "STOPPED" and row["stop_at"]):  # past multibot
        return _STOPPED
    if row["statename"] != "RUNNING":
        return Verdict(False, f"does not stay up (supervisord: {row['statename']})")
    if ours is not None and ours.phase == LOCKED_OUT:
        return Verdict(True, "waiting: an earlier process of this bot has not ended yet")
    if ours is not None and ours.poll_code is not None:
        return Verdict(True, f"running, but its getUpdates fails with {ours.poll_code}")
    return Verdict(True, "running, no successful poll yet")


def last_words(runs: tuple[Run, ...]) -> str:
    """Return why the newest run that has ended did so, "" when nothing was written down. Pure."""
    return next((run.exit.text for run in runs if run.exit is not None), "")
