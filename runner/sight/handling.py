"""What becomes of the updates that arrive: the oldest that waits, how long one takes, how many fail."""

from __future__ import annotations

import functools
import time
from typing import Callable, Dict, Iterable, List, TypeVar

from multibot_runner.record import Recorder
from multibot_runner.turns import Turns

_MOST = 1000  # updates that are remembered while nobody shows that he handles them
_T = TypeVar("_T")


def _in_turn(tell: Callable[[Handling, _T], None]) -> Callable[[Handling, _T], None]:
    """Decorate what any thread may call, and a signal's handler within such a call."""

    @functools.wraps(tell)
    def call(self: Handling, what: _T) -> None:
        self._turns.take(lambda: tell(self, what))

    return call


class Handling:
    """The updates between arrival and end, by their ``update_id``; any thread may tell.

    ``running`` is called where the bot polls or handles, from within its code. Until the first update is begun nothing
    is told of those that wait: a bot may handle them where we cannot see it.
    """

    def __init__(
        self, recorder: Recorder, running: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.running = running
        self._recorder = recorder
        self._clock = clock
        self._turns = Turns()
        self.renew = self._turns.renew  # in a forked child
        self._seen = False
        self._last_begun = 0
        # Each maps an update to its arrival, in the order of arrival.
        self._waiting: Dict[int, float] = {}
        self._passed: Dict[int, float] = {}
        self._begun: Dict[int, float] = {}

    @_in_turn
    def polled(self, updates: Iterable[int]) -> None:
        """Updates came by getUpdates (the recorder has counted them)."""
        self._arrive(updates)
        self._tell()

    @_in_turn
    def delivered(self, update: int) -> None:
        """An update was read: it came by webhook unless by a poll, or is an old one that the bot has kept."""
        if update <= self._last_begun:  # a late one counts when it is begun
            return
        self._recorder.delivered(len(self._arrive([update])))
        self._tell()

    def begin(self, updates: List[int]) -> None:
        """The bot begins to handle updates.

        Libraries begin them in the order of their arrival: one that arrived before these and was not begun was thrown
        away (a bot may skip what came while it was down), or somebody reorders them.
        """
        self.running()
        self._begin(updates)

    @_in_turn
    def _begin(self, updates: List[int]) -> None:
        self._seen = True
        self._recorder.delivered(len(self._arrive(updates)))
        for update in updates:
            self._last_begun = update
            while update in self._waiting:
                first = next(iter(self._waiting))
                self._passed[first] = self._waiting.pop(first)
            if update in self._passed:
                self._begun[update] = self._passed.pop(update)
        _forget(self._passed)
        self._tell()

    @_in_turn
    def end(self, updates: List[int]) -> None:
        """The bot is done with updates, well or not."""
        ended = [self._begun.pop(update) for update in updates if update in self._begun]
        if ended:
            self._recorder.handled(len(ended), self._clock() - ended[0])
            self._tell()  # that none waits any more is written at once, with all that is known

    def failed(self) -> None:
        """A handler raised an error."""
        self._recorder.handler_failed()

    def _arrive(self, updates: Iterable[int]) -> List[int]:
        """Return those that were not known."""
        known = (self._waiting, self._passed, self._begun)
        new = [update for update in updates if not any(update in where for where in known)]
        now = self._clock()
        self._waiting.update((update, now) for update in new)
        if not self._seen:
            _forget(self._waiting)
        return new

    def _tell(self) -> None:
        oldest = [next(iter(where.values())) for where in (self._begun, self._waiting) if where]
        since = min(oldest) if oldest and self._seen else None
        self._recorder.update(handlers_seen=self._seen, oldest_update_mono=since)


def _forget(where: Dict[int, float]) -> None:
    """Keep the newest."""
    while len(where) > _MOST:
        del where[next(iter(where))]
