"""Updates that come by webhook: the sandbox posts them, tells what went wrong, and tries again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from sandboxes import Place, place, until
from telegram.error import BadRequest, Conflict

from multibot_plugin.sandbox import webhooks


@pytest.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(webhooks, "_FIRST_PAUSE_S", 0.01)
    async with place() as made:
        yield made


class Hook:
    """A bot's HTTP server: what it was sent, and what it answers."""

    def __init__(self) -> None:
        self.url, self.status, self.body = "", 200, ""
        self.texts: list[str] = []
        self.secrets: list[str | None] = []

    async def handle(self, request: web.Request) -> web.Response:
        update: dict[str, Any] = await request.json()
        self.texts.append(update["message"]["text"])
        self.secrets.append(request.headers.get(webhooks.SECRET_HEADER))
        return web.Response(status=self.status, text=self.body)


@asynccontextmanager
async def hook() -> AsyncIterator[Hook]:
    made = Hook()
    application = web.Application()
    application.router.add_post("/tg", made.handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/tg"
        yield made
    finally:
        await runner.cleanup()


async def test_updates_are_posted_in_order_each_once_with_the_secret(sandbox: Place) -> None:
    sandbox.say("before")
    async with hook() as server, sandbox.client() as bot:
        await bot.set_webhook(server.url, secret_token="s3-cret_")
        sandbox.say("one")
        sandbox.say("two")
        await until(lambda: not sandbox.view.pending)
        assert server.texts == ["before", "one", "two"]
        assert set(server.secrets) == {"s3-cret_"}
        info = await bot.get_webhook_info()
        assert (info.url, info.pending_update_count, info.last_error_message) == (server.url, 0, None)
        with pytest.raises(Conflict):
            await bot.get_updates()
        assert sandbox.view.webhook == server.url
        await bot.delete_webhook()
        sandbox.say("polled")
        assert [u.message and u.message.text for u in await bot.get_updates()] == ["polled"]
        assert (server.texts[-1], sandbox.view.redelivered) == ("two", 0)


async def test_what_the_bot_refuses_waits_is_told_and_comes_again(sandbox: Place) -> None:
    async with hook() as server, sandbox.client() as bot:
        server.status = 500
        await bot.set_webhook(server.url)
        sandbox.say("hi")
        await until(lambda: len(server.texts) > 2)
        info = await bot.get_webhook_info()
        assert info.pending_update_count == 1
        assert info.last_error_message == "Wrong response from the webhook: 500 Internal Server Error"
        assert info.last_error_date is not None
        server.status = 200
        await until(lambda: not sandbox.view.pending)
        assert set(server.texts) == {"hi"}


async def test_a_port_at_which_nobody_listens_is_told(sandbox: Place) -> None:
    async with hook() as server:
        url = server.url
    async with sandbox.client() as bot:
        await bot.set_webhook(url)
        sandbox.say("hi")
        await until(lambda: sandbox.bot.webhook and sandbox.bot.webhook.error == "Connection refused")


async def test_a_server_that_speaks_no_tls_is_told(sandbox: Place) -> None:
    async with hook() as server, sandbox.client() as bot:
        await bot.set_webhook(server.url.replace("http:", "https:"))
        sandbox.say("hi")
        await until(lambda: sandbox.bot.webhook and sandbox.bot.webhook.error)
        info = await bot.get_webhook_info()
        assert info.last_error_message in ("SSL error {wrong version number}", "SSL error {record layer failure}")


async def test_another_webhook_takes_over_without_a_conflict(sandbox: Place) -> None:
    async with hook() as first, hook() as second, sandbox.client() as bot:
        await bot.set_webhook(first.url)
        await bot.set_webhook(second.url)
        sandbox.say("hi")
        await until(lambda: second.texts)
        assert (first.texts, sandbox.view.conflicts) == ([], 0)


async def test_a_bot_may_answer_an_update_with_a_method(sandbox: Place) -> None:
    async with hook() as server, sandbox.client() as bot:
        server.body = '{"method": "sendMessage", "chat_id": 1001, "text": "by answer"}'
        await bot.set_webhook(server.url)
        sandbox.say("hi")
        await until(lambda: any(e.text == "by answer" for e in sandbox.world.entries))


async def test_a_webhook_elsewhere_is_kept_but_nothing_is_sent_there(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        await bot.set_webhook("https://example.org/hook")
        sandbox.say("hi")
        await until(lambda: sandbox.bot.webhook and sandbox.bot.webhook.error == webhooks.NOT_HERE)
        assert (await bot.get_webhook_info()).url == "https://example.org/hook"
        with pytest.raises(BadRequest, match="https url must be provided"):
            await bot.set_webhook("http://example.org/hook")
        with pytest.raises(BadRequest, match="unallowed characters"):
            await bot.set_webhook("https://example.org/hook", secret_token="a b")
