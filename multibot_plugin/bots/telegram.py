"""What Telegram (or the server in its place) says of a token, and of a chat that alerts go to."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import IO, Any

from multibot_plugin.errors import MultibotError, Refused
from multibot_runner.redact import redact

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class TelegramBot:
    """Who Telegram says a token is."""

    id: int
    username: str


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A Bot API server redirects nowhere; a token is not carried to where somebody points."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage,
                         newurl: str) -> None:  # fmt: skip
        return None


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
    raise MultibotError(f"{_shown(bot_api_url)} answers getMe with {code} {text}: {instead}")


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
    raise MultibotError(f"{_shown(bot_api_url)} answers getChat with {code} {text}: this was not checked")


def _ask(bot_api_url: str, token: str, call: str, timeout_s: float, instead: str) -> tuple[Any, int, str]:
    """Return the result of a method (None: it failed), the code and what Telegram says of a failure.

    Raises MultibotError, which ends with ``instead``, when nothing like a Bot API server answers.
    """
    try:
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(f"{bot_api_url}/bot{token}/{call}", timeout=timeout_s) as answer:
            code, body = answer.status, answer.read(65536)
    except urllib.error.HTTPError as error:
        with error:
            code, body = error.code, error.read(65536)
    except (OSError, HTTPException, ValueError) as error:
        # The text of these errors may hold the address, token included.
        reason = getattr(error, "reason", error)
        text = (getattr(reason, "strerror", None) or str(reason) or type(reason).__name__).replace(token, "...")
        raise MultibotError(f"{_shown(bot_api_url)} does not answer ({text}): {instead}") from None
    try:
        document = json.loads(body)
        if document["ok"]:
            return document["result"], code, ""
        said = redact(str(document.get("description", ""))[:100], [token])
        return None, int(document.get("error_code", code)), said
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _odd(bot_api_url, code) from None


def _odd(bot_api_url: str, code: int) -> MultibotError:
    return MultibotError(
        f"{_shown(bot_api_url)} does not answer like a Bot API server (HTTP {code}): check bot_api_url"
    )


def _shown(bot_api_url: str) -> str:
    """Return a server's address without what may be a password in it."""
    server = urllib.parse.urlsplit(bot_api_url)
    return f"{server.scheme}://{server.hostname or ''}{f':{server.port}' if server.port else ''}"
