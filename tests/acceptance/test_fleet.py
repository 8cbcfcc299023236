"""Ten bots in all launch forms: what changes restarts, what does not change stays."""

from __future__ import annotations

import os
import signal

import pytest
from system import System, wait_for

FORMS = ("build", "script", "command", "script", "command", "command", "build", "script", "command", "command")
IDS = tuple(f"b{number}" for number in range(len(FORMS)))


@pytest.fixture
def fleet(system: System) -> System:
    for bot, form in zip(IDS, FORMS, strict=True):
        system.create_form(bot, form)
    system.wait_polling(*IDS)
    return system


def pids(system: System) -> dict[str, int]:
    return {row["id"]: row["pid"] for row in system.json("list")["bots"]}


def test_ten_bots_poll_at_once_and_a_change_of_one_leaves_nine_alone(fleet: System) -> None:
    for bot in IDS:
        fleet.answers(bot)
    before = pids(fleet)
    fleet.run("bot", "set", "b4", "--env", "GREETING=hello")
    wait_for(lambda: pids(fleet)["b4"] not in (None, before["b4"]), "b4 restarted")
    fleet.wait_polling(*IDS)
    after = pids(fleet)
    assert {b for b in IDS if after[b] != before[b]} == {"b4"}

    # The same by hand: a change in the database, the file written by us, the rest by stock supervisorctl.
    fleet.sql("UPDATE bot_configs SET settings = settings || '{\"stop_wait_s\": 7}' WHERE id = 'b5'")
    assert "b5" in fleet.run("render-config", "--diff", code=10).stdout
    fleet.run("render-config", "--output", str(fleet.home.rendered))
    assert pids(fleet) == after
    assert "bot-b5: changed" in fleet.supervisorctl("reread")
    fleet.supervisorctl("update")
    fleet.wait_polling(*IDS)
    last = pids(fleet)
    assert {b for b in IDS if last[b] != after[b]} == {"b5"}
    fleet.run("render-config", "--diff")
    assert "No config updates to processes" in fleet.supervisorctl("reread")

    # A setting that needs no restart restarts nothing.
    fleet.run("bot", "set", "b6", "--memory-limit", "400MB")
    assert pids(fleet) == last
    fleet.run("bot", "delete", "b9", "--yes")
    wait_for(lambda: fleet.polls("b9") == 0, "no poll of a deleted bot")
    assert {b: p for b, p in last.items() if b != "b9"} == pids(fleet)


@pytest.mark.parametrize("form", ["build", "script", "command"])
def test_a_killed_bot_answers_again(system: System, form: str) -> None:
    system.create_form("victim", form)
    system.wait_polling("victim")
    system.answers("victim")
    pid = system.pid("victim")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: system.pid("victim") != pid, "a new process")
    system.wait_polling("victim")
    system.answers("victim")
    assert wait_for(lambda: system.row("victim")["restarts_24h"], "the restart counted") == 1


def test_one_bad_row_stops_no_other_bot(system: System) -> None:
    system.create_form("good", "command")
    system.create_form("bad", "command")
    system.wait_polling("good", "bad")
    system.sql("UPDATE bot_configs SET target = '\"unbalanced' WHERE id = 'bad'")
    system.sql("UPDATE bot_configs SET env = '{\"A\": \"1\"}' WHERE id = 'good'")
    pid = system.pid("good")
    done = system.run("apply", code=1)
    assert "bad" in done.stderr
    assert "command" in done.stderr
    wait_for(lambda: system.pid("good") != pid, "the good one restarted")
    system.wait_polling("good", "bad")
