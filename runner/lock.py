"""One process per bot: a POSIX record lock on a file.

Such a lock tells who holds it, is not inherited by a fork (a child that lives on does not keep it) and is kept over
an exec. It is lost when any descriptor of the file is closed, so nobody else here opens that file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from multibot_runner import family

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid
PATIENCE_S = 5.0  # beyond stop_wait_s


def open_lock(path: Path) -> int:
    """Open the lock file; raises OSError.

    The directory is the bot's, so a file of another owner (the bot's user was changed) can be replaced.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except PermissionError:
        os.unlink(path)
        return os.open(path, flags, 0o600)


def try_lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def holder(descriptor: int) -> Optional[int]:
    """Return the pid of another process that holds the lock; None without one."""
    wish = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, wish))
    return None if kind == fcntl.F_UNLCK else pid


@dataclass
class Waiting:
    """The wait for the lock, one look at a time. ``patience_s``: how long an orphan may keep it from us."""

    descriptor: int
    patience_s: float
    say: Callable[[str], None]
    _pid: Optional[int] = None
    _since: float = 0.0
    _orphan_since: Optional[float] = None

    def look(self, now: float) -> bool:
        """Return whether the lock is ours now; kills an orphan that has held it for too long."""
        if try_lock(self.descriptor):
            if self._pid is not None:
                self.say(f"the lock is free after {now - self._since:.1f} s")
            return True
        pid = holder(self.descriptor)
        if pid is None:
            return False
        if self._pid is None:
            self._since = now
        if pid != self._pid:
            self._pid, self._orphan_since = pid, None
            self.say(f"process {pid} already runs this bot: waiting until it ends")
        self._watch(pid, now)
        return False

    def _watch(self, pid: int, now: float) -> None:
        parent = family.parent_of(pid)
        if parent is None or parent == os.getppid() or family.name_of(pid) == family.FOREGROUND:
            self._orphan_since = None
        elif self._orphan_since is None:
            self._orphan_since = now
        elif now - self._orphan_since >= self.patience_s:
            self.say(f"process {pid} is an orphan and does not end: killing it")
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            self._orphan_since = now
