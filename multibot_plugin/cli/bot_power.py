"""``multibot bot start``, ``stop``, ``restart``: the wish first, then supervisord; also while the database is away."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from multibot_plugin.cli.applying import fetch
from multibot_plugin.cli.bot_stopping import MORE_S, stop_for_good
from multibot_plugin.cli.bot_watch import watch
from multibot_plugin.cli.fleet import Fleet, Row, look, select
from multibot_plugin.cli.output import Context, complete_bot, one_line, pass_context, say, show_json
from multibot_plugin.cli.wishes import record, remember, wish
from multibot_plugin.errors import MultibotError, NoSuchBot, Refused, SupervisordAway
from multibot_plugin.health.lifecycle import Act as Does
from multibot_plugin.health.lifecycle import Cell, Event, decide, state_of
from multibot_plugin.locks import locked
from multibot_runner.protocol import lifecycle
from multibot_runner.readers import read_heartbeat

if TYPE_CHECKING:
    from multibot_plugin.bots.unfinished import Done
    from multibot_plugin.home import Home
    from multibot_plugin.supervisor.client import Supervisor

_F = TypeVar("_F", bound=Callable[..., Any])
Act = Literal["start", "stop", "restart"]
_EVENTS = {"start": Event.START, "stop": Event.STOP, "restart": Event.RESTART}
_AT_ONCE = 16
_NOW_WAITS_S = 1.0
_LEFT = {"finished": "has finished, left so"}


@dataclass(frozen=True)
class Outcome:
    """What became of an act on one bot; ``text`` without its name, ``seconds`` that it took."""

    bot: str
    ok: bool
    text: str
    seconds: float = 0.0


def selector(command: _F) -> _F:
    """Add ``BOT... | --all`` and ``--json``."""
    every = click.option("--all", "everything", is_flag=True, help="Every bot.")
    as_json = click.option("--json", "json_wanted", is_flag=True, help="The results as JSON.")
    bots = click.argument("bots", nargs=-1, metavar="BOT...", shell_complete=complete_bot)
    return bots(every(as_json(command)))


@click.command("start")
@selector
@pass_context
def start(context: Context, bots: tuple[str, ...], everything: bool, json_wanted: bool) -> int:
    """Start bots, now and whenever the system starts.

    BOT is an id or a pattern like 'shop-*'. A bot that multibot gave up on (quarantined) begins anew.
    """
    return carry_out(context, "start", bots, everything, json_wanted=json_wanted)


@click.command("stop")
@selector
@click.option("--now", is_flag=True, help="SIGKILL instead of SIGTERM: nothing is finished.")
@pass_context
def stop(context: Context, bots: tuple[str, ...], everything: bool, now: bool, json_wanted: bool) -> int:
    """Stop bots; they stay stopped, also when the system starts again, until somebody starts them."""
    return carry_out(context, "stop", bots, everything, now, json_wanted)


@click.command("restart")
@selector
@click.option("--now", is_flag=True, help="SIGKILL instead of SIGTERM: nothing is finished.")
@pass_context
def restart(context: Context, bots: tuple[str, ...], everything: bool, now: bool, json_wanted: bool) -> int:
    """Stop and start bots. Those that are meant to be stopped, or have finished, stay so, unless they are named.

    A stopped bot that is named is started, and will start with the system from then on.
    """
    return carry_out(context, "restart", bots, everything, now, json_wanted)


def carry_out(context: Context, act: Act, words: Sequence[str], everything: bool, now: bool = False,
              json_wanted: bool = False) -> int:  # fmt: skip
    """Do ``act`` to the bots that are named; return the exit code."""
    if bool(words) == everything:
        raise click.UsageError("name the bots (an id, or a pattern like 'shop-*'), or --all")
    rows = _selected(context, look(context), words)
    if not rows:
        return _tell([], json_wanted, "there is no bot")
    with _alone(context.home, rows, now) as let_go:
        fleet = look(context)  # somebody else may have been at it until now
        rows = _selected(context, fleet, words)
        left = [row for row in rows if act == "restart" and row["id"] not in words and _rests(row)]
        rows = [row for row in rows if row not in left]
        bots = [str(row["id"]) for row in rows]
        if wished := _wished(act, rows, fleet):
            wish(context, wished, act != "stop")
            remember(context, None if fleet.away else context.supervisor(), wished, act != "stop")
        if fleet.away is not None:
            return _nothing_runs(act, bots, fleet.away, json_wanted)
        record(context, act, bots, now)
        outcomes = [Outcome(row["id"], True, _LEFT.get(row["state"], "is stopped, left so")) for row in left]
        if act == "stop":
            rows = _told_to_end(context, rows)
        with _noted(context, act, bots) as noted, ThreadPoolExecutor(min(_AT_ONCE, max(1, len(rows)))) as pool:

            def begun(bot: str, *, failed: bool = False) -> None:
                noted(bot, failed=failed)
                let_go(bot)

            outcomes += pool.map(lambda row: attempt(context, act, row, now, begun), rows)
    outcomes.sort(key=lambda outcome: outcome.bot)
    return _tell(outcomes, json_wanted, "\n".join(f"{outcome.bot}: {one_line(outcome.text)}" for outcome in outcomes))


def _told_to_end(context: Context, rows: Sequence[Row]) -> list[Row]:
    """Tell all bots to end before any of them is waited for, so that they take the time of the slowest, not the sum."""
    from multibot_plugin.supervisor.faults import program

    told = time.monotonic()
    with context.supervisor() as supervisor:
        for row in filter(_is_to_be_stopped, rows):
            with contextlib.suppress(MultibotError):  # told again, and what is wrong said, when it is waited for
                supervisor.stop(program(str(row["id"])), None)
    return [{**row, "told_mono": told} for row in rows]


def _rests(row: Row) -> bool:
    """Whether a bot stands still by somebody's wish, or has done what it should: only its name restarts it."""
    return not row["enabled"] or row["state"] == "finished"


