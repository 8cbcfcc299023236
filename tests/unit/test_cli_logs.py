"""``multibot logs``: the last lines, merged, followed over rotations, harmless."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from cli_rows import invoke

from multibot_plugin.cli.logs import Follower, Source, _followed, _last, _tail

TOKEN = "123456789:" + "AbC-_" * 7


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


def test_several_logs_are_merged_by_time_and_named(tmp_path: Path, log: Path) -> None:
    (log / "bot-echo.log").write_text("2026-11-24 10:00:01,100 one\nTraceback\n2026-11-24 10:00:03,000 three\n")
    (log / "bot-greeter.log").write_text("2026-11-24T10:00:02.000 two\n")
    result = invoke(tmp_path, "logs", "echo", "greeter")
    assert result.stdout.splitlines() == [
        "echo    │ 2026-11-24 10:00:01,100 one",
        "echo    │ Traceback",
        "greeter │ 2026-11-24T10:00:02.000 two",
        "echo    │ 2026-11-24 10:00:03,000 three",
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


def test_rotated_files_are_read_where_the_newest_is_too_short(log: Path) -> None:
    (log / "bot-a.log").write_text("5\n6\n")
    (log / "bot-a.log.1").write_text("3\n4\n")
    (log / "bot-a.log.2").write_text("1\n2\n")
    assert _tail(Source("a", log / "bot-a.log", ()), 5) == ["2", "3", "4", "5", "6"]


def test_a_long_log_is_read_from_its_end(log: Path) -> None:
    (log / "bot-a.log").write_text("".join(f"line {n} {'x' * 200}\n" for n in range(20_000)))
    tail = _tail(Source("a", log / "bot-a.log", ()), 1000)
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
    assert json.loads(line) == {"bot": "echo", "line": "one"}


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
    end = b" " + b"y " * ((256 * 1024 - len(TOKEN) + cut) // 2 - 1)
    file.write_bytes(b"x " * 40_000 + TOKEN.encode() + end)
    with file.open("rb") as opened:
        (line,) = _last(opened, 1, None)
    assert not any(TOKEN[n : n + 8].encode() in line for n in range(len(TOKEN) - 7))
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
        assert _tail(sources[0], 10, followers[0][1].position) == ["old"]
        followed = _followed(followers)
        assert (next(followed), next(followed)) == (("a", "from a"), ("b", "from b"))
