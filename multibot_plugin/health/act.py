"""The monitor's hands: restarts that were decided, and stops and starts that an operator made past multibot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from multibot_plugin.bots.conform import Applied
from multibot_plugin.errors import NoSuchBot
from multibot_plugin.health.judgement import ACTOR, DOOR, restart_id, wish_id
from multibot_plugin.health.ledger import Ledger, Restart
from multibot_plugin.health.observe import Supervisor
from multibot_plugin.health.recovery import Decision
from multibot_plugin.health.rules import Contrary, Fleet, Row, contradiction, in_motion, is_wish, read_fleet, watch
from multibot_plugin.journal import AuditEntry, Journal, JournalError, Wish
from multibot_plugin.plugins import describe
from multibot_plugin.workers import Worker, ended
from multibot_runner.protocol import PROGRAM_PREFIX

OUTSIDE = "supervisorctl"  # also its web page and other tools: all that is known is that it was not multibot
_AT_REST = ("STOPPED", "EXITED", "FATAL")
_MORE_S = 60.0  # beyond the bot's own stop_wait_s
_AUTOSTART_TIMEOUT_S = 60.0
_RPC_TIMEOUT_S = 15.0
_FINISH_TIMEOUT_S = 600.0  # after that it goes on in its thread, and holds the lock
_FINISHING = ""  # among the tasks, which have bots' ids
_log = logging.getLogger("multibot.monitor")


class NotYet(Exception):
    """A restart could not be finished; it has to be tried again. Says why."""


class Hands:
    """Acts in daemon threads, one per act. ``settle`` saves and hands over what an act changed in the ledger.

    ``under_way``: the bots that our own commands are restarting; ``finish``: what to do for those that were cut off.
    """

    def __init__(
        self, ledger: Ledger, journal: Journal, connect: Callable[[], Supervisor],
        set_autostart: Callable[[str, bool], None], settle: Callable[[], None], host: str,
        under_way: Callable[[], frozenset[str]], finish: Callable[[], Applied | None],
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._journal = journal
        self._connect = connect
        self._set_autostart = set_autostart
        self._settle = settle
        self._host = host
        self._under_way = under_way
        self._finish = finish
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._contrary: dict[str, Contrary] = {}
        self._before: dict[str, Row] = {}
        self._told: set[str] = set()
        self._unfinished = ""
        self._resumed = {bot for bot, some in ledger.restarts.items() if any(not r.done for r in some)}

    @property
    def waiting(self) -> bool:
        """Whether the next look should come soon: somebody may have stopped or started a bot past multibot."""
        return any(held.wait_s is not None for held in self._contrary.values())

    @property
    def acting(self) -> bool:
        """Whether something is being done right now."""
        return bool(self._tasks)

    def restarts(self, bot: str) -> list[Restart]:
        """Return the monitor's restarts of a bot in the last 24 hours."""
        return self._ledger.restarts.get(bot, [])

    def busy(self, bot: str) -> bool:
        """Return whether a restart of the bot was decided and is not finished."""
        return any(not r.done for r in self.restarts(bot))

    def intend(self, decision: Decision, now: float, now_at: float) -> None:
        """Put a restart into the ledger; ``act`` carries it out after the ledger is saved."""
        cause = decision.track.finding.text if decision.track else ""
        restart = Restart(now, now_at, cause, restart_id(decision, now_at))
        self._ledger.restarts[decision.bot] = [*self.restarts(decision.bot), restart]

    def act(self, fleet: Fleet, now: float, now_at: float) -> None:
        """Begin what has to be done; returns at once. Nothing is done while supervisord shuts down."""
        if not fleet.running:
            self._contrary, self._before = {}, {}
            return
        rows = {row.id: row for row in fleet.rows}
        ours = self._under_way()
        if ours and _FINISHING not in self._tasks:
            self._begin(_FINISHING, self._finish_work())
        for bot, restarts in self._ledger.restarts.items():
            for restart in restarts:
                if not restart.done and bot not in self._tasks:
                    self._begin(bot, self._restart(bot, restart, rows.get(bot)))
        self._contrary = {bot: held for bot, held in self._contrary.items() if bot in rows}
        moving = in_motion(self._before, fleet)
        for row in fleet.rows:
            if row.id in ours or self.busy(row.id):
                self._contrary.pop(row.id, None)
            else:
                self._heed(row, now, now_at, moving)
        self._before = rows

    async def close(self) -> None:
        """Cancel the tasks; a restart under way is finished by the next monitor."""
        await ended(self._tasks.values())

    def _begin(self, bot: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"act on {bot}")
        self._tasks[bot] = task
        task.add_done_callback(lambda _: self._tasks.pop(bot, None))

    # -- restarts ----------------------------------------------------------------------------------------------

    async def _restart(self, bot: str, restart: Restart, row: Row | None) -> None:
        resumed = bot in self._resumed
        self._resumed.discard(bot)
        limit_s = (row.stop_wait_s if row else 0.0) + _MORE_S
        worker = Worker(f"restart {bot}")
        try:
            outcome = await worker.call(lambda: self._restart_now(bot, restart.at, limit_s, resumed), 3 * limit_s)
        except NotYet as error:
            _log.error("restarting %s: %s; it is tried again", bot, error)
            self._resumed.add(bot)
            return
        except Exception as error:
            outcome = f"failed: {describe(error)}"
        finally:
            worker.close()
        _log.info("restarted %s (%s): %s", bot, restart.cause, outcome)
        self._ledger.restarts[bot] = [replace(r, done=True) if r == restart else r for r in self.restarts(bot)]
        detail = {"cause": restart.cause, "outcome": outcome}
        self._ledger.entries.append(
            AuditEntry(restart.entry, restart.at, ACTOR, DOOR, bot, "bot.restarted", detail, self._host)
        )
        self._settle()

    def _restart_now(self, bot: str, decided_at: float, limit_s: float, resumed: bool) -> str:
        with contextlib.closing(self._connect()) as supervisor:
            return restart_bot(supervisor, bot, decided_at, limit_s, resumed)

    # -- wishes ------------------------------------------------------------------------------------------------

    def _heed(self, row: Row, now: float, now_at: float, moving: bool) -> None:
        held = watch(self._contrary.pop(row.id, None), self._before.get(row.id), row, now, moving)
        if held is None:
            return
        self._contrary[row.id] = held
        if is_wish(held, now) and row.id not in self._tasks:
            self._begin(row.id, self._fulfil(row, held.wish, now_at))

    async def _fulfil(self, row: Row, enabled: bool, now_at: float) -> None:
        """Journal the operator's wish, then let autostart say the same (in the file and in supervisord).

        What was seen at the look may be over: the plugins were asked since. Then it is looked at again at the next.
        """
        worker = Worker(f"wish about {row.id}")
        try:
            if await worker.call(lambda: self._lasts(row), _RPC_TIMEOUT_S):
                await self._write_down(row, enabled, now_at, worker)
        except Exception as error:
            _log.error("the wish about %s waits: %s", row.id, describe(error))
        finally:
            worker.close()

    def _lasts(self, row: Row) -> bool:
        """Return whether supervisord still has ``row`` as it was seen, and is not on its way down."""
        with contextlib.closing(self._connect()) as supervisor:
            fleet = read_fleet(supervisor.bots())
        same = [r for r in fleet.rows if (r.id, r.start_at, r.stop_at) == (row.id, row.start_at, row.stop_at)]
        return fleet.running and not fleet.stopping and any(contradiction(r) is contradiction(row) for r in same)

    async def _write_down(self, row: Row, enabled: bool, now_at: float, worker: Worker) -> None:
        number = wish_id(row.id, enabled, row.start_at, row.stop_at)
        if number not in self._told:
            at = (row.start_at if enabled else row.stop_at) or now_at
            try:
                self._journal.append(Wish(number, at, "operator", OUTSIDE, row.id, enabled, self._host))
            except JournalError as error:
                _log.error("%s was %s from outside: %s", row.id, "started" if enabled else "stopped", error)
                return
            self._told.add(number)
            _log.info(
                "%s was %s from outside: that is the wish from now on", row.id, "started" if enabled else "stopped"
            )
        try:
            await worker.call(lambda: self._set_autostart(row.id, enabled), _AUTOSTART_TIMEOUT_S)
        except NoSuchBot:
            pass  # a program of somebody else that is called like a bot
        except Exception as error:
            _log.error("autostart of %s cannot be changed: %s", row.id, describe(error))

    # -- what commands have left in the middle -----------------------------------------------------------------

    async def _finish_work(self) -> None:
        """Finish what a command was doing when it was killed or failed; tried again at every tick until it succeeds."""
        worker, trouble = Worker("unfinished work"), ""
        try:
            applied = await worker.call(self._finish, _FINISH_TIMEOUT_S)
        except Exception as error:
            applied, trouble = None, describe(error)
        finally:
            worker.close()
        if applied is not None:
            trouble = "; ".join(f"{bot}: {text}" for bot, text in applied.failed.items())
            if applied != Applied(failed=applied.failed):
                _log.info("finished what a command was doing that was cut off: %s", applied)
        if trouble and trouble != self._unfinished:
            _log.error("what a command was doing that was cut off fails, it is tried again: %s", trouble)
        self._unfinished = trouble


