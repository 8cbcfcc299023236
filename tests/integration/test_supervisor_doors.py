"""supervisord's own doors with our plugin in it: stock XML-RPC over the unix socket, stock supervisorctl."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import time
import xmlrpc.client
from collections.abc import Iterator
from typing import Any

import pytest
from supervisor.xmlrpc import SupervisorTransport
from supervisord import BIN, PATIENCE_S, TOKEN_TAIL, Supervisord, rows, supervisord, wait_for

from multibot_plugin import __version__
from multibot_plugin.errors import MultibotError, SupervisordAway
from multibot_plugin.supervisor.client import Supervisor
from multibot_plugin.supervisor.ctl import HELP
from multibot_plugin.supervisor.faults import BAD_NAME, SupervisorFault
from multibot_plugin.supervisor.inside.requests import MONITOR_AWAY, NO_SUCH_REQUEST, NOT_STORED, inbox, results
from multibot_plugin.supervisor.rpc import MultibotInterface
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


def typed(system: Supervisord, command: str) -> str:
    """Type a command into supervisorctl's shell, where only ASCII can be shown, and return what it says."""
    words = [str(BIN / "supervisorctl"), "-c", str(system.home.supervisord_conf)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        words, input=f"{command}\nquit\n", capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stderr == ""
    return done.stdout


def tick(system: Supervisord, *incidents: dict[str, Any], **bots: dict[str, Any]) -> None:
    """Write what the monitor writes at a tick."""
    picture = {"schema": 1, "mono": time.monotonic(), "tick_s": 5.0, "bots": bots, "incidents": incidents}
    replace_file(system.home.status, json.dumps(picture).encode())


def test_stock_xmlrpc_lists_and_calls_our_methods(shared: Supervisord) -> None:
    with stock(shared) as server:
        methods = [name for name in server.system.listMethods() if name.startswith("multibot.")]
        described = {f"multibot.{name}" for name in vars(MultibotInterface) if not name.startswith("_")}
        assert set(methods) == described
        assert "every bot" in server.system.methodHelp("multibot.getBots")
        assert server.system.methodSignature("multibot.setAutostart") == ["boolean", "string", "boolean"]
        assert server.system.methodSignature("multibot.startBot") == ["string", "string", "string"]
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
        ("getBots", (["99:SECRET"],)),
        ("setAutostart", ("one", "99:SECRET")),
        ("setAutostart", (["99:SECRET"], True)),
        ("setAutostart", ("99:SECRET", True)),
        ("getBot", ("99:SECRET",)),
        ("getBot", ({"99:SECRET": 1},)),
        ("startBot", ("99:SECRET",)),
        ("stopBot", ("one", "99:SECRET")),
        ("restartBot", ("one", ["99:SECRET"])),
        ("apply", ("ada", "99:SECRET")),
        ("getResult", ("99:SECRET",)),
        ("getResult", (99,)),
        ("_bots", ()),
        ("nothing", ("99:SECRET",)),
    ):
        with stock(shared) as server, pytest.raises(xmlrpc.client.Fault) as caught:
            getattr(server.multibot, method)(*arguments)
        assert "SECRET" not in str(caught.value)
    assert shared.log() == before
    assert set(shared.rows()) == set(TWO)


def test_one_bot_and_the_incidents_come_from_memory_and_the_monitors_file(shared: Supervisord) -> None:
    incident = {"id": "i", "bot": "one", "check": "deaf", "level": "critical", "text": "hört nichts\x1b",
                "since_at": 1.0, "decision": "restart", "told": ["Telegram (ops)"]}  # fmt: skip
    seen = {"pid": shared.pids()["one"], "phase": "running", "health": "deaf", "launch": "build"}
    tick(shared, incident, incident | {"bot": ""}, incident | {"bot": "deleted"}, one=seen)
    with stock(shared) as server:
        answers = server.multibot.getBot("one"), server.multibot.getIncidents()
    assert all(answer.isascii() for answer in answers)
    one, every = map(json.loads, answers)
    assert (one["bot"]["id"], one["bot"]["health"], one["incidents"]) == ("one", "deaf", [incident])
    assert [i["bot"] for i in every["incidents"]] == ["one", ""]
    assert one["monitor"] == every["monitor"] == {"ok": True, "text": ""}
    shown = shared.ctl("bot", "one")
    assert "DIGEST" not in shown
    assert shown.startswith("✖ one — running\n   HEALTH         ✖ deaf\n")
    assert "hört nichts\\x1b" in shown
    assert [line.split()[:2] for line in shared.ctl("bot_incidents", "one").splitlines()[1:]] == [["✖", "one"]]
    assert "(monitor)" in shared.ctl("bot_incidents")
    shared.home.status.unlink()
    with stock(shared) as server:
        assert json.loads(server.multibot.getBot("one"))["bot"]["health"] == "unknown"
    assert shared.ctl("bot_incidents") == (
        "as of the monitor's last report: the monitor has not reported yet: ask again in a moment, "
        f"else type 'supervisorctl -c {shared.home.supervisord_conf} restart multibot'\nno open incidents\n"
    )


