"""The bots' configurations and the audit log in the database: the calls, each in one transaction.

A connection comes from ``database.pool.connect``. Rows are mappings with the columns of ``bot_configs`` (json
already decoded) that do not show their secrets when printed; ``BotConfig.from_row`` checks one.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from multibot_plugin.bots.config import BotConfig
from multibot_plugin.database.pool import translated
from multibot_plugin.database.queries import sql
from multibot_plugin.errors import BadValue, NoSuchBot, Refused, did_you_mean

_LARGEST_UID = 2**31 - 2  # of a column "integer", with room for the next one
_COLUMNS = ("enabled", "launch", "target", "token", "env", "settings", "uid")


@dataclass(frozen=True)
class Actor:
    """Who acts (``name``: a login) and what was typed or used (``door``: "multibot bot stop")."""

    name: str
    door: str


class Entry(Protocol):
    """What ``append_audit`` needs of a journal's entry; ``at`` is seconds since the epoch."""

    @property
    def id(self) -> str: ...
    @property
    def at(self) -> float: ...
    @property
    def actor(self) -> str: ...
    @property
    def door(self) -> str: ...
    @property
    def bot(self) -> str | None: ...
    @property
    def action(self) -> str: ...
    @property
    def detail(self) -> Mapping[str, Any]: ...
    @property
    def host(self) -> str: ...


class Row(dict[str, Any]):
    """A row as a mapping that keeps its token and environment to itself when printed."""

    def __repr__(self) -> str:
        return f"<row of bot {self.get('id')!r}>"


def current_actor(door: str) -> Actor:
    """Return the person at the keyboard: who called sudo, else the login name of this process, else its number."""
    if os.geteuid() == 0 and os.environ.get("SUDO_USER"):
        return Actor(os.environ["SUDO_USER"], door)
    try:
        return Actor(pwd.getpwuid(os.getuid()).pw_name, door)
    except KeyError:
        return Actor(str(os.getuid()), door)


async def fetch_bots(connection: asyncpg.Connection) -> list[Row]:
    """Return the row of every bot, by id."""
    with translated(connection):
        return [Row(row) for row in await connection.fetch(sql("fetch_bots"))]


async def fetch_bot(connection: asyncpg.Connection, bot: str) -> Row:
    """Return the row of ``bot``; raises NoSuchBot."""
    with translated(connection):
        row = await connection.fetchrow(sql("fetch_bot"), bot)
        if row is None:
            raise NoSuchBot(bot, await _ids(connection))
        return Row(row)


async def insert_bot(connection: asyncpg.Connection, actor: Actor, config: BotConfig) -> Row:
    """Store a new bot and return its row. ``config.version`` is not used: a new bot has version 1.

    Raises Refused when the id, the number of the token or the uid belongs to another bot, BadValue for a value
    that the database cannot hold.
    """
    with translated(connection):
        try:
            async with connection.transaction():
                await _sign(connection, actor)
                row = await connection.fetchrow(
                    sql("insert_bot"), config.id, config.enabled, config.launch, config.target, config.token,
                    dict(config.env), dict(config.settings), config.uid,
                )  # fmt: skip
        except asyncpg.UniqueViolationError as error:
            raise await _taken(connection, error, config.id, config.token, config.uid) from None
        return Row(row)


async def update_bot(connection: asyncpg.Connection, actor: Actor, bot: str, changes: Mapping[str, Any]) -> Row:
    """Change some columns of ``bot`` and return the row as it is then.

    ``changes`` holds any of enabled, launch, target, token, uid (new values) and env, settings (merged into what is
    there, so that two people can change different keys at once; a value of None removes the key). Changes that
    change nothing leave the version alone and are not recorded. Raises NoSuchBot, and Refused and BadValue as
    ``insert_bot`` does.
    """
    for name in changes:
        if name not in _COLUMNS:
            raise BadValue(f"bot {bot!r}: there is no column {name!r} to change{did_you_mean(name, _COLUMNS)}")
    env, no_env = _patch(changes.get("env", {}))
    settings, no_settings = _patch(changes.get("settings", {}))
    token, uid = changes.get("token"), changes.get("uid")
    with translated(connection):
        try:
            async with connection.transaction():
                await _sign(connection, actor)
                row = await connection.fetchrow(
                    sql("update_bot"), bot, changes.get("enabled"), changes.get("launch"), changes.get("target"),
                    token, env, no_env, settings, no_settings, uid,
                )  # fmt: skip
        except asyncpg.UniqueViolationError as error:
            raise await _taken(connection, error, bot, token or "", uid) from None
        if row is None:
            raise NoSuchBot(bot, await _ids(connection))
        return Row(row)


