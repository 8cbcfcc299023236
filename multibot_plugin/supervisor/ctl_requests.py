"""What supervisorctl asks the monitor for, and waits for: one request for each bot, some at a time."""

from __future__ import annotations

import json
import time
import xmlrpc.client
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from multibot_plugin.cli.output import one_line
from multibot_plugin.supervisor.faults import SHUTDOWN_STATE, UNKNOWN_METHOD
from multibot_plugin.supervisor.inside.requests import DONE, FAILED, MONITOR_AWAY, RUNNING, TOO_MANY_REQUESTS

_NOBODY = (UNKNOWN_METHOD, SHUTDOWN_STATE, MONITOR_AWAY)  # the next bot would be refused just so
_UNKNOWN = "what became of it is not known: "
_AT_ONCE = 16
_LOOK_EVERY_S = 0.1
_TELL_AFTER_S = 2.0
_STARTING_S = 5.0  # a monitor that is about to report is waited for
_GONE_S = 30.0  # a monitor that went away in the middle, too


def carried_out(
    server: Any, method: str, bots: Sequence[str], by: str, under_way: Callable[[str], None],
    in_words: Callable[[xmlrpc.client.Fault], str],
) -> Iterator[tuple[list[str], bool]]:  # fmt: skip
    """Ask for ``method`` about each bot ("": about the installation) and yield how each ends: its lines, whether well.

    ``under_way`` is told, once for each, of what takes time. ``server`` is a proxy of the namespace. What supervisord
    refuses about one bot is how that ends. Raises Fault when the first is refused because there is nobody to do it.
    """
    waiting, begun = deque(bots), dict[str, tuple[str, float]]()
    told: set[tuple[str, bool]] = set()
    seen = time.monotonic()
    while waiting or begun:
        try:
            while waiting and len(begun) < _AT_ONCE and (request := _ask(server, method, waiting[0], by, bool(begun))):
                begun[waiting.popleft()] = request, time.monotonic()
        except xmlrpc.client.Fault as fault:
            nobody = fault.faultCode in _NOBODY
            if nobody and len(waiting) == len(bots):
                raise
            refused = [waiting.popleft() for _ in range(len(waiting) if nobody else 1)]
            yield from (([f"{bot or method}: {in_words(fault)}"], False) for bot in refused)
        for bot, (request, since) in list(begun.items()):
            found = _look(server, request, in_words)
            ok = bool(found["monitor"]["ok"])
            if found["state"] in (DONE, FAILED):
                del begun[bot]
                yield _lines(bot, found), found["state"] == DONE
            elif (bot, ok) not in told and time.monotonic() - since > _TELL_AFTER_S:
                told.add((bot, ok))
                under_way(f"{bot or method}: {_progress(found)} ...")
            seen = time.monotonic() if ok else seen
            if time.monotonic() - seen > _GONE_S:
                away = in_words(xmlrpc.client.Fault(MONITOR_AWAY, f"MONITOR_AWAY: {found['monitor']['text']}"))
                yield from (([f"{name or method}: {_UNKNOWN}{away}"], False) for name in begun)
                yield from (([f"{name}: not asked for: {away}"], False) for name in waiting)
                return
        if begun:
            time.sleep(_LOOK_EVERY_S)


def _look(server: Any, request: str, in_words: Callable[[xmlrpc.client.Fault], str]) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(server.getResult(request))
    except xmlrpc.client.Fault as fault:
        return {"state": FAILED, "text": f"{_UNKNOWN}{in_words(fault)}", "monitor": {"ok": True, "text": ""}}
    return found


def _progress(found: Mapping[str, Any]) -> str:
    """Return how far a request is, and why it gets no further."""
    word = "under way" if found["state"] == RUNNING else str(found["state"])
    away = str(found["monitor"]["text"]).partition(": ")[0]  # what helps comes with the outcome
    return word if found["monitor"]["ok"] else f"{word}, {away}"


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
