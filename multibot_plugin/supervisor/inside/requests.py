"""What supervisord cannot do itself, because it needs the database or time: a file that the monitor carries out.

``<state>/requests/<id>.json`` is written by supervisord and from then on changed by the monitor alone
(supervisor/executor.py): waiting, running. What became of it stands in ``<state>/results/<id>.json`` before the
request is removed, so that whoever looks into both in this order finds it in one.

Runs inside supervisord: standard library and multibot_runner.protocol only, so the monitor can import it, too.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multibot_runner.protocol import BadFile, decode_object, read_file, replace_file

EVENT = "multibot"  # ``type`` of the REMOTE_COMMUNICATION event that tells the monitor of a request
METHODS: Mapping[str, tuple[str, ...]] = {
    "startBot": ("bot", "start"), "stopBot": ("bot", "stop"), "restartBot": ("bot", "restart"), "apply": ("apply",),
}  # fmt: skip
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
MOST_OPEN = 200
# Who asks, and what they use: "ada", "ada (supervisorctl bot_start)". No colon: a token does not fit.
ASKER = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63})(?: \(([A-Za-z0-9_][A-Za-z0-9_ ./+-]{0,63})\))?")
_ID = re.compile(r"[0-9a-f]{20}")

# Our fault codes; supervisord's own end below 100.
INTERNAL_ERROR, MONITOR_AWAY, NO_SUCH_REQUEST, TOO_MANY_REQUESTS, NOT_STORED, TOO_OLD, NOT_LOADED = range(9000, 9007)
FAULTS: Mapping[int, tuple[str, str]] = {
    INTERNAL_ERROR: ("INTERNAL_ERROR", "a fault of multibot; supervisord's log names the place"),
    MONITOR_AWAY: ("MONITOR_AWAY", "the monitor, which would do it, does not run or does not report; nothing was done"),
    NO_SUCH_REQUEST: ("NO_SUCH_REQUEST", "no request has this id (results are kept for a day, the newest 500)"),
    TOO_MANY_REQUESTS: ("TOO_MANY_REQUESTS", f"{MOST_OPEN} requests are open; nothing was done, ask again later"),
    NOT_STORED: ("NOT_STORED", "the request cannot be written (a full disk?); nothing was done"),
    TOO_OLD: ("TOO_OLD", "this supervisord is too old for multibot, which does nothing in it (every method)"),
    NOT_LOADED: ("NOT_LOADED", "multibot could not be loaded, supervisord goes on without it (every method)"),
}
_NOT_ENDED: Mapping[str, Any] = {"text": "", "said": [], "exit_code": None, "result": None, "ended_at": None}


class Refusal(Exception):
    """A call that is answered with one of our faults."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = f"{FAULTS[code][0]}: {text}"


@dataclass(frozen=True)
class Request:
    """One request. ``method`` is one of METHODS, ``bot`` "" for the installation, ``by`` matches ASKER or is ""."""

    id: str
    method: str
    bot: str
    by: str
    asked_at: float
    asked_mono: float
    state: str = WAITING
    begun_at: float | None = None


def inbox(state: Path) -> Path:
    return state / "requests"


def results(state: Path) -> Path:
    return state / "results"


class Requests:
    """The requests of one supervisord. ``tell`` lets the monitor know of one at once; it may fail to."""

    def __init__(self, state: Path, tell: Callable[[str], None]) -> None:
        self._state = state
        self._tell = tell
        self._last_ms = 0

    def ask(self, method: str, bot: str, by: str) -> str:
        """Write a request and return its id; raises Refusal, and then nothing is written."""
        directory = inbox(self._state)
        # Names tell the order. Nothing is synced: supervisord waits for no disk.
        self._last_ms = max(self._last_ms + 1, time.time_ns() // 1_000_000)
        request = Request(f"{self._last_ms:012x}{os.urandom(4).hex()}", method, bot, by, time.time(), time.monotonic())
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            if sum(name.endswith(".json") for name in os.listdir(directory)) >= MOST_OPEN:
                raise Refusal(TOO_MANY_REQUESTS, f"{MOST_OPEN} requests are open: ask again later")
            path = directory / f"{request.id}.json"
            replace_file(path, json.dumps({"schema": 1, **asdict(request)}).encode(), fsync=False)
        except OSError as error:
            raise Refusal(NOT_STORED, f"{directory} cannot be written: {error.strerror}") from None
        self._tell(request.id)
        return request.id

    def result(self, request: str) -> dict[str, Any]:
        """Return the request as it is now, with what became of it (nothing as long as it goes on); raises Refusal."""
        if _ID.fullmatch(request):
            for directory in (inbox(self._state), results(self._state)):
                try:
                    found = {**_NOT_ENDED, **decode_object(read_file(directory / f"{request}.json"))}
                    return {key: value for key, value in found.items() if key != "asked_mono"}
                except BadFile as error:
                    if not isinstance(error.__cause__, FileNotFoundError):
                        raise
        raise Refusal(NO_SUCH_REQUEST, "no request has this id (any more)")
