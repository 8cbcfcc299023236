"""How supervisorctl asks for many things and waits for them: a stand-in of the server's namespace, its real answers."""

from __future__ import annotations

import json
import xmlrpc.client
from dataclasses import dataclass, field
from typing import Any

import pytest

from multibot_plugin.supervisor import ctl_requests
from multibot_plugin.supervisor.ctl_picture import in_words
from multibot_plugin.supervisor.ctl_requests import carried_out
from multibot_plugin.supervisor.faults import BAD_NAME
from multibot_plugin.supervisor.inside.requests import MONITOR_AWAY, TOO_MANY_REQUESTS


@dataclass
class Server:
    """Answers each request at the second look, and refuses as it is told to."""

    most: int = 1000
    away: list[str] = field(default_factory=list)
    ok: bool = True
    outcome: dict[str, Any] = field(default_factory=lambda: {"state": "done", "text": "well"})
    open: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    asked: list[tuple[str, ...]] = field(default_factory=list)
    refused: dict[str, xmlrpc.client.Fault] = field(default_factory=dict)

    def startBot(self, *arguments: str) -> str:
        if self.away:
            raise xmlrpc.client.Fault(MONITOR_AWAY, f"MONITOR_AWAY: {self.away.pop(0)}")
        if arguments[0] in self.refused:
            raise self.refused[arguments[0]]
        if len(self.open) >= self.most:
            raise xmlrpc.client.Fault(TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS: wait")
        self.asked.append(arguments)
        self.open[arguments[0]] = 0
        self.peak = max(self.peak, len(self.open))
        return arguments[0]

    def getResult(self, request: str) -> str:
        looks = self.open[request]
        self.open[request] += 1
        monitor = {"monitor": {"ok": self.ok, "text": "" if self.ok else "the monitor is away"}}
        if not looks or not self.ok:
            return json.dumps({"state": "running", **monitor})
        del self.open[request]
        return json.dumps({**self.outcome, **monitor})


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl_requests, "_LOOK_EVERY_S", 0.0)


def silent(text: str) -> None:
    raise AssertionError(text)


@pytest.mark.parametrize(("most", "peak"), [(1000, 16), (3, 3)])
def test_many_bots_are_asked_about_some_at_a_time(most: int, peak: int) -> None:
    server, bots = Server(most), [f"b{number}" for number in range(40)]
    found = list(carried_out(server, "startBot", bots, "ada", silent, in_words))
    assert sorted(found) == sorted(([f"{bot}: well"], True) for bot in bots)
    assert server.peak == peak
    assert server.asked == [(bot, "ada") for bot in bots]


def test_what_the_command_said_comes_before_the_outcome_and_is_harmless() -> None:
    outcome = {"state": "failed", "text": "a: gave\x1bup", "said": ["the database is away", "a: gave\x1bup"]}
    found = list(carried_out(Server(outcome=outcome), "startBot", ["a"], "", silent, in_words))
    assert found == [(["the database is away", "a: gave\\x1bup"], False)]


def test_a_monitor_that_is_about_to_report_is_waited_for_and_another_is_not() -> None:
    soon = Server(away=["it has not reported yet: ask again in a moment, else restart it"] * 3)
    assert list(carried_out(soon, "startBot", ["a"], "", silent, in_words)) == [(["a: well"], True)]
    with pytest.raises(xmlrpc.client.Fault, match="STOPPED"):
        list(carried_out(Server(away=["the monitor does not run (STOPPED)"]), "startBot", ["a"], "", silent, in_words))


def test_a_monitor_that_does_not_come_back_is_said_to_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl_requests, "_GONE_S", 0.0)
    told: list[str] = []
    monkeypatch.setattr(ctl_requests, "_TELL_AFTER_S", 0.0)
    found = list(carried_out(Server(ok=False), "startBot", [f"b{n}" for n in range(17)], "", told.append, in_words))
    unknown = [([f"b{n}: what became of it is not known: the monitor is away"], False) for n in range(16)]
    assert found == [*unknown, (["b16: not asked for: the monitor is away"], False)]
    assert told == ["b0: under way, the monitor is away ..."]


def test_what_is_refused_about_one_bot_costs_the_others_nothing() -> None:
    server = Server(refused={"b": xmlrpc.client.Fault(BAD_NAME, "BAD_NAME")})
    found = list(carried_out(server, "startBot", ["a", "b", "c"], "", silent, in_words))
    assert sorted(found) == [
        (["a: well"], True), (["b: supervisord knows no such bot"], False), (["c: well"], True),
    ]  # fmt: skip


def test_a_monitor_that_goes_away_in_between_is_told_of_each_bot_that_was_not_asked_about() -> None:
    away = xmlrpc.client.Fault(MONITOR_AWAY, "MONITOR_AWAY: the monitor does not run (STOPPED): start the program m")
    found = list(carried_out(Server(refused={"b": away}), "startBot", ["a", "b", "c"], "", silent, in_words))
    words = "the monitor does not run (STOPPED): type 'start m'"
    assert sorted(found) == [(["a: well"], True), ([f"b: {words}"], False), ([f"c: {words}"], False)]