def test_a_request_is_a_file_while_the_monitor_is_there_and_else_a_fault_and_nothing(shared: Supervisord) -> None:
    def fault(method: str, *arguments: str) -> xmlrpc.client.Fault:
        with stock(shared) as server, pytest.raises(xmlrpc.client.Fault) as caught:
            getattr(server.multibot, method)(*arguments)
        return caught.value

    with stock(shared) as server:
        away = fault("startBot", "one")
        assert (away.faultCode, away.faultString.partition(":")[0]) == (MONITOR_AWAY, "MONITOR_AWAY")
        assert not inbox(shared.home.state).exists()
        tick(shared)
        request = server.multibot.stopBot("one", "ada (test)")
        found = json.loads(server.multibot.getResult(request))
        assert [found[key] for key in ("id", "method", "bot", "by", "state", "begun_at")] == [
            request, "stopBot", "one", "ada (test)", "waiting", None,
        ]  # fmt: skip
        assert found["monitor"]["ok"]
        assert [found[key] for key in ("text", "said", "exit_code", "result", "ended_at")] == ["", [], None, None, None]
        assert "asked_mono" not in found
        (file,) = inbox(shared.home.state).iterdir()
        results(shared.home.state).mkdir()
        file.rename(results(shared.home.state) / file.name)
        assert json.loads(server.multibot.getResult(request))["id"] == request
        assert fault("getResult", "../runtime").faultCode == NO_SUCH_REQUEST
        inbox(shared.home.state).rmdir()
        inbox(shared.home.state).write_text("in the way")
        assert fault("apply").faultCode == NOT_STORED
        inbox(shared.home.state).unlink()
    shared.home.status.unlink()
    assert shared.states()["one"] == "RUNNING"


def test_the_shell_completes_our_commands_and_the_ids_behind_them(shared: Supervisord) -> None:
    words = [str(BIN / "supervisorctl"), "-c", str(shared.home.supervisord_conf)]
    terminal, its_side = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "INPUTRC": "/dev/null"}
    shell = subprocess.Popen(words, stdin=its_side, stdout=its_side, stderr=its_side, env=environment)
    os.close(its_side)
    seen = b""

    def hear(wanted: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + PATIENCE_S
        while wanted not in seen:
            assert select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0], seen
            seen += os.read(terminal, 4096)
        seen = seen.partition(wanted)[2]

    try:
        hear(b"multibot> ")
        os.write(terminal, b"bot_inc\t")
        hear(b"bot_incidents ")
        os.write(terminal, b"tw\t\r")
        hear(b"two ")
        hear(b"no open incidents")
        hear(b"multibot> ")
        os.write(terminal, b"status bot-o\t")  # supervisorctl's own go on as before
        hear(b"bot-one ")
        os.write(terminal, b"\x15quit\r")
        with contextlib.suppress(OSError):  # its end
            while os.read(terminal, 4096):
                pass
        assert shell.wait(PATIENCE_S) == 0
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)


def test_supervisorctl_says_what_was_typed_wrongly_and_what_to_type_while_the_monitor_is_away(
    shared: Supervisord,
) -> None:
    ctl = f"supervisorctl -c {shared.home.supervisord_conf}"
    usage = "ERROR (name the bots (an id, or a pattern like shop-*): see 'help {}')\n"
    for command in ("bot", "bot_start", "bot_stop", "bot_restart"):
        assert shared.ctl(command, code=2) == usage.format(command)
    assert "takes no bots" in shared.ctl("bot_apply", "one", code=2)
    assert "see 'help bot_logs'" in shared.ctl("bot_logs", "-n", "many", code=2)
    for command in ("bot_start", "bot_incidents", "bot_logs"):
        assert shared.ctl(command, "onee", code=4) == "multibot: no bot 'onee' (did you mean 'one'?)\n"
    shared.ctl("stop", "multibot")
    try:
        assert shared.ctl("bot_stop", "one", "two", code=1) == (
            f"ERROR (the monitor does not run (STOPPED): type '{ctl} start multibot'; "
            f"'{ctl} stop bot-one' needs no monitor)\n"
        )
        assert shared.ctl("bot_apply", code=1).endswith(f"type '{ctl} start multibot')\n")
        shell = typed(shared, "bot_stop 'o*'")
        assert "ERROR (the monitor does not run (STOPPED): type 'start multibot'; 'stop bot-one' needs" in shell
    finally:
        shared.ctl("start", "multibot")
    assert set(shared.states().values()) == {"RUNNING"}
    assert not inbox(shared.home.state).exists()


