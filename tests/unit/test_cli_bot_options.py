"""What is typed after `bot create` and `bot set`, and what becomes of it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from multibot_plugin.cli import bot_options as given
from multibot_plugin.cli import main
from multibot_plugin.cli.bot_set import merged
from multibot_plugin.errors import BadValue
from multibot_plugin.settings import BOT_SETTINGS

TOKEN = "123456789:" + "A" * 35
NO_TOKEN = {"token_file": None, "token_stdin": False, "token_env": None, "token": None}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def options(**changes: Any) -> dict[str, Any]:
    return {setting.name: None for setting in BOT_SETTINGS} | changes


@pytest.mark.parametrize("command", ["create", "set"])
def test_every_setting_of_a_bot_is_an_option(command: str) -> None:
    result = CliRunner().invoke(main, ["bot", command, "--help"], standalone_mode=False)
    for setting in BOT_SETTINGS:
        assert f"--{setting.name.replace('_', '-')} " in result.output


def test_a_token_is_read_from_a_file_the_environment_and_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TOKEN}\n"))
    assert given.read_token(NO_TOKEN | {"token_file": str(tmp_path / "token")}, required=True) == TOKEN
    assert given.read_token(NO_TOKEN | {"token_env": "MY_TOKEN"}, required=True) == TOKEN
    assert given.read_token(NO_TOKEN | {"token_stdin": True}, required=True) == TOKEN


def test_a_token_on_the_command_line_works_and_warns_without_showing_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert given.read_token(NO_TOKEN | {"token": TOKEN}, required=True) == TOKEN
    said = capsys.readouterr().err
    assert "other users of this machine can see" in said
    assert TOKEN not in said


def test_a_token_in_a_command_warns_without_showing_it(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"/usr/bin/node bot.js --token {TOKEN}"
    assert given.read_launch(None, None, line) == ("command", line)
    said = capsys.readouterr().err
    assert said.startswith("warning: the command holds something like a token, and other users of this machine can")
    assert "A" * 30 not in said
    given.read_launch(None, None, "/usr/bin/node bot.js")
    assert capsys.readouterr().err == ""


def test_without_a_terminal_a_missing_token_is_a_usage_error_that_names_the_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(click.UsageError, match="--token-file PATH, --token-stdin or --token-env NAME"):
        given.read_token(NO_TOKEN, required=True)
    assert given.read_token(NO_TOKEN, required=False) is None


def test_a_terminal_is_asked_without_an_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def prompt(text: str, **how: Any) -> str:
        asked.append(how)
        return f" {TOKEN} "

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(click, "prompt", prompt)
    assert given.read_token(NO_TOKEN, required=True) == TOKEN
    assert given.read_token(NO_TOKEN | {"token_stdin": True}, required=False) == TOKEN
    assert [how["hide_input"] for how in asked] == [True, True]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"token_file": "/no/such/file"}, "No such file"),
        ({"token_env": "NO_SUCH_VARIABLE"}, "is not set"),
    ],
)
def test_a_token_that_cannot_be_read_is_named_by_its_place(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(BadValue, match=text):
        given.read_token(NO_TOKEN | changes, required=True)


def test_only_one_way_to_give_a_token_and_one_launch_form_are_taken() -> None:
    with pytest.raises(click.UsageError, match="one way only"):
        given.read_token(NO_TOKEN | {"token": TOKEN, "token_stdin": True}, required=True)
    with pytest.raises(click.UsageError, match="one of --build"):
        given.read_launch("a:b", "c.py", None)
    assert given.read_launch(None, None, None) is None


def test_relative_paths_are_taken_from_where_the_caller_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert given.read_launch(None, "bot.py", None) == ("script", f"{tmp_path}/bot.py")
    assert given.read_launch("bots/shop.py:build", None, None) == ("build", f"{tmp_path}/bots/shop.py:build")
    assert given.read_launch("shop.bots:build", None, None) == ("build", "shop.bots:build")
    assert given.read_launch(None, "-m  shop  --fast", None) == ("script", "-m shop --fast")
    assert given.read_launch(None, "bot.py --name 'a b'", None) == ("script", f"{tmp_path}/bot.py --name 'a b'")
    assert "note: 'bot.py' is taken for the script and the rest for its arguments" in capsys.readouterr().err
    (tmp_path / "my bot.py").touch()
    for written in ("my bot.py", "'my bot.py'"):
        assert given.read_launch(None, written, None) == ("script", f"'{tmp_path}/my bot.py'")
    assert given.read_launch(None, "a 'b", None) == ("script", "a 'b")  # refused later, with the reason
    assert given.read_launch(None, None, "./dice --sides 6") == ("command", f"{tmp_path}/dice --sides 6")
    assert given.read_launch(None, None, "python3 x 'a b'") == ("command", "python3 x 'a b'")
    read = given.read_settings(options(workdir="data", python="venv/bin/python", env_file="../env"))
    assert read == {"workdir": f"{tmp_path}/data", "python": f"{tmp_path}/venv/bin/python",
                    "env_file": f"{tmp_path.parent}/env"}  # fmt: skip


def test_an_interpreter_by_name_is_found_in_path_and_a_link_stays_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mypython").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert given.read_settings(options(python="mypython")) == {"python": f"{tmp_path}/mypython"}


def test_a_file_among_the_arguments_of_a_command_is_worth_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dice.py").write_text("")
    given.read_launch(None, None, "python3 dice.py")
    assert f"'{tmp_path}/dice.py'" in capsys.readouterr().err


def test_a_bad_value_of_a_setting_is_named_with_what_is_expected() -> None:
    with pytest.raises(BadValue) as error:
        given.read_settings(options(memory_limit="plenty"))
    assert str(error.value) == "memory_limit 'plenty' is not a size (like 256MB)"


def test_variables_may_hold_equal_signs_and_an_error_never_shows_a_value() -> None:
    assert given.read_env(("A=1=2", "B=")) == {"A": "1=2", "B": ""}
    for pairs in (("hunter2",), ("A=hunter2", "A=hunter3")):
        with pytest.raises(click.UsageError) as error:
            given.read_env(pairs)
        assert "hunter" not in error.value.message


def test_what_is_unset_must_exist_and_not_be_set_at_once() -> None:
    assert given.read_unset(("memory-limit", "--token-var"), {}) == ["memory_limit", "token_var"]
    with pytest.raises(BadValue, match="did you mean 'memory_limit'"):
        given.read_unset(("memory_limt",), {})
    with pytest.raises(click.UsageError, match="at once"):
        given.read_unset(("memory_limit",), {"memory_limit": 1})


def test_a_change_is_laid_over_a_row_key_by_key() -> None:
    row = {"id": "a", "target": "/x", "env": {"A": "1", "B": "2"}, "settings": {"memory_limit": 5}}
    new = merged(row, {"target": "/y", "env": {"A": None, "C": "3"}, "settings": {"memory_limit": None}})
    assert new == {"id": "a", "target": "/y", "env": {"B": "2", "C": "3"}, "settings": {}}


@pytest.mark.parametrize("command", ["create", "show", "set", "delete", "start", "stop", "restart"])
def test_every_command_has_help_and_takes_json(command: str) -> None:
    result = CliRunner().invoke(main, ["bot", command, "--help"], standalone_mode=False)
    assert result.exit_code == 0, result.output
    assert "--json" in result.output


def test_a_mistyped_command_gets_a_suggestion() -> None:
    result = CliRunner().invoke(main, ["bot", "craete"])
    assert result.exit_code == 2
    assert "create" in result.output


def test_the_many_options_stand_in_sections_and_none_is_left_out() -> None:
    text = CliRunner().invoke(main, ["bot", "create", "--help"]).output
    titles = [f"{title}:" for title in [*given._SECTIONS, "Other"]]
    places = [text.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)
    where = dict(zip(titles, places, strict=True))
    assert where["Health and memory:"] < text.index("--memory-limit") < where["Log:"] < text.index("--log-format")
    assert not any(f"--{s.name.replace('_', '-')} " in text[where["Other:"] :] for s in BOT_SETTINGS)
    known = {option.name for option in main.get_command(None, "bot").get_command(None, "create").params}  # type: ignore
    assert {name for names in given._SECTIONS.values() for name in names} - known == {"unset_env"}
