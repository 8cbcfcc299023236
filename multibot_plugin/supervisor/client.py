"""The conversation with supervisord: XML-RPC over its unix socket, faults and failures translated.

Everything here is synchronous. Nothing waits inside supervisord (``stopProcess`` with ``wait`` makes it spin at 100 %
CPU): orders return at once, and the waiting is done by asking again.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import time
import xmlrpc.client
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from multibot_plugin.errors import BadValue, MultibotError, NoSuchBot, SupervisordAway
from multibot_plugin.home import Home
from multibot_plugin.supervisor.inside.requests import TOO_OLD
from multibot_runner.protocol import PROGRAM_PREFIX

# supervisor.xmlrpc.Faults; not imported, because that module brings supervisor's whole HTTP server along.
UNKNOWN_METHOD, SHUTDOWN_STATE, BAD_NAME, NO_FILE, NOT_EXECUTABLE, FAILED = 1, 6, 10, 20, 21, 30
SPAWN_ERROR, ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED, CANT_REREAD = 50, 60, 70, 90, 92

MONITOR, POSTGRES = "multibot", "multibot-postgres"  # programs of supervisord.conf
STOPPED_STATES = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})
_RESTART = "multibot stop && multibot start"
_POLL_S = 0.1
_AT_ONCE = 20  # sections that supervisord reads in one go: a hundredth of a second
# The only part of the parser's words that cannot hold a value (a bad quote makes it cite a whole environment=).
_WHERE = re.compile(r"in section '([^']{1,100})'(?: \(file: '([^']{1,300})'\))?\s*$")


class SupervisorFault(MultibotError):
    """supervisord understood the call and refused it; ``code`` is its fault code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


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
    """One supervisord, reached by its socket. ``timeout_s`` is for one call; ``start`` and ``restart`` are what a
    person types for it; ``login`` is ``user:password`` where the socket wants that.

    Every method raises SupervisordAway when it does not answer, SupervisorFault when it refuses.
    Programs are named as supervisord names them (``bot-echo``); ``program()`` makes that name.
    """

    def __init__(
        self, socket_path: Path, timeout_s: float = 10.0, start: str = "multibot start",
        restart: str = _RESTART, login: str = "",
    ) -> None:  # fmt: skip
        self._path = socket_path
        self._timeout_s = timeout_s
        self._start, self._restart = start, restart
        transport = _Transport(socket_path, timeout_s, login)
        self._proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport)

    @classmethod
    def of(cls, home: Home, timeout_s: float = 10.0) -> Supervisor:
        """Return the supervisord of this home; raises SupervisordAway where its file names no socket."""
        try:
            login = home.main_file.login() if home.main_file else ""
            return cls(home.socket, timeout_s, home.to_start, home.to_restart, login)
        except BadValue as error:  # of an operator's file
            raise SupervisordAway(str(error)) from error

    def close(self) -> None:
        self._proxy("close")()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- questions ---------------------------------------------------------------------------------------------

    def bots(self) -> dict[str, Any]:
        """Return the answer of ``multibot.getBots``: supervisord, monitor and a row for each bot."""
        return self._json("multibot.getBots")

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
            raise MultibotError(f"{_shown(program)} did not stay up ({state}): its log has the reason")

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

    def update(self, bots: Collection[str]) -> dict[str, str]:
        """Let supervisord bring bots to what their sections say, as far as it can at once; start and stop nothing else.

        Returns by bot: added, replaced, removed, live (changed in memory), unchanged; running (to be stopped first)
        or stopping (ask again); foreign (a program of that name is no bot).
        """
        names, done = sorted(bots), {}
        for first in range(0, len(names), _AT_ONCE):
            done.update(self._json("multibot.updateBots", names[first : first + _AT_ONCE]))
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
                raise MultibotError(f"{_shown(program)} is still {state} after {wait_s:g} s")
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
            raise _translated(fault, method, arguments, self._restart) from None
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


def program(bot: str) -> str:
    """Return the name of a bot's program."""
    return PROGRAM_PREFIX + bot


def bot_of(name: str) -> str | None:
    """Return the bot of a program's name; None for a program that is not a bot's."""
    return name.removeprefix(PROGRAM_PREFIX) if name.startswith(PROGRAM_PREFIX) else None


def refused_where(words: str) -> str:
    """Return `` in section 'x' (file ...)`` out of the parser's message, or nothing: the rest may quote a secret."""
    match = _WHERE.search(words)
    if not match:
        return ""
    return f" in section {match[1]!r}" + (f" ({match[2]})" if match[2] else "")


def _shown(program: str) -> str:
    bot = bot_of(program)
    return f"bot {bot!r}" if bot else program


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


def _translated(
    fault: xmlrpc.client.Fault, method: str, arguments: tuple[Any, ...], restart: str = _RESTART
) -> SupervisorFault:
    """Return the error for a fault. supervisord's own text is shown only where it cannot hold a value."""
    code = fault.faultCode
    name = _shown(str(arguments[0])) if arguments else "supervisord"
    if method.startswith("multibot.") and code == UNKNOWN_METHOD:
        text = f"supervisord runs without multibot's plugin (or an older one): restart it with '{restart}'"
    elif code == TOO_OLD:
        text = fault.faultString.partition(": ")[2]
    elif code == CANT_REREAD:
        text = f"supervisord refuses its configuration{refused_where(fault.faultString)}; everything runs as before"
    elif method.startswith("multibot."):
        text = f"supervisord's multibot plugin refused {method}: {fault.faultString.partition(': ')[2] or code}"
    else:
        words = {
            SHUTDOWN_STATE: "supervisord is shutting down or restarting",
            BAD_NAME: f"supervisord knows no {name}",
            NO_FILE: f"{name}: its program does not exist",
            NOT_EXECUTABLE: f"{name}: its program cannot be executed",
            SPAWN_ERROR: f"{name} could not be started: supervisord's log has the reason",
            ALREADY_STARTED: f"{name} runs already",
            NOT_RUNNING: f"{name} is not running",
        }
        text = words.get(code, f"supervisord refused {method} for {name} (fault {code})")
    return SupervisorFault(text, code)
