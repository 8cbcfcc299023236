"""Who was taken away past multibot: the rendered file against what supervisord has and what was deployed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multibot_plugin.bots.astray import astray
from multibot_plugin.home import Home, find_home

SECTION = """[program:bot-{0}]
command="/usr/bin/python3" -P -m multibot_runner {0} 0123456789abcdef
autostart=true
stopwaitsecs=12
"""


def render(home: Home, *bots: str) -> None:
    home.rendered.write_text("".join(map(SECTION.format, bots)))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Bots a and b, rendered and deployed."""
    home = find_home(str(tmp_path))
    home.rendered.parent.mkdir(parents=True)
    for bot in ("a", "b"):
        paths = home.bot(bot)
        paths.state_dir.mkdir(parents=True)
        paths.token("0123456789abcdef").write_text("x")
    render(home, "a", "b")
    return home


def test_nothing_is_said_when_all_agree_or_a_bot_is_yet_to_be_taken_over(home: Home) -> None:
    assert astray(home, {"a", "b"}) == ""
    assert astray(home, {"a"}) == ""  # rendered by hand: 'supervisorctl update' takes it over
    (home.bot("b").token("0123456789abcdef")).unlink()  # deleted and swept; its working directory stays
    render(home, "a")
    assert astray(home, {"a"}) == ""


def test_bots_that_run_and_are_in_no_file_are_in_danger(home: Home) -> None:
    render(home, "a")
    cure = f"'multibot --home {home.config} apply' brings them back"
    danger = f"does not name 1 bot (b): 'supervisorctl update' would stop them, {cure}"
    assert astray(home, {"a", "b"}) == f"{home.rendered} {danger}"
    home.rendered.unlink()
    home.rendered.parent.rmdir()
    assert "does not name 2 bots (a, b): 'supervisorctl update' would" in astray(home, {"a", "b"})
    home.rendered.parent.write_text("")
    assert f"(a, b) ({home.rendered}: Not a directory)" in astray(home, {"a", "b"})


def test_bots_that_supervisord_has_lost_with_the_file_are_named(home: Home) -> None:
    render(home, "a")
    assert astray(home, {"a"}).startswith(f"supervisord lost 1 bot (b), which {home.rendered} does not name any more")
    home.rendered.unlink()
    assert "supervisord lost 2 bots (a, b)" in astray(home, frozenset())


def test_what_a_command_is_doing_right_now_is_left_out(home: Home) -> None:
    render(home, "a")
    (home.state / "apply.lock").write_text(json.dumps({"bots": ["b"], "actor": "ada", "door": "test"}))
    assert astray(home, {"a", "b"}) == ""
    assert astray(home, {"a"}) == ""
