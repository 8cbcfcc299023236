"""The monitor's side of requests.py: carries out what supervisord was asked for, by the command line's own functions.

A child process for each, a few at once, those about one bot in their order, each with a deadline; the event loop never
waits. supervisord tells of a request by an event; a look at the directory now and then finds what was not told. A
request that was begun is never begun again: of one that was cut off nobody knows how far it came, and what somebody
else did to the bot since must not be undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from multibot_plugin.home import Home
from multibot_plugin.plugins import describe
from multibot_plugin.shapes import build
from multibot_plugin.supervisor.inside.requests import (
    ASKER,
    DONE,
    FAILED,
    METHODS,
    RUNNING,
    WAITING,
    Request,
    inbox,
    results,
)
from multibot_plugin.workers import ended
from multibot_runner.protocol import BOT_ID, FILE_CAP, BadFile, decode_object, read_file, replace_file
from multibot_runner.redact import redact

LOOK_EVERY_S = 5.0
DEADLINE_S = 1800.0  # a bot may take an hour to stop, if somebody set it so; nobody waits for that here
AT_ONCE = 8
_STALE_S = 120.0  # what was asked so long before this monitor began may be against what was wished since
_KEPT, _KEPT_S, _TEMPORARY_S = 500, 86400.0, 3600.0
_MOST_SAID, _LONGEST_TEXT = 20, 500
_log = logging.getLogger("multibot.executor")


def command(request: Request) -> list[str]:
    """Return the child process that carries out a request."""
    asker = ASKER.fullmatch(request.by)
    name, tool = asker.groups() if asker else ("", None)
    door = f"{tool} (XML-RPC {request.method})" if tool else f"XML-RPC {request.method}"
    words = [*METHODS[request.method], "--json", *([request.bot] if request.bot else [])]
    return [sys.executable, "-P", "-m", "multibot_plugin.supervisor.errand", str(os.getpid()), name, door, *words]


class Executor:
    """Carries out the requests of one installation until it is closed. ``command`` makes the child's command."""

    def __init__(
        self, home: Home, command: Callable[[Request], Sequence[str]] = command, deadline_s: float = DEADLINE_S,
        at_once: int = AT_ONCE,
    ) -> None:  # fmt: skip
        self._inbox, self._results = inbox(home.state), results(home.state)
        self._command = command
        self._deadline_s = deadline_s
        self._slots = asyncio.Semaphore(at_once)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: dict[str, Mapping[str, Any]] = {}  # not written yet
        self._began = time.time(), time.monotonic()

    @property
    def unwritten(self) -> bool:
        """Whether results wait for the next look, because they could not be written."""
        return bool(self._ended)

    def look(self) -> None:
        """Begin what waits and is not begun yet; returns at once. Raises OSError."""
        for directory in (self._inbox, self._results):
            directory.mkdir(mode=0o700, exist_ok=True)
        for document in list(self._ended.values()):
            self._write_result(document)
        for path in sorted(self._inbox.glob("[0-9a-f]*.json")):
            if path.stem not in self._tasks and path.stem not in self._ended:
                with contextlib.suppress(OSError):  # one that cannot be removed is not in the way of the others
                    self._admit(path)

    def sweep(self) -> None:
        """Remove results that are old or too many, and what a killed writer left. Raises OSError."""
        now = time.time()
        found = sorted(self._results.glob("[0-9a-f]*.json"))
        old = [path for path in found if now - path.lstat().st_mtime > _KEPT_S]
        torn = [path for directory in (self._inbox, self._results) for path in directory.glob(".*.tmp")]
        torn = [path for path in torn if now - path.lstat().st_mtime > _TEMPORARY_S]
        for path in {*old, *found[:-_KEPT], *torn}:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    async def close(self) -> None:
        """Cut off what is being carried out."""
        await ended(self._tasks.values())

    def _admit(self, path: Path) -> None:
        try:
            request = read_request(path)
        except (BadFile, ValueError) as error:
            _log.error("not a request, removed: %s: %s", path.name, error)
            path.unlink(missing_ok=True)
            return
        if (self._results / path.name).exists():  # an earlier monitor died between the two
            path.unlink(missing_ok=True)
        elif refused := why_not(request, *self._began, time.monotonic()):
            self._end(request, _outcome(refused))
        else:
            task = asyncio.create_task(self._carry_out(request), name=f"request {request.id}")
            self._tasks[request.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(request.id, None))

    async def _carry_out(self, request: Request) -> None:
        async with self._turns[request.bot], self._slots:
            request = replace(request, state=RUNNING, begun_at=time.time())
            try:
                replace_file(self._inbox / f"{request.id}.json", json.dumps({"schema": 1, **asdict(request)}).encode())
            except OSError as error:  # a full disk is no reason to leave a bot running that somebody wants to stop
                _log.error("request %s: %s", request.id, error.strerror)
            try:
                outcome = await self._run(request)
            except OSError as error:
                outcome = _outcome(f"cannot be begun: {error.strerror}")
        _log.info("%s %s (%s): %s", request.method, request.bot, request.by or "nobody said who", outcome["text"])
        self._end(request, outcome)

    async def _run(self, request: Request) -> dict[str, Any]:
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*self._command(request), stdin=null, stdout=pipe, stderr=pipe)
        try:
            async with asyncio.timeout(self._deadline_s):
                out, err = await process.communicate()
        except TimeoutError:
            return _outcome(f"cut off: it took longer than {self._deadline_s:g} s")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        assert process.returncode is not None
        return read_outcome(process.returncode, out, err)

    def _end(self, request: Request, outcome: Mapping[str, Any]) -> None:
        state = DONE if outcome["exit_code"] == 0 else FAILED
        self._write_result({"schema": 1, **asdict(request), "state": state, "ended_at": time.time(), **outcome})

    def _write_result(self, document: Mapping[str, Any]) -> None:
        """Write what became of a request, and let go of it; what fails is tried again at the next look."""
        name = f"{document['id']}.json"
        data = json.dumps(document, ensure_ascii=False).encode(errors="replace")
        if len(data) > FILE_CAP:
            data = json.dumps({**document, "result": None}).encode()
        try:
            replace_file(self._results / name, data)
            (self._inbox / name).unlink(missing_ok=True)
        except OSError as error:
            if document["id"] not in self._ended:
                _log.error("what became of request %s cannot be written yet: %s", document["id"], error.strerror)
            self._ended[document["id"]] = document
            return
        self._ended.pop(document["id"], None)


