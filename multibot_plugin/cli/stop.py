"""``multibot stop``: the whole system."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from multibot_plugin.cli.output import Context, confirm, count, json_option, pass_context, say, show_json, step
from multibot_plugin.cli.start import is_running
from multibot_plugin.errors import MultibotError, SupervisordAway, Unreachable
from multibot_plugin.home import check_owner
from multibot_plugin.supervisor.client import STOPPED_STATES, Supervisor, kill_tree
from multibot_plugin.supervisor.faults import SupervisorFault, program

if TYPE_CHECKING:
    import psutil

    from multibot_plugin.home import Home

_POLL_S = 0.05
_MORE_S = 15.0  # what supervisord needs besides the bots' own time
_DATABASE_S = 60.0  # of its own section


@click.command()
@click.option("--now", is_flag=True, help="Kill the bots instead of letting them finish.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option()
@pass_context
def stop(context: Context, now: bool, yes: bool, json_wanted: bool) -> None:
    """Stop the whole system: every bot (at the same time), the monitor, the database and supervisord.

    Each bot has its own stop_wait_s to finish. Nobody's wish is changed: 'multibot start' starts the same bots again.
    One bot: 'multibot bot stop ID'. In a supervisord of yours (init --into) that one and your programs go on.
    """
    check_owner(context.home)
    with context.supervisor() as supervisor:
        stopped = _stop(context, supervisor, now, yes)
    if json_wanted:
        show_json(stopped)


def _stop(context: Context, supervisor: Supervisor, now: bool, yes: bool) -> dict[str, Any]:
    """Stop what runs, if anything does; return what that was, for JSON."""
    pid = is_running(context.home)
    try:
        living = _living(supervisor)
    except SupervisordAway:
        if pid:
            raise Unreachable(f"supervisord (pid {pid}) lives but does not answer: kill {pid}") from None
        say("supervisord is not running: nothing to stop")
        return {"stopped": False, "pid": None, "bots": []}
    pid = pid or supervisor.pid()
    if context.home.foreign:
        return _stop_ours(context, supervisor, now, yes)
    confirm(f"Stop supervisord and {count(len(living), 'running bot')}?", yes)
    _record(context, now)
    _shut_down(context.home, supervisor, pid, now)
    say(f"Stopped. To start it again: {context.home.command('start')}")
    return {"stopped": True, "pid": pid, "bots": [row["id"] for row in living]}


def _stop_ours(context: Context, supervisor: Supervisor, now: bool, yes: bool) -> dict[str, Any]:
    """Stop what is ours in an operator's supervisord; return what that was, for JSON."""
    from multibot_plugin.bots.leftovers import end_left
    from multibot_plugin.cli.beside import stop_ours

    home, living = context.home, [row for row in supervisor.bots()["bots"] if row["statename"] not in STOPPED_STATES]
    confirm(f"Stop {count(len(living), 'running bot')}, the monitor and the database?", yes)
    _record(context, now)
    with step(f"{count(len(living), 'bot')}, monitor and database"):
        stop_ours(home, supervisor, living, now)
    bots = [row["id"] for row in living]
    _say_left(sum(end_left(home, bot, partial(supervisor.running, program(bot))) for bot in bots))
    say(f"Stopped. Your supervisord ({home.foreign}) and its other programs go on; when it is started anew, so are the "
        f"bots. To start them again: {home.command('start')}")  # fmt: skip
    return {"stopped": True, "pid": supervisor.pid(), "bots": bots}


def _say_left(left: int) -> None:
    if left:
        say(f"killed {left} process(es) that bots left behind")


def _record(context: Context, now: bool) -> None:
    """Leave an entry for the audit log; it reaches the database at once or with the next start."""
    from multibot_plugin.journal import AuditEntry, Journal, new_id

    actor = context.actor
    entry = AuditEntry(new_id(), time.time(), actor.name, actor.door, None, "stop", {"now": now})
    try:
        Journal(context.home.journal).append(entry)
    except MultibotError as error:  # a full disk must not keep anybody from stopping
        say(f"multibot: not recorded: {error}")


def _shut_down(home: Home, supervisor: Supervisor, pid: int, now: bool) -> None:
    """Let supervisord stop everything and end; return when no process of theirs is left.

    supervisord is asked for nothing else: should this command be killed, it goes on alone, and never lives on with its
    programs stopped. It stops the bots at the same time and first (supervisor/inside/stops.py). What a bot left behind
    may outlive them all, and is ended when they have, or do not.
    """
    from multibot_plugin.bots.leftovers import end_all_left

    programs, family, wait_s = _family(pid), _family(pid, recursive=True), _MORE_S + _DATABASE_S
    try:
        rows = _living(supervisor)
        with step(f"{count(len(rows), 'bot')} and supervisord"):
            supervisor.shutdown()
            for row in rows if now else ():
                if row["pid"]:
                    kill_tree(row["pid"])
            wait_s += max((row["stop_wait_s"] for row in rows), default=0)
            left = _still_there(programs, wait_s)
    except SupervisordAway:  # it may have died, or hang
        left = _still_there(programs, wait_s)
    _say_left(end_all_left(home))
    if left := left or _still_there(family, _MORE_S):
        raise MultibotError(f"pid {left[-1]} is still there: see supervisord's log, or kill {left[-1]}")


def _living(supervisor: Supervisor) -> list[dict[str, Any]]:
    """Return the rows of the bots that have to be stopped."""
    try:
        return [row for row in supervisor.bots()["bots"] if row["statename"] not in STOPPED_STATES]
    except SupervisorFault:
        return []  # it is shutting down already, or runs without our plugin


def _family(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    """Return supervisord and its programs, or (``recursive``) all that these started, too, as far as it lives now."""
    import psutil

    try:
        supervisord = psutil.Process(pid)
        return [*supervisord.children(recursive=recursive), supervisord]
    except psutil.NoSuchProcess:
        return []


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        # The one who started supervisord in the foreground may not have asked for its exit code yet.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _still_there(family: Sequence[psutil.Process], wait_s: float) -> list[int]:
    """Wait until these processes are gone; return the pids of those that are still there after ``wait_s``."""
    deadline = time.monotonic() + wait_s
    while (left := [process.pid for process in family if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left
