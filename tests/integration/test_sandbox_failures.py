"""Every failure of Telegram, as the exception that python-telegram-bot makes of the sandbox's answer."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sandboxes import CHAT, Place, place, until
from telegram.error import BadRequest, ChatMigrated, Conflict, Forbidden, InvalidToken, NetworkError, RetryAfter

from multibot_plugin.sandbox.faults import Fault
from multibot_plugin.sandbox.model import OTHER_POLL, RESTART, WEBHOOK_ACTIVE, WEBHOOK_SET, usual_failure


@pytest.fixture
async def sandbox() -> AsyncIterator[Place]:
    async with place() as made:
        yield made


async def fetch(
    url: str, data: bytes | None = None, kind: str = "application/json", verb: str | None = None
) -> tuple[int, Any, Any]:
    """Return status, headers and body (decoded when it is JSON) of one HTTP call."""

    def call() -> tuple[int, Any, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(url, data, {"Content-Type": kind}, method=verb)
        try:
            with opener.open(request, timeout=10) as answer:
                return answer.status, answer.headers, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode()
                return error.code, error.headers, json.loads(text) if text.startswith("{") else text

    return await asyncio.to_thread(call)


def failed(status: int, description: str, **parameters: int) -> dict[str, Any]:
    body = {"ok": False, "error_code": status, "description": description}
    return body | {"parameters": parameters} if parameters else body


async def test_an_unknown_token_is_an_invalid_token_in_a_strict_sandbox() -> None:
    unknown = f"9:{'A' * 35}"
    async with place(strict=True) as sandbox, sandbox.client(unknown) as bot:
        with pytest.raises(InvalidToken):
            await bot.get_me()
        assert (await fetch(f"{sandbox.url}/bot{unknown}/getMe"))[::2] == (401, failed(401, "Unauthorized"))


async def test_a_revoked_token_is_an_invalid_token_at_once_also_for_the_poll_that_is_open(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        poll = asyncio.create_task(bot.get_updates(timeout=30))
        await until(lambda: sandbox.view.polls_open)
        sandbox.world.revoke(sandbox.bot)
        with pytest.raises(InvalidToken):
            await poll
        with pytest.raises(InvalidToken):
            await bot.send_message(CHAT, "hi")


async def test_a_malformed_token_is_an_invalid_token(sandbox: Place) -> None:
    async with sandbox.client("12:short") as bot:
        with pytest.raises(InvalidToken):
            await bot.get_me()
    status, _, body = await fetch(f"{sandbox.url}/bot12:short/getMe")
    assert (status, body) == (401, failed(401, "Unauthorized: invalid token specified"))


async def test_a_path_not_under_bot_is_an_invalid_token(sandbox: Place) -> None:
    async with sandbox.client(base="/elsewhere/bot") as bot:
        with pytest.raises(InvalidToken):
            await bot.get_me()
    assert (await fetch(f"{sandbox.url}/"))[::2] == (404, failed(404, "Not Found"))


async def test_an_invented_method_is_an_invalid_token(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        with pytest.raises(InvalidToken):
            await bot.do_api_request("makeCoffee")
    status, _, body = await fetch(f"{sandbox.url}/bot{sandbox.token}/makeCoffee")
    assert (status, body) == (404, failed(404, "Not Found: method not found"))


async def test_a_method_that_the_sandbox_lacks_is_a_bad_request(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        with pytest.raises(BadRequest, match="Not implemented by the sandbox"):
            await bot.send_photo(CHAT, b"not a photo")


async def test_the_older_of_two_polls_ends_in_a_conflict(sandbox: Place) -> None:
    async with sandbox.client() as first, sandbox.client() as second:
        older = asyncio.create_task(first.get_updates(timeout=30))
        await until(lambda: sandbox.view.polls_open == 1)
        newer = asyncio.create_task(second.get_updates(timeout=30))
        with pytest.raises(Conflict, match=OTHER_POLL):
            await older
        sandbox.say()
        assert len(await newer) == 1
    view = sandbox.view
    assert (view.conflicts, view.most_polls_open, view.polls_open) == (1, 2, 0)


async def test_a_poll_while_a_webhook_is_set_ends_in_a_conflict(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        await bot.set_webhook("https://example.org/hook")
        assert (await bot.get_webhook_info()).url == "https://example.org/hook"
        with pytest.raises(Conflict, match=WEBHOOK_ACTIVE):
            await bot.get_updates()
        await bot.delete_webhook()
        assert await bot.get_updates() == ()


async def test_setting_a_webhook_ends_the_open_poll_in_a_conflict(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        poll = asyncio.create_task(bot.get_updates(timeout=30))
        await until(lambda: sandbox.view.polls_open)
        await bot.set_webhook("https://example.org/hook")
        with pytest.raises(Conflict, match=WEBHOOK_SET):
            await poll


async def test_a_flood_asks_to_retry_later_in_body_and_header(sandbox: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTB_TIMEDELTA", "1")
    sandbox.fault(429, "sendmessage", times=2)
    async with sandbox.client() as bot:
        with pytest.raises(RetryAfter) as flood:
            await bot.send_message(CHAT, "hi")
        assert flood.value.retry_after == timedelta(seconds=5)
    status, headers, body = await fetch(f"{sandbox.url}/bot{sandbox.token}/sendMessage")
    assert (status, body) == (429, failed(429, "Too Many Requests: retry after 5", retry_after=5))
    assert headers["Retry-After"] == "5"


async def test_a_restarting_server_is_a_network_error(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        poll = asyncio.create_task(bot.get_updates(timeout=30))
        await until(lambda: sandbox.view.polls_open)
        sandbox.fault(500, times=1)
        with pytest.raises(NetworkError, match=RESTART):
            await poll


async def test_a_gateway_answers_with_a_page_and_that_is_a_network_error(sandbox: Place) -> None:
    sandbox.fault(502, "getme")
    async with sandbox.client() as bot:
        with pytest.raises(NetworkError):
            await bot.get_me()
    status, headers, body = await fetch(f"{sandbox.url}/bot{sandbox.token}/getMe")
    assert (status, headers.get_content_type()) == (502, "text/html")
    assert body.startswith("<html>")


async def test_a_bot_that_the_user_blocked_is_forbidden_to_write(sandbox: Place) -> None:
    sandbox.bot.refusals[CHAT] = "Forbidden: bot was blocked by the user"
    async with sandbox.client() as bot:
        with pytest.raises(Forbidden, match="bot was blocked by the user"):
            await bot.send_message(CHAT, "hi")


async def test_a_chat_is_a_bad_request_until_somebody_spoke_in_it_to_whichever_bot(sandbox: Place) -> None:
    other = sandbox.world.introduce(987654321, "other")
    async with sandbox.client() as bot:
        with pytest.raises(BadRequest, match="Chat not found"):
            await bot.send_message(424242, "hi")
        sandbox.world.say(other, "/start", 424242)
        await bot.send_message(424242, "hi")


async def test_a_late_answer_to_a_button_is_a_bad_request(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        with pytest.raises(BadRequest, match="Query is too old and response timeout expired or query id is invalid"):
            await bot.answer_callback_query("1")


async def test_a_group_that_moved_says_where_to(sandbox: Place) -> None:
    reply = usual_failure(400, "Bad Request: group chat was upgraded", {"migrate_to_chat_id": -100})
    sandbox.world.add_fault(Fault(None, "status", frozenset({"sendmessage"}), reply=reply))
    async with sandbox.client() as bot:
        with pytest.raises(ChatMigrated) as moved:
            await bot.send_message(CHAT, "hi")
    assert moved.value.new_chat_id == -100
