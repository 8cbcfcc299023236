"""What runs inside supervisord, in a real one: restarts, stops, single updates, and each part switched off."""

from __future__ import annotations

import json
import os
import signal
import xmlrpc.client
from collections.abc import Iterator
from typing import Any

import pytest
from supervisord import PATIENCE_S, Supervisord, rows, supervisord, wait_for

from multibot_plugin.bots.apply import write
from multibot_plugin.bots.conform import Applied
from multibot_plugin.errors import MultibotError
from multibot_plugin.supervisor.faults import SHUTDOWN_STATE, SupervisorFault
from multibot_runner.protocol import replace_file

PARTS = ("instant_restart", "quick_fork", "parallel_stop", "large_answers", "targeted_update")
OFF = "\n".join(["listener_patience_s=0", *(f"{part}=off" for part in PARTS)])


@pytest.fixture
def own() -> Iterator[Supervisord]:
    with supervisord() as system:
        yield system


@pytest.fixture(scope="module")
def shared() -> Iterator[Supervisord]:
    with supervisord() as system:
        yield system


def edit(system: Supervisord, old: str, new: str) -> None:
    """Change the rendered file by hand."""
    text = system.home.rendered.read_text()
    assert old in text
    replace_file(system.home.rendered, text.replace(old, new).encode())


def kill(system: Supervisord, bot: str) -> None:
    """Kill a bot with -9 and wait until it is back."""
    pid = system.pids()[bot]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: system.pids()[bot] not in (None, pid), "another process")


def test_how_a_bot_ended_is_known_by_code_and_signal_and_survives_its_replacement(shared: Supervisord) -> None:
    bots = rows("one", "dies-two")
    shared.apply(bots)
    shared.wait_state("RUNNING", "one")
    assert shared.rows()["one"]["end"] is None
    kill(shared, "one")
    row = shared.rows()["one"]
    assert (row["end"]["code"], row["end"]["signal"], row["deaths"]) == (None, "SIGKILL", {"10m": 1, "1h": 1, "24h": 1})
    wait_for(lambda: shared.rows()["dies-two"]["deaths"]["10m"] > 1, "two deaths")
    assert (shared.rows()["dies-two"]["end"]["code"], shared.rows()["dies-two"]["end"]["signal"]) == (1, None)
    shared.wait_state("RUNNING", "one")
    bots["one"]["env"] = {"A": "1"}
    assert shared.apply(bots).restarted == ("one",)
    row = shared.rows()["one"]
    assert (row["end"]["signal"], row["deaths"]["10m"]) == ("SIGTERM", 1)  # asked for: no death
    del bots["dies-two"]
    shared.apply(bots)


def test_what_needs_no_other_process_is_changed_in_memory_and_reread_finds_no_change(shared: Supervisord) -> None:
    bots = rows("one", "two")
    shared.apply(bots)
    shared.wait_state("RUNNING", "one", "two")
    before = shared.pids()
    edit(shared, "stopwaitsecs=12", "stopwaitsecs=34")
    assert shared.client.update(["one"]) == {"one": "live"}
    assert [row["stop_wait_s"] for row in shared.rows().values()] == [34, 12]
    assert shared.client.update(["one", "two"]) == {"one": "unchanged", "two": "live"}
    assert shared.pids() == before
    assert shared.ctl("reread") == "No config updates to processes\n"
    assert shared.ctl("update") == ""
    shared.apply(bots)
    assert shared.pids() == before


def test_a_running_bot_is_to_be_stopped_first_and_is_never_missing(shared: Supervisord) -> None:
    bots = rows("one", "two", "slow-x")
    shared.apply(bots)
    shared.wait_state("RUNNING", "one", "two", "slow-x")
    before = shared.pids()
    bots["one"]["env"] = bots["slow-x"]["env"] = {"A": "2"}
    write(shared.home, shared.plan(bots))
    assert shared.client.update(["one", "slow-x", "two"]) == {"one": "running", "slow-x": "running", "two": "unchanged"}
    assert shared.pids() == before
    shared.client.stop("bot-slow-x", None)
    assert shared.client.update(["slow-x"]) == {"slow-x": "stopping"}
    shared.ctl("stop", "bot-one")
    assert shared.client.update(["one"]) == {"one": "replaced"}
    shared.wait_state("RUNNING", "one")
    assert shared.apply(bots) == Applied(standing=("slow-x",))  # that stop was not one of ours
    shared.client.start("bot-slow-x")
    shared.wait_state("RUNNING", "one", "slow-x")
    assert shared.pids()["two"] == before["two"]
    assert shared.ctl("reread") == "No config updates to processes\n"
    assert shared.apply(rows("one", env={"A": "2"})).removed == ("slow-x", "two")
    assert shared.ctl("avail").split()[:2] == ["bot-one", "in"]
    assert "slow-x" not in shared.ctl("avail")


def test_what_cannot_be_read_is_told_by_its_place_and_changes_nothing(shared: Supervisord) -> None:
    shared.apply(rows("one", "two"))
    shared.wait_state("RUNNING", "one", "two")
    before, whole = shared.pids(), shared.home.rendered.read_text()
    edit(shared, "startsecs=1", "startsecs=99:SECRET")
    for broken in (shared.home.rendered.read_text(), whole + whole, None):
        if broken is None:
            shared.home.rendered.unlink()
        else:
            replace_file(shared.home.rendered, broken.encode())
        with pytest.raises(SupervisorFault, match="refuses its configuration") as caught:
            shared.client.update(["one", "two"])
        assert "SECRET" not in str(caught.value)
        assert shared.pids() == before
    replace_file(shared.home.rendered, whole.encode())
    assert shared.client.update(["one", "two"]) == {"one": "unchanged", "two": "unchanged"}


