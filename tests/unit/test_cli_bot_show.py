"""The screen of `bot show`, from values."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from multibot_plugin.cli.bot_picture import Picture, activity_of, show_value, tail, webhook_of
from multibot_plugin.cli.bot_show import as_json, clock, describe, headline, next_step
from multibot_plugin.cli.ends import ends
from multibot_plugin.cli.remedies import Remedy
from multibot_plugin.settings import load
from multibot_runner.protocol import KILLED, RUNNING, Exit, Heartbeat, Run

NOW = 1_800_000_000.0
TOKEN = "123456789:" + "A" * 35
ROW: dict[str, Any] = {
    "id": "shop", "state": "running", "health": "healthy", "cause": "", "pid": 42, "uptime_s": 3700.0,
    "restarts_24h": 1, "memory_bytes": 31 * 1024**2, "cpu_percent": 0.3, "connections": 2, "last_poll_age_s": 2.0,
    "last_update_age_s": 47.0, "launch": "script", "enabled": True, "statename": "RUNNING", "start_at": NOW - 3700,
    "stop_at": None, "exit_code": 0, "spawn_error": None, "end": None, "deaths": {"10m": 0, "1h": 0, "24h": 0},
}  # fmt: skip
VALUES = load(Path("/nowhere"), environ={}).for_bot({}) | {"launch": "script", "target": "/srv/bot.py", "uid": 70007}


def picture(**changes: Any) -> Picture:
    return Picture("shop", ROW, NOW, True, values=VALUES, log=Path("/var/log/bot-shop.log"), **changes)


def command(rest: str) -> str:
    return f"multibot {rest}"


def change(action: str, **detail: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(NOW - 3 * 86400, UTC)
    return {"at": at, "actor": "joe", "door": "multibot bot set", "host": "h", "action": action, "detail": detail}


def test_a_healthy_bot_is_shown_with_all_that_is_known() -> None:
    lines = list(describe(picture(env=("GREETING",), own={"memory_limit": 1}), command))
    text = "\n".join(lines)
    assert lines[0] == "shop — healthy, up 1h 01m"
    assert "Runs as    script /srv/bot.py · uid 70007" in lines
    assert "Health     healthy · last successful poll 2s ago · last update 47s ago" in lines
    assert "Process    pid 42, up 1h 01m · restarts: 1 in 24 h · starts with the system" in lines
    assert "Variables  GREETING (values are not shown)" in lines
    assert "Next:" not in text


def test_what_telegram_says_of_a_bot_whose_polls_are_not_seen() -> None:
    info = {"age_s": 20.0, "code": 200, "origin": "https://b.example", "pending": 3, "error": "Connection refused",
            "error_at": NOW - 90}  # fmt: skip
    lines = list(describe(picture(webhook=info), command))
    (line,) = [line for line in lines if line.startswith("Telegram")]
    failed = clock(NOW - 90, NOW)
    assert line == ("Telegram   asked 20s ago · webhook https://b.example · 3 updates waiting · "
                    f"last failed delivery {failed}: Connection refused")  # fmt: skip
    rejected = list(describe(picture(webhook={"age_s": 1.0, "code": 401}), command))
    assert "Telegram   asked 1s ago · rejects its token (401)" in rejected


def test_what_a_process_says_of_its_work() -> None:
    said = Heartbeat(42, RUNNING, 10.0, update_count=12, handlers_seen=True, handled_count=11, handler_errors=1,
                     handler_latency_s=0.34, sent_count=7, sent_mono=95.0, ready_mono=40.0)  # fmt: skip
    shown = picture(activity=activity_of(said, 42, 100.0))
    (line,) = [line for line in describe(shown, command) if line.startswith("Activity")]
    handled = "11 handled · 1 error · the last took 0.3 s"
    assert line == f"Activity   12 updates · {handled} · 7 sent, the last 5s ago · ready for 1m 00s"
    assert as_json(shown)["bot"]["activity"] == {
        "updates": 12, "handled": 11, "handler_errors": 1, "handler_latency_s": 0.34, "sent": 7, "last_sent_age_s": 5.0,
        "ready_age_s": 60.0,
    }  # fmt: skip
    blind = activity_of(replace(said, handlers_seen=False), 42, 100.0)
    assert (blind["handled"], blind["handler_errors"]) == (None, None)
    for said_by in (None, replace(said, pid=41)):
        assert activity_of(said_by, 42, 100.0) == {}
    assert not [line for line in describe(picture(), command) if line.startswith("Activity")]


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"bots": []},
        {"bots": {"shop": {"pid": 42, "webhook": 7}}, "mono": 1},
        {"bots": {"shop": {"pid": 41, "webhook": {"asked_mono": 1}}}, "mono": 1},
    ],
)
def test_a_picture_that_somebody_damaged_says_nothing_of_a_webhook(found: dict[str, Any]) -> None:
    assert webhook_of(found, "shop", 42) == {}


def test_a_bot_in_trouble_is_so_since_its_incident_began_and_the_cause_is_said_once() -> None:
    incident = {"id": "1", "bot": "shop", "check": "polling", "level": "critical", "text": "deaf", "since_at": NOW - 90}
    row = ROW | {"health": "deaf", "cause": "no successful getUpdates for 90 s"}
    shown = replace(picture(incidents=(incident,)), row=row)
    assert headline(shown).endswith("(1 min): no successful getUpdates for 90 s")
    assert headline(shown).startswith("shop — deaf since ")
    (alert,) = (line for line in describe(shown, command) if line.startswith("Alerts     ✖ deaf, critical, since "))
    assert "told" not in alert
    told = replace(shown, incidents=(incident | {"told": ["Telegram (ops)"]},))
    assert any(line == f"{alert}, told to Telegram (ops)" for line in describe(told, command))


@pytest.mark.parametrize("state", ["backing-off", "quarantined"])
def test_a_bot_that_waits_does_so_since_its_process_ended_whatever_is_told_of_it(state: str) -> None:
    incident = {"id": "1", "bot": "shop", "check": "deaths", "text": "died 5 times", "since_at": NOW - 900}
    row = ROW | {"state": state, "health": "degraded", "cause": "no file", "stop_at": NOW - 20}
    shown = replace(picture(incidents=(incident,)), row=row)
    assert headline(shown) == f"shop — {state} since {clock(NOW - 20, NOW)} (20 s): no file"
    told = replace(shown, row=row | {"cause": "until 16:30:46: no file"})
    assert headline(told) == f"shop — {state} until 16:30:46: no file"


def test_a_rejected_token_names_the_way_out() -> None:
    exit = Exit(NOW - 60, "token-rejected", "token rejected by Telegram", code=78)
    row = ROW | {"state": "quarantined", "statename": "EXITED", "exit_code": 78, "pid": None, "stop_at": NOW - 60,
                 "cause": "token rejected by Telegram"}  # fmt: skip
    shown = replace(picture(runs=(Run(NOW - 90, 1.0, 41, "d", exit=exit),)), row=row)
    lines = list(describe(shown, command))
    assert "quarantined since" in lines[0]
    assert lines[0].endswith("token rejected by Telegram")
    assert lines[-2:] == ["Next: multibot bot set shop --token-stdin", "      (get a new token from @BotFather)"]
    assert any("exit 78" in line and "ran 30s" in line for line in lines)


def test_a_run_that_was_killed_ended_when_the_next_one_began_and_the_living_one_is_not_shown() -> None:
    runs = (Run(NOW - 10, 2.0, 42, "d"), Run(NOW - 145, 1.0, 41, "d"))
    (line,) = [line for line in describe(picture(runs=runs), command) if "killed" in line]
    assert line.strip() == f"{clock(NOW - 10, NOW):<9} {'killed':<9} {KILLED}  ran 2m 15s"


def test_supervisord_tells_the_signal_of_the_last_end_that_left_no_word() -> None:
    runs = (Run(NOW - 3700, 2.0, 42, "d"), Run(NOW - 4000, 1.0, 41, "d"))
    row = ROW | {"end": {"at": NOW - 3705, "code": None, "signal": "SIGSEGV"}}
    (line,) = [line for line in describe(replace(picture(runs=runs), row=row), command) if "SIGSEGV" in line]
    assert (
        line.strip() == f"{clock(NOW - 3705, NOW):<9} {'SIGSEGV':<9} killed by SIGSEGV (a crash in C code)  ran 4m 55s"
    )
    row = ROW | {"end": {"at": NOW - 5000, "code": None, "signal": "SIGSEGV"}}  # of an earlier run
    assert "SIGSEGV" not in "\n".join(describe(replace(picture(runs=runs), row=row), command))


def test_a_killed_run_without_a_next_one_ended_when_supervisord_saw_it() -> None:
    run = Run(NOW - 90, 1.0, 41, "d", stopping=True)
    row = ROW | {"state": "stopped", "statename": "STOPPED", "pid": None, "stop_at": NOW - 60}
    text = "\n".join(describe(replace(picture(runs=(run,)), row=row), command))
    assert f"{clock(NOW - 60, NOW):<9} killed    killed while it was stopping  ran 30s" in text
    text = "\n".join(describe(replace(picture(runs=(run,)), row=row | {"stop_at": NOW - 900}), command))
    assert f"?         killed    killed while it was stopping  started {clock(NOW - 90, NOW)}" in text


def audit(age_s: float, action: str, actor: str, door: str, **detail: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(NOW - age_s, UTC)
    return {"at": at, "actor": actor, "door": door, "host": "h", "action": action, "detail": detail}


def test_who_asked_for_an_end_and_what_others_saw_of_it_is_told_for_each() -> None:
    def run(age_s: float, pid: int, **changes: Any) -> Run:
        return Run(NOW - age_s, 1.0, pid, "d", **changes)

    def stop(age_s: float) -> Exit:
        return Exit(NOW - age_s, "stopped", "stopped, exit code 0", code=0)

    runs = (
        run(10, 9), run(100, 8, stopping=True, exit=stop(95)), run(200, 7, stopping=True, exit=stop(190)), run(300, 6),
        run(400, 5, exit=Exit(NOW - 390, "crashed", "ValueError: no (bot.py:3)", code=1)),
        run(500, 4, stopping=True), run(600, 3, stopping=True, exit=stop(580)),
    )  # fmt: skip
    changes = (
        audit(90, "bot.disabled", "an operator", "supervisorctl"),
        audit(190.5, "bot.restarted", "multibot", "monitor", cause="over its memory limit: 300 MB of 256 MB"),
        audit(299, "bot.killed", "multibot", "monitor", pid=6, cause="killed by SIGKILL (probably out of memory)"),
        audit(402, "bot.stopped", "ada", "multibot bot stop"),
        audit(581, "stop", "joe", "multibot stop"),
    )
    shown = ends(runs, ROW | {"pid": 9, "stop_wait_s": 12.0}, changes)
    assert [(end.how, end.text) for end in shown] == [
        ("exit 0", "stopped by an operator (supervisorctl)"),
        ("exit 0", "restarted by multibot: over its memory limit: 300 MB of 256 MB"),
        ("SIGKILL", "killed by SIGKILL (probably out of memory)"),
        ("exit 1", "ValueError: no (bot.py:3)"),
        ("killed", "stopped by ada (multibot bot stop) (killed while it was stopping)"),
        ("exit 0", "stopped by joe (multibot stop)"),
    ]
    died = audit(579, "supervisord.died", "multibot", "listener")
    assert ends(runs[-1:], ROW | {"pid": 9}, (died,))[0].text == "stopped: supervisord had died"
    assert ends(runs[-1:], ROW | {"pid": 9}, ())[0].text == "stopped, exit code 0"
    assert [end.died for end in shown] == [False, False, True, True, False, False]
    assert len(ends([run(n, n) for n in range(1, 40)], ROW | {"pid": 1}, ())) == 20


def test_a_bot_that_needed_longer_than_its_stop_wait_is_told_as_such_not_by_our_signal() -> None:
    end = {"at": NOW - 5, "code": None, "signal": "SIGALRM", "asked": True}
    (shown,) = ends([Run(NOW - 60, 1.0, 4, "d", stopping=True)], ROW | {"pid": None, "end": end}, ())
    assert (shown.how, shown.text) == ("killed", "killed: it had not ended within its stop_wait_s")


def test_an_end_without_a_word_stays_where_it_was_when_the_bot_is_started_again() -> None:
    runs = (Run(NOW - 10, 1.0, 9, "d"), Run(NOW - 3600, 1.0, 4, "d", stopping=True))
    row = ROW | {"pid": 9, "stop_wait_s": 10.0}
    asked = audit(3000, "bot.stopped", "ada", "multibot bot stop")
    cause = "killed: it had not ended within its stop_wait_s"
    seen = audit(2990, "bot.killed", "multibot", "monitor", pid=4, cause=cause, asked=True)
    for changes, why in (((asked, seen), cause), ((asked,), "killed while it was stopping")):
        (end,) = ends(runs, row, changes)
        assert (end.at, end.ran_s, end.died) == (NOW - 2990, 610.0, False)
        assert end.text == f"stopped by ada (multibot bot stop) ({why})"


def test_the_last_change_is_told_without_a_secret() -> None:
    detail = {"settings": {"memory_limit": {"old": 128 * 1024**2, "new": 256 * 1024**2}}, "token": "changed",
              "env": {"KEY": "added"}, "config_version": 7}  # fmt: skip
    lines = list(describe(picture(changes=(change("bot.changed", **detail),)), command))
    changed = next(line for line in lines if line.startswith("Changed"))
    assert "rev 7, 3 days ago by joe (multibot bot set)" in changed
    assert "memory_limit 128MB → 256MB, token (changed), env.KEY (added)" in changed


def test_who_stopped_a_bot_stands_in_the_headline() -> None:
    row = ROW | {"state": "stopped", "statename": "STOPPED", "pid": None, "stop_at": NOW - 60}
    stopped = replace(picture(changes=(change("bot.disabled"), change("bot.enabled"))), row=row)
    assert headline(stopped).endswith("by joe (multibot bot set)")
    assert next_step(stopped, command) == Remedy(("multibot bot start shop",))


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"state": "backing-off"}, ("multibot logs shop",)),
        ({"health": "unauthorised"}, ("multibot bot set shop --token-stdin",)),
        ({"statename": None}, ("multibot apply",)),
        ({"health": "conflicted"}, ()),
        ({"health": "deaf"}, ("multibot logs shop",)),
        ({"health": "frozen"}, ("multibot logs shop", "multibot bot restart shop")),
        ({"health": "throttled"}, ()),
    ],
)
def test_the_next_step_fits_the_trouble(changes: dict[str, Any], step: tuple[str, ...]) -> None:
    assert next_step(replace(picture(), row=ROW | changes), command).commands == step


@pytest.mark.parametrize(
    "cause",
    [
        "a webhook takes its updates to https://b.example, so it cannot poll",
        "a webhook is set, so it cannot poll (409)",
    ],
)
def test_a_webhook_that_takes_a_polling_bots_updates_is_no_second_poller(cause: str) -> None:
    row = ROW | {"health": "conflicted", "cause": cause}
    assert "deleteWebhook" in next_step(replace(picture(), row=row), command).why


def test_json_holds_no_value_of_a_variable_and_masks_a_password_in_a_url() -> None:
    url = {"bot_api_url": "https://joe:hun@ter2@example.org"}
    changes = (change("bot.changed", settings={"bot_api_url": {"old": None, "new": url["bot_api_url"]}}),)
    shown = replace(picture(env=("KEY",), own=url, changes=changes), values=VALUES | url)
    text = json.dumps(as_json(shown), default=str)
    assert "ter2" not in text
    assert show_value("bot_api_url", "https://joe:hunter2@example.org") == "https://***@example.org"


def test_the_end_of_a_log_is_redacted_and_harmless(tmp_path: Path) -> None:
    log = tmp_path / "log"
    secret = TOKEN.partition(":")[2]
    log.write_text("x" * 70_000 + f"\nold\ntoken {TOKEN} {TOKEN.replace(':', '%3A')} {secret}\n\x1b[31mred\n")
    lines = tail(log, 2, [TOKEN])
    assert len(lines) == 2
    assert "AAAA" not in "".join(lines)
    assert "\x1b" not in lines[1]
    log.write_text('{"at": "2026-11-30T14:03:11.123+00:00", "stream": "stdout", "line": "2026-11-30 14:03:11 said"}\n')
    assert tail(log, 2) == ["2026-11-30 14:03:11 said"]
    assert tail(tmp_path / "none", 2) == []
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(log)
    assert tail(tmp_path / "fifo", 2) == []
    assert tail(tmp_path / "link", 2) == []
