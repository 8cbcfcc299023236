"""``[eventlistener:multibot]``: supervisord's event protocol, and nothing else on its stdout.

One asyncio program: this protocol, the monitor (health/monitor.py) and what carries out requests (executor.py) side by
side. A failing monitor never keeps an
event from being acknowledged; a broken protocol ends the process, because supervisord would never speak to it again
(listener state UNKNOWN) while it shows as RUNNING, and starts a new one instead.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import os
import socket
import sys
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from multibot_plugin.errors import MultibotError
from multibot_plugin.health import monitor
from multibot_plugin.health.ledger import boot_id
from multibot_plugin.home import Home, find_home, told_home
from multibot_plugin.journal import AuditEntry, Journal, JournalError, new_id
from multibot_plugin.supervisor import executor
from multibot_plugin.supervisor.inside import requests
from multibot_runner.protocol import PROGRAM_PREFIX
from multibot_runner.redact import redact

_READY, _DONE = b"READY\n", b"RESULT 2\nOKREADY\n"
_LONGEST_HEADER, _LONGEST_PAYLOAD = 4096, 16 * 1024 * 1024
_NAMESPACE = uuid.UUID("5b0f9a43-7b8b-4a4e-8a44-1b8e3f0f7c55")
_MONITOR_PAUSE_S = 5.0
_RETRY_EVERY_S = 1.0
_LOCK_PATIENCE_S = 0.1  # the monitor's loop stands still meanwhile
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

    What is to be recorded stands in the journal before its event is acknowledged. While the journal cannot be written
    the events are acknowledged all the same, and the newest entries wait in memory for ``retry``.
    """

    def __init__(self, stdout: int, journal: Journal, wake: asyncio.Event, asked: asyncio.Event, sender: str) -> None:
        self._stdout = stdout
        self._journal = journal
        self._wake = wake
        self._asked = asked
        self._sender = sender
        self._last: int | None = None
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
                except Exception as error:
                    _log.error("event %s: %s", event.name, error)
                self._write(_DONE)
        self._outlive()

    def _outlive(self) -> None:
        """Record that supervisord died, and every bot with it: nobody else is left who could."""
        if self._stopping:  # it said so before, as it does when it is asked to end
            return
        _log.error("supervisord died")
        number = str(uuid.uuid5(_NAMESPACE, self._sender))
        detail = {"pid": str(self._supervisord_pid)}
        self._keep(AuditEntry(number, monitor.clock()[1], "multibot", "listener", None, "supervisord.died", detail))

    def _take(self, event: Event) -> None:
        lost = 0 if self._last is None else event.pool_serial - self._last - 1
        self._last = event.pool_serial if self._last is None else max(self._last, event.pool_serial)
        if lost > 0:
            # The monitor looks at the whole fleet at every tick; what was lost with the events is the record.
            _log.error("%d events were lost: the monitor looks at every bot again", lost)
            self._keep(
                AuditEntry(new_id(), monitor.clock()[1], "multibot", "listener", None, "events.lost", {"count": lost})
            )
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
            # A listener that dies before its answer gets the event again: the same id, one row.
            number = uuid.uuid5(_NAMESPACE, f"{self._sender}/{event.serial}")
            detail = {key: value for key, value in event.payload.items() if key in ("pid", "from_state", "tries")}
            self._keep(AuditEntry(str(number), monitor.clock()[1], "supervisord", "event", event.bot, action, detail))

    async def retry(self) -> None:
        """Try again, until cancelled, to journal what could not be journalled."""
        while True:
            await asyncio.sleep(_RETRY_EVERY_S)
            self.hand_over()

    def hand_over(self) -> None:
        """Journal everything that waits, all or nothing of it."""
        if not self._unsaid:
            return
        try:
            self._journal.append(*self._unsaid)
        except JournalError as error:
            if not self._failing:
                _log.error("%s is not recorded yet: %s", self._unsaid[-1].action, error)
            self._failing = True
            return
        if self._failing:
            _log.info("the journal can be written again: %d entries recorded", len(self._unsaid))
        self._unsaid.clear()
        self._failing = False

    def _keep(self, entry: AuditEntry) -> None:
        if len(self._unsaid) == self._unsaid.maxlen:
            _log.error("%s of %s is never recorded: too many entries wait", self._unsaid[0].action, self._unsaid[0].bot)
        self._unsaid.append(entry)
        if not self._failing:  # else every event would wait for a lock that somebody holds
            self.hand_over()

    def _write(self, data: bytes) -> None:
        os.write(self._stdout, data)


async def serve(home: Home, stdin: int, stdout: int) -> None:
    """Run protocol and monitor until supervisord is gone. Raises BrokenProtocol."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LONGEST_HEADER)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(stdin, "rb", buffering=0))
    wake, asked = asyncio.Event(), asyncio.Event()
    listener = Listener(stdout, Journal(home.journal, patience_s=_LOCK_PATIENCE_S), wake, asked, _sender())
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
            await monitor.run(home, wake)
        except Exception:
            _log.exception("the monitor failed and begins anew")
        await asyncio.sleep(_MONITOR_PAUSE_S)


def _sender() -> str:
    """Return what tells this run of supervisord from every other: serial numbers begin anew with it.

    A process's time of creation would do for the boot and the ticks, but it moves when the clock is set.
    """
    parent = os.getppid()
    with suppress(OSError, IndexError):
        ticks = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{socket.gethostname()}/{boot_id()}/{parent}/{ticks}"
    return f"{socket.gethostname()}/{uuid.uuid4()}"


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
    code = 0
    try:
        await serve(home, stdin, stdout)
    except BrokenProtocol as error:
        _log.error("supervisord's protocol is broken (%s): beginning anew", error)
        code = 1
    # At once, whatever a plugin's thread or a task is doing: all that counts is on the disk at any moment.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
