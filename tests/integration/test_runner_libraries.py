"""Unchanged scripts of each library: that they answer, and what their process shows of polls, updates and handlers."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest
from runners import Bot, Place, wait_for

from multibot_plugin.sandbox.client import Sandbox
from multibot_runner.protocol import REJECTED, STOPPED, Heartbeat
from multibot_runner.serve import secret_of

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

    @dispatcher.errors()
    async def take(event):
        print("taken", flush=True)

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
    shows(bot, poll_start_mono=some)
    sandbox.fault(bot.token, status=409, times=1)
    shows(bot, poll_code=409)
    sandbox.say(bot.token, "hello")  # else the next poll is held
    shows(bot, poll_code=None)
    sandbox.fault(bot.token, status=429, retry_after=1, times=1)
    flooded = shows(bot, poll_code=429, flood_until_mono=some)
    assert flooded.poll_failure_mono is not None
    assert flooded.flood_until_mono == pytest.approx(flooded.poll_failure_mono + 1)
    sandbox.say(bot.token, "hello")
    shows(bot, poll_code=None, flood_until_mono=None)
    sandbox.fault(bot.token, drop=True, times=2)  # aiohttp makes up for one
    shows(bot, poll_failure_mono=lambda at: at not in (None, flooded.poll_failure_mono))
    sandbox.revoke(bot.token)
    shows(bot, poll_code=401)
    assert bot.token not in bot.log


@LIBRARIES
def test_a_token_refused_at_the_start_is_final_or_told(place: Place, sandbox: Sandbox, library: str) -> None:
    bot = make(place, sandbox, SCRIPTS[library])
    sandbox.revoke(bot.token)
    process = bot.start()
    if "telebot" in library:  # it asks for ever
        shows(bot, poll_code=401)
        return
    assert process.wait(30) == 78
    assert bot.exit.cause == REJECTED


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def deliver(url: str, number: int, text: str, secret: str = "") -> int:
    """Do what Telegram does; return the status of the answer."""
    user = {"id": 7, "is_bot": False, "first_name": "A"}
    message = {"message_id": number, "date": 1, "chat": {"id": 7, "type": "private"}, "from": user, "text": text}
    request = urllib.request.Request(url, json.dumps({"update_id": number, "message": message}).encode())
    request.add_header("Content-Type", "application/json")
    if secret:
        request.add_header("X-Telegram-Bot-Api-Secret-Token", secret)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


PTB_BUILD = """
    from telegram.ext import MessageHandler, filters

    async def echo(update, context):
        print("got", update.message.text, flush=True)
        await update.message.reply_text(update.message.text)

    def register(application):
        application.add_handler(MessageHandler(filters.TEXT, echo))
"""
WEBHOOKS = {
    "build": PTB_BUILD,
    "ptb": PTB_BUILD + """
    import os
    from telegram.ext import Application

    application = Application.builder().token(os.environ["BOT_TOKEN"]).build()
    register(application)
    application.run_webhook(port=int(os.environ["PORT"]), url_path="hook", webhook_url="https://bot.example/hook")
""",
    "aiogram": """
    import os
    from aiohttp import web
    from aiogram import Bot, Dispatcher
    from aiogram.webhook.aiohttp_server import SimpleRequestHandler

    dispatcher = Dispatcher()

    @dispatcher.message()
    async def echo(message):
        await message.answer(message.text)

    application = web.Application()
    SimpleRequestHandler(dispatcher, Bot(os.environ["BOT_TOKEN"])).register(application, path="/hook")
    web.run_app(application, host="127.0.0.1", port=int(os.environ["PORT"]))
""",
}  # fmt: skip


@pytest.mark.parametrize("kind", WEBHOOKS)
def test_a_bot_that_gets_its_updates_by_webhook_is_seen(place: Place, sandbox: Sandbox, kind: str) -> None:
    file, port = place.file("bot.py", WEBHOOKS[kind]), free_port()
    wish: dict[str, Any] = {"port": port, "receives": "webhook", "webhook_url": "https://bot.example/hook"}
    form, target = ("build", f"{file}:register") if kind == "build" else ("script", str(file))
    bot = place.bot(form, target, bot_api_url=sandbox.url, **wish)
    sandbox.register(bot.token, bot.id)
    sandbox.say(bot.token, "nobody polls", chat=7)  # makes the chat
    process = bot.start()
    url, secret = f"http://127.0.0.1:{port}/hook", secret_of(bot.token) if kind == "build" else ""
    wait_for(lambda: listens(port), f"a listening port; log: {bot.log}")
    assert wait_for(lambda: deliver(url, 1, "hello", secret), "an answer") == 200
    seen = shows(bot, update_count=1, handled_count=1, sent_count=1, oldest_update_mono=None)
    assert (seen.handlers_seen, seen.update_mono is not None, seen.loop_mono is not None) == (True, True, True)
    assert seen.poll_start_mono is None
    if kind == "build":
        assert deliver(url, 2, "forged") == 403
        assert secret not in bot.log
    process.terminate()
    assert process.wait(30) == 0
    assert bot.exit.cause == STOPPED


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ({}, "a build bot that receives by webhook needs --webhook-url and --port"),
        ({"webhook_url": "https://bot.example/hook"}, "a build bot that receives by webhook needs --port"),
    ],
)
def test_what_a_webhook_lacks_is_named(place: Place, wish: dict[str, Any], text: str) -> None:
    bot = place.bot("build", f"{place.file('bot.py', PTB_BUILD)}:register", receives="webhook", **wish)
    assert bot.run_to_end() == 78
    assert bot.exit.text == text


def test_a_port_that_is_taken_is_named(place: Place, sandbox: Sandbox) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        bot = place.bot("build", f"{place.file('bot.py', PTB_BUILD)}:register", receives="webhook", port=port,
                        webhook_url="https://bot.example/hook", bot_api_url=sandbox.url)  # fmt: skip
        sandbox.register(bot.token, bot.id)
        assert bot.run_to_end() == 1
    assert bot.exit.text == f"OSError: [Errno 98] port {port} of 127.0.0.1 is in use: give the bot another one (--port)"


def test_a_build_bot_that_only_sends_needs_no_updater_and_stops_gracefully(place: Place, sandbox: Sandbox) -> None:
    source = """
        async def first(application):
            await application.bot.send_message(7, "up")

        async def last(application):
            print("last words", flush=True)

        def build(builder):
            return builder.updater(None).post_init(first).post_stop(last).build()
    """
    bot = place.bot("build", f"{place.file('bot.py', source)}:build", receives="nothing", bot_api_url=sandbox.url)
    sandbox.register(bot.token, bot.id)
    sandbox.say(bot.token, "nobody listens", chat=7)
    process = bot.start()
    seen = shows(bot, sent_count=1, loop_mono=some)
    assert seen.poll_start_mono is None
    process.terminate()
    assert process.wait(30) == 0
    assert "last words" in bot.log
