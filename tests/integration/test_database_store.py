"""Configurations in a real PostgreSQL: what is stored, what is refused, and that nothing is half-written."""

from __future__ import annotations

import asyncio
import os
import pwd

import pytest

from multibot_plugin.bots import store
from multibot_plugin.bots.config import BotConfig
from multibot_plugin.errors import BadValue, DatabaseAway, NoSuchBot, Refused

ME = store.Actor("alice", "multibot bot create")
TOKEN = "123456:" + "A" * 35
OTHER = "123457:" + "B" * 35
NASTY = "%(ENV_PATH)s ;x #y \"'\\ ${HOME} `id` \u2028 й🤖 '); DROP TABLE bot_configs; --"


def bot(name: str = "shop", token: str = TOKEN, **values) -> BotConfig:
    return BotConfig(**{"id": name, "enabled": True, "launch": "script", "target": "/bot.py", "token": token} | values)


async def test_a_bot_comes_back_as_it_was_stored(database):
    connection = await database.connect()
    config = bot(env={"KEY": NASTY, "EMPTY": ""}, settings={"memory_limit": 256 * 1024**2, "workdir": "/x"}, uid=70000)
    inserted = await store.insert_bot(connection, ME, config)
    assert BotConfig.from_row(inserted) == BotConfig.from_row(await store.fetch_bot(connection, "shop")) == config
    assert [BotConfig.from_row(row) for row in await store.fetch_bots(connection)] == [config]
    assert inserted["token_number"] == 123456


async def test_bots_come_sorted_by_id(database):
    connection = await database.connect()
    for number, name in enumerate(("b-2", "a", "b", "b0")):
        await store.insert_bot(connection, ME, bot(name, f"{1000 + number}:" + "A" * 35))
    assert [row["id"] for row in await store.fetch_bots(connection)] == ["a", "b", "b-2", "b0"]


async def test_a_row_does_not_show_its_secrets(database):
    connection = await database.connect()
    row = await store.insert_bot(connection, ME, bot(env={"KEY": "planted"}))
    assert "AAAA" not in repr([row])
    assert "planted" not in f"{row} {row!r}"


@pytest.mark.parametrize("target", [NASTY, "x" * 10_000, "a\tb"])
async def test_hostile_text_is_stored_as_it_is(database, target):
    connection = await database.connect()
    row = await store.insert_bot(connection, ME, bot(target=target, env={"K": target}))
    assert (row["target"], row["env"]) == (target, {"K": target})
    assert len(await store.fetch_bots(connection)) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"target": "nul\0byte"},
        {"target": "half a surrogate \ud83d"},
        {"target": ""},
        {"env": {"K": "nul\0byte"}},
        {"env": {"K": "\ud83d"}},
        {"settings": {"memory_limit": float("nan")}},
        {"settings": {"memory_limit": object()}},
        {"launch": "fork"},
        {"name": "Upper"},
        {"name": "a\n"},
        {"name": "x" * 40},
        {"name": ""},
        {"token": "planted-without-a-colon-AAAAAAAAAAAAAAAAAAAA"},
        {"token": "123456:planted with a space"},
        {"token": "99999999999999999999:planted-AAAAAAAAAAAAAAAAAAA"},
        {"uid": 2**31},
        {"token": 5},
    ],
)
async def test_a_value_that_cannot_be_held_is_refused_in_one_line_without_it(database, postgres, values):
    connection = await database.connect()
    with pytest.raises(BadValue) as caught:
        await store.insert_bot(connection, ME, bot(**values))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "planted" not in str(caught.value) + postgres.log
    assert await store.fetch_bots(connection) == []
    assert await store.read_audit(connection) == []


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (bot("shop", OTHER), r"^bot 'shop' exists already: see 'multibot bot show shop', or choose another id$"),
        (bot("shop2"), r"^the token of 'shop2' is already used by 'shop': one token can be polled once$"),
        (bot("shop2", "123456:" + "Z" * 35), r"^the token of 'shop2' is already used by 'shop'"),
        (bot("shop2", "00123456:" + "Z" * 35), r"^the token of 'shop2' is already used by 'shop'"),
        (bot("shop2", OTHER, uid=70000), r"^user id 70000 of 'shop2' is already used by 'shop': each bot has its own$"),
    ],
)
async def test_what_belongs_to_another_bot_is_refused_by_name(database, second, message):
    connection = await database.connect()
    await store.insert_bot(connection, ME, bot(uid=70000))
    with pytest.raises(Refused, match=message):
        await store.insert_bot(connection, ME, second)
    assert len(await store.fetch_bots(connection)) == 1
    assert len(await store.read_audit(connection)) == 1


async def test_changing_to_the_token_of_another_bot_is_refused_and_changes_nothing(database):
    connection = await database.connect()
    await store.insert_bot(connection, ME, bot())
    before = await store.insert_bot(connection, ME, bot("shop2", OTHER))
    with pytest.raises(Refused, match="'shop2' is already used by 'shop'"):
        await store.update_bot(connection, ME, "shop2", {"token": TOKEN, "target": "/new.py"})
    assert await store.fetch_bot(connection, "shop2") == before


async def test_of_two_that_create_with_one_token_at_once_one_is_refused(database):
    first, second = await database.connect(), await database.connect()
    answers = await asyncio.gather(
        store.insert_bot(first, ME, bot("one")), store.insert_bot(second, ME, bot("two")), return_exceptions=True
    )
    assert {type(answer) for answer in answers} == {store.Row, Refused}
    assert len(await store.fetch_bots(first)) == 1


