"""``multibot stop``: the whole system."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from multibot_plugin.cli.init import check_owner
from multibot_plugin.cli.output import Context, confirm, count, pass_context, say, step
from multibot_plugin.cli.start import is_running
from multibot_plugin.errors import MultibotError, SupervisordAway, Unreachable
from multibot_plugin.supervisor.client import STOPPED_STATES, Supervisor, SupervisorFault, kill_tree, program

if TYPE_CHECKING:
    import psutil

MONITOR = "multibot"
_POLL_S = 0.05
_MORE_S = 15.0  # what supervisord needs besides the bots' own time
_DATABASE_S = 60.0  # of its own section


@click.command()
@click.option("--now", is_flag=True, help="Kill the bots instead of letting them finish.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def stop(context: Context, now: bool, yes: bool) -> None:
    """Stop the whole system: every bot (at the same time), the monitor, the database and supervisord.

    Each bot has its own stop_wait_s to finish. Nobody's wish is changed: 'multibot start' starts the same bots again.
    One bot: 'multibot bot stop ID'.
    """
    check_owner(context.home)
    with context.supervisor() as supervisor:
        _stop(context, supervisor, now, yes)


def _stop(context: Context, supervisor: Supervisor, now: bool, yes: bool) -> None:
    pid = is_running(context.home)
    try:
        rows = supervisor.bots()["bots"]
    except SupervisordAway:
        if pid:
            raise Unreachable(f"supervisord (pid {pid}) lives but does not answer: kill {pid}") from None
        say("supervisord is not running: nothing to stop")
        return
    except SupervisorFault:
        rows = []  # it is shutting down already, or runs without our plugin
    pid = pid or supervisor.pid()
    living = [row for row in rows if row["statename"] not in STOPPED_STATES]
    confirm(f"Stop supervisord and {count(len(living), 'running bot')}?", yes)
    _record(context, now)
    _shut_down(supervisor, living, pid, now)
    say(f"Stopped. To start it again: {context.home.command('start')}")


def _record(context: Context, now: bool) -> None:
    """Leave an entry for the audit log; it reaches the database with the next start."""
    from multibot_plugin.journal import AuditEntry, Journal, new_id

    actor = context.actor
    entry = AuditEntry(new_id(), time.time(), actor.name, actor.door, None, "stop", {"now": now})
    try:
        Journal(context.home.journal).append(entry)
    except MultibotError as error:  # a full disk must not keep anybody from stopping
        say(f"multibot: not recorded: {error}")


def _shut_down(supervisor: Supervisor, rows: Sequence[dict[str, Any]], pid: int, now: bool) -> None:
    """End the bots at the same time, then supervisord with what is left; return when no process of theirs is left."""
    longest_s = max((row["stop_wait_s"] for row in rows), default=0)
    family = _family(pid)
    with step("monitor"), suppress(MultibotError):
        # Before the bots: it would take a bot that is stopped from outside for somebody's wish.
        supervisor.stop(MONITOR, now=now)
    with step(count(len(rows), "bot")):
        _stop_bots(supervisor, rows, longest_s + _MORE_S, now)
    with step("supervisord"):
        with suppress(SupervisordAway):
            supervisor.shutdown()
        _wait_gone(family, longest_s + _MORE_S + _DATABASE_S)


def _stop_bots(supervisor: Supervisor, rows: Sequence[dict[str, Any]], wait_s: float, now: bool) -> None:
    with suppress(SupervisordAway, SupervisorFault):  # what is left is supervisord's to stop
        for row in rows:
            supervisor.stop(program(row["id"]), None)
            if now and row["pid"]:
                kill_tree(row["pid"])
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if all(row["statename"] in STOPPED_STATES for row in supervisor.bots()["bots"]):
                return
            time.sleep(_POLL_S)


def _family(pid: int) -> list[psutil.Process]:
    """Return supervisord and everything that it or its programs started, as far as it lives now."""
    import psutil

    try:
        supervisord = psutil.Process(pid)
        return [*supervisord.children(recursive=True), supervisord]
    except psutil.NoSuchProcess:
        return []


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        # The one who started supervisord in the foreground may not have asked for its exit code yet.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_gone(family: Sequence[psutil.Process], wait_s: float) -> None:
    """Return when these processes are gone; raises MultibotError when one is still there after ``wait_s``."""
    deadline = time.monotonic() + wait_s
    while left := [process.pid for process in family if _lives(process)]:
        if time.monotonic() > deadline:
            raise MultibotError(f"pid {left[-1]} is still there: see supervisord's log, or kill {left[-1]}")
        time.sleep(_POLL_S)