def restart_bot(supervisor: Supervisor, bot: str, decided_at: float, limit_s: float, resumed: bool) -> str:
    """Stop and start a bot, and return the outcome in words. Blocks.

    The operator's word counts until the last moment. ``resumed``: an earlier try may have done it already.
    Raises NotYet when the bot may be left stopped, so that somebody has to come back.
    """
    program = PROGRAM_PREFIX + bot
    row = _row(supervisor, bot)
    if row is None or not row.enabled:
        return "left alone: it is not wanted any more"
    if resumed and row.statename not in _AT_REST and row.start_at > decided_at:
        return "done"
    try:
        if row.statename not in _AT_REST:
            supervisor.stop(program, limit_s)
        row = _row(supervisor, bot)
        if row is None or not row.enabled:
            return "stopped, and left so: its operator stopped it meanwhile"
        supervisor.start(program)
    except Exception as error:
        row = _row(supervisor, bot)
        if row is not None and row.enabled and row.statename in ("STOPPED", "STOPPING"):
            raise NotYet(describe(error)) from error
        raise
    return "done"


def _row(supervisor: Supervisor, bot: str) -> Row | None:
    try:
        fleet = read_fleet(supervisor.bots())
    except Exception as error:
        raise NotYet(describe(error)) from error
    if not fleet.running:
        raise NotYet("supervisord is shutting down")
    return next((row for row in fleet.rows if row.id == bot), None)
