"""``multibot list``: the table, the stable keys, and what is shown without supervisord."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_rows import FakeContext, invoke, row, stopped

from multibot_plugin.cli.listing import COLUMNS, columns_for
from multibot_plugin.cli.tables import lay_out
from multibot_plugin.supervisor.ctl import BotsPlugin

ROWS = [
    row("greeter", uptime_s=9.0, memory_bytes=34_603_008, cpu_percent=0.4, last_poll_age_s=1.0, last_update_age_s=9.0),
    row("dice", launch="command", cause="polling is not visible", uptime_s=62.0, restarts_24h=0,
        memory_bytes=12_582_912, cpu_percent=0.0, last_poll_age_s=None, last_update_age_s=58.0),
    row("echo"),
]  # fmt: skip


def lines(text: str) -> list[str]:
    return text.rstrip("\n").split("\n")


def test_the_table_is_aligned_and_full_when_piped(tmp_path: Path) -> None:
    result = invoke(tmp_path, "list", context=FakeContext(ROWS))
    assert result.exit_code == 0, result.output
    assert lines(result.stdout) == [
        "BOT      STATE    HEALTH               UPTIME  RESTARTS 24h  MEMORY   CPU  LAST POLL  LAST UPDATE",
        "dice     running  ● healthy (no view)  1m 02s             0   12 MB  0.0%          –          58s",
        "echo     running  ● healthy               48s             1   31 MB  0.3%         2s          47s",
        "greeter  running  ● healthy                9s             1   33 MB  0.4%         1s           9s",
    ]


def test_a_cause_makes_a_column(tmp_path: Path) -> None:
    rows = [row("a"), row("b", health="deaf", cause="no successful getUpdates for 47 s"), stopped("c")]
    shown = lines(invoke(tmp_path, "list", context=FakeContext(rows)).stdout)
    assert shown[0].endswith("LAST UPDATE  CAUSE")
    assert "✖ deaf" in shown[2]
    assert shown[2].endswith("no successful getUpdates for 47 s")
    assert re.match(r"c    stopped  –", shown[3])


def test_wide_shows_more_columns(tmp_path: Path) -> None:
    shown = lines(invoke(tmp_path, "list", "-o", "wide", context=FakeContext(ROWS)).stdout)
    assert shown[0].split()[-5:] == ["LAUNCH", "ENABLED", "CONNECTIONS", "DIGEST", "CAUSE"]
    assert re.search(r"4242  command  yes +1  0123456789abcdef  polling is not visible$", shown[1])


def test_json_has_the_documented_keys(tmp_path: Path) -> None:
    result = invoke(tmp_path, "list", "--json", context=FakeContext(ROWS))
    answer = json.loads(result.stdout)
    assert list(answer) == ["schema", "bots"]
    assert answer["schema"] == 1
    assert [bot["id"] for bot in answer["bots"]] == ["dice", "echo", "greeter"]
    assert {"id", "state", "health", "cause", "pid", "uptime_s", "restarts_24h", "memory_bytes", "cpu_percent",
            "last_poll_age_s", "last_update_age_s"} <= set(answer["bots"][0])  # fmt: skip
    assert answer["bots"][1]["memory_bytes"] == 32505856


def test_jsonl_is_one_bot_a_line(tmp_path: Path) -> None:
    shown = lines(invoke(tmp_path, "list", "-o", "jsonl", context=FakeContext(ROWS)).stdout)
    assert [json.loads(line)["id"] for line in shown] == ["dice", "echo", "greeter"]


def test_bots_are_chosen_by_id_or_pattern(tmp_path: Path) -> None:
    assert invoke(tmp_path, "list", "-o", "name", "[de]*", context=FakeContext(ROWS)).stdout == "dice\necho\n"
    assert invoke(tmp_path, "list", "-o", "name", "echo", context=FakeContext(ROWS)).stdout == "echo\n"


def test_an_unknown_bot_is_guessed(tmp_path: Path) -> None:
    result = invoke(tmp_path, "list", "ecko", context=FakeContext(ROWS))
    assert (result.exit_code, result.stderr) == (4, "multibot: no bot 'ecko' (did you mean 'echo'?)\n")
    assert result.stdout == ""


def test_no_bots_yet_says_what_to_type(tmp_path: Path) -> None:
    result = invoke(tmp_path, "list", context=FakeContext([]))
    assert result.exit_code == 0
    assert result.stdout == ""
    assert f"multibot --home {tmp_path} bot create" in result.stderr


def test_a_silent_monitor_is_said_in_one_line(tmp_path: Path) -> None:
    rows = [row("a", health="unknown", cause="the monitor does not run")]
    result = invoke(tmp_path, "list", context=FakeContext(rows, monitor_ok=False))
    assert result.exit_code == 0
    assert "monitor does not report" in result.stderr
    assert "… unknown" in result.stdout


def test_without_supervisord_the_rendered_bots_are_shown(tmp_path: Path) -> None:
    rendered = tmp_path / "state" / "rendered" / "bots.conf"
    rendered.parent.mkdir(parents=True)
    text = '[program:bot-echo]\ncommand="/py" -P -m multibot_runner echo 0123456789abcdef\nautostart=true\n'
    rendered.write_bytes(text.encode() + b"stopwaitsecs=12\n; \xff by hand\n")
    result = invoke(tmp_path, "list", "--json", context=FakeContext(None))
    assert result.exit_code == 5
    (bot,) = json.loads(result.stdout)["bots"]
    assert (bot["id"], bot["state"], bot["enabled"]) == ("echo", "stopped", True)
    assert set(bot) >= set(row("x"))
    assert re.fullmatch(
        r"multibot: supervisord does not answer at \S+: run 'multibot --home \S+ start'\n", result.stderr
    )


def test_a_hostile_cause_cannot_reach_the_terminal(tmp_path: Path) -> None:
    rows = [row("a", health="degraded", cause="\x1b[2J\x1b]0;owned\x07[bold]x")]
    result = invoke(tmp_path, "list", context=FakeContext(rows))
    assert "\x1b" not in result.stdout
    assert "\\x1b[2J\\x1b]0;owned\\x07[bold]x" in result.stdout


def test_on_a_terminal_symbols_have_colour_and_with_no_color_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from multibot_plugin.cli import output

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32m●\x1b[0m" in output.table([row("a")], COLUMNS)
    assert output.mark("✖") == "\x1b[31m✖\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in output.table([row("a")], COLUMNS)
    assert output.mark("✖") == "✖"


LONG = "a-bot-with-the-longest-id-there-can-be1"
DEAF = row("greeter", health="deaf", cause="no successful getUpdates for 47 s (Telegram: too many requests, 429)")


@pytest.mark.parametrize(
    ("columns", "rows", "head"),
    [
        (120, [row("a")], "BOT STATE HEALTH UPTIME RESTARTS 24h MEMORY CPU LAST POLL LAST UPDATE"),
        (80, [row("a")], "BOT STATE HEALTH UPTIME RESTARTS 24h MEMORY LAST POLL LAST UPDATE"),
        (80, [row(LONG)], "BOT STATE HEALTH UPTIME LAST POLL"),
        (60, [row(LONG)], "BOT STATE HEALTH"),
        (120, [row("a"), DEAF], "BOT STATE HEALTH UPTIME RESTARTS 24h MEMORY CPU LAST POLL LAST UPDATE CAUSE"),
        (119, [row("a"), DEAF], "BOT STATE HEALTH UPTIME LAST POLL CAUSE"),
        (80, [row("a"), DEAF], "BOT STATE HEALTH UPTIME LAST POLL CAUSE"),
        (80, [row(LONG), DEAF], "BOT STATE HEALTH CAUSE"),
    ],
)
def test_a_narrow_terminal_keeps_who_how_and_why(columns: int, rows: list[dict[str, object]], head: str) -> None:
    first, *shown = lay_out(rows, columns_for(rows), columns)
    assert first.split() == head.split()
    assert max(map(len, (first, *shown))) <= columns
    for bot, line in zip(rows, shown, strict=True):
        assert line.startswith(f"{bot['id']} ")
        assert str(bot["health"]) in line
        assert line.endswith("…") is (bot is DEAF and columns in (80, 120))


def test_wide_prefers_what_only_it_shows() -> None:
    first, line = lay_out([row("a")], COLUMNS, 120, wide=True)
    assert {"PID", "LAUNCH", "ENABLED"} <= set(first.split())
    assert "DIGEST" not in first
    assert max(len(first), len(line)) <= 120


def test_a_line_that_cannot_fit_is_cut_at_its_end() -> None:
    assert lay_out([row(LONG)], COLUMNS, 20) == ["BOT…", "a-bot-with-the-long…"]


def test_supervisorctl_shows_the_same_columns() -> None:
    shown = io.StringIO()
    answers = iter([[row("a"), DEAF], [row("echo")]])
    server = SimpleNamespace(getBots=lambda: json.dumps({"bots": next(answers)}))
    controller = SimpleNamespace(
        options=SimpleNamespace(plugins=[]), exitstatus=0, output=lambda line: shown.write(f"{line}\n"),
        complete=None, upcheck=lambda: True, get_server_proxy=lambda namespace: server,
    )  # fmt: skip
    plugin = BotsPlugin(controller, {})
    plugin.do_bots("")
    assert shown.getvalue().splitlines() == lay_out([row("a"), DEAF], columns_for([DEAF]), 1000)
    plugin.do_bots("ecko")
    assert shown.getvalue().splitlines()[-1] == "multibot: no bot 'ecko' (did you mean 'echo'?)"
    assert controller.exitstatus == 4
    plugin.do_bots("--help")
    assert "A line per bot" in shown.getvalue()
