"""A real PostgreSQL for tests: the embedded one, by our own ``prepare``, and an empty migrated database per test.

Use the fixture ``database`` (tests/conftest.py); it is a ``Database``::

    async def test_a_bot_is_stored(database):
        connection = await database.connect()          # an asyncpg connection with json codecs; closed for you
        await store.insert_bot(connection, ACTOR, config)

    def test_list(database):
        run("multibot", "--home", database.home.config, "list")   # its multibot.toml names the database

``database.home`` is an empty home of the test's own in a short directory that other users can traverse,
``database.settings`` its settings with ``database_url``, ``database.url`` that URL (no password in it: it names a
passfile). The server (fixture ``postgres``, one per session) can be stopped and started with ``stop()`` and
``start()``; whoever does that starts it again. As root it runs under the account multibot-postgres.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from multibot_plugin.bots.uids import REGISTRY, owner_of_uid
from multibot_plugin.database import embedded, migrate, pool
from multibot_plugin.database.server import NAME, folder, passfile
from multibot_plugin.home import Home, find_home
from multibot_plugin.settings import Settings, load

_TEMPLATE = "empty"
_numbers = itertools.count(1)


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose path is short enough for sockets and that other users can traverse."""
    top = Path(tempfile.mkdtemp(prefix="mb-", dir="/tmp"))
    top.chmod(0o755)
    try:
        yield top
    finally:
        if os.geteuid() == 0:
            forget(top)
        shutil.rmtree(top, ignore_errors=True)


def forget(below: Path) -> None:
    """Give back the user ids that installations below this directory have claimed."""
    for path in REGISTRY.iterdir() if REGISTRY.is_dir() else ():
        if path.name.isdigit():
            owner = owner_of_uid(int(path.name))
            if owner is not None and owner.is_relative_to(below):
                path.unlink(missing_ok=True)


def in_thread(start: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine to its end in a loop of its own, whatever loop the test has."""
    result: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(asyncio.run(start()))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]


class Server:
    """A server in ``directory``; ``settings`` may name other programs (``pg_bin``)."""

    def __init__(self, directory: Path, **flags: str) -> None:
        self.home: Home = find_home(str(directory))
        self.settings: Settings = load(directory / "none.toml", flags, environ={})
        self.said: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.home.run.mkdir(mode=0o711, parents=True)
        embedded.prepare(self.home, self.settings, self.said.append)
        with (folder(self.home) / "postgresql.conf").open("a") as conf:
            conf.write("fsync = off\n")  # faster; a test database need not outlive the machine

    def start(self) -> None:
        """Start the server as supervisord would, and wait until it takes connections."""
        self.home.log.mkdir(exist_ok=True)
        with (self.home.log / "postgres.log").open("ab") as log:
            command = embedded.program(self.home, self.settings).command
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        in_thread(self._wait_ready)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
            self.process = None

    @property
    def log(self) -> str:
        return (self.home.log / "postgres.log").read_text()

    def url(self, name: str) -> str:
        return f"postgresql://{NAME}@/{name}?host={self.home.postgres_run}&passfile={passfile(self.home)}"

    def execute(self, statement: str) -> None:
        """Run one statement in the database ``multibot``."""

        async def run() -> None:
            connection = await pool.connect(self.home, self.settings)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        in_thread(run)

    def make_template(self) -> None:
        self.execute(f"CREATE DATABASE {_TEMPLATE}")
        settings = load(self.home.toml, {"database_url": self.url(_TEMPLATE)}, environ={})

        async def run() -> None:
            connection = await pool.connect(self.home, settings)
            try:
                await migrate.migrate(connection)
            finally:
                await connection.close()

        in_thread(run)

    async def _wait_ready(self) -> None:
        await (await pool.wait_ready(self.home, self.settings)).close()


class Database:
    """An empty migrated database of one test; see the module."""

    def __init__(self, server: Server, directory: Path, template: str = _TEMPLATE) -> None:
        self.server = server
        self.name = f"test_{os.getpid()}_{next(_numbers)}"
        self.url = server.url(self.name)
        self.home = find_home(str(directory))
        self.home.toml.write_text(f'database_url = "{self.url}"\n')
        self.settings = load(self.home.toml, environ={})
        self._open: list[tuple[asyncio.AbstractEventLoop, asyncpg.Connection]] = []
        server.execute(f"CREATE DATABASE {self.name} TEMPLATE {template}")

    async def connect(self) -> asyncpg.Connection:
        """Return a new connection. It ends with the test; in a loop of your own, close it yourself."""
        connection = await pool.connect(self.home, self.settings)
        self._open.append((asyncio.get_running_loop(), connection))
        return connection

    async def close(self) -> None:
        for loop, connection in self._open:
            if loop is asyncio.get_running_loop() and not connection.is_closed():
                await connection.close(timeout=5)
        if self.server.process is not None:
            self.server.execute(f"DROP DATABASE {self.name} WITH (FORCE)")


@contextmanager
def running_server(**flags: str) -> Iterator[Server]:
    """A started server in a directory of its own; stopped and removed at the end, whatever happens."""
    with short_directory() as directory:
        server = Server(directory, **flags)
        try:
            server.start()
            yield server
        finally:
            server.stop()