def test_wrong_names_are_refused(shared: Supervisord) -> None:
    for wrong in (["../x"], ["UPPER"], [7], "one", [["one"]]):
        with pytest.raises(SupervisorFault):
            shared.client._json("multibot.updateBots", wrong)
        with pytest.raises(SupervisorFault):
            shared.client._json("multibot.updateBots", ["one"], wrong)


def test_stop_all_stops_side_by_side_and_lower_priorities_after_that(own: Supervisord) -> None:
    names = [f"slow-{number}" for number in range(4)]
    conf = own.home.config / "conf.d" / "last.conf"
    conf.write_text("[program:last]\ncommand=/bin/sleep 3600\npriority=1\nstartsecs=0\n")
    own.apply(rows(*names))
    own.ctl("update")
    own.wait_state("RUNNING", *names)
    said = own.ctl("stop", "all").splitlines()
    assert sorted(own.stops()[:4]) == [f"told {name}" for name in names]
    assert sorted(said[:4]) == [f"bot-{name}: stopped" for name in names]
    assert said[4:] == ["multibot: stopped", "last: stopped"]
    own.ctl("start", "all")
    own.wait_state("RUNNING", *names)
    told = len(own.stops())
    own.reload()
    assert sorted(own.stops()[told : told + 4]) == [f"told {name}" for name in names]
    own.wait_state("RUNNING", *names)


def test_with_every_part_switched_off_supervisord_is_as_it_comes_and_all_works(own: Supervisord) -> None:
    own.stop()
    own.option(OFF)
    own.start()
    bots = rows("one", "two")
    assert own.apply(bots) == Applied(started=("one", "two"))
    own.wait_state("RUNNING", "one", "two")
    before = own.pids()
    kill(own, "one")
    assert own.rows()["one"]["end"]["signal"] == "SIGKILL"
    own.wait_state("RUNNING", "one")
    bots["one"]["env"] = {"A": "1"}
    assert own.apply(bots) == Applied(restarted=("one",))
    own.wait_state("RUNNING", "one")
    assert own.pids()["two"] == before["two"]
    bad = own.home.config / "conf.d" / "bad.conf"
    bad.write_text('[program:bad]\ncommand=/bin/true\nenvironment=TOKEN="99:SECRET%("\n')
    bots["one"]["env"] = {"A": "2"}
    with pytest.raises(MultibotError, match=r"in section 'program:bad' \(.*bad.conf\)") as caught:
        own.apply(bots)
    assert "SECRET" not in str(caught.value)
    assert own.states()["one"] == "RUNNING"


def test_a_mistake_in_our_section_ends_nobodys_supervisord(own: Supervisord) -> None:
    conf = own.home.supervisord_conf
    whole = conf.read_text()
    own.apply(rows("one"))
    own.wait_state("RUNNING", "one")
    conf.write_text(whole.replace("\nstatus=", "\ninstant_restart=perhaps\nstatus=", 1))
    own.reload()
    own.wait_state("RUNNING", "one")
    assert "[rpcinterface:multibot] instant_restart=perhaps: not true or false: the default holds" in own.log()
    conf.write_text(whole.replace("\nstatus=", "\n;", 1))
    own.reload()
    with pytest.raises(MultibotError, match="lacks status= or state=: 'multibot init' shows what belongs there"):
        own.client.bots()
    assert "bot-one" in own.ctl("status", code=None)


def test_after_a_reload_without_a_part_supervisord_is_as_it_comes(own: Supervisord) -> None:
    own.option(OFF)
    own.reload()
    own.apply(rows("slow-a"))
    own.wait_state("RUNNING", "slow-a")
    with xmlrpc.client.ServerProxy("http://localhost", transport=own.client._proxy("transport")) as server:
        help_text = str(server.system.methodHelp("supervisor.stopAllProcesses"))
    assert "highest priority" not in help_text


def test_a_program_that_ends_at_once_is_started_as_seldom_as_ever(own: Supervisord) -> None:
    conf = own.home.config / "conf.d" / "quick.conf"
    conf.write_text(
        "[program:quick]\ncommand=/bin/true\nstartsecs=0\nautorestart=true\n[program:clock]\ncommand=sleep 4\n"
    )
    own.ctl("update")
    wait_for(lambda: "exited: clock" in own.log(), "some seconds")
    assert 1 < own.log().count("spawned: 'quick'") < 12


def test_a_stop_right_after_a_start_is_not_lost(shared: Supervisord) -> None:
    shared.apply(rows("one", settings={"stop_wait_s": "1s"}))
    shared.ctl("stop", "bot-one")
    for _ in range(20):
        shared.client.start("bot-one", wait_s=None)
        shared.client.stop("bot-one")
    assert "killing 'bot-one'" not in shared.log()


def test_while_supervisord_ends_nothing_is_updated(own: Supervisord) -> None:
    own.apply(rows("slow-a"))
    own.wait_state("RUNNING", "slow-a")
    own.client.shutdown()
    with pytest.raises(SupervisorFault) as caught:
        own.client.update(["slow-a"])
    assert caught.value.code == SHUTDOWN_STATE
    assert own.process is not None
    own.process.wait(PATIENCE_S)


def test_a_thousand_answers_are_whole(shared: Supervisord) -> None:
    """Long answers leave in larger pieces than supervisor's own: none is lost or doubled."""
    with xmlrpc.client.ServerProxy("http://localhost", transport=shared.client._proxy("transport")) as server:
        methods: list[Any] = server.system.listMethods()
        many = [{"methodName": "system.methodHelp", "params": [name]} for name in methods] * 20
        answers: list[Any] = server.system.multicall(many)
    assert len(answers) == len(many)
    assert json.dumps(answers[: len(methods)]) == json.dumps(answers[-len(methods) :])
