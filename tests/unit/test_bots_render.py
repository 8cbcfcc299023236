"""The sections: what they say, what they can never say, and how they are read back."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multibot_plugin.bots.config import BotConfig, Deployment, deploy
from multibot_plugin.bots.render import Place, Section, read_rendered, render, section_of, with_autostart
from multibot_plugin.errors import BadValue
from multibot_plugin.settings import Settings, load
from multibot_plugin.supervisor.conf import template
from multibot_plugin.supervisor.parse import parse

TOKEN = "123456:AAabcdefghijklmnopqrstuvwxyz0123456"
FLEET: Settings = load(Path("/nonexistent/multibot.toml"), environ={})
# supervisor's parser wants the directory of a log to exist.
PLACE = Place("/opt/multi bot/bin/python", Path("/tmp"))
FRAME = "[supervisord]\nlogfile=/dev/null\npidfile=/dev/null\n"

GOLDEN = """\
; One section for each bot, written by multibot from its database: 'multibot apply' overwrites what is changed here.
; A section holds no setting and no secret: the last word of its command names the files that do.

[program:bot-echo]
command="/opt/multi bot/bin/python" -P -m multibot_runner echo 0123456789abcdef
autostart=true
autorestart=unexpected
exitcodes=78,79
startsecs=1
startretries=100000
stopsignal=TERM
stopwaitsecs=12
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile=/tmp/bot-echo.log
stdout_logfile_maxbytes=10485760
stdout_logfile_backups=3

