"""What supervisorctl asks the monitor for, and waits for: one request for each bot, some at a time."""

from __future__ import annotations

import json
import time
import xmlrpc.client
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from multibot_plugin.cli.output import one_line
from multibot_plugin.errors import MultibotError
from multibot_plugin.supervisor.inside.requests import DONE, FAILED, MONITOR_AWAY, TOO_MANY_REQUESTS

_AT_ONCE = 16
_LOOK_EVERY_S = 0.1
_TELL_AFTER_S = 2.0
_STARTING_S = 5.0  # a monitor that is about to report is waited for
_GONE_S = 30.0  # a monitor that went away in the middle, too


def carried_out(
    server: Any, method: str, bots: Sequence[str], by: str, under_way: Callable[[str], None]
) -> Iterator[tuple[list[str], bool]]:
    """Ask for ``method`` about each bot ("": about the installation) and yield how each ends: its lines, whether well.

    ``under_way`` is told, once for each, of what takes time. ``server`` is a proxy of the namespace. Raises Fault when
    a request is refused, and MultibotError when the monitor does not come back to what it began.
    """
    waiting, begun = deque(bots), dict[str, tuple[str, float]]()
    told: set[str] = set()
    seen = time.monotonic()
    while waiting or begun:
        while waiting and len(begun) < _AT_ONCE:
            request = _ask(server, method, waiting[0], by, patient=bool(begun))
            if request is None:
                break
            begun[waiting.popleft()] = request, time.monotonic()
        for bot, (request, since) in list(begun.items()):
            found = json.loads(server.getResult(request))
            if found["state"] in (DONE, FAILED):
                del begun[bot]
                yield _lines(bot, found), found["state"] == DONE
            elif bot not in told and time.monotonic() - since > _TELL_AFTER_S:
                told.add(bot)
                under_way(f"{bot or method}: {found['state']} ...")
            seen = time.monotonic() if found["monitor"]["ok"] else seen
            if time.monotonic() - seen > _GONE_S:
                raise MultibotError(f"{found['monitor']['text']}; what became of {bot or method} is not known")
        if begun:
            time.sleep(_LOOK_EVERY_S)


def _ask(server: Any, method: str, bot: str, by: str, patient: bool) -> str | None:
    """Return the id of a new request; None when there are too many and we are ``patient``, having some ourselves."""
    deadline = time.monotonic() + _STARTING_S
    while True:
        try:
            return str(getattr(server, method)(*([bot] if bot else []), by))
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == TOO_MANY_REQUESTS and patient:
                return None
            soon = fault.faultCode == MONITOR_AWAY and "in a moment" in fault.faultString
            if not soon or time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_EVERY_S)


def _lines(bot: str, found: Mapping[str, Any]) -> list[str]:
    """Return what to print of a request that has ended: what the command said, the outcome last."""
    text = str(found.get("text", ""))
    lines = [str(line) for line in found.get("said", ()) if line != text]
    if bot and not text.startswith(f"{bot}: "):
        text = f"{bot}: {text}"
    return [one_line(line) for line in (*lines, text)]
