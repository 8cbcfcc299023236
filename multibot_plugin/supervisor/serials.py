"""The numbers of supervisord's events: a gap between two of them is events that it threw away."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from multibot_runner.protocol import replace_file


class Serials:
    """The newest event's numbers, in ``path`` for the next listener; without fsync, for they end with ``sender``.

    ``serial`` counts all events of a supervisord, ``pool_serial`` those for our listener, from 0 after each reload.
    """

    def __init__(self, path: Path, sender: str) -> None:
        self._path = path
        self._sender = sender
        self._newest = self._read()

    def lost_before(self, serial: int, pool_serial: int) -> int:
        """Return how many events never came between the newest one and this one."""
        if self._newest is None or serial <= self._newest[0]:  # told once more, its listener died before the answer
            return 0
        return max(0, pool_serial - self._newest[1] - 1)

    def remember(self, serial: int, pool_serial: int) -> None:
        """Take this event for the newest, if it is."""
        if self._newest is not None and serial <= self._newest[0]:
            return
        self._newest = serial, pool_serial
        with suppress(OSError):  # a full disk: the next listener will not know of a gap before its first event
            replace_file(self._path, f"{self._sender} {serial} {pool_serial}".encode(), fsync=False)

    def _read(self) -> tuple[int, int] | None:
        with suppress(OSError, ValueError):
            whose, serial, pool_serial = self._path.read_text().split(" ")
            if whose == self._sender:
                return int(serial), int(pool_serial)
        return None
