"""supervisord's own doors with our plugin in it: stock XML-RPC over the unix socket, stock supervisorctl."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import xmlrpc.client
from collections.abc import Iterator
from typing import Any

import pytest
from supervisor.xmlrpc import SupervisorTransport
from supervisord import BIN, PATIENCE_S, Supervisord, rows, supervisord, wait_for

from multibot_plugin import __version__
from multibot_plugin.errors import MultibotError, SupervisordAway
from multibot_plugin.supervisor.client import BAD_NAME, Supervisor, SupervisorFault
from multibot_runner.protocol import replace_file

TWO = ("one", "two")


@pytest.fixture(scope="module")
def shared() -> Iterator[Supervisord]:
    """A supervisord with two running bots, for tests that change nothing in it."""
    with supervisord() as system:
        system.apply(rows(*TWO))
        system.wait_state("RUNNING", *TWO)
        yield system


@pytest.fixture
def own() -> Iterator[Supervisord]:
    with supervisord() as system:
        yield system


@contextlib.contextmanager
def stock(system: Supervisord) -> Iterator[Any]:
    """Give a server proxy made of nothing of ours."""
    transport = SupervisorTransport(None, None, f"unix://{system.home.socket}")
    with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as server:
        yield server


def tick(system: Supervisord, **bots: dict[str, Any]) -> None:
    """Write what the monitor writes at a tick."""
    picture = {"schema": 1, "mono": time.monotonic(), "tick_s": 5.0, "bots": bots}
    replace_file(system.home.status, json.dumps(picture).encode())


def test_stock_xmlrpc_lists_and_calls_our_methods(shared: Supervisord) -> None:
    with stock(shared) as server:
        methods = [name for name in server.system.listMethods() if name.startswith("multibot.")]
        assert methods == ["multibot.getBots", "multibot.getVersion", "multibot.setAutostart"]
        assert "every bot" in server.system.methodHelp("multibot.getBots")
        assert server.system.methodSignature("multibot.setAutostart") == ["boolean", "string", "boolean"]
        version = json.loads(server.multibot.getVersion())
        assert version == {"multibot": __version__, "supervisor": "4.3.0", "schema": 1}
        answer = json.loads(server.multibot.getBots())
        assert answer["supervisord"] == {
            "pid": server.supervisor.getPID(), "state": "RUNNING", "version": "4.3.0", "stopping": False,
        }  # fmt: skip
        assert [(r["id"], r["state"], r["statename"]) for r in answer["bots"]] == [
            ("one", "running", "RUNNING"),
            ("two", "running", "RUNNING"),
        ]


def test_a_bots_health_is_what_the_monitor_saw_of_this_very_process_a_moment_ago(shared: Supervisord) -> None:
    seen = {"pid": shared.pids()["one"], "phase": "running", "health": "deaf", "cause": "no poll — «привет»\x1b",
            "memory_bytes": 7 * 10**9, "cpu_percent": 0.5, "connections": 2, "restarts_24h": 3, "launch": "build",
            "poll_success_mono": time.monotonic() - 9, "update_mono": None}  # fmt: skip
    tick(shared, one=seen, two=seen)
    with stock(shared) as server:
        raw = server.multibot.getBots()
    assert raw.isascii()
    one, two = json.loads(raw)["bots"]
    assert (one["health"], one["cause"], one["memory_bytes"]) == ("deaf", seen["cause"], 7 * 10**9)
    assert 9 <= one["last_poll_age_s"] < 60
    assert one["last_update_age_s"] is None
    assert (two["health"], two["cause"], two["memory_bytes"]) == ("unknown", "just started", None)
    shared.home.status.write_text("{ damaged")
    one = shared.rows()["one"]
    assert (one["health"], one["cause"]) == ("unknown", "the monitor does not run")
    shared.home.status.unlink()


def test_wrong_calls_are_refused_and_nothing_of_them_is_logged(shared: Supervisord) -> None:
    before = shared.log()
    for method, arguments in (
        ("getBots", ("99:SECRET",)),
        ("setAutostart", ("one", "99:SECRET")),
        ("setAutostart", (["99:SECRET"], True)),
        ("setAutostart", ("99:SECRET", True)),
        ("_bots", ()),
        ("nothing", ("99:SECRET",)),
    ):
        with stock(shared) as server, pytest.raises(xmlrpc.client.Fault) as caught:
            getattr(server.multibot, method)(*arguments)
        assert "SECRET" not in str(caught.value)
    assert shared.log() == before
    assert set(shared.rows()) == set(TWO)


def test_supervisorctl_shows_the_bots_and_explains_itself(shared: Supervisord) -> None:
    shown = shared.ctl("bots").splitlines()
    assert shown[0].split()[:3] == ["BOT", "STATE", "HEALTH"]
    assert [line.split()[:2] for line in shown[1:]] == [["one", "running"], ["two", "running"]]
    assert [line.split()[0] for line in shared.ctl("bots", "t*").splitlines()] == ["BOT", "two"]
    assert shared.ctl("bots", "onee", code=4) == "multibot: no bot 'onee' (did you mean 'one'?)\n"
    help_text = shared.ctl("help", "bots")
    assert shared.ctl("bots", "--help") == help_text
    assert help_text.startswith("bots")
    assert "-s URL" in help_text
    assert "multibot commands" in shared.ctl("help")


def test_bots_works_in_the_interactive_shell_and_where_only_ascii_can_be_shown(shared: Supervisord) -> None:
    words = [str(BIN / "supervisorctl"), "-c", str(shared.home.supervisord_conf)]
    environment = dict(os.environ) | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, input="bots\nquit\n", capture_output=True, text=True, timeout=60, env=environment)
    assert "LAST POLL" in done.stdout
    assert ". unknown" in done.stdout
    assert done.stderr == ""


def test_with_a_url_alone_supervisorctl_does_not_know_the_command(shared: Supervisord, tmp_path: Any) -> None:
    words = [str(BIN / "supervisorctl"), "-s", f"unix://{shared.home.socket}", "bots"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert "Unknown syntax" in done.stdout


def test_bots_says_when_supervisord_is_away_or_has_not_our_plugin(own: Supervisord) -> None:
    conf = own.home.supervisord_conf
    text = conf.read_text()
    start, end = text.index("[rpcinterface:multibot]"), text.index("[ctlplugin:multibot]")
    own.stop()
    assert "no such file" in own.ctl("bots", code=7)
    conf.write_text(text[:start] + text[end:])
    own.start()
    assert own.ctl("bots", code=1) == "ERROR (this supervisord runs without multibot's plugin)\n"
    with pytest.raises(MultibotError, match="without multibot's plugin"):
        own.client.bots()


def test_a_second_http_server_gets_the_same_interface(own: Supervisord) -> None:
    own.stop()
    conf = own.home.supervisord_conf
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    conf.write_text(conf.read_text() + f"\n[inet_http_server]\nport=127.0.0.1:{port}\nusername=u\npassword=p\n")
    own.start()
    assert own.log().count("RPC interface 'multibot' initialized") == 3
    own.apply(rows("one"))
    own.wait_state("RUNNING", "one")
    with xmlrpc.client.ServerProxy(f"http://u:p@127.0.0.1:{port}/RPC2") as server:
        assert '"id":"one"' in str(server.multibot.getBots())


def test_the_monitor_is_well_only_while_supervisord_runs_it(own: Supervisord) -> None:
    wait_for(lambda: own.client.bots()["monitor"]["state"] == "RUNNING", "the stand-in of the monitor")
    assert not own.client.bots()["monitor"]["ok"]  # no picture yet
    tick(own)
    assert own.client.bots()["monitor"]["ok"]
    own.ctl("stop", "multibot")
    monitor = own.client.bots()["monitor"]
    assert (monitor["ok"], monitor["state"]) == (False, "STOPPED")
    assert monitor["tick_age_s"] is not None


def test_reload_keeps_everything_working(own: Supervisord) -> None:
    own.apply(rows(*TWO))
    own.wait_state("RUNNING", *TWO)
    before = own.pids()
    for _ in range(2):
        own.reload()
        own.wait_state("RUNNING", *TWO)
    assert not set(before.values()) & set(own.pids().values())
    assert "one" in own.ctl("bots")
    assert own.ctl("reread") == "No config updates to processes\n"
    pid = own.pids()["one"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: own.pids()["one"] not in (None, pid), "another process")
    assert own.log().count("Traceback") == 0


def test_supervisord_stops_all_bots_at_the_same_time_and_lower_priorities_after_them(own: Supervisord) -> None:
    names = [f"slow-{number}" for number in range(6)]
    (own.home.config / "conf.d" / "last.conf").write_text(
        "[program:last]\ncommand=/bin/sleep 3600\npriority=1\nstartsecs=0\n"
    )
    own.apply(rows(*names))
    own.ctl("update")
    own.wait_state("RUNNING", *names)
    own.client.shutdown()
    assert own.process is not None
    own.process.wait(PATIENCE_S)
    assert sorted(own.stops()[:6]) == [f"told {name}" for name in names]
    stopped = [line.partition("stopped: ")[2].split()[0] for line in own.log().splitlines() if "stopped: " in line]
    assert sorted(stopped[:6]) == [f"bot-{name}" for name in names]
    assert stopped[6:] == ["multibot", "last"]


def test_the_client_starts_stops_kills_and_says_what_went_wrong(own: Supervisord) -> None:
    own.apply(rows("one", "deaf-two", "dies-three"))
    own.wait_state("RUNNING", "one", "deaf-two")
    client = own.client
    client.start("bot-one")
    client.stop("bot-one")
    client.stop("bot-one")
    assert own.states()["one"] == "STOPPED"
    client.start("bot-one")
    pid = own.pids()["one"]
    client.restart("bot-one")
    assert own.pids()["one"] != pid
    client.stop("bot-deaf-two", now=True)
    assert own.states()["deaf-two"] == "STOPPED"
    with pytest.raises(SupervisorFault, match="supervisord knows no bot 'four'") as caught:
        client.start("bot-four")
    assert caught.value.code == BAD_NAME
    client.stop("bot-dies-three")
    own.stand_in.unlink()
    with pytest.raises(SupervisorFault, match="bot 'one': its program does not exist"):
        client.restart("bot-one")


def test_a_start_waits_for_the_end_of_a_stop(own: Supervisord) -> None:
    own.apply(rows("slow-one"))
    own.wait_state("RUNNING", "slow-one")
    pid = own.pids()["slow-one"]
    own.client.stop("bot-slow-one", None)
    assert own.states()["slow-one"] == "STOPPING"
    own.client.start("bot-slow-one")
    assert own.states()["slow-one"] == "RUNNING"
    assert own.pids()["slow-one"] != pid
    own.client.stop("bot-slow-one", None)
    with pytest.raises(MultibotError, match=r"bot 'slow-one' is still STOPPING after 0\.1 s"):
        own.client.start("bot-slow-one", stopping_s=0.1)


def test_the_client_finds_its_way_back_to_a_supervisord_that_was_started_again(own: Supervisord) -> None:
    client = Supervisor.of(own.home)
    assert client.state() == "RUNNING"
    own.stop()
    with pytest.raises(SupervisordAway, match="start'"):
        client.state()
    assert not client.alive()
    own.start()
    assert client.state() == "RUNNING"
    client.close()


def test_a_supervisord_that_does_not_answer_in_time_is_told_as_away(own: Supervisord) -> None:
    assert own.process is not None
    client = Supervisor(own.home.socket, timeout_s=0.3)
    own.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(SupervisordAway, match=r"did not answer within 0\.3 s"):
            client.state()
    finally:
        own.process.send_signal(signal.SIGCONT)
    assert client.state() == "RUNNING"
    client.close()
