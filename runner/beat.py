"""The beat of a bot's event loop: a loop that stands still shows it by its silence."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from multibot_runner.record import Recorder

BEAT_S = 3.0


class LoopBeat:
    """Beats on one loop at a time, by timers: no task that the bot would meet among its own."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._loop: Any = None

    def here(self) -> None:
        """Beat on the loop that runs this code, unless another one does already.

        Called where the bot polls or handles an update. Without a running loop: a beat that nobody runs any more is
        over, for a script may use a loop for a while and go on without.
        """
        asyncio = sys.modules.get("asyncio")  # not imported for a bot that does without
        loop = asyncio._get_running_loop() if asyncio else None
        if self._loop is not None and (loop is self._loop or self._loop.is_running()):
            return
        if loop is not None:
            self.on(loop)
        elif self._loop is not None:
            self._over()

    def on(self, loop: Any) -> None:
        """Beat on ``loop`` from its next turn on, until it is closed."""
        self._loop = loop
        close = loop.close

        def closed() -> None:
            if self._loop is loop:
                self._over()
            close()

        with contextlib.suppress(AttributeError):  # a loop made of C
            loop.close = closed
        loop.call_soon(self._beat, loop)

    def _beat(self, loop: Any) -> None:
        if self._loop is loop:
            self._recorder.beat()
            loop.call_later(BEAT_S, self._beat, loop)

    def _over(self) -> None:
        self._loop = None
        self._recorder.update(loop_mono=None)
