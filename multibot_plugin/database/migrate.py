"""Numbered SQL files, applied once each, in order, in one transaction per file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from multibot_plugin.database.pool import how_to_start, translated
from multibot_plugin.database.queries import sql
from multibot_plugin.errors import MultibotError, Refused

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True)
class Migration:
    """One file: its number, its name without ``.sql``, and what it says."""

    number: int
    title: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_migrations(named: Sequence[tuple[str, str]]) -> tuple[Migration, ...]:
    """Return the migrations in (file name, text) pairs, in order.

    Raises MultibotError for a name that is not ``NNNN_title.sql`` and for a gap in the numbers.
    """
    found = []
    for expected, (name, text) in enumerate(sorted(named), start=1):
        match = _FILE.fullmatch(name)
        if not match or int(match[1]) != expected:
            raise MultibotError(f"migration {name} should be {expected:04d}_title.sql: reinstall multibot")
        found.append(Migration(expected, name.removesuffix(".sql"), text))
    return tuple(found)


def _ours() -> tuple[Migration, ...]:
    folder = files("multibot_plugin.database.sql").joinpath("migrations")
    return read_migrations([(f.name, f.read_text()) for f in folder.iterdir() if f.name.endswith(".sql")])


MIGRATIONS = _ours()
LATEST = len(MIGRATIONS)


async def migrate(connection: asyncpg.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> list[str]:
    """Apply what is missing and return the titles of what was applied (empty: nothing to do).

    Any number of runners may do this at once: each file is applied once. A file that fails leaves nothing behind;
    those before it stay. Raises Refused for a database that is newer than this program, MultibotError for a file
    that was changed after it was applied or that fails, DatabaseAway when the connection is lost.
    """
    applied: list[str] = []
    with translated(connection):
        while migration := await _apply_next(connection, migrations):
            applied.append(migration.title)
    return applied


async def schema_version(connection: asyncpg.Connection) -> int:
    """Return the number of the last applied migration; 0 for an empty database."""
    with translated(connection):
        return len(await _fetch_applied(connection))


async def check_schema(connection: asyncpg.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Change nothing; raise what ``migrate`` would, and MultibotError when it has something to do."""
    with translated(connection):
        done = _count_applied(await _fetch_applied(connection), migrations)
    if done < len(migrations):
        start = how_to_start(connection)
        raise MultibotError(f"the database is at version {done}, multibot needs {len(migrations)}: run '{start}'")


async def _fetch_applied(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    if not await connection.fetchval(sql("has_migrations")):
        return []
    rows: list[asyncpg.Record] = await connection.fetch(sql("fetch_migrations"))
    return rows


async def _apply_next(connection: asyncpg.Connection, migrations: Sequence[Migration]) -> Migration | None:
    async with connection.transaction():
        await connection.execute(sql("lock_migrations"))
        rows = await _fetch_applied(connection)
        done = _count_applied(rows, migrations)
        if done == len(migrations):
            return None
        migration = migrations[done]
        try:
            if not rows:
                await connection.execute(sql("create_migrations"))
            await connection.execute(migration.text)
        except asyncpg.InsufficientPrivilegeError as error:
            hint = "GRANT CREATE ON SCHEMA public TO the role of database_url"
            raise MultibotError(f"the database refuses: {error.args[0]}: {hint}") from error
        except asyncpg.PostgresError as error:
            raise MultibotError(f"migration {migration.title} failed and changed nothing: {error.args[0]}") from error
        await connection.execute(sql("insert_migration"), migration.number, migration.title, migration.sha256)
        return migration


def _count_applied(rows: Sequence[asyncpg.Record], migrations: Sequence[Migration]) -> int:
    """Return how many of ``migrations`` were applied; raise when they are not those that were."""
    if len(rows) > len(migrations):
        raise Refused(
            f"the database is at version {len(rows)}, this multibot knows {len(migrations)}: upgrade multibot"
        )
    for position, (row, migration) in enumerate(zip(rows, migrations, strict=False), start=1):
        if row["number"] != position:
            raise MultibotError(f"the database lacks migration {position} but has {row['number']}: restore a backup")
        if row["sha256"] != migration.sha256:
            raise MultibotError(f"migration {migration.title} was changed after it was applied: reinstall multibot")
    return len(rows)
