"""What `apply` says of each bot, and what it does where others apply at the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from multibot_plugin.bots.conform import Applied
from multibot_plugin.bots.files import read_text
from multibot_plugin.bots.plan import Change, Difference, Plan
from multibot_plugin.bots.render import RenderedFile
from multibot_plugin.bots.store import Actor
from multibot_plugin.cli import applying
from multibot_plugin.cli.applying import LEFT_STOPPED, Result, summary
from multibot_plugin.cli.bot_create import outcome
from multibot_plugin.cli.bot_set import _words
from multibot_plugin.errors import Refused, SupervisordAway
from multibot_plugin.home import Home, find_home

HAND = Difference("section", "(rendered by another version, or changed by hand)")


def plan(*changes: Change, added: tuple[str, ...] = ()) -> Plan:
    deployments = dict.fromkeys([*added, *(change.bot for change in changes)], cast(Any, None))
    return Plan(added, changes, (), (), {}, deployments, {}, RenderedFile("bots.conf", ""), "")


@pytest.mark.parametrize(
    ("differences", "shown"),
    [
        ((HAND,), "restarted (section rendered by another version, or changed by hand)"),
        (
            (Difference("env.A", "(added)"), Difference("user", "none → bob")),
            "restarted (env.A added; user none → bob)",
        ),
        ((Difference("runs", "(a) → (b)"),), "restarted (runs (a) → (b))"),
    ],
)
def test_what_stands_in_brackets_has_no_others(differences: tuple[Difference, ...], shown: str) -> None:
    result = Result(plan(Change("a", "restart", differences)), Applied(restarted=("a",)))
    assert list(applying._lines(result)) == [("a", shown)]


def test_a_bot_that_only_the_rendered_file_had_lost_is_not_new() -> None:
    result = Result(plan(added=("a", "b", "c")), Applied(started=("a",), rendered_again=("b",)))
    assert list(applying._lines(result)) == [
        ("a", "started"), ("b", "rendered again, as supervisord has it"), ("c", "added, not started (not enabled)"),
    ]  # fmt: skip
    assert summary(result) == "3 bots: 1 started, 1 rendered again"


def test_a_change_of_a_bot_that_has_finished_is_for_its_next_start() -> None:
    result = Result(plan(Change("a", "restart", (HAND,))), Applied())
    ((_, said),) = applying._lines(result)
    assert said.startswith("changed, takes effect at its next start (section")
    assert _words("restart", "finished", result, "a") == "takes effect at its next start"


def test_a_change_of_a_bot_that_somebody_stopped_past_multibot_says_that_it_was_left_so() -> None:
    result = Result(plan(Change("a", "restart", (HAND,))), Applied(standing=("a",)))
    ok, state = outcome(cast(Any, None), "a", result, result.begun("a"))
    assert (ok, _words("restart", state, result, "a")) == (True, f"changed, {LEFT_STOPPED}")


@pytest.mark.parametrize("word", ["started", "restarted"])
def test_a_bot_that_stood_still_is_started_by_a_change_not_restarted(word: str) -> None:
    result = Result(plan(Change("a", "restart", (HAND,))), Applied(**{word: ("a",)}))
    assert _words("restart", "polling", result, "a") == f"{word}, polling"


@pytest.mark.parametrize("away", [False, True])
def test_a_plan_that_others_overtook_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: bool) -> None:
    others = iter(range(20))
    home = find_home(str(tmp_path))
    home.rendered.parent.mkdir(parents=True)

    def carry_out(home: Home, plan: Plan, *rest: object, **more: object) -> Applied | None:
        for number in others:
            home.rendered.write_text(f"; {number}")
            raise Refused("overtaken")
        if plan.removed:
            raise Refused("it would remove every bot")
        return None if away else Applied(started=("a",))

    class Installation:
        actor = Actor("joe", "test")

        def __init__(self) -> None:
            self.home = home

        @contextmanager
        def supervisor(self) -> Iterator[None]:
            if away:
                raise SupervisordAway("away")
            yield None

    for name in ("apply", "write"):
        monkeypatch.setattr(f"multibot_plugin.bots.apply.{name}", carry_out)
    made = plan(added=("a",))
    monkeypatch.setattr(applying, "plan_now", lambda context, only: replace(made, base=read_text(home.rendered)))
    result = applying.apply_now(cast(Any, Installation()), later=True)
    assert (result.applied, bool(result.away)) == ((None, True) if away else (Applied(started=("a",)), False))
    assert result.plan.base == "; 19"
    made = replace(made, removed=("b",))
    with pytest.raises(Refused, match="every bot"):
        applying.apply_now(cast(Any, Installation()), later=True)
