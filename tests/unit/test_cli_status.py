"""``multibot status``: what is wrong, why, what to type; pure parts and the whole without a database."""

from __future__ import annotations

import json
import os
import socket
from datetime import datetime
from pathlib import Path

import pytest
from cli_rows import NOW, FakeContext, FakeSupervisor, invoke, row, stopped

from multibot_plugin.cli import fleet
from multibot_plugin.cli.alerting import unsent, where_alerts_go
from multibot_plugin.cli.fleet import Fleet
from multibot_plugin.cli.remedies import remedy
from multibot_plugin.cli.status import Database, header, lines, moment
from multibot_plugin.home import Home, find_home
from multibot_plugin.settings import load
from multibot_runner.protocol import Exit, Run, encode

FINE = Database("embedded", "18.6")
TODAY = datetime.fromtimestamp(NOW)
QUARANTINED = stopped("shop", state="quarantined", statename="EXITED", exit_code=78, enabled=True,
                      stop_at=NOW - 21 * 60, cause="token rejected by Telegram (401)")  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return find_home(str(tmp_path))


def seen(*rows: dict[str, object], monitor_ok: bool = True) -> Fleet:
    answer = FakeSupervisor(rows, monitor_ok).bots()
    return Fleet(tuple(rows), answer["supervisord"], answer["monitor"], NOW)


def test_the_cause_stands_beside_the_state_and_the_remedy_below(home: Home) -> None:
    survey = stopped("survey", stop_at=NOW - 86400)
    database = Database("embedded", "18.6", stoppers={"survey": " by ada (supervisorctl)"})
    assert lines(home, [QUARANTINED, survey], (), database, NOW) == [
        "",
        f"✖ shop     quarantined since {moment(NOW - 1260, NOW)} (21 min): token rejected by Telegram (401)",
        f"           → {home.command('bot set shop --token-stdin')}",
        "○ survey   stopped since yesterday by ada (supervisorctl)",
        f"           → {home.command('bot start survey')}",
    ]


def test_advice_without_a_command_is_shown_too(home: Home) -> None:
    _, _, advice, *_ = lines(home, [row("a", health="conflicted", cause="another process polls")], (), FINE, NOW)
    assert advice.startswith("      → another program polls with this token: stop it")


def test_a_stop_past_multibot_is_said_before_the_audit_log_knows_it(home: Home) -> None:
    _, line, remedy = lines(home, [stopped("survey", enabled=True)], (), FINE, NOW)
    assert line == f"○ survey   stopped since {moment(NOW - 60, NOW)} (supervisorctl)"
    assert remedy.endswith(home.command("bot start survey"))


def test_every_alert_that_is_counted_is_shown(home: Home) -> None:
    deaf = {"bot": "a", "level": "critical", "text": "deaf: no luck", "since_at": NOW - 60}
    shown = lines(home, [row("a", health="deaf")], (), FINE, NOW, [deaf, {**deaf, "bot": "gone"}])
    assert [line for line in shown if "gone" in line] == [
        f"✖ gone   alert since {moment(NOW - 60, NOW)}: deaf: no luck"
    ]
    assert sum("deaf" in line for line in shown) == 2


def test_a_bot_whose_health_is_not_known_has_a_line_and_is_no_trouble(tmp_path: Path) -> None:
    young = row("a", health="unknown", cause="just started", uptime_s=1.0)
    shown = invoke(tmp_path, "status", context=FakeContext([young, row("b")])).stdout
    assert "1 healthy, 1 unknown" in shown
    assert "… a   unknown since " in shown
    assert invoke(tmp_path, "status", "-o", "name", context=FakeContext([young])).stdout == ""
    silent = invoke(tmp_path, "status", context=FakeContext([young], monitor_ok=False)).stdout
    assert "the monitor does not" in silent
    assert "… a" not in silent


