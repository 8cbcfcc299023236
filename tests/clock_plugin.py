"""A plugin for supervisord, for tests only: its wall clock can be set, and nobody else's."""

from __future__ import annotations

import time
from typing import Any


class Clock:
    """The namespace ``clock`` of XML-RPC."""

    def __init__(self) -> None:
        self._real, self._offset_s = time.time, 0.0
        time.time = lambda: self._real() + self._offset_s

    def shift(self, seconds: float) -> float:
        """Set the clock forward, or back

        @param double seconds How far
        @return double result The time it shows then
        """
        self._offset_s += seconds
        return time.time()


def make_interface(supervisord: Any) -> Clock:
    """Return the namespace, the same for each of supervisord's HTTP servers."""
    if not hasattr(supervisord, "test_clock"):
        supervisord.test_clock = Clock()
    clock: Clock = supervisord.test_clock
    return clock
