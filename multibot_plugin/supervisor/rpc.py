"""``[rpcinterface:multibot]``: what supervisord answers about bots, from its own memory and the monitor's one file.

What needs the database or time is handed to the monitor (inside/requests.py).

Runs inside supervisord's only thread: imports supervisor, the standard library and multibot_runner.protocol (as does
all of inside/); blocks on nothing; lets no exception out (one from a method makes supervisord log the whole request,
one from a subscriber of its events ends it). Pictures are JSON strings in ASCII, because XML-RPC has no place for
None, large numbers or control characters.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from supervisor import events
from supervisor.http import NOT_DONE_YET
from supervisor.options import VERSION
from supervisor.states import (
    ProcessStates,
    SupervisorStates,
    getProcessStateDescription,
    getSupervisorStateDescription,
)
from supervisor.xmlrpc import Faults, RPCError

from multibot_plugin.supervisor.inside import requests
from multibot_plugin.supervisor.inside.care import monitor_of
from multibot_plugin.supervisor.inside.parts import Inside, Parts, install
from multibot_plugin.supervisor.inside.refusing import RefusingInterface, fault, too_old
from multibot_plugin.supervisor.inside.rows import Seen, bot_row, monitor_row
from multibot_plugin.supervisor.inside.status import StatusFile, incident_rows, why_away
from multibot_plugin.supervisor.inside.updates import RUNNER
from multibot_runner.protocol import BOT_ID, PROGRAM_PREFIX

SCHEMA = 1
_AT_ONCE = 250  # rows in one turn of supervisord
_MOST_UPDATED = 500
VERSION_LOADED = importlib.metadata.version("supervisor-multibot")  # may be older than what is installed by now


def make_interface(
    supervisord: Any, status: str = "", state: str = "", **parts: str
) -> MultibotInterface | RefusingInterface:
    """Return the interface; supervisord asks once for each of its HTTP servers and gets the same one.

    The options of the section: ``status`` is the monitor's file, ``state`` the installation's directory, the others
    are described at ``Parts``. Nothing here ends supervisord, and with it every program of its operator: what is wrong
    is logged, and answered by every method where nothing of multibot can work.
    """
    interface: MultibotInterface | RefusingInterface | None = getattr(supervisord, "multibot_interface", None)
    if interface is not None:
        return interface
    try:
        interface = _load(supervisord, status, state, parts)
    except Exception as error:
        unforeseen = requests.Refusal(requests.NOT_LOADED, f"{type(error).__name__} while it was loaded")
        refusal = error if isinstance(error, requests.Refusal) else unforeseen
        supervisord.options.logger.critical(f"multibot is not loaded: {refusal}")
        interface = RefusingInterface(refusal)
    supervisord.multibot_interface = interface
    return interface


def _load(supervisord: Any, status: str, state: str, parts: Mapping[str, str]) -> MultibotInterface:
    """Put everything into supervisord; raises Refusal where nothing of multibot can work."""
    if reason := too_old(VERSION):
        raise requests.Refusal(requests.TOO_OLD, reason)
    if not (status and state):
        lacks = "[rpcinterface:multibot] lacks status= or state=: 'multibot init' shows what belongs there"
        raise requests.Refusal(requests.NOT_LOADED, lacks)
    switched, problems = Parts.of(parts)
    for problem in problems:
        supervisord.options.logger.critical(f"[rpcinterface:multibot] {problem}: the default holds")
    inside = install(supervisord, switched, os.path.join(state, "rendered", "bots.conf"))
    return MultibotInterface(supervisord, Path(status), Path(state), inside)


def _contained(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let only RPCError out of a method, and write no argument anywhere."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: MultibotInterface, *arguments: Any) -> Any:
        try:
            signature.bind(self, *arguments)
        except TypeError:
            raise RPCError(Faults.INCORRECT_PARAMETERS) from None
        try:
            return method(self, *arguments)
        except RPCError:
            raise
        except requests.Refusal as refusal:
            raise fault(refusal) from None
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            self._warn(f"multibot.{method.__name__}: {type(error).__name__} at {frame.name}:{frame.lineno}")
            text = f"{type(error).__name__}: see supervisord's log"
            raise fault(requests.Refusal(requests.INTERNAL_ERROR, text)) from None

    return call


class MultibotInterface:
    """The methods of the namespace ``multibot``; ``system.listMethods`` shows what stands in this class itself."""

    def __init__(self, supervisord: Any, status: Path, state: Path, inside: Inside) -> None:
        self._supervisord = supervisord
        self._status = StatusFile(status)
        self._inside = inside
        self._requests = requests.Requests(state, self._tell)
        self._changes = 0
        for kind in (events.ProcessStateEvent, events.ProcessGroupAddedEvent, events.ProcessGroupRemovedEvent):
            events.subscribe(kind, self._changed)

    @_contained
    def getVersion(self) -> str:
        """Return the versions of multibot (as loaded here) and supervisor

        @return string result JSON: multibot, supervisor, schema
        """
        return _json({"multibot": VERSION_LOADED, "supervisor": VERSION, "schema": SCHEMA})

    @_contained
    def getBots(self, unless: str = "") -> str:
        """Return every bot with its state and health

        `version` changes with everything that supervisord itself knows of them. Whoever looks again and again for
        that alone (not for health, which the monitor finds out) hands in the one that it has: bots is null if it is
        the same.

        @param string unless Version of an answer that the caller has
        @return string result JSON: schema, at, version, supervisord, monitor, bots, foreign
        """
        if not isinstance(unless, str):
            raise RPCError(Faults.INCORRECT_PARAMETERS)
        now, now_mono = time.time(), time.monotonic()
        status, monitor = self._status.read(), monitor_of(self._supervisord)
        version = f"{os.getpid()}-{self._changes}"
        named = self._bots()
        answer: dict[str, Any] = {
            "schema": SCHEMA,
            "at": now,
            "version": version,
            "supervisord": {"pid": os.getpid(), "version": VERSION,
                            "state": getSupervisorStateDescription(self._supervisord.options.mood),
                            "stopping": any(p.get_state() == ProcessStates.STOPPING for p in self._processes())},
            "monitor": monitor_row(monitor, status, now_mono),
            "bots": None,
            "foreign": sorted(self._ids() - named.keys()),
        }  # fmt: skip
        if unless == version:
            return _json(answer)
        bots, seen = sorted(named.items()), Seen(status, monitor, now, now_mono)
        if len(bots) <= _AT_ONCE or not self._inside.prompt:
            return _json({**answer, "bots": self._rows(bots, seen)})
        later: str = self._piece_by_piece(answer, bots, seen)  # which to whoever asked is this string
        return later

    def _piece_by_piece(self, answer: dict[str, Any], bots: list[tuple[str, Any]], seen: Seen) -> Any:
        """Return a function that supervisord calls in each turn until it is done: so it never stands still for long."""
        rows: list[dict[str, Any]] = []

        def go_on() -> Any:
            rows.extend(self._rows(bots[len(rows) : len(rows) + _AT_ONCE], seen))
            return NOT_DONE_YET if len(rows) < len(bots) else _json({**answer, "bots": rows})

        go_on.delay = 0.001  # type: ignore[attr-defined]
        return go_on

    @_contained
    def setAutostart(self, bot: str, enabled: bool) -> bool:
        """Change whether a bot starts with supervisord, in memory only

        Whoever calls this writes the same into the section, so that reread sees no change.

        @param string bot Id of the bot
        @param boolean enabled Whether it starts with supervisord
        @return boolean result Always True unless error
        """
        if not isinstance(enabled, bool):
            raise RPCError(Faults.INCORRECT_PARAMETERS)
        process = self._bot(bot)
        process.config.autostart = enabled
        self._changes += 1
        # What was read last, for 'avail' and for 'remove' and 'add' without a 'reread' between.
        for group in self._supervisord.options.process_group_configs:
            if group.name == process.config.name:
                for config in group.process_configs:
                    config.autostart = enabled
        return True

    @_contained
    def updateBots(self, bots: list[str], held: list[str] = []) -> str:  # noqa: B006
        """Bring bots to what their sections say, without reading the whole configuration

        Added (and started, if autostart), replaced or removed at once where it does not run; what needs no restart
        is changed in memory. Answers for each: added, replaced, finished (replaced, but not started, for it has done
        its work), standing (replaced, but not started, for it is one of `held`), removed, live, unchanged; running
        (stop it, then ask again); stopping (ask again); foreign (a program of that name is no bot: left alone). An id
        that neither supervisord nor the sections know is unchanged.

        @param array bots Ids of the bots, 500 at the most
        @param array held Ids of those that somebody has stopped, which are not started
        @return string result JSON: what was done, by id
        """
        for ids in (bots, held):
            if not isinstance(ids, list) or not all(isinstance(b, str) and BOT_ID.fullmatch(b) for b in ids):
                raise RPCError(Faults.INCORRECT_PARAMETERS)
        if len(bots) > _MOST_UPDATED:  # supervisord stands still meanwhile
            raise RPCError(Faults.INCORRECT_PARAMETERS, f"{_MOST_UPDATED} ids at the most")
        if self._supervisord.options.mood < SupervisorStates.RUNNING:
            raise RPCError(Faults.SHUTDOWN_STATE)
        self._changes += 1
        return _json(self._inside.updates.update(list(dict.fromkeys(bots)), held))

    @_contained
    def getBot(self, bot: str) -> str:
        """Return one bot as getBots does, with its open incidents

        @param string bot Id of the bot
        @return string result JSON: schema, at, monitor, bot, incidents
        """
        process = self._bot(bot)
        now, status, away = time.time(), self._status.read(), self._monitor_away()
        seen = Seen(status, monitor_of(self._supervisord), now, time.monotonic())
        (row,) = self._rows([(bot, process)], seen)
        return _json({"schema": SCHEMA, "at": now, "monitor": {"ok": not away, "text": away}, "bot": row,
                      "incidents": incident_rows(status, {bot})})  # fmt: skip

    @_contained
    def getIncidents(self) -> str:
        """Return the open incidents: those that the monitor saw at its last tick

        @return string result JSON: schema, at, monitor, incidents (bot is empty for one of the monitor itself)
        """
        away = self._monitor_away()
        found = incident_rows(self._status.read(), {"", *self._bots()})
        return _json(
            {"schema": SCHEMA, "at": time.time(), "monitor": {"ok": not away, "text": away}, "incidents": found}
        )

    @_contained
    def startBot(self, bot: str, by: str = "") -> str:
        """Ask the monitor to start a bot, now and whenever the system starts

        @param string bot Id of the bot
        @param string by Who asks, for the audit log: NAME or NAME (TOOL)
        @return string result Id of the request, for getResult
        """
        return self._ask("startBot", bot, by)

    @_contained
    def stopBot(self, bot: str, by: str = "") -> str:
        """Ask the monitor to stop a bot, until somebody starts it

        @param string bot Id of the bot
        @param string by Who asks, for the audit log: NAME or NAME (TOOL)
        @return string result Id of the request, for getResult
        """
        return self._ask("stopBot", bot, by)

    @_contained
    def restartBot(self, bot: str, by: str = "") -> str:
        """Ask the monitor to stop and start a bot

        @param string bot Id of the bot
        @param string by Who asks, for the audit log: NAME or NAME (TOOL)
        @return string result Id of the request, for getResult
        """
        return self._ask("restartBot", bot, by)

    @_contained
    def apply(self, by: str = "") -> str:
        """Ask the monitor to bring the running bots to what the database says

        @param string by Who asks, for the audit log: NAME or NAME (TOOL)
        @return string result Id of the request, for getResult
        """
        return self._ask("apply", None, by)

    @_contained
    def getResult(self, request: str) -> str:
        """Return what became of a request: its state is waiting, running, done or failed

        @param string request What startBot, stopBot, restartBot or apply returned
        @return string result JSON: schema, id, method, bot, by, state, monitor, text, said, exit_code, result, times
        """
        if not isinstance(request, str):
            raise RPCError(Faults.INCORRECT_PARAMETERS)
        found, away = self._requests.result(request), self._monitor_away()
        return _json({**found, "monitor": {"ok": not away, "text": away}})

    def _changed(self, event: Any) -> None:
        self._changes += 1

    def _ask(self, method: str, bot: str | None, by: str) -> str:
        if not isinstance(by, str) or (by and not requests.ASKER.fullmatch(by)):
            raise RPCError(Faults.INCORRECT_PARAMETERS, "by: NAME or NAME (TOOL), letters, digits and _.@+-")
        if bot is not None:
            self._bot(bot)
        if self._supervisord.options.mood != SupervisorStates.RUNNING:
            raise RPCError(Faults.SHUTDOWN_STATE)
        if away := self._monitor_away():
            raise requests.Refusal(requests.MONITOR_AWAY, away)
        return self._requests.ask(method, bot or "", by)

    def _tell(self, request: str) -> None:
        """Let the monitor know at once; without the event it finds the file a little later."""
        try:
            events.notify(events.RemoteCommunicationEvent(requests.EVENT, request))
        except Exception as error:
            self._warn(f"multibot: an event for the monitor: {type(error).__name__}")

    def _monitor_away(self) -> str:
        """Return why the monitor would not hear us, and what to do; "" when it would."""
        process = monitor_of(self._supervisord)
        if process is None:
            return "supervisord has no monitor: 'multibot init' writes its section"
        state = getProcessStateDescription(process.get_state())
        return why_away(process.config.name, state, process.pid, self._status.read(), time.monotonic())

    def _bot(self, bot: str) -> Any:
        """Return supervisord's process object of a bot; raises RPCError."""
        if not isinstance(bot, str):
            raise RPCError(Faults.INCORRECT_PARAMETERS)
        process = self._bots().get(bot)
        if process is None:
            raise RPCError(Faults.BAD_NAME)
        return process

    def _rows(self, bots: Iterable[tuple[str, Any]], seen: Seen) -> list[dict[str, Any]]:
        return [bot_row(bot, process, seen, self._inside.ends.of(process.config.name)) for bot, process in bots]

    def _bots(self) -> dict[str, Any]:
        """Return supervisord's process objects of the bots by id."""
        found: dict[str, Any] = {}
        for bot in self._ids():
            name = PROGRAM_PREFIX + bot
            process = self._supervisord.process_groups[name].processes.get(name)
            # A program of somebody else may be called bot-something, too.
            if process and RUNNER in process.config.command:
                found[bot] = process
        return found

    def _ids(self) -> set[str]:
        """Return what stands behind ``bot-`` in the names of groups, whosever they are."""
        names = self._supervisord.process_groups
        ids = {name.removeprefix(PROGRAM_PREFIX) for name in names if name.startswith(PROGRAM_PREFIX)}
        return {bot for bot in ids if BOT_ID.fullmatch(bot)}

    def _processes(self) -> list[Any]:
        return [process for group in self._supervisord.process_groups.values() for process in group.processes.values()]

    def _warn(self, text: str) -> None:
        self._supervisord.options.logger.warn(text)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
