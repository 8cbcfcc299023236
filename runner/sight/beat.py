"""The beat of a bot's event loop: a loop that stands still shows it by its silence."""

from __future__ import annotations

import contextlib
import sys
import weakref
from typing import Any, Callable

from multibot_runner.record import Recorder

BEAT_S = 3.0


class LoopBeat:
    """Beats on one loop at a time, by timers: no task that the bot would meet among its own.

    Only while the loop runs: a script may leave it for a while (``run_until_complete`` again and again) or for good.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._loop: Any = None
        self._timer: Any = None
        self._marked: weakref.WeakSet[Any] = weakref.WeakSet()  # loops that say when they are left

    def here(self) -> None:
        """Beat on the loop that runs this code, unless another one does already.

        Called where the bot polls or handles an update.
        """
        asyncio = sys.modules.get("asyncio")  # not imported for a bot that does without
        loop = asyncio._get_running_loop() if asyncio else None
        if self._loop is not None and (loop is self._loop or self._loop.is_running()):
            return
        if loop is not None:
            self.on(loop)
        elif self._loop is not None:  # one that did not say when it was left
            self._loop = None
            self._recorder.loop_left()

    def on(self, loop: Any) -> None:
        """Beat on ``loop`` whenever it runs."""
        if self._timer is not None:  # of another loop, or this one's of an earlier time
            self._timer.cancel()
        self._loop = loop
        if loop not in self._marked:
            with contextlib.suppress(AttributeError, TypeError):  # a loop made of C
                self._marked.add(loop)
                loop.stop, loop.close = self._leaving(loop, loop.stop), self._leaving(loop, loop.close)
        self._timer = loop.call_soon(self._beat, loop, False)

    def _leaving(self, loop: Any, leave: Callable[[], None]) -> Callable[[], None]:
        def left() -> None:
            if self._loop is loop and not loop.is_closed():
                self._timer.cancel()
                self._timer = loop.call_soon(self._beat, loop, False)  # when it runs again
                self._recorder.loop_left()
            leave()

        return left

    def _beat(self, loop: Any, at_once: bool) -> None:
        if self._loop is loop:
            self._recorder.beat(at_once)
            self._timer = loop.call_later(BEAT_S, self._beat, loop, True)
