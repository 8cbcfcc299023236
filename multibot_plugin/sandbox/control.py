"""The control routes below /_sandbox/: what tests, the demo and ``multibot sandbox`` do to the sandbox.

JSON in, JSON out; an error is ``{"error": <one line>, "kind": "no-such-bot" | "bad-value" | "refused"}``.
"""

from __future__ import annotations

import asyncio
import json
import math
import typing
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from multibot_plugin.errors import BadValue, MultibotError, NoSuchBot, Refused
from multibot_plugin.sandbox.faults import Fault
from multibot_plugin.sandbox.model import Entry, FaultKind, Json, usual_failure
from multibot_plugin.sandbox.state import ADA, Bot, World

PREFIX = "/_sandbox"
_KINDS: dict[type[MultibotError], tuple[int, str]] = {
    NoSuchBot: (404, "no-such-bot"), BadValue: (400, "bad-value"), Refused: (409, "refused"),
}  # fmt: skip
_LONGEST_WAIT_S = 60.0
_KINDS_OF_FAULT: tuple[str, ...] = typing.get_args(FaultKind)


class Control:
    """The control routes of one sandbox."""

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self) -> list[web.RouteDef]:
        handlers: dict[str, Callable[[Json], Json]] = {
            "register": self._register, "introduce": self._introduce, "chat": self._chat,
            "block": self._block, "say": self._say, "tap": self._tap,
            "fault": self._fault, "clear": self._clear, "revoke": self._revoke,
        }  # fmt: skip
        return [
            web.get(f"{PREFIX}/bots", self._bots),
            web.get(f"{PREFIX}/transcript", _guarded(self._transcript)),
            *(web.post(f"{PREFIX}/{name}", _posted(handler)) for name, handler in handlers.items()),
        ]

    def _register(self, body: Json) -> Json:
        return describe(self._world.register(_text(body, "token"), _optional(body, "name")))

    def _introduce(self, body: Json) -> Json:
        number = _number(body, "number")
        if not 0 < number < 10**16:
            raise BadValue(f"number {number} is not a bot's")
        return describe(self._world.introduce(number, _optional(body, "name")))

    def _chat(self, body: Json) -> Json:
        chat = self._world.add_chat(_number(body, "chat"), _optional(body, "name"))
        return {"chat": chat.id, "name": chat.name}

    def _block(self, body: Json) -> Json:
        bot, chat = self._bot(body), _number(body, "chat", ADA.id)
        if body.get("on", True):
            bot.refusals[chat] = _optional(body, "description") or "Forbidden: bot was blocked by the user"
        else:
            bot.refusals.pop(chat, None)
        return {}

    def _say(self, body: Json) -> Json:
        chat = _number(body, "chat") if body.get("chat") is not None else None
        entry = self._world.say(self._bot(body), _text(body, "text"), chat, _optional(body, "user"))
        return asdict(entry)

    def _tap(self, body: Json) -> Json:
        number = _number(body, "message_id") if body.get("message_id") is not None else None
        return asdict(self._world.tap(self._bot(body), _text(body, "button"), _number(body, "chat", ADA.id), number))

    def _fault(self, body: Json) -> Json:
        bot = self._bot(body) if body.get("bot") is not None else None
        self._world.add_fault(_read_fault(body, bot, self._world.mono()))
        return {}

    def _clear(self, body: Json) -> Json:
        bot = self._bot(body) if body.get("bot") is not None else None
        return {"cleared": self._world.faults.clear(bot.number if bot else None)}

    def _revoke(self, body: Json) -> Json:
        bot = self._bot(body)
        self._world.revoke(bot)
        return describe(bot)

    async def _bots(self, request: web.Request) -> web.Response:
        return web.json_response({"bots": [describe(bot) for bot in self._world.bots.values()]})

    async def _transcript(self, request: web.Request) -> web.Response:
        """Entries after number ``after``, of one ``bot`` or of all; waits up to ``wait`` seconds for the first."""
        after = _number(dict(request.query), "after", 0)
        wait_s = min(_seconds(dict(request.query), "wait", 0.0), _LONGEST_WAIT_S)
        bot = self._world.find(request.query["bot"]) if "bot" in request.query else None
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            grown = self._world.grown
            found = [asdict(e) for e in self._found(after, bot)]
            if found or loop.time() >= end or self._world.closing:
                last = self._world.entries[-1].n if self._world.entries else 0
                return web.json_response({"entries": found, "last": last})
            try:
                await asyncio.wait_for(grown.wait(), end - loop.time())
            except TimeoutError:
                continue

    def _found(self, after: int, bot: Bot | None) -> list[Entry]:
        return [e for e in self._world.entries if e.n > after and (bot is None or e.bot == bot.number)]

    def _bot(self, body: Json) -> Bot:
        return self._world.find(str(body.get("bot", "")))


