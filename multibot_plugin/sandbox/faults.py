"""Faults on demand: which call of which bot goes wrong, how, and for how long. Pure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from multibot_plugin.sandbox.model import FaultKind, Reply


@dataclass(eq=False)
class Fault:
    """What happens to calls of ``methods`` (lower case, empty: all) of bot ``bot`` (a number; None: all bots).

    ``status`` answers ``reply``; ``hang`` answers when the fault is over; ``drop`` closes the connection unanswered;
    ``lose`` carries the call out, then does the same. It ends at ``until`` (monotonic seconds), after ``times``
    calls, or when cleared; None: not by that. ``over`` is set when a hanging call may go on.
    """

    bot: int | None
    kind: FaultKind
    methods: frozenset[str]
    until: float | None = None
    times: int | None = None
    reply: Reply | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def concerns(self, bot: int, method: str) -> bool:
        return self.times != 0 and self.bot in (None, bot) and (not self.methods or method in self.methods)


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self, bot: int | None) -> int:
        """End the faults of one bot, or (None) every fault; return how many there were."""
        gone = [f for f in self._faults if bot is None or f.bot == bot]
        self._faults = [f for f in self._faults if f not in gone]
        for fault in gone:
            fault.over.set()
        return len(gone)

    def strike(self, bot: int, method: str, now: float) -> Fault | None:
        """Return the newest fault that hits this call, and count the call; None: nothing does.

        A ``hang`` that is used up stays listed, so that ``clear`` still finds it and releases what it holds.
        """
        self._faults = [
            f for f in self._faults if (f.until is None or now < f.until) and (f.times != 0 or f.kind == "hang")
        ]
        for fault in reversed(self._faults):
            if fault.concerns(bot, method):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None
