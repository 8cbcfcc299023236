"""A bot's calls of the Bot API, whatever library makes them: what they mean for the heartbeat.

The modules ``seen_*`` stand in the libraries' way and ask ``PollWatch``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional
from urllib.parse import parse_qs, unquote

from multibot_runner.record import Recorder
from multibot_runner.sight.handling import Handling

TELEGRAM = "https://api.telegram.org"
_TELEGRAM = re.compile(r"https?://api\.telegram\.org(?::\d+)?(?=[/?]|\Z)", re.IGNORECASE)
_CALL = re.compile(r"/bot(\d+:[A-Za-z0-9_-]+)(?:/test)?/([A-Za-z]+)/?\Z")
_SENDING = re.compile(r"send(?!chataction)|editmessage|copymessage|forwardmessage")
_UPDATE = re.compile(rb'"update_id"\s*:\s*(\d{1,18})')  # in a text the quotes would be escaped
_REFUSAL = re.compile(rb'\s*\{.*"ok"\s*:\s*false', re.DOTALL)  # Telegram's words, and no proxy's page
_ANSWER = re.compile(rb'\s*\{.*"ok"\s*:', re.DOTALL)
_RETRY_AFTER = re.compile(rb'"retry_after"\s*:\s*(\d{1,7})')
_WEBHOOK = b"webhook is active"  # in the words of a 409 that is not another poller's
_LONGEST_S = 50.0  # Telegram cuts longer polls to that
_REJECTING, _CONFLICT, _FLOOD = (401, 404), 409, 429


@dataclass(frozen=True)
class Call:
    """A call that matters: one of the bot's own, or any getMe or getUpdates."""

    method: str  # in lower case
    own: bool  # a bot may ask with somebody else's token, too

    @property
    def polling(self) -> bool:
        return self.method == "getupdates"

    @property
    def asking(self) -> bool:
        """Whether the answer's body matters."""
        return self.polling or self.method == "getme"


class PollWatch:
    """What the hooks know. ``rejected`` is the status by which Telegram last refused the token, else None.

    Only Telegram's own 401 and 404 on getMe or getUpdates with this token mean that; libraries turn any other 404 into
    the same exception.
    ``on_rejected`` is called when a getUpdates is refused. ``unanswered``: Telegram gave no answer to the bot's last
    call.
    Polls with any token count (a script may have its own written in its code) until one with this token is seen.
    """

    def __init__(self, recorder: Recorder, handling: Handling, api_url: str, token: str) -> None:
        self._recorder = recorder
        self._handling = handling
        self._token = token
        self._api_url = "" if api_url == TELEGRAM else api_url
        self.rejected: Optional[int] = None
        self.unanswered = False
        self._polls = False  # with its token
        self.on_rejected: Callable[[], None] = lambda: None

    def rewrite(self, url: str) -> str:
        """Return the URL to ask instead of ``url``: calls for Telegram's own server go to the configured one."""
        found = _TELEGRAM.match(url) if self._api_url else None
        return self._api_url + url[found.end() :] if found else url

    def begin(self, path: str, parameters: Callable[[], Dict[str, Any]]) -> Optional[Call]:
        """Note the start of a call to ``path``; None: not a call that matters."""
        match = _CALL.search(unquote(path))
        if match is None:
            return None
        call = Call(match[2].lower(), own=match[1] == self._token)
        self._polls = self._polls or (call.polling and call.own)
        if self._counts(call):
            self._handling.running()
            self._recorder.poll_started(_timeout(parameters))
        return call if call.own or call.asking else None

    def end(self, call: Call, status: int, body: bytes) -> None:
        """Note the answer to a call; ``body`` matters for those that are ``asking``."""
        if call.own:
            self.unanswered = not _is_answer(call, status, body)
        if call.asking and call.own:
            self.rejected = status if status in _REJECTING and _REFUSAL.match(body) else None
        if self._counts(call):
            self._polled(call, status, body)
        elif call.asking:
            if call.own and self.rejected:
                self._recorder.poll_failed(status)
        elif _SENDING.match(call.method) and 200 <= status < 300:
            self._recorder.sent()

    def fail(self, call: Call) -> None:
        """Note that no answer came."""
        if call.own:
            self.unanswered = True
        if self._counts(call):
            self._recorder.poll_failed(None)

    def _counts(self, call: Call) -> bool:
        """Whether a call is a poll that says how the bot is."""
        return call.polling and (call.own or not self._polls)

    def _polled(self, call: Call, status: int, body: bytes) -> None:
        if 200 <= status < 300:
            updates = [int(number) for number in _UPDATE.findall(body)]
            self._recorder.poll_succeeded(len(updates))
            self._handling.polled(updates)
            return
        wait = _RETRY_AFTER.search(body) if status == _FLOOD else None
        webhook = status == _CONFLICT and _WEBHOOK in body
        rejected = call.own and self.rejected is not None
        code = status if rejected or status not in _REJECTING else None  # who reads 401 or 404 takes it for a refusal
        self._recorder.poll_failed(code, float(wait[1]) if wait else None, webhook)
        if rejected:
            self.on_rejected()


def _is_answer(call: Call, status: int, body: bytes) -> bool:
    """Whether Telegram answered a call: not that it could not serve it, and not a proxy's page."""
    if status >= 500 or not call.asking:
        return status < 500
    return status < 300 or _ANSWER.match(body) is not None


def _timeout(parameters: Callable[[], Dict[str, Any]]) -> Optional[float]:
    """Return how long Telegram will hold the poll."""
    try:
        return min(_LONGEST_S, max(0.0, float(parameters().get("timeout", 0))))
    except Exception:  # whatever a stranger's request holds, it is only a stamp
        return None


def parameters_of(*given: Any) -> Dict[str, Any]:
    """Return what stands in a request's query and body: a form, JSON, or what will be encoded as one."""
    found: Dict[str, Any] = {}
    for part in given:
        text = part.decode("utf-8", "replace") if isinstance(part, bytes) else part
        if isinstance(text, str):
            form = {name: values[-1] for name, values in parse_qs(text).items()}
            found.update(json.loads(text) if text.startswith("{") else form)
        else:
            found.update(text or {})
    return found
