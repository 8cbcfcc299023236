"""Which files of logs are removed when log_keep_s is over."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from multibot_plugin.health.old_logs import remove_old
from multibot_plugin.home import Home, find_home

NOW = 1_795_700_000.0
DAY = 86400.0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = find_home(str(tmp_path))
    found.log.mkdir(parents=True)
    return found


def log(home: Home, name: str, age_s: float) -> Path:
    path = home.log / name
    path.write_text("x\n")
    os.utime(path, (NOW - age_s, NOW - age_s))
    return path


def bot(home: Home, name: str, *, deployed: bool, age_s: float = 0.0, **live: object) -> None:
    directory = home.bot(name).state_dir
    directory.mkdir(parents=True)
    if deployed:
        (directory / "0123456789abcdef.token").touch()
        home.bot(name).live.write_text(json.dumps({"launch": "script", "settings": live} | live))
    os.utime(directory, (NOW - age_s, NOW - age_s))


def left(home: Home) -> list[str]:
    return sorted(os.listdir(home.log))


def test_rotated_logs_end_by_their_age_and_the_one_that_is_written_stays(home: Home) -> None:
    bot(home, "echo", deployed=True)
    for name, days in (("bot-echo.log", 30), ("bot-echo.log.1", 1), ("bot-echo.log.2", 3), ("bot-echo.log.10", 9)):
        log(home, name, days * DAY)
    assert remove_old(home, 2 * DAY, NOW, []) == ["bot-echo.log.10", "bot-echo.log.2"]
    assert left(home) == ["bot-echo.log", "bot-echo.log.1"]
    assert remove_old(home, 2 * DAY, NOW, []) == []


def test_a_bot_may_have_its_own_time(home: Home) -> None:
    bot(home, "brief", deployed=True, log_keep_s=60.0)
    bot(home, "always", deployed=True, log_keep_s=0.0)
    for name in ("brief", "always"):
        log(home, f"bot-{name}.log.1", DAY)
    assert remove_old(home, 0.0, NOW, []) == ["bot-brief.log.1"]
    assert remove_old(home, 60.0, NOW, []) == []


def test_logs_of_a_bot_end_when_it_was_deleted_so_long_ago(home: Home) -> None:
    bot(home, "late", deployed=False, age_s=1 * DAY)
    bot(home, "long-ago", deployed=False, age_s=3 * DAY)
    for name in ("late", "long-ago", "purged", "elsewhere"):
        log(home, f"bot-{name}.log", 30 * DAY)
    log(home, "bot-young.log", DAY)
    assert remove_old(home, 0.0, NOW, ["elsewhere"]) == []
    assert remove_old(home, 2 * DAY, NOW, ["elsewhere"]) == ["bot-long-ago.log", "bot-purged.log"]


def test_nothing_else_is_touched_and_no_link_followed(home: Home) -> None:
    kept = log(home, "monitor.log.1", 30 * DAY)
    log(home, "bot-UPPER.log.1", 30 * DAY)
    (home.log / "bot-dir.log.1").mkdir()
    (home.log / "bot-link.log.1").symlink_to(kept)
    before = left(home)
    assert remove_old(home, 60.0, NOW, []) == []
    assert left(home) == before


def test_without_a_directory_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert remove_old(find_home(str(tmp_path)), 60.0, NOW, []) == []