async def test_an_update_merges_env_and_settings_and_none_removes_a_key(database):
    connection = await database.connect()
    await store.insert_bot(connection, ME, bot(env={"A": "1", "B": "2"}, settings={"user": "x", "memory_limit": 5}))
    changes = {"env": {"A": None, "C": "3", "NOT_THERE": None}, "settings": {"memory_limit": 6, "user": None}}
    row = await store.update_bot(connection, ME, "shop", changes)
    assert (row["env"], row["settings"]) == ({"B": "2", "C": "3"}, {"memory_limit": 6})
    assert row["config_version"] == 2


async def test_two_people_may_change_different_keys_at_once(database):
    first, second = await database.connect(), await database.connect()
    await store.insert_bot(first, ME, bot())
    await asyncio.gather(
        store.update_bot(first, ME, "shop", {"settings": {"user": "x"}}),
        store.update_bot(second, ME, "shop", {"settings": {"memory_limit": 6}}),
    )
    row = await store.fetch_bot(first, "shop")
    assert (row["settings"], row["config_version"]) == ({"user": "x", "memory_limit": 6}, 3)


async def test_an_update_that_changes_nothing_is_no_new_version(database):
    connection = await database.connect()
    before = await store.insert_bot(connection, ME, bot(env={"A": "1"}))
    assert await store.update_bot(connection, ME, "shop", {"target": "/bot.py", "env": {"A": "1"}}) == before
    assert len(await store.read_audit(connection)) == 1


async def test_a_column_that_nobody_may_change_is_refused(database):
    connection = await database.connect()
    await store.insert_bot(connection, ME, bot())
    with pytest.raises(BadValue, match=r"no column 'tokn' to change \(did you mean 'token'\?\)"):
        await store.update_bot(connection, ME, "shop", {"tokn": OTHER})


async def test_an_unknown_bot_is_told_with_the_nearest_id(database):
    connection = await database.connect()
    await store.insert_bot(connection, ME, bot())
    for call in (
        store.fetch_bot(connection, "shp"),
        store.update_bot(connection, ME, "shp", {"target": "/x"}),
        store.set_enabled(connection, ME, "shp", True),
        store.delete_bot(connection, ME, "shp"),
    ):
        with pytest.raises(NoSuchBot, match=r"^no bot 'shp' \(did you mean 'shop'\?\)$"):
            await call


async def test_a_user_id_is_never_given_twice_not_even_after_its_bot_is_gone(database):
    connection = await database.connect()
    uid = await store.allot_uid(connection, "70000-70003")
    await store.insert_bot(connection, ME, bot(uid=uid))
    await store.delete_bot(connection, ME, "shop")
    assert [await store.allot_uid(connection, "70000-70003") for _ in range(3)] == [70001, 70002, 70003]
    with pytest.raises(Refused, match="every user id of bot_uid_range 70000-70003 is taken"):
        await store.allot_uid(connection, "70000-70003")
    # Moved down, it still leaves out what was given; one chosen by hand is left out too.
    await store.insert_bot(connection, ME, bot(uid=69999))
    assert [await store.allot_uid(connection, "69998-70010") for _ in range(2)] == [69998, 70004]


async def test_user_ids_allotted_at_once_differ(database):
    connections = [await database.connect() for _ in range(8)]
    uids = await asyncio.gather(*(store.allot_uid(c, "70000-99999") for c in connections))
    assert sorted(uids) == list(range(70000, 70008))


async def test_a_lost_connection_is_said_in_one_line(database):
    connection, other = await database.connect(), await database.connect()
    await other.execute("SELECT pg_terminate_backend($1)", await connection.fetchval("SELECT pg_backend_pid()"))
    for _ in range(2):  # while it breaks, and when it is known to be broken
        with pytest.raises(DatabaseAway) as caught:
            await store.insert_bot(connection, ME, bot())
        # What to type is for this installation, wherever it is.
        assert str(caught.value) == f"the connection to the database was lost: run '{database.home.command('start')}'"


def test_the_actor_is_who_called_sudo_else_the_login(monkeypatch):
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert store.current_actor("door") == store.Actor(pwd.getpwuid(os.getuid()).pw_name, "door")
    monkeypatch.setenv("SUDO_USER", "bob")
    assert (store.current_actor("door").name == "bob") == (os.geteuid() == 0)


DEEP = "[" * 3000 + "]" * 3000


@pytest.mark.parametrize(
    ("column", "document", "changes"),
    [("settings", '{"deaths_limit": 1e5000}', {"settings": {"deaths_limit": None}}),
     ("env", f'{{"A": {DEEP}}}', {"env": {"A": None}}),
     ("settings", f'{{"deaths_limit": {DEEP}}}', {"settings": {"deaths_limit": 2}})],
)  # fmt: skip
async def test_a_row_that_python_cannot_read_stops_nothing_else_and_can_be_mended(database, column, document, changes):
    connection = await database.connect()
    await store.insert_bot(connection, ME, bot())
    await store.insert_bot(connection, ME, bot("other", OTHER))
    await connection.execute(f"UPDATE bot_configs SET {column} = $1::text::jsonb WHERE id = 'shop'", document)
    other, shop = await store.fetch_bots(connection)
    assert BotConfig.from_row(other).id == "other"
    with pytest.raises(BadValue, match=f"bot 'shop': {column} holds a number too long or a value too deep"):
        BotConfig.from_row(shop)
    assert BotConfig.from_row(await store.update_bot(connection, ME, "shop", changes)).id == "shop"
    details = [row["detail"] for row in await store.read_audit(connection, "shop")]
    assert len(details) == 3
    assert all(isinstance(detail, dict) for detail in details)
    await connection.execute(f"UPDATE bot_configs SET {column} = $1::text::jsonb WHERE id = 'shop'", document)
    await store.delete_bot(connection, ME, "shop")
    assert [row["id"] for row in await store.fetch_bots(connection)] == ["other"]
