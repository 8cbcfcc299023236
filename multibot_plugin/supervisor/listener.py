"""``[eventlistener:multibot]``: supervisord's event protocol, and nothing else on its stdout.

One asyncio program: this protocol, the monitor (health/watch.py) and what carries out requests (executor.py) side
by side. A failing monitor never keeps an event from being acknowledged. A broken protocol ends the process, so that
supervisord starts a new one: it would never speak to this one again (listener state UNKNOWN), which shows as RUNNING.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import os
import signal
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from multibot_plugin.errors import MultibotError
from multibot_plugin.health import watch
from multibot_plugin.health.absence import note_stop
from multibot_plugin.home import Home, find_home, told_home
from multibot_plugin.journal import AuditEntry, Journal, JournalError, JournalHeld
from multibot_plugin.supervisor import executor
from multibot_plugin.supervisor.inside import requests
from multibot_plugin.supervisor.parent import sender
from multibot_plugin.supervisor.serials import Serials
from multibot_runner.protocol import PROGRAM_PREFIX
from multibot_runner.redact import redact

_READY, _DONE = b"READY\n", b"RESULT 2\nOKREADY\n"
_LONGEST_HEADER, _LONGEST_PAYLOAD = 4096, 16 * 1024 * 1024
_NAMESPACE = uuid.UUID("5b0f9a43-7b8b-4a4e-8a44-1b8e3f0f7c55")
_MONITOR_PAUSE_S = 5.0
_RETRY_EVERY_S = 1.0
# How long an event waits for its answer while another process holds the journal's lock; supervisord kills a monitor
# that does not answer for 30 s (inside/care.py), and keeps 4,096 events meanwhile.
_HOLD_BACK_S = 20.0
_HELD_EVERY_S = 0.02
_MOST_UNSAID = 1000
# What supervisord alone knows, and forgets: ends that no runner could write down.
_KEPT = {
    "PROCESS_STATE_EXITED": "bot.exited",
    "PROCESS_STATE_BACKOFF": "bot.start_failed",  # within startsecs, or without ever having become a process
    "PROCESS_STATE_FATAL": "bot.gave_up",
}
_log = logging.getLogger("multibot.listener")


class BrokenProtocol(Exception):
    """What came from supervisord is no event."""


@dataclass(frozen=True)
class Event:
    """One event: the header's words, and the payload's first line as words (empty when it has none)."""

    name: str
    serial: int
    pool_serial: int
    payload: Mapping[str, str]

    @property
    def bot(self) -> str | None:
        process = self.payload.get("processname", "")
        return process.removeprefix(PROGRAM_PREFIX) if process.startswith(PROGRAM_PREFIX) else None


def claim_streams() -> tuple[int, int]:
    """Take stdin and stdout for the protocol and return private descriptors of them.

    From then on whatever prints (a plugin, a library, a child) goes to stderr, and whoever reads stdin finds its end.
    """
    stdin, stdout = os.dup(0), os.dup(1)  # not inherited by children
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a pipe's is not, and a log is read live
    return stdin, stdout


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """Return the next event; None when supervisord is gone. Raises BrokenProtocol."""
    try:
        line = await reader.readline()
    except ValueError as error:
        raise BrokenProtocol("a header without an end") from error
    if not line.endswith(b"\n"):
        return None
    header = _words(line.decode("utf-8", errors="replace"))
    try:
        length = int(header["len"])
        serial, pool_serial, name = int(header["serial"]), int(header["poolserial"]), header["eventname"]
    except (KeyError, ValueError) as error:
        raise BrokenProtocol(f"not a header of an event: {line[:200]!r}") from error
    if not 0 <= length <= _LONGEST_PAYLOAD:
        raise BrokenProtocol(f"an event of {length} characters")
    try:
        payload = await _read_characters(reader, length)
    except asyncio.IncompleteReadError:
        return None
    return Event(name, serial, pool_serial, _words(payload.partition("\n")[0]))


async def _read_characters(reader: asyncio.StreamReader, count: int) -> str:
    """Read ``count`` characters: ``len`` counts them, the pipe holds UTF-8 (supervisor 4.3.0, process.py:985)."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = ""
    while len(text) < count:
        text += decoder.decode(await reader.readexactly(count - len(text)))
    return text


def _words(line: str) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition(":") for word in line.split())}


