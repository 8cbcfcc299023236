"""The conversation with supervisord: XML-RPC over its unix socket, faults and failures translated.

Everything here is synchronous. Nothing waits inside supervisord (``stopProcess`` with ``wait`` makes it spin at 100 %
CPU): orders return at once, and the waiting is done by asking again.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import time
import xmlrpc.client
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from multibot_plugin.errors import BadValue, MultibotError, NoSuchBot, SupervisordAway
from multibot_plugin.home import Home
from multibot_plugin.supervisor.faults import (
    ALREADY_ADDED,
    ALREADY_STARTED,
    BAD_NAME,
    NOT_RUNNING,
    RELOAD,
    SHUTDOWN_STATE,
    SupervisorFault,
    shown,
    translated,
)

MONITOR, POSTGRES = "multibot", "multibot-postgres"  # programs of supervisord.conf
STOPPED_STATES = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})
_POLL_S = 0.1
_AT_ONCE = 20  # sections that supervisord reads in one go: a hundredth of a second


@dataclass(frozen=True)
class Reread:
    """What supervisord found in its files against what it runs: names of programs (each is its own group)."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    """One kept connection; after any failure the next call makes a new one (Transport does that by itself)."""

    def __init__(self, path: Path, timeout_s: float, login: str) -> None:
        authorization = ("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        super().__init__(headers=[authorization] if login else [])
        self._path, self._timeout_s = path, timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._connection and host == self._connection[0] and self._connection[1]:
            return self._connection[1]
        self._connection = host, _Connection(self._path, self._timeout_s)
        return self._connection[1]


class Supervisor:
    """One supervisord, reached by its socket. ``timeout_s`` is for one call; ``start`` is what a person types for it,
    ``reload`` what to do where it runs without our plugin; ``login`` is ``user:password`` where the socket wants that.

    Every method raises SupervisordAway when it does not answer, SupervisorFault when it refuses.
    Programs are named as supervisord names them (``bot-echo``); ``program()`` makes that name.
    """

    def __init__(
        self, socket_path: Path, timeout_s: float = 10.0, start: str = "multibot start",
        reload: str = RELOAD, login: str = "",
    ) -> None:  # fmt: skip
        self._path = socket_path
        self._timeout_s = timeout_s
        self._start, self._reload = start, reload
        transport = _Transport(socket_path, timeout_s, login)
        self._proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport)

    @classmethod
    def of(cls, home: Home, timeout_s: float = 10.0) -> Supervisor:
        """Return the supervisord of this home; raises SupervisordAway where its file names no socket."""
        try:
            login = home.main_file.login() if home.main_file else ""
            # Of an operator's own, its programs are not to be restarted before it is known what it lacks.
            doctor = f"'{home.command('doctor')}' says why"
            reload = doctor if home.foreign else f"restart it with '{home.to_restart}'"
            return cls(home.socket, timeout_s, home.to_start, reload, login)
        except BadValue as error:  # of an operator's file
            raise SupervisordAway(str(error)) from error

    def close(self) -> None:
        self._proxy("close")()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- questions ---------------------------------------------------------------------------------------------

    def bots(self, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer of ``multibot.getBots``: supervisord, monitor and a row for each bot.

        ``known``: an earlier answer, whose rows are returned as long as supervisord's part of them is the same (ages,
        and all that the monitor finds out, are then those of that time).
        """
        answer = self._json("multibot.getBots", known["version"] if known else "")
        return {**answer, "bots": known["bots"]} if known and answer["bots"] is None else answer

    def foreign(self) -> frozenset[str]:
        """Return the ids that no bot can have, because a program of somebody else is called so."""
        return frozenset(self.bots().get("foreign", ()))  # a plugin that was loaded before an upgrade does not tell

    def row(self, bot: str) -> dict[str, Any]:
        """Return the row of one bot; raises NoSuchBot."""
        rows = {row["id"]: row for row in self.bots()["bots"]}
        if bot not in rows:
            raise NoSuchBot(bot, rows)
        found: dict[str, Any] = rows[bot]
        return found

    def version(self) -> dict[str, Any]:
        """Return the answer of ``multibot.getVersion``: versions of multibot (as loaded) and supervisor."""
        return self._json("multibot.getVersion")

    def supervisor_version(self) -> str:
        """Return the version of supervisor, which answers without our plugin, too."""
        return str(self._call("supervisor.getSupervisorVersion"))

    def state(self) -> str:
        """Return RUNNING, or SHUTDOWN while supervisord ends or restarts."""
        try:
            return str(self._call("supervisor.getState")["statename"])
        except SupervisorFault as fault:
            if fault.code == SHUTDOWN_STATE:
                return "SHUTDOWN"
            raise

    def alive(self) -> bool:
        """Return whether supervisord answers at all."""
        try:
            self.state()
        except SupervisordAway:
            return False
        return True

    def pid(self) -> int:
        return int(self._call("supervisor.getPID"))

    def info(self, program: str) -> dict[str, Any]:
        """Return supervisord's own description of a program (statename, pid, exitstatus, spawnerr ...)."""
        found: dict[str, Any] = self._call("supervisor.getProcessInfo", program)
        return found

    def running(self, program: str) -> int:
        """Return the pid of a program; 0 when it does not run."""
        return int(self.info(program)["pid"])

    # -- orders ------------------------------------------------------------------------------------------------

    def start(self, program: str, wait_s: float | None = 15.0, *, stopping_s: float = 120.0) -> None:
        """Start a program; one that runs already is left alone. ``wait_s`` None: do not wait until it runs.

        One that is being stopped is waited for, ``stopping_s`` at most: supervisord would say yes and start nothing.
        Raises MultibotError when it did not stay up (the bot's log has the reason).
        """
        self._wait(program, lambda state: state != "STOPPING", stopping_s)
        self._unless(ALREADY_STARTED, "supervisor.startProcess", program, False)
        if wait_s is None:
            return
        state = self._wait(program, lambda state: state not in ("STARTING", "STOPPED"), wait_s)
        if state != "RUNNING":
            raise MultibotError(f"{shown(program)} did not stay up ({state}): its log has the reason")

    def stop(self, program: str, wait_s: float | None = 120.0, *, now: bool = False) -> None:
        """Stop a program and wait until it has ended (``wait_s`` None: do not wait).

        ``now``: SIGKILL at once, also to everything that it started.

        supervisord itself sends SIGKILL when the program's own time is up; ``wait_s`` only ends our waiting.
        """
        self._unless(NOT_RUNNING, "supervisor.stopProcess", program, False)
        if now and (pid := self.running(program)):
            kill_tree(pid)
        if wait_s is not None:
            self._wait(program, STOPPED_STATES.__contains__, wait_s)

    def restart(self, program: str, wait_s: float = 120.0, *, now: bool = False) -> None:
        """Stop and start a program, and wait until it runs."""
        self.stop(program, wait_s, now=now)
        self.start(program)

    def update(self, bots: Collection[str], held: Collection[str] = ()) -> dict[str, str]:
        """Let supervisord bring bots to what their sections say, as far as it can at once; start and stop nothing else.

        ``held``: those of them that are not started when they are replaced. Returns by bot: added, replaced, standing
        (not started), removed, live (changed in memory), unchanged; running (to be stopped first) or stopping (ask
        again); foreign (a program of that name is no bot).
        """
        names, done = sorted(bots), {}
        for first in range(0, len(names), _AT_ONCE):
            turn = names[first : first + _AT_ONCE]
            still = [bot for bot in turn if bot in held]
            done.update(self._json("multibot.updateBots", turn, *([still] if still else [])))
        return done

    def reread(self) -> Reread:
        """Let supervisord read all its files and compare; nothing is started or stopped."""
        ((added, changed, removed),) = self._call("supervisor.reloadConfig")
        return Reread(tuple(added), tuple(changed), tuple(removed))

    def add(self, program: str) -> None:
        """Take a program that was read into operation; it starts if its section says autostart."""
        self._unless(ALREADY_ADDED, "supervisor.addProcessGroup", program)

    def remove(self, program: str) -> None:
        """Take a stopped program out of operation."""
        self._unless(BAD_NAME, "supervisor.removeProcessGroup", program)

    def set_autostart(self, bot: str, enabled: bool) -> None:
        """Change ``autostart`` of a bot in supervisord's memory; raises NoSuchBot when it does not know the bot."""
        try:
            self._call("multibot.setAutostart", bot, enabled)
        except SupervisorFault as fault:
            if fault.code == BAD_NAME:
                raise NoSuchBot(bot) from fault
            raise

    def shutdown(self) -> None:
        """Let supervisord stop everything and end; returns at once."""
        self._unless(SHUTDOWN_STATE, "supervisor.shutdown")

    # -- how ---------------------------------------------------------------------------------------------------

    def _wait(self, program: str, over: Callable[[str], bool], wait_s: float) -> str:
        deadline = time.monotonic() + wait_s
        while not over(state := str(self.info(program)["statename"])):
            if time.monotonic() > deadline:
                raise MultibotError(f"{shown(program)} is still {state} after {wait_s:g} s")
            time.sleep(_POLL_S)
        return state

    def _unless(self, harmless: int, method: str, *arguments: Any) -> None:
        try:
            self._call(method, *arguments)
        except SupervisorFault as fault:
            if fault.code != harmless:
                raise

    def _json(self, method: str, *arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._call(method, *arguments))
        except ValueError as error:
            raise MultibotError(f"supervisord's answer to {method} is not JSON") from error
        return answer

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._proxy, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            raise translated(fault, method, arguments, self._reload) from None
        except PermissionError as error:
            raise SupervisordAway(f"{self._path} belongs to somebody else: run this as its owner (or root)") from error
        except TimeoutError as error:
            raise SupervisordAway(f"supervisord did not answer within {self._timeout_s:g} s at {self._path}") from error
        except xmlrpc.client.ProtocolError as error:
            if error.errcode == http.client.UNAUTHORIZED:
                text = f"supervisord at {self._path} wants another user and password than its [supervisorctl] says"
                raise SupervisordAway(text) from error
            raise MultibotError(f"supervisord failed on {method} (HTTP {error.errcode}): see its log") from error
        except (OSError, http.client.HTTPException) as error:
            raise SupervisordAway(f"supervisord does not answer at {self._path}: run '{self._start}'") from error
        except (ExpatError, xmlrpc.client.ResponseError) as error:
            raise MultibotError(f"supervisord's answer to {method} cannot be read") from error


def kill_tree(pid: int) -> None:
    """SIGKILL a program's process and everything that it started, in whatever process group that is."""
    import psutil

    stopped: list[psutil.Process] = []
    beyond_us = (psutil.NoSuchProcess, psutil.AccessDenied)  # a user's bot may have run sudo
    with contextlib.suppress(*beyond_us):
        found = [psutil.Process(pid)]
        # A stopped process forks no more; an orphan may still be handed to one that was looked at already: again.
        while found:
            for member in found:
                with contextlib.suppress(*beyond_us):
                    member.suspend()
            stopped += found
            found = [child for child in stopped[0].children(recursive=True) if child not in stopped]
    for member in stopped:
        with contextlib.suppress(*beyond_us):
            member.kill()
