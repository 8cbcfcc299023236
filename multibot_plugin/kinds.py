"""The types of settings' values: how each is read from what a person typed or a file holds, and shown. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_UNITS = {"B": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3}
_TIMES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Kind:
    """A type of value: how to read it (raising ValueError), show it, and describe it in an error."""

    name: str
    read: Callable[[Any], Any]
    show: Callable[[Any], str]
    expected: str


def _size(raw: Any) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        value = raw
    else:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", str(raw).strip(), re.IGNORECASE)
        if not match:
            raise ValueError(raw)
        value = int(float(match[1]) * _UNITS[f"{match[2].upper()}B"])
    if value < 0:
        raise ValueError(raw)
    return value


def show_size(value: float) -> str:
    """Return a size for people: ``256MB`` where it is exact, else with one digit."""
    for unit in ("GB", "MB", "KB"):
        if value >= _UNITS[unit]:
            amount = value / _UNITS[unit]
            return f"{amount:.0f}{unit}" if amount == int(amount) else f"{amount:.1f}{unit}"
    return f"{value:.0f}B" if value else "none"


def without_login(text: str) -> str:
    """Return a text without the user and the password that a URL in it may carry."""
    return re.sub(r"(://)[^/\s]*@", r"\1***@", text)


def _seconds(raw: Any) -> float:
    if isinstance(raw, bool):
        raise ValueError(raw)
    if isinstance(raw, int | float):
        value = float(raw)
    else:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(raw).strip())
        if not match:
            raise ValueError(raw)
        value = float(match[1]) * _TIMES[match[2] or "s"]
    if not 0 <= value < math.inf:
        raise ValueError(raw)
    return value


def _count(raw: Any) -> int:
    if isinstance(raw, bool | float) or int(raw) < 0:
        raise ValueError(raw)
    return int(raw)


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or any(ord(c) < 32 or ord(c) == 127 for c in raw):
        raise ValueError(raw)
    return raw


def _chat(raw: Any) -> str:
    # In TOML people write the number without quotes; it does not fit XML-RPC's integers and stays a text here.
    text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else _text(raw)
    if text and not re.fullmatch(r"-?\d{1,19}|@\w+", text):
        raise ValueError(raw)
    return text


def _path(raw: Any) -> str:
    text = _text(raw)
    if text and not Path(text).is_absolute():
        raise ValueError(raw)
    return text


def _url(raw: Any) -> str:
    text = _text(raw)
    server = urlsplit(text)  # like .port, raises ValueError
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", text) or not server.hostname or server.port == 0:
        raise ValueError(raw)
    return text.rstrip("/")


def _address(raw: Any) -> str:
    text = _text(raw)
    if not re.fullmatch(r"(?![\d.]*$)[A-Za-z0-9_.-]+", text):  # no host's name
        ip_address(text)
    return text


def _database_url(raw: Any) -> str:
    text = _text(raw)
    if text and not re.match(r"postgres(ql)?://", text):
        raise ValueError(raw)
    return text


def _uid_range(raw: Any) -> str:
    match = re.fullmatch(r"(\d+)-(\d+)", _text(raw))
    if not match or not 1000 <= int(match[1]) < int(match[2]) < 2**31:
        raise ValueError(raw)
    return match[0]


def _variable(raw: Any) -> str:
    text = _text(raw)
    if not re.fullmatch(r"(?!PATH$|LD_|PYTHON|MULTIBOT_)[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError(raw)
    return text


def choice(*words: str) -> Kind:
    def read(raw: Any) -> str:
        if raw not in words:
            raise ValueError(raw)
        return str(raw)

    return Kind("choice", read, _plain, f"one of {', '.join(words)}")


def _plain(value: Any) -> str:
    return str(value)


def _show_seconds(value: float) -> str:
    return f"{value:.10g}s"


SIZE = Kind("size", _size, show_size, "a size (like 256MB)")
SECONDS = Kind("seconds", _seconds, _show_seconds, "a duration (like 30s or 5m)")
COUNT = Kind("count", _count, _plain, "a whole number")
TEXT = Kind("text", _text, _plain, "one line of text")
CHAT = Kind("chat", _chat, _plain, "a chat id (a number, or @name of a channel)")
PATH = Kind("path", _path, _plain, "an absolute path")
URL = Kind("url", _url, _plain, "an http(s) URL without a query")
PUBLIC_URL = Kind("url", lambda raw: _url(raw) if raw != "" else "", _plain, URL.expected)
DATABASE_URL = Kind("database url", _database_url, _plain, "a postgresql:// URL")
UID_RANGE = Kind("uid range", _uid_range, _plain, "a range of user ids (like 70000-99999)")
VARIABLE = Kind("variable", _variable, _plain, "a variable's name (not PATH, LD_..., PYTHON..., MULTIBOT_...)")
ADDRESS = Kind("address", _address, _plain, "an IP address or a host's name")