@pytest.mark.parametrize("silent", [False, True])
def test_after_ctrl_c_it_is_said_whether_the_monitor_goes_on(shared: Supervisord, silent: bool) -> None:
    tick(shared)
    ctl = [str(BIN / "supervisorctl"), "-c", str(shared.home.supervisord_conf)]
    with subprocess.Popen([*ctl, "bot_stop", "one", "two"], stdout=subprocess.PIPE, text=True) as waiting:
        try:
            wait_for(lambda: len(list(inbox(shared.home.state).glob("*.json"))) == 2, "two requests")
            if silent:
                shared.home.status.unlink()
            waiting.send_signal(signal.SIGINT)
            said, _ = waiting.communicate(timeout=PATIENCE_S)
        finally:
            waiting.kill()
            shutil.rmtree(inbox(shared.home.state), ignore_errors=True)
            shared.home.status.unlink(missing_ok=True)
    how = "asked for, but the monitor has not reported yet" if silent else "the monitor goes on with what was asked for"
    assert said.startswith(f"ERROR ({how}; 'supervisorctl -c "), said
    assert waiting.returncode == 1


def test_supervisorctl_shows_the_end_of_a_log_without_tokens_and_escapes(shared: Supervisord) -> None:
    log = shared.home.bot_log("one")
    log.write_text(f"1\n2 token 123456:{TOKEN_TAIL}\n3 \x1b[31mred\n")
    assert shared.ctl("bot_logs", "-n", "2", "one") == "2 token 123456:<redacted>\n3 \\x1b[31mred\n"
    words = [str(BIN / "supervisorctl"), "-c", str(shared.home.supervisord_conf)]
    follow = subprocess.Popen([*words, "bot_logs", "-f", "-n", "1", "one"], stdout=subprocess.PIPE, text=True)
    assert follow.stdout is not None
    assert follow.stdout.readline().startswith("3 ")
    with log.open("a") as file:
        file.write("4 привет\n")
    assert follow.stdout.readline() == "4 привет\n"
    follow.send_signal(signal.SIGINT)
    assert follow.wait(PATIENCE_S) == 0
    follow.stdout.close()
    other = subprocess.run([*words, "-s", "unix:///nowhere", "bot_logs"], capture_output=True, text=True, timeout=60)
    assert "are not known here" in other.stdout


def test_supervisorctl_shows_the_bots_and_explains_itself(shared: Supervisord) -> None:
    shown = shared.ctl("bots").splitlines()
    assert shown[0].split()[:3] == ["BOT", "STATE", "HEALTH"]
    assert [line.split()[:2] for line in shown[1:]] == [["one", "running"], ["two", "running"]]
    assert [line.split()[0] for line in shared.ctl("bots", "t*").splitlines()] == ["BOT", "two"]
    for name in ("bot-two", "'bot-t*'", '"t*"'):
        assert [line.split()[0] for line in shared.ctl("bots", name).splitlines()] == ["BOT", "two"], name
    assert shared.ctl("bots", "onee", code=4) == "multibot: no bot 'onee' (did you mean 'one'?)\n"
    help_text = shared.ctl("help", "bots")
    assert shared.ctl("bots", "--help") == help_text
    assert help_text.startswith("bots")
    assert "ID is a bot's id" in help_text
    assert "ID" not in shared.ctl("help", "bot_apply")
    for command in HELP:
        assert all(len(line.expandtabs()) <= 80 for line in shared.ctl("help", command).splitlines()), command
    assert "-s URL" in help_text
    assert "\nbot  bot_apply  bot_incidents  bot_logs" in shared.ctl("help")
    assert "No help" not in shared.ctl("help", "start")
    assert shared.ctl("help", "nothing") == "*** No help on nothing\n"


def test_bots_works_in_the_interactive_shell_and_where_only_ascii_can_be_shown(shared: Supervisord) -> None:
    shown = typed(shared, "bots")
    assert "LAST POLL" in shown
    assert ". unknown" in shown


def test_with_a_url_alone_supervisorctl_does_not_know_the_command(shared: Supervisord, tmp_path: Any) -> None:
    words = [str(BIN / "supervisorctl"), "-s", f"unix://{shared.home.socket}", "bots"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert "Unknown syntax" in done.stdout
    words[1:1] = ["-c", str(shared.home.supervisord_conf)]
    assert subprocess.run(words, capture_output=True, text=True, timeout=60).stdout.startswith("BOT")


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