@pytest.mark.parametrize(
    ("state", "cause", "typed"),
    [
        ("quarantined", "Telegram rejected the token (401 Unauthorized)", ["multibot bot set shop --token-stdin"]),
        ("quarantined", "script /srv/my bot.py: Permission denied",
         [*([] if os.geteuid() == 0 else ["chmod o+r '/srv/my bot.py'"]), "multibot bot restart shop"]),
        ("quarantined", "no module named 'x' in /srv or in /usr/bin/python3",
         ["multibot bot set shop --python /path/to/venv/bin/python"]),
        ("backing-off", "ModuleNotFoundError: No module named 'x'",
         ["multibot bot set shop --python /path/to/venv/bin/python"]),
        ("quarantined", "script /srv/bot.py: No such file or directory",
         ["multibot bot set shop --script /path/to/file.py"]),
        ("quarantined", "FileNotFoundError: [Errno 2] No such file or directory: 'config.json' (bot.py:3)",
         ["multibot bot set shop --workdir /path/to/the/folder"]),
        ("backing-off", "FileNotFoundError: [Errno 2] No such file or directory: '/srv/x'", ["multibot logs shop"]),
        ("backing-off", "KeyError: 'TELEGRAM_TOKEN' (bot.py:7)", ["multibot bot set shop --token-var TELEGRAM_TOKEN"]),
        ("quarantined", "KeyError: 'ADMIN_ID'", ["multibot bot set shop --env ADMIN_ID=VALUE"]),
        ("backing-off", "KeyError: 'answer'", ["multibot logs shop"]),
        ("quarantined", "something else", ["multibot logs shop", "multibot bot restart shop"]),
        ("backing-off", "ValueError: no", ["multibot logs shop"]),
    ],
)  # fmt: skip
def test_the_remedy_fits_the_cause_and_is_one_command_a_line(state: str, cause: str, typed: list[str]) -> None:
    found = remedy(stopped("shop", state=state), cause, lambda words: f"multibot {words}")
    assert list(found.commands) == typed


def test_a_bot_that_does_not_stay_up_shows_its_runners_words_not_supervisords(tmp_path: Path) -> None:
    paths = find_home(str(tmp_path)).bot("a")
    paths.runs.parent.mkdir(parents=True)
    crashed = Run(NOW - 9, 1.0, 7, "d", exit=Exit(NOW - 8, "crashed", "ValueError: no", code=1))
    paths.runs.write_bytes(encode((crashed,)))
    raw = stopped("a", state="backing-off", statename="BACKOFF", spawn_error="Exited too quickly (process log ...)")
    shown = invoke(tmp_path, "status", context=FakeContext([raw])).stdout
    assert "ValueError: no" in shown
    assert "too quickly" not in shown
    assert "ValueError: no" in invoke(tmp_path, "list", context=FakeContext([raw])).stdout


def test_bots_that_differ_from_the_database_say_how_to_see_and_apply(home: Home) -> None:
    shown = lines(home, [], ("poll",), FINE, NOW)
    assert shown[1] == "▲ poll   differs from the database"
    assert [line.strip() for line in shown[2:]] == [
        f"→ {home.command('render-config --diff')}", f"→ {home.command('apply')}"
    ]  # fmt: skip


def test_trouble_comes_first_and_many_pending_changes_are_one_line(home: Home) -> None:
    many = tuple(f"bot-{n}" for n in range(40))
    shown = lines(home, [stopped("a"), row("b", health="slow"), QUARANTINED], many, FINE, NOW)
    order = [line[:1] for line in shown if line[:1] not in ("", " ")]
    assert order == ["✖", "▲", "○", "▲"]
    assert "▲ 40 bots differ from the database: bot-0, bot-1, bot-2 and 37 more" in shown
    assert len([line for line in shown if line.strip() == f"→ {home.command('apply')}"]) == 1


def test_the_header_counts_healthy_ones_first(home: Home) -> None:
    first, second = header(
        home, load(home.toml, environ={}), seen(QUARANTINED, row("a"), row("b"), stopped("c")), FINE, {}
    )
    kind = "root" if os.geteuid() == 0 else "user"
    assert first.startswith(f"multibot on {socket.gethostname()} ({kind} install) · supervisord 4.3.0 pid 812")
    assert first.endswith("database ok (embedded, PostgreSQL 18.6)")
    assert second == ("4 bots: 2 healthy, 1 quarantined, 1 stopped · 0 alerts · monitor ok, last tick 2 s ago"
                      " · alerts go to the log only")  # fmt: skip


def test_what_is_away_is_said_in_one_line_each(home: Home) -> None:
    away = Database("embedded", problem="the database does not answer at /x: run 'multibot start'")
    shown = header(home, load(home.toml, environ={}), seen(row("a"), monitor_ok=False), away, {})
    assert len(shown) == 4
    assert "the monitor does not report" in shown[2]
    assert "bots go on without it" in shown[3]


def test_a_disabled_plugin_is_trouble_of_the_installation(home: Home) -> None:
    picture = {"incidents": [{"bot": "", "text": "plugin 'x' is disabled"}, {"bot": "a", "text": "deaf"}]}
    shown = header(home, load(home.toml, environ={}), seen(row("a")), FINE, picture)
    assert shown[2:] == ["▲ plugin 'x' is disabled"]
    assert "2 alerts" in shown[1]


def test_where_alerts_go(home: Home) -> None:
    none = load(home.toml, environ={})
    both = load(home.toml, {"alerts.telegram.token_file": "/x", "alerts.telegram.chat_id": "1"}, environ={})
    assert where_alerts_go(none, {}) == "alerts go to the log only"
    assert where_alerts_go(both, {}) == "alerts go to Telegram"
    assert where_alerts_go(both, {"channels": []}) == "alerts go to the log only"  # its plugin is not there
    assert where_alerts_go(none, {"channels": ["log", "pager"]}) == "alerts go to Pager"
    assert where_alerts_go(none, {"channels": ["opsGenie"]}) == "alerts go to OpsGenie"