def _wished(act: Act, rows: Sequence[Row], fleet: Fleet) -> list[str]:
    """Return the bots whose wish this is: of a restart those that are meant to be stopped, if it can be done at all."""
    if act == "restart":
        return [str(row["id"]) for row in rows if not row["enabled"] and fleet.away is None]
    return [str(row["id"]) for row in rows]


def _selected(context: Context, fleet: Fleet, words: Sequence[str]) -> list[Row]:
    try:
        return [_as_it_is(context.home, row) for row in select(fleet.rows, words)]
    except NoSuchBot as error:
        raise _not_applied(context, words, {str(row["id"]) for row in fleet.rows}) or error from None


def _as_it_is(home: Home, row: Row) -> Row:
    """Return the row with the state that the runner tells, which the row has only where the monitor looks."""
    heartbeat = read_heartbeat(home.bot(str(row["id"]))) if row["pid"] else None
    if heartbeat is None or heartbeat.pid != row["pid"]:
        return row
    return {**row, "state": lifecycle(row["statename"], row["exit_code"] or 0, heartbeat.phase)}


@contextlib.contextmanager
def _alone(home: Home, rows: Sequence[Row], now: bool) -> Iterator[Callable[[str], None]]:
    """Be the only command that starts or stops these bots, so that of two the later decides.

    Gives a function that lets go of one of them. ``now``: wait only for a moment, for the bot that somebody waits for
    in vain may be the one to be killed. Raises Refused when somebody else is at it for longer than a stop may take.
    """
    folder, held = home.state / "acts", {}
    with contextlib.ExitStack() as stack:
        for row in sorted(rows, key=lambda row: str(row["id"])):  # in one order: no two wait for each other
            bot, wait_s = str(row["id"]), _NOW_WAITS_S if now else (row["stop_wait_s"] or 0.0) + 2 * MORE_S
            busy = Refused(f"another command has been starting or stopping {bot!r} for {wait_s:g} s")
            held[bot] = stack.enter_context(contextlib.ExitStack())
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                held[bot].enter_context(locked(folder / bot, wait_s, busy))
            except OSError:
                continue  # a full disk is no reason to leave a bot running that somebody wants to stop
            except Refused:
                if not now:
                    raise
        yield lambda bot: held[bot].close()


