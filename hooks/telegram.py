"""Alerts as Telegram messages, by a bot of their own: ``alerts.telegram.token_file`` and ``alerts.telegram.chat_id``.

The token is part of every URL, so no exception or log line of the HTTP library leaves this module.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from multibot_plugin.hookspecs import Alert, MonitorInfo, hookimpl, redact

_TOKEN = re.compile(r"\d{3,12}:[A-Za-z0-9_-]{30,64}")
_LONGEST_S = 8.0
_FLOOD, _REJECTED = 429, (401, 404)
# What a bot may not do before somebody has spoken to it, in Telegram's words.
_UNKNOWN_CHAT = re.compile("chat not found|initiate conversation|bot was blocked|bot is not a member", re.IGNORECASE)


class NotSent(Exception):
    """The message was not sent; says why, without the token."""


@dataclass
class _Channel:
    """What the settings say, and until when Telegram wants to be left alone."""

    token_file: str = ""
    chat: str = ""
    server: str = "https://api.telegram.org"
    timeout_s: float = _LONGEST_S
    quiet_until: float = 0.0


_channel = _Channel()


@hookimpl
def multibot_configure(info: MonitorInfo) -> None:
    # Their lines at INFO and DEBUG hold the URL.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    _channel.token_file = str(info.settings["alerts.telegram.token_file"])
    _channel.chat = str(info.settings["alerts.telegram.chat_id"])
    _channel.server = str(info.settings["bot_api_url"])
    # Give up by ourselves before the monitor calls it a hang.
    _channel.timeout_s = min(_LONGEST_S, 0.8 * float(info.settings["monitor.plugin_timeout_s"]))
    _channel.quiet_until = 0.0


@hookimpl
def multibot_channel() -> str | None:
    return f"Telegram (chat {_channel.chat})" if _channel.token_file and _channel.chat else None


@hookimpl
def multibot_send_alert(alert: Alert) -> bool | None:
    if not _channel.token_file or not _channel.chat:
        return None
    wait_s = _channel.quiet_until - time.monotonic()
    if wait_s > 0:
        raise NotSent(f"Telegram asked for a pause, {wait_s:.0f} s are left")
    _post(_read_token(Path(_channel.token_file)), alert.text)
    return True


def _read_token(path: Path) -> str:
    """Return the token in ``path``, read anew each time so that a changed file is obeyed."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotSent(f"{path}: {getattr(error, 'strerror', 'not a text')}") from None
    if not _TOKEN.fullmatch(token):
        raise NotSent(f"{path} does not hold a token from @BotFather")
    return token


def _post(token: str, text: str) -> None:
    url = f"{_channel.server}/bot{token}/sendMessage"
    try:
        answer = httpx.post(url, json={"chat_id": _channel.chat, "text": text}, timeout=_channel.timeout_s)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotSent(f"Telegram cannot be reached ({type(error).__name__})") from None
    if answer.status_code == httpx.codes.OK:
        return
    body = _body(answer)
    if answer.status_code == _FLOOD:
        pause_s = float(body.get("parameters", {}).get("retry_after") or answer.headers.get("Retry-After") or 5)
        _channel.quiet_until = time.monotonic() + pause_s
        raise NotSent(f"Telegram asks for a pause of {pause_s:.0f} s")
    if answer.status_code in _REJECTED:
        raise NotSent(f"Telegram rejects the token in {_channel.token_file} ({answer.status_code})")
    said = redact(str(body.get("description", "no description")), [token])
    todo = ": write /start to your alerts bot in this chat" if _UNKNOWN_CHAT.search(said) else ""
    raise NotSent(f"Telegram answers {answer.status_code}: {said}{todo}")


def _body(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
