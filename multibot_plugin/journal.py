"""The host's one journal: what must be recorded also while the database is away.

A directory of JSON lines. ``active.jsonl`` is appended to by any process of the installation (a lock, O_APPEND,
fsync, then return); the monitor's replayer closes it by a rename, brings the closed file into the database in one
transaction and removes it. Entries have an id, so a file that is replayed twice changes nothing the second time.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from multibot_plugin.errors import MultibotError
from multibot_plugin.locks import locked
from multibot_plugin.shapes import build
from multibot_runner.protocol import sync_directory

_MIB = 1024 * 1024
_LOCK_PATIENCE_S = 2.0
_ACTIVE, _REJECTED = "active.jsonl", "rejected.jsonl"


class JournalError(MultibotError):
    """The journal cannot be written or read: a full disk, a missing right, too much waiting for the database."""


class JournalHeld(JournalError):
    """Another process holds the journal's lock."""


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True)
class AuditEntry:
    """One row of the audit log. ``at`` is seconds since the epoch; ``bot`` None: about the installation itself.

    ``actor`` is who, ``door`` through what ("multibot bot stop", "monitor"), ``detail`` a flat JSON object.
    """

    id: str
    at: float
    actor: str
    door: str
    bot: str | None
    action: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    host: str = field(default_factory=socket.gethostname)


@dataclass(frozen=True)
class Wish:
    """An operator's wish that a bot should run (``enabled``) or not, expressed while the database did not hear it."""

    id: str
    at: float
    actor: str
    door: str
    bot: str
    enabled: bool
    host: str = field(default_factory=socket.gethostname)


Entry = AuditEntry | Wish
_KINDS: Mapping[str, type[AuditEntry] | type[Wish]] = {"audit": AuditEntry, "wish": Wish}


@dataclass(frozen=True)
class Batch:
    """A closed file of the journal: its entries in the order they were made, and the lines that are none."""

    path: Path
    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...]


class Journal:
    """The journal in ``directory`` (made when first written). ``limit`` bytes at most wait for the database.

    ``patience_s``: how long to wait for another process that holds the journal's lock.
    """

    def __init__(
        self, directory: Path, limit: int = 64 * _MIB, segment: int = _MIB, patience_s: float = _LOCK_PATIENCE_S
    ) -> None:
        self._directory = directory
        self._limit = limit
        self._segment = segment
        self._patience_s = patience_s

    def append(self, *entries: Entry) -> None:
        """Write ``entries``, all or none of them, and return when they are on the disk. Any process may.

        Raises JournalError; then nothing was written.
        """
        data = b"".join(_line(entry) for entry in entries)
        if not data:
            return
        with self._errors("cannot be written"):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                waiting = self.size()
                if waiting + len(data) > self._limit:
                    raise JournalError(
                        f"{self._directory}: the journal is full ({waiting // _MIB} MiB wait for the database)"
                    )
                self._write(data)

    def size(self) -> int:
        """Return how many bytes wait for the database."""
        size = 0
        for path in self._files():
            with suppress(FileNotFoundError):  # never written, or brought into the database just now
                size += path.stat().st_size
        return size

    def pending(self) -> Batch | None:
        """Return the oldest entries that are not in the database yet, closed to writers; None without any.

        Raises JournalError.
        """
        if not self._directory.is_dir():
            return None
        with self._errors("cannot be read"):
            with self._locked():
                closed = self._closed()
                active = self._directory / _ACTIVE
                if not closed and active.exists() and active.stat().st_size:
                    closed = [self._close_active()]
            return _read(closed[0]) if closed else None

    def wishes(self) -> dict[str, bool]:
        """Return the last wish for each bot that the database has not heard of yet, without closing anything."""
        return {entry.bot: entry.enabled for entry in self._waiting() if isinstance(entry, Wish)}

    def audit(self) -> list[AuditEntry]:
        """Return what is not in the audit log yet, in its order, without closing anything."""
        return [entry for entry in self._waiting() if isinstance(entry, AuditEntry)]

    def _waiting(self) -> list[Entry]:
        for _ in range(10):
            try:
                return [entry for path in self._files() if path.exists() for entry in _read(path).entries]
            except FileNotFoundError:  # closed or replayed just now: look again
                continue
        return []

    def done(self, batch: Batch) -> None:
        """Forget a batch that is in the database. Raises JournalError."""
        with self._errors("cannot be written"):
            batch.path.unlink(missing_ok=True)
            sync_directory(self._directory)

    def reject(self, entry: Entry | str, reason: str) -> None:
        """Set aside an entry or line that the database will never take (about 2 MiB are kept). Raises JournalError."""
        with self._errors("cannot be written"):
            path = self._directory / _REJECTED
            if path.exists() and path.stat().st_size > _MIB:
                path.replace(path.with_suffix(".old"))
            with open(path, "ab", opener=_private) as file:
                what = entry if isinstance(entry, str) else vars(entry)
                try:
                    line = json.dumps({"reason": reason, "entry": what}, default=dict)
                except RecursionError:  # as deep as it could just be read
                    line = json.dumps({"reason": reason, "entry": getattr(entry, "id", "a line")})
                file.write(line.encode() + b"\n")

    def _files(self) -> list[Path]:
        return [*self._closed(), self._directory / _ACTIVE]

    def _closed(self) -> list[Path]:
        return sorted(p for p in self._directory.glob("[0-9]*.jsonl"))

    def _write(self, data: bytes) -> None:
        path = self._directory / _ACTIVE
        new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            # A writer that died in the middle left half a line: it was never acknowledged, ours begins a new one.
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if new:
            sync_directory(self._directory)
        if size + len(data) > self._segment:
            self._close_active()

    def _close_active(self) -> Path:
        last = self._closed()[-1:]
        number = int(last[0].name.partition("-")[0]) + 1 if last else 1
        # The random part: a number may come back after its file is gone, a name must not (see done).
        path = self._directory / f"{number:010d}-{uuid.uuid4().hex[:8]}.jsonl"
        (self._directory / _ACTIVE).rename(path)
        sync_directory(self._directory)
        return path

    def _locked(self) -> AbstractContextManager[int]:
        error = JournalHeld(f"{self._directory}: another process holds the journal's lock")
        return locked(self._directory / "lock", self._patience_s, error)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JournalError(f"{self._directory}: the journal {what}: {error.strerror}") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _line(entry: Entry) -> bytes:
    kind = "wish" if isinstance(entry, Wish) else "audit"
    return json.dumps({"kind": kind, **asdict(entry)}).encode() + b"\n"


def _read(path: Path) -> Batch:
    entries, unreadable = [], []
    for line in path.read_bytes().split(b"\n"):
        try:
            if line:
                entries.append(_entry(json.loads(line)))
        except (ValueError, TypeError, KeyError, RecursionError):
            unreadable.append(line.decode(errors="replace"))
    return Batch(path, tuple(entries), tuple(unreadable))


def _entry(item: Any) -> Entry:
    return build(_KINDS[item["kind"]], item)