def _tell(outcomes: Sequence[Outcome], json_wanted: bool, words: str) -> int:
    """Show the outcomes, or ``words`` for a person; return the exit code."""
    if json_wanted:
        show_json(
            {"bots": [{"id": o.bot, "ok": o.ok, "text": o.text, "seconds": round(o.seconds, 2)} for o in outcomes]}
        )
    else:
        say(words)
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _not_applied(context: Context, words: Sequence[str], known: set[str]) -> Refused | None:
    """Return what to say of a bot that is stored, but that supervisord has not been told of."""
    try:
        stored = {str(row["id"]) for row in context.run(fetch(context))}
    except MultibotError:
        return None
    for word in words:
        if word in stored - known:
            return Refused(f"bot {word!r} is not applied yet: run '{context.home.command('apply')}'")
    return None


def _nothing_runs(act: Act, bots: Sequence[str], away: SupervisordAway, json_wanted: bool) -> int:
    """Say what the act means while supervisord, and so every bot, is away."""
    ok, text = {
        "stop": (True, "not running (supervisord is away), and will not start with it"),
        "start": (False, "will start with supervisord"),
        "restart": (False, "not running (supervisord is away)"),
    }[act]
    code = _tell([Outcome(bot, ok, text) for bot in bots], json_wanted, f"{', '.join(bots)}: {text}")
    if ok:
        return code
    raise away


def _noted(context: Context, act: Act, bots: Sequence[str]) -> contextlib.AbstractContextManager[Done]:
    """Note a restart, so that it is finished should we be killed, or fail, between stop and start."""
    from multibot_plugin.bots.unfinished import Whose, restarting

    if act != "restart":
        return contextlib.nullcontext(lambda bot, *, failed=False: None)
    return restarting(context.home, bots, Whose(context.actor.name, context.actor.door))


def attempt(context: Context, act: Act, row: Mapping[str, Any], now: bool, begun: Done) -> Outcome:
    """Do ``act`` to one bot and wait for the result. Every thread has a connection of its own.

    ``begun`` is called when nothing is left but to watch, or nothing can be done.
    """
    began = time.monotonic()
    bot, cell = str(row["id"]), decide(state_of(row), Event.STOP_NOW if act == "stop" and now else _EVENTS[act])
    with context.supervisor() as supervisor:
        try:
            if act == "stop":
                return _stop(context, supervisor, row, cell)
            if cell.act == Does.LEAVE:
                return Outcome(bot, True, cell.words)
            if cell.act == Does.STOP_START:
                stop_for_good(context.home, supervisor, row, now)
            return _begin(context, supervisor, row, cell.words, begun, began)
        except SupervisordAway:
            raise
        except MultibotError as error:
            begun(bot, failed=True)
            return Outcome(bot, False, f"failed: {error}")


def _begin(context: Context, supervisor: Supervisor, row: Mapping[str, Any], done: str, told: Done,
           began: float) -> Outcome:  # fmt: skip
    from multibot_plugin.supervisor.faults import program

    bot = str(row["id"])
    supervisor.start(program(bot), wait_s=None, stopping_s=row["stop_wait_s"] + MORE_S)
    told(bot)
    verdict = watch(context.home, supervisor, bot)
    took = time.monotonic() - began
    if verdict.ok:
        return Outcome(bot, True, f"{done} in {took:.1f} s, {verdict.text}", took)
    return Outcome(bot, False, verdict.told, took)


def _is_to_be_stopped(row: Row) -> bool:
    return decide(state_of(row), Event.STOP).act == Does.STOP


def _stop(context: Context, supervisor: Supervisor, row: Mapping[str, Any], cell: Cell) -> Outcome:
    from multibot_plugin.bots.leftovers import end_left, in_terminal
    from multibot_plugin.supervisor.faults import program

    begun, bot = row["told_mono"], str(row["id"])
    if cell.act != Does.LEAVE:
        stop_for_good(context.home, supervisor, row, cell.act == Does.KILL)
    left = end_left(context.home, bot, lambda: supervisor.running(program(bot)))
    too = f"; killed {left} process(es) that it left behind" if left else ""
    if pid := in_terminal(context.home.bot(bot)):
        too += f"; process {pid} runs it in a terminal, left alone"
    if cell.act == Does.LEAVE:
        return Outcome(bot, True, f"{cell.words}{too}")
    took = time.monotonic() - begun
    return Outcome(bot, True, f"{cell.words} in {took:.1f} s{too}", took)
