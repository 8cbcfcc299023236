"""Programs of one priority stop side by side, the highest number first: at shutdown, reload and ``stop all``.

Stock supervisord stops one group after the other at shutdown (each program is a group: a fleet would take its bots'
stopping times added up), and all at once at ``stop all``, the database before the bots that use it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from supervisor import events
from supervisor.http import NOT_DONE_YET
from supervisor.rpcinterface import SupervisorNamespaceRPCInterface, isRunning, make_allfunc
from supervisor.states import STOPPED_STATES, ProcessStates

from multibot_plugin.supervisor.inside.patches import Patches

_ASK_AGAIN_S = 0.05  # as supervisor's own


def install_stops(supervisord: Any, contain: Any, patches: Patches) -> None:
    """Let this supervisord stop like that."""
    stopper = Stopper(supervisord)
    events.subscribe(events.SupervisorStoppingEvent, contain(lambda event: stopper.go_on()))
    events.subscribe(events.ProcessStateEvent, contain(stopper.changed))
    patches.put(SupervisorNamespaceRPCInterface, "stopAllProcesses", stop_all_in_order)


class Stopper:
    """While supervisord stops: everything of one priority at the same time."""

    def __init__(self, supervisord: Any) -> None:
        self._supervisord = supervisord
        self._level: list[Any] = []  # the groups that are being stopped, the ended ones last
        self._busy = False

    def changed(self, event: Any) -> None:
        """Go on when the last of this priority has ended."""
        if not self._supervisord.stopping or event.process.get_state() not in STOPPED_STATES:
            return
        while self._level and not self._level[-1].get_unstopped_processes():
            self._level.pop()
        if not self._level:
            self.go_on()

    def go_on(self) -> None:
        """Stop what is next (which may change states at once, by its own doing)."""
        if self._busy:
            return
        self._busy = True
        try:
            while not self._level:
                living = [g for g in self._supervisord.process_groups.values() if g.get_unstopped_processes()]
                if not living:
                    return
                highest = max(group.config.priority for group in living)
                self._level = [group for group in living if group.config.priority == highest]
                for group in self._level:
                    group.stop_all()
                self._level = [group for group in self._level if group.get_unstopped_processes()]
        finally:
            self._busy = False


def stop_all_in_order(self: Any, wait: bool = True) -> Callable[[], Any]:
    """Stop all processes in the process list, the highest priority number first

    @param  boolean wait   Wait for each process to be fully stopped
    @return array result   An array of process status info structs
    """
    self._update("stopAllProcesses")
    processes = self._getAllProcesses()
    if wait:
        processes.sort(key=lambda pair: -pair[0].config.priority)
        levels = [list(level) for _, level in groupby(processes, key=lambda pair: pair[0].config.priority)]
    else:
        levels = [processes]
    stops: list[Any] = [make_allfunc(level, isRunning, self.stopProcess, wait=wait) for level in levels]
    results: list[Any] = []

    def in_order() -> Any:
        while levels:
            if stops[0] is not None:
                answer = stops[0]()
                if answer is NOT_DONE_YET:
                    return NOT_DONE_YET
                results.extend(answer)
                stops[0] = None
            if wait and any(process.get_state() == ProcessStates.STOPPING for _, process in levels[0]):
                return NOT_DONE_YET  # somebody else stops it: what it uses has to wait all the same
            del stops[0], levels[0]
        return results

    in_order.delay = _ASK_AGAIN_S  # type: ignore[attr-defined]
    in_order.rpcinterface = self  # type: ignore[attr-defined]
    return in_order
