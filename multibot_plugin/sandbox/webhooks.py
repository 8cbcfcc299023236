"""Webhooks: updates as POST requests to the URL that a bot has set, in order, one at a time, again until accepted.

To loopback addresses only: nothing leaves this machine. Telegram itself wants https and one of the ports 443, 80, 88
and 8443; here any port of http and https will do, and no certificate is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os

import aiohttp

from multibot_plugin.sandbox.api import Params, call
from multibot_plugin.sandbox.model import Json, Webhook, is_loopback
from multibot_plugin.sandbox.state import Bot, World
from multibot_plugin.sandbox.updates import Ask, Poll
from multibot_plugin.workers import ended

SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"  # noqa: S105 - its name
NOT_HERE = "not delivered: the sandbox sends to loopback addresses only"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
_ANSWER_WITHIN_S = 60.0
_LARGEST_ANSWER = 1024 * 1024


class Deliveries:
    """One task per bot that has a webhook."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S))
        world.on_webhook = self._begin

    async def close(self) -> None:
        await ended(self._tasks.values())
        await self._session.close()

    def _begin(self, bot: Bot) -> None:
        """Deliver to the bot's webhook from now on (or nowhere, where it has none any more)."""
        if (earlier := self._tasks.pop(bot.number, None)) is not None:
            earlier.cancel()
        if bot.webhook is not None:
            self._tasks[bot.number] = asyncio.create_task(self._deliver(bot, bot.webhook))

    async def _deliver(self, bot: Bot, hook: Webhook) -> None:
        offset, pause_s = 0, _FIRST_PAUSE_S
        while True:
            update = await self._next(bot, hook, offset)
            failure = await self._send(bot, hook, update) if is_loopback(hook.url) else NOT_HERE
            if failure:
                hook.error_at, hook.error = self._world.now(), failure
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                offset, pause_s = update["update_id"] + 1, _FIRST_PAUSE_S

    async def _next(self, bot: Bot, hook: Webhook, offset: int) -> Json:
        """Return the oldest update from ``offset`` on, which confirms those before it; waits until there is one."""
        ask = Ask(offset=offset, limit=1, timeout=1)
        while True:
            reply, _ = bot.updates.ask(ask, self._world.now(), self._world.mono())
            if reply is not None and isinstance(reply.body, dict) and reply.body.get("result"):
                update: Json = reply.body["result"][0]
                return update
            grown = asyncio.Event()
            # Another webhook in its place does not evict this one with a 409, as it does a poll.
            poll = Poll(ask, lambda _, grown=grown: grown.set(), lambda: bot.webhook is hook)  # type: ignore[misc]
            bot.updates.wait(poll, self._world.mono())
            try:
                await grown.wait()
            finally:
                bot.updates.leave(poll)

    async def _send(self, bot: Bot, hook: Webhook, update: Json) -> str:
        """Return nothing when the bot took the update, else what getWebhookInfo says of it."""
        headers = {SECRET_HEADER: hook.secret} if hook.secret else {}
        try:
            async with self._session.post(
                hook.url, json=update, headers=headers, ssl=False, allow_redirects=False
            ) as answer:
                if not 200 <= answer.status < 300:
                    return f"Wrong response from the webhook: {answer.status} {answer.reason}"
                self._carry_out(bot, await answer.content.read(_LARGEST_ANSWER))
                return ""
        except TimeoutError:
            return "Read timeout expired"
        except aiohttp.ClientSSLError as error:  # most often a server that speaks http
            reason = getattr(error.os_error, "reason", None) or str(error.os_error)
            return f"SSL error {{{reason.replace('_', ' ').lower()}}}"
        except aiohttp.ClientConnectorError as error:
            return os.strerror(error.os_error.errno or errno.ECONNREFUSED)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"Connection failed: {type(error).__name__}"

    def _carry_out(self, bot: Bot, body: bytes) -> None:
        """A bot may answer an update with a method, as JSON, instead of calling it."""
        with contextlib.suppress(ValueError, RecursionError):
            wish = json.loads(body)
            if isinstance(wish, dict) and isinstance(wish.get("method"), str):
                call(self._world, bot, wish.pop("method").lower(), Params(wish))
