"""Tokens stay out of a bot's log: redaction (redact.py) of streams that arrive in pieces.

Everything Python writes (print, logging, warnings, tracebacks, ``sys.stdout.buffer``) passes ``install``'s raw layer:
synchronous, no thread. What C code or a bot's children write to the descriptors does not; readers redact again.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import re
import select
import sys
from typing import Any, Callable, Iterable, List, Optional, TextIO

from multibot_runner.redact import COLON, PATTERN, redact, secrets_of

_BYTES = re.compile(PATTERN.encode())
# What may be the beginning of one: digits, digits and a part of the colon, or all that and some characters.
_TAIL = re.compile(rf"\d{{1,12}}(?:(?:{COLON})[A-Za-z0-9_-]*|%(?:25)*[23]?)?\Z".encode())
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


class _RedactingRaw(io.RawIOBase):
    def __init__(self, descriptor: int, name: str, redactor: Redactor) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._redactor = redactor
        self.name = name
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        piece = bytes(data)
        write_all(self._descriptor, self._redactor.feed(piece))
        return len(piece)

    def release(self) -> None:
        write_all(self._descriptor, self._redactor.release())


_installed: List[Callable[[], None]] = []
_own: List[str] = []


def install(tokens: Iterable[str]) -> None:
    """Put the redaction below ``sys.stdout`` and ``sys.stderr``; what is held is released at exit."""
    tokens = tuple(tokens)
    _own.extend(tokens)
    raws: List[_RedactingRaw] = []
    for name in ("stdout", "stderr"):
        old: Optional[TextIO] = getattr(sys, name)
        if old is None:
            continue
        old.flush()
        redactor = Redactor(tokens)
        raw = _RedactingRaw(old.fileno(), f"<{name}>", redactor)
        raws.append(raw)
        new = io.TextIOWrapper(io.BufferedWriter(raw), old.encoding, old.errors, line_buffering=True)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
        os.register_at_fork(after_in_child=redactor.forget)

    def release_all() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        for raw in raws:
            with contextlib.suppress(OSError):
                raw.release()

    atexit.register(release_all)
    _installed.append(release_all)


def release() -> None:
    """Write out what is held back, before an end that runs no exit handlers."""
    for release_all in _installed:
        release_all()


def clean(text: str) -> str:
    """Return ``text`` without anything that looks like a token, and without this process's own."""
    return redact(text, _own)


def say(text: str) -> None:
    """Write one line of the runner itself into the bot's log."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"multibot: {text}\n")
        sys.stderr.flush()
