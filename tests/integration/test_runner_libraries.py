"""Unchanged scripts of each library: that they answer, and what their process shows of polls, updates and handlers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from runners import Bot, Place, a_place, wait_for

from multibot_plugin.sandbox.client import Sandbox
from multibot_plugin.sandbox.process import child
from multibot_runner.protocol import REJECTED, Heartbeat

# Each echoes; "fail" is an error of the handler, "hold" is handled when the file "go" is there.
PTB = """
    import asyncio, os
    from telegram.ext import Application, MessageHandler, filters

    async def echo(update, context):
        text = update.message.text
        while text == "hold" and not os.path.exists("go"):
            await asyncio.sleep(0.05)
        if text == "fail":
            raise RuntimeError("as asked")
        await update.message.reply_text(text)

    application = Application.builder().token(os.environ["BOT_TOKEN"]).build()
    application.add_handler(MessageHandler(filters.TEXT, echo))
    application.run_polling(timeout=4)
"""
AIOGRAM = """
    import asyncio, os
    from aiogram import Bot, Dispatcher

    dispatcher = Dispatcher()

    @dispatcher.message()
    async def echo(message):
        while message.text == "hold" and not os.path.exists("go"):
            await asyncio.sleep(0.05)
        if message.text == "fail":
            raise RuntimeError("as asked")
        await message.answer(message.text)

    asyncio.run(dispatcher.start_polling(Bot(os.environ["BOT_TOKEN"]), polling_timeout=4))
"""
TELEBOT = """
    import os, telebot, time

    bot = telebot.TeleBot(os.environ["BOT_TOKEN"])

    @bot.message_handler(func=lambda message: True)
    def echo(message):
        while message.text == "hold" and not os.path.exists("go"):
            time.sleep(0.05)
        if message.text == "fail":
            raise RuntimeError("as asked")
        bot.send_message(message.chat.id, message.text)

    bot.infinity_polling(timeout=4, long_polling_timeout=4)
"""
ASYNC_TELEBOT = """
    import asyncio, os
    from telebot.async_telebot import AsyncTeleBot

    bot = AsyncTeleBot(os.environ["BOT_TOKEN"])

    @bot.message_handler(func=lambda message: True)
    async def echo(message):
        while message.text == "hold" and not os.path.exists("go"):
            await asyncio.sleep(0.05)
        if message.text == "fail":
            raise RuntimeError("as asked")
        await bot.send_message(message.chat.id, message.text)

    asyncio.run(bot.infinity_polling(timeout=4, request_timeout=10))
"""
SCRIPTS = {"ptb": PTB, "aiogram": AIOGRAM, "telebot": TELEBOT, "async_telebot": ASYNC_TELEBOT}
LIBRARIES = pytest.mark.parametrize("library", SCRIPTS)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with child() as running:
        yield running


@pytest.fixture
def place() -> Iterator[Place]:
    with a_place() as made:
        made.environment["NO_PROXY"] = "127.0.0.1"
        yield made


def make(place: Place, sandbox: Sandbox, source: str, **wish: Any) -> Bot:
    bot = place.script(source, bot_api_url=sandbox.url, **wish)
    sandbox.register(bot.token, bot.id)
    return bot


def shows(bot: Bot, **wanted: Any) -> Heartbeat:
    """Wait until the heartbeat says this; a value may be a condition."""

    def fits(value: Any, want: Any) -> bool:
        return bool(want(value)) if callable(want) else bool(value == want)

    def look() -> Heartbeat | None:
        found = bot.heartbeat
        return found if found and all(fits(getattr(found, k), v) for k, v in wanted.items()) else None

    return wait_for(look, f"{wanted} in {bot.heartbeat}; log: {bot.log}")


def some(value: Any) -> bool:
    return value is not None


@LIBRARIES
def test_updates_and_handlers_are_seen(place: Place, sandbox: Sandbox, library: str) -> None:
    bot = make(place, sandbox, SCRIPTS[library])
    bot.start()
    assert sandbox.ask(bot.token, "hello", 30).text == "hello"
    seen = shows(bot, handled_count=1, sent_count=1, poll_timeout_s=4.0, oldest_update_mono=None)
    assert (seen.update_count, seen.handlers_seen, seen.handler_errors, seen.poll_code) == (1, True, 0, None)
    assert (seen.loop_mono is not None) == (library != "telebot")
    sandbox.say(bot.token, "hold")
    held = shows(bot, oldest_update_mono=some)
    assert held.handled_count == 1
    (bot.paths.work / "go").touch()
    seen = shows(bot, handled_count=2, oldest_update_mono=None, sent_count=2)
    assert held.oldest_update_mono is not None
    assert seen.handler_latency_s is not None
    assert seen.sent_mono is not None
    assert held.oldest_update_mono + seen.handler_latency_s <= seen.sent_mono + 1
    sandbox.say(bot.token, "fail")
    shows(bot, handled_count=3, handler_errors=1, oldest_update_mono=None)


@LIBRARIES
def test_what_becomes_of_polls_is_seen(place: Place, sandbox: Sandbox, library: str) -> None:
    bot = make(place, sandbox, SCRIPTS[library])
    bot.start()
    first = shows(bot, poll_success_mono=some)
    sandbox.fault(bot.token, status=409, times=1)
    shows(bot, poll_code=409)
    shows(bot, poll_code=None)
    sandbox.fault(bot.token, status=429, retry_after=1, times=1)
    flooded = shows(bot, poll_code=429, flood_until_mono=some)
    assert flooded.poll_failure_mono is not None
    assert flooded.flood_until_mono == pytest.approx(flooded.poll_failure_mono + 1)
    shows(bot, poll_code=None, flood_until_mono=None)
    sandbox.fault(bot.token, drop=True, times=1)
    shows(bot, poll_failure_mono=lambda at: at != flooded.poll_failure_mono and at != first.poll_failure_mono)
    sandbox.revoke(bot.token)
    shows(bot, poll_code=401)
    assert bot.token not in bot.log


@LIBRARIES
def test_a_token_refused_at_the_start_is_final_or_told(place: Place, sandbox: Sandbox, library: str) -> None:
    bot = make(place, sandbox, SCRIPTS[library])
    sandbox.revoke(bot.token)
    process = bot.start()
    if library == "telebot":  # it asks for ever
        shows(bot, poll_code=401)
        return
    assert process.wait(30) == 78
    assert bot.exit.cause == REJECTED
