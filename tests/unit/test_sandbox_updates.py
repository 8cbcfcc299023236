"""The queue and the poll of a bot, on a clock that the test holds."""

from __future__ import annotations

from typing import Any

from multibot_plugin.sandbox.model import OTHER_POLL, Reply
from multibot_plugin.sandbox.updates import KEPT_S, Ask, Poll, Updates


class Client:
    """A long poll's client: what it was answered, and whether it is still there."""

    def __init__(self, updates: Updates, mono: float) -> None:
        self.answers: list[Reply | None] = []
        self.there = True
        updates.wait(Poll(Ask(timeout=50), self.answers.append, lambda: self.there), mono)


def filled(count: int) -> Updates:
    updates = Updates(first_id=100)
    for number in range(count):
        updates.add("message", {"text": str(number)}, at=0.0)
    return updates


def ids(updates: Updates, at: float = 1.0, **ask: Any) -> list[int]:
    reply, _ = updates.ask(Ask(**ask), at, mono=at)
    assert reply is not None
    assert isinstance(reply.body, dict)
    return [update["update_id"] for update in reply.body["result"]]


def test_updates_come_again_until_an_offset_confirms_them() -> None:
    updates = filled(3)
    assert ids(updates) == [100, 101, 102]
    assert ids(updates) == [100, 101, 102]
    assert ids(updates, offset=102) == [102]
    assert ids(updates) == [102]
    assert (updates.pending, updates.delivered, updates.redelivered) == (1, 8, 5)


def test_a_limit_gives_the_oldest_first() -> None:
    updates = filled(3)
    assert ids(updates, limit=2) == [100, 101]
    assert ids(updates, limit=2, offset=102) == [102]


def test_a_negative_offset_keeps_the_last_and_forgets_the_rest() -> None:
    updates = filled(5)
    assert ids(updates, offset=-2) == [103, 104]
    assert ids(updates) == [103, 104]
    assert ids(filled(2), offset=-9) == [100, 101]


def test_updates_are_kept_for_a_day() -> None:
    assert ids(filled(1), at=KEPT_S) == [100]
    assert ids(filled(1), at=KEPT_S + 1) == []


def test_allowed_updates_are_remembered_when_a_call_leaves_them_out() -> None:
    updates = Updates(first_id=1)
    ids(updates, allowed=frozenset({"message"}))
    ids(updates)
    assert updates.add("callback_query", {}, 0.0) is None
    assert updates.add("message", {}, 0.0) is not None
    ids(updates, allowed=frozenset())
    assert updates.add("callback_query", {}, 0.0) is not None


def test_nothing_pending_waits_only_when_a_timeout_allows_it() -> None:
    updates = Updates(first_id=1)
    assert ids(updates, timeout=0) == []
    assert updates.ask(Ask(timeout=1), 0.0, 0.0)[0] is None


def test_a_new_update_answers_the_open_poll() -> None:
    updates = Updates(first_id=1)
    client = Client(updates, mono=0.0)
    updates.add("message", {}, 0.0)
    updates.add("message", {}, 0.0)
    (answer,) = client.answers
    assert answer is not None
    assert isinstance(answer.body, dict)
    assert [u["update_id"] for u in answer.body["result"]] == [1]


def test_the_older_poll_gets_the_conflict_and_the_next_within_3_s_gets_it_late() -> None:
    updates = Updates(first_id=1)
    clients = [Client(updates, mono) for mono in (0.0, 1.0, 2.0, 5.0, 9.0)]
    answers = [client.answers for client in clients[:4]]
    assert [(a.status, a.delay_s) for (a,) in answers if a] == [(409, 0), (409, 3), (409, 0), (409, 0)]
    assert [a.body["description"] for (a,) in answers if a and isinstance(a.body, dict)] == [OTHER_POLL] * 4
    assert clients[4].answers == []
    assert updates.conflicts == 4


def test_a_poll_whose_client_has_gone_is_no_conflict_and_gets_no_update() -> None:
    updates = Updates(first_id=1)
    gone = Client(updates, mono=0.0)
    gone.there = False
    Client(updates, mono=1.0).there = False
    updates.add("message", {}, 0.0)
    assert (gone.answers, updates.conflicts, updates.delivered) == ([], 0, 0)


def test_the_real_pace_holds_a_repeated_poll_back() -> None:
    updates = Updates(first_id=1, real_pace=True)
    assert updates.ask(Ask(offset=7), 0.0, mono=10.0)[1].timeout == 0
    at_once = updates.ask(Ask(offset=7), 0.0, mono=10.4)[1]
    assert (at_once.timeout, at_once.limit) == (3, 1)
    assert updates.ask(Ask(offset=7, timeout=10), 0.0, mono=12.0)[1] == Ask(offset=7, timeout=10)
    assert updates.ask(Ask(offset=8), 0.0, mono=12.1)[1].timeout == 0
