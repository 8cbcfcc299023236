"""A bot's updates and its polls: offset, redelivery, and who gets the 409. Pure: times are parameters.

The rules are those of Telegram's server (tdlib/telegram-bot-api, Client.cpp: process_get_updates_query,
do_get_updates, abort_long_poll, fail_query_conflict).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from multibot_plugin.sandbox.model import OTHER_POLL, Json, Reply, Update, failure, success

KEPT_S = 24 * 3600.0
LONGEST_POLL_S = 50
CONFLICT_PACE_S = 3.0
_REPEAT_S, _REPEAT_AT_ONCE_S = 3.0, 0.5
_LARGEST_ID = 2**31 - 1


@dataclass(frozen=True)
class Ask:
    """What a getUpdates asks for. ``timeout`` in seconds; ``allowed`` None: as the last time."""

    offset: int = 0
    limit: int = 100
    timeout: int = 0
    allowed: frozenset[str] | None = None


@dataclass(eq=False)
class Poll:
    """An open long poll. ``deliver`` gives it its reply (None: look again); ``alive``: is its client still there?"""

    ask: Ask
    deliver: Callable[[Reply | None], None]
    alive: Callable[[], bool]


class Updates:
    """The queue of one bot and the one long poll that may wait at it.

    ``real_pace``: also hold a repeated poll back as Telegram does (it slows a bot's stop by up to 3 s).
    """

    def __init__(self, first_id: int, real_pace: bool = False) -> None:
        self._queue: deque[Update] = deque()
        self._next_id = first_id % _LARGEST_ID or 1
        self._real_pace = real_pace
        self._allowed: frozenset[str] = frozenset()
        self._poll: Poll | None = None
        self._last: tuple[int, float] | None = None
        self._no_conflict_before = 0.0
        self.conflicts = 0
        self.delivered = 0
        self.redelivered = 0

    @property
    def pending(self) -> int:
        return len(self._queue)

    @property
    def allowed(self) -> list[str]:
        return sorted(self._allowed)

    def add(self, kind: str, payload: Json, at: float) -> Update | None:
        """Queue an update and wake the poll; None when the bot does not want updates of this kind."""
        if self._allowed and kind not in self._allowed:
            return None
        update = Update(self._next_id, kind, payload, at)
        self._next_id += 1
        self._queue.append(update)
        poll, self._poll = self._poll, None
        if poll and poll.alive():
            poll.deliver(self._answer(poll.ask, at))
        return update

    def ask(self, ask: Ask, at: float, mono: float) -> tuple[Reply | None, Ask]:
        """Return the answer to a getUpdates, or None when it has to wait; and what it is to wait for.

        ``at`` is the epoch and dates the updates, ``mono`` the monotonic clock; both in seconds.
        """
        if ask.allowed is not None:
            self._allowed = ask.allowed
        ask = self._paced(ask, mono)
        reply = self._answer(ask, at)
        return (reply if reply.body["result"] or not ask.timeout else None), ask  # type: ignore[index]

    def wait(self, poll: Poll, mono: float) -> None:
        """Make this the open poll; an older one gets the 409, unless its client has gone."""
        self.end_poll(OTHER_POLL, mono)
        self._poll = poll

    def end_poll(self, conflict: str, mono: float) -> None:
        """Answer the open poll with a 409, unless its client has gone."""
        poll, self._poll = self._poll, None
        if poll and poll.alive():
            poll.deliver(self.conflict(conflict, mono))

    def conflict(self, description: str, mono: float) -> Reply:
        """Return a 409, and count it; another one within 3 s goes out 3 s late."""
        self.conflicts += 1
        reply = failure(409, description)
        if mono < self._no_conflict_before:
            return replace(reply, delay_s=CONFLICT_PACE_S)
        self._no_conflict_before = mono + CONFLICT_PACE_S
        return reply

    def wake_poll(self, reply: Reply | None = None) -> None:
        """End the open poll with ``reply``; None: its call begins anew (a fault may hit it then)."""
        poll, self._poll = self._poll, None
        if poll:
            poll.deliver(reply)

    def leave(self, poll: Poll) -> None:
        """Forget a poll whose time is over or whose client has gone."""
        if self._poll is poll:
            self._poll = None

    def allow(self, kinds: frozenset[str]) -> None:
        """Queue updates of these kinds only (empty: all)."""
        self._allowed = kinds

    def drop_pending(self) -> None:
        self._queue.clear()

    def _paced(self, ask: Ask, mono: float) -> Ask:
        last, self._last = self._last, (ask.offset, mono)
        if self._real_pace and last and last[0] == ask.offset:
            if mono < last[1] + _REPEAT_AT_ONCE_S:
                ask = replace(ask, limit=1)
            if mono < last[1] + _REPEAT_S and ask.timeout < _REPEAT_S:
                ask = replace(ask, timeout=int(_REPEAT_S))
        return ask

    def _answer(self, ask: Ask, at: float) -> Reply:
        while self._queue and (self._queue[0].at < at - KEPT_S or self._confirmed(self._queue[0], ask.offset)):
            self._queue.popleft()
        found = list(self._queue)[: ask.limit]
        for update in found:
            self.delivered += 1
            self.redelivered += update.sent > 0
            update.sent += 1
        return success([u.as_json() for u in found])

    def _confirmed(self, update: Update, offset: int) -> bool:
        if offset < 0:  # keep the last n
            return len(self._queue) > -offset
        return update.id < offset
