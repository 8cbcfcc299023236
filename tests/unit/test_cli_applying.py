"""What `apply` says of each bot; pure."""

from __future__ import annotations

from typing import Any, cast

import pytest

from multibot_plugin.bots.conform import Applied
from multibot_plugin.bots.plan import Change, Difference, Plan
from multibot_plugin.bots.render import RenderedFile
from multibot_plugin.cli import applying
from multibot_plugin.cli.applying import Result, summary
from multibot_plugin.cli.bot_set import _words

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


@pytest.mark.parametrize("word", ["started", "restarted"])
def test_a_bot_that_stood_still_is_started_by_a_change_not_restarted(word: str) -> None:
    result = Result(plan(Change("a", "restart", (HAND,))), Applied(**{word: ("a",)}))
    assert _words("restart", "polling", result, "a") == f"{word}, polling"
