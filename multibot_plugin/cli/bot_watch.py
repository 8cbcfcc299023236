"""Has a bot that was just started really started? Judged from supervisord's row and the runner's own files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multibot_plugin.cli.output import one_line
from multibot_plugin.home import Home
from multibot_runner.protocol import (
    BACKING_OFF,
    EXIT_FINAL,
    LOCKED_OUT,
    BadFile,
    Heartbeat,
    Run,
    decode,
    decode_runs,
    read_file,
)

if TYPE_CHECKING:
    from multibot_plugin.supervisor.client import Supervisor

_LOOK_EVERY_S = 0.1
# A runner that gives up does so no earlier than 1.5 s after its start; a script's polls show once its library is in.
_POLL_TAKEN_S = 1.0
_COMMAND_PROVEN_S, _SCRIPT_PROVEN_S = 2.0, 4.0


@dataclass(frozen=True)
class Verdict:
    """What became of a start. ``ok`` False: it failed; ``text`` says how it is, for ``echo: polling``."""

    ok: bool
    text: str


def watch(home: Home, supervisor: Supervisor, bot: str, patience_s: float = 15.0) -> Verdict:
    """Wait until the start of ``bot`` has succeeded or failed, at most ``patience_s`` seconds.

    Raises SupervisordAway, NoSuchBot.
    """
    launch = launch_of(home, bot)
    deadline = time.monotonic() + patience_s
    while True:
        row, heartbeat = supervisor.row(bot), heartbeat_of(home, bot)
        verdict = judge(row, heartbeat, launch, time.monotonic())
        if verdict is None and time.monotonic() > deadline:
            verdict = at_the_end(row, heartbeat)
        if verdict is not None:
            # The bot itself can write this file.
            reason = "" if verdict.ok else one_line(last_words(runs_of(home, bot)))[:200]
            return Verdict(verdict.ok, f"{verdict.text}: {reason}" if reason else verdict.text)
        time.sleep(_LOOK_EVERY_S)


def judge(row: Mapping[str, Any], heartbeat: Heartbeat | None, launch: str, now: float) -> Verdict | None:
    """Return how a start came out, None while that is not known yet. ``now`` is CLOCK_MONOTONIC. Pure."""
    statename = row["statename"]
    if statename == "EXITED":
        return Verdict(False, "gave up") if row["exit_code"] == EXIT_FINAL else None
    if statename == "FATAL" or (statename == "BACKOFF" and row["spawn_error"]):
        return Verdict(False, "could not be started")
    if statename != "RUNNING" or heartbeat is None or heartbeat.pid != row["pid"]:
        return None
    if heartbeat.phase == BACKING_OFF:
        return Verdict(False, "died, and waits before its next start")
    if heartbeat.phase == LOCKED_OUT:
        return None
    if heartbeat.poll_success_mono is not None or _holds_a_poll(heartbeat, now):
        return Verdict(True, "polling")
    proven_s = {"command": _COMMAND_PROVEN_S, "script": _SCRIPT_PROVEN_S}.get(launch)
    if proven_s is not None and not heartbeat.polling_seen and (row["uptime_s"] or 0.0) >= proven_s:
        return Verdict(True, "running")
    return None


def _holds_a_poll(heartbeat: Heartbeat, now: float) -> bool:
    """Whether Telegram has taken a poll and holds it: without an update it answers only after the poll's timeout."""
    started, failed = heartbeat.poll_start_mono, heartbeat.poll_failure_mono
    return started is not None and failed is None and now - started >= _POLL_TAKEN_S


def at_the_end(row: Mapping[str, Any], heartbeat: Heartbeat | None) -> Verdict:
    """Return what to say of a start that is still open when patience ends. Pure."""
    ours = heartbeat if heartbeat is not None and heartbeat.pid == row["pid"] else None
    if row["statename"] != "RUNNING":
        return Verdict(False, f"does not stay up (supervisord: {row['statename']})")
    if ours is not None and ours.phase == LOCKED_OUT:
        return Verdict(True, "waiting: an earlier process of this bot has not ended yet")
    if ours is not None and ours.poll_code is not None:
        return Verdict(True, f"running, but its getUpdates fails with {ours.poll_code}")
    return Verdict(True, "running, no successful poll yet")


def launch_of(home: Home, bot: str) -> str:
    """Return the launch form of a bot that is rendered, "" when its files do not tell."""
    try:
        return str(json.loads(read_file(home.bot(bot).live)).get("launch", ""))
    except (BadFile, ValueError, AttributeError):
        return ""


def heartbeat_of(home: Home, bot: str) -> Heartbeat | None:
    """Return the last heartbeat of a bot, of whatever process wrote it."""
    try:
        return decode(Heartbeat, read_file(home.bot(bot).heartbeat))
    except BadFile:
        return None


def runs_of(home: Home, bot: str) -> tuple[Run, ...]:
    """Return a bot's last starts, newest first."""
    try:
        return decode_runs(read_file(home.bot(bot).runs))
    except BadFile:
        return ()


def last_words(runs: tuple[Run, ...]) -> str:
    """Return why the newest run that has ended did so, "" when nothing was written down. Pure."""
    return next((run.exit.text for run in runs if run.exit is not None), "")
