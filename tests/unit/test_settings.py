"""The table of settings: bounds hold at every door, and one place says when a change takes effect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from cli_rows import invoke

from multibot_plugin.bots.config import BotConfig
from multibot_plugin.cli.bot_options import read_settings
from multibot_plugin.errors import BadValue
from multibot_plugin.settings import BOT_SETTINGS, EFFECTS, SETTINGS, Applies, Setting, find, load, read_value

BOUNDED = [s for s in SETTINGS if s.least is not None or s.most is not None]


def outside(setting: Setting) -> tuple[Any, str]:
    """Return a value beyond a bound, and the end of what is said of it."""
    if setting.least is not None:
        return setting.least / 2, f"is below {setting.kind.show(setting.least)}"
    assert setting.most is not None
    return type(setting.default)(setting.most + 1), f"is above {setting.kind.show(setting.most)}"


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("monitor.tick_s", "0", "monitor.tick_s 0 is below 0.1s"),
        ("monitor.tick_s", 0, "monitor.tick_s 0 is below 0.1s"),
        ("monitor.plugin_timeout_s", "0s", "monitor.plugin_timeout_s 0s is below 0.1s"),
        ("poll_timeout_s", 0.0, "poll_timeout_s 0.0 is below 1s"),
        ("poll_timeout_s", "1m", "poll_timeout_s 1m is above 50s"),
        ("stop_wait_s", "2h", "stop_wait_s 2h is above 3600s"),
        ("frozen_after_s", "3s", "frozen_after_s 3s is below 10s"),
        ("memory_warning_percent", "101", "memory_warning_percent 101 is above 100"),
        ("deaths_limit", "51", "deaths_limit 51 is above 50"),
        ("memory_limit", "100", "memory_limit 100 is below 16MB"),
        ("memory_limit", 100, "memory_limit 100 is below 16MB"),
        ("memory_limit", "512KB", "memory_limit 512KB is below 16MB"),
    ],
)
def test_a_value_beyond_a_bound_is_refused_and_the_bound_is_named(name: str, raw: object, message: str) -> None:
    with pytest.raises(BadValue) as caught:
        read_value(find(name), raw)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("webhook_url", ("https://b.example/x", "http://[::1]:8443"),
         ("https://[::1", "http://a:99999/x", "http://a:x", "http://:80", "http://u@")),
        ("bot_api_url", ("http://u:p@a:8081",), ("http://u:p/w@a",)),
        ("webhook_listen", ("0.0.0.0", "::", "localhost", "b-1.example"), ("0.0.0.0;x", "/etc", "1.2.3", "", "::x")),
        ("token_var", ("BOT_TOKEN", "PATHS", "_t"), ("PATH", "LD_PRELOAD", "PYTHONPATH", "MULTIBOT_RUN", "1", "")),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(name: str, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    assert tuple(read_value(find(name), text) for text in good) == good
    for text in bad:
        with pytest.raises(BadValue, match=f"is not {re.escape(find(name).kind.expected)}"):
            read_value(find(name), text)


@pytest.mark.parametrize("setting", BOUNDED, ids=lambda s: s.name)
def test_the_bounds_themselves_and_the_default_are_accepted(setting: Setting) -> None:
    for value in (setting.least, setting.most, setting.default):
        assert value is None or read_value(setting, value) == value


@pytest.mark.parametrize("setting", [s for s in SETTINGS if re.search(r"\b0: ", s.help)], ids=lambda s: s.name)
def test_where_0_has_a_meaning_it_is_accepted(setting: Setting) -> None:
    assert [read_value(setting, raw) for raw in (0, "0")] == [0, 0]


@pytest.mark.parametrize("setting", [s for s in BOUNDED if s.scope != "bot"], ids=lambda s: s.name)
def test_the_doors_of_the_fleet_check_the_bounds(tmp_path: Path, setting: Setting) -> None:
    raw, said = outside(setting)
    toml = tmp_path / "multibot.toml"
    with pytest.raises(BadValue, match=f"command line: .* {said}"):
        load(toml, {setting.name: raw}, environ={})
    with pytest.raises(BadValue, match=f"{setting.variable}: .* {said}"):
        load(toml, environ={setting.variable: str(raw)})
    result = invoke(tmp_path, "config", "set", setting.name, str(raw))
    assert (result.exit_code, result.stderr) == (2, f"multibot: {setting.name} {raw} {said}\n")
    assert not toml.exists()
    toml.write_text(f"{setting.name} = {raw}\n")
    with pytest.raises(BadValue, match=f"multibot.toml: .* {said}"):
        load(toml, environ={})


@pytest.mark.parametrize("setting", [s for s in BOUNDED if s.scope != "fleet"], ids=lambda s: s.name)
def test_the_doors_of_a_bot_check_the_bounds(setting: Setting) -> None:
    raw, said = outside(setting)
    with pytest.raises(BadValue, match=f"^{setting.name} .* {said}"):
        read_settings({s.name: None for s in BOT_SETTINGS} | {setting.name: str(raw)})
    row = {"id": "shop", "enabled": True, "launch": "script", "target": "/bot.py", "token": "123456789:" + "A" * 35,
           "env": {}, "settings": {setting.name: raw}, "uid": None, "config_version": 1}  # fmt: skip
    with pytest.raises(BadValue, match=f"bot 'shop': {setting.name} .* {said}"):
        BotConfig.from_row(row)


def test_every_word_for_when_a_change_takes_effect_is_told_and_used() -> None:
    assert set(EFFECTS) == set(get_args(Applies)) == {s.applies for s in SETTINGS}
    assert EFFECTS["live"].startswith("live ")  # as 'bot set' and its help call them


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("bot_uid_range", "70000-80000", "takes effect for bots created from then on"),
        ("pg_bin", "/usr/lib/pg", "takes effect with stop, init and start: {0} stop && {0} init && {0} start"),
        ("monitor.tick_s", "2s", "takes effect at the monitor's next tick"),
        ("stop_wait_s", "2s", "takes effect with apply, which restarts the bots concerned: {0} apply"),
        ("memory_limit", "1GB", "takes effect live with apply, restarting nothing: {0} apply"),
    ],
)
def test_set_and_show_say_the_same_of_when_a_change_takes_effect(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    told = invoke(tmp_path, "config", "set", name, value).stderr
    assert f"  {said.format(f'multibot --home {tmp_path}')}\n" in told
    shown = invoke(tmp_path, "config", "show", name, "--origin", "-o", "wide").stdout
    assert EFFECTS[find(name).applies] in shown
    assert said.startswith(f"takes effect {EFFECTS[find(name).applies]}")


@pytest.mark.parametrize(
    ("name", "raw"),
    [("stop_wait_s", 1e300), ("start_grace_s", 1e300), ("deaf_after_s", "8d"), ("memory_for_s", 1e9),
     ("frozen_after_s", 1e9), pytest.param("memory_limit", 10**4000, id="huge"), ("restart_budget", 10**9)],
)  # fmt: skip
def test_what_can_only_be_a_mistake_is_refused_in_a_short_line(name: str, raw: object) -> None:
    with pytest.raises(BadValue) as caught:
        read_value(find(name), raw)
    assert f"is above {find(name).kind.show(find(name).most)}" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_every_duration_and_size_has_an_end() -> None:
    assert [s.name for s in SETTINGS if s.kind.name in ("size", "seconds", "count") and s.most is None] == []


@pytest.mark.parametrize("text", ["plugins = 1", "[plugins]\nx = 1", "[[plugins]]"])
def test_the_settings_of_plugins_are_tables(tmp_path: Path, text: str) -> None:
    toml = tmp_path / "multibot.toml"
    toml.write_text(text)
    with pytest.raises(BadValue, match="plugins is not a table of tables"):
        load(toml, environ={})
