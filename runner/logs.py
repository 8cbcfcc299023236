"""What a bot's process writes, on its way into the log: without tokens (redact.py), in lines (lines.py).

Everything Python writes (print, logging, warnings, tracebacks, ``sys.stdout.buffer``) passes ``install``'s layer:
synchronous, no thread. What C code or a bot's children write to the descriptors does not; readers redact again.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import re
import select
import sys
import time
from typing import Any, Iterable, List, Optional, TextIO

from multibot_runner.lines import JSON, PLAIN, STAMPED, Lines
from multibot_runner.redact import COLON, PATTERN, redact, secrets_of
from multibot_runner.turns import Turns

_BYTES = re.compile(PATTERN.encode())
# What may be the beginning of one: digits, digits and a part of the colon, or all that and some characters.
_TAIL = re.compile(rf"\d{{1,12}}(?:(?:{COLON})[A-Za-z0-9_-]*|%(?:25)*[23]?)?\Z".encode())
_CHUNK = 64 * 1024
_WINDOW = 160  # longer than any token: 12 + 64 characters and an encoded colon


class Redactor:
    """Redacts a stream of bytes; a token may be split anywhere between two pieces.

    Only an end that may be the beginning of a token is held back, until the next piece or ``release``.
    """

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        self._known = tuple(s.encode() for s in secrets_of(tokens))
        self._held = b""
        self._holding = True

    def feed(self, data: bytes) -> bytes:
        """Return what may be written now of all that was fed."""
        data = self._held + data
        for secret in self._known:  # before the cut, which could fall into one
            data = data.replace(secret, b"<redacted>")
        cut = self._safe(data) if self._holding else len(data)
        self._held = data[cut:]
        return _BYTES.sub(rb"\1\2<redacted>", data[:cut])

    def release(self) -> bytes:
        """Return the rest, and hold nothing back from now on."""
        self._holding = False
        return self.feed(b"")

    def forget(self) -> None:
        """Drop what is held (in a forked child: it is the parent's)."""
        self._held = b""

    def _safe(self, data: bytes) -> int:
        if data.endswith(b"\n"):
            return len(data)
        start = max(0, len(data) - _WINDOW)
        match = _TAIL.search(data, start)
        cut = match.start() if match else len(data)
        for secret in self._known:
            for size in range(min(len(secret) - 1, len(data)), len(data) - cut, -1):
                if data.endswith(secret[:size]):
                    cut = len(data) - size
                    break
        return cut


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, waiting where the other side set the descriptor to non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


class Writer:
    """The one way of a process's streams into its log. ``form`` and ``rate`` as in lines.Lines."""

    def __init__(self, tokens: Iterable[str], form: str, rate: int) -> None:
        tokens = tuple(tokens)
        self.form = form
        self._descriptors = {"stdout": 1, "stderr": 2}
        self._redactors = {stream: Redactor(tokens) for stream in self._descriptors}
        self._lines = Lines(form, rate)
        self._second, self._moment = -1, ""
        self._turns = Turns()

    def write(self, stream: str, data: Any) -> int:
        """Take a piece of a stream, all of it."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _CHUNK):  # a write of any size is throttled as it goes
            self._turns.take(functools.partial(self._pass, stream, bytes(view[start : start + _CHUNK])))
        return len(view)

    def say(self, text: str) -> None:
        """Write a line of the runner itself."""
        self._turns.take(lambda: self._put("stderr", self._lines.say(text, self._stamp())))

    def release(self) -> None:
        """Write out what is held back, and hold nothing back from now on."""
        with self._turns.lock:
            self._turns.catch_up()  # before an end within a signal's handler: what that one wrote
            now, stamp = time.monotonic(), self._stamp()
            for stream, redactor in self._redactors.items():
                self._put(stream, self._lines.feed(stream, redactor.release(), now, stamp))
            self._put("stderr", self._lines.release(now, stamp))

    def forget(self) -> None:
        """Drop what is held (in a forked child: it is the parent's, and so is who holds the lock)."""
        self._turns.renew()
        self._lines.forget()
        for redactor in self._redactors.values():
            redactor.forget()

    def _pass(self, stream: str, data: bytes) -> None:
        piece = self._redactors[stream].feed(data)
        self._put(stream, self._lines.feed(stream, piece, time.monotonic(), self._stamp()))

    def _put(self, stream: str, data: bytes) -> None:
        if data:
            write_all(self._descriptors[stream], data)

    def _stamp(self) -> str:
        if self.form == PLAIN:
            return ""
        now = time.time()
        second = int(now)
        if second != self._second:
            here = time.localtime(second)
            if self.form == JSON:
                zone = time.strftime("%z", here)
                moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', here)}.%03d{zone[:3]}:{zone[3:]}"
            else:
                moment = time.strftime("%Y-%m-%d %H:%M:%S.%%03d", here)
            self._second, self._moment = second, moment
        return self._moment % ((now - second) * 1000)


class _Stream(io.BufferedIOBase):
    """What lies below a text stream. Not io.BufferedWriter, which a signal's handler may not enter a second time."""

    def __init__(self, stream: str, descriptor: int, writer: Writer) -> None:
        super().__init__()
        self._stream, self._descriptor, self._writer = stream, descriptor, writer
        self.name = f"<{stream}>"
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        return self._writer.write(self._stream, data)


_own: List[str] = []
_writer = Writer((), STAMPED, 0)  # until ``install``: for what the runner says before it knows its settings


def install(tokens: Iterable[str], form: str, rate: int) -> None:
    """Put the way to the log below ``sys.stdout`` and ``sys.stderr``; what is held is released at exit."""
    global _writer
    tokens = tuple(tokens)
    _own.extend(tokens)
    _writer = Writer(tokens, form, rate)
    for name in ("stdout", "stderr"):
        old: Optional[TextIO] = getattr(sys, name)
        if old is None:
            continue
        old.flush()
        below = _Stream(name, old.fileno(), _writer)
        new = io.TextIOWrapper(below, old.encoding, old.errors, line_buffering=True)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    os.register_at_fork(after_in_child=_writer.forget)
    atexit.register(release)


def write(stream: str, data: bytes) -> None:
    """Pass on a piece of ``stdout`` or ``stderr`` that did not come through Python."""
    _writer.write(stream, data)


def release() -> None:
    """Write out what is held back, at exit or before an end that runs no exit handlers."""
    _flush()
    let_go()


def let_go() -> None:
    """Write out what got as far as here, before an end that flushes nothing (``os._exit``)."""
    with contextlib.suppress(OSError):
        _writer.release()


def form() -> str:
    """Return in what form lines stand in the log."""
    return _writer.form


def clean(text: str) -> str:
    """Return ``text`` without anything that looks like a token, and without this process's own."""
    return redact(text, _own)


def say(text: str) -> None:
    """Write one line of the runner itself into the bot's log."""
    _flush()
    with contextlib.suppress(OSError):
        _writer.say(clean(text))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the bot may have put anything there
            stream.flush()
