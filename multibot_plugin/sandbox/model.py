"""The sandbox's small values: replies, updates, transcript entries, and the API's objects as dictionaries. Pure."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

Json = dict[str, Any]
FaultKind = Literal["status", "hang", "drop", "lose"]
EntryKind = Literal["message", "tap", "edit", "answer", "delete"]

# What Telegram's own server accepts: ClientManager.cpp wants 10 to 80 characters and no leading zero.
_TOKEN = re.compile(r"(?=.{10,80}\Z)[1-9]\d{0,15}:[A-Za-z0-9_-]+")
_COMMAND = re.compile(r"(?<!\S)/[A-Za-z0-9_]{1,32}(?:@[A-Za-z0-9_]{3,32})?(?![A-Za-z0-9_])")


def token_number(token: str) -> int | None:
    """Return the bot's number, or None where the token is malformed."""
    return int(token.partition(":")[0]) if _TOKEN.fullmatch(token) else None


@dataclass(frozen=True)
class Reply:
    """An answer of the Bot API: the HTTP status is the body's ``error_code``; ``delay_s`` is how late it goes out."""

    status: int
    body: Json | str
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


class ApiError(Exception):
    """A call fails with this reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.body)
        self.reply = reply


def success(result: Any) -> Reply:
    return Reply(200, {"ok": True, "result": result})


def failure(status: int, description: str, parameters: Mapping[str, Any] | None = None) -> Reply:
    """Return a failure as Telegram words it; ``retry_after`` among the parameters also goes into a header."""
    body: Json = {"ok": False, "error_code": status, "description": description}
    headers = {}
    if parameters:
        body["parameters"] = dict(parameters)
        if "retry_after" in parameters:
            headers["Retry-After"] = str(parameters["retry_after"])
    return Reply(status, body, headers)


def bad_request(what: str) -> ApiError:
    return ApiError(failure(400, f"Bad Request: {what}"))


OTHER_POLL = "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running"
WEBHOOK_SET = "Conflict: terminated by setWebhook request"
WEBHOOK_ACTIVE = (
    "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"
)
RESTART = "Internal Server Error: restart"
_USUAL = {401: "Unauthorized", 403: "Forbidden: bot was blocked by the user", 404: "Not Found", 409: OTHER_POLL}
_PAGE = "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n</body>\r\n</html>\r\n"


def usual_failure(status: int, description: str | None = None, parameters: Mapping[str, Any] | None = None) -> Reply:
    """Return what Telegram (or the gateway in front of it) answers with this status, unless told otherwise."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    if status in (502, 503, 504) and description is None and not parameters:
        return Reply(status, _PAGE.format(f"{status} {phrase}"), {"Content-Type": "text/html"})
    if status == 429 and not parameters:
        parameters = {"retry_after": 5}
    if description is None:
        description = _USUAL.get(status, phrase)
        if status == 500:
            description = RESTART
        elif status == 429 and parameters:
            description = f"Too Many Requests: retry after {parameters.get('retry_after', 5)}"
    return failure(status, description, parameters)


@dataclass
class Update:
    """An update that waits to be confirmed; ``sent`` counts how often it went out."""

    id: int
    kind: str
    payload: Json
    at: float
    sent: int = 0

    def as_json(self) -> Json:
        return {"update_id": self.id, self.kind: self.payload}


@dataclass(eq=False)
class Webhook:
    """Where a bot wants its updates sent, and what went wrong there last (``error_at``: seconds since the epoch)."""

    url: str
    secret: str = field(default="", repr=False)
    max_connections: int = 40
    error_at: float | None = None
    error: str = ""

    def as_json(self) -> Json:
        found: Json = {"url": self.url, "max_connections": self.max_connections}
        if self.error_at is not None:
            found |= {"last_error_date": int(self.error_at), "last_error_message": self.error}
        return found


@dataclass(frozen=True)
class Entry:
    """One line of the transcript: what a user said or tapped, or what a bot sent, changed, answered or deleted.

    ``n`` rises by one; ``at`` is the epoch in seconds; ``bot`` the bot's number and ``name`` what people call it;
    ``user`` is who spoke, or whose chat the bot wrote into; ``buttons`` are the inline buttons of a message.
    """

    n: int
    at: float
    bot: int
    name: str
    by: Literal["user", "bot"]
    kind: EntryKind
    chat: int
    user: str
    text: str
    message_id: int | None = None
    buttons: tuple[str, ...] = ()

    @property
    def speakers(self) -> str:
        """Who speaks to whom: ``you → greeter``, ``greeter → you``; "you" are Ada, the user unless told otherwise."""
        user = "you" if self.user == "Ada" else self.user
        return f"{user} → {self.name}" if self.by == "user" else f"{self.name} → {user}"

    @property
    def shown(self) -> str:
        """The text with its buttons, a tap in brackets, an edit, an answer or a deletion said to be one."""
        if self.kind == "tap":
            return f"[{self.text}]"
        said = {"edit": "(edited) ", "answer": "(notice) ", "delete": "(deleted) "}.get(self.kind, "")
        return " ".join([said + self.text, *(f"[{button}]" for button in self.buttons)])


@dataclass(frozen=True)
class Chat:
    """A chat that exists: a user's private one (id above 0, also the user's id), or a group (below 0)."""

    id: int
    name: str

    def as_json(self) -> Json:
        if self.id > 0:
            return {"id": self.id, "type": "private", "first_name": self.name}
        kind = "supergroup" if str(self.id).startswith("-100") else "group"
        return {"id": self.id, "type": kind, "title": self.name}


def is_loopback(url: str) -> bool:
    """Return whether a URL leads to this machine, without asking any name server."""
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def user_json(number: int, name: str) -> Json:
    return {"id": number, "is_bot": False, "first_name": name, "language_code": "en"}


def utf16(text: str) -> int:
    """Return a text's length as Telegram counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def command_entities(text: str) -> list[Json]:
    """Return the entities of the commands in a text; CommandHandler looks there and not at the slash."""
    return [
        {"type": "bot_command", "offset": utf16(text[: m.start()]), "length": utf16(m[0])}
        for m in _COMMAND.finditer(text)
    ]


def buttons_of(message: Mapping[str, Any]) -> list[Json]:
    """Return the inline buttons of a message, row by row."""
    rows = message.get("reply_markup", {}).get("inline_keyboard", [])
    return [button for row in rows for button in row]
