"""One lock file for several processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

_LOOK_EVERY_S = 0.01


@contextlib.contextmanager
def locked(path: Path, wait_s: float, error: Exception) -> Iterator[int]:
    """Hold the lock file ``path`` (made where it is missing) and give its descriptor; it is free when its holder dies.

    Raises ``error`` when somebody else holds it for longer than ``wait_s`` seconds: a stopped process must not stop
    everybody else for ever.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise error from None
                time.sleep(_LOOK_EVERY_S)
        yield descriptor
    finally:
        os.close(descriptor)