async def set_enabled(connection: asyncpg.Connection, actor: Actor, bot: str, enabled: bool) -> None:
    """Store the operator's wish whether ``bot`` should run; raises NoSuchBot."""
    with translated(connection):
        async with connection.transaction():
            await _sign(connection, actor)
            found = await connection.fetchval(sql("set_enabled"), bot, enabled)
        if found is None:
            raise NoSuchBot(bot, await _ids(connection))


async def delete_bot(connection: asyncpg.Connection, actor: Actor, bot: str) -> None:
    """Remove ``bot``; its audit rows stay and its uid is never given to another. Raises NoSuchBot."""
    with translated(connection):
        async with connection.transaction():
            await _sign(connection, actor)
            found = await connection.fetchval(sql("delete_bot"), bot)
        if found is None:
            raise NoSuchBot(bot, await _ids(connection))


async def allot_uid(connection: asyncpg.Connection, uid_range: str) -> int:
    """Return a user id that no bot ever had, from the setting ``bot_uid_range`` ("70000-99999").

    It stays taken whether or not a bot is created with it, unless a transaction around this is rolled back. Raises
    Refused when the range is used up.
    """
    first, last = (min(int(end), _LARGEST_UID) for end in uid_range.split("-"))
    with translated(connection):
        async with connection.transaction():
            await connection.execute(sql("lock_uids"))
            uid: int | None = await connection.fetchval(sql("allot_uid"), first, last)
    if uid is None:
        raise Refused(f"every user id of bot_uid_range {uid_range} is taken: give a wider range in multibot.toml")
    return uid


async def append_audit(connection: asyncpg.Connection, entries: Iterable[Entry]) -> None:
    """Record acts that were journalled first, all or none; an entry whose id is there already is left out.

    Raises BadValue for an entry that the database cannot hold, or whose id is not a UUID.
    """
    try:
        rows = [
            (UUID(e.id), datetime.fromtimestamp(e.at, UTC), e.actor, e.door, e.host, e.bot, e.action, dict(e.detail))
            for e in entries
        ]
    except (ValueError, TypeError, OverflowError, OSError, AttributeError) as error:
        raise BadValue(f"an entry of the journal is not one: {error}") from error
    with translated(connection):
        await connection.executemany(sql("append_audit"), rows)


async def read_audit(connection: asyncpg.Connection, bot: str | None = None, limit: int = 50) -> list[Row]:
    """Return the newest audit rows first, of one bot or of all: id, at, actor, door, host, bot_id, action, detail."""
    with translated(connection):
        rows = [Row(row) for row in await connection.fetch(sql("read_audit"), bot, limit)]
    return [row if isinstance(row["detail"], Mapping) else Row(row, detail={"unreadable": True}) for row in rows]


async def _sign(connection: asyncpg.Connection, actor: Actor) -> None:
    await connection.execute(sql("sign"), actor.name, actor.door, socket.gethostname())


async def _ids(connection: asyncpg.Connection) -> list[str]:
    return [row["id"] for row in await connection.fetch(sql("fetch_ids"))]


def _patch(changes: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Split a patch into what is set and which keys go."""
    kept = {key: value for key, value in changes.items() if value is not None}
    return kept, [key for key, value in changes.items() if value is None]


async def _taken(
    connection: asyncpg.Connection, error: asyncpg.UniqueViolationError, bot: str, token: str, uid: int | None
) -> Refused:
    """Return what to say when ``bot`` collides with another bot."""
    if error.constraint_name == "bot_configs_token_number":
        other = await connection.fetchval(sql("find_token"), int(token.partition(":")[0]))
        return Refused(f"the token of {bot!r} is already used by {other!r}: one token can be polled once")
    if error.constraint_name == "bot_configs_uid":
        other = await connection.fetchval(sql("find_uid"), uid)
        return Refused(f"user id {uid} of {bot!r} is already used by {other!r}: each bot has its own")
    return Refused(f"bot {bot!r} exists already: see 'multibot bot show {bot}', or choose another id")
