from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from multibot_plugin.bots import conform as conform_module
from multibot_plugin.bots.conform import Applied, conform
from multibot_plugin.home import Home
from multibot_plugin.supervisor.client import Supervisor


class Stopping:
    """A supervisord in which somebody has told bot 'a' to end; ``words``: what it says of it, look by look."""

    def __init__(self, *words: str) -> None:
        self.words, self.orders, self.held = iter(words), list[str](), list[bool]()
        self.states = iter(("STOPPING", "STOPPING", "RUNNING", "STOPPING"))

    def update(self, bots: Collection[str], held: Collection[str]) -> dict[str, str]:
        self.held += ["a" in held for bot in bots]
        return {bot: next(self.words) for bot in bots}

    def info(self, program: str) -> dict[str, Any]:
        state = next(self.states, "STOPPED")
        return {"pid": 0 if state == "STOPPED" else 7, "statename": state}

    def stop(self, program: str, wait_s: float | None) -> None:
        self.orders.append(f"stop {program}")

    def conform(self, top: Path, left: Collection[str] = ()) -> Applied:
        """Bring it a change."""
        row = {"id": "a", "digest": "d1", "enabled": True, "statename": "STOPPING", "stop_at": None, "stop_wait_s": 9.0}
        answer = {"bots": [row], "monitor": {"ok": False}, "at": 0.0}
        section = cast(Any, SimpleNamespace(id="a", digest="d2", autostart=True, stop_wait_s=9.0))
        return conform(Home(top, top, top, top), cast(Supervisor, self), answer, {"a": section}, left)


@pytest.fixture(autouse=True)
def no_time_goes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conform_module, "_POLL_S", 0.0)


@pytest.mark.parametrize(
    ("words", "left", "held", "stops", "applied"),
    [
        (("stopping", "stopping", "standing"), (), [True] * 3, 0, Applied(standing=("a",))),
        (("stopping", "replaced"), ("a",), [False] * 2, 0, Applied(restarted=("a",))),  # a stop of ours
        (("stopping", "running", "stopping", "replaced"), (), [True, True, False, False], 1,
         Applied(restarted=("a",))),  # somebody has started it again
    ],
)  # fmt: skip
def test_a_stop_that_is_under_way_is_undone_only_if_it_is_ours_or_somebody_started_the_bot_again(
    tmp_path: Path, words: tuple[str, ...], left: Collection[str], held: list[bool], stops: int, applied: Applied
) -> None:
    supervisord = Stopping(*words)
    assert supervisord.conform(tmp_path, left) == applied
    assert (supervisord.held, supervisord.orders) == (held, ["stop bot-a"] * stops)


def test_an_earlier_users_bot_is_told_to_end_only_while_it_is_not_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = list[str]()
    monkeypatch.setattr(conform_module, "of_earlier_users", lambda paths, digest: ["traces"])
    monkeypatch.setattr(conform_module, "end_those", ended.extend)
    supervisord = Stopping("replaced")
    assert supervisord.conform(tmp_path) == Applied(restarted=("a",))
    assert (supervisord.held, supervisord.orders, ended) == ([False], ["stop bot-a"], ["traces"])
