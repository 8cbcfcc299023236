"""The audit log: every change is in it, whoever makes it; no secret is; and it stays."""

from __future__ import annotations

import socket
import urllib.parse
import uuid

import asyncpg
import pytest

from multibot_plugin.bots import store
from multibot_plugin.bots.config import BotConfig
from multibot_plugin.errors import BadValue
from multibot_plugin.journal import AuditEntry

ME = store.Actor("alice", "multibot bot set")
TOKEN = "123456:AAplanted-token-" + "x" * 20
OTHER = "123457:AAplanted-other-" + "x" * 20
SHOP = BotConfig("shop", True, "script", "/bot.py", TOKEN, {"KEY": "planted-value"}, {"memory_limit": 5}, 70000)


async def newest(connection) -> store.Row:
    return (await store.read_audit(connection, "shop", 1))[0]


async def everything(connection) -> str:
    return str([dict(row) for row in await connection.fetch("SELECT * FROM audit_log")])


async def test_each_change_says_who_what_and_through_which_door(database):
    connection = await database.connect()
    await store.insert_bot(connection, ME, SHOP)
    row = await newest(connection)
    assert (row["actor"], row["door"], row["host"]) == ("alice", "multibot bot set", socket.gethostname())
    assert row["action"] == "bot.created"
    assert row["detail"] == {
        "launch": "script", "target": "/bot.py", "enabled": True, "settings": {"memory_limit": 5}, "env": ["KEY"],
        "uid": 70000, "token_number": 123456, "config_version": 1,
    }  # fmt: skip

    changes = {"token": OTHER, "env": {"KEY": "planted-new", "NEW": "planted-value"}, "settings": {"memory_limit": 6}}
    await store.update_bot(connection, ME, "shop", changes)
    row = await newest(connection)
    assert row["action"] == "bot.changed"
    assert row["detail"] == {
        "token": "changed", "token_number": {"old": 123456, "new": 123457}, "config_version": 2,
        "env": {"KEY": "changed", "NEW": "added"}, "settings": {"memory_limit": {"old": 5, "new": 6}},
    }  # fmt: skip

    await store.set_enabled(connection, ME, "shop", False)
    assert (await newest(connection))["action"] == "bot.disabled"
    await store.set_enabled(connection, ME, "shop", True)
    row = await newest(connection)
    assert (row["action"], row["detail"]) == (
        "bot.enabled", {"enabled": {"old": False, "new": True}, "config_version": 4},
    )  # fmt: skip

    await store.delete_bot(connection, ME, "shop")
    row = await newest(connection)
    assert (row["action"], row["detail"]["target"]) == ("bot.deleted", "/bot.py")
    assert len(await store.read_audit(connection)) == 5
    assert "planted" not in await everything(connection)


async def test_a_change_by_hand_is_recorded_under_the_login(database):
    connection = await database.connect()
    await store.insert_bot(connection, ME, SHOP)
    await connection.execute('UPDATE bot_configs SET settings = settings || \'{"user": "bob"}\'')
    row = await newest(connection)
    assert (row["actor"], row["door"], row["action"]) == ("multibot", "sql", "bot.changed")
    assert row["detail"] == {"settings": {"user": {"old": None, "new": "bob"}}, "config_version": 2}
    await connection.execute("UPDATE bot_configs SET config_version = 77, updated_at = '2000-01-01', token = $1", OTHER)
    assert (await store.fetch_bot(connection, "shop"))["config_version"] == 3
    await connection.execute("UPDATE bot_configs SET config_version = 77, created_at = '2000-01-01'")
    stored = await store.fetch_bot(connection, "shop")
    assert (stored["config_version"], stored["created_at"].year > 2000) == (3, True)
    assert len(await store.read_audit(connection)) == 3
    await connection.execute("DELETE FROM bot_configs")
    assert (await newest(connection))["action"] == "bot.deleted"
    assert "planted" not in await everything(connection)


async def test_a_change_that_is_rolled_back_leaves_no_trace(database):
    connection = await database.connect()
    await store.insert_bot(connection, ME, SHOP)
    transaction = connection.transaction()
    await transaction.start()
    await store.update_bot(connection, ME, "shop", {"target": "/new.py"})
    await transaction.rollback()
    assert [row["action"] for row in await store.read_audit(connection)] == ["bot.created"]


@pytest.mark.parametrize("shown", [TOKEN, urllib.parse.quote(TOKEN, safe=""), f"x{TOKEN}x"])
async def test_a_token_in_any_other_place_is_masked(database, shown):
    connection = await database.connect()
    config = BotConfig("shop", True, "command", f"run --token {shown}", TOKEN, {}, {"workdir": f"/{shown}"})
    await store.insert_bot(connection, ME, config)
    entry = AuditEntry(str(uuid.uuid4()), 0.0, "monitor", "monitor", "shop", "bot.restarted", {"why": f"got {shown}"})
    await store.append_audit(connection, [entry])
    assert "planted" not in await everything(connection)
    row = (await store.read_audit(connection, "shop"))[0]
    assert "***" in row["detail"]["target"]


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log", "TRUNCATE bot_configs"],
)
async def test_what_is_recorded_stays(database, statement):
    connection = await database.connect()
    await store.insert_bot(connection, ME, SHOP)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"append-only|no trace"):
        await connection.execute(statement)
    assert len(await store.read_audit(connection)) == 1


async def test_a_session_cannot_divert_the_record_by_a_table_of_its_own(database):
    connection = await database.connect()
    await connection.execute("CREATE TEMP TABLE audit_log AS SELECT * FROM public.audit_log")
    await connection.execute("SET search_path = pg_temp, public")
    await connection.execute(
        "INSERT INTO bot_configs (id, launch, target, token) VALUES ('shop', 'script', '/x', $1)", TOKEN
    )
    assert await connection.fetchval("SELECT count(*) FROM public.audit_log") == 1


async def test_entries_of_the_journal_are_recorded_once_and_in_full(database):
    connection = await database.connect()
    entries = [
        AuditEntry(
            str(uuid.uuid4()), 1.5 + n, "monitor", "monitor", name, "incident.opened", {"n": n, "t": "й🤖'"}, "h1"
        )
        for n, name in enumerate(("shop", "other", None))
    ]
    await store.append_audit(connection, entries)
    await store.append_audit(connection, entries)
    rows = await store.read_audit(connection)
    assert [row["bot_id"] for row in rows] == [None, "other", "shop"]
    row = rows[-1]
    assert (str(row["id"]), row["at"].timestamp(), row["host"]) == (entries[0].id, 1.5, "h1")
    assert row["detail"] == {"n": 0, "t": "й🤖'"}
    assert [r["bot_id"] for r in await store.read_audit(connection, "other")] == ["other"]
    assert len(await store.read_audit(connection, limit=2)) == 2


async def test_of_entries_with_one_that_cannot_be_held_none_is_recorded(database):
    connection = await database.connect()
    good = AuditEntry(str(uuid.uuid4()), 1.0, "a", "d", None, "x")
    for bad in (
        AuditEntry("not a uuid", 1.0, "a", "d", None, "x"),
        AuditEntry(str(uuid.uuid4()), 1.0, "nul\0", "d", None, "x"),
        AuditEntry(str(uuid.uuid4()), 1e30, "a", "d", None, "x"),
        AuditEntry(str(uuid.uuid4()), 1.0, "a", "d", None, "x", {"t": "\0"}),
    ):
        with pytest.raises(BadValue):
            await store.append_audit(connection, [good, bad])
    assert await store.read_audit(connection) == []
