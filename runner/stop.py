"""SIGTERM: written down first, then the graceful way, and an end in any case.

The bot may install whatever handler it likes (python-telegram-bot and asyncio do): it is called after ours. With
supervisord dead nobody sends SIGKILL, so the process arms a timer that kills it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any, Callable, Union

from multibot_runner import logs, outcome
from multibot_runner.record import Recorder

# As they are before any Stopper stands before them.
_set_handler, _get_handler = signal.signal, signal.getsignal
_Handler = Union[Callable[[int, Any], Any], int, signal.Handlers, None]


def block() -> None:
    """Hold SIGTERM back: until the bot's code runs it is only looked for by ``wait``."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def wait(seconds: float) -> bool:
    """Sleep; return True as soon as SIGTERM has come."""
    return signal.sigtimedwait({signal.SIGTERM}, max(0.0, seconds)) is not None


class Stopper:
    """Stands before the bot's own SIGTERM handler.

    ``within_s``: how long a stop may take. ``last`` is called before an end that runs no exit handlers.
    """

    def __init__(self, recorder: Recorder, within_s: float, last: Callable[[], None] = lambda: None) -> None:
        self._recorder = recorder
        self._within_s = within_s
        self._last = last
        self._pid = os.getpid()
        self._wanted: _Handler = signal.SIG_DFL
        self._armed = False

    def install(self) -> None:
        """Take SIGTERM over, and let it in."""
        _set_handler(signal.SIGTERM, self._on_term)
        signal.signal = self._set  # type: ignore[assignment]
        signal.getsignal = self._get  # type: ignore[assignment]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _set(self, number: int, handler: Any) -> Any:
        if number == signal.SIGALRM and self._armed:
            return _get_handler(number)
        if number != signal.SIGTERM:
            return _set_handler(number, handler)
        if not callable(handler) and handler not in (signal.SIG_DFL, signal.SIG_IGN):
            raise TypeError("signal handler must be signal.SIG_IGN, signal.SIG_DFL, or a callable object")
        _set_handler(number, self._on_term)  # asyncio sets flags by it; raises where only the main thread may
        before, self._wanted = self._wanted, handler
        return before

    def _get(self, number: int) -> Any:
        return self._wanted if number == signal.SIGTERM else _get_handler(number)

    def _on_term(self, number: int, frame: Any) -> None:
        own = os.getpid() == self._pid  # a child that the bot forked has these handlers too
        if own and not self._armed:
            self._arm()
        if callable(self._wanted):
            self._wanted(number, frame)
        elif self._wanted == signal.SIG_DFL:
            if own:
                self._recorder.finish(outcome.stopped(signal_number=number))
                self._last()
                logs.release()
            die_by(number)

    def _arm(self) -> None:
        self._armed = True
        with contextlib.suppress(Exception):
            self._recorder.stop()
        _set_handler(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.setitimer(signal.ITIMER_REAL, max(0.1, self._within_s))


def die_by(number: int) -> None:
    """End this process by a signal, as whoever waits for it expects."""
    with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
        _set_handler(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
