"""Requests as supervisord writes them and the monitor reads them; what their ends mean; how they are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_rows import row

from multibot_plugin.cli.status import moment
from multibot_plugin.home import find_home
from multibot_plugin.supervisor import ctl_picture
from multibot_plugin.supervisor.executor import command, read_outcome, read_request, why_not
from multibot_plugin.supervisor.inside.requests import (
    ASKER,
    FAULTS,
    MOST_OPEN,
    NO_SUCH_REQUEST,
    NOT_STORED,
    TOO_MANY_REQUESTS,
    Refusal,
    Request,
    Requests,
    inbox,
    results,
)
from multibot_plugin.supervisor.inside.status import incident_rows, why_away

TOKEN = "123456789:AAabcdefghijklmnopqrstuvwxyz0123456"
AT, MONO = 1_800_000_000.0, 5_000.0


def request(**changes: Any) -> Request:
    usual = {"id": "0" * 20, "method": "startBot", "bot": "echo", "by": "", "asked_at": AT, "asked_mono": MONO}
    return Request(**{**usual, **changes})


def refused(code: int, call: Any, *arguments: Any) -> str:
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    assert caught.value.code == code
    assert caught.value.text.startswith(f"{FAULTS[code][0]}: ")
    return caught.value.text


def test_what_is_asked_is_a_file_that_the_monitor_can_read_and_names_tell_the_order(tmp_path: Path) -> None:
    told: list[str] = []
    requests = Requests(tmp_path, told.append)
    ids = [requests.ask("startBot", "echo", "ada"), requests.ask("apply", "", ""), requests.ask("stopBot", "a-b", "")]
    assert told == ids == sorted(ids)
    assert inbox(tmp_path).stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in inbox(tmp_path).iterdir()} == {0o600}
    found = [read_request(inbox(tmp_path) / f"{number}.json") for number in ids]
    assert [(r.method, r.bot, r.by, r.state) for r in found] == [
        ("startBot", "echo", "ada", "waiting"), ("apply", "", "", "waiting"), ("stopBot", "a-b", "", "waiting"),
    ]  # fmt: skip
    assert requests.result(ids[0])["state"] == "waiting"
    results(tmp_path).mkdir()
    (inbox(tmp_path) / f"{ids[0]}.json").rename(results(tmp_path) / f"{ids[0]}.json")
    assert requests.result(ids[0])["id"] == ids[0]


@pytest.mark.parametrize("unknown", ["", "0" * 20, "../runtime", "x" * 20, "0" * 4000])
def test_an_unknown_request_is_refused_whatever_it_looks_like(tmp_path: Path, unknown: str) -> None:
    refused(NO_SUCH_REQUEST, Requests(tmp_path, print).result, unknown)


def test_a_refused_request_leaves_nothing_and_tells_nobody(tmp_path: Path) -> None:
    requests = Requests(tmp_path, lambda _: pytest.fail("told"))
    inbox(tmp_path).write_text("in the way")
    assert "cannot be written: File exists" in refused(NOT_STORED, requests.ask, "apply", "", "")
    inbox(tmp_path).unlink()
    inbox(tmp_path).mkdir()
    for number in range(MOST_OPEN):
        (inbox(tmp_path) / f"{number}.json").touch()
    refused(TOO_MANY_REQUESTS, requests.ask, "apply", "", "")
    assert len(list(inbox(tmp_path).iterdir())) == MOST_OPEN


@pytest.mark.parametrize("by", ["ada", "ada.b-c@host+1", "ada (supervisorctl bot_start)", "7 (a)"])
def test_who_asks_is_a_name_perhaps_with_a_tool(by: str) -> None:
    assert ASKER.fullmatch(by)


@pytest.mark.parametrize("by", ["", " ada", "-ada", "ada (x", "ada\n", f"a {TOKEN}", TOKEN, "a" * 65, "ada (--x)", "é"])
def test_who_asks_is_nothing_else(by: str) -> None:
    assert not ASKER.fullmatch(by)


@pytest.mark.parametrize(
    ("by", "actor", "door"),
    [
        ("", "", "XML-RPC startBot"),
        ("ada", "ada", "XML-RPC startBot"),
        ("ada (supervisorctl bot_start)", "ada", "supervisorctl bot_start (XML-RPC startBot)"),
    ],
)
def test_the_command_is_carried_out_in_the_name_of_who_asked(by: str, actor: str, door: str) -> None:
    words = command(request(by=by))
    assert words[-6:] == [actor, door, "bot", "start", "--json", "echo"]
    assert command(request(method="apply", bot=""))[-2:] == ["apply", "--json"]


@pytest.mark.parametrize(
    "changes",
    [{"method": "shutdown"}, {"bot": "--all"}, {"bot": ""}, {"method": "apply"}, {"id": "1" * 20}, {"asked_at": "x"}],
)
def test_what_supervisord_would_not_have_written_is_no_request(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = tmp_path / f"{'0' * 20}.json"
    file.write_text(json.dumps({**vars(request()), **changes}))
    with pytest.raises(ValueError, match="not "):
        read_request(file)


def test_what_was_begun_or_waited_too_long_is_not_carried_out() -> None:
    assert why_not(request(), AT + 60, MONO + 60, MONO + 90) == ""
    assert why_not(request(asked_at=AT + 5, asked_mono=MONO + 5), AT, MONO, MONO + 9) == ""
    assert "cut off" in why_not(request(state="running"), AT, MONO, MONO)
    for late in ((AT + 121, MONO, MONO), (AT, MONO + 121, MONO + 121), (AT + 30, 3.0, 4.0)):
        assert "away too long" in why_not(request(), *late)


def test_an_outcome_is_the_commands_own_words_without_any_token() -> None:
    bots = {"bots": [{"id": "echo", "ok": False, "text": f"gave up: {TOKEN}"}]}
    said = f"multibot: the database is away\n\n  token {TOKEN}\x1b[31m\n"
    outcome = read_outcome(1, json.dumps(bots).encode(), said.encode())
    assert outcome["text"] == "echo: gave up: 123456789:<redacted>"
    assert outcome["said"] == ["the database is away", "token 123456789:<redacted>\x1b[31m"]
    assert (outcome["exit_code"], outcome["result"]["bots"][0]["ok"]) == (1, False)
    assert "AAabc" not in str(outcome)


@pytest.mark.parametrize(
    ("code", "out", "err", "text"),
    [
        (0, b'{"text": "2 bots: nothing to do"}', b"", "2 bots: nothing to do"),
        (4, b"", b"multibot: no bot 'x'\n", "no bot 'x'"),
        (1, b"", b"", "exit code 1"),
        (-9, b"", b"half a w", "killed by signal 9"),
        (1, b"[1]", b"\xff\xfe", "\ufffd\ufffd"),
        (0, b'{"bots": 3}', b"", "exit code 0"),
        (0, b'{"bots": [3, {"id": 1}]}', b"", "1: None"),
    ],
)
def test_an_outcome_has_one_line_in_any_case(code: int, out: bytes, err: bytes, text: str) -> None:
    assert read_outcome(code, out, err)["text"] == text


def test_why_the_monitor_is_away_says_what_helps() -> None:
    fresh = {"mono": MONO - 1, "tick_s": 5.0, "pid": 7}
    assert why_away("multibot", "RUNNING", 7, fresh, MONO) == ""
    assert "(STARTING): ask again" in why_away("multibot", "STARTING", 7, fresh, MONO)
    assert why_away("m", "FATAL", 0, fresh, MONO) == "the monitor does not run (FATAL): start the program m"
    silent = why_away("multibot", "RUNNING", 7, {**fresh, "mono": MONO - 40}, MONO)
    assert silent == "the monitor has been silent for 40 s: ask again in a moment, else restart the program multibot"
    assert ctl_picture.as_typed(silent).endswith("else type 'restart multibot'")
    assert "not reported yet" in why_away("multibot", "RUNNING", 8, fresh, MONO)  # an earlier monitor's picture


@pytest.mark.parametrize("found", [None, 3, [3, None], [{"bot": ["x"]}], [{"bot": "other"}]])
def test_no_incident_comes_out_of_a_damaged_file(found: Any) -> None:
    assert incident_rows({"incidents": found}, {"echo"}) == []


def test_incidents_are_shown_with_what_they_are_about() -> None:
    item = {"id": "i", "bot": "echo", "check": "deaf", "level": "critical", "text": "deaf", "since_at": AT, "told": [1]}
    (row,) = incident_rows({"incidents": [item]}, {"echo"})
    assert (row["told"], row["decision"]) == ([], "")
    cells = [column.cell(row) for column in ctl_picture.incident_columns(AT + 60)]
    assert [cells[0], cells[1], *cells[3:]] == ["✖", "echo", "deaf", "log only", "deaf"]


def test_a_bot_is_shown_with_its_last_end_and_what_is_typed_can_be_typed_where_it_is_said(tmp_path: Path) -> None:
    end = {"at": AT - 9, "code": None, "signal": "SIGKILL"}
    deaths = {"10m": 1, "1h": 2, "24h": 3}
    shown = row("echo", state="stopped", health="unknown", pid=None, end=end, deaths=deaths)
    answer = {"bot": shown, "incidents": [], "at": AT, "monitor": {"ok": False, "text": "away: restart the program m"}}
    home = find_home(str(tmp_path))
    lines = list(ctl_picture.describe(answer, home, "supervisorctl -c F "))
    assert f"   LAST END       {moment(AT - 9, AT)}, killed by SIGKILL" in lines
    assert "   DEATHS         1 in 10m, 2 in 1h, 3 in 24h" in lines
    assert "   away: type 'supervisorctl -c F restart m'" in lines
    assert lines[-1] == "   → supervisorctl -c F bot_start echo"
    assert not any("DIGEST" in line for line in lines)
    answer["bot"] = shown | {"end": end | {"code": 3, "signal": None}}
    assert f"   LAST END       {moment(AT - 9, AT)}, exit 3" in ctl_picture.describe(answer, None)
