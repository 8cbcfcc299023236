"""A whole installation for acceptance tests and benchmarks: real supervisord, PostgreSQL, runner, Bot API server.

``with System.create() as system`` gives an installation in a short temporary directory; leaving it stops
everything, proves that nothing is left, and removes the directory, also after a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
from postgres import forget
from supervisor.xmlrpc import SupervisorTransport

from multibot_plugin.database.pool import connect
from multibot_plugin.errors import DatabaseAway
from multibot_plugin.home import Home, find_home
from multibot_plugin.sandbox.client import Sandbox
from multibot_plugin.sandbox.process import child
from multibot_plugin.settings import load

T = TypeVar("T")
CLI = (sys.executable, "-P", "-m", "multibot_plugin.cli")
BOTS = Path(__file__).parent / "bots"
OPERATOR = 4242  # the chat that alerts go to
PATIENCE_S = 60.0


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = PATIENCE_S) -> T:
    """Return the first true value of ``condition``; fails with ``what`` and the last value after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what} (last: {value!r})"
        time.sleep(0.05)
    return value


def new_token() -> str:
    return f"{secrets.randbelow(10**9) + 10**9}:AA{secrets.token_urlsafe(48)[:33]}"


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class System:
    """One installation. ``tokens`` by bot id; ``conflicts_expected``: tokens for which a test provokes a 409."""

    directory: Path
    home: Home
    sandbox: Sandbox
    environment: dict[str, str]
    cli: tuple[str, ...] = CLI
    tokens: dict[str, str] = field(default_factory=dict)
    conflicts_expected: set[str] = field(default_factory=set)

    @classmethod
    @contextlib.contextmanager
    def create(cls, cli: tuple[str, ...] = CLI, start: bool = True, **settings: Any) -> Iterator[System]:
        """Make an installation, started unless told otherwise; ``settings`` go into multibot.toml (dots as __)."""
        directory = Path(tempfile.mkdtemp(prefix="mb-", dir="/tmp"))
        directory.chmod(0o755)
        shutil.copytree(BOTS, directory / "bots")  # a clone may lie where the bots' user ids cannot go
        with child() as sandbox:
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("MULTIBOT_", "SUPERVISOR_"))}
            environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
            system = cls(directory, find_home(str(directory / "home")), sandbox, environment, cli)
            try:
                system.begin(settings)
                if start:
                    system.run("start")
                yield system
                system.check()
                system.end()
            finally:
                leave_nothing(directory)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """``init``, a bot for the alerts, and the settings."""
        self.run("init", "--yes")
        self.tokens["alerts"] = new_token()
        token_file = self.directory / "alerts-token"
        token_file.write_text(self.tokens["alerts"])
        self.sandbox.register(self.tokens["alerts"], "alerts")
        self.sandbox.add_chat(OPERATOR, "Operator")
        defaults = {
            "bot_api_url": self.sandbox.url,
            "alerts__telegram__token_file": str(token_file),
            "alerts__telegram__chat_id": str(OPERATOR),
            "monitor__tick_s": "0.5s",
        }
        for name, value in {**defaults, **settings}.items():
            self.run("config", "set", name.replace("__", "."), str(value))

    def run(
        self, *words: str, code: int | None = 0, text: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line, expecting its exit ``code`` (None: any); ``text`` is its standard input."""
        done = subprocess.run(
            [*self.cli, "--home", str(self.home.config), *words],
            input=text if text is not None else "",
            capture_output=True, text=True, timeout=120, env=self.environment | env, check=False,
        )  # fmt: skip
        assert code in (None, done.returncode), (
            f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.tails()}"
        )
        return done

    def tails(self) -> str:
        """Return the last lines of every bot's log: why a bot died is gone with the system of the test."""
        logs = sorted(self.home.log.glob("*.log"))
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code).stdout)

    def supervisorctl(self, *words: str, code: int | None = 0) -> str:
        done = subprocess.run(
            [str(Path(self.cli[0]).parent / "supervisorctl"), "-c", str(self.home.supervisord_conf), *words],
            capture_output=True, text=True, timeout=120, env=self.environment, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def xmlrpc(self) -> xmlrpc.client.ServerProxy:
        """Return a stock XML-RPC client of supervisord, to be used in a ``with``."""
        transport = SupervisorTransport(None, None, f"unix://{self.home.socket}")
        return xmlrpc.client.ServerProxy("http://localhost", transport=transport)

    def create_bot(self, bot: str, *form: str, token: str | None = None, **expect: Any) -> str:
        """Create a bot through the real command line and return its token; ``form``: --script FILE and so on."""
        self.tokens[bot] = token or new_token()
        self.sandbox.register(self.tokens[bot], bot)
        self.run("bot", "create", bot, *form, "--token-stdin", text=self.tokens[bot], **expect)
        return self.tokens[bot]

    def create_form(self, bot: str, form: str, *options: str) -> str:
        """Create a bot of one launch form from tests/bots (``build``, ``script`` or ``command``)."""
        words = {
            "build": ("--build", f"{self.bots}/build_echo.py:build", "--poll-timeout-s", "5s"),
            "script": ("--script", f"{self.bots}/script_echo.py"),
            "command": ("--command", f"/usr/bin/python3 {self.bots}/command_echo.py"),
        }[form]
        return self.create_bot(bot, *words, *options)

    def polls(self, bot: str) -> int:
        """Return how many getUpdates of the bot's token are open now."""
        return int(self.sandbox.counters(self.tokens[bot]).polls_open)

    def wait_polling(self, *bots: str) -> None:
        for bot in bots:
            wait_for(lambda bot=bot: self.polls(bot) == 1, f"one poll of {bot}")

    def answers(self, bot: str, text: str | None = None) -> None:
        """Say something to the bot and wait for its echo."""
        text = text or f"hello {secrets.token_hex(4)}"
        assert self.sandbox.ask(self.tokens[bot], text, PATIENCE_S).text == text

    def alerts(self) -> list[str]:
        """Return the texts that the operator was sent."""
        return [entry.text for entry in self.sandbox.transcript(self.tokens["alerts"]) if entry.by == "bot"]

    def wait_alert(self, *parts: str) -> str:
        """Wait for an alert that holds every one of ``parts`` and return it."""
        return wait_for(
            lambda: next((t for t in self.alerts() if all(p in t for p in parts)), None), f"an alert with {parts}"
        )

    def row(self, bot: str) -> dict[str, Any]:
        """Return the bot's row of ``list --json``."""
        return next(r for r in self.json("list")["bots"] if r["id"] == bot)

    def status(self) -> dict[str, Any]:
        """Return the monitor's picture of its last tick."""
        found: dict[str, Any] = json.loads(self.home.status.read_text())
        return found

    def pid(self, bot: str) -> int:
        return int(wait_for(lambda: self.row(bot)["pid"], f"a pid of {bot}"))

    @property
    def bots(self) -> Path:
        """Where the bots of tests/bots can be read by every user id."""
        return self.directory / "bots"

    @property
    def supervisord_pid(self) -> int:
        return int(self.home.pidfile.read_text())

    def processes(self) -> list[psutil.Process]:
        """Return every living process of this installation."""
        return of_directory(self.directory)

    def sql(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        """Run one statement in the installation's database, as a person with psql would."""

        async def query() -> list[dict[str, Any]]:
            connection = await connect(self.home, load(self.home.toml))
            try:
                return [dict(row) for row in await connection.fetch(statement, *arguments)]
            finally:
                await connection.close()

        return asyncio.run(query())

    def audit(self, bot: str, action: str = "%", door: str = "%") -> list[dict[str, Any]]:
        """Return the audit log's rows of a bot whose action and door are LIKE the given ones."""
        query = "SELECT * FROM audit_log WHERE bot_id = $1 AND action LIKE $2 AND door LIKE $3 ORDER BY at"
        try:
            return self.sql(query, bot, action, door)
        except DatabaseAway:
            return []

    def change_token(self, bot: str) -> None:
        self.tokens[bot] = new_token()
        self.sandbox.register(self.tokens[bot], bot)
        self.run("bot", "set", bot, "--token-stdin", text=self.tokens[bot])

    @contextlib.contextmanager
    def second_poller(self, token: str) -> Iterator[None]:
        """Poll ``token`` from a process of somebody else."""
        environment = self.environment | {"BOT_TOKEN": token, "BOT_API_URL": self.sandbox.url}
        process = subprocess.Popen(
            [sys.executable, f"{BOTS}/command_echo.py"], env=environment, stdout=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def check(self) -> None:
        """Assert what must hold at the end of every acceptance test: one poller at most, no conflict of our making."""
        for bot, token in self.tokens.items():
            counters = self.sandbox.counters(token)
            assert counters.polls_open <= 1, counters
            assert bot in self.conflicts_expected or counters.conflicts == 0, counters

    def end(self) -> None:
        self.run("stop", "--now", "--yes")
        wait_for(lambda: not self.processes(), "every process gone after stop")


def of_directory(directory: Path) -> list[psutil.Process]:
    """Return living processes that mention ``directory`` in their arguments or environment."""
    found = []
    needle = str(directory).encode()
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(OSError, psutil.Error):
            base = Path(f"/proc/{process.pid}")
            named = needle in (base / "cmdline").read_bytes() or needle in (base / "environ").read_bytes()
            if named and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def leave_nothing(directory: Path) -> None:
    """Kill what a failed test left, remove its files, and fail if there was something to kill."""
    left = of_directory(directory)
    told = [picture_of(p) for p in left]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(left, timeout=10)
    runtime = find_home(str(directory / "home")).run
    shutil.rmtree(runtime, ignore_errors=True)
    if os.geteuid() == 0:
        forget(directory)
    shutil.rmtree(directory)
    assert not left, f"left behind: {told}"


def picture_of(process: psutil.Process) -> str:
    """Return who a process is and what it waits in, for the message of a failed test."""
    with contextlib.suppress(OSError, psutil.Error):
        waits = Path(f"/proc/{process.pid}/wchan").read_text()
        blocked = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "Sig" in line]
        return f"{process} child of {process.ppid()}, in {waits or '?'}: {process.cmdline()} {blocked}"
    return f"{process} (gone)"


def registered(system: System, name: str) -> str:
    """Return a new token that the sandbox knows as the bot ``name``."""
    token = new_token()
    system.sandbox.register(token, name)
    return token


def command(system: System) -> tuple[str, str]:
    """Return the words of ``bot create`` for the command bot of this suite."""
    return "--command", f"/usr/bin/python3 {system.bots}/command_echo.py"
