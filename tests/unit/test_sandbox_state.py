"""Tokens, commands, faults and the transcript's words: values in, values out."""

from __future__ import annotations

import inspect

import pytest
import telegram

from multibot_plugin.errors import BadValue, NoSuchBot, Refused
from multibot_plugin.sandbox.faults import Fault, Faults
from multibot_plugin.sandbox.methods import KNOWN_METHODS
from multibot_plugin.sandbox.model import Entry, Reply, command_entities, token_number, usual_failure
from multibot_plugin.sandbox.state import ADA, Bot, World

TOKEN, OTHER = f"7001:{'A' * 35}", f"7001:{'B' * 35}"


def admitted(world: World, token: str) -> Bot:
    bot = world.admit(token)
    assert isinstance(bot, Bot)
    return bot


def test_every_public_method_of_python_telegram_bot_is_known() -> None:
    of_bot = {
        name.lower()
        for name, _ in inspect.getmembers(telegram.Bot, inspect.iscoroutinefunction)
        if "_" not in name and name not in ("initialize", "shutdown")
    }
    assert of_bot == KNOWN_METHODS


@pytest.mark.parametrize(
    ("token", "number"),
    [(TOKEN, 7001), ("1:23456789", 1), ("0123:abcdefgh", None), ("1:2", None), ("abc", None), (":" * 20, None),
     (f"{TOKEN}\n", None), (f"7001:{'A' * 90}", None), ("７:ABCDEFGHIJ", None), (f"7001:{'Ä' * 30}", None)],
)  # fmt: skip
def test_a_token_is_taken_for_one_as_by_telegrams_server(token: str, number: int | None) -> None:
    assert token_number(token) == number


def test_an_unknown_token_gets_an_identity_unless_the_sandbox_is_strict() -> None:
    assert admitted(World(), TOKEN).number == 7001
    strict = World(strict=True)
    assert isinstance(strict.admit(TOKEN), Reply)
    strict.register(TOKEN, "greeter")
    assert admitted(strict, TOKEN).username == "greeter_bot"


def test_a_revoked_token_stays_revoked_and_the_next_with_its_number_is_the_bots_new_one() -> None:
    world = World()
    bot = admitted(world, TOKEN)
    assert isinstance(world.admit(OTHER), Reply)
    world.revoke(bot)
    world.introduce(7001, "greeter")
    assert isinstance(world.admit(TOKEN), Reply)
    assert admitted(world, OTHER) is bot
    assert isinstance(world.admit(TOKEN), Reply)
    world.register(TOKEN)
    assert admitted(world, TOKEN) is bot


def test_the_token_of_an_introduced_bot_is_the_first_that_comes() -> None:
    world = World()
    bot = world.introduce(7001, "greeter")
    assert admitted(world, TOKEN) is bot
    assert isinstance(world.admit(OTHER), Reply)


def test_a_bot_is_found_by_token_number_name_and_username() -> None:
    world = World()
    bot = world.register(TOKEN, "my-shop")
    assert [world.find(w) for w in (TOKEN, "7001", "my-shop", "my_shop_bot", "@my_shop_bot")] == [bot] * 5
    with pytest.raises(NoSuchBot, match="did you mean 'my-shop'"):
        world.find("my-shp")
    with pytest.raises(NoSuchBot) as unknown:
        world.find(f"7002:{'A' * 35}")
    assert "A" * 35 not in str(unknown.value)


def test_a_name_belongs_to_the_bot_that_got_it_last() -> None:
    world = World()
    first, second = world.register(TOKEN, "shop"), world.register(f"7002:{'A' * 35}", "shop")
    assert world.find("shop") is second
    assert first.name == first.username


def test_commands_are_marked_as_telegram_counts_characters() -> None:
    assert command_entities("/start") == [{"type": "bot_command", "offset": 0, "length": 6}]
    assert command_entities("😀 /help@a_bot now") == [{"type": "bot_command", "offset": 3, "length": 11}]
    assert command_entities("a/b http://x/y / //") == []


@pytest.mark.parametrize("text", ["", "x" * 4097])
def test_a_user_cannot_say_what_telegram_would_not_send(text: str) -> None:
    world = World()
    with pytest.raises(BadValue):
        world.say(world.register(TOKEN), text, ADA.id)


def test_a_tap_on_a_button_that_nobody_shows_is_refused() -> None:
    world = World()
    with pytest.raises(Refused, match="no button 'Yes'"):
        world.tap(world.register(TOKEN), "Yes", ADA.id)


def test_a_fault_hits_its_bot_and_method_for_so_many_calls_or_so_long() -> None:
    faults = Faults()
    faults.add(Fault(7, "drop", frozenset({"getupdates"}), times=2))
    faults.add(Fault(None, "lose", frozenset({"getme"}), until=10.0))
    assert [faults.strike(7, "getupdates", 0.0) is not None for _ in range(3)] == [True, True, False]
    assert faults.strike(8, "getupdates", 0.0) is None
    assert faults.strike(8, "getme", 9.9) is not None
    assert faults.strike(8, "getme", 10.0) is None


def test_clearing_releases_what_a_used_up_hang_still_holds() -> None:
    faults = Faults()
    faults.add(Fault(7, "hang", frozenset(), times=1))
    held = faults.strike(7, "getupdates", 0.0)
    assert held is not None
    assert faults.strike(7, "getupdates", 0.0) is None
    assert faults.clear(7) == 1
    assert held.over.is_set()


@pytest.mark.parametrize(
    ("status", "description"),
    [(401, "Unauthorized"), (404, "Not Found"), (500, "Internal Server Error: restart"), (418, "I'm a Teapot"),
     (429, "Too Many Requests: retry after 5"), (499, "Error")],
)  # fmt: skip
def test_a_failure_is_worded_as_usual(status: int, description: str) -> None:
    body = usual_failure(status).body
    assert isinstance(body, dict)
    assert body["description"] == description


@pytest.mark.parametrize(
    ("entry", "speakers", "shown"),
    [
        (Entry(1, 0, 7, "greeter", "user", "message", 1001, "Ada", "hi"), "you → greeter", "hi"),
        (Entry(1, 0, 7, "greeter", "user", "tap", 1002, "Bob", "Yes"), "Bob → greeter", "[Yes]"),
        (Entry(1, 0, 7, "greeter", "bot", "edit", 1001, "Ada", "Sure?", 1, ("Y", "N")), "greeter → you",
         "(edited) Sure? [Y] [N]"),
    ],
)  # fmt: skip
def test_an_entry_reads_like_a_conversation(entry: Entry, speakers: str, shown: str) -> None:
    assert (entry.speakers, entry.shown) == (speakers, shown)
