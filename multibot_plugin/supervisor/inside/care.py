"""A monitor that hangs or has lost the protocol is killed, and supervisord starts another.

supervisord waits for an event's answer for ever, and never speaks again to a listener whose answer it did not
understand (state UNKNOWN), while both show as RUNNING. The monitor gets an event at least every minute (TICK_60), so
that one that hangs is BUSY for ever before long. Listeners of others are left alone: they may be slow by design.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from supervisor import events
from supervisor.states import EventListenerStates, ProcessStates

_BEGINS = 10
MONITOR, _LISTENER = "multibot", "multibot_plugin.supervisor.listener"


def is_monitor(process: Any) -> bool:
    """Whether this is the process of our event listener."""
    return process.config.name == MONITOR or _LISTENER in process.config.command


def monitor_of(supervisord: Any) -> Any | None:
    """Return supervisord's process object of our event listener; None without one."""
    for group in supervisord.process_groups.values():
        if hasattr(group, "event_buffer"):  # an event listener's pool
            for process in group.processes.values():
                if is_monitor(process):
                    return process
    return None


class Care:
    """Looks at every tick of supervisord (five seconds) whether the monitor still answers."""

    def __init__(self, supervisord: Any, contain: Any, patience_s: float) -> None:
        self._supervisord = supervisord
        self._patience_s = patience_s
        self._seen: object = None
        self._since = 0.0
        events.subscribe(events.Tick5Event, contain(lambda event: self.look(time.monotonic())))

    def look(self, now_mono: float) -> None:
        """Kill a monitor that has not moved for too long."""
        process = monitor_of(self._supervisord)
        if process is None or process.get_state() != ProcessStates.RUNNING:
            self._seen = None
            return
        state = process.listener_state
        seen = (process.pid, state, getattr(process.event, "serial", None))
        if seen != self._seen or state == EventListenerStates.READY:
            self._seen, self._since = seen, now_mono
        lost = state == EventListenerStates.UNKNOWN
        # Until it says that it is ready it imports, perhaps on a host that starts a thousand bots at the same time.
        patience_s = self._patience_s * (_BEGINS if state == EventListenerStates.ACKNOWLEDGED else 1)
        if lost or now_mono - self._since > patience_s:
            why = "has lost the protocol" if lost else f"has not answered for {now_mono - self._since:.0f} s"
            self._supervisord.options.logger.warn(f"multibot: the monitor (pid {process.pid}) {why}: killing it")
            process.signal(signal.SIGKILL)
            self._seen = None
