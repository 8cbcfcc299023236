"""What is replaced in supervisor's classes, given back before a reload: the next configuration may be without us."""

from __future__ import annotations

from typing import Any

from supervisor import events
from supervisor.states import SupervisorStates


class Patches:
    """The replacements of one supervisord."""

    def __init__(self, supervisord: Any, contain: Any) -> None:
        self._options = supervisord.options
        self._old: list[tuple[Any, str, Any]] = []
        events.subscribe(events.SupervisorStoppingEvent, contain(self._stopping))

    def put(self, owner: Any, name: str, value: Any) -> Any:
        """Replace an attribute of a class; return what it was."""
        old = getattr(owner, name)
        self._old.append((owner, name, old))
        setattr(owner, name, value)
        return old

    def _stopping(self, event: Any) -> None:
        if self._options.mood == SupervisorStates.RESTARTING:
            while self._old:
                setattr(*self._old.pop())