class Listener:
    """The protocol on two descriptors. ``wake`` is set when the monitor should look soon.

    What is to be recorded stands in the journal before its event is acknowledged; another process that holds the
    journal's lock is waited for. Where the journal cannot be written (a full disk), or the lock is never let go, the
    events are acknowledged all the same, and the newest entries wait in memory for ``retry``.
    """

    def __init__(
        self, stdout: int, journal: Journal, wake: asyncio.Event, asked: asyncio.Event, sender: str, serials: Serials
    ) -> None:
        self._stdout = stdout
        self._journal = journal
        self._wake = wake
        self._asked = asked
        self._sender = sender
        self._serials = serials
        self._unsaid: deque[AuditEntry] = deque(maxlen=_MOST_UNSAID)
        self._failing = False
        self._stopping = False
        self._supervisord_pid = os.getppid()

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Acknowledge events until supervisord is gone. Raises BrokenProtocol."""
        with suppress(BrokenPipeError):
            self._write(_READY)
            while (event := await read_event(reader)) is not None:
                try:
                    self._take(event)
                    await self._record()
                except Exception as error:
                    _log.error("event %s: %s", event.name, error)
                self._serials.remember(event.serial, event.pool_serial)
                self._write(_DONE)
        self._outlive()
        await self._record()

    def _outlive(self) -> None:
        """Record that supervisord died, and every bot with it: nobody else is left who could."""
        if self._stopping:  # it said so before, as it does when it is asked to end
            return
        _log.error("supervisord died")
        self._keep("multibot", "listener", None, "supervisord.died", {"pid": str(self._supervisord_pid)}, "")

    def _take(self, event: Event) -> None:
        lost = self._serials.lost_before(event.serial, event.pool_serial)
        if lost > 0:
            # The monitor looks at the whole fleet at every tick; what was lost with the events is the record.
            _log.error("%d events were lost: the monitor looks at every bot again", lost)
            self._keep("multibot", "listener", None, "events.lost", {"count": lost}, f"/lost/{event.serial}")
            self._wake.set()
        if event.bot is not None or event.name.startswith("SUPERVISOR_STATE"):
            self._wake.set()
        if event.name == "REMOTE_COMMUNICATION":  # anybody may send one; whatever else it says means nothing to us
            if event.payload.get("type") == requests.EVENT:
                self._asked.set()
            return
        self._stopping = self._stopping or event.name == "SUPERVISOR_STATE_CHANGE_STOPPING"
        action = _KEPT.get(event.name)
        if event.bot is not None and action is not None and event.payload.get("expected") != "1":
            detail = {key: value for key, value in event.payload.items() if key in ("pid", "from_state", "tries")}
            self._keep("supervisord", "event", event.bot, action, detail, f"/{event.serial}")

    async def retry(self) -> None:
        """Try again, until cancelled, to journal what could not be journalled."""
        while True:
            await asyncio.sleep(_RETRY_EVERY_S)
            self.hand_over()

    def hand_over(self) -> JournalError | None:
        """Journal everything that waits, all or nothing of it; return why that cannot be done now."""
        if not self._unsaid:
            return None
        try:
            self._journal.append(*self._unsaid)
        except JournalError as error:
            return error
        if self._failing:
            _log.info("the journal can be written again: %d entries recorded", len(self._unsaid))
        self._unsaid.clear()
        self._failing = False
        return None

    async def _record(self) -> None:
        """Journal what waits before its event is answered; a lock that another process holds is waited for."""
        if self._failing:  # else every event would wait anew: ``retry`` is at it
            return
        deadline = time.monotonic() + _HOLD_BACK_S
        while isinstance(error := self.hand_over(), JournalHeld) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_HELD_EVERY_S)
        if error is not None:
            _log.error("%s is not recorded yet: %s", self._unsaid[-1].action, error)
            self._failing = True

    def _keep(
        self, actor: str, door: str, bot: str | None, action: str, detail: Mapping[str, str | int], what: str
    ) -> None:
        """Add an entry. A listener that dies before its answer gets the event again: the same id, one row."""
        number = str(uuid.uuid5(_NAMESPACE, self._sender + what))
        if len(self._unsaid) == self._unsaid.maxlen:
            _log.error("%s of %s is never recorded: too many entries wait", self._unsaid[0].action, self._unsaid[0].bot)
        self._unsaid.append(AuditEntry(number, time.time(), actor, door, bot, action, detail))

    def _write(self, data: bytes) -> None:
        os.write(self._stdout, data)


async def serve(home: Home, stdin: int, stdout: int) -> None:
    """Run protocol and monitor until supervisord is gone. Raises BrokenProtocol."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LONGEST_HEADER)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(stdin, "rb", buffering=0))
    wake, asked = asyncio.Event(), asyncio.Event()
    whose = sender()
    serials = Serials(home.run / "events", whose)
    listener = Listener(stdout, Journal(home.journal, patience_s=0.0), wake, asked, whose, serials)
    tasks = [
        asyncio.create_task(_watch(home, wake), name="monitor"),
        asyncio.create_task(executor.run(home, asked), name="executor"),
        asyncio.create_task(listener.retry(), name="journal"),
    ]
    try:
        await listener.run(reader)
    finally:
        for task in tasks:
            task.cancel()
        listener.hand_over()


async def _watch(home: Home, wake: asyncio.Event) -> None:
    """Run the monitor, and again after a failure: never a reason to leave the protocol."""
    while True:
        try:
            await watch.run(home, wake)
        except Exception:
            _log.exception("the monitor failed and begins anew")
        await asyncio.sleep(_MONITOR_PAUSE_S)


def _leave_as_asked(home: Home) -> None:
    """End because somebody stops the monitor, which is nothing to be told of."""
    note_stop(home)
    os._exit(0)


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def main() -> int:
    """Be the event listener until supervisord is gone."""
    stdin, stdout = claim_streams()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("multibot").setLevel(logging.INFO)
    try:
        home = told_home() or find_home()
    except MultibotError as error:
        _log.error("%s", error)
        return error.exit_code
    asyncio.run(_serve_and_leave(home, stdin, stdout))
    return 1  # not reached


async def _serve_and_leave(home: Home, stdin: int, stdout: int) -> None:
    code = 1
    # Not asyncio's: it is heard also while the loop is busy.
    signal.signal(signal.SIGTERM, lambda number, frame: _leave_as_asked(home))
    try:
        await serve(home, stdin, stdout)
        code = 0
    except BrokenProtocol as error:
        _log.error("supervisord's protocol is broken (%s): beginning anew", error)
    except Exception:
        _log.exception("the listener failed: beginning anew")
    finally:
        # At once, whatever a plugin's thread or a task is doing: all that counts is on the disk at any moment. The log
        # is a pipe to supervisord, which may be dead: an error there would leave asyncio waiting for every task.
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
