"""Files of ours that somebody damaged: each gives one clear error or is begun anew, whatever stands in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from watched import NOW, NOW_AT, alert

from multibot_plugin.alerts.outbox import read_alert
from multibot_plugin.cli.fleet import read_status
from multibot_plugin.database import pool
from multibot_plugin.database.server import passfile, read_server
from multibot_plugin.errors import BadValue, DatabaseAway, MultibotError
from multibot_plugin.health.ledger import Ledger, Restart
from multibot_plugin.health.states import Alert
from multibot_plugin.home import Home, find_home
from multibot_plugin.settings import load
from multibot_plugin.shapes import build
from multibot_runner.readers import UNKNOWN, read_live

DEEP = "[" * 100_000
DAMAGED = [DEEP, "", "\0\0", "[]", "1", '{"x":', "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = find_home(str(tmp_path))
    for directory in (found.state / "postgres", found.run):
        directory.mkdir(parents=True)
    return found


@pytest.mark.parametrize(
    "wrong",
    [{"mono": "x"}, {"mono": True}, {"mono": 1e300}, {"done": 1}, {"at": None}, {"cause": ["x"]}, [1], None],
)
def test_a_field_of_another_type_is_named_and_its_value_is_not(wrong: Any) -> None:
    right = {"mono": 1.0, "at": 2, "cause": "deaf", "entry": "e"}
    assert build(Restart, right | {"new": 1}) == Restart(1.0, 2.0, "deaf", "e")
    with pytest.raises(ValueError, match="not a Restart"):
        build(Restart, right | wrong if isinstance(wrong, dict) else wrong)
    with pytest.raises(ValueError, match="no mono"):
        build(Restart, {})


@pytest.mark.parametrize("level", ["loud", [], None, 3])
def test_an_alert_of_no_level_is_none(level: Any) -> None:
    usual = vars(alert())
    assert read_alert(dict(usual)) == build(Alert, usual)
    with pytest.raises(ValueError, match="level"):
        read_alert({**usual, "level": level})


@pytest.mark.parametrize("text", [*DAMAGED, '{"tracks": [], "restarts": {"a": [{"mono": "x"}]}, "boot": ""}'])
def test_a_damaged_memory_of_the_monitor_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "monitor.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"monitor\.json|not JSON|not a"):
        Ledger.load(path, NOW, NOW_AT)


@pytest.mark.parametrize("text", [*DAMAGED, '{"bin": 1, "version": "18", "origin": "x", "account": null}',
                                  '{"bin": "/x", "version": "new", "origin": "x", "account": null}'])  # fmt: skip
def test_a_damaged_record_of_the_server_names_the_remedy(home: Home, text: str) -> None:
    (home.state / "postgres" / "server.json").write_text(text)
    with pytest.raises(MultibotError, match="multibot init"):
        read_server(home.state)


async def test_a_binary_passfile_is_named_and_not_the_url(home: Home) -> None:
    passfile(home).write_bytes(b"\xff\xfe\0\0")
    with pytest.raises(DatabaseAway, match="passfile is damaged"):
        await pool.connect(home, load(home.toml, environ={}))


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_live_settings_are_none(home: Home, text: str) -> None:
    paths = home.bot("echo")
    paths.state_dir.mkdir(parents=True)
    paths.live.write_text(text)
    assert read_live(paths) == (UNKNOWN, {})


@pytest.mark.parametrize(
    "value", [None, "x", 1, {"a": 1}, [1, None, "x", [], {}, {"text": 1, "bot": "", "since_at": "x"}]]
)
def test_what_is_not_a_record_in_the_monitors_picture_is_left_out(home: Home, value: Any) -> None:
    good = {"text": "deaf", "bot": "echo", "since_at": 1.0}
    names = ("channels", "incidents", "plugins", "deliveries")
    home.status.write_text(json.dumps(dict.fromkeys(names, value)))
    found = read_status(home)
    assert found["channels"] == (["x"] if isinstance(value, list) else [])
    assert (found["incidents"], found["plugins"], found["deliveries"]) == ([], [], [])
    home.status.write_text(json.dumps({"incidents": [1, good]}))
    assert read_status(home)["incidents"] == [good]
    home.status.write_text(DEEP)
    assert read_status(home) == {}


@pytest.mark.parametrize("line", ["tick = 1" + "0" * 5000, "x = " + DEEP])
def test_a_settings_file_that_python_cannot_read_is_one_line(tmp_path: Path, line: str) -> None:
    toml = tmp_path / "multibot.toml"
    toml.write_text(line)
    with pytest.raises(BadValue, match="not TOML"):
        load(toml, environ={})
