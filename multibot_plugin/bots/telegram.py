"""What Telegram (or the server in its place) says of a token, of a bot's webhook, and of a chat that alerts go to."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from multibot_plugin.errors import MultibotError, Refused
from multibot_plugin.health.states import WebhookInfo
from multibot_runner.protocol import is_number
from multibot_runner.redact import redact

_TIMEOUT_S = 10.0
_LONGEST_WORDS = 200
_MOST = 65536  # bytes of an answer


@dataclass(frozen=True)
class TelegramBot:
    """Who Telegram says a token is."""

    id: int
    username: str


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """An answer is one whatever its code, and is not followed: a token is not carried to where somebody points."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return response

    https_response = http_response


class _InTime(urllib.request.HTTPSHandler):
    """Ends a connection whose answer has not begun when its time is over: urllib's timeout is for each piece of it."""

    handler_order = urllib.request.HTTPHandler.handler_order - 1  # before urllib's own for http

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(HTTPConnection, req)

    def do_open(self, http_class: Any, req: urllib.request.Request, **more: Any) -> HTTPResponse:
        made: list[HTTPConnection] = []

        def connection(*args: Any, **named: Any) -> HTTPConnection:
            made.append(http_class(*args, **named))
            return made[0]

        def end() -> None:
            if (sock := made[0].sock if made else None) is not None:
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not SSLSocket's, which is another thread's

        timer = threading.Timer(req.timeout or 0, end)
        timer.daemon = True
        timer.start()
        try:
            return super().do_open(connection, req, **more)
        finally:
            timer.cancel()


def check_token(token: str, bot_api_url: str, timeout_s: float = _TIMEOUT_S) -> TelegramBot:
    """Return who ``token`` is, asked by getMe on the server that the bot will use.

    Raises Refused when the server rejects the token, MultibotError when it cannot be asked.
    """
    instead = "try again, or leave the question out: --no-check"
    result, code, text = _ask(bot_api_url, token, "getMe", timeout_s, instead)
    try:
        if result is not None:
            return TelegramBot(int(result["id"]), str(result.get("username", "")))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _odd(bot_api_url, code) from None
    if code in (401, 404):
        raise Refused(f"Telegram rejects this token ({code} {text}): get a new one from @BotFather")
    raise MultibotError(f"{shown(bot_api_url)} answers getMe with {code} {text}: {instead}")


def check_chat(token: str, bot_api_url: str, chat: str, timeout_s: float = _TIMEOUT_S) -> None:
    """Return when the bot of ``token`` knows the chat, asked by getChat.

    Raises Refused when it does not (nobody has written to it there yet), or when the token is rejected; MultibotError
    when the server cannot be asked.
    """
    query = urllib.parse.urlencode({"chat_id": chat})
    result, code, text = _ask(bot_api_url, token, f"getChat?{query}", timeout_s, "this was not checked")
    if result is not None:
        return
    if code in (401, 404):
        raise Refused(f"Telegram rejects the token ({code} {text}): get a new one from @BotFather")
    if code in (400, 403):
        raise Refused(f"{text}: write /start to your alerts bot in this chat")
    raise MultibotError(f"{shown(bot_api_url)} answers getChat with {code} {text}: this was not checked")


def webhook_info(token: str, bot_api_url: str, wanted: str, env: Mapping[str, str], now: float,
                 timeout_s: float = _TIMEOUT_S) -> WebhookInfo:  # fmt: skip
    """Return what getWebhookInfo says of a bot; ``wanted``: the URL that its webhook should have ("": any).

    ``env``: the bot's own variables, of which proxies count. Raises MultibotError when the server cannot be asked.
    """
    result, code, said = _ask(bot_api_url, token, "getWebhookInfo", timeout_s, "its webhook is not known", env)
    if code in (401, 404):
        return WebhookInfo(now, code)
    if result is None:
        raise MultibotError(f"{shown(bot_api_url)} answers getWebhookInfo with {code} {said}")
    try:
        url, failed_at = str(result.get("url", "")), result.get("last_error_date")
        words = redact(str(result.get("last_error_message", ""))[:_LONGEST_WORDS], [token])
        return WebhookInfo(
            now, 200, shown(url)[:_LONGEST_WORDS] if url else "", not wanted or url.rstrip("/") == wanted,
            min(max(0, int(result.get("pending_update_count", 0))), 10**9),
            error_at=float(failed_at) if is_number(failed_at) else None, error=words,
        )  # fmt: skip
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise _odd(bot_api_url, code) from None


