"""The Bot API over HTTP: reading a call, the faults that hit it, long polling, writing the reply."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from multibot_plugin.sandbox.api import Params, allowed_updates, call
from multibot_plugin.sandbox.faults import Fault
from multibot_plugin.sandbox.model import (
    RESTART,
    WEBHOOK_ACTIVE,
    ApiError,
    Reply,
    bad_request,
    failure,
    success,
)
from multibot_plugin.sandbox.state import Bot, World
from multibot_plugin.sandbox.updates import LONGEST_POLL_S, Ask, Poll

LARGEST_BODY = 16 * 1024**2
_POLL = "getupdates"


class Dropped(Exception):
    """The connection is to be closed without an answer."""


class BotApi:
    """Serves ``/bot<token>/<method>``; everything but the state."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one call; the route gives ``token`` and ``method``."""
        bot = self._world.admit(request.match_info["token"])
        if isinstance(bot, Reply):
            return _response(bot)
        method = request.match_info["method"].lower()
        calls = bot.counters.calls
        if method in calls or len(calls) < 200:
            calls[method] = calls.get(method, 0) + 1
        try:
            reply = await self._answer(request, bot, method)
        except Dropped:
            if request.transport:
                request.transport.abort()
            return web.Response()
        if method == _POLL and reply.status == 200:
            bot.counters.last_success_at = self._world.now()
        return _response(reply)

    async def _answer(self, request: web.Request, bot: Bot, method: str) -> Reply:
        try:
            params = await _params(request)
        except ApiError as error:
            return error.reply
        if method == _POLL:
            with self._counted(bot):
                reply = await self._poll(request, bot, params)
                if reply.delay_s:
                    await asyncio.sleep(reply.delay_s)
                return reply
        struck = await self._strike(bot, method)
        if isinstance(struck, Reply):
            return struck
        reply = call(self._world, bot, method, params)
        if struck:
            raise Dropped
        return reply

    @contextmanager
    def _counted(self, bot: Bot) -> Iterator[None]:
        counters = bot.counters
        counters.polls += 1
        counters.polls_open += 1
        counters.most_polls_open = max(counters.most_polls_open, counters.polls_open)
        counters.last_poll_at = self._world.now()
        try:
            yield
        finally:  # also when the client has gone: aiohttp then cancels the handler
            counters.polls_open -= 1

    async def _poll(self, request: web.Request, bot: Bot, params: Params) -> Reply:
        try:
            ask = _ask(params)
        except ApiError as error:
            return error.reply
        loop = asyncio.get_running_loop()
        end = loop.time() + ask.timeout
        while True:
            struck = await self._strike(bot, _POLL)
            reply: Reply | None
            if isinstance(struck, Reply):
                return struck
            token = request.match_info["token"]
            if bot.token != token:  # revoked while the call was held
                return failure(401, "Unauthorized")
            if bot.webhook:
                return bot.updates.conflict(WEBHOOK_ACTIVE, self._world.mono())
            reply, paced = bot.updates.ask(ask, self._world.now(), self._world.mono())
            end = max(end, loop.time() + paced.timeout) if paced.timeout > ask.timeout else end
            if reply is None:
                reply = await self._wait(request, bot, paced, end - loop.time())
            if reply is not None:
                if struck:
                    raise Dropped
                return reply

    async def _wait(self, request: web.Request, bot: Bot, ask: Ask, timeout_s: float) -> Reply | None:
        """Hold a poll until there is something to say; None: begin anew, a fault may have been set."""
        answer: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

        def deliver(reply: Reply | None) -> None:
            if not answer.done():
                answer.set_result(reply)

        poll = Poll(ask, deliver, lambda: not answer.done() and _connected(request))
        bot.updates.wait(poll, self._world.mono())
        try:
            return await asyncio.wait_for(answer, max(timeout_s, 0))
        except TimeoutError:
            return success([])
        finally:
            bot.updates.leave(poll)

    async def _strike(self, bot: Bot, method: str) -> Reply | Fault | None:
        """Let the faults in force hit this call: a reply, a fault that loses the answer, or None for no fault.

        Holds the call while a fault lets it hang. Raises Dropped.
        """
        world = self._world
        while fault := world.faults.strike(bot.number, method, world.mono()):
            bot.counters.faults += 1
            if fault.kind == "drop":
                raise Dropped
            if fault.kind == "lose":
                return fault
            if fault.kind == "status":
                return fault.reply
            left_s = None if fault.until is None else max(fault.until - world.mono(), 0)
            with suppress(TimeoutError):
                await asyncio.wait_for(fault.over.wait(), left_s)
            if world.closing:
                return failure(500, RESTART)
        return None


def _ask(params: Params) -> Ask:
    return Ask(
        offset=params.integer("offset", 0, -(2**31), 2**31 - 1),
        limit=params.integer("limit", 100, 1, 100),
        timeout=params.integer("timeout", 0, 0, LONGEST_POLL_S),
        allowed=allowed_updates(params),
    )


async def _params(request: web.Request) -> Params:
    """Return the parameters of a call: the query's, and over them those of a form, multipart or JSON body."""
    params = Params(request.query)
    try:
        if request.content_type == "application/json":
            raw = await request.read()
            body = json.loads(raw) if raw.strip() else {}
            if not isinstance(body, dict):
                raise bad_request("JSON object expected")
            params.update(body)
        else:
            # Telegram reads the body of a GET, too (AsyncTeleBot sends one); aiohttp does not.
            form = request.clone(method="POST") if request.method == "GET" else request
            for name, value in (await form.post()).items():
                params[name] = value if isinstance(value, str) else ""  # a file: no method here takes one
    except web.HTTPRequestEntityTooLarge:
        raise ApiError(failure(413, "Request Entity Too Large")) from None
    except (ValueError, RecursionError, LookupError, AssertionError, HttpProcessingError):
        raise bad_request("can't parse the request's body") from None
    for value in params.values():
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            raise bad_request("strings must be encoded in UTF-8")
    return params


def _response(reply: Reply) -> web.Response:
    if isinstance(reply.body, str):
        return web.Response(status=reply.status, text=reply.body, headers=dict(reply.headers))
    return web.json_response(reply.body, status=reply.status, headers=dict(reply.headers))


def _connected(request: web.Request) -> bool:
    """Return whether the client is still there, as the kernel sees it: a killed bot must not count as a poller."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return False
    descriptor = transport.get_extra_info("socket").fileno()
    try:
        with socket.socket(fileno=os.dup(descriptor)) as twin:
            return twin.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
