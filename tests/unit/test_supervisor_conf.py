"""The main file, the home that supervisord's programs are told, and the rows that cannot run as anybody."""

from __future__ import annotations

import configparser
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from multibot_plugin.bots.apply import load
from multibot_plugin.errors import BadValue
from multibot_plugin.home import HOME_VARIABLES, Home, find_home
from multibot_plugin.journal import Journal, Wish, new_id
from multibot_plugin.settings import load as load_settings
from multibot_plugin.supervisor.conf import render_main
from multibot_plugin.supervisor.parse import parse

TOKEN = "123456:AAabcdefghijklmnopqrstuvwxyz0123456"


@dataclass(frozen=True)
class Program:
    command: tuple[str, ...] = ("/usr/bin/python3", "-m", "x", "/var/lib/multibot")
    user: str | None = None
    stop_signal: str = "INT"
    stop_wait_s: int = 60
    priority: int = 1


def home(tmp_path: Path) -> Home:
    made = Home(tmp_path, tmp_path / "state", tmp_path / "run", tmp_path / "log", f"--home {tmp_path}")
    for directory in (made.state, made.run, made.log):
        directory.mkdir(parents=True, exist_ok=True)
    return made


def test_the_main_file_is_understood_by_supervisor_and_says_what_it_must(tmp_path: Path) -> None:
    place = home(tmp_path)
    text = render_main(place, Program(user="multibot-postgres"), "/usr/bin/python3")
    parsed = configparser.RawConfigParser()
    parsed.read_string(text)
    assert parsed["unix_http_server"]["file"] == str(place.socket)
    assert parsed["rpcinterface:multibot"]["status"] == str(place.status)
    assert parsed["include"]["files"].split() == [str(place.rendered), f"{tmp_path}/conf.d/*.conf"]
    assert parsed["program:multibot-postgres"]["user"] == "multibot-postgres"
    assert ("user" in parsed["supervisord"]) == (os.geteuid() == 0)
    assert "inet_http_server" not in parsed
    groups = {
        group["group"]: group["programs"][0]
        for group in parse(text.replace("user=multibot-postgres\n", ""), str(tmp_path))
    }
    assert set(groups) == {"multibot", "multibot-postgres"}
    assert groups["multibot"]["command"] == '"/usr/bin/python3" -P -m multibot_plugin.supervisor.listener'
    assert groups["multibot-postgres"]["command"] == '"/usr/bin/python3" "-m" "x" "/var/lib/multibot"'


def test_without_an_embedded_database_there_is_no_program_for_it(tmp_path: Path) -> None:
    assert "postgres" not in render_main(home(tmp_path))


@pytest.mark.parametrize("word", ["a;b", "a%b", 'a"b', "a\nb", "", "ä", "$(x)"])
def test_a_word_that_could_be_misread_is_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(BadValue, match="cannot hold this"):
        render_main(home(tmp_path), Program(command=("/bin/true", word)))
    with pytest.raises(BadValue, match="cannot hold this"):
        render_main(home(tmp_path), python=word)


@pytest.mark.parametrize("user", ["", "a b", "a\n[program:z]", "-x", "Ä"])
def test_a_user_that_is_no_account_is_refused(tmp_path: Path, user: str) -> None:
    with pytest.raises(BadValue, match="not the name of an account"):
        render_main(home(tmp_path), Program(user=user))


def test_supervisords_programs_find_the_home_in_four_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = home(tmp_path)
    monkeypatch.delenv("MULTIBOT_HOME", raising=False)
    for name, path in zip(HOME_VARIABLES, (place.config, place.state, place.run, place.log), strict=True):
        monkeypatch.setenv(name, str(path))
    assert find_home() == place
    assert find_home(str(tmp_path / "other")).config == tmp_path / "other"
    monkeypatch.setenv("MULTIBOT_HOME", str(tmp_path / "third"))
    assert find_home().config == tmp_path / "third"
    monkeypatch.delenv("MULTIBOT_HOME")
    monkeypatch.delenv("MULTIBOT_RUN")
    assert find_home().config != place.config


def row(**changes: Any) -> dict[str, Any]:
    columns: dict[str, Any] = {"id": "echo", "enabled": True, "launch": "command", "target": "/bin/true",
                               "token": TOKEN, "env": {}, "settings": {}, "config_version": 1,
                               "uid": 70001 if os.geteuid() == 0 else None}  # fmt: skip
    return columns | changes


def problem(place: Home, **changes: Any) -> str:
    plan = load(place, load_settings(place.toml, environ={}), [row(**changes), row(id="good")])
    assert plan.added == ("good",)
    return plan.problems["echo"]


def test_a_plan_alone_writes_nothing(tmp_path: Path) -> None:
    place = home(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    load(place, load_settings(place.toml, environ={}), [row()])
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_account_is_a_problem_of_that_bot_alone(tmp_path: Path) -> None:
    assert "no account 'nobody-here' on this machine" in problem(home(tmp_path), settings={"user": "nobody-here"})


@pytest.mark.root
@pytest.mark.parametrize("uid", [None, 0, 999, -1])
def test_a_row_without_a_user_id_of_its_own_never_runs_as_root(tmp_path: Path, uid: int | None) -> None:
    assert "no user id of its own" in problem(home(tmp_path), uid=uid)


@pytest.mark.root
def test_root_is_used_only_when_it_is_named(tmp_path: Path) -> None:
    place = home(tmp_path)
    plan = load(place, load_settings(place.toml, environ={}), [row(settings={"user": "root"}, uid=70001)])
    assert plan.owners == {"echo": (0, 0)}


def test_a_wish_that_waits_in_the_journal_counts_before_the_database_has_it(tmp_path: Path) -> None:
    place = home(tmp_path)
    Journal(place.journal).append(Wish(new_id(), 1.0, "ada", "supervisorctl", "echo", True),
                                  Wish(new_id(), 2.0, "ada", "multibot bot stop", "echo", False))  # fmt: skip
    plan = load(place, load_settings(place.toml, environ={}), [row(), row(id="other")])
    assert {bot: deployment.autostart for bot, deployment in plan.deployments.items()} == {"echo": False, "other": True}
