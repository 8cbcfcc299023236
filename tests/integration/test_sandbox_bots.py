"""Whole conversations with python-telegram-bot, every way to write a request, and requests nobody should write."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from sandboxes import CHAT, Place, place, until
from telegram import InlineKeyboardButton, InlineKeyboardMarkup, ReplyParameters, Update
from telegram.error import BadRequest
from telegram.ext import Application, CallbackQueryHandler, CommandHandler, ContextTypes
from test_sandbox_failures import fetch

from multibot_plugin.sandbox.model import Chat


@pytest.fixture
async def sandbox() -> AsyncIterator[Place]:
    async with place() as made:
        yield made


def spoken(sandbox: Place) -> list[tuple[str, str]]:
    return [(entry.by, entry.shown) for entry in sandbox.world.entries]


async def start(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    assert update.message
    assert update.effective_user
    keyboard = InlineKeyboardMarkup([[InlineKeyboardButton(t, callback_data=t.lower()) for t in ("Yes", "No")]])
    await update.message.reply_text(f"Sure, {update.effective_user.first_name}?", reply_markup=keyboard)


async def tapped(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    assert update.callback_query
    await update.callback_query.answer("noted")
    await update.callback_query.edit_message_text(f"you chose {update.callback_query.data}")


def prepare(application: Application[Any, Any, Any, Any, Any, Any]) -> None:
    application.add_handler(CommandHandler("start", start))
    application.add_handler(CallbackQueryHandler(tapped))


async def test_an_application_answers_a_command_and_a_button(sandbox: Place) -> None:
    async with sandbox.application(prepare):
        sandbox.say("/start")
        await until(lambda: len(sandbox.world.entries) == 2)
        sandbox.world.tap(sandbox.bot, "No", CHAT)
        await until(lambda: len(sandbox.world.entries) == 5)
    assert spoken(sandbox) == [
        ("user", "/start"), ("bot", "Sure, Ada? [Yes] [No]"), ("user", "[No]"), ("bot", "(notice) noted"),
        ("bot", "(edited) you chose no"),
    ]  # fmt: skip
    assert (sandbox.view.polls_open, sandbox.view.most_polls_open, sandbox.view.conflicts) == (0, 1, 0)


async def test_a_command_in_a_group_may_name_the_bot(sandbox: Place) -> None:
    async with sandbox.application(prepare):
        sandbox.world.say(sandbox.bot, "/start@someone_else_bot", -5, "Bob")
        sandbox.world.say(sandbox.bot, f"/start@{sandbox.bot.username}", -5, "Bob")
        await until(lambda: len(sandbox.world.entries) == 3)
    answer = sandbox.world.entries[-1]
    assert (answer.chat, answer.shown) == (-5, "Sure, Bob? [Yes] [No]")


async def test_messages_are_edited_deleted_and_replied_to(sandbox: Place) -> None:
    sandbox.say("hello")
    async with sandbox.client() as bot:
        sent = await bot.send_message(CHAT, "one", reply_parameters=ReplyParameters(1))
        assert sent.reply_to_message
        assert sent.reply_to_message.text == "hello"
        assert (await bot.edit_message_text("two", CHAT, sent.message_id)).text == "two"  # type: ignore[union-attr]
        with pytest.raises(BadRequest, match="Message is not modified"):
            await bot.edit_message_text("two", CHAT, sent.message_id)
        with pytest.raises(BadRequest, match="Message can't be edited"):
            await bot.edit_message_text("two", CHAT, 1)
        assert await bot.delete_message(CHAT, sent.message_id)
        with pytest.raises(BadRequest, match="Message to delete not found"):
            await bot.delete_message(CHAT, sent.message_id)
        with pytest.raises(BadRequest, match="Message to be replied not found"):
            await bot.send_message(CHAT, "three", reply_parameters=ReplyParameters(99))
        with pytest.raises(BadRequest, match="Message is too long"):
            await bot.send_message(CHAT, "x" * 4097)
    assert [shown for _, shown in spoken(sandbox)] == ["hello", "one", "(edited) two", "(deleted) two"]


async def test_small_methods_answer_as_telegram_does(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        assert await bot.send_chat_action(CHAT, "typing")
        assert await bot.set_my_commands([("start", "begin")])
        assert [c.command for c in await bot.get_my_commands()] == ["start"]
        assert await bot.delete_my_commands()
        assert await bot.get_my_commands() == ()
        sandbox.say()
        assert (await bot.get_webhook_info()).pending_update_count == 1
        assert await bot.delete_webhook(drop_pending_updates=True)
        assert (await bot.get_webhook_info()).pending_update_count == 0


MULTIPART = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


@pytest.mark.parametrize(("verb", "method"), [("POST", "sendMessage"), ("POST", "SENDMESSAGE"), ("GET", "sendmessage")])
@pytest.mark.parametrize(
    ("query", "body", "kind"),
    [
        ({"chat_id": "1001", "text": "hi"}, None, ""),
        ({}, b"chat_id=1001&text=hi", "application/x-www-form-urlencoded"),
        ({"text": "overruled"}, b'{"chat_id": 1001, "text": "hi"}', "application/json"),
        ({"text": "hi"}, b'{"chat_id": "1001"}', "application/json; charset=utf-8"),
        ({}, MULTIPART % (b"chat_id", b"1001") + MULTIPART % (b"text", b"hi") + b"--x--\r\n",
         "multipart/form-data; boundary=x"),
    ],
    ids=["query", "form", "json", "both", "multipart"],
)  # fmt: skip
async def test_parameters_come_in_every_way(
    sandbox: Place, verb: str, method: str, query: dict[str, str], body: bytes | None, kind: str
) -> None:
    url = f"{sandbox.url}/bot{sandbox.token}/{method}?{urllib.parse.urlencode(query)}"
    status, _, answer = await fetch(url, body, kind, verb)
    assert (status, answer["result"]["text"], answer["result"]["chat"]["id"]) == (200, "hi", CHAT)


HOSTILE: list[tuple[str, bytes, str]] = [
    ("sendMessage", b"{", "application/json"),
    ("sendMessage", b"[" * 100_000, "application/json"),
    ("sendMessage", b"[1]", "application/json"),
    ("sendMessage", b"\xff\xfe", "application/json"),
    ("sendMessage", b'{"chat_id": 1001, "text": "\\ud800"}', "application/json"),
    ("sendMessage", b'{"chat_id": 1001, "text": {"a": 1}, "reply_markup": "{"}', "application/json"),
    ("sendMessage", b'{"chat_id": 1001, "text": "x", "reply_markup": [1]}', "application/json"),
    ("sendMessage", b'{"chat_id": 1001, "text": "x", "reply_markup": {"inline_keyboard": [{}]}}', "application/json"),
    ("sendMessage", b'{"chat_id": 1001, "text": "x", "reply_markup": {"inline_keyboard": [[{}]]}}', "application/json"),
    ("sendMessage", b'{"chat_id": 1001, "text": "x", "reply_markup": {"inline_keyboard": [[{"text": "x"}]]}}',
     "application/json"),
    ("sendMessage", b'{"chat_id": 1001, "text": "x", "entities": [{"type": 1}]}', "application/json"),
    ("sendMessage", b'{"chat_id": 1001, "text": "x", "parse_mode": "LaTeX"}', "application/json"),
    ("sendMessage", b'{"chat_id": 1e400, "text": "x"}', "application/json"),
    ("sendMessage", b"chat_id=" + b"9" * 100_000 + b"&text=x", "application/x-www-form-urlencoded"),
    ("sendMessage", b"chat_id=%00&text=%00%ff", "application/x-www-form-urlencoded"),
    ("sendMessage", b"x=1&" * 900, "application/x-www-form-urlencoded"),
    ("sendMessage", b"no boundary", "multipart/form-data"),
    ("sendMessage", b"--x\r\nbroken", "multipart/form-data; boundary=x"),
    ("sendMessage", b"a=1", "text/plain; charset=nonsense"),
    ("sendMessage", b"a=%ff", "application/x-www-form-urlencoded; charset=nonsense"),
    ("editMessageText", b'{"chat_id": 1001, "message_id": -1, "text": "x"}', "application/json"),
    ("getUpdates", b'{"allowed_updates": {"a": 1}}', "application/json"),
    ("getUpdates", b'{"allowed_updates": "["}', "application/json"),
    ("setMyCommands", b'{"commands": [1]}', "application/json"),
    ("setWebhook", b'{"url": "ftp://x"}', "application/json"),
    ("answerCallbackQuery", b'{"callback_query_id": []}', "application/json"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "body", "kind"), HOSTILE)
async def test_a_hostile_request_is_a_bad_request(sandbox: Place, method: str, body: bytes, kind: str) -> None:
    status, _, answer = await fetch(f"{sandbox.url}/bot{sandbox.token}/{method}", body, kind)
    assert status == 400
    assert answer["description"].startswith("Bad Request: ")


@pytest.mark.parametrize("body", [b'{"offset": "x", "limit": -7, "timeout": -1}', b'{"limit": 1e9, "timeout": []}'])
async def test_numbers_out_of_range_are_cut_as_by_telegram(sandbox: Place, body: bytes) -> None:
    assert (await fetch(f"{sandbox.url}/bot{sandbox.token}/getUpdates", body))[0] == 200


async def test_a_body_that_is_too_large_is_refused(sandbox: Place) -> None:
    status, _, answer = await fetch(f"{sandbox.url}/bot{sandbox.token}/sendMessage", b"x" * (16 * 1024**2 + 1))
    assert (status, answer["description"]) == (413, "Request Entity Too Large")


@pytest.mark.parametrize("path", ["/bot/getMe", "/bot%00/getMe", "/botx:y/getMe", "/bot1:2%2F3/getMe"])
async def test_a_hostile_token_is_unauthorised(sandbox: Place, path: str) -> None:
    assert (await fetch(sandbox.url + path))[0] == 401


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("say", {}), ("say", []), ("say", {"bot": "7", "text": "x"}), ("say", {"bot": "@", "text": "x", "chat": "x"}),
        ("say", {"text": "x", "chat": 0}), ("say", {"text": "x", "chat": 10**30}), ("say", {"text": 5}),
        ("tap", {"button": "x"}), ("tap", {"button": "x", "message_id": "y"}), ("chat", {"chat": None}),
        ("fault", {"kind": "burn"}),
        ("fault", {"kind": "status", "status": 200}), ("fault", {"kind": "hang", "times": 0}),
        ("fault", {"kind": "hang", "for_s": "nan"}), ("fault", {"kind": "hang", "for_s": -1}),
        ("fault", {"kind": "hang", "methods": "getMe"}), ("fault", {"kind": "status", "parameters": 5}),
        ("register", {"token": "x"}), ("register", {"token": "1:23456789", "name": ["x"]}), ("revoke", {"bot": None}),
        ("block", {"description": {}}), ("transcript?after=x", None), ("transcript?wait=inf", None),
        ("transcript?bot=x", None),
    ],
)  # fmt: skip
async def test_a_control_route_says_what_is_wrong(sandbox: Place, route: str, body: Any) -> None:
    if isinstance(body, dict) and "bot" not in body and route in ("say", "tap", "fault", "block"):
        body = {"bot": str(sandbox.bot.number), **body}
    data = None if body is None else json.dumps(body).encode()
    status, _, answer = await fetch(f"{sandbox.url}/_sandbox/{route}", data)
    assert status in (400, 404, 409)
    assert answer["error"]
    assert answer["kind"] in ("bad-value", "no-such-bot", "refused")


async def test_twenty_bots_poll_at_once_and_each_gets_its_own_message(sandbox: Place) -> None:
    tokens = [f"{number}:{'C' * 35}" for number in range(100, 120)]
    bots = [sandbox.world.register(token) for token in tokens]

    async def poll(client: aiohttp.ClientSession, token: str) -> str:
        async with client.get(f"{sandbox.url}/bot{token}/getUpdates?timeout=30") as answer:
            return str((await answer.json())["result"][0]["message"]["text"])

    async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as group:
        polls = [group.create_task(poll(client, token)) for token in tokens]
        await until(lambda: all(bot.counters.polls_open == 1 for bot in bots))
        for bot in bots:
            sandbox.world.say(bot, f"to {bot.number}", CHAT)
    assert [poll.result() for poll in polls] == [f"to {bot.number}" for bot in bots]


async def test_a_chat_can_be_made_before_anybody_speaks_in_it(sandbox: Place) -> None:
    sandbox.world.add_chat(4242, "Operator")
    async with sandbox.client() as bot:
        assert (await bot.send_message(4242, "alert")).chat.first_name == "Operator"
    assert sandbox.world.chats[4242] == Chat(4242, "Operator")
