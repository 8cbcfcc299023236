"""What the client makes of supervisord's faults."""

from __future__ import annotations

import xmlrpc.client
from pathlib import Path

import pytest
from supervisor.xmlrpc import Faults

from multibot_plugin.errors import SupervisordAway
from multibot_plugin.supervisor import client as client_module
from multibot_plugin.supervisor.client import Supervisor, _translated, bot_of, program, refused_where


def test_our_fault_codes_are_supervisors() -> None:
    for name in ("UNKNOWN_METHOD", "SHUTDOWN_STATE", "BAD_NAME", "NO_FILE", "NOT_EXECUTABLE", "SPAWN_ERROR",
                 "ALREADY_STARTED", "NOT_RUNNING", "ALREADY_ADDED", "CANT_REREAD"):  # fmt: skip
        assert getattr(client_module, name) == getattr(Faults, name)


@pytest.mark.parametrize(
    ("code", "method", "told"),
    [
        (Faults.SHUTDOWN_STATE, "supervisor.startProcess", "supervisord is shutting down or restarting"),
        (Faults.BAD_NAME, "supervisor.startProcess", "supervisord knows no bot 'echo'"),
        (Faults.SPAWN_ERROR, "supervisor.startProcess",
         "bot 'echo' could not be started: supervisord's log has the reason"),
        (Faults.FAILED, "supervisor.startProcess",
         "supervisord refused supervisor.startProcess for bot 'echo' (fault 30)"),
        (Faults.UNKNOWN_METHOD, "multibot.getBots", "supervisord runs without multibot's plugin (or an older one): "
                                                    "restart it with 'multibot stop && multibot start'"),
        (9000, "multibot.getBots", "supervisord's multibot plugin refused multibot.getBots: KeyError: see the log"),
    ],
)  # fmt: skip
def test_each_fault_is_told_in_one_line(code: int, method: str, told: str) -> None:
    fault = _translated(xmlrpc.client.Fault(code, "UNKNOWN: KeyError: see the log"), method, ("bot-echo",))
    assert (str(fault), fault.code) == (told, code)


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("Unexpected end of key/value pairs in value 'T=\"99:SECRET' in section 'program:a' (file: '/etc/x.conf')",
         " in section 'program:a' (/etc/x.conf)"),
        ("invalid value for 'autostart' in section 'program:a'", " in section 'program:a'"),
        ("99:SECRET cannot be resolved within [rpcinterface:x]", ""),
        ("in section 'a' 99:SECRET", ""),
    ],
)  # fmt: skip
def test_only_the_place_is_kept_of_what_the_parser_says(words: str, kept: str) -> None:
    assert refused_where(words) == kept
    text = str(
        _translated(xmlrpc.client.Fault(Faults.CANT_REREAD, f"CANT_REREAD: {words}"), "supervisor.reloadConfig", ())
    )
    assert "SECRET" not in text
    assert text.startswith("supervisord refuses its configuration")


def test_no_socket_no_listener_and_no_right_are_supervisord_away(tmp_path: Path) -> None:
    away = Supervisor(tmp_path / "no.sock", start="multibot --home x start")
    with pytest.raises(SupervisordAway, match=r"does not answer at .*no\.sock: run 'multibot --home x start'"):
        away.state()
    assert not away.alive()
    too_long = Supervisor(tmp_path / ("x" * 200))
    with pytest.raises(SupervisordAway):
        too_long.state()


def test_programs_are_named_after_their_bots() -> None:
    assert program("echo") == "bot-echo"
    assert (bot_of("bot-echo"), bot_of("other")) == ("echo", None)
