"""``multibot config``: values are checked, comments stay, origins are told, passwords are not."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from cli_rows import invoke

from multibot_plugin.cli.config import problems, shown_value, with_setting
from multibot_plugin.cli.init import toml_text
from multibot_plugin.errors import Refused
from multibot_plugin.settings import FLEET_SETTINGS, find, load, read_value


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in FLEET_SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)


def test_the_file_that_init_writes_shows_every_setting_with_its_default(tmp_path: Path) -> None:
    text = toml_text()
    assert tomllib.loads(text) == {"alerts": {"telegram": {}}, "monitor": {}}
    file = tmp_path / "all.toml"
    file.write_text(
        "\n".join(line[2:] if " = " in line and line.startswith("# ") else line for line in text.splitlines())
    )
    every = load(file, environ={})
    assert set(every.origins.values()) == {"file"}
    assert every.values == load(tmp_path / "none.toml", environ={}).values


def test_a_value_takes_the_place_of_its_comment(tmp_path: Path) -> None:
    before = toml_text()
    after = with_setting(before, find("alerts.telegram.chat_id"), "-100123")
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert changed == [('# chat_id = ""', 'chat_id = "-100123"')]
    assert tomllib.loads(after)["alerts"]["telegram"]["chat_id"] == "-100123"


@pytest.mark.parametrize(
    ("name", "raw"),
    [("memory_limit", "256MB"), ("monitor.tick_s", "0.5s"), ("deaths_limit", "5"), ("alerts.telegram.chat_id", "7"),
     ("bot_api_url", "http://127.0.0.1:8081"), ("memory_limit", "0"), ("stop_wait_s", "2m"), ("pg_bin", "/usr/lib/pg")],
)  # fmt: skip
@pytest.mark.parametrize("text", ["", "# a comment\n[monitor]\ntick_s = 9 # mine\n", toml_text()])
def test_what_is_set_is_read_back(tmp_path: Path, text: str, name: str, raw: str) -> None:
    setting = find(name)
    value = read_value(setting, raw)
    file = tmp_path / "multibot.toml"
    file.write_text(with_setting(text, setting, value))
    assert load(file, environ={})[name] == value
    file.write_text(with_setting(file.read_text(), setting, read_value(setting, setting.default)))
    assert load(file, environ={})[name] == setting.default
    assert all(line in file.read_text() for line in text.splitlines() if line.startswith("# a"))


def test_set_keeps_comments_and_mode_and_says_when_it_takes_effect(tmp_path: Path) -> None:
    file = tmp_path / "multibot.toml"
    file.write_text("# mine\nmemory_limit = 20000000 # small\n")
    file.chmod(0o640)
    result = invoke(tmp_path, "config", "set", "memory_limit", "256MB")
    assert result.exit_code == 0, result.output
    assert file.read_text() == '# mine\nmemory_limit = "256MB" # small\n'
    assert file.stat().st_mode & 0o777 == 0o640
    assert f"takes effect live with apply, restarting nothing: multibot --home {tmp_path} apply" in result.stderr
    assert invoke(tmp_path, "config", "get", "memory_limit").stdout == "256MB\n"


def test_setting_the_same_again_writes_nothing(tmp_path: Path) -> None:
    invoke(tmp_path, "config", "set", "deaths_limit", "5")
    stamp = (tmp_path / "multibot.toml").stat().st_ino
    assert "already" in invoke(tmp_path, "config", "set", "deaths_limit", "5").stderr
    assert (tmp_path / "multibot.toml").stat().st_ino == stamp


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("memory_limit", "plenty"), "memory_limit 'plenty' is not a size (like 256MB)"),
        (("memry_limit", "1"), "no setting 'memry_limit' (did you mean 'memory_limit'?): multibot config show"),
        (("token_var", "X"), "token_var is a setting of a bot, not of the fleet: multibot bot set ID --token-var"),
        (("pg_bin", "a/b"), "pg_bin 'a/b' is not an absolute path"),
    ],
)
def test_a_bad_value_is_one_line_and_changes_nothing(tmp_path: Path, words: tuple[str, str], message: str) -> None:
    result = invoke(tmp_path, "config", "set", *words)
    assert (result.exit_code, result.stderr) == (2, f"multibot: {message}\n")
    assert not (tmp_path / "multibot.toml").exists()


def test_a_broken_file_is_reported_and_not_made_worse(tmp_path: Path) -> None:
    file = tmp_path / "multibot.toml"
    file.write_text("memory_limit = \n")
    result = invoke(tmp_path, "config", "set", "memory_limit", "64MB")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"multibot: {file}: not TOML")
    assert file.read_text() == "memory_limit = \n"


def test_origins_are_shown(tmp_path: Path) -> None:
    (tmp_path / "multibot.toml").write_text("deaths_limit = 5\n")
    result = invoke(tmp_path, "config", "show", "--origin", env={"MULTIBOT_MONITOR__TICK_S": "2s"})
    by_name = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert str(tmp_path / "multibot.toml") in by_name["deaths_limit"]
    assert "MULTIBOT_MONITOR__TICK_S" in by_name["monitor.tick_s"]
    assert "default" in by_name["stop_wait_s"]
    assert set(by_name) == {"SETTING", *(s.name for s in FLEET_SETTINGS)}


def test_show_as_json_has_plain_values(tmp_path: Path) -> None:
    answer = json.loads(invoke(tmp_path, "config", "show", "monitor", "--json").stdout)
    assert [s["name"] for s in answer["settings"]] == ["monitor.tick_s", "monitor.plugin_timeout_s", "monitor.probe_s"]
    assert answer["settings"][0]["value"] == 5.0
    assert answer["settings"][0]["origin"] == "default"


def test_a_variable_in_the_way_is_told(tmp_path: Path) -> None:
    result = invoke(tmp_path, "config", "set", "deaths_limit", "5", env={"MULTIBOT_DEATHS_LIMIT": "9"})
    assert "now overridden by MULTIBOT_DEATHS_LIMIT" in result.stderr


def test_the_password_of_a_database_url_is_never_shown(tmp_path: Path) -> None:
    url = "postgresql://joe:s3cr3t@db.example/x?password=s3cr3t"
    for words in (("set", "database_url", url), ("show",), ("show", "--json"), ("get", "database_url"),
                  ("get", "database_url", "--json")):  # fmt: skip
        result = invoke(tmp_path, "config", *words)
        assert result.exit_code == 0
        assert "s3cr3t" not in result.output
    assert shown_value(find("database_url"), url) == "postgresql://joe:***@db.example/x?password=***"


def test_the_password_of_a_bot_api_server_is_not_shown(tmp_path: Path) -> None:
    told = invoke(tmp_path, "config", "set", "bot_api_url", "http://u:s3cr3t@bots.example", "--json")
    refused = invoke(tmp_path, "config", "set", "bot_api_url", "ftp://u:s3cr3t@bots.example")
    assert "http://u:***@bots.example" in told.stdout
    assert "s3cr3t" not in told.output + refused.output + invoke(tmp_path, "config", "show", "bot_api_url").output


def test_validate_finds_what_does_not_fit_together(tmp_path: Path) -> None:
    file = tmp_path / "multibot.toml"
    file.write_text('memory_clear_percent = 90\n[alerts.telegram]\nchat_id = "1"\n')
    result = invoke(tmp_path, "config", "validate")
    assert result.exit_code == 2
    assert "alerts.telegram.token_file is missing" in result.stderr
    assert "memory_clear_percent must be below" in result.stderr
    file.write_text("deaths_limit = 5\n")
    result = invoke(tmp_path, "config", "validate")
    assert (result.exit_code, result.stderr) == (0, f"{file}: ok, 1 setting set here\n")


def test_the_alert_token_file_must_hold_a_token_and_be_private(tmp_path: Path) -> None:
    file = tmp_path / "token"

    def found() -> list[str]:
        flags = {"alerts.telegram.token_file": str(file), "alerts.telegram.chat_id": "1"}
        return problems(load(tmp_path / "none", flags, environ={}))

    assert "No such file" in found()[0]
    file.write_text("nonsense\n")
    file.chmod(0o600)
    assert "holds no token" in found()[0]
    assert "nonsense" not in found()[0]
    file.write_text("123456789:" + "A" * 35 + "\n")
    assert found() == []
    file.chmod(0o644)
    assert "chmod 600" in found()[0]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("deaf_after_s", "-5", "deaf_after_s '-5' is not a duration (like 30s or 5m)"),
     ("monitor.tick_s", "-x", "monitor.tick_s '-x' is not a duration (like 30s or 5m)")],
)  # fmt: skip
def test_a_value_that_looks_like_an_option_is_taken_for_a_value(
    tmp_path: Path, name: str, value: str, told: str
) -> None:
    result = invoke(tmp_path, "config", "set", name, value)
    assert (result.exit_code, result.stderr) == (2, f"multibot: {told}\n")


def test_the_id_of_a_group_can_be_set(tmp_path: Path) -> None:
    assert invoke(tmp_path, "config", "set", "alerts.telegram.chat_id", "-1001234567890").exit_code == 0
    assert invoke(tmp_path, "config", "get", "alerts.telegram.chat_id").stdout == "-1001234567890\n"
    assert invoke(tmp_path, "config", "set", "memory_limit", "1GB", "--jsno").exit_code == 2


def test_what_keeps_alerts_from_arriving_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("123456789:" + "A" * 35)
    file.chmod(0o644)
    result = invoke(tmp_path, "config", "set", "alerts.telegram.token_file", str(file))
    assert result.exit_code == 0
    assert f"  warning: alerts.telegram.token_file: others may read {file}: chmod 600 {file}\n" in result.stderr
    file.chmod(0o600)
    asked = []

    def check_chat(token: str, server: str, chat: str, timeout_s: float) -> None:
        asked.append(chat)
        raise Refused("Bad Request: chat not found: write /start to your alerts bot in this chat")

    monkeypatch.setattr("multibot_plugin.bots.telegram.check_chat", check_chat)
    assert "warning" not in invoke(tmp_path, "config", "set", "memory_limit", "1GB").stderr
    result = invoke(tmp_path, "config", "set", "alerts.telegram.chat_id", "7")
    assert (result.exit_code, asked) == (0, ["7"])
    assert "  warning: alerts cannot be sent to Telegram (chat 7): Bad Request: chat not found: write" in result.stderr
