"""``multibot logs``: the last lines, merged, followed over rotations, harmless."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cli_rows import invoke
from hypothesis import given, settings
from hypothesis import strategies as st

from multibot_plugin.bots.config import BotConfig, deploy
from multibot_plugin.bots.files import write_bot
from multibot_plugin.bots.render import section_of
from multibot_plugin.cli.log_files import Follower, backwards
from multibot_plugin.cli.log_lines import Wanted, since_of, time_of
from multibot_plugin.cli.logs import Source, _followed, _written, _zone
from multibot_plugin.home import Home
from multibot_plugin.settings import load

TOKEN = "123456789:" + "AbC-_" * 7


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


def shown(*sources: Source, **wanted: Any) -> list[str]:
    """Return what stands in the logs."""
    with ExitStack() as stack:
        followers = [(source, stack.enter_context(Follower(source.path))) for source in sources]
        return [line.text for line in _written(followers, Wanted(**wanted), stack)]


def test_several_logs_are_merged_by_time_and_named(tmp_path: Path, log: Path) -> None:
    (log / "bot-echo.log").write_text("2021-11-24 10:00:01,100 one\nTraceback\n2021-11-24 10:00:03,000 three\n")
    (log / "bot-greeter.log").write_text("2021-11-24T10:00:02.000 two\n")
    result = invoke(tmp_path, "logs", "echo", "greeter")
    assert result.stdout.splitlines() == [
        "echo    │ 2021-11-24 10:00:01,100 one",
        "echo    │ Traceback",
        "greeter │ 2021-11-24T10:00:02.000 two",
        "echo    │ 2021-11-24 10:00:03,000 three",
    ]
    assert result.stderr == ""


def test_one_log_is_shown_as_it_is(tmp_path: Path, log: Path) -> None:
    (log / "bot-echo.log").write_text("one\ntwo\nthree\n")
    assert invoke(tmp_path, "logs", "echo", "-n", "2").stdout == "two\nthree\n"
    assert invoke(tmp_path, "logs", "-n", "0").stdout == ""


def test_a_rendered_file_that_is_no_text_keeps_no_log_back(tmp_path: Path, log: Path) -> None:
    (tmp_path / "state" / "rendered").mkdir(parents=True)
    (tmp_path / "state" / "rendered" / "bots.conf").write_bytes(b"; \xff by hand\n")
    (log / "bot-echo.log").write_text("one\n")
    assert invoke(tmp_path, "logs").stdout == "one\n"


def test_what_is_no_file_is_no_log_and_keeps_none_back(tmp_path: Path, log: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (log / "bot-a.log").mkdir()
    os.mkfifo(log / "bot-b.log")
    for link in ("bot-c.log", "bot-echo.log.1"):
        (log / link).symlink_to(tmp_path / "secret")
    (log / "bot-echo.log").write_text("one\n")
    assert invoke(tmp_path, "logs").stdout == "echo │ one\n"
    with Follower(log / "bot-echo.log") as follower:
        (log / "bot-c.log").rename(log / "bot-echo.log")
        assert follower.lines() == []


def test_rotated_files_are_read_where_the_newest_is_too_short(log: Path) -> None:
    (log / "bot-a.log").write_text("5\n6\n")
    (log / "bot-a.log.1").write_text("3\n4\n")
    (log / "bot-a.log.2").write_text("1\n2\n")
    (log / "bot-a.log.10").write_text("0\n")
    source = Source("a", log / "bot-a.log", ())
    assert shown(source, count=5) == ["2", "3", "4", "5", "6"]
    assert shown(source, count=6) == ["1", "2", "3", "4", "5", "6"]
    assert shown(source) == ["0", "1", "2", "3", "4", "5", "6"]


def test_a_long_log_is_read_from_its_end(log: Path) -> None:
    (log / "bot-a.log").write_text("".join(f"line {n} {'x' * 200}\n" for n in range(20_000)))
    tail = shown(Source("a", log / "bot-a.log", ()), count=1000)
    assert [line.split()[1] for line in tail] == [str(n) for n in range(19_000, 20_000)]


def test_tokens_and_escapes_never_reach_the_terminal(tmp_path: Path, log: Path) -> None:
    state = tmp_path / "state" / "bots" / "echo"
    state.mkdir(parents=True)
    secret = "Zz9-" * 9
    (state / "0123456789abcdef.token").write_text(f"987654321:{secret}")
    (log / "bot-echo.log").write_bytes(f"a {TOKEN} b {secret} \x1b[2J\x07 \u202e c\r\n".encode() + b"\xff\n")
    result = invoke(tmp_path, "logs", "echo")
    assert TOKEN.partition(":")[2] not in result.stdout
    assert secret not in result.stdout
    assert result.stdout == "a 123456789:<redacted> b <redacted> \\x1b[2J\\x07 \\u202e c\n\ufffd\n"


def test_json_is_one_object_per_line(tmp_path: Path, log: Path) -> None:
    (log / "bot-echo.log").write_text("one\n")
    (line,) = invoke(tmp_path, "logs", "echo", "--json").stdout.splitlines()
    assert json.loads(line) == {"bot": "echo", "at": None, "stream": None, "line": "one"}


def test_an_unknown_bot_is_guessed(tmp_path: Path, log: Path) -> None:
    (log / "bot-echo.log").write_text("one\n")
    result = invoke(tmp_path, "logs", "ecko")
    assert (result.exit_code, result.stderr) == (4, "multibot: no bot 'ecko' (did you mean 'echo'?)\n")


def test_nothing_logged_yet_is_said(tmp_path: Path) -> None:
    (tmp_path / "supervisord.conf").touch()
    result = invoke(tmp_path, "logs")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing was logged yet\n")


def test_a_follower_sees_whole_lines_only(log: Path) -> None:
    file = log / "bot-a.log"
    file.write_text("old\n")
    with Follower(file) as follower, file.open("a") as out:
        assert follower.lines() == []
        out.write("new\nhalf")
        out.flush()
        assert follower.lines() == [b"new"]
        out.write(" more\n")
        out.flush()
        assert follower.lines() == [b"half more"]


def test_a_follower_survives_rotation_truncation_and_absence(log: Path) -> None:
    file = log / "bot-a.log"
    with Follower(file) as follower:
        assert follower.lines() == []
        file.write_text("first\n")
        assert follower.lines() == [b"first"]
        with file.open("a") as out:
            out.write("before the rotation\n")
        file.rename(log / "bot-a.log.1")
        file.write_text("after it\n")
        assert follower.lines() == [b"before the rotation", b"after it"]
        file.write_text("cut\n")
        assert [*follower.lines(), *follower.lines()] == [b"cut"]


def test_a_follower_finds_what_was_rotated_away_more_than_once_but_nothing_old(log: Path) -> None:
    file, first, second, third = log / "bot-a.log", *(log / f"bot-a.log.{n}" for n in (1, 2, 3))
    file.write_text("0\n")
    first.write_text("old\n")
    os.utime(first, (1000, 1000))
    with Follower(file) as follower, file.open("a") as out:
        out.write("1\n")
        out.flush()
        for text in ("2\n", "3\n"):
            for older, newer in ((third, second), (second, first), (first, file)):
                if newer.exists():
                    newer.rename(older)
            file.write_text(text)
        assert follower.lines() == [b"1", b"2", b"3"]
        file.unlink()
        file.write_text("4\n")
        os.utime(first, (1000, 1000))
        assert follower.lines() == [b"4"]


def test_a_line_without_an_end_is_shown_in_pieces(log: Path) -> None:
    file = log / "bot-a.log"
    with Follower(file) as follower, file.open("ab") as out:
        out.write(b"x " * 150_000 + TOKEN[:20].encode())
        out.flush()
        assert follower.lines() == [b"x " * 150_000]  # half a token waits for its other half
        out.write(TOKEN[20:].encode() + b"\n")
        out.flush()
        assert follower.lines() == [TOKEN.encode()]


@pytest.mark.parametrize("cut", range(3, 44, 5))
def test_half_a_token_at_a_cut_is_not_shown(log: Path, cut: int) -> None:
    file = log / "bot-a.log"
    end = b" " + b"y " * ((5 * 65536 - len(TOKEN) + cut) // 2 - 1)
    file.write_bytes(b"x " * 40_000 + TOKEN.encode() + end)
    with file.open("rb") as opened:
        begin, _ = next(backwards(opened, file.stat().st_size))
    assert 80_000 <= begin <= 80_000 + len(TOKEN)
    (line,) = shown(Source("a", file, ()), count=1)
    assert not any(TOKEN[n : n + 8] in line for n in range(len(TOKEN) - 7))
    file.write_bytes(TOKEN[:20].encode())
    with Follower(file) as follower, file.open("ab") as out:
        out.write(TOKEN[20:].encode() + b" said\nnext\n")
        out.flush()
        assert follower.lines() == [b" said", b"next"]


def test_several_are_followed_at_once_and_no_line_is_lost_after_the_tail(log: Path) -> None:
    sources = [Source(bot, log / f"bot-{bot}.log", ()) for bot in ("a", "b")]
    sources[0].path.write_text("old\n")
    with ExitStack() as stack:
        followers = [(source, stack.enter_context(Follower(source.path))) for source in sources]
        for source in sources:
            with source.path.open("a") as out:
                out.write(f"from {source.bot}\n")
        assert [line.text for line in _written(followers, Wanted(10), stack)] == ["old"]
        followed = _followed(followers, Wanted())
        assert [(line.bot, line.text) for line in (next(followed), next(followed))] == [
            ("a", "from a"),
            ("b", "from b"),
        ]


def test_what_was_written_since_a_time_is_shown_whole_with_the_lines_that_belong_to_it(log: Path) -> None:
    file = log / "bot-a.log"
    (log / "bot-a.log.1").write_text(
        "2021-11-30 09:00:00.000 old\nTraceback of old\n2021-11-30 10:00:00.000 first\n at\n"
    )
    file.write_text("2021-11-30 10:00:01.000 second\n" + "2021-11-30 10:00:02.000 more\n" * 30)
    since = datetime(2021, 11, 30, 9, 30).timestamp()
    source = Source("a", file, ())
    assert shown(source, since=since)[:3] == ["2021-11-30 10:00:00.000 first", " at", "2021-11-30 10:00:01.000 second"]
    assert len(shown(source, since=since)) == 33
    assert shown(source, since=since, count=1) == ["2021-11-30 10:00:02.000 more"]
    assert shown(source, since=datetime(2021, 11, 30, 11).timestamp()) == []


def moment(second: int) -> str:
    return f"2021-11-30 10:{second // 60:02}:{second % 60:02}.000"


@pytest.mark.parametrize("lies", [1, 199])
def test_a_date_that_somebody_wrote_hides_no_line_from_since(log: Path, lies: int) -> None:
    said = "2001-01-01 00:00:00 said a user\n at\n" * lies
    (log / "bot-a.log.1").write_text(f"{moment(0)} old\n" * 300 + f"{moment(60)} error\n{said}")
    (log / "bot-a.log").write_text(f"{said}{moment(61)} well\n")
    source = Source("a", log / "bot-a.log", ())
    since = datetime(2021, 11, 30, 10, 1).timestamp()
    assert shown(source, since=since) == [f"{moment(60)} error", *(said * 2).splitlines(), f"{moment(61)} well"]
    assert shown(source, since=since, count=2) == [" at", f"{moment(61)} well"]
    assert shown(source, since=since + 1) == [f"{moment(61)} well"]
    assert shown(source, since=since + 1, count=2) == [f"{moment(61)} well"]


def test_since_goes_no_further_back_than_some_hundreds_of_older_lines(log: Path) -> None:
    (log / "bot-a.log").write_text(f"{moment(60)} error\n" + f"{moment(0)} old\n" * 200 + f"{moment(61)} well\n")
    since = datetime(2021, 11, 30, 10, 1).timestamp()
    assert shown(Source("a", log / "bot-a.log", ()), since=since) == [f"{moment(61)} well"]


def test_a_time_that_has_not_come_is_not_a_lines_own(log: Path) -> None:
    (log / "bot-a.log").write_text(f"{moment(0)} old\n2999-01-01 00:00:00 said a user\n" * 2 + f"{moment(61)} well\n")
    source = Source("a", log / "bot-a.log", ())
    assert source.line(b"2999-01-01 00:00:00 said a user").at is None
    assert shown(source, since=datetime(2021, 11, 30, 10, 1).timestamp()) == [f"{moment(61)} well"]


@pytest.mark.parametrize("said", ["2001-01-01 00:00:00", "2021-11-30 11:00:00", "2999-01-01 00:00:00"])
def test_a_date_that_somebody_wrote_moves_no_line_in_the_merge(log: Path, said: str) -> None:
    first = [f"{moment(1)} a", f"{said} a", " at", f"{moment(4)} a", f"{moment(6)} a"]
    second = [f"{moment(2)} b", f"{moment(3)} b", f"{moment(5)} b", f"{moment(7)} b"]
    for bot, lines in (("a", first), ("b", second)):
        (log / f"bot-{bot}.log").write_text("".join(f"{line}\n" for line in lines))
    found = shown(*(Source(bot, log / f"bot-{bot}.log", ()) for bot in ("a", "b")))
    own = [line for line in found if line not in first[1:3]]
    assert own == sorted(own)
    assert found.index(first[1]) in range(found.index(first[0]) + 1, found.index(first[3]))
    assert found.index(first[2]) == found.index(first[1]) + 1


def test_a_file_that_was_last_written_before_is_not_read(log: Path) -> None:
    file = log / "bot-a.log"
    file.write_text("no time\n")
    (log / "bot-a.log.1").write_text("older\n")
    os.utime(log / "bot-a.log.1", (1000, 1000))
    assert shown(Source("a", file, ()), since=2000.0) == ["no time"]


def test_grep_looks_for_the_last_lines_that_it_finds(tmp_path: Path, log: Path) -> None:
    (log / "bot-echo.log.1").write_text("Error 1\nerror 2\nfine\n")
    (log / "bot-echo.log").write_text("fine\n" * 1000 + "error 3\n" + "fine\n" * 1000)
    assert invoke(tmp_path, "logs", "--grep", "error [0-9]").stdout == "error 2\nerror 3\n"
    assert invoke(tmp_path, "logs", "--grep", "^error", "-i").stdout == "Error 1\nerror 2\nerror 3\n"
    assert invoke(tmp_path, "logs", "--grep", "error", "-i", "-n", "2").stdout == "error 2\nerror 3\n"
    none = invoke(tmp_path, "logs", "--grep", "nowhere")
    assert (none.exit_code, none.stdout, none.stderr) == (0, "", "nothing was found\n")


def test_grep_cannot_find_what_is_not_shown(tmp_path: Path, log: Path) -> None:
    (log / "bot-echo.log").write_text(f"a {TOKEN}\n")
    assert invoke(tmp_path, "logs", "--grep", TOKEN[10:20]).stdout == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--grep", "("), "'(' is no regular expression: missing ), unterminated subpattern at position 0"),
        (("--since", "soon"), "'soon' is no time: 10m (ago), 14:03 or 2026-11-30T14:03"),
        (("--since", "25:00"), "'25:00' is no time: 10m (ago), 14:03 or 2026-11-30T14:03"),
        (("--since", "99999999d"), "'99999999d' is no time: 10m (ago), 14:03 or 2026-11-30T14:03"),
    ],
)
def test_what_cannot_be_understood_is_one_line(tmp_path: Path, log: Path, words: tuple[str, str], text: str) -> None:
    result = invoke(tmp_path, "logs", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"multibot: invalid value for '{words[0]}': {text}: see 'multibot logs --help'\n"


def test_since_is_a_while_ago_a_clock_or_a_date() -> None:
    now = datetime(2026, 11, 30, 14, 3, 11)
    for text, then in (
        ("10m", datetime(2026, 11, 30, 13, 53, 11)),
        ("1.5h", datetime(2026, 11, 30, 12, 33, 11)),
        ("2d", datetime(2026, 11, 28, 14, 3, 11)),
        ("14:03", datetime(2026, 11, 30, 14, 3)),
        ("14:04", datetime(2026, 11, 29, 14, 4)),
        ("2026-11-01", datetime(2026, 11, 1)),
        ("2026-11-01 10:00", datetime(2026, 11, 1, 10)),
        ("2026-11-01T10:00Z", datetime(2026, 11, 1, 10, tzinfo=UTC)),
    ):
        assert since_of(text, now) == then.timestamp(), text


def test_times_are_read_in_every_form() -> None:
    then = datetime(2026, 11, 30, 14, 3, 11).timestamp()
    for raw in (b"2026-11-30 14:03:11 x", b"[2026/11/30 14:03:11] x", b"<2026-11-30T14:03:11,000>"):
        assert time_of(raw) == then
    zoned = datetime(2026, 11, 30, 14, 3, 11, 500_000, tzinfo=timezone(timedelta(hours=2))).timestamp()
    assert time_of(b'{"at": "2026-11-30T14:03:11.500+02:00", "line') == zoned
    utc = datetime(2026, 11, 30, 14, 3, 11, 123_456, tzinfo=UTC).timestamp()
    assert time_of(b"2026-11-30T14:03:11.123456789Z x") == utc
    assert time_of(b"2026-13-30 14:03:11 x") is None
    assert time_of(b"at 2026") is None


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
def test_a_time_that_no_calendar_has_is_none_and_keeps_no_log_back(tmp_path: Path, log: Path, at: str) -> None:
    text = f"{at} boo\n{json.dumps({'at': at, 'stream': 'stdout', 'line': 'x'})}\n"
    (log / "bot-echo.log").write_text(text)
    assert invoke(tmp_path, "logs").stdout == text
    assert '"at": null' in invoke(tmp_path, "logs", "--json").stdout


def test_times_without_a_zone_are_the_bots_own(log: Path) -> None:
    for zone, hour in (("Asia/Tokyo", 17), ("America/New_York", 3)):
        text = f"2021-11-30 {hour:02}:00:00.000 eight in the morning, UTC\n2021-11-30T08:00:00Z with its zone\n"
        (log / "bot-a.log").write_text(text)
        source = Source("a", log / "bot-a.log", (), ZoneInfo(zone))
        then = datetime(2021, 11, 30, 8, tzinfo=UTC).timestamp()
        assert [source.line(raw.encode()).at for raw in text.splitlines()] == [then, then]
        assert len(shown(source, since=then)) == 2
        assert shown(source, since=then + 1) == []


@pytest.mark.parametrize(
    ("env", "zone"),
    [({"TZ": "Asia/Tokyo"}, ZoneInfo("Asia/Tokyo")), ({}, None), ({"TZ": "No/Where"}, None), ({"TZ": "/etc"}, None)],
)
def test_the_zone_is_what_the_bots_variables_say(
    tmp_path: Path, log: Path, env: dict[str, str], zone: ZoneInfo | None
) -> None:
    home = Home(tmp_path, tmp_path / "state", tmp_path / "run", log)
    home.state.mkdir()
    config = BotConfig("a", True, "command", "/bin/true", TOKEN, env=env)
    deployment = deploy(config, load(tmp_path / "none", environ={}), b"key")
    assert _zone(home, section_of(deployment)) is None
    write_bot(home, deployment, (os.geteuid(), os.getegid()))
    assert _zone(home, section_of(deployment)) == zone


def test_objects_are_shown_as_lines_and_lines_as_objects(tmp_path: Path, log: Path) -> None:
    at = datetime(2021, 11, 30, 14, 3, 11, 123_000).astimezone()
    written = {"at": at.isoformat(timespec="milliseconds"), "stream": "stderr", "line": f"bad \x1b[2J {TOKEN}"}
    bare = {**written, "line": "2021-11-30 14:03:11,120 INFO"}
    (log / "bot-echo.log").write_text(
        f"2021-11-30 14:03:11.123 said\n{json.dumps(written)}\n{json.dumps(bare)}\n"
        '{"at": "2021-11-30T14:03:11.123Z", "mine": 1}\n'
    )
    assert invoke(tmp_path, "logs").stdout.splitlines()[:3] == [
        "2021-11-30 14:03:11.123 said",
        "2021-11-30 14:03:11.123 bad \\x1b[2J 123456789:<redacted>",
        "2021-11-30 14:03:11,120 INFO",
    ]
    found = [json.loads(line) for line in invoke(tmp_path, "logs", "--json").stdout.splitlines()]
    assert found[0] == {"bot": "echo", "at": written["at"], "stream": None, "line": "said"}
    assert found[1] == {"bot": "echo", **written, "line": "bad \\x1b[2J 123456789:<redacted>"}
    assert found[3]["line"] == '{"at": "2021-11-30T14:03:11.123Z", "mine": 1}'


def test_a_long_line_is_shown_in_pieces_that_cut_no_token(log: Path) -> None:
    file = log / "bot-a.log"
    file.write_text("x " * 131_060 + TOKEN + " y" * 200_000 + "\nlast")
    lines = shown(Source("a", file, ()))
    assert len(lines) > 2
    assert lines[-1] == "last"
    assert "".join(lines[:-1]) == "x " * 131_060 + "123456789:<redacted>" + " y" * 200_000


WORDS = ("a", "\n", "b c", "\r\n", "\n\n", "ü" * 20_000)


@settings(database=None, deadline=None)
@given(st.lists(st.integers(0, len(WORDS) - 1), max_size=6), st.integers(0, 6))
def test_the_last_lines_are_those_that_reading_from_the_beginning_ends_with(words: list[int], count: int) -> None:
    text = "".join(WORDS[word] for word in words)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "bot-a.log"
        file.write_bytes(text.encode())
        lines = [line.rstrip("\r") for line in text.split("\n")]
        lines = lines if lines[-1] else lines[:-1]
        assert shown(Source("a", file, ()), count=count) == lines[len(lines) - min(count, len(lines)) :]
        assert shown(Source("a", file, ())) == lines


def test_a_rotation_between_the_two_readings_neither_loses_nor_repeats(log: Path) -> None:
    file = log / "bot-a.log"
    file.write_text("one\n")
    with ExitStack() as stack:
        follower = stack.enter_context(Follower(file))
        file.rename(log / "bot-a.log.1")
        file.write_text("two\n")
        source = Source("a", file, ())
        assert [line.text for line in _written([(source, follower)], Wanted(10), stack)] == ["one"]
        assert follower.lines() == [b"two"]