def answers(bot_api_url: str, env: Mapping[str, str], timeout_s: float) -> bool:
    """Return whether anything answers at the root of a server, whatever it says, but that it cannot serve (5xx).

    No token is shown to it.
    """
    root = urllib.parse.urljoin(_without_login(bot_api_url)[0], "/")
    try:
        with _opener(bot_api_url, env).open(root, timeout=timeout_s) as answer:
            return int(answer.status) < HTTPStatus.INTERNAL_SERVER_ERROR
    except (OSError, HTTPException, ValueError):
        return False


def _ask(bot_api_url: str, token: str, call: str, timeout_s: float, instead: str,
         env: Mapping[str, str] | None = None) -> tuple[Any, int, str]:  # fmt: skip
    """Return the result of a method (None: it failed), the code and what Telegram says of a failure.

    ``env``: variables that go before those of this process, where they name proxies.
    Raises MultibotError, which ends with ``instead``, when nothing like a Bot API server answers.
    """
    try:
        server, headers = _without_login(bot_api_url)
        opener = _opener(bot_api_url, env or {})
        opener.addheaders += headers
        until = time.monotonic() + timeout_s
        with opener.open(f"{server}/bot{token}/{call}", timeout=timeout_s) as answer:
            code, body = answer.status, b""
            while len(body) < _MOST and (piece := answer.read1(_MOST - len(body))):
                body += piece
                if time.monotonic() > until:
                    raise TimeoutError("timed out")
    except (OSError, HTTPException, ValueError) as error:
        # The text of these errors may hold the address, token and password included.
        reason = getattr(error, "reason", error)
        said = getattr(reason, "strerror", None) or (str(reason) if isinstance(error, OSError) else "")
        text = (said or type(reason).__name__).replace(token, "...")
        raise MultibotError(f"{shown(bot_api_url)} does not answer ({text}): {instead}") from None
    try:
        document = json.loads(body)
        if document["ok"]:
            return document["result"], code, ""
        said = redact(str(document.get("description", ""))[:100], [token])
        return None, int(document.get("error_code", code)), said
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _odd(bot_api_url, code) from None


def _opener(url: str, env: Mapping[str, str]) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_AsItIs, _proxies(url, env), _InTime(context=_tls()))


def _without_login(url: str) -> tuple[str, list[tuple[str, str]]]:
    """Return ``url`` without ``user:password@``, which urllib takes for a part of the host, and the header for it."""
    server = urllib.parse.urlsplit(url)
    login, at, host = server.netloc.rpartition("@")
    if not at:
        return url, []
    basic = b64encode(urllib.parse.unquote_to_bytes(login)).decode()
    return server._replace(netloc=host).geturl(), [("Authorization", f"Basic {basic}")]


@lru_cache(maxsize=1)  # 20 ms, ten times what a call costs otherwise
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _proxies(url: str, env: Mapping[str, str]) -> urllib.request.ProxyHandler:
    """Return the way to ``url`` as the variables ``http_proxy``, ``no_proxy`` and their like say it."""
    named = {**os.environ, **env}
    lower = {name.lower(): value for name, value in named.items() if name.lower().endswith("_proxy")}
    found = {name.removesuffix("_proxy"): value for name, value in lower.items() if value}
    server = urllib.parse.urlsplit(url)
    host = f"{server.hostname}:{server.port}" if server.port else server.hostname or ""
    aside = urllib.request.proxy_bypass_environment(host, found)  # type: ignore[attr-defined]
    return urllib.request.ProxyHandler({} if aside else {k: v for k, v in found.items() if k in ("http", "https")})


def _odd(bot_api_url: str, code: int) -> MultibotError:
    return MultibotError(f"{shown(bot_api_url)} does not answer like a Bot API server (HTTP {code}): check bot_api_url")


def shown(bot_api_url: str) -> str:
    """Return a server's address without what may be a password in it."""
    server = urllib.parse.urlsplit(bot_api_url)
    return f"{server.scheme}://{server.hostname or ''}{f':{server.port}' if server.port else ''}"