@pytest.mark.parametrize(
    ("changes", "symbol", "well"),
    [
        ({}, "●", True),
        ({"health": "unknown"}, "…", True),
        ({"health": "deaf"}, "✖", False),
        ({"health": "unauthorised"}, "✖", False),
        ({"health": "over-limit"}, "▲", False),
        ({"health": "degraded"}, "▲", False),
        ({"state": "starting", "health": "unknown"}, "…", True),
        ({"state": "stopping", "health": "unknown"}, "…", True),
        ({"state": "backing-off", "health": "unknown"}, "✖", False),
        ({"state": "quarantined", "health": "unknown"}, "✖", False),
        ({"state": "stopped", "health": "unknown"}, "○", False),
    ],
)
def test_every_condition_has_a_symbol(changes: dict[str, str], symbol: str, well: bool) -> None:
    bot = row("a", **changes)
    assert fleet.symbol(bot) == symbol
    assert fleet.is_well(bot) is well


def test_moments_are_as_short_as_they_can_be() -> None:
    noon = datetime(2026, 11, 24, 12, 0).timestamp()
    assert moment(noon - 3600, noon) == "11:00"
    assert moment(noon - 86400, noon) == "yesterday"
    assert moment(noon - 3 * 86400, noon) == "Nov 21"


def test_without_a_database_bots_are_still_shown_and_the_exit_code_is_3(tmp_path: Path) -> None:
    (tmp_path / "supervisord.conf").touch()
    result = invoke(tmp_path, "status", context=FakeContext([row("a"), QUARANTINED]))
    assert result.exit_code == 3
    assert "✖ shop   quarantined" in result.stdout
    assert "there is no database here yet" in result.stdout
    assert "✖ a" not in result.stdout


def test_one_bot_that_is_well_gives_exit_code_0(tmp_path: Path) -> None:
    result = invoke(tmp_path, "status", "a", context=FakeContext([row("a"), QUARANTINED]))
    assert result.exit_code == 0
    assert "● a   healthy, up 48 s" in result.stdout


def test_names_only(tmp_path: Path) -> None:
    result = invoke(tmp_path, "status", "-o", "name", context=FakeContext([row("a"), QUARANTINED]))
    assert (result.exit_code, result.stdout) == (3, "shop\n")


def test_json_says_what_is_away(tmp_path: Path) -> None:
    result = invoke(tmp_path, "status", "--json", context=FakeContext(None))
    answer = json.loads(result.stdout)
    assert result.exit_code == 3
    assert (answer["schema"], answer["ok"], answer["supervisord"]["ok"], answer["database"]["ok"]) == (
        1,
        False,
        False,
        False,
    )
    assert "start'" in answer["supervisord"]["problem"]


def test_an_unknown_bot_is_exit_code_4(tmp_path: Path) -> None:
    result = invoke(tmp_path, "status", "ecko", context=FakeContext([row("echo")]))
    assert (result.exit_code, result.stderr) == (4, "multibot: no bot 'ecko' (did you mean 'echo'?)\n")


def test_a_channel_that_fails_is_said_with_why_and_how_many_wait(tmp_path: Path, home: Home) -> None:
    failing = {"channel": "telegram", "to": "Telegram (chat 7)", "waiting": 3, "failure": "chat not found"}
    picture = {"channels": ["Telegram (chat 7)", "pager"], "deliveries": [failing]}
    none = load(Path("/nonexistent"), environ={})
    assert unsent(picture) == ["alerts cannot be sent to Telegram (chat 7): chat not found; 3 wait"]
    assert unsent({"deliveries": [failing | {"waiting": 1}, failing | {"failure": ""}]})[0].endswith("; 1 waits")
    assert where_alerts_go(none, picture) == "alerts go to Pager"
    assert where_alerts_go(none, picture | {"channels": ["Telegram (chat 7)"]}) == "alerts do not arrive"
    assert (
        header(home, none, seen(row("a")), FINE, picture)[-1]
        == "✖ alerts cannot be sent to Telegram (chat 7): chat not found; 3 wait"
    )


def test_bots_that_supervisord_lacks_are_counted_and_what_is_in_their_way_is_said(home: Home) -> None:
    database = Database("embedded", "18.6", pending=("foo",), problems={"foo": "somebody else's"}, bots=1)
    _, second = header(home, load(home.toml, environ={}), seen(), database, {})
    assert second.startswith("no bot in supervisord, 1 in the database · ")
    assert lines(home, [], database.pending, database, NOW) == ["", "▲ foo   somebody else's"]
