"""What else runs inside supervisord: dead bots are noticed at once, bots stop side by side, long answers are quick.

Stock supervisord sleeps up to a second before it looks at a dead child and up to another before it starts it again
(SIGCHLD does not wake its poll); at shutdown it stops one program after the other; it sends an answer in pieces of
4 KB with a walk over all programs between them. Imports supervisor and the standard library only. Nothing here may
let an exception out: supervisord would end and orphan every bot.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from supervisor import events
from supervisor.http import deferring_http_channel
from supervisor.states import SupervisorStates

_ANSWER_PIECE = 65536  # what supervisor's own HTTP server has before it is lowered
_REAPED_AT_ONCE = 100  # Supervisor.reap() stops after as many children


def install(supervisord: Any) -> None:
    """Add all this to this supervisord. After ``reload`` supervisord is a new object and this is called again."""
    deferring_http_channel.ac_out_buffer_size = _ANSWER_PIECE
    waker = Waker(supervisord)
    stopper = Stopper(supervisord)

    def stopping(event: Any) -> None:
        # Before a reload every descriptor above 4 is closed unasked: ours must be out of use by then.
        if supervisord.options.mood == SupervisorStates.RESTARTING:
            waker.close()
        stopper.go_on()

    def state_changed(event: Any) -> None:
        if supervisord.stopping:
            stopper.go_on()

    events.subscribe(events.SupervisorStoppingEvent, _contained(supervisord, stopping))
    events.subscribe(events.ProcessStateEvent, _contained(supervisord, state_changed))


def _contained(supervisord: Any, callback: Callable[[Any], None]) -> Callable[[Any], None]:
    def call(event: Any) -> None:
        try:
            callback(event)
        except Exception as error:
            supervisord.options.logger.warn(f"multibot: {callback.__name__}: {type(error).__name__}")

    return call


class Waker:
    """Wakes supervisord's poll at every signal, by a pipe that it reads like any other, and reaps the dead there.

    It has the methods that supervisord's main loop calls on what it finds in its socket map.
    """

    def __init__(self, supervisord: Any) -> None:
        self._supervisord = supervisord
        self._map: dict[int, Any] = supervisord.options.get_socket_map()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._map[self._read] = self

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._map.pop(self._read, None)
        os.close(self._read)
        os.close(self._write)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        try:
            while os.read(self._read, 4096):
                pass
        except BlockingIOError:
            pass
        for _ in range(1 + len(self._supervisord.options.pidhistory) // _REAPED_AT_ONCE):
            self._supervisord.reap()

    def handle_write_event(self) -> None:
        """Never called: writable() says no."""

    def handle_error(self) -> None:
        """What the main loop calls for an exception in handle_read_event."""
        error = sys.exc_info()[0]
        self._supervisord.options.logger.warn(f"multibot: reaping: {error.__name__ if error else 'failed'}")


class Stopper:
    """While supervisord stops: everything of one priority at the same time, the highest number first."""

    def __init__(self, supervisord: Any) -> None:
        self._supervisord = supervisord
        self._busy = False

    def go_on(self) -> None:
        """Stop what is next; called at the beginning and at every change of a state (also by its own doing)."""
        if self._busy:
            return
        self._busy = True
        try:
            living = [g for g in self._supervisord.process_groups.values() if g.get_unstopped_processes()]
            level = max((group.config.priority for group in living), default=0)
            for group in living:
                if group.config.priority == level:
                    group.stop_all()
        finally:
            self._busy = False