def describe(bot: Bot) -> Json:
    """Return a bot as the control routes show it: who it is and its counters; never its token."""
    updates = bot.updates
    return {
        "number": bot.number,
        "name": bot.name,
        "username": bot.username,
        "revoked": bot.token is None and bool(bot.revoked),
        "webhook": bot.webhook.url if bot.webhook else "",
        "pending": updates.pending,
        "delivered": updates.delivered,
        "redelivered": updates.redelivered,
        "conflicts": updates.conflicts,
        **asdict(bot.counters),
    }


def _read_fault(body: Json, bot: Bot | None, mono: float) -> Fault:
    kind = body.get("kind")
    if kind not in _KINDS_OF_FAULT:
        raise BadValue(f"a fault is one of {', '.join(_KINDS_OF_FAULT)}")
    status = _number(body, "status", 500)
    if not 400 <= status <= 599:
        raise BadValue(f"status {status} is no failure: use 400 to 599")
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadValue("parameters is not an object")
    if body.get("retry_after") is not None:
        parameters = {**parameters, "retry_after": _number(body, "retry_after")}
    methods = body.get("methods") or []
    if not isinstance(methods, list) or not all(isinstance(m, str) for m in methods):
        raise BadValue("methods is a list of names")
    times = _number(body, "times") if body.get("times") is not None else None
    if times is not None and times < 1:
        raise BadValue(f"times {times}: use 1 or more")
    return Fault(
        bot=bot.number if bot else None, kind=kind, methods=frozenset(m.lower() for m in methods), times=times,
        until=mono + _seconds(body, "for_s", 0.0) if body.get("for_s") is not None else None,
        reply=usual_failure(status, _optional(body, "description"), parameters),
    )  # fmt: skip


def _text(body: Json, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadValue(f"{name} is missing")
    return value


def _optional(body: Json, name: str) -> str | None:
    value = body.get(name)
    if value is not None and (not isinstance(value, str) or not value or len(value) > 200):
        raise BadValue(f"{name} is not a text of 1 to 200 characters")
    return value


def _number(body: Json, name: str, default: int | None = None) -> int:
    value = body.get(name, default)
    try:
        return int(str(value))
    except ValueError:
        raise BadValue(f"{name} {str(value)[:40]!r} is not a whole number") from None


def _seconds(body: Json, name: str, default: float) -> float:
    try:
        value = float(body.get(name, default))
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < 1e9:
        raise BadValue(f"{name} is not a number of seconds")
    return value


def _guarded(handler: Callable[[web.Request], Awaitable[web.Response]]) -> Callable[[web.Request], Any]:
    async def answer(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except MultibotError as error:
            status, kind = _KINDS.get(type(error), (400, "bad-value"))
            return web.json_response({"error": str(error), "kind": kind}, status=status)

    return answer


def _posted(handler: Callable[[Json], Json]) -> Callable[[web.Request], Any]:
    async def answer(request: web.Request) -> web.Response:
        if request.content_type != "application/json":  # nor may a web page post here: this makes it ask first
            raise BadValue("the body is not of the type application/json")
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise BadValue("the body is not a JSON object")
        return web.json_response(handler(body))

    return _guarded(answer)