def read_request(path: Path) -> Request:
    """Return the request in a file; raises BadFile or ValueError."""
    request = build(Request, decode_object(read_file(path)))
    about = bool(BOT_ID.fullmatch(request.bot)) if request.method != "apply" else not request.bot
    if request.id != path.stem or request.method not in METHODS or not about:
        raise ValueError("not what supervisord would have written")
    return request


def why_not(request: Request, began_at: float, began_mono: float, now_mono: float) -> str:
    """Return why a request must not be carried out (any more) by the monitor that began then; "" when it may. Pure."""
    if request.state != WAITING:
        return "cut off: the monitor ended meanwhile, and how far it came is not known: look, and ask again"
    waited_s = max(began_at - request.asked_at, began_mono - request.asked_mono)
    if waited_s > _STALE_S or request.asked_mono > now_mono:  # the latter: from before a reboot
        return "not carried out: the monitor was away too long: ask again"
    return ""


def read_outcome(code: int, out: bytes, err: bytes) -> dict[str, Any]:
    """Return what the command's end means: its exit code, one line, all that it said, its JSON result. Pure."""
    lines = (redact(" ".join(line.split())) for line in err.decode(errors="replace").splitlines())
    said = [line.removeprefix("multibot: ")[:_LONGEST_TEXT] for line in lines if line]
    try:
        result = decode_object(redact(out.decode(errors="replace")).encode())
    except BadFile:
        result = None
    text = _sentence(result) or (said[-1] if said else "")
    if code < 0:
        text = f"killed by signal {-code}"
    return _outcome(text or f"exit code {code}", code, said[-_MOST_SAID:], result)


def _outcome(text: str, code: int | None = None, said: Sequence[str] = (), result: Any = None) -> dict[str, Any]:
    return {"exit_code": code, "text": text, "said": list(said), "result": result}


def _sentence(result: Mapping[str, Any] | None) -> str:
    """Return what a command's JSON result says in one line: of its bots, or its text."""
    if result is None:
        return ""
    bots = result.get("bots")
    if isinstance(bots, list):
        text = "; ".join(f"{bot.get('id')}: {bot.get('text')}" for bot in bots if isinstance(bot, dict))
    else:
        text = str(result.get("text", ""))
    return " ".join(text.split())


async def run(home: Home, asked: asyncio.Event) -> None:
    """Carry out requests until cancelled. ``asked``: set it for an early look."""
    executor, trouble = Executor(home), ""
    try:
        while True:
            asked.clear()
            try:
                executor.look()
                executor.sweep()
                trouble = ""
            except Exception as error:
                if describe(error) != trouble:
                    _log.error("requests cannot be looked for: %s", describe(error))
                trouble = describe(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await asked.wait()
    finally:
        await executor.close()
