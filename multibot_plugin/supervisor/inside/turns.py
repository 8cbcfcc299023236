"""supervisord's main loop turns when there is something to do, and starts the dead again in the turn that finds them.

Stock supervisord polls for a whole second: SIGCHLD does not wake it, nor does a start or retry that falls due; and
it looks for what to start before it looks for the dead, so that they wait for the turn after.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from supervisor import events
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.xmlrpc import DeferredXMLRPCResponse

from multibot_plugin.supervisor.inside.patches import Patches

_REAPED_AT_ONCE = 100  # Supervisor.reap() stops after as many children
_A_LITTLE_LATER_S = 0.002  # supervisord asks for "later than", not "at"
_SHORTEST_S, _TICK_S = 0.01, 5.0
_STOPPING_S = 0.02
_ASK_AGAIN_S = 0.02
_stock_deferred = DeferredXMLRPCResponse.__init__
_LIVED_S = 1.0
_LOG_TAIL_S = 0.5
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR2)  # by supervisord
_MOVING = (ProcessStates.STARTING, ProcessStates.BACKOFF, ProcessStates.STOPPING)


class Turns:
    """Stands in for ``options.poller``: as long as supervisor's own, but ended by a signal and by what falls due."""

    def __init__(self, supervisord: Any, contain: Any, patches: Patches) -> None:
        self._supervisord = supervisord
        self._options = options = supervisord.options
        self._stock = options.poller
        self._soon = True  # the very first turn starts the programs
        self._moving: dict[int, Any] = {}
        self._ended: list[Any] = []
        self._rests: list[float] = []
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._stock.register_readable(self._read)
        self._timeout = 0.0
        self._measure, self._reap = contain(self._until_due), contain(self._reap_the_rest)
        self._revive, self._drain = contain(self._start_ended), contain(self._empty)
        self._renew = contain(self._register_anew)
        options.poller = self
        patches.put(DeferredXMLRPCResponse, "__init__", _deferred)
        options.get_signal = self._after_reaping(options.get_signal)
        events.subscribe(events.ProcessStateEvent, contain(self._changed))
        for kind in (events.ProcessGroupAddedEvent, events.TickEvent):  # the latter is told in the turn after
            events.subscribe(kind, contain(lambda event: self.soon()))
        events.subscribe(events.SupervisorStoppingEvent, contain(self._stopping))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def soon(self) -> None:
        """Let the next turn follow at once."""
        self._soon = True

    def poll(self, timeout: float) -> tuple[list[int], list[int]]:
        """Do what supervisor's poller does, for as long as nothing falls due or a signal comes."""
        self._timeout = timeout
        self._measure(time.time())
        began = time.monotonic()
        readable, writable = self._stock.poll(self._timeout)
        if not readable and not writable and time.monotonic() - began < self._timeout / 2:
            self._renew()
        if self._read in readable:
            readable.remove(self._read)  # supervisord knows nothing of it
            self._drain()
        return readable, writable

    def _until_due(self, now: float) -> None:
        """Let the poll last as long as nothing falls due: supervisord would look every second, over all programs."""
        if self._soon:
            self._soon, self._timeout = False, 0.0
            return
        # Without anything due a turn is needed for supervisord's own ticks, the shortest of which is five seconds.
        self._timeout = _TICK_S - now % _TICK_S + _A_LITTLE_LATER_S
        # Never a turn without any pause: what is due may have to wait for something else (a retry during a shutdown).
        waits = [max(_SHORTEST_S, _due(process) - now + _A_LITTLE_LATER_S) for process in self._moving.values()]
        waits += [
            _pause_s(channel) for channel in self._options.get_socket_map().values() if getattr(channel, "delay", 0)
        ]
        self._rests = [until for until in self._rests if until > now]
        waits += [until - now + _A_LITTLE_LATER_S for until in self._rests]
        if self._read < 0:
            waits.append(_STOPPING_S)
        self._timeout = min([self._timeout, *waits])

    def _register_anew(self) -> None:
        """Forget what is polled; supervisord registers all of it in every turn.

        A descriptor of a dead program stays registered until a poll finds it closed. One that got its number before
        that and whose other end is gone makes every poll return at once, with nothing (POLLERR alone), for ever.
        """
        for descriptor in self._stock.readables | self._stock.writables:
            with contextlib.suppress(KeyError):
                self._stock.unregister_readable(descriptor)
            with contextlib.suppress(KeyError):
                self._stock.unregister_writable(descriptor)
        if self._read >= 0:
            self._stock.register_readable(self._read)

    def _empty(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass

    def _after_reaping(self, get_signal: Callable[[], Any]) -> Callable[[], Any]:
        """Put the restarts behind supervisord's own reaping: it asks for signals next.

        Not in front of it: who is dead has closed descriptors that supervisord is about to read in this turn.
        """

        def call() -> Any:
            self._reap()
            self._revive()
            number = get_signal()
            if number:  # supervisord takes one in each turn
                self.soon()
            return number

        return call

    def _reap_the_rest(self) -> None:
        for _ in range(len(self._options.pidhistory) // _REAPED_AT_ONCE):
            self._supervisord.reap()

    def _start_ended(self) -> None:
        ended, self._ended = self._ended, []
        if ended:
            self._stock.poll(0)  # which takes out what they had open: the new ones get the same numbers
        groups = self._supervisord.process_groups
        for process in ended:
            if groups.get(process.group.config.name) is process.group:  # not taken out meanwhile
                process.transition()

    def _changed(self, event: Any) -> None:
        process = event.process
        state = process.get_state()
        if state in _MOVING:
            self._moving[id(process)] = process
        else:
            self._moving.pop(id(process), None)
        if state == ProcessStates.EXITED:
            if 0 <= time.time() - process.laststart < _LIVED_S:
                self._rests.append(_let_rest(process))
            else:
                self._ended.append(process)
        self.soon()  # event listeners, too, are told in the turn after

    def _stopping(self, event: Any) -> None:
        # Before a reload every descriptor above 4 is closed unasked: ours must be out of use by then.
        if self._options.mood == SupervisorStates.RESTARTING:
            signal.set_wakeup_fd(-1)
            read, self._read = self._read, -1
            self._stock.unregister_readable(read)
            os.close(read)
            os.close(self._write)


def _deferred(self: Any, request: Any, callback: Any) -> None:
    """Let an answer that waits ask again after a pause: that to ``stop X`` has none, and keeps a whole core busy."""
    _stock_deferred(self, request, callback)
    self.delay = self.delay or _ASK_AGAIN_S


def _let_rest(process: Any) -> float:
    """Keep a program that ended within a second from being started again before that second is over; return when.

    Possible with startsecs=0 alone: it would be started hundreds of times in a second, where stock supervisord's own
    slowness makes it one.
    """
    until = float(process.laststart + _LIVED_S)

    def transition() -> None:
        now = time.time()
        if process.get_state() == ProcessStates.EXITED and process.laststart <= now < until:
            return
        del process.transition  # the one of its class again
        process.transition()

    process.transition = transition
    return until


def _pause_s(channel: Any) -> float:
    """Return after how long an answer that waits for something asks again; ``tail -f`` is no hurry."""
    fifo = channel.producer_fifo
    waits = len(fifo) and isinstance(fifo.first(), DeferredXMLRPCResponse)
    return float(channel.delay if waits else max(channel.delay, _LOG_TAIL_S))


def _due(process: Any) -> float:
    """Return when supervisord has something to do about a process, after which it has to look."""
    if process.get_state() == ProcessStates.STARTING:
        return float(process.laststart + process.config.startsecs)
    return float(process.delay)


def quick_forks(options: Any) -> None:
    """Let children not close every possible descriptor one by one (27 ms with minfds=20000): exec closes them.

    All that Python opens is closed at exec anyway (PEP 446); what supervisord inherited itself is made so here. And
    let a signal that comes before the exec not be lost: until then a child has supervisord's own handlers, which only
    take notes (a stop right after a start ended in SIGKILL when the time to stop was over).
    """
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the descriptor of this very listing
                os.set_inheritable(int(name), False)
    stock_fork: Callable[[], int] = options.fork

    def fork() -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        pid = -1
        try:
            pid = stock_fork()
        finally:
            if pid == 0:
                options.minfds = 3
                for number in _HANDLED:
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    options.fork = fork