[program:bot-kept]
command="/opt/multi bot/bin/python" -P -m multibot_runner kept fedcba9876543210
autostart=false
autorestart=unexpected
exitcodes=78,79
startsecs=1
startretries=100000
stopsignal=TERM
stopwaitsecs=7
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile=/tmp/bot-kept.log
stdout_logfile_maxbytes=10485760
stdout_logfile_backups=3
"""


def deployment(**changes: Any) -> Deployment:
    values = {"id": "echo", "enabled": True, "launch": "command", "target": "/bin/true", "token": TOKEN} | changes
    return deploy(BotConfig(**values), FLEET, b"key")


def rendered(*deployments: Deployment, kept: tuple[Section, ...] = ()) -> str:
    return render(template("program.conf.j2"), deployments, kept, PLACE).text


def programs(text: str) -> dict[str, dict[str, Any]]:
    return {p["name"]: p for group in parse(FRAME + text, "/tmp") for p in group["programs"]}


def test_the_file_is_exactly_this() -> None:
    kept = Section("kept", "fedcba9876543210", False, 7, "as it stood there")
    assert rendered(replace(deployment(), digest="0123456789abcdef"), kept=(kept,)) == GOLDEN


def test_no_bots_is_a_file_that_can_be_parsed() -> None:
    assert programs(rendered()) == {}


@pytest.mark.parametrize(("wait", "rounded"), [(0.0, 2), (0.4, 3), (10.0, 12), (59.5, 62)])
def test_supervisord_waits_longer_than_the_runner(wait: float, rounded: int) -> None:
    assert section_of(deployment(settings={"stop_wait_s": wait})).stop_wait_s == rounded


free_text = st.text(max_size=60) | st.sampled_from(
    ["%(ENV_HOME)s", "a ;b", "a #b", '"', "'", "\\", "x\n[program:evil]\ncommand=/bin/evil", "\r", "%", "]", "*", "🤖"]
)


@settings(max_examples=150, deadline=None)
@given(
    target=free_text,
    env=st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), free_text, max_size=3),
    texts=st.fixed_dictionaries(dict.fromkeys(("user", "workdir", "python", "env_file", "token_var"), free_text)),
)
def test_free_text_reaches_the_digest_alone_and_supervisors_parser_understands_what_was_meant(
    target: str, env: dict[str, str], texts: dict[str, str]
) -> None:
    # Not through from_row, which would refuse most of it: the sections must hold even then.
    bot = deployment(target=target, env=env, settings=texts)
    text = rendered(bot, deployment(id="other"))
    assert text == rendered(replace(deployment(), digest=bot.digest), deployment(id="other"))
    parsed = programs(text)
    assert set(parsed) == {"bot-echo", "bot-other"}
    assert parsed["bot-echo"]["command"] == f'"{PLACE.python}" -P -m multibot_runner echo {bot.digest}'
    assert read_rendered(text)["echo"] == section_of(bot)
    assert text.isascii()


HOSTILE_IDS = [
    "",
    "-a",
    "A",
    "a b",
    "a]",
    "a\n",
    "a\n[program:z]",
    "a;b",
    "a #b",
    "%(here)s",
    "ä",
    "a" * 40,
    "a/b",
    "*",
]


@pytest.mark.parametrize("bot", HOSTILE_IDS)
def test_a_hostile_id_is_refused_before_a_section_is_written(bot: str) -> None:
    with pytest.raises(BadValue, match="not an id"):
        rendered(replace(deployment(), id=bot))


@pytest.mark.parametrize("bot", HOSTILE_IDS)
def test_a_hostile_id_in_a_row_is_refused(bot: str) -> None:
    row = {"id": bot, "enabled": True, "launch": "command", "target": "x", "token": TOKEN, "env": {}, "settings": {},
           "uid": None, "config_version": 1}  # fmt: skip
    with pytest.raises(BadValue, match="an id is"):
        BotConfig.from_row(row)


@pytest.mark.parametrize("digest", ["", "0123456789ABCDEF", "0123456789abcde\n", "0123456789abcdef0", "%(here)s"])
def test_a_hostile_digest_is_refused(digest: str) -> None:
    with pytest.raises(BadValue, match="16 hexadecimal digits"):
        rendered(replace(deployment(), digest=digest))


@pytest.mark.parametrize(
    "python", ["python", "/a;b", "/a #b", '/a"b', "/a%b", "/a\nb", "/ä", "/a'b", "/a\\b", "/$HOME"]
)
def test_a_path_of_the_interpreter_that_could_be_misread_is_refused(python: str) -> None:
    with pytest.raises(BadValue, match="interpreter"):
        render(template("program.conf.j2"), [deployment()], (), Place(python, Path("/tmp")))


def test_a_path_of_the_logs_that_could_be_misread_is_refused() -> None:
    with pytest.raises(BadValue, match="cannot hold this path"):
        render(template("program.conf.j2"), [deployment()], (), Place("/python", Path("/tmp/a b")))


def test_values_of_the_wrong_type_and_two_sections_for_one_bot_are_refused() -> None:
    wrong: Any = "true\ncommand=/bin/evil"
    with pytest.raises(BadValue):
        rendered(kept=(Section("a", "0" * 16, wrong, 1),))
    with pytest.raises(BadValue):
        rendered(kept=(Section("a", "0" * 16, True, wrong),))
    with pytest.raises(BadValue, match="two sections"):
        rendered(deployment(), deployment())


def test_what_is_rendered_reads_back_with_its_text() -> None:
    text = rendered(deployment(), deployment(id="b", enabled=False))
    sections = read_rendered(text)
    assert {bot: (s.autostart, s.stop_wait_s) for bot, s in sections.items()} == {"echo": (True, 12), "b": (False, 12)}
    assert sections["echo"].text.startswith("[program:bot-echo]\ncommand=")
    assert sections["echo"].text.endswith("stdout_logfile_backups=3")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("autostart=true", "autostart=perhaps"),
        lambda text: text.replace("autostart=true\n", ""),
        lambda text: re.sub(r"multibot_runner echo \w+", "multibot_runner other 0123456789abcdef", text),
        lambda text: re.sub(r"multibot_runner echo \w+", "multibot_runner echo", text),
        lambda text: text.replace("stopwaitsecs=12", "stopwaitsecs=soon"),
        lambda text: text.replace("[program:bot-echo]", "[program:bot-Echo]"),
        lambda text: text.replace("[program:bot-echo]", "[program:bot-echo"),
        lambda text: text + "\n[program:bot-echo]\nautostart=false\n",
        lambda text: text + text,
        lambda text: text[:200],
        lambda text: "",
    ],
)
def test_a_section_damaged_by_hand_counts_as_missing(damage: Any) -> None:
    assert "echo" not in read_rendered(damage(rendered(deployment())))


@given(st.text(max_size=300))
def test_no_text_at_all_makes_reading_fail(text: str) -> None:
    read_rendered(text)
    with_autostart(text, "echo", True)


def test_autostart_is_set_in_one_section_alone() -> None:
    before = rendered(deployment(), deployment(id="echo-2"), deployment(id="z"))
    after = with_autostart(before, "echo", False)
    assert after is not None
    differing = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert differing == [("autostart=true", "autostart=false")]
    assert {bot: section.autostart for bot, section in read_rendered(after).items()} == {
        "echo": False,
        "echo-2": True,
        "z": True,
    }
    assert with_autostart(after, "echo", True) == before
    assert with_autostart(before, "ech", True) is None
    assert with_autostart(before.replace("autostart=true\n", "", 1), "echo", False) is None
