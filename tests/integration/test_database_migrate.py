"""Migrations on every PostgreSQL that is here: once, in order, whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from postgres import Database, running_server, short_directory

from multibot_plugin.bots import store
from multibot_plugin.bots.config import BotConfig
from multibot_plugin.database import binaries, migrate
from multibot_plugin.errors import MultibotError, Refused

ONE = ("0001_one.sql", "CREATE TABLE one (a int); INSERT INTO one VALUES (1);")
TWO = ("0002_two.sql", "DO $$ BEGIN INSERT INTO one VALUES (2); END $$; -- a ; here\nSELECT ';';")


@pytest.fixture
async def empty(postgres) -> AsyncIterator[Database]:
    """A database without anything."""
    with short_directory() as directory:
        database = Database(postgres, directory, template="template1")
        try:
            yield database
        finally:
            await database.close()


async def test_ours_are_applied_once_and_give_the_version(empty):
    connection = await empty.connect()
    assert await migrate.schema_version(connection) == 0
    with pytest.raises(MultibotError, match=f"run '{empty.home.command('start')}'"):
        await migrate.check_schema(connection)
    assert await migrate.migrate(connection) == [m.title for m in migrate.MIGRATIONS]
    assert await migrate.migrate(connection) == []
    assert await migrate.schema_version(connection) == migrate.LATEST
    await migrate.check_schema(connection)


async def test_the_store_says_that_the_tables_are_missing(empty):
    with pytest.raises(MultibotError, match=f"no tables of multibot yet: run '{empty.home.command('start')}'"):
        await store.fetch_bots(await empty.connect())


async def test_a_later_file_is_applied_alone(empty):
    connection = await empty.connect()
    await migrate.migrate(connection, migrate.read_migrations([ONE]))
    assert await migrate.migrate(connection, migrate.read_migrations([ONE, TWO])) == ["0002_two"]
    assert await connection.fetchval("SELECT array_agg(a ORDER BY a) FROM one") == [1, 2]


async def test_eight_runners_at_once_apply_each_file_once(empty):
    connections = [await empty.connect() for _ in range(8)]
    migrations = migrate.read_migrations([ONE, TWO])
    done = await asyncio.gather(*(migrate.migrate(c, migrations) for c in connections))
    assert sorted(title for titles in done for title in titles) == ["0001_one", "0002_two"]
    assert await connections[0].fetchval("SELECT array_agg(a ORDER BY a) FROM one") == [1, 2]


async def test_a_file_that_fails_leaves_nothing_and_keeps_those_before_it(empty):
    connection = await empty.connect()
    broken = ("0002_two.sql", "CREATE TABLE two (a int); SELECT 1/0;")
    with pytest.raises(MultibotError, match=r"^migration 0002_two failed and changed nothing: division by zero$"):
        await migrate.migrate(connection, migrate.read_migrations([ONE, broken]))
    assert await connection.fetchval("SELECT to_regclass('two')") is None
    assert await migrate.schema_version(connection) == 1
    assert await migrate.migrate(connection, migrate.read_migrations([ONE, TWO])) == ["0002_two"]


async def test_a_file_that_was_changed_afterwards_is_refused(empty):
    connection = await empty.connect()
    await migrate.migrate(connection, migrate.read_migrations([ONE]))
    changed = migrate.read_migrations([("0001_one.sql", ONE[1] + " "), TWO])
    with pytest.raises(MultibotError, match=r"^migration 0001_one was changed after it was applied"):
        await migrate.migrate(connection, changed)
    with pytest.raises(MultibotError, match="was changed"):
        await migrate.check_schema(connection, changed)
    assert await migrate.schema_version(connection) == 1


async def test_a_database_newer_than_the_program_is_refused(empty):
    connection = await empty.connect()
    await migrate.migrate(connection, migrate.read_migrations([ONE, TWO]))
    for call in (migrate.migrate, migrate.check_schema):
        with pytest.raises(Refused, match="at version 2, this multibot knows 1: upgrade multibot"):
            await call(connection, migrate.read_migrations([ONE]))


async def test_a_gap_in_the_record_is_refused(empty):
    connection = await empty.connect()
    migrations = migrate.read_migrations([ONE, TWO])
    await migrate.migrate(connection, migrations)
    await connection.execute("DELETE FROM multibot_migrations WHERE number = 1")
    with pytest.raises(MultibotError, match="lacks migration 1 but has 2"):
        await migrate.migrate(connection, migrations)


async def test_a_login_that_may_make_no_tables_is_told_what_it_needs(empty):
    connection = await empty.connect()
    role = f"guest_{empty.name}"
    await connection.execute(f"CREATE ROLE {role}; SET ROLE {role}")
    try:
        with pytest.raises(MultibotError, match="permission denied for schema public: GRANT CREATE ON SCHEMA public"):
            await migrate.migrate(connection)
    finally:
        await connection.execute(f"RESET ROLE; DROP ROLE {role}")


def _found() -> list[binaries.Binaries]:
    wheel_and_system = [*binaries.in_wheel(), *binaries.in_system()]
    return [b for b in wheel_and_system if b.major >= binaries.OLDEST]


@pytest.mark.parametrize("found", _found(), ids=lambda b: f"{b.origin}-{b.version}")
async def test_the_schema_works_on_every_postgresql_that_is_here(found):
    with running_server(pg_bin=str(found.bin)) as server:
        server.make_template()
        with short_directory() as directory:
            database = Database(server, directory)
            connection = await database.connect()
            assert connection.get_server_version().major == found.major
            me = store.Actor("alice", "test")
            config = BotConfig("shop", True, "script", "/x", "123456:" + "A" * 35, {"K": "й"}, {"user": "x"}, 70000)
            await store.insert_bot(connection, me, config)
            await store.update_bot(connection, me, "shop", {"env": {"K": None}, "settings": {"user": "y"}})
            await store.set_enabled(connection, me, "shop", False)
            await store.delete_bot(connection, me, "shop")
            assert await store.allot_uid(connection, "70000-70009") == 70001
            assert len(await store.read_audit(connection)) == 4
            assert await connection.fetchval("SELECT lower('ÄПРИВЕТ')") == "äпривет"
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await connection.execute("DELETE FROM audit_log")
            await database.close()
