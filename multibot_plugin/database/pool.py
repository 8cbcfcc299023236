"""Connections to PostgreSQL, and its errors in our words.

The embedded server answers on a socket of ours with a password from our passfile; ``database_url`` may be anything
asyncpg understands. No message here shows a URL, a password or a value of a row.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from multibot_plugin.database.server import NAME, OLDEST, passfile
from multibot_plugin.errors import BadValue, DatabaseAway, MultibotError
from multibot_plugin.home import Home
from multibot_plugin.settings import Settings

_RETRY_S = 0.1

# The server is not there, not yet or no longer.
_AWAY = (
    OSError,
    asyncpg.AdminShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.CrashShutdownError,
    asyncpg.PostgresConnectionError,
    asyncpg.TooManyConnectionsError,
)


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that knows what a person types to start this installation."""

    start = "multibot start"


async def connect(home: Home, settings: Settings, timeout_s: float = 5.0) -> asyncpg.Connection:
    """Return a new connection; json values come and go as Python values (None: one that Python cannot read).

    Raises DatabaseAway when the server is not there or refuses us, BadValue for a ``database_url`` that is none.
    """
    try:
        connection = await _open(home, settings, timeout_s)
        try:
            connection.start = home.command("start")
            await _set_up(connection, place(home, settings))
        except BaseException:
            connection.terminate()
            raise
        return connection
    except _AWAY as error:
        raise _silence(home, settings, error) from error
    except asyncpg.PostgresError as error:
        raise _refusal(home, settings, error) from error
    except (asyncpg.InterfaceError, ValueError, OverflowError):  # the last: a port of six digits
        # The cause may quote the URL, and a URL may hold a password.
        raise BadValue("database_url is not a PostgreSQL URL that can be used: see 'multibot config'") from None


async def wait_ready(home: Home, settings: Settings, timeout_s: float = 30.0) -> asyncpg.Connection:
    """Return a connection as soon as the server takes one; ready means exactly that.

    Raises DatabaseAway after ``timeout_s`` seconds, and at once when the server is there but refuses us.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        try:
            return await connect(home, settings, max(left, 0.5))
        except DatabaseAway as error:
            if left <= 0 or not isinstance(error.__cause__, _AWAY):
                raise
        await asyncio.sleep(min(_RETRY_S, max(left, 0)))


def place(home: Home, settings: Settings) -> str:
    """Return where the database is, for a message: a directory or ``host:port``, never a password."""
    url = settings["database_url"]
    if not url:
        return str(home.postgres_run)
    parts = urllib.parse.urlsplit(url)
    query = urllib.parse.parse_qs(parts.query)
    host = urllib.parse.unquote(parts.netloc.rpartition("@")[2]) or query.get("host", [""])[-1]
    if not host:
        return "its default place"
    if host.startswith("/") or "," in host or host.rpartition(":")[2].isdigit():
        return host
    return f"{host}:{query.get('port', ['5432'])[-1]}"


@contextmanager
def translated(connection: asyncpg.Connection) -> Iterator[None]:
    """Turn what asyncpg raises inside, on ``connection``, into our errors, without any value of a row.

    DatabaseAway for a lost connection, BadValue for a value that PostgreSQL cannot hold, MultibotError otherwise.
    """
    hint = how_to_start(connection)
    try:
        yield
    except asyncpg.UndefinedTableError as error:
        raise MultibotError(f"the database has no tables of multibot yet: run '{hint}'") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise MultibotError(f"the database refuses: {error.args[0]}") from error
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, UnicodeEncodeError) as error:
        # Not chained: the original quotes the row or the value.
        raise BadValue(f"the database cannot hold this value ({_kind(error)})") from None
    except (*_AWAY, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        # InternalClientError: asyncpg's answer when the server hung up between two calls.
        if isinstance(error, asyncpg.InterfaceError) and "clos" not in str(error):
            raise  # a slip of ours
        raise DatabaseAway(f"the connection to the database was lost: run '{hint}'") from error
    except asyncpg.PostgresError as error:
        raise MultibotError(f"the database reports: {error.args[0]}") from error


def how_to_start(connection: asyncpg.Connection) -> str:
    """Return what a person types to start the installation of ``connection``."""
    return str(getattr(connection, "start", Connection.start))


def _kind(error: Exception) -> str:
    constraint = getattr(error, "constraint_name", None)
    return str(constraint) if constraint else type(error).__name__.removesuffix("Error")


async def _open(home: Home, settings: Settings, timeout_s: float) -> asyncpg.Connection:
    names = {"application_name": "multibot"}
    if settings["database_url"]:
        url = settings["database_url"]
        return await asyncpg.connect(url, timeout=timeout_s, server_settings=names, connection_class=Connection)
    # Everything is given, so that no PG* variable of the environment can point elsewhere.
    return await asyncpg.connect(
        host=str(home.postgres_run), port=5432, user=NAME, database=NAME, password=_password(home), ssl=False,
        timeout=timeout_s, server_settings=names, target_session_attrs="any", connection_class=Connection,
    )  # fmt: skip


def _password(home: Home) -> str:
    file = passfile(home)
    try:
        password = file.read_bytes().decode("ascii").strip().rpartition(":")[2]
        if not password.isprintable():
            raise ValueError
        return password
    except ValueError:
        raise DatabaseAway(f"{file} is damaged: remove it and run '{home.command('init')}'") from None
    except FileNotFoundError:
        raise DatabaseAway(f"there is no database here yet: run '{home.command('init')}'") from None
    except PermissionError:
        raise DatabaseAway(f"{file} is not yours to read: run multibot as the owner of this installation") from None


async def _set_up(connection: asyncpg.Connection, where: str) -> None:
    version = connection.get_server_version()
    if version.major < OLDEST:
        raise DatabaseAway(f"the database at {where} is PostgreSQL {version.major}: multibot needs {OLDEST} or later")
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(kind, encoder=_encode, decoder=_decode, schema="pg_catalog")


def _encode(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _decode(text: str) -> Any:
    """Return the value, None for one that PostgreSQL can hold and Python cannot: one row must not stop all others."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a number of 5,000 digits, 3,000 brackets
        return None


def _silence(home: Home, settings: Settings, error: Exception) -> DatabaseAway:
    where = place(home, settings)
    if isinstance(error, asyncpg.PostgresError):
        return DatabaseAway(f"the database at {where} is not ready: {error.args[0]}")
    if not settings["database_url"]:
        return DatabaseAway(f"the database does not answer at {where}: run '{home.command('start')}'")
    reason = getattr(error, "strerror", None) or type(error).__name__
    return DatabaseAway(f"the database does not answer at {where} ({reason}): is it running, is database_url right?")


def _refusal(home: Home, settings: Settings, error: asyncpg.PostgresError) -> DatabaseAway:
    text = f"the database at {place(home, settings)} refuses us: {error.args[0]}"
    if isinstance(error, asyncpg.InvalidPasswordError | asyncpg.InvalidAuthorizationSpecificationError):
        file = "its passfile" if settings["database_url"] else str(passfile(home))
        text += f": check {file} (it must be readable by its owner alone)"
    return DatabaseAway(text)
