"""One thing after the other, whoever wants it: threads, and the handlers of signals."""

from __future__ import annotations

import collections
import threading
from typing import Callable, Deque


class Turns:
    """Does what any thread may ask for, one act at a time; what a signal's handler asks for within one, after it.

    ``lock`` is held meanwhile.
    """

    _acting: bool

    def __init__(self) -> None:
        self.renew()

    def take(self, act: Callable[[], None]) -> None:
        """Do ``act``, at once or as soon as the one that this one came into is done."""
        with self.lock:
            self._acts.append(act)
            while self._acts and not self._acting:  # again: one may come just before the flag falls
                self._acting = True
                try:
                    self.catch_up()
                finally:
                    self._acting = False

    def catch_up(self) -> None:
        """Do what waits, even within an act; the caller has the lock."""
        while self._acts:
            self._acts.popleft()()

    def renew(self) -> None:
        """Be free in a forked child, where nobody gives back what a thread of the parent held."""
        self.lock = threading.RLock()
        self._acts: Deque[Callable[[], None]] = collections.deque()
        self._acting = False
