"""A bot's calls of the Bot API, whatever library makes them: what they mean for the heartbeat.

The modules ``seen_*`` stand in the libraries' way and ask ``PollWatch``.
"""

from __future__ import annotations

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
_RETRY_AFTER = re.compile(rb'"retry_after"\s*:\s*(\d{1,7})')
_REJECTING, _FLOOD = (401, 404), 429


@dataclass(frozen=True)
class Call:
    """A call that matters: one of the bot's own, or any getMe or getUpdates."""

    method: str  # in lower case
    own: bool  # a bot may ask getMe about somebody else's token

    @property
    def polling(self) -> bool:
        return self.method == "getupdates"


class PollWatch:
    """What the hooks know. ``rejected`` is the status by which Telegram last refused the token, else None.

    Only 401 and 404 on getMe or getUpdates mean that; libraries turn any other 404 into the same exception.
    ``on_rejected`` is called when a getUpdates is refused. ``unanswered``: whether no answer came to
    the bot's last call.
    """

    def __init__(self, recorder: Recorder, handling: Handling, api_url: str, token: str) -> None:
        self._recorder = recorder
        self._handling = handling
        self._token = token
        self._api_url = "" if api_url == TELEGRAM else api_url
        self.rejected: Optional[int] = None
        self.unanswered = False
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
        if call.polling:
            self._handling.running()
            self._recorder.poll_started(_timeout(parameters))
        return call if call.own or call.polling or call.method == "getme" else None

    def end(self, call: Call, status: int, body: bytes) -> None:
        """Note the answer to a call; ``body`` matters for polls only."""
        if call.own:
            self.unanswered = False
        if call.polling:
            self._polled(status, body)
        elif call.method == "getme":
            if call.own:
                self.rejected = status if status in _REJECTING else None
                if self.rejected:
                    self._recorder.poll_failed(status)
        elif _SENDING.match(call.method) and 200 <= status < 300:
            self._recorder.sent()

    def fail(self, call: Call) -> None:
        """Note that no answer came."""
        if call.own:
            self.unanswered = True
        if call.polling:
            self._recorder.poll_failed(None)

    def _polled(self, status: int, body: bytes) -> None:
        self.rejected = status if status in _REJECTING else None
        if 200 <= status < 300:
            updates = [int(number) for number in _UPDATE.findall(body)]
            self._recorder.poll_succeeded(len(updates))
            self._handling.polled(updates)
            return
        wait = _RETRY_AFTER.search(body) if status == _FLOOD else None
        self._recorder.poll_failed(status, float(wait[1]) if wait else None)
        if self.rejected:
            self.on_rejected()


def _timeout(parameters: Callable[[], Dict[str, Any]]) -> Optional[float]:
    try:
        return float(parameters().get("timeout", 0))
    except Exception:  # whatever a stranger's request holds, it is only a stamp
        return None


def form(text: str) -> Dict[str, str]:
    """Return the parameters of a query or of a form, the last value of each."""
    return {name: found[-1] for name, found in parse_qs(text).items()}
